"""Forward passes that start from kept activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hfft.features.cuts import CannotCutError, Cut, find_cuts
from hfft.features.stubs import proven, starting_from

SMALL, LARGE = {"x": torch.randn(2, 3)}, {"x": torch.randn(3, 3)}


class Chain(nn.Module):
    """Three layers; ``uses`` says what becomes of the output of the first one beside what the second makes of it."""

    def __init__(self, uses: str = "nothing") -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.first.requires_grad_(False)
        self.second.requires_grad_(False)
        self.uses = uses

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        first = self.first(x)
        second = self.second(first)
        if self.uses == "is looked at" and first.isnan().any():
            raise ValueError
        return {"logits": self.third(second + first if self.uses == "is added" else second)}


def highest_cut(model: nn.Module) -> Cut:
    cut = find_cuts(model, SMALL, LARGE)[0]
    assert cut.path == "second"
    return cut


@pytest.mark.parametrize(("uses", "stubs"), [("nothing", ["first"]), ("is looked at", []), ("is added", [])])
def test_what_the_model_needs_of_what_lies_below_stays_in_place(uses: str, stubs: list[str]):
    model = Chain(uses)
    cut, kept = highest_cut(model), model.second(model.first(LARGE["x"]))
    found = proven(model, cut, kept, LARGE, 1e-5)
    assert [stub.path for stub in found.stubs] == stubs


def test_other_outputs_are_no_start():
    model = Chain()
    with pytest.raises(CannotCutError, match="outputs are others when second hands on"):
        proven(model, highest_cut(model), torch.zeros(3, 4), LARGE, 1e-5)


def test_a_pass_starts_from_what_was_kept_and_leaves_the_model_as_it_was():
    model = Chain()
    cut, expected = highest_cut(model), model(**LARGE)["logits"]
    kept = model.second(model.first(LARGE["x"])).detach()
    wrapper = model.second.forward = lambda *args: nn.Linear.forward(model.second, *args)
    weights = model.first.weight.clone()
    with starting_from(model, cut, kept, LARGE):
        model.first.weight.data.zero_()  # nobody reads it
        torch.testing.assert_close(model(**LARGE)["logits"], expected)
    assert model.second.forward is wrapper
    assert "forward" not in vars(model.first)
    model.first.weight.data.copy_(weights)
    torch.testing.assert_close(model(**LARGE)["logits"], expected)
