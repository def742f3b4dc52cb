"""Resident memory of a process over the trials of a search: full fine-tuning of a small model, again and again.

    python examples/benchmarks/search_memory.py --trials 50

The model and the texts are those of `hfft demo`, so nothing is downloaded. Prints the memory behind every fifth trial,
and leaves with 1 where the last one holds more than 5 % above the fifth.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hfft.demonstrations import ASSETS
from hfft.searching import running

FIRST, TOLERANCE = 5, 0.05


def resident_megabytes() -> float:
    """Return what the process holds in memory, on Linux."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kilobytes) / 1024


def measure(trials: int) -> list[float]:
    """Run a search and return the memory in megabytes behind each of its trials."""
    found: list[float] = []
    attempt = running.attempt

    def watched(*args: object, **kwargs: object) -> object:
        outcome = attempt(*args, **kwargs)  # type: ignore[arg-type]
        found.append(resident_megabytes())
        return outcome

    running.attempt = watched  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            running.search(
                model=str(ASSETS / "tiny-bert-docs"),
                data=str(ASSETS / "scipy-topics"),
                output_dir=f"{folder}/out",
                cache_dir=f"{folder}/cache",
                trials=trials,
                pruner="none",
                strategy="full",
                num_train_epochs=1,
                max_length=32,
                disable_tqdm=True,
            )
    finally:
        running.attempt = attempt
    return found


def main() -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--output", type=Path, help="JSON file for the figures.")
    given = parser.parse_args()
    found = measure(given.trials)
    for number in range(FIRST, len(found) + 1, 5):
        print(f"trial {number:3d}: {found[number - 1]:8.1f} MB")
    growth = found[-1] / found[FIRST - 1] - 1
    print(f"trial {len(found)} holds {growth:+.1%} of what trial {FIRST} does.")
    if given.output:
        given.output.write_text(json.dumps({"megabytes": found, "growth": growth}) + "\n", "utf-8")
    return int(growth > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
