#!/usr/bin/env bash
# torchrun on one machine, a process for each GPU:
#   examples/launch/torchrun_one_node.sh run.yaml
# Or for so many CPU processes:
#   PROCESSES=2 examples/launch/torchrun_one_node.sh run.yaml --use_cpu true
set -euo pipefail
run=${1:?the YAML file of a run}
exec torchrun --standalone --nproc_per_node "${PROCESSES:-gpu}" -m hfft train --config "$run" "${@:2}"
