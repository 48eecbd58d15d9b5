"""What was bought alone is an answer for everybody: the job that follows a pilot does not buy it again.

A text that is asked alone is asked as a job with packs of one asks it, so that its answer may stand under the ordinary
key too. It is copied, with an attempt that cost nothing, and only where no answer stands there. An answer out of a pack
is not copied: it is one only to who asks in such packs.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from packer.auditing import ASK
from packer.exchange import Charge, ChargeSource
from packer.items import normalise_text
from packer.ledger import AttemptState, Closed, Ledger, Opened
from packer.requests import PARAMETERS, make_keys
from packer.task import Task

_OUTCOME = "asked alone by a pilot"


def adopt_singles(ledger: Ledger, *, task: Task, model: str, texts: Iterable[str], name: str) -> int:
    """Let the answers to `texts` that were asked alone count for `task` and `model`; how many had none before.

    `name` is that of the job which bought them. Raises `LedgerError`.
    """
    alone, ordinary = make_keys(task, model, ASK), make_keys(task, model)
    keys = {alone(text): ordinary(text) for text in map(normalise_text, texts)}
    answers = {keys[key]: value for key, value in ledger.find(list(keys)).items()}
    known = ledger.find(list(answers))
    fresh = {key: value for key, value in answers.items() if key not in known}
    if not fresh:
        return 0
    job = ledger.start_job(name, {"task": task.fingerprint, "model": model, "parameters": dict(PARAMETERS)})
    changes: list[Opened | Closed] = []
    nothing = Charge(Decimal(0), ChargeSource.FREE)
    for attempt, (key, value) in enumerate(fresh.items(), ledger.next_attempt()):
        changes.append(Opened(attempt, job, (key,), 1, Decimal(0)))
        changes.append(Closed(attempt, AttemptState.SETTLED, _OUTCOME, nothing, None, 0.0, {key: value}))
    ledger.commit(changes)
    ledger.end_job(job, "finished", {})
    return len(fresh)
