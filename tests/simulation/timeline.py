"""A history as lines for a person: what was sent, shown and left on the disk, run by run."""

from collections.abc import Iterator

from simulation.history import History, Run, Sent


def write_timeline(history: History) -> Iterator[str]:
    """The lines."""
    cap, last = history.cap or "none", history.last_cap or "none"
    yield f"seed {history.seed}: {len(history.texts)} texts, cap {cap}, then {last}"
    requests = {sent.number: sent for sent in history.requests}
    for run in history.runs:
        yield from _write_run(run, [requests[number] for number in run.sent])


def _write_run(run: Run, requests: list[Sent]) -> Iterator[str]:
    yield f"run {run.number}{', hold' if run.hold else ''}"
    for sent in requests:
        told = "not told" if sent.told is None else f"told {sent.told}"
        texts = ", ".join(ascii(text[:20]) for text in sent.texts[:4]) + (", ..." if len(sent.texts) > 4 else "")
        yield f"  {sent.at:9.3f} s  request {sent.number} ({sent.nonce}), {len(sent.texts)}: {texts}"
        yield f"               {sent.fate}, billed {sent.billed} of at most {sent.worst}, {told}"
    states = [str(shown.result.status) for shown in run.shown]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    yield f"  shown: {counts or 'nothing'}"
    spending = run.after.spending
    money = f"settled {spending.settled}, in doubt {spending.doubt}, open {spending.open}"
    yield f"  disk: {len(run.after.answers)} answers, {money}"
    if run.died_at is not None:
        yield f"  killed at: {run.died_at}"
    if run.error is not None:
        yield f"  ended with {type(run.error).__name__}: {run.error}"
    if run.statistics is not None and run.statistics.stopped is not None:
        yield f"  stopped: {run.statistics.stopped}"
