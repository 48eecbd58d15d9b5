"""Every exception that packer raises, split by what the caller does next.

::

    PackerError
    ├── CallError          the call or the input is wrong; nothing was sent       (exit code 2)
    │   ├── TaskError      the task is: labels, record, examples, a task file
    │   ├── InputError     the table is: file, column, line, encoding
    │   └── PriceError     a money cap needs a price, and none is known
    ├── LedgerError        the ledger cannot be used                              (exit code 5)
    │   ├── LedgerInUse    another process holds it
    │   ├── LedgerForeign  the file is not a ledger
    │   ├── LedgerNewer    it was written by a later version
    │   ├── LedgerDamaged  its pages or rows contradict themselves
    │   ├── LedgerFull     the disk has no room for another row
    │   └── LedgerReadOnly it cannot be written
    ├── LeaseLost          a worker was taken for lost, and may go on no more     (label its part again)
    ├── StoppedError       the job stopped before its end and can be resumed      (exit code 4)
    ├── TransportError     one request failed; `recovery.next_step` decides what follows
    └── StillWaiting       one request goes on in a batch at the gateway, unwatched

The message says what was wanted and where; the facts are attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pydantic

    from packer.exchange import Buckets, Charge
    from packer.items import Result


class PackerError(Exception):
    """The root of all that packer raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # it may be raised in one process and met in another, and what its class is called with is not what it says
        return _remake, (type(self), self.args, self.__dict__)


class CallError(PackerError):
    """The call or the input is wrong; nothing was sent."""


class TaskError(CallError):
    """The task cannot be used; `where` is the key at fault (`examples[2].label`), or empty."""

    def __init__(self, where: str, wanted: str) -> None:
        super().__init__(f"{where}: {wanted}" if where else wanted)
        self.where = where
        self.wanted = wanted


class InputError(CallError):
    """The input table cannot be read; `line` counts from 1, None where no line is at fault."""

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class PriceError(CallError):
    """A money cap was asked for and the model's price is unknown."""


class LedgerError(PackerError):
    """The ledger at `path` cannot be used."""

    def __init__(self, path: Path | str, message: str) -> None:
        super().__init__(f"ledger {path}: {message}")
        self.path = path


class LedgerInUse(LedgerError):
    """Another process holds the ledger."""


class LedgerForeign(LedgerError):
    """The file exists and is not a ledger."""


class LedgerNewer(LedgerError):
    """The ledger was written by a later version of packer."""


class LedgerDamaged(LedgerError):
    """The ledger's pages or rows contradict themselves."""


class LedgerFull(LedgerError):
    """The disk has no room for another row."""


class LedgerReadOnly(LedgerError):
    """The ledger, or its folder, cannot be written."""


class LeaseLost(PackerError):
    """A worker was silent for too long: what it was lent is lent to others, and what it was asking is asked by them."""


class StoppedError(PackerError):
    """The job stopped before its end; `results` holds every item's state, and a second call goes on."""

    def __init__(self, reason: str, results: Sequence[Result] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.results = results


class Failure(StrEnum):
    """How one request failed, in the kinds between which recovery distinguishes."""

    RATE_LIMITED = "rate limited"  # 429: wait; no attempt is used up
    OVERLOADED = "overloaded"  # 5xx, 529: resend later; what was charged is unknown
    QUOTA = "quota"  # 402, insufficient_quota, a daily cap: stop
    KEY_REFUSED = "key refused"  # 401, 403: stop
    UNKNOWN_MODEL = "unknown model"  # the gateway does not serve this name: stop
    TOO_LONG = "too long"  # 400 about length, 413: split
    BAD_REQUEST = "bad request"  # another 400, 404, 422: split, and stop when nothing was ever accepted
    SETTING_REFUSED = "setting refused"  # 400 about one optional parameter: resend without it
    CONFLICT = "conflict"  # 408, 409: in doubt, resend
    NOT_SENT = "not sent"  # DNS, refused, connect time-out: nothing left this machine
    LOST = "lost"  # reset, EOF before headers, deadline: in doubt
    CUT = "cut"  # the headers came, the body did not: the charge may be known
    MALFORMED = "malformed"  # HTTP 200 and no chat completion in it
    UNTRUSTED = "untrusted"  # certificate, redirect: stop
    CANCELLED = "cancelled"  # somebody has cancelled the batch that it was in, before its turn: stop


class TransportError(PackerError):
    """One request failed.

    `failure` is its kind. `status` is the HTTP status, None where there was no reply. `retry_after` is in
    seconds, None where the gateway gave none. `charge` is what the gateway says it took, None where it does
    not say. `setting` names the refused parameter of a SETTING_REFUSED. `buckets` is what it told of its limits, None
    for nothing. `may_be_billed`: no charge can be read, and work was done or a charge was told, whatever the kind.
    """

    def __init__(
        self,
        failure: Failure,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        charge: Charge | None = None,
        balance: Decimal | None = None,
        setting: str | None = None,
        buckets: Buckets | None = None,
        may_be_billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.status = status
        self.retry_after = retry_after
        self.charge = charge
        self.balance = balance
        self.setting = setting
        self.buckets = buckets
        self.may_be_billed = may_be_billed


class StillWaiting(PackerError):
    """What was sent goes on in a batch at the gateway, and nobody waits for it any more; the next run collects it.

    `reason` says why it is not waited for, empty where the job has stopped.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "left in a batch at the gateway")
        self.reason = reason


def read_first_error(invalid: pydantic.ValidationError) -> tuple[str, str]:
    """The first of what pydantic found: where, as a path, and what was wanted."""
    first = invalid.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return path, first["msg"]


def _remake(kind: type[PackerError], args: tuple[Any, ...], facts: dict[str, Any]) -> PackerError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error
