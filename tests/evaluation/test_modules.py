from __future__ import annotations

import evaluate
import numpy as np
import pytest

from hfft.evaluation import modules
from hfft.evaluation.metrics import METRICS
from hfft.evaluation.modules import ClassificationMetric

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 3, 50)
PROBABILITIES = GENERATOR.dirichlet(np.ones(3), 50)

pytestmark = pytest.mark.usefixtures("no_network")

MODULES = [c for c in vars(modules).values() if isinstance(c, type) and issubclass(c, ClassificationMetric)]
MODULES.remove(ClassificationMetric)


def test_every_metric_has_a_module():
    assert sorted(module.metric_name for module in MODULES) == sorted(METRICS)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("as_lists", [True, False])
def test_modules_agree_with_the_functions(module: type[ClassificationMetric], as_lists: bool):
    metric = module()
    assert isinstance(metric, evaluate.Metric)
    predictions, references = (PROBABILITIES.tolist(), LABELS.tolist()) if as_lists else (PROBABILITIES, LABELS)
    found = metric.compute(predictions=predictions, references=references)
    assert found == {metric.metric_name: pytest.approx(METRICS[metric.metric_name](LABELS, PROBABILITIES))}


@pytest.mark.parametrize("module", MODULES)
def test_modules_collect_batches(module: type[ClassificationMetric]):
    metric = module()
    for rows in np.array_split(np.arange(50), 7):
        metric.add_batch(predictions=PROBABILITIES[rows], references=LABELS[rows])
    assert metric.compute()[metric.metric_name] == pytest.approx(METRICS[metric.metric_name](LABELS, PROBABILITIES))


def test_two_modules_at_once_do_not_mix_their_rows():
    one, two = modules.Accuracy(), modules.Accuracy()
    one.add_batch(predictions=[[1.0, 0.0]], references=[0])
    two.add_batch(predictions=[[1.0, 0.0]], references=[1])
    assert (one.compute(), two.compute()) == ({"accuracy": 1.0}, {"accuracy": 0.0})


def test_modules_work_in_combination():
    found = evaluate.combine([modules.Accuracy(), modules.MacroF1()]).compute(
        predictions=PROBABILITIES.tolist(), references=LABELS.tolist()
    )
    assert found == {name: pytest.approx(METRICS[name](LABELS, PROBABILITIES)) for name in ("accuracy", "macro_f1")}
