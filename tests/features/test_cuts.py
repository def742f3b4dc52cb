"""Shapes of outputs, and where a model can be cut."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from hfft.features.cuts import CannotCutError, Cut, Output, find_cuts
from hfft.features.in_training import _obstacle


def output(*sizes: int, follows: tuple[bool, ...] = (), path: str = "layer", others: int | None = None) -> Output:
    return Output(path, sizes, follows, torch.float32, others)


@pytest.mark.parametrize(
    ("made", "shape", "per_token", "can_be_kept"),
    [
        (output(0, follows=(True,)), (3, 7), True, True),
        (output(0, 5, follows=(True, False)), (3, 7, 5), True, True),
        (output(1, 5, follows=(True, False)), (3, 8, 5), False, False),
        (output(2, 0, 0, follows=(False, True, True)), (3, 2, 7, 7), False, False),
        (output(0, 0, follows=(True, True)), (3, 7, 7), False, False),
        (output(6, 4, follows=(False, False)), (3, 6, 4), False, True),
        (output(), (3,), False, True),
    ],
)
def test_what_an_output_has_for_each_token_and_example(made: Output, shape: Any, per_token: bool, can_be_kept: bool):
    assert made.shape(3, 7) == shape
    assert (made.per_token, made.can_be_kept) == (per_token, can_be_kept)


def test_an_output_is_wrapped_as_the_module_does():
    tensor = torch.ones(2)
    assert output().wrap(tensor) is tensor
    assert output(others=0).wrap(tensor) == (tensor,)
    assert output(others=2).wrap(tensor) == (tensor, None, None)


def test_stubs_stand_for_the_outermost_modules_that_are_not_kept():
    below = [output(path=path) for path in ("a", "a.inner", "b", "b.inner", "b.inner.deep")]
    cut = Cut(output(path="c"), tuple(below))
    assert [stub.path for stub in cut.stubs] == ["a", "b"]
    assert [stub.path for stub in cut.keeping(["b"]).stubs] == ["a", "b.inner"]


class Noisy(nn.Module):
    """Draws random numbers in the middle, as dropout does."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.first, self.second = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 4)
        self.noise, self.head = nn.Dropout(noise), nn.Linear(4, 2)
        for module in (self.first, self.second):
            module.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.noise(self.first(x))))


def test_a_model_is_cut_below_what_trains_and_what_draws_random_numbers():
    small, large = {"x": torch.randn(2, 3)}, {"x": torch.randn(3, 3)}
    quiet = find_cuts(Noisy(0.0).eval(), small, large)
    assert [cut.path for cut in quiet] == ["second", "noise", "first"]
    assert [stub.path for stub in quiet[0].stubs] == ["first", "noise"]
    assert [cut.path for cut in find_cuts(Noisy(0.5).train(), small, large)] == ["first"]
    trained = Noisy(0.0).eval()
    trained.first.requires_grad_(True)
    with pytest.raises(CannotCutError, match="no module below what trains"):
        find_cuts(trained, small, large)


def trainer_with(setting: str | None) -> SimpleNamespace:
    def named(*names: str) -> dict[str, bool]:
        return {name: name == setting for name in names}

    args = SimpleNamespace(**named("torch_compile", "activation_checkpointing"))
    return SimpleNamespace(args=args, **named("is_fsdp_enabled", "is_deepspeed_enabled"))


@pytest.mark.parametrize(
    ("setting", "obstacle"),
    [
        ("is_fsdp_enabled", "fsdp"),
        ("is_deepspeed_enabled", "deepspeed"),
        ("torch_compile", "torch_compile"),
        ("activation_checkpointing", "activation_checkpointing"),
        (None, None),
    ],
)
def test_what_steps_from_the_middle_of_a_model_do_not_go_with_is_named(setting: str | None, obstacle: str | None):
    assert _obstacle(trainer_with(setting)) == obstacle
