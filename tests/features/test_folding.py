"""Solved heads inside the classifiers of real architectures."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from hfft.errors import UserError
from hfft.features.heads import (
    HiddenLayer,
    LinearHead,
    can_fold,
    find_classifier,
    fold_head,
    install_head,
    near_identity,
    solve_head,
)

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "embedding_size": 16, "pad_token_id": 0,
    "n_embd": 16, "n_layer": 1, "n_head": 2, "max_position_embeddings": 40, "summary_type": "first",
}  # fmt: skip
INPUTS = {"input_ids": torch.arange(1, 25).reshape(4, 6), "attention_mask": torch.ones(4, 6, dtype=torch.long)}


def model_of(kind, classes=3):
    torch.manual_seed(0)
    accepted = AutoConfig.for_model(kind).to_dict()
    sizes = {name: value for name, value in SIZES.items() if name in accepted or name in ("hidden_size",)}
    config = AutoConfig.for_model(kind, num_labels=classes, **sizes)
    return AutoModelForSequenceClassification.from_config(config).eval()


def input_of(model, layer):
    seen = []
    handle = layer.register_forward_hook(lambda module, given, made: seen.append(given[0].detach()))
    with torch.no_grad():
        model(**INPUTS)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("kind", "last", "hidden"),
    [
        ("bert", "classifier", None),
        ("roberta", "classifier.out_proj", ("classifier.dense", "tanh")),
        ("deberta-v2", "classifier", ("pooler.dense", "gelu")),
        ("distilbert", "classifier", ("pre_classifier", "relu")),
        ("electra", "classifier.out_proj", ("classifier.dense", "gelu")),
    ],
)
def test_a_head_becomes_the_models_own(kind, last, hidden):
    model = model_of(kind)
    model.train()
    found = find_classifier(model, INPUTS)
    assert model.training
    model.eval()
    assert found.name == last
    assert (found.hidden and (found.hidden.name, found.hidden.activation)) == hidden
    features = input_of(model, found.hidden.dense if found.hidden else found.layer)
    head = LinearHead(4 * torch.randn(3, 16), torch.randn(3), 1.0)
    if found.hidden:
        fold_head(head, found.hidden, found.layer, features)
    else:
        install_head(found.layer, head)
    with torch.no_grad():
        torch.testing.assert_close(model(**INPUTS).logits, head(features), rtol=1e-4, atol=1e-4)


def test_a_classifier_at_every_token_without_a_bias_is_found():
    found = find_classifier(model_of("gpt2"), INPUTS)
    assert (found.name, found.hidden, found.has_bias) == ("score", None, False)
    with pytest.raises(ValueError, match="intercept=False"):
        install_head(found.layer, LinearHead(torch.zeros(3, 16), torch.ones(3), 1.0))


def test_a_convolution_takes_a_head():
    layer, head = nn.Conv2d(8, 3, 1), LinearHead(torch.randn(3, 8), torch.randn(3), 1.0)
    install_head(layer, head)
    features = torch.randn(5, 8)
    torch.testing.assert_close(layer(features[:, :, None, None]).flatten(1), head(features))


def test_units_that_are_left_over_learn_again():
    hidden, layer = HiddenLayer("dense", nn.Linear(8, 8), "relu"), nn.Linear(8, 3)
    fold_head(LinearHead(torch.randn(3, 8), torch.randn(3), 1.0), hidden, layer, torch.randn(5, 8))
    layer(torch.relu(hidden.dense(torch.randn(50, 8)))).square().sum().backward()
    assert (layer.weight.grad.abs().sum(dim=0) > 0).all()


def test_a_head_for_more_classes_than_fit_is_refused():
    hidden, layer = HiddenLayer("dense", nn.Linear(8, 8), "gelu"), nn.Linear(8, 5)
    assert can_fold(hidden, 4)
    assert not can_fold(hidden, 5)
    with pytest.raises(ValueError, match="8 hidden units are too few for 5 classes"):
        fold_head(LinearHead(torch.randn(5, 8), torch.randn(5), 1.0), hidden, layer, torch.randn(5, 8))


def test_a_near_identity_keeps_what_the_features_tell():
    torch.manual_seed(0)
    features = 3 + 2 * torch.randn(60, 8)
    targets = (features[:, 0] > features[:, 1]).long()
    hidden, layer = HiddenLayer("dense", nn.Linear(8, 8), "tanh"), nn.Linear(8, 2)
    behind = near_identity(hidden, features)
    torch.testing.assert_close(behind.std(), torch.tensor(0.3), rtol=0.1, atol=0)
    head = solve_head(behind, targets, strength=0.01)
    install_head(layer, head)
    with torch.no_grad():
        logits = layer(torch.tanh(hidden.dense(features)))
    torch.testing.assert_close(logits, head(behind), rtol=1e-4, atol=1e-4)
    assert (logits.argmax(1) == targets).float().mean() > 0.95


class Averaged(nn.Module):
    base_model_prefix = "trunk"

    def __init__(self):
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, values):
        inner = self.trunk(values)
        return type("Output", (), {"logits": (self.first(inner) + self.second(inner)) / 2})


def test_two_layers_that_share_the_logits_are_refused():
    with pytest.raises(UserError, match="logits of Averaged are not the output of one linear layer"):
        find_classifier(Averaged(), {"values": torch.randn(3, 4)})
