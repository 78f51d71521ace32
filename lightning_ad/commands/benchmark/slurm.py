"""The script of a SLURM job array that runs a benchmark, one cell in each job."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def job_array(command: Sequence[str], count: int, log: str) -> str:
    """Returns the script for `sbatch`.

    A job that is pre-empted, or whose time is over, goes back into the queue and continues from its
    checkpoint. The same command without `--cell` writes the table once all jobs have ended.

    Args:
        command: the benchmark as it was typed, without `--slurm`.
        count: the number of cells.
        log: the file of a job's output; %a stands for the number of its cell.
    """
    typed = shlex.join(command)
    return f"""#!/bin/bash
#SBATCH --job-name=lightning-ad
#SBATCH --array=0-{count - 1}
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --output={log}
#SBATCH --open-mode=append
# Submit it from this folder ({Path.cwd()}), with the environment of lightning-ad activated.
# Add what your cluster wants: --gres=gpu:1, --time=24:00:00, --partition=...
# Afterwards: {typed} --table_only
{typed} --cell $SLURM_ARRAY_TASK_ID &
trap 'kill -USR1 $!' USR1 TERM
wait $!; code=$?
while kill -0 $! 2>/dev/null; do wait $!; code=$?; done
if [ $code -eq 75 ]; then scontrol requeue ${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID; fi
exit $code
"""
