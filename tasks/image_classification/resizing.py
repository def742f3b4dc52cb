"""Model and preprocessing for pictures of another size than the checkpoint's.

What reads pictures of any size, as convolutions do, is left as it is. A model with a position embedding is built anew
for the size, and the embedding resized by the library that the model comes from; what ships is then a stock model of
that size. Resizing: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.2.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hfft.errors import UserError
from hfft.hardware.launching import is_zero3

from .preprocessing import made_size, with_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TIMM = "timm_wrapper"


def resized_model(model: PreTrainedModel, size: int) -> PreTrainedModel:
    """Return a model with the same weights that reads pictures of ``size`` x ``size`` pixels; it may be the same one.

    Raises :class:`UserError` for an architecture that cannot, and for a size that its patches do not fill.
    """
    if is_zero3():
        raise UserError("image_size has no place under ZeRO stage 3, where no process has the weights: take stage 2.")
    _require_whole_patches(model, size)
    problem = _problem(model, size)
    if problem is not None:
        architecture = model.config.architecture if _is_timm(model) else model.config.model_type
        refusal = UserError(
            f"image_size: a model of the architecture {architecture} cannot read {size} pixels ({problem}). Leave "
            "image_size out."
        )
        try:
            model = _rebuilt_timm(model, size) if _is_timm(model) else _rebuilt(model, size)
        except Exception as error:  # of several libraries, about options and weights
            raise refusal from error
        if _problem(model, size) is not None:
            raise refusal
    if _is_timm(model):
        kept = _timm_size(size)
        kept["test_input_size"] = kept["input_size"]  # at which timm validates where a checkpoint names it
        model.config.pretrained_cfg = {**(getattr(model.config, "pretrained_cfg", None) or {}), **kept}
    return model


def resized_processor(processor: Any, size: int) -> Any:
    """Return a processor that makes ``size`` x ``size`` pixels, cropped from as much of a picture as before.

    Raises :class:`UserError` for one that makes no pictures of a fixed size.
    """
    if hasattr(processor, "data_config"):
        return with_settings(processor, _timm_size(size))
    settings = processor.to_dict()
    factor = size / min(made_size(processor))
    crops = bool(settings.get("do_center_crop") and settings.get("crop_size"))
    last = "crop_size" if crops else "size"
    changed = {last: dict.fromkeys(dict(settings[last]), size)}
    if crops:
        changed["size"] = {name: round(side * factor) for name, side in dict(settings["size"]).items()}
    resized = with_settings(processor, changed)
    made = made_size(resized)
    if made != (size, size):
        raise UserError(
            f"image_size: a {type(processor).__name__} set to {size} pixels makes {made[0]} x {made[1]} of a picture. "
            "Leave image_size out."
        )
    return resized


def _is_timm(model: Any) -> bool:
    return bool(model.config.model_type == _TIMM)


def _timm_size(size: int) -> dict[str, Any]:
    return {"input_size": [3, size, size]}


def _require_whole_patches(model: Any, size: int) -> None:
    patch = _patch_size(model)
    if patch is not None and size % patch:
        below, above = size // patch * patch, (size // patch + 1) * patch
        fits = f"{below} or {above}" if below else str(above)
        raise UserError(
            f"image_size: {size} pixels are no whole number of the model's patches of {patch} pixels. Take {fits}."
        )


def _patch_size(model: nn.Module) -> int | None:
    """Return the side of the patches that a picture is divided into, where a model does so."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.kernel_size == module.stride:
            return int(module.kernel_size[0])
    return None


def _problem(model: Any, size: int) -> str | None:
    """Return why the model does not read a picture of this size, tried on one; ``None`` if it does."""
    was_training = model.training
    model.eval()
    picture = torch.zeros(1, 3, size, size, dtype=model.dtype, device=model.device)
    try:
        with torch.no_grad():
            logits = model(pixel_values=picture).logits
    except Exception as error:  # whatever the model's code trips over
        return _first_line(error)
    finally:
        model.train(was_training)
    return None if logits.shape == (1, model.config.num_labels) else f"its logits are of shape {tuple(logits.shape)}"


def _rebuilt_timm(model: Any, size: int) -> Any:
    """Build the wrapped architecture for the size, and load the weights as timm loads those of another size."""
    import timm

    options = {**(model.config.model_args or {}), "img_size": size}
    classes = model.config.num_labels
    source = {"state_dict": model.timm_model.state_dict(), "custom_load": False, "num_classes": classes}
    with torch.random.fork_rng(devices=[]):
        built = timm.create_model(
            model.config.architecture,
            pretrained=True,
            pretrained_cfg_overlay={**source, "label_offset": 0},
            num_classes=classes,
            **options,
        )
    model.timm_model = built.train(model.training)
    model.config.model_args = options
    return model


def _rebuilt(model: Any, size: int) -> Any:
    """Build the model for the size, and interpolate its position embeddings as its own code does."""
    config = copy.deepcopy(model.config)
    for part in (config, getattr(config, "vision_config", config)):
        side = getattr(part, "image_size", None)
        if side is not None:
            part.image_size = [size, size] if isinstance(side, list | tuple) else size
    with torch.random.fork_rng(devices=[]):
        built = type(model)(config)
    state = model.state_dict()
    for name, value in built.state_dict().items():
        if name in state and state[name].shape != value.shape:
            state[name] = _interpolated(model, name, value.shape, size)
    built.load_state_dict(state)
    return built.train(model.training)


def _interpolated(model: Any, name: str, shape: torch.Size, size: int) -> torch.Tensor:
    """Return a position embedding, (..., positions, width), for pictures of the size."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        owner = model.get_submodule(".".join(parts[:end]))
        if hasattr(owner, "interpolate_pos_encoding"):
            tokens = torch.zeros(1, *shape[-2:])
            with torch.no_grad():
                return owner.interpolate_pos_encoding(tokens, size, size).reshape(shape).clone()
    raise ValueError(f"{name} depends on the size, and cannot be resized")


def _first_line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
