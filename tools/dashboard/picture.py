"""The panels of a dashboard in its grid, as one SVG in the colours of the documentation's pictures. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from tools.dashboard.panels import Panel, Series, Window
from tools.dashboard.scale import format_value, make_axis

_COLUMNS, _COLUMN, _ROW = 24, 42, 25
_MARGIN, _GAP, _PAD = 12, 8, 9
_FONT = "system-ui, 'Segoe UI', 'Noto Sans', sans-serif"
_TEXT, _QUIET, _CARD, _EDGE, _PAGE = "#e6eaef", "#9aa6b2", "#1b222b", "#2c3540", "#12161c"
_COLOURS = (
    "#5ce0c0", "#6fa8dc", "#f0c674", "#c692dc", "#f07178", "#9bd66f", "#f2a65a", "#6ec8d2", "#d6deeb", "#b58b6b",
)  # fmt: skip
# The mean width of a character of the small and of the title's text, in pixels.
_SMALL, _LARGE = 7.0, 8.2
_LEGEND_LINES_MAX, _LEGEND_LINE, _SWATCH = 2, 15, 15
_AXIS_LEFT, _AXIS_BOTTOM, _HEAD = 70, 16, 26
_TIME_TICK_S = 30
_BAR_ROW, _BAR_LABEL, _BAR_VALUE = 26, 126, 56


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


def draw_dashboard(
    title: str, panels: Sequence[Panel], series: Mapping[Panel, Sequence[Series]], window: Window
) -> str:
    """The SVG of all panels. `series` has those of each panel; a panel without one is drawn with "No data"."""
    width = 2 * _MARGIN + _COLUMNS * _COLUMN - _GAP
    height = 2 * _MARGIN + max(panel.y + panel.height for panel in panels) * _ROW - _GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="{_FONT}" font-size="12" fill="{_QUIET}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="14" fill="{_PAGE}"/>',
    ]
    for panel in panels:
        lines += _draw_panel(panel, series.get(panel, ()), window)
    return "\n".join([*lines, "</svg>"]) + "\n"


def place(panel: Panel) -> Box:
    """The pixels of a panel, without the gap to its neighbours."""
    return Box(
        _MARGIN + panel.x * _COLUMN,
        _MARGIN + panel.y * _ROW,
        panel.width * _COLUMN - _GAP,
        panel.height * _ROW - _GAP,
    )


def line_path(points: Sequence[tuple[float, float]], step_s: float) -> str:
    """The path through points in pixels and seconds: `(x, y)` of one line, whose gaps are points left out.

    `step_s` is the horizontal distance of two points without a gap. A point between two gaps is a dot.
    """
    breaks = [True, *(after[0] - before[0] > 1.5 * step_s for before, after in pairwise(points)), True]
    parts = []
    for (x, y), begins, ends in zip(points, breaks, breaks[1:], strict=False):
        parts.append(f"{'M' if begins else 'L'}{x:.0f} {y:.1f}{'h0' if begins and ends else ''}")
    return "".join(parts)


def fit_legend(names: Sequence[str], width: float) -> tuple[list[list[str]], int]:
    """The names that fit into two lines of `width` pixels, and the number of those left out."""
    lines: list[list[str]] = [[]]
    used = 0.0
    for number, name in enumerate(names):
        last_line, last_name = len(lines) == _LEGEND_LINES_MAX, number + 1 == len(names)
        # The number of the names left out must fit after this name.
        reserved = _legend_width(_left_out(99)) if last_line and not last_name else 0
        if lines[-1] and used + _legend_width(name) + reserved > width:
            if last_line:
                return lines, len(names) - number
            lines.append([])
            used = 0.0
        lines[-1].append(name)
        used += _legend_width(name)
    return lines, 0


def shorten(text: str, width: float, character: float = _SMALL) -> str:
    """The text, cut to `width` pixels with an ellipsis at its end."""
    count = max(int(width / character), 1)
    return text if len(text) <= count else f"{text[: count - 1].rstrip()}…"


def _draw_panel(panel: Panel, series: Sequence[Series], window: Window) -> Iterator[str]:
    box = place(panel)
    if panel.kind == "row":
        yield _text(box.x + 2, box.y + 14, panel.title, f'font-size="14" font-weight="600" fill="{_TEXT}"')
        return
    yield (
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="6" fill="{_CARD}" '
        f'stroke="{_EDGE}"/>'
    )
    columns = int((box.width - 2 * _PAD) / _LARGE)
    lines = textwrap.wrap(panel.title, columns, max_lines=2 if panel.kind == "stat" else 1, placeholder="…")
    for number, line in enumerate(lines):
        yield _text(box.x + _PAD, box.y + 18 + 15 * number, line, f'font-size="13" font-weight="600" fill="{_TEXT}"')
    if not series:
        middle = box.x + box.width / 2, box.y + box.height / 2 + 12
        yield _text(*middle, "No data", 'text-anchor="middle" font-size="13"')
    elif panel.kind == "stat":
        yield from _draw_stat(box, panel, series[0], window)
    elif panel.kind == "bargauge":
        yield from _draw_bars(box, panel, series)
    else:
        yield from _draw_lines(box, panel, series, window)


def _draw_stat(box: Box, panel: Panel, series: Series, window: Window) -> Iterator[str]:
    """The last value, above a line of all values."""
    plot = Box(box.x + 1, box.y + box.height - 26, box.width - 2, 24)
    path = _path(series, plot, max(value for _, value in series.points) or 1, window)
    yield f'<path d="{path}" fill="none" stroke="{_COLOURS[0]}" stroke-opacity="0.45"/>'
    style = f'text-anchor="middle" font-size="22" font-weight="600" fill="{_COLOURS[0]}"'
    yield _text(box.x + box.width / 2, box.y + box.height - 28, format_value(series.points[-1][1], panel.unit), style)


def _draw_bars(box: Box, panel: Panel, series: Sequence[Series]) -> Iterator[str]:
    """A bar of the last value of each series that fits into the panel."""
    fitting = series[: int((box.height - _HEAD - _PAD) / _BAR_ROW)]
    top = max(each.points[-1][1] for each in fitting) or 1
    left, right = box.x + _PAD + _BAR_LABEL, box.x + box.width - _PAD - _BAR_VALUE
    for number, each in enumerate(fitting):
        y = box.y + _HEAD + 6 + number * _BAR_ROW
        value = each.points[-1][1]
        yield _text(box.x + _PAD, y + 12, shorten(each.name, _BAR_LABEL - 6))
        width = max((right - left) * value / top, 1)
        yield f'<rect x="{left}" y="{y}" width="{width:.0f}" height="16" rx="2" fill="{_colour(number)}"/>'
        yield _text(left + width + 6, y + 12, format_value(value, panel.unit), f'fill="{_TEXT}"')


def _draw_lines(box: Box, panel: Panel, series: Sequence[Series], window: Window) -> Iterator[str]:
    """A line for each series over the time, with both axes and a legend."""
    width = box.width - 2 * _PAD
    legend, left_out = fit_legend([shorten(each.name, width - _SWATCH) for each in series], width)
    below = _AXIS_BOTTOM + len(legend) * _LEGEND_LINE + 5
    plot = Box(box.x + _AXIS_LEFT, box.y + _HEAD + 6, box.width - _AXIS_LEFT - _PAD - 6, box.height - _HEAD - 6 - below)
    axis = make_axis(max(value for each in series for _, value in each.points), panel.unit)
    yield f'<g stroke="{_EDGE}">'
    heights = [plot.y + plot.height * (1 - value / axis.top) for value, _ in axis.ticks]
    yield "".join(f'<path d="M{plot.x:.0f} {y:.1f}h{plot.width:.0f}"/>' for y in heights) + "</g>"
    for y, (_, label) in zip(heights, axis.ticks, strict=True):
        yield _text(plot.x - 5, y + 4, label, 'text-anchor="end"')
    span = window.end_s - window.start_s
    for second in range(0, int(span) + 1, _TIME_TICK_S):
        x = plot.x + plot.width * second / span
        yield _text(x, plot.y + plot.height + 14, f"{second} s", 'text-anchor="middle"')
    yield '<g fill="none" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round">'
    for number, each in enumerate(series):
        yield f'<path stroke="{_colour(number)}" d="{_path(each, plot, axis.top, window)}"/>'
    yield "</g>"
    yield from _draw_legend(legend, left_out, box.x + _PAD, box.y + box.height - len(legend) * _LEGEND_LINE + 6)


def _draw_legend(lines: Sequence[Sequence[str]], left_out: int, left: float, y: float) -> Iterator[str]:
    number, x = 0, left
    for line_number, line in enumerate(lines):
        x = left
        for name in line:
            middle = y + line_number * _LEGEND_LINE
            yield f'<rect x="{x:.0f}" y="{middle - 5:.0f}" width="10" height="3" fill="{_colour(number)}"/>'
            yield _text(x + _SWATCH, middle, name)
            x += _legend_width(name)
            number += 1
    if left_out:
        yield _text(x, y + (len(lines) - 1) * _LEGEND_LINE, _left_out(left_out))


def _path(series: Series, plot: Box, top: float, window: Window) -> str:
    per_second = plot.width / (window.end_s - window.start_s)
    points = [(plot.x + time * per_second, plot.y + plot.height * (1 - value / top)) for time, value in series.points]
    return line_path(points, window.step_s * per_second)


def _left_out(count: int) -> str:
    return f"+{count} more"


def _legend_width(name: str) -> float:
    return _SWATCH + len(name) * _SMALL + 8


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}"{" " if style else ""}{style}>{escape(text)}</text>'
