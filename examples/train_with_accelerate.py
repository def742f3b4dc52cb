r"""Fine-tune in a script of your own, on one process or as many as a launcher starts.

    python examples/train_with_accelerate.py --model timm/resnet18.a1_in1k --data photos/
    torchrun --nproc_per_node 2 examples/train_with_accelerate.py --model timm/resnet18.a1_in1k --data photos/
    accelerate launch --config_file examples/accelerate/several_gpus.yaml examples/train_with_accelerate.py \
        --model timm/resnet18.a1_in1k --data photos/
"""

from __future__ import annotations

import argparse

import hfft
from hfft.hardware.processes import leave


def main() -> None:
    """Read the flags, train, and let the first process print the test metrics."""
    parser = argparse.ArgumentParser(description="Fine-tune with hfft.finetune under a launcher.")
    parser.add_argument("--model", required=True, help="Hub id or folder of a pretrained model.")
    parser.add_argument("--data", required=True, help="Folder, table or Hub id of labelled examples.")
    parser.add_argument("--output_dir", default="out", help="Folder that the run is written to.")
    parser.add_argument("--num_train_epochs", type=float, default=None, help="Passes over the training split.")
    result = hfft.finetune(**vars(parser.parse_args()))
    if result.trainer.is_world_process_zero():
        for name, value in result.metrics.items():
            print(f"{name}: {value:g}")
    leave(0)  # as `python -m hfft` does: see there


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
