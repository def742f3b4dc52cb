"""Pushing a finished model to the Hub: weights, configuration, processor and card, in one commit.

    hf auth login
    python examples/push_to_hub.py your-name/scipy-topics

Expect a private repository. Report and predictions hold texts of yours and stay here. ``push_to_hub=True`` and
``hub_model_id`` in ``hfft.finetune`` do the same at the end of a run.
"""

from __future__ import annotations

import sys

import hfft
from hfft.demonstrations import ASSETS


def main(repo_id: str) -> None:
    """Make a model, and push it."""
    result = hfft.finetune(
        model=str(ASSETS / "tiny-bert-docs"),
        data=str(ASSETS / "scipy-topics"),
        output_dir="example-push-to-hub",
        strategy="linear-probe",
        max_length=48,  # tokens; what is longer is cut
        overwrite=True,
    )
    print(hfft.push(result.output_dir, repo_id, private=True, commit_message="Add a probe of six topics"))


if __name__ == "__main__":  # data loaders start processes that import this file
    main(sys.argv[1])
