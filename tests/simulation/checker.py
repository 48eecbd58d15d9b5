"""Every claim is a sentence of the laws, and a function that finds where a history breaks it.

Nothing here knows how packer works, only what it promises: the gateway's own log, the screen and the disk are held
against each other. `CLAIMS` lists the claims by name; a claim yields one sentence for each violation.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

from packer.errors import Failure, LedgerError
from packer.exchange import ChargeSource
from packer.items import Result, Status, normalise_text
from packer.ledger import Attempt, AttemptState, Spending
from packer.usage import is_amount
from simulation.history import History, Image, Run, Sent

# What a fate means. A fate that stands in no row is a reply that was read, whatever was wrong with it.
FATAL = {Failure.KEY_REFUSED, Failure.QUOTA, Failure.UNKNOWN_MODEL, Failure.UNTRUSTED}
REFUSED = {Failure.RATE_LIMITED, Failure.TOO_LONG, Failure.BAD_REQUEST, Failure.SETTING_REFUSED, Failure.NOT_SENT}
REFUSED |= FATAL  # nothing is billed: the reserve may be freed
LOST = {Failure.OVERLOADED, Failure.LOST, Failure.CONFLICT, Failure.CUT}  # in doubt where no charge was told
UNREAD = {str(failure) for failure in REFUSED | LOST | {Failure.MALFORMED}}

# What one pack may cost, from the table in docs/design.md: its rows "429", "5xx, lost, cut, malformed", "400 about an
# optional setting", and all answers together ("cut at max_tokens": five raises; "a single ...: once more")
_RATE_LIMITED = 60
_FAILURES = 8
_ANSWERS = 6
# Packs that one text stands in: 100 items at most, and a pack that is asked in parts is at least halved
_PACKS = 8
# Refused settings that one text meets: eight, then one more for each pack that it stands in
_SETTINGS = 8 + _PACKS

# Seconds. A wait of an hour is the longest that is obeyed, with a quarter of jitter; one request has 120 seconds
_LONGEST_SILENCE = 2 * 3_600.0
_LONGEST_STEP = 120.0 + 1.25 * 3_600.0 + 1.25 * 60.0
# After two hours of silence one failure more ends the job, unless it splits a pack or ends its items: 30 in a row do
_LONGEST_GAP = _LONGEST_SILENCE + _LONGEST_STEP + 30 * 120.0
# From a reply's arrival to the end of its commit: what leaves meanwhile counts as in flight
_COMMIT = 1.0
_ROUNDING = 1e-6

_NANO = Decimal("1e-9")
_NOTHING = Decimal(0)
_EMPTY = Image((), {}, Spending(_NOTHING, _NOTHING, _NOTHING), ())
_TOLD = {ChargeSource.HEADER, ChargeSource.PROXY, ChargeSource.BODY}


@dataclass(frozen=True)
class Evidence:
    """A history and what follows from it for several claims: which attempt stands for which request."""

    history: History

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The job's texts as they are sent, in the input's order; an empty one is empty."""
        return tuple(normalise_text(text) for text in self.history.texts)

    @cached_property
    def text_of(self) -> Mapping[str, str]:
        """The texts that can be asked, by their ledger keys."""
        return {self.history.key(text): text for text in self.texts if text}

    @cached_property
    def arrivals(self) -> Mapping[tuple[str, str], list[Sent]]:
        """The requests whose replies gave a text a label, by both."""
        found: dict[tuple[str, str], list[Sent]] = defaultdict(list)
        for sent in self.history.requests:
            for text, label in sent.arrived.items():
                found[text, label].append(sent)
        return found

    @cached_property
    def _sent(self) -> Mapping[int, tuple[Sent, ...]]:
        return {
            run.number: tuple(sent for sent in self.history.requests if sent.number in run.sent)
            for run in self.history.runs
        }

    @cached_property
    def _matches(self) -> Mapping[int, tuple[Mapping[int, Attempt], tuple[Attempt, ...]]]:
        return {run.number: _match(self.sent(run), self.fresh(run), self.keys) for run in self.history.runs}

    def sent(self, run: Run) -> tuple[Sent, ...]:
        """The requests of a run."""
        return self._sent[run.number]

    def keys(self, sent: Sent) -> tuple[str, ...]:
        """The ledger keys of a request's texts."""
        return tuple(self.history.key(text) for text in sent.texts)

    def fresh(self, run: Run) -> tuple[Attempt, ...]:
        """The attempts that a run has opened."""
        old = {attempt.id for attempt in disk(run).attempts}
        return tuple(attempt for attempt in run.after.attempts if attempt.id not in old)

    def attempt(self, run: Run, sent: Sent) -> Attempt | None:
        """The attempt that stands for a request, as its run left it; None where none was written."""
        return self._matches[run.number][0].get(sent.number)

    def unsent(self, run: Run) -> tuple[Attempt, ...]:
        """The attempts of a run whose requests never reached the gateway."""
        return self._matches[run.number][1]

    def written(self, run: Run) -> Iterator[tuple[Sent, Attempt]]:
        """The requests of a run that have an attempt, with it."""
        for sent in self.sent(run):
            attempt = self.attempt(run, sent)
            if attempt is not None:
                yield sent, attempt

    def cap(self, run: Run) -> Decimal | None:
        """The cap of a run."""
        return self.history.last_cap if run is self.history.runs[-1] else self.history.cap

    def images(self) -> Iterator[tuple[str, Image]]:
        """Every image in the order of time, and when it was taken."""
        for run in self.history.runs:
            yield f"before run {run.number}", disk(run)
            yield f"after run {run.number}", run.after

    def parked(self, run: Run) -> set[str]:
        """The keys that were in doubt, or open, when a run began, and had no answer."""
        doubtful = (a for a in disk(run).attempts if a.state in {AttemptState.DOUBT, AttemptState.OPEN})
        return {key for attempt in doubtful for key in attempt.keys} - disk(run).answers.keys()

    def come_into_doubt(self, run: Run) -> Iterator[Sent]:
        """The requests of a run whose fate it could not know: no reply came and no charge was told."""
        for sent, attempt in self.written(run):
            if attempt.state is AttemptState.DOUBT or (sent.fate in LOST and told(sent) is None):
                yield sent


