"""Charts of bars and of lines, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from tools.dashboard.scale import make_axis

Rows = Sequence[tuple[str, Mapping[str, float]]]
"""The label of each bar, and its segments by name."""

_WIDTH, _LABEL, _VALUE = 760, 190, 70
_BAR, _GAP, _TOP = 20, 8, 36
_COLOURS = {
    "envoy": "#ac6199",
    "authz": "#2f6fb0",
    "meter": "#3a9d8f",
    "control": "#8a8f98",
    "redis": "#c8553d",
    "postgres": "#e0a030",
    "fastapi": "#5a7d2a",
    "litellm": "#6b4fa0",
    "alice": "#2f6fb0",
    "bob": "#c8553d",
}
_OTHER = "#4a5568"
_GRID = "#d8dde3"
_PLOT_LEFT, _PLOT_HEIGHT, _AXIS = 70, 220, 20


def bars(title: str, rows: Rows) -> str:
    """A chart with one horizontal bar for each row, its segments side by side, and a legend of their names."""
    totals = [sum(segments.values()) for _, segments in rows]
    scale = (_WIDTH - _LABEL - _VALUE) / max([*totals, 1e-9])
    names = list(dict.fromkeys(name for _, segments in rows for name in segments))
    bottom = _TOP + len(rows) * (_BAR + _GAP)
    height = bottom + (26 if len(names) > 1 else 8)
    lines = [*_head(title, height)]
    for number, (label, segments) in enumerate(rows):
        lines += _bar(_TOP + number * (_BAR + _GAP), label, segments, scale)
    if len(names) > 1:
        lines += _legend(names, bottom + 14)
    return "\n".join([*lines, "</svg>"]) + "\n"


def curves(title: str, xs: Sequence[float], series: Mapping[str, Sequence[float]]) -> str:
    """A chart with one line for each series over `xs`, which are seconds from 0 on, and its name at the line's end."""
    bottom = _TOP + _PLOT_HEIGHT
    axis = make_axis(max(max(values) for values in series.values()), "short")
    across, up = (_WIDTH - _PLOT_LEFT - _VALUE) / xs[-1], _PLOT_HEIGHT / axis.top
    lines = [*_head(title, bottom + _AXIS + 8)]
    for value, label in axis.ticks:
        y = bottom - value * up
        lines.append(f'<path d="M{_PLOT_LEFT} {y:.1f}H{_WIDTH - _VALUE}" stroke="{_GRID}"/>')
        lines.append(f'<text x="{_PLOT_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    for second, label in make_axis(xs[-1], "s").ticks:
        x = _PLOT_LEFT + second * across
        if second <= xs[-1]:
            lines.append(f'<text x="{x:.1f}" y="{bottom + _AXIS}" text-anchor="middle">{escape(label)}</text>')
    for name, values in series.items():
        points = [(_PLOT_LEFT + x * across, bottom - value * up) for x, value in zip(xs, values, strict=True)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        lines.append(f'<path d="M{path}" fill="none" stroke="{_colour(name)}" stroke-width="2"/>')
        x, y = points[-1]
        lines.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" fill="{_colour(name)}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _head(title: str, height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="13">'
    )
    yield f"<title>{escape(title)}</title>"
    yield f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    yield f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>'


def _bar(top: int, label: str, segments: Mapping[str, float], scale: float) -> Iterator[str]:
    x: float = _LABEL
    yield f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(label)}</text>'
    for name, value in segments.items():
        width = value * scale
        yield f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{_colour(name)}"/>'
        x += width
    yield f'<text x="{x + 6:.1f}" y="{top + 15}">{sum(segments.values()):.3g}</text>'


def _legend(names: Sequence[str], y: int) -> Iterator[str]:
    x = _LABEL
    for name in names:
        yield f'<rect x="{x}" y="{y - 10}" width="11" height="11" fill="{_colour(name)}"/>'
        yield f'<text x="{x + 16}" y="{y}">{escape(name)}</text>'
        x += 32 + 8 * len(name)


def _colour(name: str) -> str:
    return _COLOURS.get(name, _OTHER)
