"""What goes into a batch and what comes out of it, in OpenAI's format. A result is known by its id, not by its place.

A file in is JSON lines of {custom_id, method, url, body}; a file out, of results or of errors, is JSON lines of
{custom_id, response: {status_code, body}, error}, in any order, cut anywhere, with lines of strangers. A reader takes
bytes or parsed JSON of any shape; what cannot be understood is left out, and nothing is raised.

Sources: OpenAI's API reference (batch, files), and the same API as Azure, Groq, Together, Novita and vLLM have it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
WINDOW: Literal["24h"] = "24h"
MOST_LINES = 2_000  # of a batch: what is in memory at once; the API takes 50,000
# What is asked for in a batch has ended, one way or another
ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
# What was about to become one, and did not
GIVEN_UP = "given up"
_STATES = ENDED | {"validating", "in_progress", "finalizing", "cancelling"}
# An id becomes a part of a URL: nothing may stand in one that means something there
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._:-]{0,199}")
_FIRST_LOOK, _GROWTH, _LONGEST_LOOK = 0.2, 1.5, 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Standing:
    """How a batch stands, as its gateway tells.

    `done` and `failed` of its `total` requests have ended; None where that is not told. `output` and `errors` are the
    ids of its files, None where there is none; `file` is that of its input. `expires` is in Unix seconds. `token` is
    what stands in its metadata, empty where nothing does. `refusal` is the first of what is wrong with the whole of it.
    """

    id: str
    state: str
    done: int | None
    failed: int | None
    total: int | None
    output: str | None
    errors: str | None
    file: str | None
    expires: int | None
    token: str
    refusal: Mapping[str, Any]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED

    @property
    def ran(self) -> int | None:
        """How many of its requests were carried out; None where that is not told."""
        return None if self.done is None or self.failed is None else self.done + self.failed


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one request of a batch: a status and a body, or an error in their place."""

    status: int | None
    body: Any
    code: str
    message: str


def write_line(custom_id: str, body: Mapping[str, Any]) -> bytes:
    """One request, as a line of a file in."""
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    # in the order in which it was given: models write their answer's fields in that of the schema
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def read_id(body: Any) -> str | None:
    """The id of a file that was uploaded; None where there is none."""
    return _id(_dict(body).get("id"))


def read_standing(body: Any) -> Standing | None:
    """How a batch stands; None for what tells nothing of one."""
    body = _dict(body)
    ident, state, counts = _id(body.get("id")), body.get("status"), _dict(body.get("request_counts"))
    if ident is None or state not in _STATES:
        return None
    refusals = _dict(body.get("errors")).get("data")
    metadata = _dict(body.get("metadata"))
    return Standing(
        id=ident,
        state=str(state),
        done=_count(counts.get("completed")),
        failed=_count(counts.get("failed")),
        total=_count(counts.get("total")),
        output=_id(body.get("output_file_id")),
        errors=_id(body.get("error_file_id")),
        file=_id(body.get("input_file_id")),
        expires=_count(body.get("expires_at")),
        token=str(metadata.get("packer") or ""),
        refusal=_dict(refusals[0]) if isinstance(refusals, list) and refusals else {},
    )


def read_page(body: Any) -> tuple[list[Standing], str | None]:
    """The batches of one page of a list, and the id after which the next page begins; None where there is none."""
    body = _dict(body)
    data = body.get("data")
    batches = [found for one in data if (found := read_standing(one))] if isinstance(data, list) else []
    return batches, batches[-1].id if batches and body.get("has_more") is True else None


def read_results(data: bytes, wanted: Container[str]) -> dict[str, Result]:
    """The results in a file, by the ids that are `wanted`. Where an id comes twice, the first stands."""
    found: dict[str, Result] = {}
    for line in data.split(b"\n"):
        read = _read_line(line)
        ident = read.get("custom_id")
        if isinstance(ident, str) and ident in wanted and ident not in found:
            result = _read_result(read)
            if result is not None:
                found[ident] = result
    return found


def count_ran(results: Mapping[str, Result]) -> int:
    """How many of `results` are of requests that were carried out, whatever came of them."""
    return sum(result.status is not None for result in results.values())


def next_look(looks: int, *, jitter: float) -> float:
    """Seconds to wait after so many looks at something that takes its time; `jitter` is uniform in [0, 1)."""
    return min(_LONGEST_LOOK, _FIRST_LOOK * _GROWTH ** min(looks, 60)) * (0.75 + 0.5 * jitter)


def _read_result(line: Mapping[str, Any]) -> Result | None:
    response, error = _dict(line.get("response")), _dict(line.get("error"))
    status = response.get("status_code")
    if type(status) is int and 100 <= status <= 999:
        return Result(status, response.get("body"), "", "")
    if not error:
        return None
    return Result(None, None, str(error.get("code") or "")[:100], str(error.get("message") or "")[:1_000])


def _read_line(line: bytes) -> Mapping[str, Any]:
    try:
        return _dict(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def _id(value: Any) -> str | None:
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
