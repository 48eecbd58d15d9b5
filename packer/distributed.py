"""The same run over a Ray cluster: one named actor lends, and tasks on any machine label parts by the ordinary loop.

The actor is detached: it outlives whoever has started the job, and who starts it again finds it by the ledger's path.
The ledger is a file of the machine on which the job was started first. A key is read on each machine from its own
environment; it never travels. `docs/cluster.md` says when one process is enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import os
import socket
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from packer.borrowing import Borrowed
from packer.connections import connect
from packer.errors import CallError, LeaseLost, LedgerError, PriceError, StoppedError
from packer.events import Statistics
from packer.extras import check_extra
from packer.items import MOST_IN_FLIGHT, Item, Result, Status
from packer.journal import Found
from packer.leases import Joined, Lease, Report, Terms
from packer.ledger import Closed, Opened
from packer.lender import MOST_IN_CLUSTER, Lender
from packer.options import read_concurrency, read_item, read_usd
from packer.packs import PackLimits
from packer.requests import name_job
from packer.results import Results
from packer.runner import DEFAULT_LEDGER, Runner
from packer.sync import choose_task, open_bar, run
from packer.task import Task
from packer.usage import Price

NAMESPACE = "prompt-packer"  # of the actors' names
PATIENCE = 30.0  # seconds after which a silent worker is lost
PART = 5_000  # items that one task labels
_TRIES = 3  # more for a part whose worker has died
_LOOK = 0.25  # seconds between two looks at what has ended
_IDLE = 3600.0  # seconds without a worker after which a lender that nobody has closed ends by itself


def label(
    items: Iterable[Item | str],
    labels: Iterable[str] | Mapping[str, str] | Any = None,
    *,
    model: str,
    task: Task | None = None,
    workers: int | None = None,
    part: int = PART,
    progress: bool = False,
    **options: Any,
) -> Results:
    """As `packer.label`, by tasks of a Ray cluster; `options` are those of `open_job`.

    `workers` and `part` are as in `SharedJob.stream`. Raises what `packer.label` raises.
    """
    if isinstance(items, str):
        raise CallError("expected a list of texts, got one text")
    items = list(items)
    with open_job(choose_task(labels, task), model=model, **options) as job:
        earlier = job.statistics()
        bar: AbstractContextManager[Any] = open_bar(len(items)) if progress else contextlib.nullcontext()
        with bar as shown:
            show = None if shown is None else shown.update
            results = list(job.stream(items, workers=workers, part=part, show=show))
        now = job.statistics()
    labelled = Results(results, earlier=earlier, statistics=now)
    if now.stopped is not None or any(result.status is Status.PENDING for result in results):
        raise StoppedError(now.stopped or next(one.error for one in results if one.error), labelled)
    return labelled


def open_job(
    task: Task,
    *,
    model: str,
    base_url: str | None = None,
    api_key_env: str | None = None,
    api_key_file: Path | str | None = None,
    ledger: Path | str | None = DEFAULT_LEDGER,
    job: str = "",
    limits: PackLimits | None = None,
    budget_usd: Decimal | float | str | None = None,
    price: Price | None = None,
    concurrency: int | None = None,
    on_doubt: Literal["retry", "hold"] = "retry",
    seed: int = 0,
    untrusted: bool = False,
    confidence: bool = False,
    patience: float = PATIENCE,
) -> SharedJob:
    """A job that many processes label parts of; a context manager that closes it.

    `api_key_env` and `api_key_file` say where each machine finds the key, as in `connections.connect`; None for the
    variable of the gateway's host. `patience` is how many seconds a worker may be silent before what it has sent is in
    doubt, and what it was asking is asked by others. `concurrency` is that of all workers together. Everything else is
    as in `Runner`. `ledger` is a path on this machine; where a lender for it runs already (its driver was killed), that
    one is used. Connects to Ray, or starts it, where that was not done. Raises `CallError` and `LedgerError`.
    """
    check_extra("cluster", {"ray": "ray"}, needed_by="a job over a cluster")
    if not 1 <= patience < math.inf:
        raise CallError(f"patience: expected seconds, 1 or more, got {patience!r}")
    terms = Terms(
        name=name_job(task, model, job),
        task=task.fingerprint,
        model=model,
        cap=None if budget_usd is None else read_usd("budget_usd", budget_usd),
        hold=on_doubt == "hold",
        concurrency=read_concurrency(concurrency, model, most=MOST_IN_CLUSTER),
        patience=patience,
    )
    where = {"base_url": base_url, "api_key_env": api_key_env, "api_key_file": api_key_file}
    options: dict[str, Any] = {"limits": limits, "price": price, "seed": seed, "job": job, "on_doubt": on_doubt}
    options |= {"untrusted": untrusted, "confidence": confidence, "budget_usd": terms.cap}
    path = None if ledger is None else str(Path(ledger).resolve())
    # a file's name may be any bytes, an actor's name is text
    name = f"memory {uuid.uuid4()}" if path is None else os.fsencode(path).decode(errors="backslashreplace")
    shared = SharedJob(task, model, f"lender of {name}", terms, where, options)
    _start_lender(shared.name, path, terms)
    return shared


@dataclass(frozen=True, eq=False)
class SharedJob:
    """A job whose items many processes label; it may be sent to any of them, by Ray, Spark or Dask.

    A process on a machine of the Ray cluster finds it; any other calls `ray.init(address=...)` first.
    """

    task: Task
    model: str
    name: str
    terms: Terms
    where: Mapping[str, Any]
    options: Mapping[str, Any]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.nullcontext() if kind is None else contextlib.suppress(LedgerError):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # the way to the actor is found anew in each process
        return type(self), (self.task, self.model, self.name, self.terms, self.where, self.options)

    def label(self, items: Iterable[Item | str]) -> list[Result]:
        """Label `items` in this process, as a part of the job; one result an item, in their order.

        Called again with the same items (an engine repeats what has failed) it pays for nothing that is known. Raises
        `CallError`, `LedgerError`, and `errors.LeaseLost` where this process was silent for too long: call it again.
        """
        given = list(items)
        return run(lambda _: self._label(given), None)

    def stream(
        self,
        items: Iterable[Item | str],
        *,
        workers: int | None = None,
        part: int = PART,
        show: Callable[[Statistics], None] | None = None,
    ) -> Iterator[Result]:
        """One result an item, in the order of `items`, labelled by Ray tasks of `part` items each.

        `workers` parts are labelled at a time, None for as many as the cluster has processors. `show` gets the
        statistics now and then. A part whose worker dies is labelled again, three times; then its items are pending. A
        stream that is left before its end stops the job. Raises what `items` raises, after the results of what came
        before it, and `CallError`, `LedgerError`.
        """
        import ray  # noqa: PLC0415  an extra

        for name, given in (("workers", workers), ("part", part)):
            if given is not None and given < 1:
                raise CallError(f"{name}: expected 1 or more, got {given!r}")
        # for all processors one part more waits, so that none is idle
        most = workers or 1 + max(1, int(ray.cluster_resources().get("CPU", 1)))
        ask = ray.remote(_label_part).options(max_retries=_TRIES, retry_exceptions=[LeaseLost])
        shared = ray.put(self)
        parts = _cut(items, part)
        under_way: deque[tuple[Any, list[Item]]] = deque()
        broken: Exception | None = None
        why = "the stream was left"
        try:
            while True:
                try:
                    for taken in itertools.islice(parts, most - len(under_way)):
                        # ids stay here: they may be anything
                        under_way.append((ask.remote(shared, [item.text for item in taken]), taken))
                except Exception as error:  # noqa: BLE001  whatever reading raises is raised after what came before it
                    broken = error
                if not under_way:
                    if broken is not None:
                        raise broken
                    return
                yield from self._collect(*under_way[0], show)
                under_way.popleft()
        except KeyboardInterrupt:
            why = "interrupted"
            raise
        finally:
            if under_way:
                with contextlib.suppress(LedgerError):  # a lender that is gone has stopped everybody
                    self.stop(why)
                ray.wait([ref for ref, _ in under_way], num_returns=len(under_way))

    def statistics(self) -> Statistics:
        """How the job stands, all workers together."""
        found: Statistics = self._call("statistics")
        return found

    def stop(self, reason: str) -> None:
        """Let no worker send anything more: what is in flight is kept, all other items become pending."""
        self._call("stop", reason)

    def close(self) -> None:
        """Close the ledger and end the lender, unless workers are at work for somebody else."""
        import ray  # noqa: PLC0415  an extra

        if self._call("close_unless_used"):
            ray.kill(self._actor)

    async def _label(self, items: Sequence[Item | str]) -> list[Result]:
        borrowed = Borrowed(_Way(self._actor, self.name), self.terms)
        try:
            transport = connect(self.model, connections=MOST_IN_FLIGHT, **self.where)
        except CallError as error:
            # it is this machine that has no key, and not the one on which this is read
            raise CallError(f"on {socket.gethostname()}: {error}") from None
        runner = Runner(self.task, model=self.model, transport=transport, ledger=borrowed, **self.options)
        async with runner:
            return [result async for result in runner.stream(items)]

    def _collect(self, ref: Any, items: Sequence[Item], show: Callable[[Statistics], None] | None) -> Iterator[Result]:
        import ray  # noqa: PLC0415  an extra
        from ray.exceptions import (  # noqa: PLC0415  as above
            NodeDiedError,
            OutOfMemoryError,
            RaySystemError,
            RayTaskError,
            WorkerCrashedError,
        )

        while not ray.wait([ref], timeout=_LOOK)[0]:
            if show is not None:
                show(self.statistics())
        try:
            results = ray.get(ref)
        except RayTaskError as error:
            cause = _cause(error)
            if isinstance(cause, RaySystemError):
                why = str(cause).strip().splitlines()[-1]
                message = f"a worker cannot read the task ({why}): what it is made of must be installed there"
                raise CallError(message) from None
            raise cause from None
        except (WorkerCrashedError, OutOfMemoryError, NodeDiedError):
            why = f"stopped: the process that was to label it died {1 + _TRIES} times"
            yield from (Result(item, Status.PENDING, error=why) for item in items)
        else:
            yield from (replace(result, item=item) for result, item in zip(results, items, strict=True))

    @functools.cached_property
    def _actor(self) -> Any:
        import ray  # noqa: PLC0415  an extra

        if not ray.is_initialized():
            try:
                ray.init(address="auto", log_to_driver=False)
            except ConnectionError:
                raise CallError("this process is in no Ray cluster: call ray.init(address=...) first") from None
        try:
            return ray.get_actor(self.name, namespace=NAMESPACE)
        except ValueError:
            raise _gone(self.name) from None

    def _call(self, method: str, *arguments: Any) -> Any:
        return _ask(self._actor, self.name, method, *arguments)


class _LenderActor(Lender):
    """A lender in a process of its own, which ends by itself where everybody has forgotten it."""

    def __init__(self, ledger: str | None, terms: Terms) -> None:
        super().__init__(ledger, terms)
        self._waiting: asyncio.Task[None] | None = None

    async def open(self, terms: Terms) -> None:
        """As a lender's."""
        await super().open(terms)
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._end_when_idle())

    async def close_unless_used(self) -> bool:
        """Close, unless a worker is here that is still alive; whether it did."""
        if not await self.is_deserted():
            return False
        await self.close()
        return True

    async def _end_when_idle(self) -> None:
        import ray  # noqa: PLC0415  an extra

        used = self._now()
        while self._now() - used < _IDLE:
            await asyncio.sleep(_IDLE / 60)
            if self.is_used():
                used = self._now()
        await self.close()
        ray.actor.exit_actor()


