"""The failpoints are those that are listed, a job passes all of them, and without a test nothing happens there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_command import annotate, connect_to, make_transport

from packer import connections, failpoints
from packer.cli import main
from packer.task import Task


@pytest.fixture
def passed() -> Iterator[list[str]]:
    names: list[str] = []
    failpoints.put(names.append)
    yield names
    failpoints.put(None)


def test_a_job_of_the_command_passes_every_failpoint(
    passed: list[str], in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "connect", connect_to(make_transport(Task(["spam", "ham"]))))
    Path("in.csv").write_text("text\nfree\nhello\n", encoding="utf-8")
    assert annotate("free") == "spam"
    assert main(["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", "m", "--output", "o.csv"]) == 0
    assert set(passed) == set(failpoints.NAMES)
    # commits are everywhere; the others come in the order of the list
    first = [passed.index(name) for name in failpoints.NAMES if not name.startswith("commit")]
    assert first == sorted(first)


def test_every_failpoint_in_the_code_is_listed_and_stands_in_one_place() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in Path(failpoints.__file__).parent.glob("*.py"))
    assert sorted(re.findall(r'failpoints\.reach\("([^"]+)"\)', code)) == sorted(
        failpoints.NAMES + failpoints.BATCH_NAMES
    )


def test_nothing_happens_at_a_failpoint_where_no_test_has_put_anything() -> None:
    failpoints.reach(failpoints.NAMES[0])
