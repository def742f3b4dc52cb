"""check(): what a run would say about data, without a model and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfft.arguments import DataArguments, ModelArguments
from hfft.data.columns import require_named_columns
from hfft.data.hub import is_hub_id
from hfft.data.labelled import LabelledData
from hfft.data.preparing import prepare
from hfft.data.reading import read_for_task
from hfft.data.sources import is_pattern
from hfft.errors import UserError
from hfft.findings import Findings
from hfft.paths import existing_path, require_model
from hfft.registry import load_task
from hfft.terminal import make_console, progress_bar


@dataclass
class CheckResult:
    """What was found.

    Attributes:
        findings: all of it; ``findings.refused`` says whether a run would refuse the data.
        report: the same as JSON knows it.
        sizes: split -> examples that a run would use.
    """

    findings: Findings
    report: dict[str, Any]
    sizes: dict[str, int]


def check(data: Any, *, seed: int = 42, **settings: Any) -> CheckResult:
    """Find everything about data that a run would refuse, leave out or warn of.

    Args:
        data: as for :func:`hfft.finetune`.
        seed: of the splits that are drawn; that of a run by default.
        **settings: fields of :class:`DataArguments`, and ``model``, ``revision``, ``max_length`` and ``image_size``: a
            model with whose limits the inputs are compared.

    Raises:
        UserError: for an argument that cannot be meant; what is wrong with the data is a finding.
    """
    names = ("model", "revision", "max_length", "image_size")
    of_model = {name: settings.pop(name) for name in names if name in settings}
    arguments, model = DataArguments(data=data, **settings), ModelArguments(**of_model)
    _require_arguments(arguments, model)
    findings = Findings(collect=True)
    labelled: LabelledData | None = None
    report: dict[str, Any] = {"data": str(data), "task": arguments.task}
    with findings.catching("unreadable data"):
        task, source = read_for_task(arguments)
        task.require_known(model)
        report["task"] = task.name
        require_named_columns(source, task, arguments.named_columns())
        with progress_bar(make_console()) as bar:
            labelled = prepare(
                source, task, arguments, seed, lambda items, n, what: bar.track(items, n, description=what), findings
            )
        report = labelled.report(task.name)
        if model.model is not None:
            findings.items += task.check_model(model, labelled.splits)
    sizes = {name: len(split) for name, split in labelled.splits.items()} if labelled is not None else {}
    return CheckResult(findings, {**report, **findings.report()}, sizes)


def _require_arguments(arguments: DataArguments, model: ModelArguments) -> None:
    """Raise :class:`UserError` for what is wrong with the arguments themselves."""
    if arguments.task is not None:
        load_task(arguments.task)
    if isinstance(arguments.data, str | Path) and not is_hub_id(str(arguments.data)):
        if not is_pattern(str(arguments.data)):
            existing_path(arguments.data, "--data")
    elif arguments.data is None:
        raise UserError("--data is needed: an image folder, a CSV or Parquet file, or a folder of such files.")
    if model.model is not None:
        require_model(model.model, weights=False)
