"""``python -m hfft``, also under ``torchrun`` and ``accelerate launch``."""

import sys

from hfft.cli import main


def leave(code: int) -> None:
    """End the process; threads of a process group would else end with it in any order, and now and then abort it."""
    distributed = sys.modules.get("torch.distributed")
    if code == 0 and distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
