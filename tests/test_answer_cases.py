"""How replies really go wrong: every case of `schemas/cases/answer`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from packer.answers import parse_answer
from packer.task import Task

CASES = Path(__file__).resolve().parents[1] / "schemas" / "cases" / "answer"


def every_case() -> Iterator[Any]:
    for path in sorted(CASES.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            for test in group["tests"]:
                name = f"{path.stem}: {group['description']}: {test['description']}"
                yield pytest.param(group, test, id=name)


EVERY_CASE = list(every_case())


@pytest.mark.parametrize(("group", "test"), EVERY_CASE)
def test_a_reply_gives_what_its_case_says(group: Mapping[str, Any], test: Mapping[str, Any]) -> None:
    given = group["task"]
    task = Task(given.get("labels"), record=given.get("record"), shape=given.get("shape"))
    answer = parse_answer(test["data"], task=task, nonce=group["nonce"], count=group["count"])
    assert {str(number): row for number, row in answer.rows.items()} == test["rows"]
    assert answer.rejected == test.get("rejected", False)
    assert [str(defect) for defect in answer.defects] == test.get("defects", [])
    assert test["valid"] == (not answer.defects and len(answer.rows) == group["count"])


def test_there_are_enough_cases_and_each_has_a_name_of_its_own() -> None:
    names = [case.id for case in EVERY_CASE]
    assert len(names) >= 60
    assert len(set(names)) == len(names)
