"""``python -m hfft``, and so ``torchrun -m hfft train ...`` and ``accelerate launch -m hfft train ...``."""

import os
import sys

from hfft.cli import main

if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from hfft.hardware.processes import leave

        leave(code)
    sys.exit(code)
