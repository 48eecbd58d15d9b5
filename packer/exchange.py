"""What crosses to a gateway and back: a prompt out, a reply in. Nothing here knows HTTP.

A reply's charge is what the gateway said it took. None means that it did not say; it never means free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from packer.usage import Usage


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's content; `schema` is the answer's JSON Schema, the same object in every prompt of a job.

    `logprobs`: the reply's tokens are wanted too, where the gateway gives them. `attempt` is its number in the ledger,
    which is not sent.
    """

    system: str
    user: str
    schema: Mapping[str, Any]
    max_tokens: int
    logprobs: bool = False
    attempt: int = 0


class StopReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"
    MAX_TOKENS = "max_tokens"
    CONTENT_FILTER = "content_filter"
    UNKNOWN = "unknown"


class ChargeSource(StrEnum):
    """Where a charge was read, from the most to the least trusted."""

    HEADER = "header"  # X-MDB-Charged-USD, or the header that was named
    PROXY = "proxy"  # x-litellm-response-cost
    BODY = "usage.cost"  # OpenRouter
    PRICE = "price"  # usage x the price table
    RESERVE = "reserve"  # nothing was told: the worst case that was set aside
    FREE = "free"  # the request never left, or the model runs here


@dataclass(frozen=True, slots=True)
class Charge:
    """Money taken for one request, and where that was read."""

    usd: Decimal
    source: ChargeSource


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a gateway lets through: `size` at most, `left` when it said so. `full_after` seconds, None: not told."""

    size: float
    left: float
    full_after: float | None = None


@dataclass(frozen=True, slots=True)
class Buckets:
    """A gateway's buckets of requests and of tokens; None for one that it did not tell of."""

    requests: Bucket | None = None
    tokens: Bucket | None = None


NO_BUCKETS = Buckets()


class Token(NamedTuple):
    """A piece of a reply's UTF-8, and the logarithm of its probability as it was told: NaN where it was not."""

    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one prompt.

    `usage`, `charge` and `balance` (of the account, after this request) are None where the gateway did not say.
    `seconds` is the time from sending to the last byte. `garbled_charge`: a charge was told, and it is no amount.
    `tokens` spell the text, None where they were not told.
    """

    text: str
    stop_reason: StopReason
    seconds: float
    usage: Usage | None = None
    charge: Charge | None = None
    balance: Decimal | None = None
    garbled_charge: bool = False
    buckets: Buckets = NO_BUCKETS
    tokens: Sequence[Token] | None = None
