"""What a notebook or a prompt shows of results and of a task is short, and text stays text."""

import copy
import pickle
import re
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from fake_command import CHARGE
from rich.cells import cell_len
from selectolax.lexbor import LexborHTMLParser

import packer
from packer.errors import Failure, TransportError
from packer.shown import html_table, html_text
from packer.testing import FakeTransport

EVIL = "<script>alert('1')</script><b>&amp; $x$ \x1b[31m\u202e\n</td>"
TASK = packer.Task({"spam": "prizes, <b>fraud</b>", "ham": ""}, instructions="SMS.")


def label(texts: list[str], task: packer.Task = TASK, answer: Any = "spam", **options: Any) -> packer.Results:
    transport = FakeTransport(task, lambda text: answer, seconds=0, charge=CHARGE)
    return packer.label(texts, task=task, model="m", ledger=None, **{"transport": transport, **options})


def read(page: str) -> LexborHTMLParser:
    """What a browser makes of it: no element that is not ours, and nothing in attributes but ours."""
    tree = LexborHTMLParser(page)
    body = tree.css_first("body")
    assert body is not None
    assert {node.tag for node in body.traverse()} <= {"body", "div", "p", "table", "thead", "tbody", "tr", "th", "td"}
    for node in body.traverse():
        assert {*node.attributes} <= {"class", "style"}
    # between two dollar signs a notebook sees a formula, unless it is told not to
    assert tree.css_first("div.tex2jax_ignore.mathjax_ignore") is not None
    return tree


def cells(page: str) -> list[list[str]]:
    return [[cell.text() for cell in row.css("td")] for row in read(page).css("tbody tr")]


def test_results_are_a_list_that_knows_its_jobs_statistics() -> None:
    results = label(["a", "b", ""])
    assert isinstance(results, list)
    assert [result.status for result in results] == ["labelled", "labelled", "failed"]
    assert results == [*results]
    assert type(results[:2]) is list
    assert results.statistics.settled == Decimal("0.0001")
    for copied in (copy.copy(results), pickle.loads(pickle.dumps(results))):
        assert (copied, repr(copied), copied.statistics) == (results, repr(results), results.statistics)


def test_results_are_shown_as_a_count_the_cost_and_the_first_rows() -> None:
    results = label([f"text {number}" for number in range(12)] + [""])
    assert repr(results).splitlines() == [
        "items 13: 12 labelled, 1 failed",
        "cost $0.00010 (told by the gateway)",
        *(f"   {number}  spam  text {number}" for number in range(10)),
        "and 3 more rows",
    ]
    page = results._repr_html_()
    assert cells(page) == [[str(number), "spam", f"text {number}"] for number in range(10)]
    assert [line.text() for line in read(page).css("p")] == [
        "items 13: 12 labelled, 1 failed",
        "cost $0.00010 (told by the gateway)",
        "and 3 more rows",
    ]


def test_ten_results_are_shown_whole_and_none_are_shown_as_none() -> None:
    assert "more row" not in repr(label([f"{number}" for number in range(10)]))
    assert repr(label([])) == "items 0\ncost nothing in this run"
    assert cells(label([])._repr_html_()) == []


def test_a_hostile_text_stays_text_and_is_cut() -> None:
    results = label([EVIL, "<i>" * 1_000_000, "全角" * 100])
    rows = cells(results._repr_html_())
    assert rows[0][2] == r"<script>alert('1')</script><b>&amp; $x$ \x1b[31m\u202e </td>"
    assert rows[1][2].startswith("<i><i>")
    assert max(len(cell) for row in rows for cell in row) == 200
    shown = repr(results)
    assert max(map(cell_len, shown.splitlines())) == 80
    assert not re.search("[\x1b\u202e]", shown)
    assert len(shown.splitlines()) == 5


def test_hostile_labels_descriptions_and_instructions_stay_text() -> None:
    task = packer.Task({"<u>a</u>": EVIL, "b": ""}, instructions=EVIL, examples=[("x", "b")])
    page = task._repr_html_()
    escaped = r"<script>alert('1')</script><b>&amp; $x$ \x1b[31m\u202e </td>"
    assert cells(page) == [["<u>a</u>", escaped], ["b", ""]]
    assert [line.text() for line in read(page).css("p")] == [escaped, "examples: 1, canaries: 0, shape: line"]
    assert cells(label(["x"], task, "<u>a</u>")._repr_html_()) == [["0", "<u>a</u>", "x"]]


def test_a_task_with_many_labels_shows_the_first_fifty() -> None:
    page = packer.Task([f"label {number}" for number in range(77)])._repr_html_()
    assert len(cells(page)) == 50
    assert [line.text() for line in read(page).css("p")][0::2] == ["no instructions", "and 27 more"]


class Ticket(pydantic.BaseModel):
    topic: str
    urgent: bool


@pytest.mark.parametrize("record", [Ticket, Ticket.model_json_schema()])
def test_a_record_is_shown_by_its_fields(record: Any) -> None:
    task = packer.Task(record=record)
    assert [row[0] for row in cells(task._repr_html_())] == ["topic", "urgent"]
    results = label(["broken"], task, {"topic": "<b>", "urgent": True})
    assert cells(results._repr_html_()) == [["0", "topic: <b>, urgent: True", "broken"]]


def test_a_stopped_job_says_so_and_what_to_do_next() -> None:
    fault = TransportError(Failure.KEY_REFUSED, "no such key")
    transport = FakeTransport(TASK, lambda text: "spam", seconds=0, fault=lambda prompt, number: fault)
    with pytest.raises(packer.StoppedError) as stopped:
        label(["a", "b"], transport=transport)
    results = stopped.value.results
    assert isinstance(results, packer.Results)
    lines = repr(results).splitlines()
    assert lines[0] == "items 2: 2 pending"
    assert re.fullmatch(r"stopped: .*no such key.*; the same call again goes on", lines[2])
    assert lines[3].startswith("   0  (pending)")


def test_a_cell_is_at_most_200_characters_also_where_escapes_make_it_longer() -> None:
    assert html_text("a" * 200) == "a" * 200
    assert html_text("a" * 201) == "a" * 199 + "…"
    assert html_text("\x00" * 60) == r"\x00" * 49 + r"\x0" + "…"
    assert html_text("<&>\"'") == "&lt;&amp;&gt;&quot;&#x27;"
    assert "<p>" not in html_table([], ["a"], [["b"]])
