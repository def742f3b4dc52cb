#!/usr/bin/env bash
# A SLURM job on two nodes with four GPUs each; code, data, cache and output_dir are on a file system that they share:
#   sbatch examples/launch/slurm.sh run.yaml
#   sbatch --nodes 4 --gpus-per-node 8 examples/launch/slurm.sh run.yaml --num_train_epochs 10
#SBATCH --job-name=hfft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@180
set -euo pipefail
run=${1:?the YAML file of a run}

# srun starts one torchrun on each node; they meet on the first. A job that is requeued goes on from the newest
# checkpoint, and so does the same command after the time was up. Three minutes before that SLURM tells torchrun, which tells
# the processes to finish their step and save, and by itself would wait for 30 seconds.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
exec srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node gpu \
    --rdzv_backend c10d --rdzv_endpoint "${nodes[0]}:29500" --rdzv_id "$SLURM_JOB_ID" \
    -m hfft train --config "$run" --resume true "${@:2}"
