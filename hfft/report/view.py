"""What report.html shows of a RunRecord, beside the figures themselves: charts, and what is worth a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from hfft.record import RunRecord
from hfft.report.charts import Line, bar_chart, heat_map, line_chart, reliability_diagram
from hfft.terminal import figure

_MOST_CLASSES = 40  # of which a table of all pairs can be read
_NAMED_PAIRS = 8
_MOST_COLUMNS, _MOST_POINTS = 60, 400


@dataclass
class ReportView:
    """Parts of the page; empty where the run has none.

    Attributes:
        running: whether the run goes on.
        progress: how far it is.
        headline: name of the metric that stands for all.
        sections: headings of the page, in their order.
        curves: charts over the epochs.
        rates: chart of the learning rate of each layer group over the epochs.
        distances: chart of how far the groups have moved.
        per_class, confusion, confusions, reliability, coverage: what stands behind the test metrics.
        search_history, search_importances: the values of the trials that settings were found by, and what mattered.
        solved_head: a sentence on the head that training started from.
        has_validation: whether there are validation metrics.
    """

    running: bool
    progress: str
    headline: str
    sections: list[str] = field(default_factory=list)
    curves: list[Markup] = field(default_factory=list)
    rates: Markup = field(default_factory=Markup)
    distances: Markup = field(default_factory=Markup)
    per_class: list[dict[str, Any]] = field(default_factory=list)
    confusion: Markup = field(default_factory=Markup)
    confusions: list[dict[str, Any]] = field(default_factory=list)
    reliability: Markup = field(default_factory=Markup)
    coverage: Markup = field(default_factory=Markup)
    search_history: Markup = field(default_factory=Markup)
    search_importances: Markup = field(default_factory=Markup)
    solved_head: str = ""
    has_validation: bool = False


def view_of(record: RunRecord) -> ReportView:
    """Return what the page of a run shows."""
    view = ReportView(record.progress is not None, record.progress or "", record.target.metrics.headline)
    _training(view, record)
    details = record.details
    view.per_class = details.get("per_class", [])
    if "confusion_matrix" in details:
        _confusions(view, record.class_names, details["confusion_matrix"])
    if details.get("reliability_curve"):
        view.reliability = reliability_diagram(details["reliability_curve"])
    if details.get("accuracy_at_coverage"):
        points = [(point["coverage"], point["accuracy"]) for point in details["accuracy_at_coverage"]]
        view.coverage = line_chart([Line("accuracy", points)], x_label="share that is answered", y_label="accuracy")
    if record.search:
        _search(view, record.search)
    view.has_validation = any(f"validation_{name}" in record.metrics for name in record.metric_names)
    told = {
        "Metrics": not view.running,
        "Training": bool(view.curves or view.rates or record.layers),
        "Search": bool(record.search),
        "Classes": bool(view.per_class),
        "Confidence": bool(view.reliability or view.coverage),
        "Mistakes": bool(record.mistakes),
        "Labels": bool(record.suspects),
        "Data": True,
        "Again": True,
    }
    view.sections = [name for name, there in told.items() if there]
    return view


def _training(view: ReportView, record: RunRecord) -> None:
    history = record.history
    marks = [(epoch, f"{layer} thaws") for layer, epoch in record.thaws.items() if epoch > 0]
    lines = [
        Line(name, points)
        for name, key in (("training loss", "loss"), ("validation loss", "eval_loss"))
        if len(points := _points(history, key)) > 1
    ]
    if lines:
        view.curves.append(line_chart(lines, x_label="epoch", y_label="loss", marks=marks))
    measured = _points(history, f"eval_{view.headline}")
    if len(measured) > 1:
        name = f"validation {_words(view.headline)}"
        view.curves.append(line_chart([Line(name, measured)], x_label="epoch", y_label=name, marks=marks))
    start = next((entry for entry in history if entry.get("step") == 0 and f"eval_{view.headline}" in entry), None)
    shipped = record.metrics.get(f"validation_{view.headline}")
    if start is not None and shipped is not None and record.metrics.get("shipped_epoch", 0) > 0:
        view.solved_head = (
            f"On the validation split the solved head alone, before anything was trained, reaches "
            f"{figure(start[f'eval_{view.headline}'])}, and the model that ships {figure(shipped)}."
        )
    view.rates = _rates(history)
    if record.distances:
        items = [(each["name"], each["distance"], f"{each['distance']:.3g}") for each in reversed(record.distances)]
        view.distances = bar_chart(items, title="Relative distance from the pretrained weights")


def _search(view: ReportView, search: dict[str, Any]) -> None:
    trials = _thinned(search["history"], _MOST_POINTS)
    if len(trials) > 1:
        lines = [
            Line("trial", [(number, value) for number, value, _ in trials]),
            Line("best so far", [(number, best) for number, _, best in trials]),
        ]
        view.search_history = line_chart(lines, x_label="trial", y_label=_words(search["metric"]))
    if search["importances"]:
        items = [(_words(name), share, f"{share:.0%}") for name, share in search["importances"].items()]
        view.search_importances = bar_chart(items, title="Share in how the values of the trials differ")


def _rates(history: list[dict[str, float]]) -> Markup:
    entries = _thinned([entry for entry in history if any(name.startswith("lr/") for name in entry)], _MOST_COLUMNS)
    layers = list(dict.fromkeys(name.removeprefix("lr/") for e in entries for name in e if name.startswith("lr/")))
    positive = [rate for entry in entries for name, rate in entry.items() if name.startswith("lr/") and rate > 0]
    if len(entries) < 2 or not positive:
        return Markup()
    low, high = math.log(min(positive)), math.log(max(positive))

    def shade(rate: float) -> float | None:
        return 0.15 + 0.85 * ((math.log(rate) - low) / (high - low) if high > low else 1.0) if rate > 0 else None

    values = [[shade(entry.get(f"lr/{layer}", 0.0)) for entry in entries] for layer in reversed(layers)]
    epochs, downwards = [f"{entry['epoch']:.4g}" for entry in entries], layers[::-1]

    def told(row: int, column: int) -> str:
        rate = entries[column].get(f"lr/{downwards[row]}", 0.0)
        return f"{downwards[row]}, epoch {epochs[column]}: rate {rate:.3g}"

    title = "Learning rate of each layer group"
    return heat_map(downwards, epochs, values, told=told, title=title, x_label="epoch")


def _confusions(view: ReportView, names: list[str], matrix: list[list[int]]) -> None:
    pairs: list[dict[str, Any]] = [
        {"count": count, "label": names[row], "answer": names[column]}
        for row, counts in enumerate(matrix)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    view.confusions = sorted(pairs, key=lambda pair: int(pair["count"]), reverse=True)[:_NAMED_PAIRS]
    if len(names) > _MOST_CLASSES:
        return
    shares = [[count / max(1, sum(counts)) if count else None for count in counts] for counts in matrix]

    def told(row: int, column: int) -> str:
        share = shares[row][column] or 0.0
        return f"{matrix[row][column]} of {names[row]} answered as {names[column]} ({share:.1%})"

    view.confusion = heat_map(names, names, shares, told=told, title="Confusion matrix", shown=True)


def _points(history: list[dict[str, float]], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value), the last one where an epoch has several; of very many some."""
    points = {entry["epoch"]: entry[key] for entry in history if key in entry and "epoch" in entry}
    return _thinned(list(points.items()), _MOST_POINTS)


def _thinned(items: list[Any], most: int) -> list[Any]:
    """Return at most so many of the items, evenly, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def _words(name: str) -> str:
    return name.replace("_", " ")
