#!/bin/bash
# One `ddbench run` on one GPU: SHARED=/scratch/me sbatch docs/slurm/run.sh --method wmdd --dataset imagenette --ipc 10
# A run that is not finished in the time of the job is put into the queue again, and resumes.
#SBATCH --job-name=ddbench
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

: "${SHARED:?set SHARED to a folder that all nodes share: SHARED=/scratch/me sbatch docs/slurm/run.sh ...}"
MINUTES=${MINUTES:-230} # ddbench saves and ends before Slurm's limit of 4 hours

code=0
srun ddbench run "$@" --time-limit "$MINUTES" \
    --data-dir "$SHARED/data" --cache-dir "$SHARED/cache" --results-dir "$SHARED/results" || code=$?
if ((code == 124)); then # the time is over
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
