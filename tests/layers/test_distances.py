from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForSequenceClassification

from hfft import LayerStack
from hfft.layers.distances import relative_distances
from hfft.layers.groups import LayerGroup


def test_each_group_but_the_head_has_its_distance_relative_to_its_size():
    config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=12)
    before = BertForSequenceClassification(config)
    model = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in model.bert.encoder.layer[0].parameters():
            parameter.mul_(1.25)
        model.bert.encoder.layer[1].attention.self.query.weight.add_(0.5)
        model.classifier.weight.add_(1)
    found = relative_distances(model, before, LayerStack.from_model(model))
    assert [entry["name"] for entry in found] == ["stem", "bert.encoder.layer.0", "bert.encoder.layer.1"]
    size = sum(float(parameter.square().sum()) for parameter in before.bert.encoder.layer[1].parameters())
    expected = [0.0, 0.25, (64 * 0.5**2 / size) ** 0.5]
    assert [entry["distance"] for entry in found] == pytest.approx(expected, rel=1e-5)


def test_what_has_another_shape_or_was_not_there_does_not_count():
    before = nn.Sequential(*(nn.TransformerEncoderLayer(4, 2, 8) for _ in range(2)))
    model = copy.deepcopy(before)
    with torch.no_grad():
        model[0].linear1 = nn.Linear(4, 16)
        model[0].linear2 = nn.Linear(16, 4)
        model[0].linear2.bias.copy_(before[0].linear2.bias)
        model[0].norm1.weight.add_(1)
        model[1].extra = nn.Parameter(torch.ones(3))
    stack = LayerStack.from_model(model)
    distances = {entry["name"]: entry["distance"] for entry in relative_distances(model, before, stack)}
    kept = [
        p
        for name, p in before[0].named_parameters()
        if name not in ("linear1.weight", "linear1.bias", "linear2.weight")
    ]
    size = sum(float(parameter.square().sum()) for parameter in kept)
    assert distances == pytest.approx({"0": (4 / size) ** 0.5, "1": 0.0})


class Largest(TorchDispatchMode):
    """Notes the numbers of the largest tensor in double precision."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            self.numbers = max(self.numbers, made.numel())
        return made


def test_a_large_layer_is_not_held_in_double_precision_as_a_whole():
    """An embedding of 30,000 words in double precision, four times, was the most memory that a run took."""
    before = nn.ModuleDict({"stem": nn.Embedding(3000, 1000)})
    model = copy.deepcopy(before)
    with torch.no_grad():
        model["stem"].weight.mul_(1.5)
    with Largest() as largest:
        found = relative_distances(model, before, [LayerGroup("stem", ("stem.weight",))])
    assert found == [{"name": "stem", "distance": pytest.approx(0.5)}]
    assert 0 < largest.numbers < 3000 * 1000 / 2
