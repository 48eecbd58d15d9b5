"""Claims of the laws 1 and 2: every item ends once, with an answer that is its own. And the record itself is sound."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from packer.errors import LedgerError
from packer.items import Result, Status, normalise_text
from simulation.evidence import Evidence, ended

# The record itself: a history that contradicts itself proves nothing


def requests_are_numbered(evidence: Evidence) -> Iterator[str]:
    history = evidence.history
    numbers = [sent.number for sent in history.requests]
    ranges = [number for run in history.runs for number in run.sent]
    if not list(range(1, len(numbers) + 1)) == numbers == ranges:
        yield f"the runs have requests {ranges}, and the gateway {numbers}"
    for run in history.runs:
        for sent in evidence.sent(run):
            if sent.run != run.number:
                yield f"run {run.number}: request {sent.number} says it is of run {sent.run}"
        if ended(run) and run.statistics is None:
            yield f"run {run.number}: it ended by itself and has no statistics"


def only_the_ledger_ends_a_run_early(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if run.error is not None and not isinstance(run.error, LedgerError):
            yield f"run {run.number}: it ended with {type(run.error).__name__}: {run.error}"


def time_goes_forward(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for one, other in pairwise(evidence.sent(run)):
            if other.at < one.at:
                yield f"run {run.number}: request {other.number} left at {other.at}, and {one.number} at {one.at}"
        before = run.sent.start - 1
        for shown in run.shown:
            if not before <= shown.sent_before < run.sent.stop:
                text = shown.result.item.text
                yield f"run {run.number}: {text!r} was shown after {shown.sent_before} requests, the last one {before}"
            before = max(before, shown.sent_before)


# Law 1: every item ends in exactly one reported state


def each_text_is_shown_once(evidence: Evidence) -> Iterator[str]:
    texts = evidence.history.texts
    for run in evidence.history.runs:
        shown = tuple(one.result.item.text for one in run.shown)
        wanted = texts if ended(run) else texts[: len(shown)]
        for place, (got, text) in enumerate(zip(shown, wanted, strict=False), 1):
            if got != text:
                yield f"run {run.number}: result {place} is {got!r}, and the input has {text!r}"
                break
        if len(shown) != len(wanted):
            yield f"run {run.number}: {len(shown)} results for {len(wanted)} texts"


def a_state_is_whole(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for shown in run.shown:
            result = shown.result
            is_labelled = result.status is Status.LABELLED
            if (result.label is not None) != is_labelled or bool(result.error) == is_labelled:
                yield (
                    f"run {run.number}: {result.item.text!r} is {result.status}, with the label {result.label!r} "
                    f"and the reason {result.error!r}"
                )


def statistics_count_what_was_shown(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if not ended(run) or run.statistics is None:
            continue
        counts = Counter(shown.result.status for shown in run.shown)
        pairs = {
            "items": (run.statistics.items, len(run.shown)),
            "labelled": (run.statistics.labelled, counts[Status.LABELLED]),
            "failed": (run.statistics.failed, counts[Status.FAILED]),
            "doubt": (run.statistics.doubt, counts[Status.DOUBT]),
            "pending": (run.statistics.pending, counts[Status.PENDING]),
            "known": (run.statistics.known, sum(shown.result.known for shown in run.shown)),
        }
        for name, (said, counted) in pairs.items():
            if said != counted:
                yield f"run {run.number}: the statistics say {said} {name}, and {counted} were shown"


def an_empty_text_fails(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for shown in run.shown:
            result = shown.result
            if not normalise_text(result.item.text) and result.status is not Status.FAILED:
                yield f"run {run.number}: the empty text {result.item.text!r} is {result.status} and not failed"
    for sent in evidence.history.requests:
        if "" in sent.texts:
            yield f"run {sent.run}: request {sent.number} asks for an empty text"


def copies_end_alike(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        first: dict[str, Result] = {}
        for shown in run.shown:
            result = shown.result
            other = first.setdefault(normalise_text(result.item.text), result)
            if (result.status, result.label) != (other.status, other.label):
                yield (
                    f"run {run.number}: {other.item.text!r} is {other.status} {other.label!r}, "
                    f"and its copy {result.item.text!r} is {result.status} {result.label!r}"
                )


def pending_means_stopped(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if not ended(run) or run.statistics is None or run.statistics.stopped is not None:
            continue
        for shown in run.shown:
            if shown.result.status is Status.PENDING:
                yield f"run {run.number}: {shown.result.item.text!r} is pending, and the job did not stop"


# Law 2: an answer reaches only the item it names


def a_label_is_the_right_one(evidence: Evidence) -> Iterator[str]:
    gold = evidence.history.gold
    for run in evidence.history.runs:
        for shown in run.shown:
            text = normalise_text(shown.result.item.text)
            if shown.result.label is not None and shown.result.label != gold(text):
                yield f"run {run.number}: {text!r} is shown as {shown.result.label!r}, and is {gold(text)!r}"
    for when, image in evidence.images():
        for key, value in image.answers.items():
            text = evidence.text_of.get(key, "")
            if text and value != gold(text):
                yield f"{when}: the ledger has {value!r} for {text!r}, which is {gold(text)!r}"


def no_label_out_of_nothing(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for shown in run.shown:
            text, label = normalise_text(shown.result.item.text), shown.result.label
            # that it was given before it was shown is another claim: what was shown is not sent
            sources = evidence.arrivals.get((text, label or ""), [])
            if label is not None and not any(sent.number < run.sent.stop for sent in sources):
                yield f"run {run.number}: {text!r} is shown as {label!r}, which no reply gave it"
        for key, value in run.after.answers.items():
            text = evidence.text_of.get(key, "")
            sources = evidence.arrivals.get((text, str(value)), [])
            if not any(sent.number < run.sent.stop for sent in sources):
                yield f"after run {run.number}: the ledger has {value!r} for {text or key!r}, which no reply gave it"


def requests_hold_the_jobs_texts(evidence: Evidence) -> Iterator[str]:
    known = {*evidence.texts, ""}
    for sent in evidence.history.requests:
        for text, times in Counter(sent.texts).items():
            if text not in known:
                yield f"run {sent.run}: request {sent.number} asks for {text!r}, which is no text of the job"
            if times > 1:
                yield f"run {sent.run}: request {sent.number} asks for {text!r} {times} times"


# The last run: the gateway is well and there is money


def the_last_run_labels_everything(evidence: Evidence) -> Iterator[str]:
    run = evidence.history.runs[-1]
    if not ended(run):
        yield f"run {run.number}: the last run died at {run.died_at!r} or ended with {run.error!r}"
    elif run.statistics is not None and run.statistics.stopped is not None:
        yield f"run {run.number}: the last run stopped: {run.statistics.stopped}"
    for shown in run.shown:
        result = shown.result
        held = run.hold and result.status is Status.DOUBT
        its_own = result.status is Status.FAILED and result.error.startswith("too long")
        if normalise_text(result.item.text) and result.status is not Status.LABELLED and not held and not its_own:
            yield f"run {run.number}: {result.item.text!r} is {result.status} in the last run: {result.error}"
