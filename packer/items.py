"""An item, its text as it is sent, its key, and the one state in which it ends.

Two items with the same normalised text are the same question: asked once, answered everywhere. What is sent is the
normalised text, so that the key covers exactly what the model reads.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MOST_IN_FLIGHT = 256  # requests
# Of one request, by reference measurements: beyond it every model tested loses accuracy clearly.
MAX_ITEMS_CEILING = 100
# made once: json.dumps makes one a call
_write_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_MOST_NORMALISED = 20_000  # characters
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Item:
    """A short text with the caller's id; `id` None where the caller has none."""

    text: str
    id: Hashable = None


class Status(StrEnum):
    """The state in which an item ends; every item ends in exactly one."""

    LABELLED = "labelled"
    FAILED = "failed"  # asked, or not askable; `error` says why
    DOUBT = "doubt"  # sent, its fate unknown, and not asked again (--on-doubt hold)
    PENDING = "pending"  # not asked, because the job stopped


class Decision(StrEnum):
    """By what the label of a labelled item was decided."""

    FIRST = "first"  # the first answer, which left no doubt or was not doubted
    VOTE = "vote"  # most of several answers
    ESCALATED = "escalated"  # the answer of a stronger model
    DOUBTFUL = "doubtful"  # nothing: it is the first answer, or the one that leads, and is still in doubt


@dataclass(frozen=True, slots=True)
class Result:
    """What happened to one item.

    `label` is the task's spelling of the label, None for a record task and for an item that is not labelled.
    `record` is the checked record, a dict or an instance of the task's model, None likewise. `error` says why an
    item is not labelled, and is empty where it is. `known` tells that the answer was in the ledger or was shared with
    an identical text, so that this item cost nothing.
    `confidence` is how sure the model was, 0 to 1; None where that is unknown, or was not asked for.
    `decision` tells by what the label was decided, and `votes` how many answers of the job's own model that took; both
    say something of labelled items only.
    """

    item: Item
    status: Status
    label: str | None = None
    record: Any = None
    error: str = ""
    known: bool = False
    confidence: float | None = None
    decision: Decision = Decision.FIRST
    votes: int = 1


def normalise_text(text: str) -> str:
    """`text` as it is sent and keyed: NFC (to 20,000 characters), line ends as line feeds, no white space round it."""
    if text.isascii():
        return text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if _SURROGATE.search(text):
        # two halves that stand side by side are one character, which is what every JSON reader makes of them
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    # normalising takes quadratic time on combining marks (20 s for 160,000): a long text stays as it is
    return text if len(text) > _MOST_NORMALISED else unicodedata.normalize("NFC", text).strip()


def plain_record(record: Any) -> Mapping[str, Any]:
    """A record as JSON has it: a dict as it is, a model's instance by the names that the prompt asks for."""
    plain: Mapping[str, Any] = record if isinstance(record, Mapping) else record.model_dump(mode="json", by_alias=True)
    return plain


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, ASCII only (a lone surrogate is escaped, not refused)."""
    return _write_canonical(value)


def key_maker(*, fingerprint: str, model: str, parameters: Mapping[str, Any], ask: str = "") -> Callable[[str], str]:
    """A function from normalised text to its ledger key.

    The key is ``b2:`` and 40 hex digits of blake2b over the canonical JSON of all that can change an answer: the
    task's fingerprint, the model, its parameters and the text. No pack, no neighbour. `ask`, where it is not empty,
    says how it is asked, where that is the very question: such an answer is no answer to anybody who asks otherwise.
    """
    # "text" sorts last, so that the constant part is hashed once a job and copied for each item
    about: dict[str, Any] = {"model": model, "parameters": dict(parameters), "task": fingerprint}
    head = canonical_json(about | {"ask": ask} if ask else about)
    constant = hashlib.blake2b(f'{head[:-1]},"text":'.encode(), digest_size=20)

    def make(text: str) -> str:
        digest = constant.copy()
        digest.update(f"{canonical_json(text)}}}".encode())
        return f"b2:{digest.hexdigest()}"

    return make
