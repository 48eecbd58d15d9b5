"""`schemas/` and the models say the same, in both directions; nothing opens the documents at run time."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schema_documents import SCHEMAS, drawn, written
from strategies import tasks

from packer.events import AttemptEnded, CanaryHit, Event, JobStopped
from packer.exchange import Charge, ChargeSource
from packer.items import Status
from packer.prompts import write_answer
from packer.task import Task, TaskFile
from packer.usage import Usage

ROOT = SCHEMAS.parent
NAMES = ["answer", "calibration", "evaluation", "event", "report", "result", "task"]


def schema(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("name", NAMES)
def test_the_document_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name)["$id"] == f"urn:prompt-packer:{name}"


@pytest.mark.parametrize("file", sorted(drawn()))
def test_the_document_is_drawn_from_its_model(file: str) -> None:
    wanted = written(drawn()[file])
    assert (SCHEMAS / file).read_text(encoding="utf-8") == wanted, "run: python tests/schema_documents.py"


@pytest.mark.no_cover
@given(tasks(), st.data())
def test_every_answer_that_we_write_passes_the_document(task: Task, data: st.DataObject) -> None:
    if task.record_schema is None:
        labels = data.draw(st.lists(st.sampled_from(sorted(task.labels)), max_size=5))
        answer = json.loads(write_answer(task, "k7f2", dict(enumerate(labels, 1))))
        jsonschema.validate(answer, schema("answer"))


@pytest.mark.parametrize(
    "answer",
    [
        {"answers": []},
        {"pack": "k", "answers": [{"label": "spam"}]},
        {"pack": "k", "answers": [["spam", 1]]},
        {"pack": "k", "answers": ["spam"]},
        {"pack": "k", "answers": ["0 spam"]},
        {"pack": "k", "answers": [{"n": 0, "label": "spam"}]},
        {"pack": "k", "answers": [[1, "spam", 2]]},
    ],
)
def test_what_is_no_answer_does_not_pass_the_document(answer: Any) -> None:
    assert not jsonschema.Draft202012Validator(schema("answer")).is_valid(answer)


TASK_FILES = st.fixed_dictionaries(
    {},
    optional={
        "instructions": st.text(max_size=5) | st.integers(),
        "labels": st.lists(st.text(max_size=3), max_size=3)
        | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3)
        | st.integers()
        | st.none(),
        "record": st.dictionaries(st.text(max_size=3), st.integers(), max_size=2) | st.none() | st.text(max_size=2),
        "examples": st.lists(
            st.fixed_dictionaries(
                {"text": st.text(max_size=3) | st.integers()},
                optional={
                    "label": st.text(max_size=3) | st.none(),
                    "record": st.dictionaries(st.text(), st.none()),
                    "x": st.none(),
                },
            ),
            max_size=2,
        ),
        "canaries": st.lists(
            st.fixed_dictionaries(
                {"text": st.text(max_size=3) | st.integers()},
                optional={"label": st.text(max_size=3) | st.none(), "record": st.none()},
            ),
            max_size=2,
        ),
        "shape": st.sampled_from(["object", "pair", "line", "round", None]),
        "unknown": st.just(1),
    },
)


@given(TASK_FILES)
def test_a_task_file_passes_the_model_exactly_where_it_passes_the_document(content: dict[str, Any]) -> None:
    try:
        TaskFile.model_validate(content)
        passes = True
    except pydantic.ValidationError:
        passes = False
    assert jsonschema.Draft202012Validator(schema("task")).is_valid(content) == passes


def test_events_as_json_pass_the_document() -> None:
    from decimal import Decimal

    ended = AttemptEnded(
        1, 20, 1, 20, "20 of 20 answers", "accept", 1.5, Usage(1, 2), Charge(Decimal("0.1"), ChargeSource.HEADER)
    )
    adapter: pydantic.TypeAdapter[Event] = pydantic.TypeAdapter(Event)
    for event in (ended, CanaryHit(1, 5, {"spam": "ham", "ham": None}), JobStopped("budget")):
        jsonschema.validate(adapter.dump_python(event, mode="json"), schema("event"))


def test_the_states_of_a_result_are_those_of_the_document() -> None:
    assert schema("result")["properties"]["status"]["enum"] == [status.value for status in Status]


def test_nothing_opens_the_documents_at_run_time() -> None:
    for path in (ROOT / "packer").rglob("*.py"):
        assert "schema.json" not in path.read_text(encoding="utf-8").replace("task.schema.json` is the same", ""), path


def test_the_documents_are_in_no_package() -> None:
    assert not list(Path(SCHEMAS).glob("*.py"))
