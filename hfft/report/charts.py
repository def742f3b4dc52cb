"""Charts as inline SVG: they take the colours of the page, dark or light, and need no script and no file beside it.

Every function returns markup that can stand in a page as it is; all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 460, 250  # such that a phone shows legible words
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 44
_MOST_TICKS = 6


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, and (x, y) points with x rising."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)

    def ticks(self) -> list[float]:
        """Return round values within the scale."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        step = 10 ** math.floor(math.log10(span / _MOST_TICKS))
        step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= _MOST_TICKS)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    marks: Sequence[tuple[float, str]] = (),
    title: str = "",
) -> Markup:
    """Draw lines over a common x axis; each mark is a dashed vertical line with a name that a pointer shows."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points if math.isfinite(y)]
    if not ys:
        return Markup()
    x_at = _Scale(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    slack = (max(ys) - min(ys)) * 0.05 or abs(max(ys)) * 0.05 or 1.0
    y_at = _Scale(min(ys) - slack, max(ys) + slack, HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(x_at, y_at, x_label, y_label)]
    for x, name in marks:
        if x_at.low <= x <= x_at.high:
            at = f"{x_at(x):.1f}"
            parts.append(
                Markup('<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"><title>{}</title></line>').format(
                    at, at, _TOP, HEIGHT - _BOTTOM, name
                )
            )
    for index, line in enumerate(lines):
        points = [(x_at(x), y_at(y)) for x, y in line.points if math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(Markup('<polyline class="line c{}" points="{}"/>').format(index % 4, path))
        for (x, y), (place, value) in zip(points, [p for p in line.points if math.isfinite(p[1])], strict=True):
            told = f"{line.name}: {value:.4g} at {place:.4g}"
            parts.append(
                Markup('<circle class="dot c{}" cx="{}" cy="{}" r="2.5"><title>{}</title></circle>').format(
                    index % 4, f"{x:.1f}", f"{y:.1f}", told
                )
            )
    return _figure(parts, title or y_label, WIDTH, HEIGHT) + _legend([line.name for line in lines])


def reliability_diagram(curve: Sequence[dict[str, float]]) -> Markup:
    """Draw accuracy over confidence: on the diagonal probabilities are right. Dots grow with the examples in them."""
    size = 340
    at = _Scale(0, 1, _LEFT, size - _RIGHT)
    up = _Scale(0, 1, size - _BOTTOM, _TOP)
    parts = [_axes(at, up, "confidence", "accuracy", size, size)]
    parts.append(Markup('<line class="mark" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(at(0), up(0), at(1), up(1)))
    most = max(point["count"] for point in curve)
    path = " ".join(f"{at(point['confidence']):.1f},{up(point['accuracy']):.1f}" for point in curve)
    parts.append(Markup('<polyline class="line c0" points="{}"/>').format(path))
    for point in curve:
        told = f"{point['count']:.0f} with confidence {point['confidence']:.3f}: {point['accuracy']:.3f} are right"
        radius = 3 + 8 * math.sqrt(point["count"] / most)
        parts.append(
            Markup('<circle class="dot c0" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
                f"{at(point['confidence']):.1f}", f"{up(point['accuracy']):.1f}", f"{radius:.1f}", told
            )
        )
    return _figure(parts, "Reliability diagram", size, size)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    told: Callable[[int, int], str],
    title: str,
    shown: bool = False,
    x_label: str = "",
) -> Markup:
    """Draw a table of shades: ``values`` between 0 and 1, ``None`` for nothing.

    Args:
        rows, columns: their names.
        values: a list for each row.
        told: indices of row and column -> what a pointer shows, and a cell where ``shown``.
        title: for those who hear the page.
        shown: write the first word of what is told into the cells.
        x_label: below the columns.
    """
    left = 12 + 6.4 * min(28, max(map(len, rows)))
    cell = min(44.0, max(4.0, (WIDTH - left - _RIGHT) / max(1, len(columns))))
    high = min(24.0, cell) if not shown else cell
    named, longest = shown or cell >= 24, min(20, max(map(len, columns)))
    turned = longest > 4
    below = ((12 + 5.2 * longest if turned else 18) if named else 4) + (18 if x_label else 0)
    width, height = left + cell * len(columns) + _RIGHT, _TOP + high * len(rows) + below
    parts = []
    for row, (name, line) in enumerate(zip(rows, values, strict=True)):
        y = _TOP + high * row
        parts.append(
            Markup('<text class="small end" x="{}" y="{}">{}</text>').format(
                f"{left - 6:.1f}", f"{y + high / 2 + 4:.1f}", _cut(name, 28)
            )
        )
        for column, value in enumerate(line):
            if value is None:
                continue
            words = told(row, column)
            parts.append(
                Markup(
                    '<rect class="cell" x="{}" y="{}" width="{}" height="{}" style="--v:{}"><title>{}</title></rect>'
                ).format(
                    *(f"{left + cell * column:.1f}", f"{y:.1f}", f"{cell - 1:.1f}", f"{high - 1:.1f}"),
                    *(f"{min(1.0, max(0.0, value)):.3f}", words),
                )
            )
            if shown and cell >= 20:
                parts.append(
                    Markup('<text class="small middle{}" x="{}" y="{}">{}</text>').format(
                        " on" if value > 0.55 else "",
                        f"{left + cell * (column + 0.5):.1f}",
                        f"{y + high / 2 + 4:.1f}",
                        words.split()[0],
                    )
                )
    for column, name in enumerate(columns if named else ()):
        right, low = f"{left + cell * (column + 0.5) + (3 if turned else 0):.1f}", f"{_TOP + high * len(rows) + 12:.1f}"
        kind, turn = ("end", f"rotate(-60 {right} {low})") if turned else ("middle", "")
        parts.append(
            Markup('<text class="small {}" x="{}" y="{}" transform="{}">{}</text>').format(
                kind, right, low, turn, _cut(name, 20)
            )
        )
    if x_label:
        parts.append(
            Markup('<text class="small middle" x="{}" y="{}">{}</text>').format(
                f"{left + cell * len(columns) / 2:.1f}", f"{height - 5:.1f}", x_label
            )
        )
    return _figure(parts, title, width, height)


def bar_chart(items: Sequence[tuple[str, float, str]], *, title: str) -> Markup:
    """Draw a horizontal bar for each (name, value, what is written behind it)."""
    high, left = 20, 12 + 6.4 * min(34, max(len(name) for name, _, _ in items))
    most = max((value for _, value, _ in items), default=0.0) or 1.0
    room = WIDTH - left - 90
    parts = []
    for index, (name, value, words) in enumerate(items):
        y = _TOP + high * index
        length = max(1.0, room * value / most)
        parts.append(
            Markup(
                '<text class="small end" x="{}" y="{}">{}</text>'
                '<rect class="bar" x="{}" y="{}" width="{}" height="{}"/><text class="small" x="{}" y="{}">{}</text>'
            ).format(
                *(f"{left - 6:.1f}", f"{y + 14:.1f}", _cut(name, 34)),
                *(f"{left:.1f}", f"{y + 3:.1f}", f"{length:.1f}", high - 6),
                *(f"{left + length + 6:.1f}", f"{y + 14:.1f}", words),
            )
        )
    return _figure(parts, title, WIDTH, _TOP + high * len(items) + 6)


def _axes(
    x_at: _Scale, y_at: _Scale, x_label: str, y_label: str, width: float = WIDTH, height: float = HEIGHT
) -> Markup:
    parts = []
    for value in y_at.ticks():
        y = f"{y_at(value):.1f}"
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/><text class="small end" x="{}" y="{}">{}</text>'
            ).format(_LEFT, width - _RIGHT, y, y, _LEFT - 6, f"{y_at(value) + 4:.1f}", f"{value:.4g}")
        )
    for value in x_at.ticks():
        parts.append(
            Markup('<text class="small middle" x="{}" y="{}">{}</text>').format(
                f"{x_at(value):.1f}", f"{height - _BOTTOM + 18:.1f}", f"{value:.4g}"
            )
        )
    parts.append(
        Markup('<text class="small middle" x="{}" y="{}">{}</text>').format(
            f"{(_LEFT + width - _RIGHT) / 2:.1f}", f"{height - 6:.1f}", x_label
        )
    )
    middle = f"{(_TOP + height - _BOTTOM) / 2:.1f}"
    parts.append(
        Markup('<text class="small middle" x="12" y="{}" transform="rotate(-90 12 {})">{}</text>').format(
            middle, middle, y_label
        )
    )
    return Markup("").join(parts)


def _figure(parts: Sequence[Markup], title: str, width: float, height: float) -> Markup:
    return Markup('<svg style="max-width:{}px" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        *(f"{1.15 * width:.0f}", f"{width:.0f}", f"{height:.0f}"), title, Markup("").join(parts)
    )


def _legend(names: Sequence[str]) -> Markup:
    if len(names) < 2:
        return Markup()
    keys = [Markup('<span class="key c{}">{}</span>').format(index % 4, name) for index, name in enumerate(names)]
    return Markup('<p class="legend">{}</p>').format(Markup(" ").join(keys))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
