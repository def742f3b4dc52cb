"""A model with adapters, and the ordinary model that comes of it."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfft.adapters.quantizing import is_in_4bit, whole_size
from hfft.adapters.settings import adapter_fields, make_config
from hfft.adapters.targets import find_targets, head_modules
from hfft.errors import UserError, listed, one_line
from hfft.layers import LayerStack
from hfft.storage.checkpoints import let_others_read
from hfft.strategies import load_strategy

_PREFIX = "base_model.model."  # of the names of a model's parameters once PEFT has wrapped it
_SPELLED = {"LORA": "LoRA", "IA3": "(IA)3"}
_LORA_B = r"\.lora(_embedding)?_B\."
"""The names of the matrices that LoRA+ (Hayou et al. 2024, arXiv:2402.12354) trains faster."""


def is_adapted(model: Any) -> bool:
    """Say whether a model is wrapped by PEFT, which is imported then."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def add_adapters(model: Any, args: Any, inputs: Mapping[str, Any] | None = None) -> tuple[Any, list[str]]:
    """Freeze a model and wrap it with the adapters that the arguments say; its head trains whole.

    Args:
        model: a classifier, which is changed in place.
        args: :class:`hfft.FineTuningArguments` of a strategy with adapters.
        inputs: a small batch on the model's device to try it on; without one only the structure is there to see.

    Returns:
        the ``PeftModel``, and what to tell, a sentence each.

    Raises:
        UserError: for targets that are not there, and an adapter that does not fit them or cannot be merged.
    """
    from peft import get_peft_model

    strategy = load_strategy(args.strategy)
    stack = LayerStack.from_model(model, args.layer_patterns)
    targets, passed_over = find_targets(model, stack, args.adapter_targets, args.adapter_layers, inputs)
    fields = adapter_fields(args, strategy)
    if "feedforward_modules" in fields:
        fields["feedforward_modules"] = _among(targets, fields["feedforward_modules"])
    config = make_config({**fields, "target_modules": targets, "modules_to_save": head_modules(model, stack)})
    kind = (
        "DoRA" if getattr(config, "use_dora", False) else _SPELLED.get(config.peft_type.value, config.peft_type.value)
    )
    model.name_or_path = ""  # by the name PEFT asks the Hub at each checkpoint whether the vocabulary has grown
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(args.seed)  # drawn alike, whatever was computed or found in a cache before
            wrapped = get_peft_model(model, config)
            _rehearse(wrapped, inputs)
    except UserError:
        raise
    except Exception as error:  # of PEFT's many types: each refuses layers in its own way
        raise UserError(f"{kind} adapters do not fit the model: {one_line(error)}") from error
    if args.lora_plus_ratio is not None and not any("lora_B" in name for name, _ in wrapped.named_parameters()):
        raise UserError(f"lora_plus_ratio has no place with {kind}, which has no matrices B.")
    return wrapped, _told(wrapped, kind, targets, passed_over)


def lora_plus_multipliers(ratio: float | None) -> dict[str, float]:
    """Return the ``lr_multipliers`` of LoRA+: the rate of the matrices B as a multiple of that of A."""
    return {} if ratio is None else {_LORA_B: ratio}


def _among(targets: Sequence[str], names: Any) -> list[str]:
    """Return the targets that PEFT would take by these names: paths, or the ends of paths."""
    names = [names] if isinstance(names, str) else list(names)
    return [path for path in targets if any(path == name or path.endswith(f".{name}") for name in names)]


def _rehearse(model: Any, inputs: Mapping[str, Any] | None) -> None:
    """Run the model once, and merge a copy of one layer of each kind: what fails is to fail before training."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    with torch.no_grad():
        if inputs is not None:
            was_training = model.training
            model.eval()(**inputs)
            model.train(was_training)
        layers = {type(module): module for module in model.modules() if isinstance(module, BaseTunerLayer)}
        for layer in layers.values():
            # weights in 4 bits are not what adapters are merged into in the end
            if not any(parameter.is_meta or is_in_4bit(parameter) for parameter in layer.parameters()):
                copy.deepcopy(layer).merge(safe_merge=True)


def _told(model: nn.Module, kind: str, targets: Sequence[str], passed_over: Sequence[str]) -> list[str]:
    trained, total = trained_parameters(model)
    told = [
        f"{kind} adapters on {len(targets)} layers: {trained / 1e6:.3g} of {total / 1e6:.3g} million parameters train, "
        f"{trained / total:.2%}, those of the head included."
    ]
    if passed_over:
        told.append(
            f"{len(passed_over)} layers have no adapter, because the model reads their weights without calling them: "
            f"{listed(passed_over, 3)}."
        )
    return told


def trained_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many numbers train, and how many there are; the copy that PEFT keeps of the head does not count."""
    parameters = [parameter for name, parameter in model.named_parameters() if ".original_module." not in name]
    return sum(p.numel() for p in parameters if p.requires_grad), sum(whole_size(p) for p in parameters)


@dataclass
class Adapter:
    """Adapters by themselves, as PEFT saves them.

    Attributes:
        config: the ``PeftConfig``.
        weights: by their names in the file.
    """

    config: Any
    weights: dict[str, torch.Tensor]

    def save(self, folder: Path, model: nn.Module, base: str, revision: str | None = None) -> None:
        """Write a folder for ``PeftModel.from_pretrained(base_model, folder)``.

        Args:
            folder: is made.
            model: the finished model, of which the head is taken: a unit or a temperature may have been put into it.
            base: Hub id or folder of the base model.
            revision: of it.
        """
        from safetensors.torch import save_file

        finished = dict(model.named_parameters())
        weights = {
            name: finished.get(name.removeprefix(_PREFIX), value).detach().cpu().contiguous()
            for name, value in self.weights.items()
        }
        self.config.base_model_name_or_path, self.config.revision = base, revision
        self.config.inference_mode = True
        folder.mkdir(exist_ok=True)
        self.config.save_pretrained(str(folder))
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        let_others_read(folder / "adapter_model.safetensors")


def merge(model: Any) -> tuple[Any, Adapter]:
    """Merge the adapters of a model into its layers; return the ordinary model, and the adapters by themselves.

    Raises :class:`UserError` where an adapter holds what is no number.
    """
    from peft import get_peft_model_state_dict

    config = model.peft_config[model.active_adapter]
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: value.detach().clone() for name, value in weights.items()}
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"The adapters cannot be merged: {error} Lower --learning_rate.") from error
    merged.name_or_path = merged.config.name_or_path
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    return merged, Adapter(config, weights)
