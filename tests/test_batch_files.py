"""A batch's files and standing as they are read: whatever a gateway writes, nothing is raised and nothing guessed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.batch_files import (
    ENDED,
    Result,
    next_look,
    read_id,
    read_page,
    read_results,
    read_standing,
    write_line,
)
from packer.errors import StillWaiting

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
STANDING = {
    "id": "batch_1",
    "status": "in_progress",
    "request_counts": {"total": 7, "completed": 3, "failed": 1},
    "input_file_id": "file-1",
    "output_file_id": "file-2",
    "error_file_id": None,
    "expires_at": 1_800_000_000,
    "metadata": {"packer": "a token"},
}


def good(ident: str, status: int = 200, body: Any = None) -> bytes:
    line = {"custom_id": ident, "response": {"status_code": status, "body": body}, "error": None}
    return json.dumps(line).encode()


def test_a_line_is_what_the_api_wants_with_the_bodys_fields_in_their_order() -> None:
    line = write_line("1-a", {"z": 1, "a": "é\n\ud800"})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "custom_id": "1-a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"z": 1, "a": "é\n\ud800"},
    }
    assert line.index(b'"z"') < line.index(b'"a"')


def test_a_standing_says_how_far_a_batch_is() -> None:
    found = read_standing(STANDING)
    assert found is not None
    assert (found.id, found.state, found.ran, found.total, found.has_ended) == ("batch_1", "in_progress", 4, 7, False)
    assert (found.file, found.output, found.errors, found.token) == ("file-1", "file-2", None, "a token")
    assert found.expires == 1_800_000_000
    assert found.refusal == {}


def test_a_batch_that_was_refused_says_why() -> None:
    found = read_standing(STANDING | {"status": "failed", "errors": {"data": [{"code": "x"}, {"code": "y"}]}})
    assert found is not None
    assert found.has_ended
    assert found.refusal == {"code": "x"}


@pytest.mark.parametrize("state", ["validating", "finalizing", "cancelling", *sorted(ENDED)])
def test_every_state_of_the_api_is_known(state: str) -> None:
    found = read_standing(STANDING | {"status": state})
    assert found is not None
    assert found.has_ended == (state in {"completed", "expired", "cancelled", "failed"})


@pytest.mark.parametrize(
    "body",
    [
        *(None, [], "batch", {}, STANDING | {"status": "well"}, STANDING | {"status": None}),
        *(STANDING | {"id": ident} for ident in (None, 7, "", "../files", "a/b", "a?b=c", "a#b", "x" * 201, ".a")),
    ],
)
def test_what_tells_of_no_batch_is_none(body: Any) -> None:
    assert read_standing(body) is None


def test_an_id_that_would_lead_elsewhere_is_none() -> None:
    found = read_standing(STANDING | {"output_file_id": "file-1/../../keys", "error_file_id": "a b"})
    assert found is not None
    assert found.output is found.errors is None
    assert read_id({"id": "file-1?x=/"}) is None
    assert read_id({"id": "file-abc.D:1"}) == "file-abc.D:1"


@pytest.mark.parametrize("counts", [None, {}, {"completed": -1, "failed": 2}, {"completed": 1, "failed": "2"}])
def test_counts_that_are_none_are_not_known(counts: Any) -> None:
    found = read_standing(STANDING | {"request_counts": counts})
    assert found is not None
    assert found.ran is None


def test_a_page_gives_its_batches_and_where_the_next_begins() -> None:
    page = {"data": [STANDING, {"nonsense": 1}, STANDING | {"id": "batch_2"}], "has_more": True}
    batches, after = read_page(page)
    assert [one.id for one in batches] == ["batch_1", "batch_2"]
    assert after == "batch_2"
    assert read_page(page | {"has_more": False})[1] is None
    assert read_page({"data": [], "has_more": True}) == ([], None)
    assert read_page({"data": 7}) == ([], None)


def test_results_are_found_by_their_ids_in_any_order_and_the_first_stands() -> None:
    failed = {"custom_id": "c", "response": None, "error": {"code": "batch_expired", "message": "too late"}}
    lines = [
        *(good("b", 400, {"error": 1}), b"nonsense", b"[]", b"7", good("of a stranger"), b'{"custom_id":["a"]}'),
        *(good("a", 200, {"x": 1}), good("a", 500), b"", json.dumps(failed).encode()),
    ]
    found = read_results(b"\n".join(lines), {"a", "b", "c", "d"})
    assert found == {
        "a": Result(200, {"x": 1}, "", ""),
        "b": Result(400, {"error": 1}, "", ""),
        "c": Result(None, None, "batch_expired", "too late"),
    }


@pytest.mark.parametrize("status", [None, "200", 200.0, True, 0, 1000])
def test_a_line_without_a_status_or_an_error_says_nothing(status: Any) -> None:
    line = {"custom_id": "a", "response": {"status_code": status}, "error": None}
    assert read_results(json.dumps(line).encode(), {"a"}) == {}


def test_a_cut_line_gives_no_result_and_those_before_it_stand() -> None:
    """ "A repaired or cut string never becomes a label": nor does a cut line."""
    data = good("a") + b"\n" + good("b")
    for end in range(len(data)):
        assert read_results(data[:end], {"a", "b"}).keys() <= {"a"}
    assert read_results(b"[" * 100_000, {"a"}) == {}


@given(JSON)
def test_no_reply_raises(body: Any) -> None:
    read_standing(body)
    read_standing(STANDING | {"errors": {"data": [body]}, "metadata": body, "request_counts": body})
    read_page({"data": [body], "has_more": True})
    read_id(body)
    read_results(json.dumps({"custom_id": "a", "response": body, "error": body}).encode(), {"a"})


def test_looks_come_quickly_at_first_and_then_once_a_minute() -> None:
    waits = [next_look(looks, jitter=0.5) for looks in range(40)]
    assert waits[0] == pytest.approx(0.2)
    assert waits == sorted(waits)
    assert waits[20:] == [60.0] * 20
    assert sum(waits[:15]) < 240
    assert next_look(10**6, jitter=0.0) == 45
    assert next_look(10**6, jitter=0.999) < 75


def test_what_nobody_waits_for_any_more_says_why() -> None:
    assert (str(StillWaiting()), StillWaiting().reason) == ("left in a batch at the gateway", "")
    assert (str(StillWaiting("no key")), StillWaiting("no key").reason) == ("no key", "no key")
