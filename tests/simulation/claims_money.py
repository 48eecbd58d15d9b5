"""Claims of the laws 3 and 4: what was paid for is kept, and money is set aside before it is spent. And of `hold`."""

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

from packer.items import Status, normalise_text
from packer.ledger import Attempt, AttemptState
from simulation.evidence import LOST, NANO, NOTHING, REFUSED, TOLD, Evidence, booked, disk, ended, to_ledger, told
from simulation.history import Image

# Law 3: what was paid for is kept


def an_answer_stays(evidence: Evidence) -> Iterator[str]:
    for (_, earlier), (when, later) in pairwise(evidence.images()):
        for key, value in earlier.answers.items():
            if key not in later.answers:
                yield f"{when}: the answer {value!r} for {evidence.text_of.get(key, key)!r} is gone"
            elif later.answers[key] != value:
                text = evidence.text_of.get(key, key)
                yield f"{when}: the answer for {text!r} was {value!r} and is {later.answers[key]!r}"


def a_label_is_committed_before_it_is_shown(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for shown in run.shown:
            label = shown.result.label
            if label is None:
                continue
            text = normalise_text(shown.result.item.text)
            kept = run.after.answers.get(evidence.history.key(text))
            if kept != label:
                yield f"run {run.number}: {text!r} was shown as {label!r}, and the ledger has {kept!r} for it"


def an_answer_is_committed_with_its_charge(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        old = disk(run).answers
        givers: dict[str, list[Attempt]] = defaultdict(list)
        for sent, attempt in evidence.written(run):
            for text in sent.arrived:
                givers[evidence.history.key(text)].append(attempt)
        for key in run.after.answers.keys() - old.keys():
            attempts = givers.get(key, [])
            if attempts and all(attempt.state is not AttemptState.SETTLED for attempt in attempts):
                states = ", ".join(f"{attempt.id} is {attempt.state}" for attempt in attempts)
                text = evidence.text_of.get(key, key)
                yield f"run {run.number}: the ledger has an answer for {text!r}, and of its attempts {states}"


def an_answer_that_was_booked_is_kept(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for sent, attempt in evidence.written(run):
            if attempt.state is not AttemptState.SETTLED:
                continue
            for text, label in sent.arrived.items():
                if evidence.history.key(text) not in run.after.answers:
                    yield (
                        f"run {run.number}: request {sent.number} brought {label!r} for {text!r} and is settled, "
                        "and the ledger has no answer"
                    )


def what_is_known_was_there_before(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        seen: set[str] = set()
        for shown in run.shown:
            text, result = normalise_text(shown.result.item.text), shown.result
            # copies of a text share its answer, so that only the first of them may have cost something
            known = text in seen or evidence.history.key(text) in disk(run).answers
            if result.known != (known and result.status is Status.LABELLED):
                words = "was" if known else "was not"
                yield f"run {run.number}: {result.item.text!r} is shown with known={result.known}, and {words} known"
            seen.add(text)


def what_has_an_answer_is_not_sent(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        answers = disk(run).answers
        for sent in evidence.sent(run):
            for text in sent.texts:
                value = answers.get(evidence.history.key(text))
                if value is not None:
                    yield f"run {run.number}: request {sent.number} asks for {text!r}, which was {value!r} before"


def what_was_shown_is_not_sent(evidence: Evidence) -> Iterator[str]:
    shown_after: dict[str, tuple[int, int]] = {}
    for run in evidence.history.runs:
        for shown in run.shown:
            if shown.result.status is Status.LABELLED:
                shown_after.setdefault(normalise_text(shown.result.item.text), (shown.sent_before, run.number))
    for sent in evidence.history.requests:
        for text in sent.texts:
            before, run_number = shown_after.get(text, (len(evidence.history.requests), 0))
            if sent.number > before:
                yield (
                    f"run {sent.run}: request {sent.number} asks for {text!r}, which run {run_number} showed as "
                    f"labelled after {before} requests"
                )


def what_was_answered_is_not_bought_again(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        bought: dict[str, int] = {}
        for sent in evidence.sent(run):
            for text in sent.texts:
                if text in bought:
                    yield f"run {run.number}: request {sent.number} asks for {text!r}, which {bought[text]} answered"
            attempt = evidence.attempt(run, sent)
            if attempt is not None and attempt.state is AttemptState.SETTLED:
                bought |= dict.fromkeys(sent.arrived, sent.number)


# Law 4: money is reserved before it is spent


def the_bill_stays_under_the_cap(evidence: Evidence) -> Iterator[str]:
    total = NOTHING  # a dishonest request passes its worst case, and the cap, by its excess
    for run in evidence.history.runs:
        cap = evidence.cap(run)
        for sent in evidence.sent(run):
            if cap is not None and total + sent.worst > cap:
                yield (
                    f"run {run.number}: {total} USD were billed when request {sent.number} left, which may cost "
                    f"{sent.worst} USD, and the cap is {cap} USD"
                )
            total += min(sent.billed, sent.worst)


def the_ledger_stays_under_the_cap(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        cap = evidence.cap(run)
        if cap is None:
            continue
        before, after, fresh = _total(disk(run)), _total(run.after), evidence.fresh(run)
        excess = sum((max(NOTHING, booked(a) - (a.reserve or NOTHING)) for a in fresh), NOTHING)
        if after - excess > max(cap, before):
            yield f"run {run.number}: {after} USD are booked ({excess} over their reserves), and the cap is {cap} USD"


def a_request_is_written_down_first(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for sent in evidence.sent(run):
            attempt = evidence.attempt(run, sent)
            if attempt is None:
                yield f"run {run.number}: request {sent.number} for {sent.texts!r} has no attempt in the ledger"
            elif attempt.reserve is None or attempt.reserve < sent.worst:
                yield (
                    f"run {run.number}: request {sent.number} can cost {sent.worst} USD, and attempt {attempt.id} "
                    f"has a reserve of {attempt.reserve} USD"
                )


def what_was_told_is_booked(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for sent, attempt in evidence.written(run):
            charge = told(sent)
            if charge is None or (attempt.state is AttemptState.OPEN and not ended(run)):
                continue
            got = attempt.charge.usd if attempt.charge is not None else None
            if attempt.state is not AttemptState.SETTLED or got != to_ledger(charge):
                yield (
                    f"run {run.number}: request {sent.number} was charged {charge} USD, and attempt {attempt.id} is "
                    f"{attempt.state} with {got} USD"
                )


def a_lost_reply_keeps_its_reserve(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for sent, attempt in evidence.written(run):
            if sent.fate not in LOST or told(sent) is not None:
                continue
            if attempt.state not in {AttemptState.DOUBT, AttemptState.OPEN} or attempt.charge is not None:
                yield (
                    f"run {run.number}: request {sent.number} was lost ({sent.fate}), and attempt {attempt.id} is "
                    f"{attempt.state} with {booked(attempt)} of its {attempt.reserve} USD"
                )


def unknown_is_never_zero(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for sent, attempt in evidence.written(run):
            if told(sent) is not None or sent.fate in REFUSED or sent.fate in LOST:
                continue
            least = min(sent.billed, sent.worst)
            if attempt.state is not AttemptState.FREED and booked(attempt) < least:
                yield (
                    f"run {run.number}: request {sent.number} was told no charge and billed {sent.billed} USD, and "
                    f"attempt {attempt.id} has {booked(attempt)} USD"
                )


def only_what_cost_nothing_is_freed(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for sent, attempt in evidence.written(run):
            # lost replies have a claim of their own
            if attempt.state is not AttemptState.FREED or sent.fate in LOST or told(sent) is not None:
                continue
            if sent.fate not in REFUSED or sent.billed:
                yield (
                    f"run {run.number}: the reserve of attempt {attempt.id} is freed, and its request {sent.number} "
                    f"was {sent.fate} and billed {sent.billed} USD"
                )


def nothing_is_charged_that_was_not_sent(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for attempt in evidence.unsent(run):
            if attempt.state is AttemptState.SETTLED:
                yield f"run {run.number}: attempt {attempt.id} has {booked(attempt)} USD, and no request arrived"


def the_bill_lies_within_what_is_booked(evidence: Evidence) -> Iterator[str]:
    billed = excess = NOTHING
    for run in evidence.history.runs:
        billed += sum((sent.billed for sent in evidence.sent(run)), NOTHING)
        for sent, attempt in evidence.written(run):
            # what nobody was told, or a process that died was, cannot be booked
            if not sent.honest and (attempt.charge is None or attempt.charge.source not in TOLD):
                excess += sent.billed - sent.worst
        settled = [a for a in run.after.attempts if a.state is AttemptState.SETTLED and a.charge is not None]
        least = sum((a.charge.usd for a in settled if a.charge and a.charge.source in TOLD), NOTHING)
        most = _total(run.after)
        if not least - len(settled) * NANO <= billed <= most + excess:
            yield f"run {run.number}: {billed} USD are billed so far, and {least} to {most} USD are booked"


def the_ledgers_sums_add_up(evidence: Evidence) -> Iterator[str]:
    for when, image in evidence.images():
        states = {state: [a for a in image.attempts if a.state is state] for state in AttemptState}
        sums = {state: sum(map(booked, attempts), NOTHING) for state, attempts in states.items()}
        spending = image.spending
        pairs = {
            "USD settled": (spending.settled, sums[AttemptState.SETTLED]),
            "USD in doubt": (spending.doubt, sums[AttemptState.DOUBT]),
            "USD open": (spending.open, sums[AttemptState.OPEN]),
            "requests in doubt": (spending.doubt_requests, len(states[AttemptState.DOUBT])),
            "texts in doubt": (spending.doubt_texts, sum(len(a.keys) for a in states[AttemptState.DOUBT])),
        }
        for name, (said, summed) in pairs.items():
            if said != summed:
                yield f"{when}: the ledger says {said} {name}, and its attempts come to {summed}"


def the_statistics_sums_are_the_ledgers(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if not ended(run) or run.statistics is None:
            continue
        statistics, spending = run.statistics, run.after.spending
        pairs = {
            "USD settled": (statistics.settled, spending.settled),
            "USD in doubt": (statistics.in_doubt, spending.doubt),
            "USD reserved": (statistics.reserved, spending.open),
            "requests in doubt": (statistics.doubt_requests, spending.doubt_requests),
            "texts in doubt": (statistics.doubt_texts, spending.doubt_texts),
            "requests of unknown cost": (statistics.unpriced, spending.unknown),
            "requests in flight": (statistics.in_flight, 0),
        }
        for name, (said, kept) in pairs.items():
            if said != kept:
                yield f"run {run.number}: the statistics say {said} {name}, and the ledger has {kept}"


# --on-doubt hold: what is in doubt is parked


def what_was_in_doubt_is_not_sent(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        parked = evidence.parked(run) if run.hold else set()
        for sent in evidence.sent(run):
            for text in sent.texts:
                if evidence.history.key(text) in parked:
                    yield f"run {run.number}: request {sent.number} asks for {text!r}, which was in doubt before"


def what_comes_into_doubt_is_not_sent_again(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if not run.hold:
            continue
        doubtful: dict[str, int] = {}
        for doubted in evidence.come_into_doubt(run):
            for text in doubted.texts:
                doubtful.setdefault(text, doubted.number)
        for sent in evidence.sent(run):
            for text in sent.texts:
                if sent.number > doubtful.get(text, sent.number):
                    yield (
                        f"run {run.number}: request {sent.number} asks for {text!r}, which has been in doubt since "
                        f"request {doubtful[text]}"
                    )


def what_is_in_doubt_is_shown_so(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if not run.hold:
            continue
        parked = {evidence.text_of.get(key, "") for key in evidence.parked(run)}
        doubtful = {text for sent in evidence.come_into_doubt(run) for text in sent.texts}
        for shown in run.shown:
            text, status = normalise_text(shown.result.item.text), shown.result.status
            if text in parked | doubtful and status not in {Status.DOUBT, Status.LABELLED}:
                yield f"run {run.number}: {text!r} is in doubt, and is shown as {status}"


def doubt_is_shown_only_where_it_is(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        states = {AttemptState.DOUBT, AttemptState.OPEN}
        doubtful = {key for a in run.after.attempts if a.state in states for key in a.keys}
        for shown in run.shown:
            text = normalise_text(shown.result.item.text)
            if shown.result.status is not Status.DOUBT:
                continue
            if not run.hold:
                yield f"run {run.number}: {text!r} is shown as in doubt, and nothing is held"
            elif evidence.history.key(text) not in doubtful:
                yield f"run {run.number}: {text!r} is shown as in doubt, and none of its attempts is"


def _total(image: Image) -> Decimal:
    return image.spending.settled + image.spending.doubt + image.spending.open
