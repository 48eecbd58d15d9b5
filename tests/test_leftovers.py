"""A part of an output that no process holds is removed by the next one to write it; nothing else ever is."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from packer.outputs import OutputFile

HOLD = """
import signal, sys
from pathlib import Path
from packer.outputs import OutputFile
output = OutputFile(Path(sys.argv[1]))
output.write(b"half")
print("holding", flush=True)
signal.pause()
"""

TAKE_TURNS = """
import sys
from pathlib import Path
from packer.outputs import OutputFile
path = Path(sys.argv[1])
for turn in range(150):
    output = OutputFile(path)
    output.write(b"whole\\n" * 3)
    output.finish()
"""


def child(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def write(path: Path) -> None:
    output = OutputFile(path)
    output.write(b"whole")
    output.finish()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_part_stays_while_its_process_lives_and_goes_when_it_has_died(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    first = child(HOLD, path)
    assert first.stdout is not None
    assert first.stdout.readline() == "holding\n"
    (part,) = tmp_path.iterdir()
    write(path)
    assert names_in(tmp_path) == {"out.csv", part.name}
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    OutputFile(tmp_path / "other.csv").abandon()
    assert part.exists(), "it is a part of another output"
    OutputFile(path).abandon()
    assert names_in(tmp_path) == {"out.csv"}
    assert path.read_bytes() == b"whole"


def test_two_that_write_one_output_both_finish(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    first, second = OutputFile(path), OutputFile(path)
    first.write(b"first")
    second.write(b"second")
    second.finish()
    assert path.read_bytes() == b"second"
    first.finish()
    assert path.read_bytes() == b"first"
    assert names_in(tmp_path) == {"out.csv"}


def test_processes_that_write_one_output_in_turns_never_lose_a_part(tmp_path: Path) -> None:
    """A part is unlocked for a moment after it is made, and must not be when it is put in its place."""
    several = [child(TAKE_TURNS, tmp_path / "out.csv") for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in several] == [""] * 3
    assert names_in(tmp_path) == {"out.csv"}
    assert (tmp_path / "out.csv").read_bytes() == b"whole\n" * 3


@pytest.mark.parametrize("name", ["out[1].csv", ".*.csv", "two\nlines.csv", f"{'long' * 40}.csv"], ids=repr)
def test_a_part_is_known_by_the_whole_name_of_its_output(tmp_path: Path, name: str) -> None:
    left, other = tmp_path / f".{name[:100]}.0123abcd.part", tmp_path / ".out1.csv.0123abcd.part"
    left.touch()
    other.touch()
    write(tmp_path / name)
    assert names_in(tmp_path) == {name, other.name}


def test_what_only_looks_like_a_part_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    for name in (
        ".out.csv.part",
        ".out.csv.0123ABCD.part",
        ".out.csv.0123abcde.part",
        "out.csv.0123abcd.part",
        ".out.csv.0123abcd.part2",
    ):
        (tmp_path / name).touch()
    (tmp_path / ".out.csv.00000001.part").mkdir()
    (tmp_path / ".out.csv.00000002.part").symlink_to(precious)
    os.mkfifo(tmp_path / ".out.csv.00000003.part")
    reader = os.open(tmp_path / ".out.csv.00000003.part", os.O_RDONLY | os.O_NONBLOCK)
    before = names_in(tmp_path)
    write(tmp_path / "out.csv")
    os.close(reader)
    assert names_in(tmp_path) == before | {"out.csv"}
    assert precious.read_bytes() == b"precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_a_part_of_another_user_stays(tmp_path: Path) -> None:
    part = tmp_path / ".out.csv.0123abcd.part"
    part.touch()
    os.chown(part, 12345, -1)
    write(tmp_path / "out.csv")
    assert part.exists()


def test_where_files_cannot_be_locked_outputs_are_written_and_leftovers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    part = tmp_path / ".out.csv.0123abcd.part"
    part.touch()
    write(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == b"whole"
    assert part.exists()
