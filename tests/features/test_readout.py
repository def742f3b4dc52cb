"""Where features are read, and heads that are put behind them."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hfft.features.heads import solve_head
from hfft.features.readout import Readout

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT = {"vocab_size": 40, "num_labels": 3}
MODELS = {
    "no hidden layer": (lambda: BertForSequenceClassification(BertConfig(**SIZES, **TEXT)), ["classifier"]),
    "relu": (
        lambda: DistilBertForSequenceClassification(
            DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, **TEXT)
        ),
        ["classifier", "pre_classifier"],
    ),
    "tanh": (
        lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, **TEXT)),
        ["classifier.out_proj", "classifier.dense"],
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_solved_head_is_what_the_model_answers(kind: str):
    torch.manual_seed(0)
    make, layers = MODELS[kind]
    model = make()
    inputs = {"input_ids": torch.randint(3, 40, (12, 6)), "attention_mask": torch.ones(12, 6, dtype=torch.long)}
    targets = torch.arange(12) % 3
    readout = Readout.of(model, inputs)
    assert readout.path == layers[-1]
    assert readout.behind == tuple(f"{layer}.{name}" for layer in layers for name in ("weight", "bias"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with readout.reading(model) as features_of, torch.no_grad():
        features = features_of(model(**inputs))
    head = readout.install(lambda values: solve_head(values, targets, strength=0.01), features)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {f"{layer}.weight" for layer in layers} <= changed <= set(readout.behind)
    answers = readout.logits(features)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, answers)
    if kind != "tanh":  # there the head was solved on what the hidden layer hands on
        torch.testing.assert_close(answers, head(features), atol=1e-4, rtol=1e-4)
    assert (answers.argmax(dim=1) == targets).float().mean() > 0.8
    if kind == "tanh":
        weight = model.classifier.dense.weight
        assert torch.equal(weight, weight[0, 0] * torch.eye(16))


@pytest.mark.parametrize("kind", MODELS)
def test_pseudo_examples_come_to_the_solver_by_the_way_of_the_examples(kind: str):
    torch.manual_seed(0)
    model = MODELS[kind][0]()
    inputs = {"input_ids": torch.randint(3, 40, (12, 6)), "attention_mask": torch.ones(12, 6, dtype=torch.long)}
    readout = Readout.of(model, inputs)
    features = torch.randn(12, 16)
    seen = []

    def solve(*values: torch.Tensor):
        seen.extend(values)
        return solve_head(values[0], torch.arange(12) % 3, strength=0.01)

    readout.install(solve, features, features[3:5])
    torch.testing.assert_close(seen[1], seen[0][3:5])
