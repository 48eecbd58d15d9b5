"""The house: floors, exports, one rule a file. A dozen lines each."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from uncounted import UNCOUNTED

import packer

ROOT = Path(__file__).resolve().parents[1]
FACES = {
    "adoption",
    "arguments",
    "calibrating",
    "calibration",
    "calibration_view",
    "charts",
    "cli",
    "distributed",
    "doubting",
    "drawing",
    "evaluating",
    "evaluation",
    "evaluation_view",
    "examples",
    "explanations",
    "extras",
    "labelling",
    "ledger_view",
    "models_view",
    "order",
    "outputs",
    "overwriting",
    "page",
    "parquet",
    "parsing",
    "plan_view",
    "planning",
    "quality_charts",
    "reading",
    "recording",
    "report",
    "report_words",
    "reporting",
    "sampling",
    "seen",
    "signals",
    "summary",
    "tables",
    "task_files",
    "trials",
    # a file in a folder is named with it
    "dashboard",
    "dashboard.bars",
    "dashboard.batches",
    "dashboard.command",
    "dashboard.course",
    "dashboard.live",
    "dashboard.panels",
    "dashboard.past",
    "dashboard.server",
    "dashboard.view",
    "dashboard.watching",
    "dashboard.writing",
}
FLOORS = [
    {"errors", "failpoints", "items", "shown", "usage"},
    {"exchange", "records", "task"},
    {
        "answers",
        "batch_files",
        "budget",
        "canaries",
        "confidence",
        "estimates",
        "events",
        "headers",
        "intervals",
        "json_scan",
        "limiter",
        "looks",
        "rounds",
        "pacing",
        "packs",
        "prompts",
        "recovery",
    }
    | {"refusals", "replies", "sizing"},
    {"advice", "audit", "books", "cascade", "dialects", "leases", "pairs", "pilot", "requests", "steady"},
    {"lent", "votes"},
    {
        "batch_calls",
        "batches",
        "connections",
        "ledger",
        "ledger_batches",
        "ledger_check",
        "ledger_file",
        "ledger_jobs",
        "ledger_lock",
        "ledger_rows",
        "local",
        "pricing",
    }
    | {"providers", "tokens", "transport", "wire"},
    {"account", "crew", "journal", "lots", "slots", "sources", "verdicts"},
    {"job", "lanes"},
    {"columns", "options", "standing", "telling"},
    {"arrow", "auditing", "desk", "intake", "progress", "results"},
    {"borrowing", "collecting", "lender", "voting"},
    {"attempts"},
    {"notebook", "runner", "testing"},
    {"sync"},
    {"frames"},
    {"__init__"},
    FACES,
    {"__main__"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = sorted((ROOT / "packer").rglob("*.py"))
# What was one file and became several is still one room: its files may name each other
ROOMS = [
    {"records", "task"},
    {"answers", "json_scan"},
    {"limiter", "rounds"},
    {"advice", "pilot"},
    {"headers", "refusals", "replies"},
    {"ledger", "ledger_batches", "ledger_check", "ledger_file", "ledger_jobs", "ledger_lock", "ledger_rows"},
    {"batch_calls", "batches", "connections", "local", "providers", "tokens", "transport", "wire"},
    FACES,
]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "packer").with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "packer":
            parts = node.module.split(".")
            found |= (
                {".".join(parts[1:])}
                if len(parts) > 1
                else {name.name for name in node.names} & FLOOR_OF.keys() or {"__init__"}
            )
        elif isinstance(node, ast.Import):
            found |= {name.name.partition(".")[2] for name in node.names if name.name.startswith("packer.")}
    return found


def in_type_checking(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for inner in node.body:
                if isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("packer."):
                    found.add(str(inner.module).partition(".")[2])
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_from_lower_floors_only(path: Path) -> None:
    own = FLOOR_OF[name_of(path)]
    for name in imports_of(path) - in_type_checking(path):
        same_room = any({name_of(path), name} <= room for room in ROOMS)
        assert FLOOR_OF[name] < own or same_room, f"{name_of(path)} imports {name} from the same floor or above"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_opens_with_its_rule_and_stays_under_its_length(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 450


@pytest.mark.parametrize("name", sorted(FLOORS[2] | FLOORS[3] | FLOORS[4]))
def test_the_core_knows_no_clock_randomness_disk_network_or_asyncio(name: str) -> None:
    source = ast.parse((ROOT / "packer" / f"{name}.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(source) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(source) if isinstance(node, ast.ImportFrom)}
    roots = {module.split(".")[0] for module in imported}
    assert not roots & {"asyncio", "time", "random", "secrets", "os", "socket", "pathlib", "threading", "sqlite3"}


def test_coverage_is_asked_for_the_words_and_the_core() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]
    core = sorted(set().union(*FLOORS[:5]))
    assert settings["run"]["include"] == [f"packer/{name}.py" for name in core]
    assert settings["report"]["fail_under"] == 100


def test_a_file_whose_branches_are_not_counted_is_there() -> None:
    assert {path.stem for path in (ROOT / "tests").glob("test_*.py")} >= UNCOUNTED


def test_the_public_names_are_there_and_sorted() -> None:
    assert list(packer.__all__) == sorted(packer.__all__)
    for name in packer.__all__:
        assert getattr(packer, name).__module__.startswith("packer") or name == "Event"


def test_no_file_names_a_machine_path_or_a_registry() -> None:
    words = [
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "registry.npmjs" + ".org",
        "deb.debian" + ".org",
        "/work" + "/main",
    ]
    for path in ROOT.rglob("*"):
        hidden = any(part.startswith(".") and part != ".ci" for part in path.relative_to(ROOT).parts)
        if path.is_file() and not hidden and path.suffix in {".py", ".md", ".toml", ".txt", ".sh", ".json", ".csv"}:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [word for word in words if word in text], path


def test_python_is_as_old_as_the_project_says() -> None:
    assert sys.version_info >= (3, 11)
