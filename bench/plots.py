"""Bar charts as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

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
}
_OTHER = "#4a5568"


def bars(title: str, rows: Rows) -> str:
    """A chart with one horizontal bar for each row, its segments side by side, and a legend of their names."""
    totals = [sum(segments.values()) for _, segments in rows]
    scale = (_WIDTH - _LABEL - _VALUE) / max([*totals, 1e-9])
    names = list(dict.fromkeys(name for _, segments in rows for name in segments))
    bottom = _TOP + len(rows) * (_BAR + _GAP)
    height = bottom + (26 if len(names) > 1 else 8)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (label, segments) in enumerate(rows):
        lines += _bar(_TOP + number * (_BAR + _GAP), label, segments, scale)
    if len(names) > 1:
        lines += _legend(names, bottom + 14)
    return "\n".join([*lines, "</svg>"]) + "\n"


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
