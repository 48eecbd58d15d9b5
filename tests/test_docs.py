"""README, design and `--help` are in step with each other and with the code."""

import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import draw_dashboard
import pytest
import reference_page
from simulation.mutants import MUTANTS
from test_simulation import SEEDS
from test_untrusted import STATED, power

import packer
from packer import evaluating, intake
from packer.arguments import EVALUATED_BY
from packer.canaries import find_canaries
from packer.estimates import AnswerAllowance
from packer.looks import items_needed
from packer.packs import UNTRUSTED_ITEMS, PackLimits
from packer.task import AnswerShape, read_task

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("label", "plan", "models", "calibrate", "evaluate", "report", "dashboard", "ledger")
QUALITY = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


@functools.cache
def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "packer", *command, "--help"], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout


def test_the_help_fits_a_terminal() -> None:
    for command in ((), *((name,) for name in COMMANDS)):
        assert max(map(len, help_of(*command).splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_names_every_command_and_its_options_there_exist(command: str) -> None:
    lines = re.findall(rf"prompt-packer {command}\b[^\n`]*(?:\\\n[^\n`]*)*", README)
    assert lines
    shown = help_of(command)
    for option in {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}:
        assert option in shown, option


@pytest.mark.parametrize("page", reference_page.PAGES)
def test_a_page_that_is_made_is_what_would_be_made_now(page: str) -> None:
    # else: python tests/reference_page.py
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == reference_page.PAGES[page]()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_says_what_the_help_says(command: str) -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").replace("\\|", "|")
    section = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(?:-\w, )?(--.*?)` \| (.*) \|$", section, re.MULTILINE)
    # without spaces, since the help breaks lines at hyphens too
    shown = {option: said.replace(" ", "") for option, said in options_of(help_of(command)).items()}
    assert {name.split()[0]: f"{name}{said}".replace(" ", "") for name, said in rows} | {"--help": ""} == shown | {
        "--help": ""
    }


def test_options_that_commands_share_are_told_in_the_same_words() -> None:
    told = {command: options_of(help_of(command)) for command in COMMANDS}
    assert {option: told["evaluate"][option] for option in ("--labels", "--task", "--model", "--ledger")} == {
        option: told["label"][option] for option in ("--labels", "--task", "--model", "--ledger")
    }
    for command, own in (("evaluate", {"--gold", "--json", "--text"}), ("calibrate", {"--seed", "--gold", "--sample"})):
        shared = told[command].keys() & told["label"].keys() - {"--help"} - own
        assert {option: told[command][option] for option in shared} == {
            option: told["label"][option] for option in shared
        }
    for command in ("plan", "models"):
        shared = told[command].keys() & told["label"].keys() - {"--help", "--output"}
        assert {"--text", "--labels", "--task", "--id", "--encoding", "--max-items"} <= shared
        assert {option: told[command][option] for option in shared} == {
            option: told["label"][option] for option in shared
        }


def options_of(shown: str) -> dict[str, str]:
    """What the help says of each option."""
    listed = re.split(r"\n\s+(?:-\w, )?(?=--)", shown.split("examples:", maxsplit=1)[0])[1:]
    words = [" ".join(re.split(r"\n\n|\nexit", part)[0].split()) for part in listed]
    return {word.split()[0].rstrip(","): word for word in words}


def test_every_option_on_the_page_about_quality_exists_and_it_names_every_way_to_look_at_errors() -> None:
    page, shown = QUALITY, help_of("evaluate")
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert options >= {"--gold", "--by", "--json", "--text", "--audit", "--max-disagreement"}
    every = "".join(help_of(command) for command in COMMANDS)
    assert [option for option in sorted(options) if option not in every] == []
    assert re.findall(r"^\| `--by ([a-z-]+)` \|", page, re.MULTILINE) == list(EVALUATED_BY)
    assert all(way in shown for way in EVALUATED_BY)
    assert f"({evaluating._MOST_LABELS:,} at most)" in page
    assert f"within {intake._SLICE} items" in page


def test_what_the_page_about_quality_says_of_calibrate_is_so() -> None:
    page = QUALITY.partition("\n## calibrate\n")[2].partition("\n## ")[0]
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    shown = help_of("calibrate") + help_of("label")
    assert options >= {"--sample", "--sizes", "--max-disagreement", "--gold", "--write-task", "--json", "--audit"}
    assert [option for option in sorted(options) if option not in shown] == []
    for promise in (0.03, 0.01):
        needed = items_needed(0.0, promise=promise, level=0.95)
        assert re.search(rf"\b{promise:.0%} takes {needed}\b".replace("%", " %"), page)
    assert all(f"| {start}" in page for start in ("Use packs of N", "Ask each text alone", "Not enough items to tell"))


def test_the_readmes_test_command_is_what_ci_runs() -> None:
    line = next(line.strip() for line in README.splitlines() if line.startswith("    sh setup.sh dev"))
    assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_readmes_task_file_is_one(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert example is not None
    (tmp_path / "task.toml").write_text(example[1], encoding="utf-8")
    assert len(read_task(tmp_path / "task.toml").labels) == 3


def measured(start: str) -> dict[str, list[str]]:
    """The cells of each side in the first table behind `start` on the page about performance; the first row of each."""
    table = PERFORMANCE[PERFORMANCE.index(start) :].split("\n\n")
    found: dict[str, list[str]] = {}
    for row in next(part for part in table if part.startswith("      ")).splitlines()[1:]:
        side, _, cells = row.strip().partition("  ")
        found.setdefault(side, cells.split())
    return found


def test_the_readme_compares_by_what_was_measured() -> None:
    cost, cap, kill = measured("\n## Cost\n"), measured("A hard cap of 60"), measured("\nSIGKILL:\n")
    rows = re.findall(
        r"^\| ([\w -]+?)(?: (\d+\.[\d.]+))? \| (\d+) \| \$(.*?) \| (.*?) s \| (.*?) \|$", README, re.MULTILINE
    )
    names = {"a loop with 10 at once": "plain recipe", "bespokelabs-curator": "curator"}
    assert {names.get(name, name) for name, *_ in rows} == cost.keys() - {"floor"}
    for name, version, packs, usd, seconds, twice in rows:
        side = names.get(name, name)
        assert (packs, usd) == (cost[side][0], cost[side][3])
        assert seconds == cap[side][0]
        keeps = kill[side][0] != "keeps"  # no answers
        assert twice == (kill[side][4].replace("%", " %") if keeps else "all: it keeps no answers")
        assert not version or f"{name} {version}" in " ".join(PERFORMANCE.split())


def test_what_is_said_of_untrusted_texts_is_so(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "untrusted.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    (tmp_path / "task.toml").write_text(example[1], encoding="utf-8")
    assert len(find_canaries(read_task(tmp_path / "task.toml"))) == 3
    for q in (1.0, 0.9, 0.5, 0.2):
        assert f"| {q:g} | {power(q, 1):.0%} | {power(q, 2):.0%} |".replace("%", " %") in page
    for q, (detected, flipped, kept, requests) in STATED.items():
        shares = f"| {q:g} | {detected:.1%} | {flipped:.1%} | {kept:.1%} |".replace("100.0%", "100%").replace("%", " %")
        assert f"{shares} 133 | {requests} |" in page.replace(" of all items", "")
    assert f"packs hold {UNTRUSTED_ITEMS} items" in page
    assert "packs of 5" in README


def test_the_design_names_every_file_and_no_other() -> None:
    files = {path.stem for path in (ROOT / "packer").glob("*.py")} - {"__init__", "__main__"}
    floors = DESIGN.split("## The floors")[1].split("\n## ")[0]
    named = set(
        re.findall(r"[a-z_]+", " ".join(line.split("|")[2] for line in floors.splitlines() if line.startswith("| ")))
    )
    assert files - named == set()


@pytest.mark.parametrize("shape", [*AnswerShape])
def test_the_design_measures_every_shape(shape: AnswerShape) -> None:
    assert f"| `{shape.value}` |" in DESIGN


def test_what_the_documents_say_of_the_defaults_is_so() -> None:
    assert "twenty to a request" in README
    assert PackLimits().max_items == 20
    assert "a third to spare" in DESIGN
    assert AnswerAllowance(row=1000).allow(10) == pytest.approx(1.3 * 10_000 + 1000, rel=0.01)


def test_every_promise_names_tests_that_exist_and_the_simulation_is_as_large_as_is_said() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w.]+)`", row.rpartition(" | ")[2])
        assert named, row
        assert [path for path in named if not (ROOT / path).exists()] == []
    assert f"{SEEDS:,} jobs" in page
    assert f"{len(MUTANTS)} classic bugs" in page


def test_the_picture_of_the_dashboard_is_of_this_version() -> None:
    # else: python tests/draw_dashboard.py
    assert draw_dashboard.describe_page().encode() in draw_dashboard.PICTURE.read_bytes()
    assert "](docs/dashboard.png)" in README


def test_the_changelog_has_this_version() -> None:
    assert f"## [{packer.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_run_time_dependency_has_a_minimum_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    for dependency in project["dependencies"]:
        assert ">=" in dependency
        assert re.search(rf'"{re.escape(dependency)}",\s+# \w', text), dependency
