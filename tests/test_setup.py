"""Set-up: the locks are complete and hold no addresses; setup.sh repairs what it began, and touches nothing else."""

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import packaging.requirements
import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ["local", "dev"]
TOOLS = ["sh", "cat", "cksum", "dirname", "env", "id", "mkdir", "rm", "rmdir", "tail", "cp"]

# A Python that only pretends to install: pip says so in a log, and fails while a file named `offline` is there
PYTHON = """#!/bin/sh
case "$*" in
    *"import ensurepip"*) [ ! -e "$FAKE/no-ensurepip" ] ;;
    *"import sys, pip"*) [ ! -e "$FAKE/no-pip" ] ;;
    *"import sys; sys.exit"*) [ ! -e "$FAKE/too-old" ] ;;
    *"print(\\"python%d"*) echo python3.11-venv ;;
    *--version*) echo Python 3.11.2 ;;
    *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    *"-m pip"*) [ ! -e "$FAKE/offline" ] || { echo "no network"; exit 1; }; echo "$@" >> "$FAKE/log" ;;
esac
"""


def pins(name: str) -> set[tuple[str, str]]:
    """The packages of a lock with their versions; a package may have one for each of several Pythons."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_file_has_its_hash_and_nothing_has_an_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    line = r"(    --hash=sha256:[0-9a-f]{64}( \\)?|[a-z0-9-]+(\[[a-z0-9,-]+\])?==\S+( ; [a-zA-Z0-9_ .'=!<>]+)? \\)"
    assert [bad for bad in text.splitlines() if not re.fullmatch(line, bad)] == []
    assert not re.search(r"//|index|find-links|\.org|\.com", text)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_all_that_pyproject_asks_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    wanted = [*project["project"]["dependencies"], *extras["local"], *groups["setup"]]
    if name == "dev":
        wanted += [
            *extras["anthropic"],
            *extras["quality"],
            *(entry for entry in groups["dev"] if isinstance(entry, str)),
        ]
    assert {re.split(r"[\[=<>~ ]", entry)[0] for entry in wanted} <= {package for package, _ in pins(name)}


def test_the_lock_names_the_extras_that_its_packages_ask_of_each_other() -> None:
    # pip takes `coverage` and `coverage[toml]` for two packages, and the second one would have no pin
    lines = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8").splitlines()
    heads = [packaging.requirements.Requirement(line.partition(" ")[0]) for line in lines if "==" in line.split(";")[0]]
    extras = {head.name: head.extras for head in heads}
    asked = 0
    for name, own in extras.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # locked for another system
            for text in importlib.metadata.requires(name) or ():
                needed = packaging.requirements.Requirement(text)
                marker = needed.marker
                if marker is None or any(marker.evaluate({"extra": extra}) for extra in own or {""}):
                    asked += len(needed.extras)
                    assert needed.extras <= extras.get(needed.name, set()), f"{name} asks for {needed}"
    assert asked


def test_the_locks_do_not_disagree() -> None:
    # so that what `setup.sh dev` makes is also what `setup.sh local` makes
    assert len(pins("local")) > 30
    assert pins("local") <= pins("dev")


def test_the_wheel_holds_the_vocabulary_and_its_notice(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"packer/data/bert-base-uncased-vocab.txt", "packer/data/NOTICE", "packer/py.typed"} <= set(names)
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert all(name.startswith(("packer/", "prompt_packer-")) for name in names)


def test_the_vocabulary_is_the_one_that_the_model_was_trained_with() -> None:
    tokens = (ROOT / "packer" / "data" / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(tokens) == 30_522
    assert [tokens.index(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 100, 101, 102]


class Machine:
    """A clone on a machine that has a shell, the fake Python, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "a clone"
        self.fake = folder / "fake"
        self.tools = folder / "tools"
        for path in (self.clone, self.fake, self.tools):
            path.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.tools / tool).symlink_to(found)
        python = self.tools / "python3"
        python.write_text(PYTHON, encoding="utf-8")
        python.chmod(0o755)
        shutil.copy(ROOT / "setup.sh", self.clone)
        shutil.copy(ROOT / "pyproject.toml", self.clone)
        shutil.copytree(ROOT / "requirements", self.clone / "requirements")

    def has(self, *names: str) -> None:
        for name in names:
            (self.fake / name).touch()

    def lacks(self, name: str) -> None:
        (self.fake / name).unlink()

    def set_up(self, *arguments: str) -> tuple[int, list[str]]:
        """The exit code and the lines on stderr; stdout must stay empty."""
        done = subprocess.run(
            ["sh", str(self.clone / "setup.sh"), *arguments],
            cwd=self.fake,
            env={"PATH": str(self.tools), "FAKE": str(self.fake)},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.stdout == ""
        return done.returncode, done.stderr.splitlines()

    def installed(self) -> list[str]:
        log = self.fake / "log"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    def files(self) -> set[str]:
        return {path.name for path in self.clone.iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_setup_installs_the_lock_and_the_project_and_writes_nothing_but_its_environment(machine: Machine) -> None:
    before = machine.files()
    code, lines = machine.set_up("local")
    assert (code, len(lines)) == (0, 1)
    lock, project = machine.installed()
    assert "--require-hashes --requirement requirements/local.txt" in lock
    assert "--no-deps --no-build-isolation --editable ." in project
    assert machine.files() - before == {".venv"}


def test_setup_done_again_does_nothing(machine: Machine) -> None:
    machine.set_up("local")
    done = machine.installed()
    assert machine.set_up("local") == (0, [])
    assert machine.installed() == done


def test_what_was_set_up_for_the_tests_serves_the_command_too_but_not_the_other_way(machine: Machine) -> None:
    machine.set_up("dev")
    assert machine.set_up("local") == (0, [])
    assert len(machine.installed()) == 2
    (machine.clone / ".venv" / "made-by-setup.sh").unlink()
    shutil.rmtree(machine.clone / ".venv")
    machine.set_up("local")
    machine.set_up("dev")
    assert len(machine.installed()) == 6


@pytest.mark.parametrize("changed", ["requirements/local.txt", "pyproject.toml", "moved", "no interpreter"])
def test_setup_is_done_anew_after_a_change_of_what_it_depends_on(machine: Machine, changed: str) -> None:
    machine.set_up("local")
    if changed == "moved":
        machine.clone = machine.clone.rename(machine.clone.parent / "moved")
    elif changed == "no interpreter":
        (machine.clone / ".venv" / "bin" / "python").unlink()
    else:
        with (machine.clone / changed).open("a", encoding="utf-8") as file:
            file.write("\n")
    assert machine.set_up("local")[0] == 0
    assert len(machine.installed()) == 4
    assert machine.set_up("local") == (0, [])


def test_a_set_up_that_was_cut_short_is_made_anew_by_the_next(machine: Machine) -> None:
    machine.has("offline")
    code, lines = machine.set_up("local")
    assert code == 1
    assert lines[-2:] == [
        "no network",
        "setup.sh: requirements/local.txt could not be installed (see above); run this again to go on",
    ]
    (machine.clone / ".venv" / "half a package").touch()
    machine.lacks("offline")
    assert machine.set_up("local")[0] == 0
    assert not (machine.clone / ".venv" / "half a package").exists()
    assert machine.set_up("local") == (0, [])


def test_an_environment_that_is_not_ours_is_left_alone(machine: Machine) -> None:
    own = machine.clone / ".venv" / "own"
    own.parent.mkdir()
    own.touch()
    code, lines = machine.set_up("local")
    assert (code, len(lines)) == (1, 1)
    assert "was not made by setup.sh: move it away" in lines[0]
    assert own.exists()
    own.unlink()
    assert machine.set_up("local")[0] == 0


def test_without_ensurepip_the_system_s_pip_installs_into_the_environment(machine: Machine) -> None:
    machine.has("no-ensurepip")
    assert machine.set_up("local")[0] == 0
    assert all(line.startswith("-m pip --python .venv/bin/python install") for line in machine.installed())


def test_without_any_pip_one_line_says_what_to_install(machine: Machine) -> None:
    machine.has("no-ensurepip", "no-pip")
    code, lines = machine.set_up("local")
    assert (code, len(lines)) == (1, 1)
    assert "apt-get install python3.11-venv" in lines[0]
    assert ".venv" not in machine.files()


def test_an_old_python_is_told_in_one_line(machine: Machine) -> None:
    machine.has("too-old")
    code, lines = machine.set_up("local")
    assert (code, len(lines)) == (1, 1)
    assert "needs Python 3.11 to 3.14, found Python 3.11.2" in lines[0]


def test_a_newer_python_beside_an_old_one_is_found(machine: Machine) -> None:
    newer = machine.tools / "python3.13"
    newer.write_text(PYTHON.replace("too-old", "never"), encoding="utf-8")
    newer.chmod(0o755)
    machine.has("too-old")
    assert machine.set_up("local")[0] == 0


@pytest.mark.parametrize("arguments", [[], ["prod"], [""]])
def test_setup_asks_for_what_it_knows(machine: Machine, arguments: list[str]) -> None:
    assert machine.set_up(*arguments) == (2, ["setup.sh: expected local or dev, as in: sh setup.sh local"])


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    command = "sh setup.sh dev && sh tests/run.sh"
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == command
    assert command in {line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()}
