"""report.html and README.md (the model card), rendered from templates; everything from users is escaped."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from hfft.record import CARD_FILE, REPORT_FILE, RUN_FILE, RunRecord
from hfft.report.view import view_of
from hfft.terminal import figure


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
    """Return the card's metadata: library, task, base model and test metrics as a model index."""
    from huggingface_hub import EvalResult, ModelCardData

    model = str(record.settings.get("model"))
    is_local = Path(model).exists()
    data = record.settings.get("data")
    data_name = Path(data).name if isinstance(data, str) else "custom"
    results = [
        EvalResult(
            task_type=record.task,
            dataset_type=data_name,
            dataset_name=data_name,
            dataset_split="test",
            metric_type=row["name"],
            metric_value=row["value"],
        )
        for row in record.rows()
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=record.task,
        base_model=None if is_local else model,
        tags=["hfft", "generated_from_trainer"],
        metrics=[row["name"] for row in record.rows()],
        model_name=_title(record),
        eval_results=results,
    ).to_dict()


def _render(template: str, record: RunRecord, *, autoescape: bool) -> str:
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
    return jinja.get_template(template).render(
        record=record,
        view=view_of(record),
        rows=record.rows(),
        title=_title(record),
        target=record.target,
        counted=list(next(iter(record.counts.values()))),
        model_name=_last_part(record.settings.get("model")),
        data_name=_last_part(record.settings.get("data")),
        epochs=_epochs(record.history),
        run_yaml=yaml.safe_dump(record.settings, sort_keys=False, allow_unicode=True),
        command=f"hfft train --config {shlex.quote(RUN_FILE)} --output_dir ANOTHER_FOLDER",
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


def _last_part(value: Any) -> str:
    """Keep a Hub id whole, and of a local path only the name: a card is made to be shared."""
    text = str(value)
    return Path(text).resolve().name if Path(text).exists() else text


def _amount(value: float) -> str:
    """Write a count as it is, and a number of the data with six digits."""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _markdown_cell(value: Any) -> str:
    """Escape what would break out of a Markdown table or start HTML."""
    return re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))