Claim: TypeAlias = Callable[[Evidence], Iterator[str]]


def check(history: History) -> list[str]:
    """What is wrong with a history: one sentence for each violation of a claim; empty where all claims hold."""
    evidence = Evidence(history)
    return [f"{name}: {sentence}" for name, claim in CLAIMS.items() for sentence in claim(evidence)]


def told(sent: Sent) -> Decimal | None:
    """The charge that the client was told; None where none was, or what was told is no amount."""
    return sent.told if sent.told is not None and is_amount(sent.told) else None


def disk(run: Run) -> Image:
    """What was on the disk when a run began."""
    return _EMPTY if run.before is None else run.before


def ended(run: Run) -> bool:
    """Whether a run ended by itself and without an error."""
    return run.died_at is None and run.error is None


def booked(attempt: Attempt) -> Decimal:
    """What stands in the ledger for an attempt."""
    if attempt.charge is not None:
        return attempt.charge.usd
    return _NOTHING if attempt.state is AttemptState.FREED else attempt.reserve or _NOTHING


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
    total = _NOTHING  # a dishonest request passes its worst case, and the cap, by its excess
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
        excess = sum((max(_NOTHING, booked(a) - (a.reserve or _NOTHING)) for a in fresh), _NOTHING)
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
            if attempt.state is not AttemptState.SETTLED or got != _to_ledger(charge):
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
    billed = excess = _NOTHING
    for run in evidence.history.runs:
        billed += sum((sent.billed for sent in evidence.sent(run)), _NOTHING)
        for sent, attempt in evidence.written(run):
            # what nobody was told, or a process that died was, cannot be booked
            if not sent.honest and (attempt.charge is None or attempt.charge.source not in _TOLD):
                excess += sent.billed - sent.worst
        settled = [a for a in run.after.attempts if a.state is AttemptState.SETTLED and a.charge is not None]
        least = sum((a.charge.usd for a in settled if a.charge and a.charge.source in _TOLD), _NOTHING)
        most = _total(run.after)
        if not least - len(settled) * _NANO <= billed <= most + excess:
            yield f"run {run.number}: {billed} USD are billed so far, and {least} to {most} USD are booked"


