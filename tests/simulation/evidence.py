"""What follows from a history for several claims: what a fate means, and which attempt stands for which request."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cached_property
from typing import TypeAlias

from packer.errors import Failure
from packer.exchange import ChargeSource
from packer.items import normalise_text
from packer.ledger import Attempt, AttemptState, Spending
from packer.usage import is_amount
from simulation.history import History, Image, Run, Sent

# What a fate means. A fate that stands in no row is a reply that was read, whatever was wrong with it.
FATAL = {Failure.KEY_REFUSED, Failure.QUOTA, Failure.UNKNOWN_MODEL, Failure.UNTRUSTED}
REFUSED = {Failure.RATE_LIMITED, Failure.TOO_LONG, Failure.BAD_REQUEST, Failure.SETTING_REFUSED, Failure.NOT_SENT}
REFUSED |= FATAL  # nothing is billed: the reserve may be freed
LOST = {Failure.OVERLOADED, Failure.LOST, Failure.CONFLICT, Failure.CUT}  # in doubt where no charge was told
UNREAD = {str(failure) for failure in REFUSED | LOST | {Failure.MALFORMED}}

NANO = Decimal("1e-9")
NOTHING = Decimal(0)
EMPTY = Image((), {}, Spending(NOTHING, NOTHING, NOTHING), ())
TOLD = {ChargeSource.HEADER, ChargeSource.PROXY, ChargeSource.BODY}


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


def told(sent: Sent) -> Decimal | None:
    """The charge that the client was told; None where none was, or what was told is no amount."""
    return sent.told if sent.told is not None and is_amount(sent.told) else None


def disk(run: Run) -> Image:
    """What was on the disk when a run began."""
    return EMPTY if run.before is None else run.before


def ended(run: Run) -> bool:
    """Whether a run ended by itself and without an error."""
    return run.died_at is None and run.error is None


def booked(attempt: Attempt) -> Decimal:
    """What stands in the ledger for an attempt."""
    if attempt.charge is not None:
        return attempt.charge.usd
    return NOTHING if attempt.state is AttemptState.FREED else attempt.reserve or NOTHING


def to_ledger(usd: Decimal) -> Decimal:
    return usd.quantize(NANO, ROUND_CEILING)


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
