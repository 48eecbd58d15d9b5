"""A notebook as its user has it: a real kernel, the bar while a job runs, and an example that shows what it says."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import example_notebook
import nbformat
import pytest

import packer
from packer.notebook import is_notebook
from packer.testing import FakeTransport

TASK = packer.Task(["spam", "ham"])
CELL: Any = nbformat.v4.new_code_cell  # it has no types
SLOW = """
from packer.testing import FakeTransport

def run(texts, **options):
    transport = FakeTransport(task, lambda text: "spam", seconds=0.3)
    return packer.label(texts, task=task, model="m", transport=transport, ledger=None, progress=True, **options)

run([f"text {number}" for number in range(200)])
"""


STOP = """
from decimal import Decimal

try:
    run(["a"], budget_usd="0.0000001", price=packer.Price(Decimal(1), Decimal(1)))
except packer.StoppedError as error:
    shown = error.results
shown
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[str]]:
    """The example, run anew with two more cells behind its own, and what its bars said."""
    notebook = example_notebook.read()
    for number, source in enumerate([SLOW, "len(run(text for text in 'abc'))", STOP]):
        notebook.cells.append(CELL(source, id=f"more-{number}"))
    return notebook, example_notebook.execute(notebook, tmp_path_factory.mktemp("notebook"))


def test_the_example_shows_what_this_version_shows(ran: tuple[Any, list[str]]) -> None:
    stored = example_notebook.outputs(example_notebook.read())
    assert example_notebook.outputs(ran[0])[: len(stored)] == stored
    assert sum(map(len, stored)) == 5
    assert "Traceback" not in str(stored)


def test_the_bar_moves_while_the_job_runs_and_stays_as_the_job_has_left_it(ran: tuple[Any, list[str]]) -> None:
    notebook, said = ran
    moved = [words for words in said if "/200  " in words and re.search(r"[1-9]\d* in flight", words)]
    assert len(moved) >= 2
    bar, results = notebook.cells[-3].outputs
    assert bar.data["text/html"].startswith('<progress value="200" max="200"></progress> 200/200 ')
    assert "items 200: 200 labelled" in results.data["text/html"]
    assert results.data["text/plain"].startswith("items 200: 200 labelled\ncost ")


def test_a_job_of_unknown_length_has_a_bar_without_a_share(ran: tuple[Any, list[str]]) -> None:
    bar, length = ran[0].cells[-2].outputs
    assert bar.data["text/html"].startswith("<progress></progress> 3 ")
    assert length.data["text/plain"] == "3"


def test_a_stopped_job_shows_its_results_and_why(ran: tuple[Any, list[str]]) -> None:
    bar, results = ran[0].cells[-1].outputs
    assert bar.data["text/html"].startswith('<progress value="1" max="1">')
    assert "stopped: budget: " in results.data["text/plain"]


# Without a kernel


class Handle:
    """An output that is rewritten; remembers by whom, and with what."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.shown: list[str] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        self.threads.add(threading.get_ident())
        self.shown.append(data["text/plain"])


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """What IPython would be in a notebook."""
    shown = Handle()
    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    display: Any = ModuleType("IPython.display")
    display.display = lambda data, *, raw, display_id: shown
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def label(count: int, **options: Any) -> packer.Results:
    transport = FakeTransport(TASK, lambda text: "ham", seconds=0.3)
    texts = [str(number) for number in range(count)]
    return packer.label(texts, task=TASK, model="m", ledger=None, transport=transport, progress=True, **options)


async def inside_a_loop(count: int, **options: Any) -> packer.Results:
    return label(count, **options)


def test_the_thread_that_waits_draws_the_bar(handle: Handle) -> None:
    assert len(asyncio.run(inside_a_loop(60))) == 60
    assert handle.threads == {threading.get_ident()}
    assert len(handle.shown) >= 3
    assert re.fullmatch(r"60/60  [\d,]+/s  .*0 in flight", handle.shown[-1])


def test_without_a_running_loop_the_bar_is_drawn_as_well(handle: Handle) -> None:
    label(20)
    assert handle.threads == {threading.get_ident()}
    assert handle.shown[-1].startswith("20/20  ")


def test_a_frame_is_labelled_under_a_bar_too(handle: Handle) -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    transport = FakeTransport(TASK, lambda text: "ham", seconds=0)
    frame = pd.DataFrame({"text": ["a", "b"]})
    packer.label_frame(frame, text="text", task=TASK, model="m", ledger=None, transport=transport, progress=True)
    assert handle.shown[-1].startswith("2/2  ")


def test_an_interrupt_of_a_cell_with_a_bar_ends_the_job(handle: Handle) -> None:
    loop = asyncio.new_event_loop()
    timer = threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(inside_a_loop(100_000, concurrency=1))
    timer.join()
    loop.close()
    assert "packer-label" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("shell", [None, SimpleNamespace(), SimpleNamespace(kernel=None)])
def test_a_prompt_in_a_terminal_is_no_notebook(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert not is_notebook()
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert not is_notebook()


def test_where_there_is_neither_notebook_nor_terminal_nothing_is_shown_and_ipython_is_not_imported(
    in_folder: Path,
) -> None:
    code = """
import sys
sys.modules["IPython"] = None  # it cannot be imported
import packer
from packer.testing import FakeTransport
task = packer.Task(["spam", "ham"])
transport = FakeTransport(task, lambda text: "ham", seconds=0.3)
results = packer.label(["a"], task=task, model="m", ledger=None, transport=transport, progress=True)
print(repr(results), "<table>" in results._repr_html_(), "<table>" in task._repr_html_())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.endswith("   0  ham  a True True\n")
