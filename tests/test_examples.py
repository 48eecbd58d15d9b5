"""Every example runs, offline, from an empty folder, and prints a line an item."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(example: Path, in_folder: Path) -> None:
    if example.stem == "label_query":
        for name in ("duckdb", "narwhals", "pyarrow"):
            pytest.importorskip(name, reason=f"the example asks {name}, which is not installed")
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    assert "Traceback" not in done.stderr


def test_these_are_among_them() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "label_query",
        "label_script",
        "record_task",
        "rehearsal",
        "single_texts",
    }
