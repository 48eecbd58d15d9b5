"""The example notebook holds what this version shows: `python tests/example_notebook.py` runs it and writes it anew.

What differs from run to run is the pace behind the bar, and nothing else is taken out before two runs are compared.
"""

import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "notebook.ipynb"
_SECONDS = 60  # for one cell
_FORMAT: Any = nbformat  # it has no types


class Client(NotebookClient):
    """Runs a notebook in a kernel of its own; `updates` is what the bar said, as it was said."""

    updates: list[str]

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Note what a bar says, and go on as usual."""
        if msg["msg_type"] == "update_display_data":
            self.updates.append(msg["content"]["data"]["text/plain"])
        return super().process_message(msg, cell, cell_index)


def execute(notebook: Any, folder: Path) -> list[str]:
    """Run all cells of `notebook` in `folder` and keep their outputs in it; what its bars said meanwhile."""
    client = Client(
        notebook,
        timeout=_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.updates = []
    # IPython keeps a history, and Jupyter its connections: not at home
    own = {name: str(folder / ".jupyter") for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    client.execute(env={**os.environ, **own})
    return client.updates


def read() -> Any:
    """The notebook as it is stored."""
    return _FORMAT.read(NOTEBOOK, as_version=4)


def outputs(notebook: Any) -> list[list[dict[str, Any]]]:
    """What each code cell shows, without the pace."""
    return [[_normalise(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def _normalise(output: Any) -> Any:
    match output:
        case str():
            return re.sub(r"[\d,]+/s\b", "N/s", output)
        case dict():
            return {name: _normalise(value) for name, value in output.items()}
        case _:
            return output


if __name__ == "__main__":
    given = read()
    with TemporaryDirectory() as folder:
        execute(given, Path(folder))
    # the version of the Python that ran it is nobody's news
    given.metadata = {"kernelspec": given.metadata.kernelspec, "language_info": {"name": "python"}}
    _FORMAT.validate(given)
    NOTEBOOK.write_text(_FORMAT.writes(given) + "\n", encoding="utf-8")
    sys.stdout.write(f"{NOTEBOOK}\n")
