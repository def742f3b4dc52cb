"""Load a checkpoint as a classifier: safetensors only, float32, and a head that is fresh where it must be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfft.arguments import ModelArguments
from hfft.errors import UserError, listed
from hfft.paths import require_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from hfft.targets import Target


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what the libraries raise for broken, incomplete or foreign files into a :class:`UserError`."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
        *(StrictDataclassError, SafetensorError),
    ) as error:
        raise UserError(f"--model: {what}: {_first_line(error)}") from error


def load_config(arguments: ModelArguments, *, weights: bool = True) -> PretrainedConfig:
    """Return the checkpoint's configuration.

    Args:
        arguments: where the checkpoint is.
        weights: whether a local folder must hold weights too.

    Raises :class:`UserError` for a missing folder, a folder without ``config.json`` or without weights, and a Hub id
    that can be reached neither in the cache nor on the network.
    """
    from transformers import AutoConfig

    model = arguments.model = _require_model(arguments.model)
    require_model(model, weights)
    with reading(f"'{model}' cannot be loaded"):
        return AutoConfig.from_pretrained(
            model, revision=arguments.revision, trust_remote_code=arguments.trust_remote_code
        )


def load_classifier(
    auto_class: Any, arguments: ModelArguments, config: PretrainedConfig, target: Target | None
) -> PreTrainedModel:
    """Load ``auto_class`` (an ``AutoModelFor...Classification``) from the checkpoint.

    Args:
        auto_class: the transformers auto class.
        arguments: where the checkpoint is.
        config: what :func:`load_config` returned.
        target: what the head answers with. It is drawn anew (from the global generator: seed before) unless the
            checkpoint was trained on this very target. ``None`` loads the checkpoint as it is.

    Raises:
        UserError: where the weights cannot be read, or are not those of this architecture, and where it has no dropout
            or stochastic depth that the arguments ask for.
    """
    options: dict[str, Any] = {}
    if target is not None:
        options = {**target.config_options(), "ignore_mismatched_sizes": True}
    import torch

    from hfft.layers import head_parameter_names
    from hfft.layers.dropout import changed_rates

    with reading(f"'{arguments.model}' cannot be loaded"):
        options |= changed_rates(config, arguments)
        model, loading = auto_class.from_pretrained(
            arguments.model,
            revision=arguments.revision,
            trust_remote_code=arguments.trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    fresh = {
        *loading["missing_keys"],
        *(key[0] if isinstance(key, tuple) else key for key in loading["mismatched_keys"]),
    }
    names = [name for name, _ in model.named_parameters()]
    replaceable = _head_and_pooler(model)
    lost = [name for name in names if name in fresh and name not in replaceable]
    if lost:
        raise UserError(
            f"--model: the weights of '{arguments.model}' are not those of a {type(model).__name__}: {len(lost)} of "
            f"{len(names)} parameters are missing or of another shape ({listed(lost, 3)})."
        )
    if target is None:
        if fresh & set(names):
            raise UserError(
                f"--model: '{arguments.model}' has no trained {listed(sorted(fresh & set(names)), 3)}: it was not "
                "fine-tuned. Train it first with `hfft train`."
            )
    else:
        if not target.matches(config):
            _draw_anew(model, [name for name in head_parameter_names(model) if name not in fresh])
        model.config.problem_type = target.problem_type
    return model


def build_without_weights(
    auto_class: Any, arguments: ModelArguments, config: PretrainedConfig, device: str = "meta"
) -> PreTrainedModel:
    """Return the architecture that ``auto_class`` makes of the configuration, on ``device`` where it can be."""
    import torch

    from hfft.layers.dropout import with_changed_rates

    options = {"trust_remote_code": arguments.trust_remote_code}
    config.num_labels = config.num_labels or 2  # timm's own checkpoints may have no classifier
    with reading(f"'{arguments.model}' cannot be built"):
        config = with_changed_rates(config, arguments)
        try:
            with torch.device(device):
                return auto_class.from_config(config, **options)
        except (RuntimeError, NotImplementedError):  # some constructors compute with their tensors
            return auto_class.from_config(config, **options)


def _draw_anew(model: PreTrainedModel, names: list[str]) -> None:
    """Draw parameters of the head anew, where the loader kept those of other classes."""
    import torch

    if names:
        drawn = type(model)(copy.deepcopy(model.config)).state_dict()
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).copy_(drawn[name])


def _head_and_pooler(model: PreTrainedModel) -> set[str]:
    """Return the parameters that a pretrained checkpoint need not have."""
    from hfft.layers import LayerStack, head_parameter_names

    try:
        return set(LayerStack.from_model(model).head.parameter_names)
    except UserError:  # no order can be derived: then at least the classifier is known
        return set(head_parameter_names(model))


def _require_model(model: str | None) -> str:
    if not model:
        raise UserError("--model is needed: a Hub id such as timm/resnet18.a1_in1k, or a local folder.")
    expanded = Path(model).expanduser()
    return str(expanded) if str(model).startswith("~") and expanded.exists() else str(model)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
