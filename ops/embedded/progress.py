"""Progress of a start for the operator: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.status import Status


class Progress:
    """Writes to stderr, so that stdout has results only."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._status: Status | None = None

    def step(self, text: str) -> None:
        """Shows the current step."""
        if not self._console.is_terminal:
            self.notice(text)
        elif self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def notice(self, text: str) -> None:
        """Prints a line that stays on the screen."""
        self._console.print(text, markup=False, soft_wrap=True)

    def done(self) -> None:
        """Clears the live line."""
        if self._status is not None:
            self._status.stop()
            self._status = None
