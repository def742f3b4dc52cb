"""What a run would train of a model, at which rate and when: seen before anything is loaded or trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hfft.adapters.models import add_adapters
from hfft.callbacks.unfreezing_stages import UnfreezeStages
from hfft.errors import UserError
from hfft.freezing import select_parameters
from hfft.layers import LayerStack
from hfft.loading import load_config
from hfft.optim.param_groups import layer_learning_rates, layerwise_param_groups
from hfft.registry import load_task, task_for_config
from hfft.running.settling import task_defaults
from hfft.settings import split_settings, training_arguments
from hfft.strategies import load_strategy
from hfft.task import Task
from hfft.training.optimizers import group_arguments
from hfft.training_arguments import FineTuningArguments


@dataclass(frozen=True)
class PlannedLayer:
    """One group of the layer stack.

    Attributes:
        name: of the group.
        parameters: how many numbers it holds.
        learning_rate: its peak.
        factor: its peak as a share of ``learning_rate``.
        trains: when it starts to train.
    """

    name: str
    parameters: int
    learning_rate: float
    factor: float
    trains: str

    def drawn(self) -> tuple[str, int, float, str]:
        """Return what a picture shows: name, parameters, learning rate, and factor and time as a remark on it."""
        remark = f"\N{MULTIPLICATION SIGN}{self.factor:.3g}, {self.trains}"
        return self.name, self.parameters, self.learning_rate, remark


@dataclass(frozen=True)
class LayerPlan:
    """The layers of a model, input first, and what is worth knowing about them."""

    title: str
    layers: tuple[PlannedLayer, ...]
    notes: tuple[str, ...]


def plan_layers(model: str, task: str | Task | None = None, **settings: Any) -> LayerPlan:
    """Return the layer groups of a model with the rates that a run with these settings would give them.

    Only the configuration is read, not the weights.

    Args:
        model: Hub id or local folder; of the latter ``config.json`` is enough.
        task: left out, the model decides.
        **settings: any field of ModelArguments and FineTuningArguments.

    Raises:
        UserError: for a model that cannot be ordered, or that no task or more than one task fits.
    """
    model_arguments, _, chosen = split_settings({"model": model, **settings})
    config = load_config(model_arguments, weights=False)
    known = load_task(task) if task is not None else task_for_config(config)
    if not known.supports(config):
        raise UserError(f"--model: '{model}' is a {config.model_type} model, which cannot do {known.name}.")
    args = training_arguments({**task_defaults(known, chosen), **chosen})
    strategy = load_strategy(args.strategy)
    architecture = known.architecture(model_arguments, config)
    stack = LayerStack.from_model(architecture, args.layer_patterns)
    frozen = set(select_parameters(architecture, stack, args.freeze or []))
    sizes = {name: parameter.numel() for name, parameter in architecture.named_parameters()}
    starts, notes, trained = _starts(args, len(stack)), list(stack.notes), architecture
    if strategy.adapter is not None:
        trained, told = add_adapters(architecture, args)
        starts = _starts_of_adapters(trained, args)
        notes += told
    rates = _rates(trained, args) if strategy.trains else [0.0] * len(stack)
    layers = tuple(
        PlannedLayer(
            name=group.name,
            parameters=sum(sizes[name] for name in group.parameter_names),
            learning_rate=rate,
            factor=rate / args.learning_rate,
            trains="never" if frozen.issuperset(group.parameter_names) else start,
        )
        for group, rate, start in zip(stack, rates, starts, strict=True)
    )
    total = sum(layer.parameters for layer in layers)
    return LayerPlan(
        title=f"{type(architecture).__name__}, {total / 1e6:.2f} million parameters; strategy {strategy.name}",
        layers=layers,
        notes=tuple(notes),
    )


def _starts(args: FineTuningArguments, groups: int) -> list[str]:
    """Return when each layer group begins to train, for people."""
    strategy = load_strategy(args.strategy)
    if not strategy.trains:
        return [*["never"] * (groups - 1), "solved"]
    if not strategy.gradual:
        return ["from step 1"] * groups
    steps = 1000  # of the run or of an epoch; only shares of them are shown
    schedule = UnfreezeStages(args.epochs_per_group).schedule(groups, steps, steps_per_epoch=steps)
    unit = "after {:.0f} % of the run" if args.epochs_per_group is None else "after {:.3g} epochs"
    scale = steps / 100 if args.epochs_per_group is None else steps
    return [unit.format(start / scale) if start else "from step 1" for start in schedule.starts]


def _rates(model: Any, args: FineTuningArguments) -> list[float]:
    """Return the peak learning rate of each layer group; where multipliers split one, its highest."""
    stack = LayerStack.from_model(model, args.layer_patterns)
    groups = layerwise_param_groups(model, **group_arguments(args))
    found = {name: group["lr"] for group in groups for name in group["param_names"]}
    # of groups in which nothing trains that which they would have
    plain = layer_learning_rates(len(stack), args.learning_rate, args.layer_decay, args.head_learning_rate)
    return [
        max((found[name] for name in group.parameter_names if name in found), default=rate)
        for group, rate in zip(stack, plain, strict=True)
    ]


def _starts_of_adapters(wrapped: Any, args: FineTuningArguments) -> list[str]:
    """Return what of each layer group trains beside frozen weights, for people."""
    trained = {name: parameter.numel() for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    *below, _ = LayerStack.from_model(wrapped, args.layer_patterns)
    counts = [sum(trained.get(name, 0) for name in group.parameter_names) for group in below]
    return [*(f"adapters of {count:,} from step 1" if count else "never" for count in counts), "from step 1"]
