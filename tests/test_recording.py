"""What a report remembers of a run is bounded, covers the whole run, and adds up to its statistics."""

import itertools
from dataclasses import replace
from decimal import Decimal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standing_still import NOTHING

from packer.events import AttemptEnded, JobStopped
from packer.items import Decision, Item, Result, Status
from packer.recording import MOST_MOMENTS, MOST_UNANSWERED, Doubtful, Recorder

ZERO = Decimal(0)


def ended(outcome: str, step: str) -> AttemptEnded:
    return AttemptEnded(1, 20, 1, 0, outcome, step, 1.0, None, None)


@pytest.mark.parametrize("hours", [0.01, 1, 24, 24 * 30])
def test_a_timeline_is_as_long_for_a_month_as_for_an_hour(hours: float) -> None:
    recorder = Recorder()
    looks = 4_000
    for look in range(looks):
        recorder.sample(replace(NOTHING, seconds=look * hours * 3600 / looks, labelled=look))
    end = replace(NOTHING, seconds=hours * 3600, labelled=looks)
    times = [moment.seconds for moment in recorder.finish(end).timeline]
    assert MOST_MOMENTS / 3 < len(times) <= MOST_MOMENTS
    assert [times[0], times[-1]] == pytest.approx([0, hours * 3600])
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps) < 2.1 * hours * 3600 / len(times) + 0.25


@given(st.lists(st.floats(0, 100), max_size=600))
def test_a_timeline_only_goes_forward_and_ends_with_the_last_moment(waits: list[float]) -> None:
    recorder, now = Recorder(), 0.0
    for wait in waits:
        now += wait
        recorder.sample(replace(NOTHING, seconds=now))
    times = [moment.seconds for moment in recorder.finish(replace(NOTHING, seconds=now)).timeline]
    assert times == sorted(set(times))
    assert times[-1] == round(now, 3)
    assert len(times) <= MOST_MOMENTS


def test_requests_are_counted_by_how_they_failed_or_by_the_step_that_followed() -> None:
    recorder = Recorder()
    for outcome, step in [
        ("20 of 20 answers", "accept"),
        ("18 of 20 answers: unknown label @ $[3]", "split"),
        ("0 of 1 answers: rate limited: a defect's words", "giveup"),
        ("rate limited: the gateway says: accept", "resend"),
        ("rate limited: again", "stop"),
    ]:
        recorder.event(ended(outcome, step))
    recorder.event(JobStopped("budget"))
    recorder.sample(NOTHING)
    recording = recorder.finish(replace(NOTHING, seconds=1))
    assert recording.outcomes == {"accept": 1, "split": 1, "give up": 1, "rate limited": 2}
    assert [moment.refused for moment in recording.timeline] == [2, 2]


def test_failed_and_doubtful_items_are_kept_before_pending_ones_in_the_inputs_order() -> None:
    recorder = Recorder()
    states = [Status.PENDING, Status.LABELLED, Status.FAILED, Status.DOUBT] * 30
    for number, status in enumerate(states, 1):
        recorder.result(f"text {number}", Result(Item(""), status, error=f"reason {number}"))
    kept = recorder.finish(NOTHING).unanswered
    assert len([item for item in kept if item.status is not Status.PENDING]) == 60
    assert [item.row for item in kept] == sorted(item.row for item in kept)
    assert all(item.text == f"text {item.row}" and item.reason == f"reason {item.row}" for item in kept)
    for _ in range(1_000):
        recorder.result("more", Result(Item(""), Status.FAILED))
    kept = recorder.finish(NOTHING).unanswered
    assert len(kept) == MOST_UNANSWERED
    assert Status.PENDING not in {item.status for item in kept}


def test_labels_that_are_in_doubt_still_are_kept_and_no_others() -> None:
    recorder = Recorder()
    for number, decision in enumerate([*Decision] * 200, 1):
        result = Result(Item(""), Status.LABELLED, label="spam", confidence=0.6, decision=decision, votes=3)
        recorder.result(f"text {number}", result)
    kept = recorder.finish(NOTHING).doubtful
    last = len(Decision)
    assert [item.row for item in kept] == list(range(last, last * MOST_UNANSWERED + 1, last))
    assert kept[0] == Doubtful(last, "spam", 0.6, 3, f"text {last}")
    assert recorder.finish(NOTHING).unanswered == []


def test_a_record_in_doubt_is_kept_as_json() -> None:
    class Finding(pydantic.BaseModel):
        topic: str

    recorder = Recorder()
    for record in ({"topic": "a"}, Finding(topic="a")):
        recorder.result("text", Result(Item(""), Status.LABELLED, record=record, decision=Decision.DOUBTFUL))
    assert [item.answer for item in recorder.finish(NOTHING).doubtful] == ['{"topic":"a"}'] * 2


def test_what_is_kept_of_a_text_is_short_and_can_be_written() -> None:
    recorder = Recorder()
    recorder.result("a\ud800\x1b[31m" + "x" * 10**6, Result(Item(""), Status.FAILED, error="y" * 10**6))
    (kept,) = recorder.finish(NOTHING).unanswered
    assert kept.text.startswith(r"a\ud800\x1b[31mx")
    assert len(kept.text) <= 160
    assert len(kept.reason) <= 300
    kept.text.encode()
