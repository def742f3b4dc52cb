"""Mean pooling for models that read their first token, and the way back to the stock architecture.

Sentence encoders of BERT's kind were trained on the mean of their tokens; their first token and the pooler behind it
never learnt anything. In training :class:`MeanTokens` stands behind the last block and puts the standardised mean in
every place, so that whatever reads the first token reads that. What ships is the stock architecture with one more
block whose weights do the same: attention that is equal for all tokens, values that pass through, an output that
drowns what it is added to, nothing in the feed-forward part.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_DROWNING = 4096.0  # powers of two scale without rounding; the first token itself is left with 1/4096
_NEARLY_LINEAR = 1 / 1024  # tanh of the pooler: off by x^2 / 3 of this scale's square


class MeanTokens(nn.Module):
    """A layer that returns the mean of the tokens, standardised, in every place.

    Takes and returns hidden states of shape (batch, tokens, hidden).
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Leave out what the mask, as the blocks are given it, hides from the first token."""
        if attention_mask is None:
            mean = hidden_states.mean(dim=1)
        else:
            weights = _visible(attention_mask).to(hidden_states.dtype).unsqueeze(-1)
            mean = (hidden_states * weights).sum(dim=1) / weights.sum(dim=1)
        pooled = functional.layer_norm(mean, mean.shape[-1:], eps=self.eps)
        return pooled.unsqueeze(1).expand_as(hidden_states)


class FirstToken(nn.Module):
    """A pooler that changes nothing: (batch, tokens, hidden) to (batch, hidden)."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the first token."""
        return hidden_states[:, 0]


def _visible(mask: torch.Tensor) -> torch.Tensor:
    """Return (batch, tokens): what the first token sees. Masks are (batch, 1, tokens, tokens) or (batch, tokens)."""
    if mask.ndim == 4:
        mask = mask[:, 0, 0]
        return mask if mask.dtype == torch.bool else mask > -1
    return mask > 0


def can_pool_tokens(model: Any) -> bool:
    """Say whether mean pooling can be folded into the model's architecture; tried out on one block."""
    layers = _layers(model)
    if layers is None:
        return _has_own_pooling(model)
    if isinstance(layers[-1], MeanTokens):
        return True
    if list(inspect.signature(type(layers[-1]).forward).parameters)[2:3] != ["attention_mask"]:
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            block = type(layers[-1])(model.config).float().eval()
            _fold_block(block)
            hidden = torch.randn(2, 5, model.config.hidden_size)
            mean = MeanTokens(_eps(block))(hidden)
            found = block(hidden, None)
        return isinstance(found, torch.Tensor) and bool((found[:, 0] - mean[:, 0]).abs().max() < 0.02)
    except Exception:
        return False  # a block of another make: which error it raises is its own affair


def pool_tokens(model: Any) -> Callable[[], None]:
    """Let a model that :func:`can_pool_tokens` read the mean of its tokens, in place; return what undoes it."""
    layers = _layers(model)
    if layers is None:
        own = model.config.classifier_pooling
        model.config.classifier_pooling = "mean"
        return lambda: setattr(model.config, "classifier_pooling", own)
    if isinstance(layers[-1], MeanTokens):
        return lambda: None
    trunk = _trunk(model)
    pooler = getattr(trunk, "pooler", None)
    layers.append(MeanTokens(_eps(layers[-1])))
    if pooler is not None:
        trunk.pooler = FirstToken()

    def undo() -> None:
        del layers[-1]
        if pooler is not None:
            trunk.pooler = pooler

    return undo


def folded(model: Any) -> Any:
    """Return the stock model that computes the same, or the model itself where it pools as it always did.

    The result has one more block; its logits differ by about a thousandth of their size.
    """
    layers = _layers(model)
    if layers is None or not isinstance(layers[-1], MeanTokens):
        return model
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    with torch.device("meta"):  # the weights are those that are there: a second copy would double the memory
        stock = type(model)(config)
    with torch.random.fork_rng():
        block = type(layers[0])(config)
    _fold_block(block)
    place = next(name for name, module in stock.named_modules() if module is _layers(stock)[-1])  # type: ignore[index]
    state = {**model.state_dict(), **{f"{place}.{name}": value for name, value in block.state_dict().items()}}
    pooler = getattr(_trunk(stock), "pooler", None)
    if pooler is not None:
        dense = f"{stock.base_model_prefix}.pooler.dense"
        state[f"{dense}.weight"] = torch.eye(config.hidden_size) * _NEARLY_LINEAR
        state[f"{dense}.bias"] = torch.zeros(config.hidden_size)
        state["classifier.weight"] = state["classifier.weight"] / _NEARLY_LINEAR
    stock.load_state_dict(state, assign=True)
    for name, buffer in stock.named_buffers():
        if buffer.is_meta:  # none that is saved
            module, _, own = name.rpartition(".")
            setattr(stock.get_submodule(module), own, model.get_buffer(name))
    return stock.to(device=model.device, dtype=model.dtype).train(model.training)


def unfolded(model: Any, keep_head: bool) -> bool:
    """Undo :func:`folded` in place: take the block out again that stands for the mean, and let the head read that.

    Args:
        model: a stock model, as it was loaded.
        keep_head: whether its classifier is the one that was folded, whose weights have the size that suits the pooler.

    Returns:
        whether it was one that :func:`folded` made, and that nothing has trained since.
    """
    layers = _layers(model)
    if layers is None or len(layers) < 2 or isinstance(layers[-1], MeanTokens) or not can_pool_tokens(model):
        return False
    with torch.random.fork_rng(devices=[]):
        block = type(layers[-1])(model.config)
    _fold_block(block)
    expected = {f"block.{name}": value for name, value in block.state_dict().items()}
    found = {f"block.{name}": value for name, value in layers[-1].state_dict().items()}
    pooler = getattr(_trunk(model), "pooler", None)
    if pooler is not None:
        expected |= {"weight": torch.eye(model.config.hidden_size) * _NEARLY_LINEAR, "bias": pooler.dense.bias * 0}
        found |= pooler.dense.state_dict()
    if not all(torch.equal(found[name].cpu(), value.cpu()) for name, value in expected.items()):
        return False
    del layers[-1]
    model.config.num_hidden_layers = len(layers)
    pool_tokens(model)
    if pooler is not None and keep_head:
        with torch.no_grad():
            model.classifier.weight.mul_(_NEARLY_LINEAR)
    return True


def _has_own_pooling(model: Any) -> bool:
    """Say whether the architecture can be told to pool the mean, as ModernBERT can."""
    return getattr(model.config, "classifier_pooling", None) in ("cls", "mean")


def _trunk(model: nn.Module) -> Any:
    return getattr(model, getattr(model, "base_model_prefix", ""), None)


def _layers(model: nn.Module) -> nn.ModuleList | None:
    layers = getattr(getattr(_trunk(model), "encoder", None), "layer", None)
    return layers if isinstance(layers, nn.ModuleList) and len(layers) > 0 else None


def _eps(block: Any) -> float:
    return float(block.output.LayerNorm.eps)


def _fold_block(block: Any) -> None:
    """Give a block of BERT the weights that make it return the standardised mean of its tokens in every place."""
    width = block.attention.output.dense.weight.shape[0]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.attention.self.value.weight.copy_(torch.eye(width))
        block.attention.output.dense.weight.copy_(torch.eye(width) * _DROWNING)
        for norm in _norms(block):
            norm.weight.fill_(1)


def _norms(block: Any) -> Iterator[nn.LayerNorm]:
    yield block.attention.output.LayerNorm
    yield block.output.LayerNorm
