"""What gradual unfreezing refuses when training begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from hfft import LayerStack, UserError
from hfft.callbacks.unfreezing_checks import require_in_optimizer, require_search_for_unused


def test_a_model_of_which_nothing_can_train_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stack = LayerStack.from_model(model, ["0", "1"])
    with pytest.raises(UserError, match="nothing to unfreeze"):
        require_in_optimizer(stack, [[] for _ in stack], optimizer)


@pytest.mark.parametrize(
    ("kind", "checkpointing", "search", "refused"),
    [
        (DistributedType.MULTI_CPU, True, None, True),
        (DistributedType.MULTI_GPU, True, None, True),
        (DistributedType.MULTI_CPU, True, True, False),
        (DistributedType.MULTI_CPU, False, None, False),
        (DistributedType.NO, True, None, False),
    ],
)
def test_several_processes_with_checkpointing_must_search_for_unused_parameters(
    kind: DistributedType, checkpointing: bool, search: bool | None, refused: bool
):
    state = SimpleNamespace(distributed_type=kind)
    args = SimpleNamespace(
        distributed_state=state, activation_checkpointing=checkpointing, ddp_find_unused_parameters=search
    )
    if refused:
        with pytest.raises(UserError, match="ddp_find_unused_parameters true"):
            require_search_for_unused(args)
    else:
        require_search_for_unused(args)
