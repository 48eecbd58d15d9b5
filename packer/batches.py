"""Sends what gathers in a short while as one batch, at a batch's price. It is made once, and waited for to its end.

Which line is whose is noted before anything is uploaded, and the uploaded file's id before the batch is made of it: a
batch that was made and never heard of is found by that id, or by the token in its metadata, and not made again. While a
batch runs, nothing that fails here says anything of its requests: they stay open, for the next run to collect.

What came of a request is a reply or a `TransportError`, as of any request, and `recovery.py` decides what follows it.

A few requests are not worth a day. They go through the ordinary endpoint at once, at its price: the first one of a job,
which tells whether key, model and settings are right, and what is left over at its end.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from packer import failpoints
from packer.batch_calls import BatchCalls, Refused
from packer.batch_files import MOST_LINES, Result, Standing, count_ran, write_line
from packer.dialects import Dialect
from packer.errors import CallError, Failure, LedgerFull, StillWaiting, TransportError
from packer.exchange import NO_BUCKETS, Charge, ChargeSource, Prompt, Reply
from packer.headers import CHARGE_HEADER
from packer.refusals import classify, clean_message, read_refusal
from packer.transport import GatewayTransport
from packer.usage import Price, cost

LEAST_LINES = 10  # fewer go through the ordinary endpoint
_MOST_BYTES = 50_000_000  # of a file in; the API takes 200 MB
_QUIET = 1.0  # seconds without a new request, after which what has gathered goes out

Ended: TypeAlias = Reply | TransportError


class Book(Protocol):
    """Where it is noted what is in which batch, before anything is sent."""

    async def note(self, token: str, prompts: Mapping[str, Prompt]) -> int:
        """Note the prompts of a batch by their custom ids; its number. Raises `LedgerError`."""
        ...

    async def mark(self, batch: int, *, uploaded: str | None = None, remote: str | None = None) -> None:
        """Note the id of its uploaded file, or its own."""
        ...

    def tell(self, batch: int, standing: Standing) -> None:
        """Hear how it stands."""
        ...

    def give_up(self, batch: int) -> None:
        """Hear that it was not made, or that nobody knows of it."""
        ...


@dataclass(slots=True, eq=False)
class _Line:
    prompt: Prompt
    deadline: float
    began: float
    done: asyncio.Future[Reply]


class BatchTransport(GatewayTransport):
    """A gateway that speaks OpenAI's chat completions and its Batch API.

    As `GatewayTransport`. Whoever sends through it sets `book`, and `price`: that of a batch's tokens, None where it is
    unknown.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        api_key: str | None,
        connections: int,
        charge_header: str = CHARGE_HEADER,
    ) -> None:
        super().__init__(
            model, base_url=base_url, api_key=api_key, connections=connections, charge_header=charge_header
        )
        self.base_url = base_url
        self.book: Book  # set by whoever sends through it
        self.price: Price | None = None
        self._gathered: list[_Line] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()

    async def check(self) -> None:
        """Raise `CallError` where the gateway has no Batch API. Nothing is bought."""
        status = await self._reach().is_there()
        if status is not None:
            raise CallError(f"{self.base_url} has no Batch API (HTTP {status} for /batches); leave --batch out")

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        """The reply to `prompt`, however long its batch takes; `deadline` holds for what goes out by itself.

        Raises `TransportError`, and `StillWaiting` where it is left in a batch. A `LedgerError` of the book's ends it.
        """
        loop = asyncio.get_running_loop()
        line = _Line(prompt, deadline, loop.time(), loop.create_future())
        self._gathered.append(line)
        if self._timer is not None:
            self._timer.cancel()
        if len(self._gathered) >= MOST_LINES or self._left.is_set():
            self._let_go()
        else:
            self._timer = loop.call_later(_QUIET, self._let_go)
        return await line.done

    def leave(self) -> None:
        """Wait for no batch any more: whoever waits gets `StillWaiting`. What has not gone out yet does not."""
        self._left.set()
        self._let_go()

    async def resume(
        self, number: int, remote: str | None, *, file: str | None, token: str, prompts: Mapping[str, Prompt]
    ) -> dict[str, Ended]:
        """What came of a batch of an earlier run, by the custom ids of `prompts`. Raises `StillWaiting`."""
        if remote is None and file is None:
            return _all(prompts, TransportError(Failure.NOT_SENT, "the run ended before the batch was made"))
        try:
            if remote is None:
                assert file is not None, "looked at above"
                remote = await self._reach().find(file, token)
        except Refused as refused:
            raise StillWaiting(f"the batches cannot be looked at: {refused.message}") from None
        if remote is None:
            lost = "the run ended while the batch was being made, and the gateway does not list it"
            return _all(prompts, TransportError(Failure.LOST, lost))
        await self.book.mark(number, remote=remote)
        return await self._wait(number, remote, prompts, self._dialects.current, since=None)

    async def aclose(self) -> None:
        """Close the connections; batches go on at the gateway."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().aclose()

    def _reach(self) -> BatchCalls:
        self._open()
        assert self._client is not None, "opened"
        return BatchCalls(self._wire, self._client, self._raw, self._left, secret=self._secret)

    # What has gathered goes out

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._gathered = self._gathered, []
        if self._left.is_set():
            for line in lines:
                _fail([line], TransportError(Failure.NOT_SENT, "the job stopped"))
        elif len(lines) < LEAST_LINES:
            for line in lines:
                self._start(self._send_alone(line))
        else:
            self._start(self._send_together(lines))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_alone(self, line: _Line) -> None:
        try:
            reply = await super().send(line.prompt, deadline=line.deadline)
        except TransportError as error:
            # what it tells of its limits is not true of batches
            error.buckets = None
            _fail([line], error)
        except Exception as error:  # noqa: BLE001  whoever waits gets it
            _fail([line], error)
        else:
            _end(line, replace(reply, buckets=NO_BUCKETS))

    async def _send_together(self, lines: Sequence[_Line]) -> None:
        self._open()
        dialect = self._dialects.current
        by_id = {f"{line.prompt.attempt}-{secrets.token_hex(12)}": line for line in lines}
        packed: list[bytes] = []
        size = 0
        for custom_id, line in [*by_id.items()]:
            written = write_line(custom_id, self._write(line.prompt, dialect))
            if size + len(written) > _MOST_BYTES and packed:
                del by_id[custom_id]  # it goes out after this one
                self._gathered.append(line)
                continue
            packed.append(written)
            size += len(written)
        if self._gathered and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_QUIET, self._let_go)
        mine = [*by_id.values()]
        try:
            results = await self._carry(by_id, b"".join(packed), dialect)
        except Exception as error:  # noqa: BLE001  a ledger that is gone, or a bug: whoever waits gets it
            _fail(mine, error)
            return
        for custom_id, line in by_id.items():
            _end(line, results[custom_id])

    async def _carry(self, lines: Mapping[str, _Line], packed: bytes, dialect: Dialect) -> Mapping[str, Ended]:
        """What came of one batch, from its note in the book to its end."""
        prompts = {custom_id: line.prompt for custom_id, line in lines.items()}
        token = secrets.token_hex(16)
        failpoints.reach("batch: about to be noted")
        try:
            number = await self.book.note(token, prompts)
        except LedgerFull as error:
            raise TransportError(Failure.NOT_SENT, str(error)) from None
        failpoints.reach("batch: noted, nothing uploaded")
        try:
            remote = await self._make(number, packed, token)
        except TransportError:
            self.book.give_up(number)
            raise
        failpoints.reach("batch: made, its id not noted")
        await self.book.mark(number, remote=remote)
        failpoints.reach("batch: its id is noted")
        began = next(iter(lines.values())).began
        return await self._wait(number, remote, prompts, dialect, since=began)

    async def _make(self, number: int, packed: bytes, token: str) -> str:
        """The id of the batch that the gateway has made."""
        try:
            file = await self._reach().upload(packed)
        except Refused as refused:
            raise TransportError(refused.failure or Failure.NOT_SENT, f"upload: {refused.message}") from None
        except StillWaiting:
            raise TransportError(Failure.NOT_SENT, "the job stopped") from None
        if self._left.is_set():
            raise TransportError(Failure.NOT_SENT, "the job stopped")
        await self.book.mark(number, uploaded=file)
        failpoints.reach("batch: uploaded, about to be made")
        try:
            return await self._reach().make(file, token)
        except Refused as refused:
            raise TransportError(refused.failure or Failure.LOST, f"batch: {refused.message}") from None

    # What is made is waited for

    async def _wait(
        self, number: int, remote: str, prompts: Mapping[str, Prompt], dialect: Dialect, *, since: float | None
    ) -> dict[str, Ended]:
        try:
            standing = await self._reach().wait(remote, lambda standing: self.book.tell(number, standing))
            results = await self._reach().fetch(standing, prompts)
        except Refused as refused:
            raise StillWaiting(f"batch {remote} goes on, and cannot be looked at: {refused.message}") from None
        failpoints.reach("batch: its results are here")
        seconds = 0.0 if since is None else asyncio.get_running_loop().time() - since
        ends: dict[str, Ended] = {}
        for ident, prompt in prompts.items():
            found = results.get(ident)
            if found is None:
                ends[ident] = self._read_missing(standing, count_ran(results))
            else:
                ends[ident] = self._read_end(found, standing, prompt, dialect, seconds)
        return ends

    def _read_end(
        self,
        result: Result,
        standing: Standing,
        prompt: Prompt,
        dialect: Dialect,
        seconds: float,
    ) -> Ended:
        """What came of one request of a batch that has ended."""
        if result.status is None:
            words = clean_message(f"{result.message or result.code or 'an error'}", secret=self._secret)
            if result.code == "batch_expired":
                return TransportError(Failure.NOT_SENT, f"batch {standing.id} expired: {words}")
            if result.code in {"batch_cancelled", "cancelled"} or standing.state == "cancelled":
                return TransportError(Failure.CANCELLED, f"batch {standing.id} was cancelled: {words}")
            return TransportError(Failure.OVERLOADED, f"batch {standing.id}: {words}")
        from packer.wire import Call  # noqa: PLC0415  aiohttp: not for who sends no batch

        call = Call(sent=True, status=result.status, complete=True)
        call.body += json.dumps(result.body).encode()
        try:
            reply = self._reply(call, prompt, dialect, seconds)
        except TransportError as error:
            if error.failure is Failure.RATE_LIMITED:
                # its rate within the batch is the gateway's affair: no pause of ours would help
                return TransportError(Failure.NOT_SENT, str(error), status=error.status)
            return error
        if reply.charge is None and reply.usage is not None and self.price is not None:
            return replace(reply, charge=Charge(cost(reply.usage, self.price), ChargeSource.PRICE))
        return reply

    def _read_missing(self, standing: Standing, told: int) -> TransportError:
        """What became of a request that no file of its batch tells of."""
        if standing.state == "failed":
            refusal = read_refusal(400, {"error": dict(standing.refusal)})
            code = str(standing.refusal.get("code") or "")
            is_quota = "limit" in code
            failure = Failure.QUOTA if is_quota else classify(refusal)
            words = clean_message(refusal.message or code or "no reason is told", secret=self._secret)
            return TransportError(failure, f"batch {standing.id} was refused: {words}")
        # where all that was carried out is told of, the rest was not
        is_whole = standing.ran is not None and told >= standing.ran
        if standing.state == "expired" and is_whole:
            return TransportError(Failure.NOT_SENT, f"batch {standing.id} expired before its turn")
        if standing.state == "cancelled":
            words = f"batch {standing.id} was cancelled" + (
                " before its turn" if is_whole else ", and tells nothing of it"
            )
            return TransportError(Failure.CANCELLED, words, may_be_billed=not is_whole)
        return TransportError(Failure.LOST, f"batch {standing.id} {standing.state}, and tells nothing of it")


def _all(prompts: Mapping[str, Prompt], error: TransportError) -> dict[str, Ended]:
    return dict.fromkeys(prompts, error)


def _fail(lines: Sequence[_Line], error: Exception) -> None:
    for line in lines:
        if not line.done.done():
            line.done.set_exception(error)


def _end(line: _Line, ended: Ended) -> None:
    if line.done.done():
        return
    if isinstance(ended, TransportError):
        line.done.set_exception(ended)
    else:
        line.done.set_result(ended)
