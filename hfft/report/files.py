"""report.html and README.md (the model card), rendered from templates; everything from users is escaped."""

from __future__ import annotations

import html
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from hfft.data.hub import hub_parts
from hfft.paths import last_part
from hfft.record import RunRecord
from hfft.report.view import view_of
from hfft.run_folder import CARD_FILE, PLACEHOLDER, REPORT_FILE
from hfft.terminal import SOLVED_HEAD, figure

_NO_RECIPE = ("model", "data", "output_dir", "cache_dir", "task", "logging_dir", "run_name", "project")


def write_report(record: RunRecord, folder: Path) -> Path:
    """Write ``report.html``, one file that loads nothing from anywhere."""
    path = folder / REPORT_FILE
    path.write_text(_render("report.html.jinja", record, autoescape=True), "utf-8")
    return path


def write_card(record: RunRecord, folder: Path) -> Path:
    """Write ``README.md`` with the metadata that the Hub reads."""
    path = folder / CARD_FILE
    metadata = yaml.safe_dump(card_metadata(record), sort_keys=False, allow_unicode=True)
    path.write_text(f"---\n{metadata}---\n\n{_render('card.md.jinja', record, autoescape=False)}", "utf-8")
    return path


def card_metadata(record: RunRecord) -> dict[str, Any]:
    """Return the card's metadata: licence, task, base model, data and metrics as a model index."""
    from huggingface_hub import EvalResult, ModelCardData

    base, model, data = record.base, str(record.settings.get("model")), record.settings.get("data")
    hub_data = hub_parts(data) if isinstance(data, str) else None
    data_name = hub_data["repo"] if hub_data else _data_name(record)
    rows = [row for row in record.rows() if math.isfinite(row["value"])]  # JSON has no other numbers
    results = [
        EvalResult(
            task_type=record.task,
            dataset_type=data_name,
            dataset_name=data_name,
            dataset_config=hub_data["config"] if hub_data else None,
            dataset_revision=hub_data["revision"] if hub_data else None,
            dataset_split=record.evidence.split,
            metric_type=row["name"],
            metric_name=_with_interval(row, record.evidence.measured),
            metric_value=float(row["value"]),
        )
        for row in rows
    ]
    return ModelCardData(
        license=base.license,
        license_name=base.license_name,
        license_link=base.license_link,
        language=list(base.languages) or None,
        library_name="transformers",
        pipeline_tag=record.task,
        base_model=base.hub_id or (None if Path(model).exists() else model),
        datasets=[data_name] if hub_data else None,
        tags=["hfft", "generated_from_trainer"],
        metrics=[row["name"] for row in rows],
        model_name=_title(record),
        eval_results=results,
    ).to_dict()


def _with_interval(row: dict[str, Any], measured: str) -> str:
    """Name a metric as the Hub shows it; its metadata have no field for an interval."""
    name = row["name"].replace("_", " ") + measured
    if row["low"] is None or not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return name
    return f"{name} (95 % interval {figure(row['low'], 4)} to {figure(row['high'], 4)})"


@cache
def _templates(autoescape: bool) -> Environment:
    """Return the templates, each of which is compiled once: the report of a run in progress is written often."""
    jinja = Environment(
        loader=PackageLoader("hfft.report", "."),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    words = {"words": lambda name: name.replace("_", " ")}
    jinja.filters |= {"cell": _markdown_cell, "figure": figure, "amount": _amount, **words}
    return jinja


def _render(template: str, record: RunRecord, *, autoescape: bool) -> str:
    made = _templates(autoescape).get_template(template)
    return made.render(
        record=record,
        view=view_of(record),
        rows=record.rows(),
        solved_head=SOLVED_HEAD if any(row["probe"] is not None for row in record.rows()) else None,
        title=_title(record),
        target=record.target,
        counted=list(next(iter(record.counts.values()))),
        model_name=last_part(record.settings.get("model")),
        data_name=_data_name(record),
        findings=record.data_report.get("findings"),
        notes=_notes(record),
        recipe=_recipe(record.settings),
        placeholder=PLACEHOLDER,
        epochs=_epochs(record.history),
        run_yaml=yaml.safe_dump(record.settings, sort_keys=False, allow_unicode=True),
        evidence=record.evidence,
    )


def _epochs(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Join the Trainer's separate log entries of training loss and evaluation by step."""
    by_step: dict[float, dict[str, float]] = {}
    for entry in history:
        if "loss" in entry or "eval_loss" in entry:
            by_step.setdefault(entry["step"], {}).update(entry)
    return list(by_step.values())


def _title(record: RunRecord) -> str:
    """Name the model by its folder, without the path to it."""
    return Path(str(record.settings["output_dir"])).resolve().name


def _data_name(record: RunRecord) -> str:
    data = record.settings.get("data")
    return last_part(data) if isinstance(data, str) else "data in memory"


def _notes(record: RunRecord) -> list[str]:
    """Return what was decided on the way; what was found in the data names its files, and stays out of a card."""
    found = {finding["message"] for finding in record.data_report.get("findings", ())}
    return [note for note in record.notes if note not in found]


def _recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that say how the model was trained, without the paths of this machine."""
    shown = {name: value for name, value in settings.items() if name not in _NO_RECIPE}
    return {name: _without_paths(value) for name, value in shown.items()}


def _without_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _amount(value: float) -> str:
    """Write a count as it is, and a number of the data with six digits."""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _markdown_cell(value: Any) -> str:
    """Escape what would break out of a Markdown table or start HTML."""
    return re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))
