"""What solved heads are made of: losses, the basis of the features, strengths and activations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from hfft.features.heads import ACTIVATIONS, HiddenLayer, can_pass_on, find_classifier, near_identity
from hfft.features.heads.basis import Basis
from hfft.features.heads.losses import HeadLoss, Logistic, Softmax, SquaredHinge
from hfft.features.heads.problem import STRENGTHS


def outputs_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    outputs = 2 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return outputs, nn.functional.one_hot(torch.arange(6) % 3).double()


def slopes(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Return the derivatives of (examples,) values by each of (examples, classes) outputs, by differences."""
    steps = 1e-5 * torch.eye(at.shape[1], dtype=at.dtype)
    return torch.stack([(function(at + step) - function(at - step)) / 2e-5 for step in steps], dim=1)


@pytest.mark.parametrize("loss", [Softmax(), Logistic(), SquaredHinge()], ids=lambda loss: type(loss).__name__)
def test_a_loss_knows_its_gradient(loss: HeadLoss):
    outputs, targets = outputs_and_targets()
    torch.testing.assert_close(
        loss(outputs, targets)[1], slopes(lambda at: loss(at, targets)[0], outputs), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("loss", [Softmax(), Logistic()], ids=lambda loss: type(loss).__name__)
def test_a_loss_knows_its_curvature(loss: HeadLoss):
    outputs, targets = outputs_and_targets()
    found = loss.curvature(outputs)
    for index in range(3):
        by_output = slopes(lambda at, index=index: loss(at, targets)[1][:, index], outputs)[:, index]
        torch.testing.assert_close(found[:, index], by_output, atol=1e-6, rtol=1e-6)


def test_the_squared_hinge_curves_between_the_margins():
    assert SquaredHinge().curvature(torch.tensor([-1.5, -0.5, 0.0, 0.9, 1.0])).tolist() == [0, 2, 2, 2, 0]


@pytest.mark.parametrize("shape", [(40, 6), (5, 12)], ids=["more examples than dims", "fewer"])
@pytest.mark.parametrize("intercept", [True, False])
def test_a_basis_holds_the_features_and_no_more(shape: tuple[int, int], intercept: bool):
    features = 3 + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    features[:, -1] = features[:, 0]  # adds nothing
    basis = Basis.of(features, intercept=intercept)
    rank = min(shape[0] - intercept, shape[1] - 1)
    assert basis.coordinates.shape == (shape[0], rank)
    torch.testing.assert_close(basis.axes.T @ basis.axes, torch.eye(rank, dtype=torch.float64))
    restored = basis.scale * basis.coordinates.double() @ basis.axes.T + basis.centre
    torch.testing.assert_close(restored.float(), features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(basis.deviations.float(), torch.linalg.svdvals(basis.coordinates)[:rank])
    assert float(basis.coordinates.square().sum(dim=1).mean()) == pytest.approx(1)
    assert bool(basis.centre.any()) == intercept
    weight, bias = basis.to_features(torch.eye(rank), torch.ones(rank))
    torch.testing.assert_close(features @ weight.T + bias, basis.coordinates + 1, atol=1e-4, rtol=1e-4)


def test_strengths_are_half_decades():
    np.testing.assert_allclose(STRENGTHS, np.logspace(1, -4, 11))


def test_activations_are_those_of_the_models():
    values = torch.linspace(-4, 4, 33)
    names = {"gelu_tanh": "gelu_pytorch_tanh"}
    for name, function in ACTIVATIONS.items():
        torch.testing.assert_close(function(values), ACT2FN[names.get(name, name)](values), msg=name)


@pytest.mark.parametrize(
    ("dense", "activation", "can"),
    [
        (nn.Linear(4, 4), "tanh", True),
        (nn.Linear(4, 4), "relu", False),
        (nn.Linear(4, 5), "tanh", False),
        (nn.Linear(4, 4, bias=False), "tanh", False),
    ],
)
def test_a_square_tanh_layer_with_a_bias_hands_its_input_on(dense: nn.Linear, activation: str, can: bool):
    hidden, before = HiddenLayer("dense", dense, activation), dense.weight.clone()
    assert can_pass_on(hidden) == can
    if not can:
        with pytest.raises(ValueError, match="only a square tanh layer"):
            near_identity(hidden, torch.randn(5, 4))
        assert torch.equal(dense.weight, before)


class Convolutions(nn.Module):
    """A head of 1x1 convolutions on a map of one position."""

    base_model_prefix = "trunk"

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.before, self.last = nn.Linear(4, 6), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 3, 1)

    def forward(self, values: torch.Tensor) -> object:
        inner = torch.relu(self.before(self.trunk(values)[:, :, None, None]))
        return type("Output", (), {"logits": self.last(inner).flatten(1)})


def test_a_convolution_before_the_last_layer_is_no_hidden_layer():
    model = Convolutions().train()
    found = find_classifier(model, {"values": torch.randn(3, 4)})
    assert (found.name, found.hidden) == ("last", None)
    assert model.training
