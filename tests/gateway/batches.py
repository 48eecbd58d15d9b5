"""The gateway's files and batches: what is asked for in one is worked on by the very code that answers requests.

A batch goes one step on each time that somebody looks at it, so that nothing here depends on a clock. Its requests are
carried out, and billed at half the price, when it is about to end.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from email.parser import BytesParser
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from gateway.exchanges import respond
from gateway.faults import error
from packer.usage import Price

if TYPE_CHECKING:
    from gateway.accounts import Account
    from gateway.server import Gateway

HALF = Decimal("0.5")


@dataclass(frozen=True)
class BatchSetup:
    """How batches go.

    `ends` as this, with this `share` of the requests carried out where it is not `completed`; `looks` is how often it
    is looked at before. `tangled`: results come in another order, one twice, with lines of strangers and of nonsense
    among them. `loses` so many results without a word. `cuts` so many downloads in the middle. `forgets` to answer so
    many times when a batch is made. `refuses`: there are no batches here. `reason` is why one failed.
    `endless`: the list of batches never ends, and none of them is anybody's.
    """

    ends: Literal["completed", "expired", "cancelled", "failed"] = "completed"
    share: float = 1.0
    looks: int = 2
    tangled: bool = False
    loses: int = 0
    cuts: int = 0
    forgets: int = 0
    refuses: bool = False
    endless: bool = False
    reason: str = "invalid_json_line"


@dataclass
class Batch:
    """One batch; `owner` is the name of the account that pays."""

    id: str
    owner: str
    file: str
    metadata: dict[str, str]
    state: str = "validating"
    looks: int = 0
    total: int = 0
    done: int = 0
    failed: int = 0
    output: str | None = None
    errors: str | None = None
    made: int = field(default_factory=lambda: int(time.time()))


Work = Callable[["Account", bytes, Price], Awaitable[tuple[int, Any]]]


class Batches:
    """The files and batches of `gateway`, which outlive it: another gateway may take them over."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.asked: list[str] = []  # paths, with their methods
        self.lines: list[dict[str, Any]] = []  # of all batches that were made
        self.cuts = 0
        self.forgotten = 0

    async def serve(
        self, gateway: Gateway, request: web.BaseRequest, account: Account, data: bytes
    ) -> web.StreamResponse:
        """The reply to a request for a file or a batch."""
        setup = gateway.setup.batches
        path = request.path.removeprefix("/v1")
        self.asked.append(f"{request.method} {path}")
        match [request.method, *path.strip("/").split("/")]:
            case _ if setup.refuses:
                return respond(404, error("Not found", "invalid_request_error"), {}, {})
            case ["POST", "files"]:
                ident = self._keep(_read_upload(request.headers["Content-Type"], data))
                return respond(200, {"id": ident, "object": "file", "purpose": "batch"}, {}, {})
            case ["POST", "batches"]:
                return await self._make(setup, account, json.loads(data))
            case ["GET", "batches"] if setup.endless:
                stranger = self._show(Batch("of_somebody_else", "", "", {}))
                return respond(200, {"object": "list", "data": [stranger], "has_more": True}, {}, {})
            case ["GET", "batches"]:
                mine = [self._show(one) for one in reversed(self.batches.values()) if one.owner == account.name]
                after = request.query.get("after")
                start = next((n + 1 for n, one in enumerate(mine) if one["id"] == after), 0)
                page = mine[start : start + 2]
                return respond(200, {"object": "list", "data": page, "has_more": start + 2 < len(mine)}, {}, {})
            case ["GET", "batches", ident] if ident in self.batches and self.batches[ident].owner == account.name:
                await self._step(gateway, account, self.batches[ident])
                return respond(200, self._show(self.batches[ident], setup.reason), {}, {})
            case ["GET", "files", ident, "content"] if ident in self.files:
                return self._fetch(setup, self.files[ident])
        return respond(404, error("No such thing", "invalid_request_error"), {}, {})

    async def _make(self, setup: BatchSetup, account: Account, body: Any) -> web.StreamResponse:
        file = body["input_file_id"]
        assert body["endpoint"] == "/v1/chat/completions"
        assert body["completion_window"] == "24h"
        lines = [json.loads(line) for line in self.files[file].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
        self.lines += lines
        ident = f"batch_{len(self.batches) + 1}"
        self.batches[ident] = Batch(ident, account.name, file, body["metadata"], total=len(lines))
        if self.forgotten < setup.forgets:
            self.forgotten += 1
            return respond(502, error("Bad gateway", "server_error"), {}, {})
        return respond(200, self._show(self.batches[ident]), {}, {})

    async def _step(self, gateway: Gateway, account: Account, batch: Batch) -> None:
        setup = gateway.setup.batches
        batch.looks += 1
        if batch.state == "validating":
            batch.state = "failed" if setup.ends == "failed" else "in_progress"
        elif batch.state == "in_progress" and batch.looks > setup.looks:
            await self._carry_out(gateway, account, batch)
            batch.state = "finalizing"
        elif batch.state == "finalizing":
            batch.state = setup.ends

    async def _carry_out(self, gateway: Gateway, account: Account, batch: Batch) -> None:
        setup, plain = gateway.setup.batches, gateway.setup.price
        price = Price(plain.input * HALF, plain.output * HALF)
        lines = [json.loads(line) for line in self.files[batch.file].splitlines()]
        served = round(len(lines) * (1.0 if setup.ends == "completed" else setup.share))
        good: list[Any] = []
        bad: list[Any] = []
        for line in lines[:served]:
            status, body = await gateway.work_in_batch(account, json.dumps(line["body"]).encode(), price)
            result = {"id": "x", "custom_id": line["custom_id"], "error": None}
            result["response"] = {"status_code": status, "request_id": "r", "body": body}
            (good if status == 200 else bad).append(result)
        batch.done, batch.failed = len(good), len(bad)
        if setup.ends == "expired":
            told = {"code": "batch_expired", "message": "This request could not be executed in time."}
            bad += [{"custom_id": line["custom_id"], "response": None, "error": told} for line in lines[served:]]
        good = good[setup.loses :]
        if setup.tangled:
            good = _tangle(good)
        # a file without a line is none
        batch.output = self._keep(_pack(good)) if good else None
        batch.errors = self._keep(_pack(bad)) if bad else None

    def _fetch(self, setup: BatchSetup, data: bytes) -> web.StreamResponse:
        if self.cuts < setup.cuts:
            self.cuts += 1
            data = data[: len(data) // 2]
        return web.Response(body=data, content_type="application/octet-stream")

    def _keep(self, data: bytes) -> str:
        ident = f"file-{len(self.files) + 1}"
        self.files[ident] = data
        return ident

    def _show(self, batch: Batch, reason: str = "") -> dict[str, Any]:
        failed = [{"code": reason, "message": f"refused: {reason}", "line": 1, "param": None}]
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "errors": {"object": "list", "data": failed} if batch.state == "failed" else None,
            "input_file_id": batch.file,
            "completion_window": "24h",
            "status": batch.state,
            "output_file_id": batch.output,
            "error_file_id": batch.errors,
            "created_at": batch.made,
            "expires_at": batch.made + 86_400,
            "request_counts": {"total": batch.total, "completed": batch.done, "failed": batch.failed},
            "metadata": batch.metadata,
        }


def _tangle(results: list[dict[str, Any]]) -> list[Any]:
    rng = random.Random(1)
    stranger = {**results[0], "custom_id": "of-somebody-else"}
    other = {**results[0], "response": {**results[0]["response"], "body": {"choices": []}}}
    mixed: list[Any] = [*results[::-1], stranger, {"custom_id": 7}, "nonsense", None]
    rng.shuffle(mixed)
    return [*mixed, other]


def _pack(results: list[Any]) -> bytes:
    return b"".join(json.dumps(result).encode() + b"\n" for result in results)


def _read_upload(kind: str, data: bytes) -> bytes:
    whole: Any = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + data)
    fields = {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in whole.get_payload()
    }
    assert fields["purpose"].strip() == b"batch"
    return bytes(fields["file"])
