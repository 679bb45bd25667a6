#!/bin/bash
# One grid or table on several nodes: SHARED=/scratch/me sbatch docs/slurm/nodes.sh run --method wmdd --dataset imagenette
# --ipc 10 (a table: ... nodes.sh table comparison --run). Starts one Ray node per Slurm node; ddbench runs on the first.
# A run that is not finished in the time of the job is put into the queue again, and resumes.
#SBATCH --job-name=ddbench
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

: "${SHARED:?set SHARED to a folder that all nodes share: SHARED=/scratch/me sbatch docs/slurm/nodes.sh ...}"
MINUTES=${MINUTES:-690} # ddbench saves and ends before Slurm's limit of 12 hours
export RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token # run once in a shared home folder: ray get-auth-token --generate

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address | awk 'NR == 1 {print $1}'):6379

code=0
srun ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" -- \
    ddbench "$@" --executor ray --ray-address "$address" --time-limit "$MINUTES" \
    --data-dir "$SHARED/data" --cache-dir "$SHARED/cache" --results-dir "$SHARED/results" || code=$?
if ((code == 124)); then # the time is over
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
