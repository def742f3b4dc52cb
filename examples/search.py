"""A search for arguments: settings are tried on the validation split, and the best make one run, tested once.

    pip install "hfft[search]"
    python examples/search.py

Expect a line for each trial, the best settings, an ordinary run folder, and ``trials.csv`` in it. Started again with
``resume=True`` in place of ``overwrite`` it goes on, and more processes may take part.
"""

from __future__ import annotations

import hfft
from hfft.demonstrations import ASSETS


def main() -> None:
    """Try the penalty and the solver of a head, and what it reads."""
    result = hfft.search(
        model=str(ASSETS / "tiny-bert-docs"),  # google-bert/bert-base-uncased
        data=str(ASSETS / "scipy-topics"),
        output_dir="example-search",
        strategy="linear-probe",  # trials take no time: features are computed once
        space={
            "head_penalty": {"low": 1e-4, "high": 10.0, "log": True},  # drawn evenly in its logarithm
            "head_solver": ["logistic", "svm", "ridge"],
        },
        trials=8,
        metric_for_best_model="accuracy",
        max_length=48,  # tokens; what is longer is cut
        overwrite=True,
    )
    print(f"Best of {len(result.trials)} trials: {result.best}, {result.value:.3f} on the validation split")
    print(f"Test accuracy: {result.metrics['test_accuracy']:.3f}")


if __name__ == "__main__":  # data loaders start processes that import this file
    main()
