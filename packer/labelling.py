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
import stat
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from packer.errors import CallError, InputError
from packer.examples import describe_examples
from packer.headers import CHARGE_HEADER
from packer.items import Item, Result, Status
from packer.order import Order
from packer.outputs import Output, OutputFile, OutputStream, RowWriter, choose_names, encode_line, make_writer
from packer.progress import Display, row_printer
from packer.report import check_report_path, encode_report, make_report
from packer.signals import Signals
from packer.summary import Ending, Line, ResultTable, write_summary
from packer.tables import Checked, Format, Reader, Row, check_table, format_of, is_streamed, refuse_new_keys

if TYPE_CHECKING:
    from packer.audit import AuditResult
    from packer.events import Statistics
    from packer.runner import Runner

DONE, FAILED, STOPPED = 0, 3, 4
_REASONS_KEPT = 1_000  # of failed items; more are counted as one
_TICK = 0.25  # seconds between two looks at the statistics


def label_table(order: Order) -> int:
    """Label a table; the exit code (0, 3 or 4). Raises `CallError` and `LedgerError`."""
    with contextlib.ExitStack() as undo:
        signals = undo.enter_context(Signals())
        reader = _open_input(order)
        undo.callback(reader.close)
        _refuse_overwriting(order)
        shows_table = order.table or (order.output is None and sys.stdout.isatty())
        form = reader.format
        output: Output | None = None
        if order.output is not None or not shows_table:
            output, form = _open_output(order.output, reader.format)
            undo.callback(output.abandon)
        report = None if order.report is None else OutputFile(check_report_path(order.report), private=True)
        if report is not None:
            undo.callback(report.abandon)
        checked: Checked | None = None
        if not is_streamed(order.input):
            checked = check_table(reader)
            reader = _open_input(order)
            undo.callback(reader.close)
        columns = reader.columns if checked is None else checked.columns
        names = choose_names(columns, order.columns)
        job = _Job(
            order,
            reader,
            rows=None if checked is None else checked.rows,
            output=output,
            report=report,
            writer=make_writer(
                form, columns=columns, fields=order.fields, names=names, raw=order.raw, confidence=order.confidence
            ),
            fixed=form is Format.CSV,
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
        report: Output | None,
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
        self._report = report
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
        self._reasons: Counter[str] = Counter()
        self._unsure = 0  # labelled items whose confidence is wanted and unknown
        self._notice = ""
        self._broken = ""
        self._nobody_reads = False
        self._runner: Runner | None = None
        self._display: Display | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._audit: AuditResult | None = None
        self._was_interrupted = False
        self._ended = False

    async def run(self) -> int:
        """Carry the rows through the runner; the exit code."""
        from packer import connections  # noqa: PLC0415  a bad call does not wait for pydantic and openai
        from packer.options import MOST_IN_FLIGHT  # noqa: PLC0415  as above
        from packer.runner import Runner  # noqa: PLC0415  as above

        order = self._order
        began = datetime.now(UTC)
        transport = connections.connect(
            order.model,
            base_url=order.base_url,
            api_key_env=order.api_key_env,
            api_key_file=order.api_key_file,
            connections=MOST_IN_FLIGHT,
            charge_header=order.charge_header or CHARGE_HEADER,
            batch=order.batch,
        )
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
                on_event=display.event,
            )
            async with runner:
                self._display, self._loop, self._runner = display, asyncio.get_running_loop(), runner
                earlier = runner.statistics()
                if self._notice:
                    display.line(f"model local: {self._notice}", "yellow")
                if order.examples is not None:
                    display.line(f"{describe_examples(order.task)}, in every request")
                ticker = asyncio.create_task(self._tick(display, runner))
                try:
                    await self._carry(runner)
                    self._audit = await runner.audit()
                finally:
                    ticker.cancel()
                now = runner.statistics()
                self._ended = True
        self._finish(self._output)
        was_cut = now.pending or (self._was_interrupted and self._rows is None)
        stopped = self._broken or (now.stopped or "interrupted" if was_cut or self._nobody_reads else "")
        code = STOPPED if stopped else FAILED if now.failed or now.doubt else DONE
        if self._report is not None:
            self._write_report(self._report, began, code, stopped, earlier=earlier, now=now)
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

    async def _carry(self, runner: Runner) -> None:
        try:
            await self._put(self._writer.header(), self._table.header() if self._table else None)
            async for result in runner.stream(self._items()):
                row = self._read.popleft()
                if result.status is Status.FAILED:
                    known = result.error in self._reasons or len(self._reasons) < _REASONS_KEPT
                    self._reasons[result.error if known else "another reason"] += 1
                self._unsure += result.status is Status.LABELLED and result.confidence is None
                if not self._broken and not self._nobody_reads:
                    await self._put_row(row, result)
        except InputError as error:  # of input that could not be checked before, or that changed since
            self._broken = str(error)

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
        await self._put("" if self._output is None else self._writer.row(row, result))
        if self._table is not None and result.status is not Status.PENDING:
            for line in self._table.row(row.text, result):
                await self._put("", line)

    async def _put(self, data: str, shown: Line | None = None) -> None:
        try:
            if data and self._output is not None:
                await self._write(self._output, data)
            if shown is not None and self._print is not None:
                self._print(shown)
            elif shown is not None:
                await self._write(self._stdout, f"{shown.text}\n")
        except BrokenPipeError:
            self._nobody_reads = True
            self._abort("nobody reads the output")
        except OSError as error:
            self._broken = f"the output cannot be written: {error.strerror}"
            self._abort(self._broken)

    @staticmethod
    async def _write(output: Output, text: str) -> None:
        data = encode_line(text)
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

    def _write_report(
        self, file: Output, began: datetime, code: int, stopped: str, *, earlier: Statistics, now: Statistics
    ) -> None:
        assert self._display is not None, "a job that ran had a display"
        assert self._runner is not None, "and a runner"
        price = self._runner.price
        report = make_report(
            task=self._order.task.fingerprint,
            began=began,
            ended=datetime.now(UTC),
            exit_code=code,
            stopped=stopped or None,
            settings=self._order.settings(price),
            earlier=earlier,
            now=now,
            failed=dict(self._reasons),
            audit=self._audit,
        )
        try:
            file.write(encode_report(report))
            file.finish()
        except OSError as error:
            file.abandon()
            message = f"{self._order.report}: the report cannot be written: {error.strerror}"
            self._display.line(message, "red")

    async def _tick(self, display: Display, runner: Runner) -> None:
        while True:
            display.update(runner.statistics())
            await asyncio.sleep(_TICK)

    def _summary(self, earlier: Statistics, now: Statistics, stopped: str) -> list[Line]:
        order = self._order
        ending = Ending(
            earlier=earlier,
            now=now,
            reasons=self._reasons,
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
        )
        return write_summary(ending, width=self._width)


