"""Pictures, drawn with matplotlib and without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_ROW = 0.24  # inches
_BLUE, _GREY = "#2f6db5", "#9aa4b1"


def draw_layers(title: str, layers: Sequence[tuple[str, int, float, str]], path: Path) -> None:
    """Draw the layer groups, input at the bottom: parameters of each, and peak learning rate on a log scale.

    Args:
        title: of the picture.
        layers: name, parameters, peak learning rate and a remark on it of each group, input first.
        path: of the picture. Raises ValueError for a suffix that matplotlib does not write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    names, parameters, peaks, remarks = zip(*layers, strict=True)
    places = range(len(names))
    figure = Figure(figsize=(10, 1.6 + _ROW * len(names)), layout="constrained")
    sizes, rates = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title, fontsize=11)
    sizes.barh(places, parameters, color=_GREY)
    sizes.set_xlabel("parameters")
    sizes.set_xscale("log")
    sizes.set_yticks(places, names, fontsize=8, family="monospace")
    rates.plot(peaks, places, "o", color=_BLUE, markersize=5)
    rates.hlines(places, 0, peaks, color=_BLUE, linewidth=1, alpha=0.4)
    if any(peaks):
        rates.set_xscale("log")
        rates.xaxis.set_major_locator(LogLocator(subs=(1,) if max(peaks) > 30 * min(peaks) else (1, 2, 5)))
    rates.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
    rates.xaxis.set_minor_formatter(NullFormatter())
    rates.set_xlabel("peak learning rate")
    for axes in (sizes, rates):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(-0.7, len(names) - 0.3)
    for place, peak, remark in zip(places, peaks, remarks, strict=True):
        rates.annotate(
            remark,
            (peak, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    figure.savefig(path, dpi=120)


def draw_range_test(
    rates: list[float], losses: list[float], smoothed: list[float], suggestion: float | None, path: Path
) -> None:
    """Draw the training loss against the head's learning rate, and the suggestion.

    Args:
        rates: of the head, a step each.
        losses: of the training batch of each step.
        smoothed: the same without most of the noise.
        suggestion: a rate, if there is one.
        path: of the picture. Raises ValueError for a suffix that matplotlib does not write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=_GREY, linewidth=1, alpha=0.6, label="each batch")
    axes.plot(rates, smoothed, color=_BLUE, label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color="black", linestyle=":", label=f"suggestion {suggestion:g}")
    if smoothed:  # what has diverged would press the rest flat
        axes.set_ylim(top=max(smoothed[0], min(smoothed)) * 1.5 + 1e-9)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate of the head")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend()
    figure.savefig(path, dpi=120)
