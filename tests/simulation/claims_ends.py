"""Claims of the laws 5 and 6, of the ledger, the statistics and the clock: everything has an end, and adds up."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from packer.errors import Failure
from packer.exchange import ChargeSource
from packer.ledger import Attempt, AttemptState
from simulation.evidence import FATAL, NANO, NOTHING, UNREAD, Evidence, booked, disk, ended, to_ledger, told
from simulation.history import Run, Sent

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
        if charge is None or attempt.reserve is None or to_ledger(charge) <= attempt.reserve:
            return ""
        return f"was charged {charge} USD, over its reserve of {attempt.reserve} USD,"

    for run in evidence.history.runs:
        yield from _late(evidence, run, words)


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


def _kind(sent: Sent) -> str:
    if sent.fate == Failure.RATE_LIMITED:
        return "rate limited"
    return "failed" if sent.fate in UNREAD else "answered"


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


def _opened(attempt: Attempt) -> tuple[object, ...]:
    return attempt.job, attempt.keys, attempt.number, attempt.reserve


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
        usd = sum((level.usd for level in levels if level.usd is not None), NOTHING)
        charged = sum(map(booked, settled), NOTHING)
        if not usd <= charged + len(settled) * NANO:
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


def _named(counts: Mapping[ChargeSource, int]) -> str:
    return ", ".join(f"{count} by {source}" for source, count in sorted(counts.items())) or "no charge"