def _open_input(order: Order) -> Reader:
    return Reader(order.input, text=order.text, id_column=order.id_column, encoding=order.encoding)


def _refuse_overwriting(order: Order) -> None:
    if sys.stdout is None and (order.table or order.output in {None, "-"}):
        raise CallError("standard output is closed; expected --output FILE")
    if order.table and order.output == "-":
        raise CallError("--table: the rows go to standard output already (--output -); expected one of the two")
    read = {"input": order.input, "task file": order.task_file, "key file": order.api_key_file}
    read["examples"] = order.examples
    for path, name in ((order.output or "-", "output"), (order.report, "report")):
        written = None if path is None else _identity(path, 1)
        for what, source in read.items():
            if written is not None and source is not None and written == _identity(source, 0):
                shown = path if order.output is not None or name == "report" else "standard output"
                raise CallError(f"{shown}: the {name} is the {what}; expected another file")
    taken = {os.path.realpath(order.ledger): "ledger"}
    for path, name in ((order.output, "output"), (order.report, "report")):
        if path is None or path == "-":
            continue
        other = taken.setdefault(os.path.realpath(path), name)
        if other != name:
            raise CallError(f"{path}: the {name} is the {other}; expected another file")


def _identity(path: str, descriptor: int) -> tuple[int, int] | None:
    """What a regular file is, under whatever name; None for anything else."""
    try:
        found = os.fstat(descriptor) if path == "-" else Path(path).stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _open_output(path: str | None, source: Format) -> tuple[Output, Format]:
    if path is None or path == "-":
        return OutputStream(1), source
    if is_streamed(path):  # /dev/null, a named pipe
        try:
            return OutputStream(os.open(path, os.O_WRONLY)), source
        except OSError as error:
            raise CallError(f"{path}: cannot be written: {error.strerror}") from error
    if "\0" in path:
        raise CallError(f"{path!r}: expected a file name")
    form = format_of(path)
    return OutputFile(Path(path)), form
