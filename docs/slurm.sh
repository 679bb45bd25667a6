#!/bin/bash
# Runs `ddbench table` on several nodes: SHARED=/scratch/me sbatch docs/slurm.sh comparison --dataset imagenette
# Starts one Ray node per Slurm node; ddbench runs on the first. Submit the same line again to continue.
#SBATCH --job-name=ddbench
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
set -euo pipefail

: "${SHARED:?set SHARED to a folder that all nodes share: SHARED=/scratch/me sbatch docs/slurm.sh ...}"
MINUTES=${MINUTES:-690} # ddbench saves and ends before Slurm's limit of 12 hours
export RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token # run once in a shared home folder: ray get-auth-token --generate

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address | awk '{print $1; exit}'):6379

srun ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" -- \
    ddbench table "$@" --run --executor ray --ray-address "$address" --time-limit "$MINUTES" \
    --data-dir "$SHARED/data" --cache-dir "$SHARED/cache" --results-dir "$SHARED/results"
