"""``python -m hfft``, and so ``torchrun -m hfft train ...`` and ``accelerate launch -m hfft train ...``."""

import sys

from hfft.cli import main

if __name__ == "__main__":
    sys.exit(main())
