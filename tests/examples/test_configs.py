"""The configurations of runs in examples/configs hold what commands know, and make runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hfft.arguments import CrossValidationArguments, SearchArguments
from hfft.cli import main
from hfft.demo import ASSETS
from hfft.parsing import read_yaml, split_settings, train_parser, training_arguments
from hfft.searching.space import read_space

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
RUNS = sorted(path for path in CONFIGS.glob("*.yaml") if path.name != "search_space.yaml")
ARGUMENTS = {"train": (), "crossval": (CrossValidationArguments,), "search": (SearchArguments,)}
SMALL = {
    "image": ["--model", str(ASSETS / "tiny-vit-glyphs")],
    "text": ["--model", str(ASSETS / "tiny-bert-docs"), "--data", str(ASSETS / "scipy-topics")],
}


def command_on_top(path: Path) -> list[str]:
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("#   hfft ")]
    return line.removeprefix("#   hfft ").split()
