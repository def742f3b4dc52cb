"""The number format of training: bfloat16 where the device is made for it and computes rightly in it, else float32."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional
from transformers.utils import is_torch_bf16_gpu_available

from hfft.errors import UserError, listed, nearest

AUTO, FP32, BF16, FP16 = "auto", "fp32", "bf16", "fp16"
PRECISIONS = (AUTO, FP32, BF16, FP16)
_LARGEST_DIFFERENCE = 0.05  # of gradients, relative; bfloat16 rounds by 0.4 %, and the sums here come out 1 % off


def resolve_precision(wanted: str | None, *, bf16: bool, fp16: bool, device_type: str) -> str:
    """Return the number format to train in: ``fp32``, ``bf16`` or ``fp16``.

    What the Trainer's own switches or ``accelerate launch --mixed_precision`` say wins over ``auto``. The choice
    depends on the device alone, never on a timing: the same seed gives the same weights in each run.

    Args:
        wanted: one of :data:`PRECISIONS`; ``None`` is what the switches say, and float32 where they say nothing.
        bf16, fp16: the Trainer's switches.
        device_type: ``cpu``, ``cuda``, ...

    Raises:
        UserError: for an unknown name, for contradictions, and for a format that the device lacks.
    """
    if wanted is not None and wanted not in PRECISIONS:
        raise UserError(f"precision must be one of {listed(PRECISIONS)}, got '{wanted}'.{nearest(wanted, PRECISIONS)}")
    chosen = {name: where for name, where in _chosen_elsewhere(bf16, fp16).items() if name != wanted}
    if wanted not in (AUTO, None) and chosen:
        raise UserError(
            f"precision {wanted} and {listed(chosen.values())} contradict each other: leave out one of them."
        )
    if len(chosen) > 1:
        raise UserError(f"{listed(chosen.values())} exclude each other: leave out one of them.")
    if wanted == AUTO and not chosen:
        return BF16 if has_fast_bf16(device_type) and computes_in_bf16(_this_device(device_type)) else FP32
    precision = next(iter(chosen), wanted or FP32)
    _require(precision, device_type)
    return precision


def _chosen_elsewhere(bf16: bool, fp16: bool) -> dict[str, str]:
    """Return format -> who chose it, beside ``precision``."""
    chosen = {BF16: "bf16 true"} if bf16 else {}
    chosen |= {FP16: "fp16 true"} if fp16 else {}
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # which the launcher sets also where nobody asked
    if not chosen and launched != "no":
        chosen = {launched: f"--mixed_precision {launched} of the launcher"}
    return chosen


def _require(precision: str, device_type: str) -> None:
    """Raise :class:`UserError` unless the device computes in this format."""
    if precision not in PRECISIONS:
        raise UserError(f"--mixed_precision {precision} of the launcher: hfft trains in fp32, bf16 or fp16.")
    if precision == FP16 and device_type == "cpu":
        raise UserError("precision fp16 needs a GPU, and this run is on the CPU; auto takes what suits it.")
    if precision == BF16 and device_type != "cpu" and not is_torch_bf16_gpu_available():
        raise UserError(f"precision bf16: this {device_type} device lacks it; auto takes what suits the device.")


def has_fast_bf16(device_type: str) -> bool:
    """Say whether the device has instructions for bfloat16, with which it is faster than in float32."""
    if device_type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "xpu" and is_torch_bf16_gpu_available()


@functools.cache
def computes_in_bf16(device: torch.device) -> bool:
    """Say whether a small convolution and matrix product have the gradients of float32 in bfloat16, but for rounding.

    A driver or library that gets them wrong, or cannot do them, is met here and not in the middle of a run.
    """
    try:
        exact, rounded = (
            _gradients(device, context) for context in (contextlib.nullcontext, autocast_on(device, BF16))
        )
    except RuntimeError:
        return False
    # a NaN is no small number
    return all(
        bool((one - other).norm() < _LARGEST_DIFFERENCE * one.norm()) for one, other in zip(exact, rounded, strict=True)
    )


def _gradients(
    device: torch.device, context: Callable[[], contextlib.AbstractContextManager[object]]
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)  # on the CPU: the run's own random numbers stay as they are

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    pixels, target = draw(4, 8, 16, 16), draw(4, 32)
    weights = [draw(16, 8, 3, 3) / 8, draw(32, 16)]
    for weight in weights:
        weight.requires_grad_(True)
    with torch.enable_grad():
        with context():
            hidden = functional.gelu(functional.conv2d(pixels, weights[0])).mean(dim=(2, 3))
            output = functional.linear(hidden, weights[1])
        loss = functional.mse_loss(output.float(), target)
        return list(torch.autograd.grad(loss, weights))


def dtype_of(precision: str) -> torch.dtype:
    """Return torch's name of a number format."""
    return {FP32: torch.float32, BF16: torch.bfloat16, FP16: torch.float16}[precision]


def autocast_on(device: torch.device, precision: str) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Return what makes a context in which modules compute in this format, as far as that is safe."""
    if precision == FP32:
        return contextlib.nullcontext
    return functools.partial(torch.autocast, device.type, dtype_of(precision))


@contextlib.contextmanager
def suited_attention(model: Any, device: torch.device, precision: str) -> Iterator[None]:
    """Take plain matrix products for the attention of vision models that train in bfloat16 on a CPU, for the time.

    torch 2.15's fused attention is slower there than in float32: a step of ViT-Tiny takes 1.31 s with it, 0.96 s
    without, on two cores with AVX512-BF16. Texts of up to 256 tokens gain nothing.
    """
    if device.type != "cpu" or precision != BF16 or getattr(model, "main_input_name", None) != "pixel_values":
        yield
        return
    fused = [module for module in model.modules() if getattr(module, "fused_attn", None) is True]  # timm's
    chosen = getattr(getattr(model, "config", None), "_attn_implementation", None)
    for module in fused:
        module.fused_attn = False
    if chosen == "sdpa":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True
        if chosen == "sdpa":
            model.set_attn_implementation(chosen)


def _this_device(device_type: str) -> torch.device:
    """Return the device of this process; the Trainer has not settled it yet."""
    return (
        torch.device("cpu") if device_type == "cpu" else torch.device(device_type, int(os.environ.get("LOCAL_RANK", 0)))
    )
