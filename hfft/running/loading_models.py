"""The model of a run as its checkpoint has it, and how its head may read the trunk."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from hfft.arguments import OF_PICTURES, ModelArguments
from hfft.data import LabelledData
from hfft.errors import UserError
from hfft.features.start import AUTO, MODEL
from hfft.findings import NOTE
from hfft.hardware.launching import is_sharded
from hfft.loading import load_config
from hfft.task import Task
from hfft.training_arguments import FineTuningArguments


def load_model(
    task: Task,
    arguments: ModelArguments,
    data: LabelledData,
    console: Console,
    args: FineTuningArguments | None = None,
) -> tuple[Any, Any]:
    """Load model and processor, both ready for training on the data's target, with ``args`` where they are settled."""
    task.require_known(arguments)
    config = load_config(arguments)
    if not task.supports(config):
        raise UserError(
            f"--model: '{arguments.model}' is a {config.model_type} model, which cannot do {task.name}. The data asks "
            "for that task; name another model, or other data."
        )
    quantized = getattr(config, "quantization_config", None)
    if quantized is not None:
        settings = quantized if isinstance(quantized, dict) else quantized.to_dict()
        raise UserError(
            f"--model: the weights of '{arguments.model}' are quantized ({settings.get('quant_method', 'somehow')}): "
            "adapters are merged into weights in full precision. Name the checkpoint that it was made from; "
            "load_in_4bit true quantizes that while adapters train."
        )
    model, processor = task.load(arguments, config, data.target)
    keeps_base = args is not None and args.keep_adapter
    if not keeps_base and task.unfinished(model, data.target.matches(config)) and args is not None and is_sharded(args):
        raise UserError(
            f"--model: the pooling that '{arguments.model}' was trained with is folded into its weights, which has to "
            "be undone for training, and done again in the end: FSDP and ZeRO stage 3 leave no process the whole "
            "model. Name the one that it was trained from, or train without them."
        )
    data.target, told = data.target.start(model, data.labels("train"), config)
    if told is not None:
        data.findings.add(NOTE, "target", told)
        console.print(f"  {told}")
    return model, processor


def keep_needed_architecture(arguments: ModelArguments, args: FineTuningArguments) -> str | None:
    """Let the head read the trunk as it does, where nothing can be folded into the model in the end.

    Returns:
        what to tell of it, of a model that has several poolings to choose from.

    Raises:
        UserError: where another architecture or another size of pictures was asked for.
    """
    asked, told = arguments.pooling, None
    if is_sharded(args):
        told = _keep_architecture(arguments, "which FSDP and ZeRO stage 3 leave in parts")
    if args.keep_adapter:
        told = _keep_architecture(arguments, "and adapters by themselves are for the base model as it is")
        if given := arguments.given(OF_PICTURES):
            raise UserError(
                f"{given[0]} changes what the model reads, and adapters by themselves are for the base model as it is: "
                "leave out keep_adapter."
            )
    return told if asked == AUTO and args.starts_solved else None


def _keep_architecture(arguments: ModelArguments, because: str) -> str:
    if arguments.pooling not in (AUTO, MODEL):
        raise UserError(
            f"pooling {arguments.pooling} is folded into the model in the end, {because}: set pooling to model."
        )
    arguments.pooling = MODEL
    return f"pooling model, which may not be the best: another one is folded into the model in the end, {because}."
