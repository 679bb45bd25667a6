#!/bin/bash
# A grid, one cell a job: SHARED=/scratch/me sbatch docs/slurm/array.sh --dataset imagenette --recipe quick
# Edit METHODS and IPCS, and set the range of --array to 0-(methods x IPCs - 1). %4: at most four jobs at a time.
#SBATCH --job-name=ddbench
#SBATCH --array=0-5%4
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

METHODS=(random wmdd)
IPCS=(1 10 50)

: "${SHARED:?set SHARED to a folder that all nodes share: SHARED=/scratch/me sbatch docs/slurm/array.sh ...}"
MINUTES=${MINUTES:-230} # ddbench saves and ends before Slurm's limit of 4 hours
method=${METHODS[SLURM_ARRAY_TASK_ID / ${#IPCS[@]}]}
ipc=${IPCS[SLURM_ARRAY_TASK_ID % ${#IPCS[@]}]}

code=0
srun ddbench run --method "$method" --ipc "$ipc" "$@" --time-limit "$MINUTES" \
    --data-dir "$SHARED/data" --cache-dir "$SHARED/cache" --results-dir "$SHARED/results" || code=$?
if ((code == 124)); then # the time is over
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
