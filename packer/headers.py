"""What a reply's headers tell about money and waiting. A header is hostile: a value that makes no sense tells nothing.

None means that nothing was told. No value raises, and none is read at more than linear cost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

from packer.exchange import Bucket, Buckets, Charge, ChargeSource
from packer.usage import is_amount

Headers: TypeAlias = Mapping[str, Sequence[str]]
"""Lower-case names to values, in the order in which they came."""

CHARGE_HEADER = "X-MDB-Charged-USD"
BALANCE_HEADER = "X-MDB-Balance-USD"
PROXY_COST_HEADER = "x-litellm-response-cost"

# Bounded lengths: a number of a million digits is quadratic to read, and no gateway sends one
_AMOUNT = re.compile(r"[0-9]{1,15}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,2})?")
_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{0,20})?")
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ns|us|µs|μs|ms|h|m|s))+")
_DURATION_PART = re.compile(r"([0-9.]+)([a-zµμ]+)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_DATE = 64
_MOST = 1e12  # of a bucket
_EPOCH_SECONDS = 1e9
_EPOCH_MILLISECONDS = 1e12


def read_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """`pairs` by lower-case name; a header that came twice has two values."""
    headers: dict[str, list[str]] = {}
    for name, value in pairs:
        headers.setdefault(name.lower(), []).append(value)
    return headers


def read_usd(value: Any) -> Decimal | None:
    """An amount of money, from 0 to a million USD, given as a decimal (`1.23e-05` too) or a JSON number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = value.strip() if isinstance(value, str) else repr(value)
    if _AMOUNT.fullmatch(text) is None:
        return None
    amount = Decimal(text)
    return amount if is_amount(amount) else None


def read_charge(headers: Headers, name: str = CHARGE_HEADER) -> Charge | None:
    """What the gateway says it took: the header `name`, else the proxy's; each only where it came exactly once."""
    for header, source in [(name, ChargeSource.HEADER), (PROXY_COST_HEADER, ChargeSource.PROXY)]:
        usd = _read_once(headers, header)
        if usd is not None:
            return Charge(usd, source)
    return None


def is_charge_garbled(headers: Headers, name: str = CHARGE_HEADER) -> bool:
    """Whether the header `name` came, and does not say what was taken: twice, or as no amount. An empty one is none."""
    return any(value.strip() for value in headers.get(name.lower(), ())) and _read_once(headers, name) is None


def read_balance(headers: Headers) -> Decimal | None:
    """What is left on the account, in USD; less than nothing where it is overdrawn."""
    told = headers.get(BALANCE_HEADER.lower(), ())
    if len(told) == 1 and told[0].strip().startswith("-"):
        owed = read_usd(told[0].strip()[1:])
        return None if owed is None else -owed
    return _read_once(headers, BALANCE_HEADER)


def read_retry_after(headers: Headers, *, now: float) -> float | None:
    """How many seconds the gateway asks to wait.

    `now` is Unix time; the reply's own Date is used instead where it has one, because a date is only meant by the
    gateway's clock. In this order: `retry-after-ms`; `retry-after`, in seconds or as an HTTP date; the longest reset of
    the buckets of which nothing remains.
    """
    now = next(filter(None, map(_read_date, headers.get("date", ()))), now)
    waits = [wait / 1000 for wait in map(_read_seconds, headers.get("retry-after-ms", ())) if wait is not None]
    waits = waits or _told([_read_wait(value, now) for value in headers.get("retry-after", ())])
    waits = waits or _told(
        [
            parse_reset(value, now=now)
            for name, values in headers.items()
            if "ratelimit" in name
            and "reset" in name
            and _is_exhausted(headers.get(name.replace("reset", "remaining")))
            for value in values
        ]
    )
    return max(waits, default=None)


def read_buckets(headers: Headers, *, now: float) -> Buckets:
    """What a gateway tells of its limits, as OpenAI names the headers or as Anthropic does; `now` is Unix time.

    A bucket counts where its size and what is left of it came, each as a number that can be. Where tokens are told by
    kind, those of the input count.
    """
    now = next(filter(None, map(_read_date, headers.get("date", ()))), now)
    kinds = {kind: _read_bucket(headers, kind, now) for kind in ("requests", "tokens", "input-tokens")}
    return Buckets(kinds["requests"], kinds["tokens"] or kinds["input-tokens"])


def _read_bucket(headers: Headers, kind: str, now: float) -> Bucket | None:
    for names in (f"x-ratelimit-{{}}-{kind}", f"anthropic-ratelimit-{kind}-{{}}"):
        size, left, reset = (headers.get(names.format(part), ()) for part in ("limit", "remaining", "reset"))
        if len(size) != 1 or len(left) != 1:
            continue
        most, rest = _read_seconds(size[0]), _read_seconds(left[0])
        if most is not None and rest is not None and 0 < most < _MOST and rest <= most:
            return Bucket(most, rest, parse_reset(reset[0], now=now) if len(reset) == 1 else None)
    return None


def parse_reset(text: str, *, now: float) -> float | None:
    """The seconds from `now` (Unix time) to a reset.

    Understood: seconds (`30`), a Go duration (`6m0s`, `12ms`), an RFC 3339 time, Unix time in seconds (from 1e9) or
    milliseconds (from 1e12). Never below 0; None for anything else, `-1` and the empty text included.
    """
    text = text.strip()
    seconds = _read_seconds(text)
    if seconds is not None:
        if seconds >= _EPOCH_MILLISECONDS:
            return max(0.0, seconds / 1000 - now)
        return max(0.0, seconds - now) if seconds >= _EPOCH_SECONDS else seconds
    if len(text) <= _LONGEST_DATE and _DURATION.fullmatch(text):
        return math.fsum(float(amount) * _UNITS[unit] for amount, unit in _DURATION_PART.findall(text))
    try:
        moment = datetime.fromisoformat(text[:_LONGEST_DATE])
        return max(0.0, _timestamp(moment) - now)
    except (ValueError, OverflowError):
        return None


def _read_once(headers: Headers, name: str) -> Decimal | None:
    values = headers.get(name.lower(), ())
    return read_usd(values[0]) if len(values) == 1 else None


def _read_wait(text: str, now: float) -> float | None:
    wait = parse_reset(text, now=now)
    if wait is None and (moment := _read_date(text)) is not None:
        return max(0.0, moment - now)
    return wait


def _read_seconds(text: str) -> float | None:
    text = text.strip()
    return float(text) if _SECONDS.fullmatch(text) else None


def _read_date(text: str) -> float | None:
    if len(text) > _LONGEST_DATE:
        return None
    try:
        return _timestamp(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):  # what email.utils raises on dates that are none
        return None


def _timestamp(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_exhausted(remaining: Sequence[str] | None) -> bool:
    # Azure says -1 where it does not count; Anthropic rounds to 1,000
    return any(_read_seconds(value) == 0 for value in remaining or ())


def _told(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]
