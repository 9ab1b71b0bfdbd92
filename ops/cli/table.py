"""Tables that fit the terminal: less important columns are left out, and no cell of the others is cut."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import rich_click as click
from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ops.cli.output import console, text

# A pipe has no width; this is wide enough that rows are not folded.
PIPE_WIDTH = 400
# Blanks between two columns.
_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column. With `rank` 0 it is always shown; of the others, the highest rank is left out first.

    `folds` lets long cells continue on the next line. `only_wide` columns need `--wide`.
    """

    title: str
    right: bool = False
    rank: int = 0
    folds: bool = False
    only_wide: bool = False


wide_option = click.option("--wide", is_flag=True, help="Show every column, even if the terminal is too narrow.")


def print_table(
    columns: Sequence[str | Column], rows: Iterable[Sequence[object]], empty: str, *, wide: bool = False
) -> None:
    """Prints a table, or the sentence `empty` when it has no rows.

    A string is a column that is always shown; one that begins with `>` aligns right. A note on stderr names the columns
    that the terminal is too narrow for.
    """
    table = _cells_of(rows)
    if not table:
        return click.echo(empty)
    every = [column if isinstance(column, Column) else _column(column) for column in columns]
    every = [replace(column, folds=column.folds and not wide) for column in every]
    available = [number for number, column in enumerate(every) if wide or not column.only_wide]
    grid, shown, width_min = _fitted(every, table, available, None if wide else terminal_width())
    console(max(terminal_width(), width_min)).print(grid)
    if hidden := [every[number].title for number in available if number not in shown]:
        click.echo(f"note: the terminal is too narrow for {', '.join(hidden)}; --wide and --json show them", err=True)
    return None


def fitted_table(columns: Sequence[Column], rows: Iterable[Sequence[object]], width: int) -> Table:
    """The table with those columns that fit into `width`."""
    return _fitted(columns, _cells_of(rows), list(range(len(columns))), width)[0]


def print_record(fields: Iterable[tuple[str, object]]) -> None:
    """Prints one record, a field on each line."""
    pairs = [(name, text(value)) for name, value in fields]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name:<{width}}  {value}")


def terminal_width() -> int:
    """The width of the terminal in columns, of `COLUMNS` if that is set, else PIPE_WIDTH."""
    return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns


def _cells_of(rows: Iterable[Sequence[object]]) -> list[tuple[Text, ...]]:
    return [tuple(cell if isinstance(cell, Text) else Text(text(cell)) for cell in row) for row in rows]


def _fitted(
    columns: Sequence[Column], table: Sequence[Sequence[Text]], available: list[int], width: int | None
) -> tuple[Table, list[int], int]:
    """The table, the numbers of its columns, and the width that it needs. Without a `width`, all available columns."""
    widths = {number: _width(columns[number], [row[number] for row in table]) for number in available}
    shown = available if width is None else _fitting(columns, widths, available, width)
    grid = _grid([columns[number] for number in shown])
    for row in table:
        grid.add_row(*(row[number] for number in shown))
    return grid, shown, sum(widths[number] for number in shown) + _GAP * (len(shown) - 1)


def _column(title: str) -> Column:
    return Column(title.removeprefix(">"), right=title.startswith(">"))


def _width(column: Column, cells: Sequence[Text]) -> int:
    """The width that the column needs: of its longest cell, or word if the cells may be folded."""
    texts = [column.title, *(cell.plain for cell in cells)]
    parts = " ".join(texts).split() if column.folds else texts
    return max(map(cell_len, parts))


def _fitting(columns: Sequence[Column], widths: dict[int, int], available: list[int], width: int) -> list[int]:
    """The columns of rank 0, and by ascending rank those of the others that the remaining width has space for."""
    shown: list[int] = []
    for number in sorted(available, key=lambda each: columns[each].rank):
        needed = sum(widths[each] + _GAP for each in (*shown, number)) - _GAP
        if columns[number].rank == 0 or needed <= width:
            shown.append(number)
    return sorted(shown)


def _grid(columns: Sequence[Column]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    for column in columns:
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.folds,
            overflow="fold",
        )
    return grid
