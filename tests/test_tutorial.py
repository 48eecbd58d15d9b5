"""The tutorial and the README's first command are run as they stand, and print what is shown there.

A figure that hangs on the clock or on the order in which replies come is compared as "some number". The labels of the
embedded model may differ in a few texts on another machine, so that its accuracy is compared with a margin.
"""

import csv
import operator
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from packer.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
# an indented block is typed, a block of text right behind it is what it prints
BLOCK = re.compile(r"((?:^ {4}[^\n]*\n|^\n(?= {4}))+)(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
FIXED = ("items", "known", "asked", "output", "stopped", "packs of 5 ", "packs of 10 ", "Use packs")


@pytest.fixture
def clone(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone that was set up; the terminal has 80 columns."""
    for name in ("examples", "tests"):
        (in_folder / name).symlink_to(ROOT / name)
    monkeypatch.setenv("COLUMNS", "80")
    return in_folder


@pytest.fixture
def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Terminal:
    """Types what a page says; the package's command runs in this process, because it starts sooner."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self._gateways: list[subprocess.Popen[str]] = []
        self.codes: list[int] = []

    def type(self, block: str) -> str:
        """What the commands of `block` print."""
        said = ""
        while block:
            # a here document belongs to its command
            line, _, block = re.sub(r"\\\n", "", block).partition("\n")
            if mark := re.search(r"<<'(\w+)'$", line):
                text, _, block = block.partition(f"{mark[1]}\n")
                line += f"\n{text}{mark[1]}"
            said += self._run(line)
        return said

    def _run(self, line: str) -> str:
        match shlex.split(line, comments=True) if "\n" not in line else ["sh"]:
            case [] | ["sh", "setup.sh", _] | [".", ".venv/bin/activate"]:
                pass
            case ["cd", folder]:
                self._monkeypatch.chdir(folder)
            case ["export", setting]:
                self._monkeypatch.setenv(*setting.split("=", 1))
            case ["python", *arguments]:
                gateway = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
                self._gateways.append(gateway)
                assert gateway.stdout is not None
                gateway.stdout.readline()
            case ["prompt-packer", *arguments]:
                self.codes.append(main(arguments))
                out, err = self._capfd.readouterr()
                return err + out
            case ["mkdir" | "cp" | "sh", *_]:
                subprocess.run(["sh", "-euc", line], check=True)
            case _:
                pytest.fail(f"expected a command that this page may run, got {line!r}")
        return ""

    def close(self) -> None:
        for gateway in self._gateways:
            gateway.kill()
            gateway.communicate()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Terminal]:
    opened = Terminal(monkeypatch, capfd)
    yield opened
    opened.close()


def compare(shown: str, said: str) -> None:
    """Each line that is shown was printed, in this order, one behind the other but for where `...` stands."""
    lines = [line for line in said.splitlines() if line.strip()]
    at, skips = 0, False
    for line in shown.splitlines():
        if line.strip() in {"...", ""}:
            skips = skips or line.strip() == "..."
            continue
        places = range(at, len(lines) if skips else at + 1)
        found = next((place for place in places if place < len(lines) and is_like(line, lines[place])), None)
        assert found is not None, f"{line!r} is shown, and printed was\n" + "\n".join(lines[at:])
        at, skips = found + 1, False
    assert skips or at == len(lines), f"printed was also {lines[at:]}"


def is_like(shown: str, said: str) -> bool:
    if shown.startswith("accuracy"):
        return said.startswith("accuracy") and abs(float(shown.split()[1]) - float(said.split()[1])) < 0.05
    if shown.startswith(FIXED):
        return shown.split() == said.split()
    return re.sub(r"[\d,.]+", "0", shown).split() == re.sub(r"[\d,.]+", "0", said).split()


def test_the_tutorial_does_what_it_shows(clone: Path, terminal: Terminal, port: str) -> None:
    pytest.importorskip("onnxruntime", reason="the embedded model is not installed")
    blocks = list(BLOCK.finditer(PAGE.replace("8321", port)))
    for block in blocks:
        said = terminal.type(re.sub(r"^ {4}", "", block[1], flags=re.MULTILINE))
        if block[2] is not None:
            compare(block[2], said)
    assert len(blocks) == 12
    assert [code for code in terminal.codes if code] == [4]
    assert "[calibration]" in (clone / "tutorial" / "messages.toml").read_text(encoding="utf-8")


def test_the_readmes_first_command_prints_what_is_shown(
    clone: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="the embedded model is not installed")
    typed = next(block for block in BLOCK.finditer(README) if "setup.sh local" in block[1])
    setup, _, command = typed[1].strip().partition(" && .venv/bin/prompt-packer ")
    assert setup == "sh setup.sh local"
    assert main(shlex.split(command)) == 0
    table, told = capfd.readouterr()
    notice, _, summary = told.partition("\n")
    compare(typed[2], f"{notice}\n{table}{summary}")
    # "49 of the 60": the margin is for another machine's rounding
    with Path("examples/messages.csv").open(encoding="utf-8", newline="") as file:
        gold = [row["gold"] for row in csv.DictReader(file)]
    given = [line.split()[1] for line in table.splitlines()[1:]]
    stated = re.search(r"gets (\d+) of the 60 right", README)
    assert stated is not None
    assert abs(sum(map(operator.eq, given, gold)) - int(stated[1])) <= 2

    # the same in Python, whose answers are known by now
    code = re.search(r"```python\n(import csv\n.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    assert code is not None
    exec(code[1], {})
    compare(code[2], capfd.readouterr().out)
