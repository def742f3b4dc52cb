"""Outputs at cuts, divided into examples and joined again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hfft.features.cuts import CannotCutError, Cut, Output, tokens_of
from hfft.features.recording import joined, outputs_at, rows_of

MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])


def cut_of(*sizes: int, follows: tuple[bool, ...], dtype: torch.dtype = torch.float32, path: str = "layer") -> Cut:
    return Cut(Output(path, sizes, follows, dtype, None), ())


CASES = {
    "of each token": (cut_of(0, 5, follows=(True, False)), (3, 4, 5), [(2, 5), (4, 5), (1, 5)]),
    "of each example": (cut_of(6, 2, follows=(False, False)), (3, 6, 2), [(6, 2)] * 3),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_divided_is_joined_to_the_same(case: str, dtype: torch.dtype):
    cut, shape, parts = CASES[case]
    cut = cut_of(*cut.output.sizes, follows=cut.output.follows_tokens, dtype=dtype)
    output = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    if case == "of each token":
        output[MASK == 0] = 0  # nobody reads what is padded
    inputs = {"input_ids": MASK, "attention_mask": MASK}
    rows = rows_of(cut, output, inputs)
    assert [row.shape for row in rows] == parts
    assert rows[0].dtype == {torch.bfloat16: np.int16, torch.float16: np.float16}.get(dtype, np.float32)
    values = torch.from_numpy(np.concatenate([row.ravel() for row in rows])).view(dtype)
    assert torch.equal(joined(cut, values, inputs), output)


@pytest.mark.parametrize("inputs", [{"pixel_values": torch.zeros(3, 2)}, {"attention_mask": torch.ones(3, 4)}])
def test_without_padding_nothing_is_left_out(inputs: dict[str, torch.Tensor]):
    tokens = tokens_of(inputs)
    cut = cut_of(0, 5, follows=(True, False)) if tokens else cut_of(2, 5, follows=(False, False))
    output = torch.randn(3, tokens or 2, 5)
    rows = rows_of(cut, output, inputs)
    assert np.array_equal(np.stack(rows), output.numpy())
    assert torch.equal(joined(cut, output.flatten(), inputs), output)


@pytest.mark.parametrize("output", [torch.zeros(3, 4, 6), torch.zeros(3, 4, 5, dtype=torch.float16)])
def test_another_shape_or_type_than_the_cut_says_is_refused(output: torch.Tensor):
    with pytest.raises(CannotCutError, match="output of layer has another shape"):
        rows_of(CASES["of each token"][0], output, {"attention_mask": MASK})


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.ran: list[str] = []
        for name, module in self.named_children():
            module.register_forward_pre_hook(lambda *_, name=name: self.ran.append(name))

    def forward(self, x: torch.Tensor) -> Any:
        return self.third(self.second(self.first(x)))


def test_above_the_highest_cut_nothing_runs():
    model, x = Chain(), torch.randn(2, 3)
    cuts = [cut_of(4, follows=(False,), path="first"), cut_of(5, follows=(False,), path="second")]
    first, second = outputs_at(model, cuts, {"x": x})
    assert model.ran == ["first", "second"]
    assert torch.equal(first, model.first(x))
    assert torch.equal(second, model.second(first))
    assert not first.requires_grad
    model(x)  # the hooks are gone
    assert model.ran[-1] == "third"