def the_ledgers_sums_add_up(evidence: Evidence) -> Iterator[str]:
    for when, image in evidence.images():
        states = {state: [a for a in image.attempts if a.state is state] for state in AttemptState}
        sums = {state: sum(map(booked, attempts), _NOTHING) for state, attempts in states.items()}
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


# Law 5: however requests fail, a pack of n items costs a bounded number of them


def a_pack_costs_a_bounded_number(evidence: Evidence) -> Iterator[str]:
    bounds = {"rate limited": _RATE_LIMITED, "failed": _FAILURES, "answered": _ANSWERS}
    for run in evidence.history.runs:
        counts = Counter(
            (sent.texts, _kind(sent)) for sent in evidence.sent(run) if sent.fate != Failure.SETTING_REFUSED
        )
        for (texts, kind), count in counts.items():
            if count > bounds[kind]:
                yield f"run {run.number}: the pack {texts!r} was {kind} {count} times, and {bounds[kind]} is the most"


def a_text_costs_a_bounded_number(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        settings = Counter(
            text for sent in evidence.sent(run) if sent.fate == Failure.SETTING_REFUSED for text in sent.texts
        )
        for text, count in settings.items():
            if count > _SETTINGS:
                yield f"run {run.number}: {text!r} met {count} refused settings, and {_SETTINGS} is the most"
        packs = Counter(text for pack in {sent.texts for sent in evidence.sent(run)} for text in pack)
        for text, count in packs.items():
            if count > _PACKS:
                yield f"run {run.number}: {text!r} stood in {count} packs, and {_PACKS} is the most"


def a_run_costs_a_bounded_number(evidence: Evidence) -> Iterator[str]:
    # n texts stand in fewer than 2n packs, however they are asked in parts, and each pack has its own bound
    most = 2 * len({text for text in evidence.texts if text})
    for run in evidence.history.runs:
        packs = {sent.texts for sent in evidence.sent(run)}
        if len(packs) > most:
            yield f"run {run.number}: it asked for {len(packs)} different packs, and {most} is the most"


# Law 6: stops rather than loops


def nothing_leaves_after_a_fatal_refusal(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        yield from _late(evidence, run, lambda sent, _: f"was {sent.fate}" if sent.fate in FATAL else "")


def nothing_leaves_after_a_charge_over_its_reserve(evidence: Evidence) -> Iterator[str]:
    def words(sent: Sent, attempt: Attempt) -> str:
        charge = told(sent)
        if charge is None or attempt.reserve is None or _to_ledger(charge) <= attempt.reserve:
            return ""
        return f"was charged {charge} USD, over its reserve of {attempt.reserve} USD,"

    for run in evidence.history.runs:
        yield from _late(evidence, run, words)


# The ledger


def the_ledger_has_no_problems(evidence: Evidence) -> Iterator[str]:
    for when, image in evidence.images():
        for problem in image.problems:
            yield f"{when}: {problem}"


def an_ended_run_leaves_nothing_open(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        for attempt in run.after.attempts:
            if ended(run) and attempt.state is AttemptState.OPEN:
                yield f"run {run.number}: it ended, and attempt {attempt.id} is open"


def what_was_open_is_in_doubt(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        after = {attempt.id: attempt for attempt in run.after.attempts}
        # a process that died while it began has done nothing else either
        began = ended(run) or bool(run.sent) or bool(evidence.fresh(run))
        for attempt in disk(run).attempts:
            left = after.get(attempt.id)
            if attempt.state is not AttemptState.OPEN or left is None:
                continue
            if left.state is AttemptState.OPEN and not began:
                continue
            if left.state is not AttemptState.DOUBT or left.charge is not None:
                yield (
                    f"run {run.number}: attempt {attempt.id} was open with {attempt.reserve} USD, and is {left.state} "
                    f"with {booked(left)} USD"
                )


def an_attempt_stays_as_it_was_closed(evidence: Evidence) -> Iterator[str]:
    for (_, earlier), (when, later) in pairwise(evidence.images()):
        left = {attempt.id: attempt for attempt in later.attempts}
        # what was open is closed by the run that finds it, which is another claim; between two runs nothing is
        may_close = when.startswith("after")
        for attempt in earlier.attempts:
            now = left.get(attempt.id)
            if now is None:
                yield f"{when}: attempt {attempt.id} is gone"
            elif _opened(now) != _opened(attempt):
                yield f"{when}: attempt {attempt.id} was {_opened(attempt)} and is {_opened(now)}"
            elif now != attempt and not (may_close and attempt.state is AttemptState.OPEN):
                yield (
                    f"{when}: attempt {attempt.id} was {attempt.state} with {booked(attempt)} USD, and is {now.state} "
                    f"with {booked(now)} USD"
                )


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


# The statistics


def requests_are_the_runs_attempts(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if not ended(run) or run.statistics is None:
            continue
        # an attempt that was taken back when the job stopped is in the ledger, and is no request
        least, most = len(evidence.sent(run)), len(evidence.fresh(run))
        if not least <= run.statistics.requests <= most:
            said = run.statistics.requests
            yield f"run {run.number}: the statistics say {said} requests; {least} arrived, {most} were written down"


def charge_sources_are_the_runs(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if not ended(run) or run.statistics is None:
            continue
        settled = (a for a in evidence.fresh(run) if a.state is AttemptState.SETTLED)
        kept = dict(Counter(a.charge.source for a in settled if a.charge is not None))
        said = dict(run.statistics.charge_sources)
        if said != kept:
            yield f"run {run.number}: the statistics say {_named(said)}, and the ledger has {_named(kept)}"


def levels_add_up(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        if not ended(run) or run.statistics is None:
            continue
        levels = run.statistics.levels
        settled = [a for a in evidence.fresh(run) if a.state is AttemptState.SETTLED]
        answers = len(run.after.answers) - len(disk(run).answers)
        items, requests = sum(level.items for level in levels), sum(level.requests for level in levels)
        if items != answers:
            yield f"run {run.number}: its levels have {items} items, and the ledger has {answers} answers more"
        if requests > len(settled):
            yield f"run {run.number}: its levels have {requests} requests, and {len(settled)} are settled"
        usd = sum((level.usd for level in levels if level.usd is not None), _NOTHING)
        charged = sum(map(booked, settled), _NOTHING)
        if not usd <= charged + len(settled) * _NANO:
            yield f"run {run.number}: its levels have {usd} USD, and {charged} USD are settled"
        for level in levels:
            if level.usd is not None and level.items and level.usd_an_item != level.usd / level.items:
                yield (
                    f"run {run.number}: {level.items} items for {level.usd} USD at {level.least} in flight come to "
                    f"{level.usd_an_item} USD each"
                )
        for one, other in pairwise(levels):
            if one.most >= other.least:
                yield f"run {run.number}: one level ends at {one.most}, and the next begins at {other.least}"


# The clock


def a_run_ends_in_time(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        most = (1 + len(evidence.fresh(run))) * _LONGEST_STEP
        if run.seconds > most:
            yield f"run {run.number}: it took {run.seconds} seconds, and {most} is the most for what it sent"
        if ended(run) and run.statistics is not None and run.statistics.seconds > run.seconds + _ROUNDING:
            yield f"run {run.number}: the statistics say {run.statistics.seconds} seconds, and it took {run.seconds}"
        sent = evidence.sent(run)
        if sent and sent[-1].at - sent[0].at > run.seconds + _ROUNDING:
            yield f"run {run.number}: requests left over {sent[-1].at - sent[0].at} seconds, and it took {run.seconds}"


def silence_ends_a_run(evidence: Evidence) -> Iterator[str]:
    for run in evidence.history.runs:
        heard: list[float] = []
        for sent in evidence.sent(run):
            # the first request begins the silence; so does what was read by now
            last = max((at for at in heard if at <= sent.at), default=sent.at)
            if sent.at - last > _LONGEST_GAP:
                yield (
                    f"run {run.number}: request {sent.number} left {sent.at - last} seconds after the last answer, "
                    f"and {_LONGEST_GAP} is the most"
                )
            if not heard:
                heard.append(sent.at)
            attempt = evidence.attempt(run, sent)
            if sent.fate not in UNREAD and attempt is not None:
                heard.append(sent.at + (attempt.seconds or 0.0))


CLAIMS: Mapping[str, Claim] = {
    "record: requests are numbered through all runs": requests_are_numbered,
    "record: a run ends by itself, by a kill, or because the ledger cannot be used": only_the_ledger_ends_a_run_early,
    "record: requests leave and results come in the order of time": time_goes_forward,
    "law 1: each text is shown once, in the input's order": each_text_is_shown_once,
    "law 1: what is labelled has a label, anything else a reason": a_state_is_whole,
    "law 1: the statistics count what was shown": statistics_count_what_was_shown,
    "law 1: an empty text fails and is never sent": an_empty_text_fails,
    "law 1: copies of a text end alike": copies_end_alike,
    "law 1: a text is pending only where the job stopped": pending_means_stopped,
    "law 2: a label is the right one": a_label_is_the_right_one,
    "law 2: no label comes out of nothing": no_label_out_of_nothing,
    "law 2: a request asks for texts of the job, each once": requests_hold_the_jobs_texts,
    "law 3: an answer that was committed stays": an_answer_stays,
    "law 3: a label is committed before it is shown": a_label_is_committed_before_it_is_shown,
    "law 3: an answer is committed with its charge": an_answer_is_committed_with_its_charge,
    "law 3: an answer whose request was booked is kept": an_answer_that_was_booked_is_kept,
    "law 3: what is shown as known was known": what_is_known_was_there_before,
    "law 3: what had an answer when the run began is not sent": what_has_an_answer_is_not_sent,
    "law 3: what was shown as labelled is not sent": what_was_shown_is_not_sent,
    "law 3: what a run has bought it does not buy again": what_was_answered_is_not_bought_again,
    "law 4: what is billed stays under the cap": the_bill_stays_under_the_cap,
    "law 4: what is booked stays under the cap": the_ledger_stays_under_the_cap,
    "law 4: a request is written down with its worst cost before it leaves": a_request_is_written_down_first,
    "law 4: a charge that was told is booked exactly": what_was_told_is_booked,
    "law 4: a reply that was lost stays booked at its reserve": a_lost_reply_keeps_its_reserve,
    "law 4: unknown is never zero": unknown_is_never_zero,
    "law 4: a reserve is freed only where nothing was billed": only_what_cost_nothing_is_freed,
    "law 4: nothing is charged that was not sent": nothing_is_charged_that_was_not_sent,
    "law 4: the true bill lies within what is booked": the_bill_lies_within_what_is_booked,
    "law 4: the ledger's sums are those of its attempts": the_ledgers_sums_add_up,
    "law 4: the statistics' sums are the ledger's": the_statistics_sums_are_the_ledgers,
    "hold: what was in doubt is not sent": what_was_in_doubt_is_not_sent,
    "hold: what comes into doubt is not sent again": what_comes_into_doubt_is_not_sent_again,
    "hold: what is in doubt is shown so": what_is_in_doubt_is_shown_so,
    "hold: only what is in doubt is shown so": doubt_is_shown_only_where_it_is,
    "law 5: one pack costs a bounded number of requests": a_pack_costs_a_bounded_number,
    "law 5: one text costs a bounded number of requests": a_text_costs_a_bounded_number,
    "law 5: one run costs a bounded number of requests": a_run_costs_a_bounded_number,
    "law 6: nothing leaves after a fatal refusal": nothing_leaves_after_a_fatal_refusal,
    "law 6: nothing leaves after a charge over its reserve": nothing_leaves_after_a_charge_over_its_reserve,
    "ledger: it has no problems": the_ledger_has_no_problems,
    "ledger: an ended run leaves no attempt open": an_ended_run_leaves_nothing_open,
    "ledger: what was open is in doubt, with its reserve": what_was_open_is_in_doubt,
    "ledger: an attempt stays as it was closed": an_attempt_stays_as_it_was_closed,
    "last: every text that can be labelled is labelled": the_last_run_labels_everything,
    "statistics: requests are the run's attempts": requests_are_the_runs_attempts,
    "statistics: charge sources are those of the run's attempts": charge_sources_are_the_runs,
    "statistics: levels add up": levels_add_up,
    "clock: a run ends in time": a_run_ends_in_time,
    "clock: silence ends a run": silence_ends_a_run,
}


def _late(evidence: Evidence, run: Run, words: Callable[[Sent, Attempt], str]) -> Iterator[str]:
    """The requests that left after a reply that stops the job: one for which `words` are not empty."""
    for sent, attempt in evidence.written(run):
        said = words(sent, attempt)
        if not said or attempt.seconds is None:
            continue
        arrived = sent.at + attempt.seconds
        late = [other for other in evidence.sent(run) if other.at > arrived + _COMMIT]
        if late:
            yield (
                f"run {run.number}: request {sent.number} {said} at {arrived}, and {len(late)} left after it, "
                f"request {late[0].number} at {late[0].at}"
            )


def _match(
    sent: Sequence[Sent], attempts: Sequence[Attempt], keys: Callable[[Sent], tuple[str, ...]]
) -> tuple[Mapping[int, Attempt], tuple[Attempt, ...]]:
    """The attempt of each request by its number, and the attempts without one.

    A pack has its requests one after the other, so that those of equal texts are matched in their order. Where some of
    them never reached the gateway, those are left out that best explain the rest.
    """
    requests: dict[tuple[str, ...], list[Sent]] = defaultdict(list)
    written: dict[tuple[str, ...], list[Attempt]] = defaultdict(list)
    for one in sent:
        requests[keys(one)].append(one)
    for attempt in sorted(attempts, key=lambda attempt: attempt.id):
        written[attempt.keys].append(attempt)
    matched = {
        number: attempt
        for pack, asked in requests.items()
        for number, attempt in _align(asked, written.get(pack, [])).items()
    }
    taken = {attempt.id for attempt in matched.values()}
    return matched, tuple(attempt for attempt in attempts if attempt.id not in taken)


def _align(sent: Sequence[Sent], attempts: Sequence[Attempt]) -> dict[int, Attempt]:
    if len(sent) >= len(attempts):
        return {one.number: attempt for one, attempt in zip(sent, attempts, strict=False)}
    # best[n]: the least strangeness of the attempts so far with the first n requests among them, and who is whose
    best: list[tuple[int, dict[int, Attempt]]] = [(0, {})]
    for seen, attempt in enumerate(attempts, 1):
        following: list[tuple[int, dict[int, Attempt]]] = []
        for count in range(min(seen, len(sent)) + 1):
            choices = []
            if count < len(best):
                strange, pairs = best[count]
                choices.append((strange + (attempt.state is AttemptState.SETTLED), pairs))
            if count:
                strange, pairs = best[count - 1]
                one = sent[count - 1]
                choices.append((strange + (not _is_plausible(one, attempt)), {**pairs, one.number: attempt}))
            following.append(min(choices, key=lambda choice: choice[0]))
        best = following
    return best[len(sent)][1]


def _is_plausible(sent: Sent, attempt: Attempt) -> bool:
    if attempt.reserve is not None and attempt.reserve < sent.worst:
        return False
    if attempt.state is AttemptState.OPEN:
        return True
    if told(sent) is not None:
        return attempt.state is AttemptState.SETTLED
    return (attempt.state is AttemptState.FREED) == (sent.fate in REFUSED)


def _kind(sent: Sent) -> str:
    if sent.fate == Failure.RATE_LIMITED:
        return "rate limited"
    return "failed" if sent.fate in UNREAD else "answered"


def _opened(attempt: Attempt) -> tuple[object, ...]:
    return attempt.job, attempt.keys, attempt.number, attempt.reserve


def _total(image: Image) -> Decimal:
    return image.spending.settled + image.spending.doubt + image.spending.open


def _to_ledger(usd: Decimal) -> Decimal:
    return usd.quantize(_NANO, ROUND_CEILING)


def _named(counts: Mapping[ChargeSource, int]) -> str:
    return ", ".join(f"{count} by {source}" for source, count in sorted(counts.items())) or "no charge"
