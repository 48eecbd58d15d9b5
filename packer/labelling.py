"""A file in, a file out. Nothing is sent before all is checked that can be; every row that was read is written.

First the input is opened, the output is opened, the input is read once, and address, key, price and ledger are checked;
then the first request leaves. From there on a stop, a signal or a fault of the input ends the job, and never loses the
rows that it has. Only what cannot go on (the ledger is gone, a second Ctrl-C) leaves the old output as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from packer.columns import added_columns
from packer.doubting import describe_threshold, make_doubt, read_sample
from packer.errors import InputError
from packer.examples import describe_examples
from packer.headers import CHARGE_HEADER
from packer.items import MOST_IN_FLIGHT, Item, Result, Status
from packer.order import Order
from packer.outputs import Output, OutputFile, OutputStream, RowWriter, choose_writer, encode_line, open_output
from packer.overwriting import refuse_overwriting
from packer.progress import Display, row_printer
from packer.reporting import Reporter
from packer.signals import Signals
from packer.summary import Ending, Line, ResultTable, write_summary
from packer.tables import Checked, Format, Reader, Row, check_table, is_streamed, refuse_new_keys

if TYPE_CHECKING:
    from packer.audit import AuditResult
    from packer.events import Event, Statistics
    from packer.runner import Runner
    from packer.votes import DoubtResult

DONE, FAILED, STOPPED = 0, 3, 4
_TICK = 0.25  # seconds between two looks at the statistics
_FIRST_TICK = 0.05  # at the start, so that a short job has a course too


def label_table(order: Order) -> int:
    """Label a table; the exit code (0, 3 or 4). Raises `CallError` and `LedgerError`."""
    with contextlib.ExitStack() as undo:
        signals = undo.enter_context(Signals())
        reader = _open_input(order)
        undo.callback(reader.close)
        refuse_overwriting(order)
        shows_table = order.table or (order.output is None and sys.stdout.isatty())
        form: Format = reader.format
        output: Output | None = None
        if order.output is not None or not shows_table:
            output, form = open_output(order.output, reader.format)
            undo.callback(output.abandon)
        reporter = Reporter(order)
        undo.callback(reporter.abandon)
        checked: Checked | None = None
        if not is_streamed(order.input):
            checked = check_table(reader)
            reader = _open_input(order)
            undo.callback(reader.close)
        columns = reader.columns if checked is None else checked.columns
        added = added_columns(order.task, taken=columns, confidence=order.confidence, decision=order.doubts)
        names = [column.name for column in added]
        job = _Job(
            order,
            reader,
            rows=None if checked is None else checked.rows,
            output=output,
            reporter=reporter,
            writer=choose_writer(
                form,
                columns=columns,
                fields=order.fields,
                added=added,
                raw=order.raw,
                source=reader.parquet,
                confidence=order.confidence,
                decision=order.doubts,
            ),
            fixed=form is not Format.JSONL,
            shows_table=shows_table,
            names=names,
            renamed=[pair for pair in zip(order.columns, names, strict=True) if pair[0] != pair[1]],
        )
        signals.job = job
        return asyncio.run(job.run())


class _Job:
    def __init__(
        self,
        order: Order,
        reader: Reader,
        *,
        rows: int | None,
        output: Output | None,
        reporter: Reporter,
        writer: RowWriter,
        fixed: bool,
        shows_table: bool,
        names: Sequence[str],
        renamed: Sequence[tuple[str, str]],
    ) -> None:
        self._order = order
        self._reader = reader
        self._rows = rows
        self._output = output
        self._reporter = reporter
        self._writer = writer
        self._fixed = fixed
        self._names = names
        self._renamed = renamed
        self._width = shutil.get_terminal_size((80, 24)).columns
        self._table: ResultTable | None = None
        if shows_table:
            labels = tuple(order.task.labels)
            self._table = ResultTable(labels=labels, fields=order.fields, rows=rows, width=self._width)
        self._print: Callable[[Line], None] | None = None
        self._stdout = OutputStream(1)
        self._read: deque[Row] = deque()  # rows whose results are still to come
        self._unsure = 0  # labelled items whose confidence is wanted and unknown
        self._notice = ""
        self._broken = ""
        self._nobody_reads = False
        self._runner: Runner | None = None
        self._display: Display | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._audit: AuditResult | None = None
        self._doubt: DoubtResult | None = None
        self._was_interrupted = False
        self._ended = False

    async def run(self) -> int:
        """Carry the rows through the runner; the exit code."""
        from packer import connections  # noqa: PLC0415  a bad call does not wait for pydantic and openai
        from packer.runner import Runner  # noqa: PLC0415  as above

        order = self._order
        began = datetime.now(UTC)
        about: dict[str, Any] = {"connections": MOST_IN_FLIGHT, "charge_header": order.charge_header or CHARGE_HEADER}
        transport = connections.connect(
            order.model,
            base_url=order.base_url,
            api_key_env=order.api_key_env,
            api_key_file=order.api_key_file,
            **about,
            batch=order.batch,
        )
        doubt = make_doubt(order, connections.connect, **about)
        sample = None if order.target_accuracy is None else read_sample(order)
        if order.model == "local" and order.base_url is None:
            from packer.local import LOCAL_NOTICE  # noqa: PLC0415  as above

            self._notice = LOCAL_NOTICE
        with Display(self._rows, verbose=order.verbose) as display:
            self._print = None if self._table is None else row_printer(display)
            runner = Runner(
                order.task,
                model=order.model,
                transport=transport,
                ledger=order.ledger,
                job=order.job,
                limits=order.limits,
                budget_usd=order.budget_usd,
                price=order.price,
                concurrency=order.concurrency,
                on_doubt=order.on_doubt,
                seed=order.seed,
                untrusted=order.untrusted,
                audit=order.audit,
                max_disagreement=order.max_disagreement,
                confidence=order.confidence,
                abandon_batches=order.abandon_batches,
                doubt=doubt,
                on_event=self._hear,
            )
            self._display = display
            async with runner:
                self._loop, self._runner = asyncio.get_running_loop(), runner
                earlier = runner.statistics()
                self._reporter.begin(runner, display, rows=self._rows, began=began)
                if self._notice:
                    display.line(f"model local: {self._notice}", "yellow")
                if order.examples is not None:
                    display.line(f"{describe_examples(order.task)}, in every request")
                if sample is not None:
                    await self._certify(runner, *sample)
                ticker = asyncio.create_task(self._tick(display, runner))
                try:
                    await self._carry(runner)
                    self._audit = await runner.audit()
                finally:
                    ticker.cancel()
                now, self._doubt = runner.statistics(), runner.doubts()
                self._ended = True
        self._finish(self._output)
        was_cut = now.pending or (self._was_interrupted and self._rows is None)
        stopped = self._broken or (now.stopped or "interrupted" if was_cut or self._nobody_reads else "")
        stopped = stopped or (self._doubt.stopped if self._doubt is not None else None) or ""
        code = STOPPED if stopped else FAILED if now.failed or now.doubt else DONE
        self._reporter.finish(now, code=code, stopped=stopped, audit=self._audit, doubt=self._doubt)
        if not self._nobody_reads:
            for line in self._summary(earlier, now, stopped):
                display.line(*line)
        return code

    def interrupt(self) -> None:
        """Stop at the next occasion. Raises `KeyboardInterrupt` where nothing has begun. For a signal handler."""
        if self._runner is None or self._loop is None:
            raise KeyboardInterrupt
        if not self._ended:
            self._was_interrupted = True
            self._loop.call_soon_threadsafe(self._stop)

    def leave(self) -> None:
        """End the process at once. For a signal handler."""
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the signal came in the middle of a write
            if self._output is not None:
                self._output.abandon()
        Display.restore_terminal()
        fate = (
            "goes on at the gateway, where it was in a batch, and else is in doubt"
            if self._order.batch
            else "is in doubt"
        )
        note = f"prompt-packer: left at once; what was in flight {fate}; run the same command again to go on\n"
        with contextlib.suppress(OSError):
            os.write(2, note.encode())
        # not sys.exit: a thread that waits for a disk or a pipe would be waited for
        os._exit(STOPPED)

    async def _certify(self, runner: Runner, texts: Sequence[str], gold: Mapping[str, str] | None) -> None:
        assert self._display is not None, "a job that runs has a display"
        self._display.line(f"asking {len(texts):,} texts of both models first, to learn which labels to keep")
        found = await runner.certify(texts, gold=gold)
        if runner.statistics().stopped is None:
            self._display.line(describe_threshold(found, gold=gold is not None), "" if found.certified else "yellow")

    async def _carry(self, runner: Runner) -> None:
        try:
            await self._put(self._writer.header(), self._table.header() if self._table else None)
            async for result in runner.stream(self._items()):
                row = self._read.popleft()
                self._reporter.result(row.text, result)
                self._unsure += result.status is Status.LABELLED and result.confidence is None
                if not self._broken and not self._nobody_reads:
                    await self._put_row(row, result)
        except InputError as error:  # of input that could not be checked before, or that changed since
            self._broken = str(error)
        if not self._broken.startswith("the output") and not self._nobody_reads:
            await self._put(self._writer.footer())

    def _items(self) -> Iterator[Item]:
        """The rows as items; runs in a thread of the runner."""
        rows = iter(self._reader)
        if self._rows is None:
            rows = refuse_new_keys(self._reader, names=self._names, fixed=self._fixed)
        count = 0
        for row in rows:
            count += 1
            self._read.append(row)
            yield Item(row.text, row.id)
        if count < (self._rows or 0) and not (self._broken or self._nobody_reads):
            name = self._reader.name
            raise InputError(f"{name}: ended after {count} rows, and had {self._rows} when it was checked")

    async def _put_row(self, row: Row, result: Result) -> None:
        await self._put(b"" if self._output is None else self._writer.row(row, result))
        if self._table is not None and result.status is not Status.PENDING:
            for line in self._table.row(row.text, result):
                await self._put(b"", line)

    async def _put(self, data: bytes, shown: Line | None = None) -> None:
        try:
            if data and self._output is not None:
                await self._write(self._output, data)
            if shown is not None and self._print is not None:
                self._print(shown)
            elif shown is not None:
                await self._write(self._stdout, encode_line(f"{shown.text}\n"))
        except BrokenPipeError:
            self._nobody_reads = True
            self._abort("nobody reads the output")
        except OSError as error:
            self._broken = f"the output cannot be written: {error.strerror}"
            self._abort(self._broken)

    @staticmethod
    async def _write(output: Output, data: bytes) -> None:
        if output.ready(len(data)):
            output.write(data)
        else:  # a reader that is slow must not hold up the replies in flight
            await asyncio.to_thread(output.write, data)

    def _abort(self, reason: str) -> None:
        assert self._runner is not None, "rows come from the runner"
        self._runner.stop(reason)
        self._reader.end()

    def _stop(self) -> None:
        if self._ended or self._runner is None or self._display is None:
            return
        self._runner.stop("interrupted")
        if self._rows is None:
            self._reader.end()  # a pipe may never end
        flying = self._runner.statistics().in_flight
        wait = f"waiting for {flying} request{'s' if flying != 1 else ''} in flight" if flying else "writing the output"
        if self._order.batch:
            wait = "batches go on at the gateway and are paid for; the same command collects them"
        self._display.line(f"stopping: {wait}; press Ctrl-C again to leave at once", "yellow")

    def _finish(self, output: Output | None) -> None:
        if output is None or self._nobody_reads:
            return
        if self._broken.startswith("the output"):
            output.abandon()
            return
        try:
            output.finish()
        except OSError as error:
            self._broken = f"the output cannot be written: {error.strerror}"
            output.abandon()

    def _hear(self, event: Event) -> None:
        assert self._display is not None, "a runner that speaks has a display"
        self._reporter.event(event)
        self._display.event(event)

    async def _tick(self, display: Display, runner: Runner) -> None:
        while True:
            now = runner.statistics()
            display.update(now)
            self._reporter.sample(now)
            await asyncio.sleep(min(_TICK, max(now.seconds / 20, _FIRST_TICK)))

    def _summary(self, earlier: Statistics, now: Statistics, stopped: str) -> list[Line]:
        order = self._order
        ending = Ending(
            earlier=earlier,
            now=now,
            reasons=self._reporter.reasons,
            ledger=order.ledger,
            output=order.output if isinstance(self._output, OutputFile) else None,
            budget=order.budget_usd,
            notice=self._notice,
            renamed=self._renamed,
            guarded=self._writer.guarded,
            stopped=stopped,
            unsure=self._unsure if order.confidence else 0,
            on_screen=self._output is None,
            audit=self._audit,
            doubt=self._doubt,
        )
        return write_summary(ending, width=self._width)


def _open_input(order: Order) -> Reader:
    return Reader(order.input, text=order.text, id_column=order.id_column, encoding=order.encoding)
