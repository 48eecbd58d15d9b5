"""The bar in a notebook is one output that the thread of the cell rewrites: no widget, and nothing to install.

IPython is there where a notebook is, and is never imported where nobody else has. Kernels take an output that another
thread shows for nobody's, so the bar belongs to the thread that waits.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from packer.events import Statistics
from packer.progress import Pace
from packer.shown import html_text


def is_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None


class NotebookBar:
    """A bar in the output of the running cell, which stays there as the job has left it. A context manager.

    `rows` is the length of the job, None where it is not known.
    """

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._pace = Pace(rows)
        self._handle: Any = None

    def __enter__(self) -> Self:
        from IPython.display import display  # noqa: PLC0415  a notebook has it

        show: Any = display  # it has no types
        self._handle = show(self._draw("starting", 0), raw=True, display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It stays."""

    def update(self, now: Statistics) -> None:
        """Move the bar."""
        self._handle.update(self._draw(self._pace.describe(now), self._pace.done), raw=True)

    def _draw(self, said: str, done: int) -> dict[str, str]:
        # without a value it moves to and fro: the length is not known
        share = "" if self._rows is None else f' value="{done}" max="{max(self._rows, 1)}"'
        return {"text/plain": said, "text/html": f"<progress{share}></progress> {html_text(said)}"}
