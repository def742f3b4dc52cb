from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig

from hfft.errors import UserError
from hfft.targets import Regression
from hfft.targets.output_layer import output_layer, rescale
from tests.coverage.zoo import Case, text_cases

CASES = [
    case for case in text_cases() if case.name in ("bert", "roberta", "distilbert", "gpt2", "llama", "t5", "xlnet")
]


def build(case: Case, outputs: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    return case.build(num_labels=outputs).eval()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_model_is_brought_to_the_unit_of_its_numbers_and_back(case: Case):
    model = build(case)
    inputs = case.inputs(model)
    model.config.problem_type = "regression"
    labels = np.array([9000.0, 10_000.0, 11_500.0])
    with torch.no_grad():
        before = model(**inputs).logits.double().numpy()
    target, told = Regression(["y"]).start(model, labels, BertConfig())
    has_bias = output_layer(model).bias is not None
    assert (target.mean != 0) == has_bias == (told is None)
    if has_bias:
        assert (target.mean, target.scale) == (labels.mean(), labels.std())
    finished, _ = target.finish(model, None)
    assert (finished.mean, finished.scale) == (0, 1)
    with torch.no_grad():
        after = model(**inputs).logits.numpy()
    np.testing.assert_allclose(finished.outputs(after), target.outputs(before), rtol=1e-5, atol=1e-3)
    rescale(output_layer(model), 1 / target.scale, -target.mean / target.scale)
    with torch.no_grad():
        np.testing.assert_allclose(model(**inputs).logits.numpy(), before, atol=2e-3)


def test_a_head_without_a_single_output_is_refused():
    model = build(next(case for case in CASES if case.name == "bert"), outputs=3)
    with pytest.raises(UserError, match="BertForSequenceClassification has 0 linear layers with one output"):
        output_layer(model)
