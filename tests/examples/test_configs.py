"""The configurations of runs in examples/configs hold what commands know, and make runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from hfft.cli import main
from hfft.command_arguments import CrossValidationArguments, SearchArguments
from hfft.demonstrations import ASSETS, write_digits
from hfft.parsing import run_parser
from hfft.searching.space import read_space
from hfft.settings import split_settings, training_arguments
from hfft.yaml_settings import read_yaml

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
RUNS = sorted(path for path in CONFIGS.glob("*.yaml") if path.name != "search_space.yaml")
ARGUMENTS = {"train": (), "crossval": (CrossValidationArguments,), "search": (SearchArguments,)}


def command_on_top(path: Path) -> list[str]:
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("#   hfft ")]
    return line.removeprefix("#   hfft ").split()


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_key_is_one_of_the_command_on_top(path: Path):
    command, *argv = command_on_top(path)
    parser = run_parser(command, None, *ARGUMENTS[command])
    given = parser.parse_settings([word for word in argv if word not in ("--config", f"examples/configs/{path.name}")])
    assert set(given) == {"data", "output_dir"}
    assert f"examples/configs/{path.name}" in argv
    settings = read_yaml(path, parser)
    own = {field.name for kind in ARGUMENTS[command] for field in dataclasses.fields(kind)}
    for kind in ARGUMENTS[command]:
        kind(**{name: value for name, value in settings.items() if name in own})
    model, _, chosen = split_settings({name: value for name, value in settings.items() if name not in own})
    assert model.model
    training_arguments({**chosen, "output_dir": "out"})


def test_the_space_is_one_and_the_search_names_it(monkeypatch: pytest.MonkeyPatch):
    settings = read_yaml(CONFIGS / "search.yaml", run_parser("search", None, SearchArguments))
    monkeypatch.chdir(CONFIGS.parents[1])  # as the command on top is typed
    assert set(read_space(settings["space"])) == {
        *("learning_rate", "layer_decay", "num_train_epochs", "lr_scheduler_type")
    }


def test_ulmfit_has_the_paper_s_factor():
    settings = read_yaml(CONFIGS / "text_ulmfit.yaml")
    assert settings["layer_decay"] == pytest.approx(1 / 2.6, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "data"), [("text_full", str(ASSETS / "scipy-topics")), ("image_lp_ft", "digits")], ids=lambda each: each
)
def test_a_configuration_makes_a_run(name: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = {"text_full": "tiny-bert-docs", "image_lp_ft": "tiny-vit-glyphs"}[name]
    if data == "digits":
        write_digits(Path(data), np.random.default_rng(0))
    argv = ["--config", str(CONFIGS / f"{name}.yaml"), "--model", str(ASSETS / model), "--data", data]
    argv += ["--max_length", "32"] if name.startswith("text") else []
    assert main(["train", *argv, "--output_dir", "out", "--num_train_epochs", "1"]) == 0
    assert json.loads(Path("out", "metrics.json").read_text())["test_accuracy"] > 0.3
    written = yaml.safe_load(Path("out", "run.yaml").read_text())
    asked = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    kept = {key: value for key, value in asked.items() if key not in ("model", "num_train_epochs", "max_length")}
    assert {key: written[key] for key in kept} == kept