class _Way:
    """The way to a lender in another process."""

    def __init__(self, actor: Any, name: str) -> None:
        self._actor = actor
        self._name = name

    async def join(self, terms: Terms) -> Joined:
        joined: Joined = await self._call(self._actor.join.remote(terms))
        return joined

    async def report(self, worker: int, report: Report) -> Lease:
        lease: Lease = await self._call(self._actor.report.remote(worker, report))
        return lease

    async def find(self, worker: int, keys: Sequence[str], *, confidences: bool) -> Found:
        found: Found = await self._call(self._actor.find.remote(worker, keys, confidences=confidences))
        return found

    async def tell(self, worker: int, statistics: Statistics, ended: Sequence[str]) -> None:
        await self._call(self._actor.tell.remote(worker, statistics, ended))

    async def commit(self, worker: int, changes: Sequence[Opened | Closed]) -> list[BaseException | None]:
        ends: list[BaseException | None] = await self._call(self._actor.commit.remote(worker, changes))
        return ends

    async def leave(self, worker: int, statistics: Statistics | None, closed: str | None) -> None:
        await self._call(self._actor.leave.remote(worker, statistics, closed))

    async def _call(self, call: Awaitable[Any]) -> Any:
        with _own_errors(self._name):
            return await call


def _start_lender(name: str, ledger: str | None, terms: Terms) -> None:
    """Find the lender of this name, or make it, on this machine. Raises as `Lender.open`."""
    import ray  # noqa: PLC0415  an extra
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  as above

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    # num_cpus=0: it waits for a disk and for calls, and must not wait for a processor that tasks have taken
    actor = (
        ray.remote(_LenderActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        )
        .remote(ledger, terms)
    )
    try:
        _ask(actor, name, "open", terms)
    except (LedgerError, PriceError):
        ray.kill(actor)
        raise


