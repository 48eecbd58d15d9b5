"""All that can be observed while a job runs. Events tell; nothing in packer listens to them to decide.

`ask` tells whose event it is: empty for the job's own runner, else how a sibling asks (see `Runner.sibling`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

from packer.exchange import Charge, ChargeSource
from packer.usage import Usage

if TYPE_CHECKING:
    import pydantic


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job begins; `job` is its number in the ledger."""

    job: int
    model: str
    task: str  # the fingerprint
    ask: str = ""


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A request leaves. `attempt` is its number in the ledger, `number` counts this pack's requests from 1."""

    attempt: int
    items: int
    number: int
    max_tokens: int
    ask: str = ""


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """A request has ended, whichever way.

    `outcome` is in words (`20 answers`, `18 of 20 answers: ...`, `rate limited: ...`); `step` is what follows it.
    """

    attempt: int
    items: int
    number: int
    sound: int
    outcome: str
    step: str
    seconds: float
    usage: Usage | None
    charge: Charge | None
    ask: str = ""


@dataclass(frozen=True, slots=True)
class CanaryHit:
    """A pack of an untrusted job is suspect: none of its rows is accepted, and its items are asked one by one.

    `missed` holds, for each canary that came back wrong, its right label and the label that came; None for no row.
    """

    attempt: int
    items: int
    missed: Mapping[str, str | None]
    ask: str = ""


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """The number of requests that may be in flight has changed."""

    limit: int
    ask: str = ""


@dataclass(frozen=True, slots=True)
class PackSizeChanged:
    """The size of the next packs has changed."""

    size: int
    ask: str = ""


@dataclass(frozen=True, slots=True)
class Paused:
    """Nothing is sent for `seconds`: the gateway asks for it, or answers nobody."""

    seconds: float
    ask: str = ""


@dataclass(frozen=True, slots=True)
class SettingRefused:
    """The gateway refuses an optional setting; the job goes on without it."""

    setting: str
    ask: str = ""


@dataclass(frozen=True, slots=True)
class Audited:
    """Packed items were asked again, each alone: told when the promise breaks, and when the last one is answered.

    `agreed` of `asked` got the same answer. The share that did not lies between `low` and `high` (95 %); `broken` where
    it is over `promise`, so that packs became smaller.
    """

    asked: int
    agreed: int
    low: float
    high: float
    promise: float
    broken: bool
    ask: str = ""


@dataclass(frozen=True, slots=True)
class BatchStands:
    """How a batch stands, whenever it was looked at; `batch` is its number in the ledger, `id` the gateway's.

    `state` is in the gateway's words. Before there is a batch it is `gathered`, then `uploaded`, and `id` is empty; it
    is `given up` where none came of that. `ended` of its `requests` have, `failed` of these without an answer;
    `expires` is when the gateway gives up the rest, in Unix seconds, None where it does not say.
    """

    batch: int
    id: str
    state: str
    ended: int
    failed: int
    requests: int
    expires: int | None
    ask: str = ""


@dataclass(frozen=True, slots=True)
class JobStopped:
    """The job sends nothing more; what is in flight is kept."""

    reason: str
    ask: str = ""


Event: TypeAlias = (
    JobStarted
    | AttemptStarted
    | AttemptEnded
    | CanaryHit
    | LimitChanged
    | PackSizeChanged
    | Paused
    | SettingRefused
    | Audited
    | BatchStands
    | JobStopped
)


@dataclass(frozen=True, slots=True)
class Level:
    """What answers cost whose requests left while `least` to `most` requests were in flight, themselves included.

    `items` are sound rows, `usd` what was charged for them; `usd_an_item` and `items_a_second` follow (the pace by
    Little's law: in flight = pace x time). None where it is unknown.
    """

    least: int
    most: int
    requests: int
    items: int
    usd: Decimal | None
    usd_an_item: Decimal | None
    items_a_second: float | None


@dataclass(frozen=True, slots=True)
class Statistics:
    """How a job stands. Items that have not ended yet are in `items` and in no other count.

    `known` items were labelled without a request of their own: from the ledger, or with an identical text. `settled`
    and `in_doubt` are USD, `reserved` is set aside for what is in flight; `assumed` is the part of `settled` that
    nobody told: the worst case of answers that came without a charge. `doubt_requests` may have been billed without a
    word, and asked for `doubt_texts` texts; `unpriced` counts requests whose cost nobody knows. All of these but
    `reserved` include earlier runs of the same job, and what siblings spend counts as the runner's own does. `levels`
    show cost and pace as more was in flight. `balance` is the last one that the gateway told. `stopped` is the reason
    why nothing more is sent, None while the job runs or when it has finished. `canaries_asked` were sent among the
    items of an untrusted job, and `canary_hits` packs were rejected because of them.
    """

    items: int
    labelled: int
    failed: int
    doubt: int
    pending: int
    known: int
    packs: int
    requests: int
    in_flight: int
    limit: int
    pack_size: int
    usage: Usage
    settled: Decimal
    in_doubt: Decimal
    assumed: Decimal
    reserved: Decimal
    unpriced: int
    doubt_requests: int
    doubt_texts: int
    balance: Decimal | None
    charge_sources: Mapping[ChargeSource, int]
    levels: tuple[Level, ...]
    seconds: float
    stopped: str | None
    refused_settings: tuple[str, ...]
    canaries_asked: int
    canary_hits: int


@functools.cache
def statistics_adapter() -> pydantic.TypeAdapter[Statistics]:
    """What writes statistics as JSON, and reads them again."""
    import pydantic  # noqa: PLC0415  slow

    return pydantic.TypeAdapter(Statistics)
