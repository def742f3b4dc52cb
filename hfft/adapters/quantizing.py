"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): layers that stay frozen are held in 4 bits while adapters train.

The ordinary model waits in the memory of the host. In the end the adapters are put beside its own layers, and merged
into those: nothing of what ships has been rounded to 4 bits.
"""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hfft.adapters.targets import find_targets
from hfft.errors import UserError, listed, one_line
from hfft.hardware.launching import is_on
from hfft.hardware.precision import dtype_of
from hfft.layers import LayerStack

_TYPES = ("LORA", "IA3")  # of PEFT, with layers of their own for weights in 4 bits
_KEEP_THE_BASE = (True, False, "gaussian", "orthogonal")  # init_lora_weights that leave the frozen weights alone
_LARGEST_DIFFERENCE = 0.15  # of what a layer gives, relative; rounding normal weights to NF4 makes 0.09
_BLOCK = 64  # weights with a scale of their own; bitsandbytes 0.50 misreads some rows that end in one on CPUs


def require_quantizable(args: Any, fields: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raise :class:`UserError` where adapters cannot be trained beside layers in 4 bits.

    Args:
        args: of the training, after their own checks, so that they know the device.
        fields: of the PEFT configuration.
        environment: in which ``accelerate launch`` leaves its settings.
    """
    from transformers.utils import is_bitsandbytes_available

    if fields["peft_type"] not in _TYPES:
        raise UserError(f"load_in_4bit has no place with {fields['peft_type']}: it belongs to {listed(_TYPES)}.")
    if fields.get("init_lora_weights", True) not in _KEEP_THE_BASE:
        raise UserError(
            f"adapter_config: init_lora_weights {fields['init_lora_weights']} changes the weights beside the adapters, "
            "which load_in_4bit leaves as they are: keep one of them."
        )
    if args.deepspeed or is_on(environment, "ACCELERATE_USE_DEEPSPEED"):
        raise UserError("load_in_4bit has no place with DeepSpeed: start it without.")
    if not is_bitsandbytes_available():
        raise UserError('load_in_4bit needs a recent bitsandbytes: pip install "hfft[quantize]".')
    obstacle = _obstacle(args.device)
    if obstacle is not None:
        raise UserError(f"load_in_4bit: bitsandbytes does not compute in 4 bits on this {args.device.type}: {obstacle}")


@functools.cache
def _obstacle(device: torch.device) -> str | None:
    """Return why a layer in 4 bits does not give what it should on a device; tried out on a small one."""
    try:
        import bitsandbytes

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer: Any = bitsandbytes.nn.Linear4bit(3 * _BLOCK, 96, bias=False, quant_type="nf4")
            exact, inputs = layer.weight.detach().clone(), torch.randn(8, 3 * _BLOCK)
        layer.requires_grad_(False)
        inputs = inputs.to(device).requires_grad_(True)
        outputs = layer.to(device)(inputs)
        (gradient,) = torch.autograd.grad(outputs.sum(), inputs)
        expected = nn.functional.linear(inputs, exact.to(device))
        (wanted,) = torch.autograd.grad(expected.sum(), inputs)
    except Exception as error:  # of several libraries and drivers
        return one_line(error) or type(error).__name__
    pairs = ((outputs, expected), (gradient, wanted))
    # a NaN is no small number
    right = all(bool((found - ref).norm() < _LARGEST_DIFFERENCE * ref.norm()) for found, ref in pairs)
    return None if right else "what a layer gives is wrong."


def quantize(model: Any, args: Any, inputs: Mapping[str, Any]) -> tuple[Any, str]:
    """Return a copy of a model whose linear layers between stem and head are in NF4, and what to tell of it.

    Each weight is one of 16 values times the scale of its block of 64, and the scales are of 8 bits: 4.127 bits a
    weight. Layers with rows that are no whole blocks, and those whose weights the model reads without calling them,
    stay as they are, as all the rest does.

    Args:
        model: a classifier in float32, which stays as it is; what is not quantized may be its own tensors.
        args: :class:`hfft.FineTuningArguments`.
        inputs: a small batch on the model's device to try it on.

    Raises:
        UserError: for models without such layers, and those that cannot be made anew from their weights.
    """
    small = _made_anew(model, args, _layers_left_whole(model, args, inputs))
    packed = [module for module in small.modules() if is_in_4bit(getattr(module, "weight", None))]
    for module in packed:
        # On CPUs with AVX512-BF16 evaluation would pack them anew, with scales in bfloat16, for training to go on with
        module.support_avx512bf16_for_cpu = False
    return small, (
        f"while adapters train, {len(packed)} linear layers are held in 4 bits (NF4, double quantization): "
        f"{_megabytes(small):.3g} MB of weights in place of {_megabytes(model):.3g}; what ships is made of the "
        "base model's own weights, and its metrics are measured on that."
    )


def _layers_left_whole(model: Any, args: Any, inputs: Mapping[str, Any]) -> list[str]:
    """Return the paths of the linear layers that are not to be held in 4 bits; see :func:`quantize`."""
    from transformers.pytorch_utils import Conv1D

    stack = LayerStack.from_model(model, args.layer_patterns)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    called = linear.intersection(find_targets(model, stack, inputs=inputs)[0])
    held = {name for name in called if _row_length(model.get_submodule(name)) % _BLOCK == 0}
    if not held:
        raise UserError(
            "load_in_4bit has no place with this model: between stem and head it has no linear layer whose inputs are "
            f"a multiple of {_BLOCK}. Leave it out."
        )
    return sorted(linear - held)


def _made_anew(model: Any, args: Any, others: list[str]) -> Any:
    """Return a copy of a model whose linear layers are in NF4, all but ``others``."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype_of(str(args.precision)),
        llm_int8_skip_modules=[f"^{re.escape(name)}$" for name in others],
    )
    try:
        small, loading = type(model).from_pretrained(
            None,
            config=copy.deepcopy(model.config),
            state_dict=model.state_dict(),
            quantization_config=config,
            device_map={"": args.device},
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(f"load_in_4bit: the model cannot be quantized: {one_line(error)}") from error
    if differing := [name for names in loading.values() for name in names]:
        raise UserError(f"load_in_4bit: the model cannot be made anew from its weights ({listed(differing, 3)}).")
    return small


def is_in_4bit(parameter: nn.Parameter | None) -> bool:
    """Say whether there is a parameter, and one that bitsandbytes has packed, whose shape is not that of the layer."""
    return getattr(parameter, "quant_state", None) is not None


def whole_size(parameter: nn.Parameter) -> int:
    """Return how many numbers a parameter stands for, packed or not."""
    return int(parameter.quant_state.shape.numel()) if is_in_4bit(parameter) else parameter.numel()  # type: ignore[attr-defined]


def beside_whole_weights(model: Any, adapted: Any) -> Any:
    """Return ``model`` with the adapters and the head of a model that holds its layers in 4 bits, on the same device.

    Args:
        model: the one that was quantized, before its head was trained; it is changed in place.
        adapted: the ``PeftModel`` that was trained.
    """
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = get_peft_model(model, copy.deepcopy(adapted.peft_config[adapted.active_adapter]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not is_in_4bit(parameter):
                whole.get_parameter(name).copy_(parameter)
    return whole.to(adapted.device)


def _row_length(layer: Any) -> int:
    """Return how many inputs a linear layer has; GPT-2's stand in the rows of their weights."""
    return int(layer.weight.shape[1 if isinstance(layer, nn.Linear) else 0])


def _megabytes(model: nn.Module) -> float:
    """Return what the weights take, the scales of packed ones included."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) / 1e6
