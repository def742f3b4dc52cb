#!/usr/bin/env bash
# accelerate launch with a configuration of examples/accelerate:
#   examples/launch/accelerate.sh several_gpus run.yaml
#   examples/launch/accelerate.sh fsdp2 run.yaml --num_train_epochs 10
#   examples/launch/accelerate.sh cpu run.yaml --use_cpu true
# On two machines, with the address of the first, on each of them:
#   MACHINE_RANK=0 MAIN_ADDRESS=10.0.0.1 examples/launch/accelerate.sh two_nodes run.yaml
#   MACHINE_RANK=1 MAIN_ADDRESS=10.0.0.1 examples/launch/accelerate.sh two_nodes run.yaml
set -euo pipefail
configurations="$(dirname "$0")/../accelerate"
name=${1:?which of $(cd "$configurations" && echo *.yaml)}
run=${2:?the YAML file of a run}

nodes=()
[[ -z ${MACHINE_RANK:-} ]] || nodes=(--machine_rank "$MACHINE_RANK" --main_process_ip "${MAIN_ADDRESS:?of the first machine}")
exec accelerate launch --config_file "$configurations/${name%.yaml}.yaml" "${nodes[@]}" \
    -m hfft train --config "$run" "${@:3}"
