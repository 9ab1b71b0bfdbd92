"""The picture of the dashboard: Grafana's variables, the series of Prometheus, the axes, the grid and the legends."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tools.dashboard.__main__ import main
from tools.dashboard.panels import Panel, Series, Target, Window, fill_variables, read_panels, read_series
from tools.dashboard.picture import draw_dashboard, fit_legend, line_path, place, shorten
from tools.dashboard.scale import format_value, make_axis

DASHBOARD = Path(__file__).parents[2] / "ops/grafana/dashboard.json"
PANELS = read_panels(json.loads(DASHBOARD.read_text()))
WINDOW = Window(start_s=1000.0, end_s=1090.0, step_s=2, scrape_s=2)
SVG = "{http://www.w3.org/2000/svg}"


def panel(kind: str = "timeseries", unit: str = "s", title: str = "Lag") -> Panel:
    return Panel(title, kind, unit, 0, 0, 8, 7, (Target("up", "{{service}}"),))


def texts(svg: str) -> list[str]:
    return [str(each.text) for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 (own output)


def test_the_variables_of_grafana_are_replaced_by_durations() -> None:
    expression = "rate(a[$__rate_interval]) + increase(b[${__range}:$__interval])"
    assert fill_variables(expression, WINDOW) == "rate(a[8s]) + increase(b[90s:2s])"
    coarse = Window(0, 3600, step_s=15, scrape_s=2)
    assert fill_variables("rate(a[$__rate_interval])", coarse) == "rate(a[17s])"


def test_no_expression_of_the_dashboard_has_another_variable() -> None:
    filled = [fill_variables(target.expression, WINDOW) for panel in PANELS for target in panel.targets]
    assert filled
    assert [expression for expression in filled if "$" in expression] == []


def test_series_are_named_by_their_labels_and_have_finite_values_only() -> None:
    matrix = [
        {"metric": {"tenant": "research", "kind": "input"}, "values": [[1002, "3"], [1004, "NaN"], [1006, "+Inf"]]},
        {"metric": {"tenant": "acme"}, "values": [[1000.5, "1e-3"]]},
        {"metric": {"tenant": "other"}, "values": [[1000, "NaN"]]},
    ]
    assert read_series(matrix, "{{tenant}}/{{ kind }}", 1000) == [
        Series("acme/", ((0.5, 0.001),)),
        Series("research/input", ((2.0, 3.0),)),
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"),
        (0.00025, "s", "250 µs"),
        (0.0421, "s", "42.1 ms"),
        (90, "s", "1.5 min"),
        (1234, "short", "1.23 k"),
        (100, "short", "100"),
        (0.5, "reqps", "0.5 req/s"),
        (3 * 2**20, "bytes", "3 MiB"),
    ],
)
def test_a_value_has_the_unit_of_its_size(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


@pytest.mark.parametrize(
    ("maximum", "unit", "labels"),
    [
        (0.35, "s", ["0", "200 ms", "400 ms"]),
        (1, "short", ["0", "0.5", "1"]),
        (0, "short", ["0", "0.5", "1"]),
        (9, "reqps", ["0", "5 req/s", "10 req/s"]),
        (300 * 2**20, "bytes", ["0", "100 MiB", "200 MiB", "300 MiB"]),
    ],
)
def test_an_axis_has_round_ticks_and_reaches_its_maximum(maximum: float, unit: str, labels: list[str]) -> None:
    axis = make_axis(maximum, unit)
    assert [label for _, label in axis.ticks] == labels
    assert axis.top >= maximum
    assert axis.ticks[-1][0] == pytest.approx(axis.top)


def test_every_unit_of_the_dashboard_is_known() -> None:
    for each in PANELS:
        assert format_value(1, each.unit)


def test_a_line_breaks_at_a_gap_and_a_lone_point_is_a_dot() -> None:
    points = [(0.0, 5.0), (2.0, 6.0), (8.0, 7.0), (14.0, 8.0), (16.0, 9.0)]
    assert line_path(points, 2) == "M0 5.0L2 6.0M8 7.0h0M14 8.0L16 9.0"
    assert line_path([], 2) == ""


def test_a_legend_has_two_lines_at_most_and_counts_the_names_left_out() -> None:
    assert fit_legend(["p50", "p99"], 300) == ([["p50", "p99"]], 0)
    names = [f"script-{number}" for number in range(20)]
    lines, left_out = fit_legend(names, 300)
    assert len(lines) == 2
    assert left_out > 0
    assert [name for line in lines for name in line] == names[: 20 - left_out]


def test_a_text_is_cut_to_its_width() -> None:
    assert shorten("short", 100) == "short"
    assert shorten("a rather long name", 60, character=6) == "a rather…"


def test_panels_do_not_overlap_in_the_picture() -> None:
    boxes = [place(each) for each in PANELS]
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart_x = one.x + one.width <= other.x or other.x + other.width <= one.x
            apart_y = one.y + one.height <= other.y or other.y + other.height <= one.y
            assert apart_x or apart_y


def test_every_panel_is_drawn_with_its_title_and_an_empty_one_is_marked() -> None:
    drawn = texts(draw_dashboard("Dashboard", PANELS, {}, WINDOW))
    assert drawn.count("No data") == sum(each.kind != "row" for each in PANELS)
    words = " ".join(drawn)
    assert [each.title for each in PANELS if each.title not in words] == []


def test_lines_stay_inside_their_panel() -> None:
    lag = panel()
    values = Series("a<b", tuple((float(second), 2 * math.sin(second) ** 2) for second in range(0, 91, 2)))
    svg = draw_dashboard("Dashboard", [lag], {lag: [values]}, WINDOW)
    assert {"Lag", "a<b", "0 s", "90 s", "2 s"} <= set(texts(svg))
    box = place(lag)
    path = next(each.get("d", "") for each in ElementTree.fromstring(svg).iter(f"{SVG}path") if each.get("stroke"))  # noqa: S314
    points = [tuple(map(float, point.split())) for point in path[1:].split("L")]
    assert len(points) == 46
    assert all(box.x < x < box.x + box.width and box.y < y < box.y + box.height for x, y in points)


def test_a_stat_shows_the_last_value_and_a_bar_gauge_each_of_them() -> None:
    rows = [Series("acme input", ((0, 10), (90, 2000))), Series("research input", ((90, 500),))]
    stat, gauge = panel("stat", "short"), panel("bargauge", "short")
    assert texts(draw_dashboard("Dashboard", [stat], {stat: rows[:1]}, WINDOW)) == ["Lag", "2 k"]
    assert texts(draw_dashboard("Dashboard", [gauge], {gauge: rows}, WINDOW)) == [
        "Lag",
        "acme input",
        "2 k",
        "research input",
        "500",
    ]


@pytest.mark.parametrize("variable", ["", "missing/prometheus"])
def test_a_missing_prometheus_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS", variable)
    assert main([str(tmp_path / "dashboard.svg")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Prometheus was not found:")
    assert list(tmp_path.iterdir()) == []