def _ask(actor: Any, name: str, method: str, *arguments: Any) -> Any:
    import ray  # noqa: PLC0415  an extra

    with _own_errors(name):
        return ray.get(getattr(actor, method).remote(*arguments))


@contextlib.contextmanager
def _own_errors(name: str) -> Iterator[None]:
    """What a lender raised is raised here as it was; that it is gone is a `LedgerError`."""
    from ray.exceptions import RayActorError, RayTaskError  # noqa: PLC0415  an extra

    try:
        yield
    except RayTaskError as error:
        raise _cause(error) from None
    except RayActorError:
        raise _gone(name) from None


def _cut(items: Iterable[Item | str], size: int) -> Iterator[list[Item]]:
    part: list[Item] = []
    try:
        for item in items:
            part.append(read_item(item))
            if len(part) == size:
                yield part
                part = []
    except Exception:
        if part:
            yield part  # what came before is labelled
        raise
    if part:
        yield part


def _label_part(job: SharedJob, texts: Sequence[str]) -> list[Result]:
    return job.label(texts)


def _cause(error: Any) -> BaseException:
    cause: BaseException = error.cause
    return cause


def _gone(name: str) -> LedgerError:
    path = name.removeprefix("lender of ")
    return LedgerError(path, "its lender has ended or its machine is gone; the same call again goes on")
