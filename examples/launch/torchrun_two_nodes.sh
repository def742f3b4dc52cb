#!/usr/bin/env bash
# torchrun on two machines, with the address of the first, on each of them:
#   MAIN_ADDRESS=10.0.0.1 NODE_RANK=0 examples/launch/torchrun_two_nodes.sh run.yaml
#   MAIN_ADDRESS=10.0.0.1 NODE_RANK=1 examples/launch/torchrun_two_nodes.sh run.yaml
# Both have the same code, and one file system for data, cache and output_dir. PROCESSES is that of each machine, and
# must be the same on both (default: one for each GPU).
set -euo pipefail
run=${1:?the YAML file of a run}
exec torchrun --nnodes 2 --node_rank "${NODE_RANK:?0 or 1}" --nproc_per_node "${PROCESSES:-gpu}" \
    --master_addr "${MAIN_ADDRESS:?of the first machine}" --master_port "${MAIN_PORT:-29500}" \
    -m hfft train --config "$run" "${@:2}"
