from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from hfft.errors import UserError
from hfft.evaluation.chosen_metrics import EvaluateMetric

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 3, 50)
PROBABILITIES = GENERATOR.dirichlet(np.ones(3), 50)
PREDICTED = PROBABILITIES.argmax(axis=1)

SCRIPT = """
import datasets
import evaluate


class {name}(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({{
                "predictions": datasets.Value("int64"), "references": datasets.Value("int64"),
            }}),
        )

    def _compute(self, predictions, references, scale=1, squared=False, kind="share"):
        if kind not in ("share", "count"):
            raise ValueError(f"kind {{kind!r}} is unknown")
        hits = sum(p == r for p, r in zip(predictions, references))
        value = hits / len(references) if kind == "share" else hits
        value = scale * (value**2 if squared else value)
        return {{"{key}": value, "per_row": [1, 2], "scale_is_float": isinstance(scale, float)}}
"""

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def script(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A metric script of the user's own, and a module cache that is thrown away."""
    import evaluate.config

    cache = tmp_path / "modules"
    cache.mkdir()
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(cache))
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(cache)
    path = tmp_path / "own_score.py"
    path.write_text(SCRIPT.format(name="OwnScore", key="own_score"))
    yield path
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]  # it would look for other scripts in the folder that is gone


def test_a_local_script_gets_the_most_probable_class(script: Path):
    share = sklearn.metrics.accuracy_score(LABELS, PROBABILITIES.argmax(axis=1))
    found = EvaluateMetric(str(script)).compute(LABELS, PREDICTED)
    assert found == {"own_score": pytest.approx(share), "scale_is_float": 0.0}  # lists are left out
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize(
    ("options", "function"),
    [
        ("scale=3", lambda share: 3 * share),
        ("scale=0.5,squared=true", lambda share: 0.5 * share**2),
        (" squared = True , scale=2", lambda share: 2 * share**2),
        ("squared=false", lambda share: share),
        ("kind=count", lambda share: 50 * share),
        ("scale=1e-3", lambda share: 1e-3 * share),
        ("", lambda share: share),
    ],
)
def test_options_reach_the_script_with_their_types(script: Path, options: str, function):
    share = float((PROBABILITIES.argmax(axis=1) == LABELS).mean())
    found = EvaluateMetric(f"{script}:{options}").compute(LABELS, PREDICTED)
    assert found["own_score"] == pytest.approx(function(share))
    scale = dict(o.split("=") for o in options.replace(" ", "").split(",") if o).get("scale", "1")
    assert found["scale_is_float"] == float("." in scale or "e" in scale)


def test_a_script_can_be_computed_twice(script: Path):
    metric = EvaluateMetric(str(script))
    assert metric.compute(LABELS, PREDICTED) == metric.compute(LABELS, PREDICTED)
    assert metric.compute(np.array([0]), np.array([0]))["own_score"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("kind=weird", "cannot be computed: kind 'weird' is unknown"),
        ("unknown=1", "cannot be computed: .*unknown"),
    ],
)
def test_options_that_the_script_refuses(script: Path, options: str, message: str):
    metric = EvaluateMetric(f"{script}:{options}")
    with pytest.raises(UserError, match=message):
        metric.compute(LABELS, PREDICTED)


@pytest.mark.parametrize("options", ["macro", "scale=1,macro"])
def test_an_option_without_a_value_is_refused(options: str):
    with pytest.raises(UserError, match=r"--metrics: 'f1:.*': 'macro' is not of the form option=value"):
        EvaluateMetric(f"f1:{options}")


@pytest.mark.parametrize("name", ["f1", "no_such_metric", "owner/no_such_metric", "", "missing/script.py"])
def test_an_unknown_name_is_refused_without_asking_the_network(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--metrics: '{name}' cannot be loaded: .*path of a metric script"):
        EvaluateMetric(name)


@pytest.mark.parametrize("content", ["raise RuntimeError('broken script')", "def (", "x = 1"])
def test_a_broken_script_is_named(script: Path, content: str):
    path = script.with_name("broken_score.py")
    path.write_text(content)
    with pytest.raises(UserError, match=r"--metrics: '.*broken_score\.py' cannot be loaded"):
        EvaluateMetric(str(path))


def test_a_script_that_fails_while_it_computes_is_named(script: Path):
    text = SCRIPT.format(name="OwnScore", key="own_score").replace("hits = sum", "hits = 1 / 0; sum")
    path = script.with_name("dividing_score.py")
    path.write_text(text)
    with pytest.raises(UserError, match=r"dividing_score\.py' cannot be computed: division by zero"):
        EvaluateMetric(str(path)).compute(LABELS, PREDICTED)
