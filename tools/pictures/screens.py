"""What operator commands print on terminals of three widths, as SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tools.pictures.product import Product, cli
from tools.terminal import run_on_terminal

WIDTHS = (80, 100, 140)
COMMANDS = (
    "status",
    "doctor",
    "list-tenants",
    "show-tenant acme",
    "list-keys",
    "list-models",
    "list-backends",
    "show-usage --by model",
    "show-audit",
    "show-changes",
)
# The home directory of the pictures. It replaces that of the product, which must have a name of the same length.
_HOME = "/home/ada"
_THEME = TerminalTheme(
    (15, 20, 27),
    (214, 222, 235),
    [(60, 68, 82), (240, 113, 120), (126, 202, 156), (240, 198, 116), (111, 168, 220), (198, 146, 220), (110, 200, 210),
     (214, 222, 235)],
    [(110, 120, 138), (255, 139, 146), (150, 222, 178), (255, 216, 140), (140, 190, 240), (215, 170, 238),
     (140, 220, 228), (255, 255, 255)],
)  # fmt: skip
# The template of rich without the fonts that it loads from a server.
_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: "JetBrains Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def take_screens(product: Product) -> Iterator[tuple[str, str]]:
    """Runs each command at each width. Yields the name and the SVG of each picture."""
    if len(str(product.home)) != len(_HOME):
        raise ValueError(f"the path of the home directory must have {len(_HOME)} characters")
    for command in COMMANDS:
        for columns in WIDTHS:
            output = run_on_terminal(cli(*command.split()), columns, product.env)
            name = f"screen-{command.split()[0]}-{columns}"
            yield name, draw_screen(command, output.replace(str(product.home), _HOME), columns, name)


def draw_screen(command: str, output: str, columns: int, name: str) -> str:
    """The SVG of a terminal of `columns` columns after a command. `name` begins the identifiers in the SVG."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), (f"neuronetz-gateway {command}", "bold")))
    console.print(Text.from_ansi(output.rstrip()), end="")
    drawn = console.export_svg(title=f"{columns} columns", theme=_THEME, code_format=_SVG, unique_id=name)
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"
