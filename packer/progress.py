"""What is shown while a job runs goes to a terminal or nowhere: a bar in a log file is noise.

Rows on standard output and the bar on standard error often share one terminal. Then both go through one console, which
prints the rows above the bar; else each goes its own way.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from packer.batch_files import ENDED, GIVEN_UP
from packer.events import AttemptEnded, Audited, BatchStands, Event, JobStopped, Paused, SettingRefused, Statistics
from packer.shown import show_text
from packer.usage import format_usd

if TYPE_CHECKING:
    import rich.console
    import rich.progress

    from packer.summary import Line

_RATE_SAMPLES = 120  # of the statistics, a few a second
_SHORTEST_BAR = 8  # terminal cells, with the space behind it
_SHOW_CURSOR = b"\x1b[?25h\n"


class Display:
    """The bar, the log lines of `-v` and the notes, on standard error. A context manager: the bar is gone at its end.

    `rows` is the length of the job, None where it is not known. `verbose` shows a line a request.
    """

    def __init__(self, rows: int | None, *, verbose: bool) -> None:
        from rich.console import Console  # noqa: PLC0415  a bad call does not wait for rich

        class Quiet(Console):
            def on_broken_pipe(self) -> None:  # rich would end the process, and with it what is paid for
                self.quiet = True

        self._rows = rows
        self._verbose = verbose
        self._console: rich.console.Console = Quiet(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        self._batches: dict[int, BatchStands] = {}
        self._pace = Pace(rows)
        self.is_terminal = self._console.is_terminal and not self._console.is_dumb_terminal

    def __enter__(self) -> Self:
        if self.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415  as above

            columns = (BarColumn(bar_width=None), TextColumn("{task.description}", markup=False))
            self._bar = Progress(
                *columns,
                console=self._console,
                transient=True,
                expand=True,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task("starting", total=self._rows)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, now: Statistics) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            waiting = "".join(f"  {_write_standing(batch)}" for batch in self._batches.values())
            said = self._pace.describe(now, self._console.width - _SHORTEST_BAR - len(waiting)) + waiting
            self._bar.update(self._task, completed=self._pace.done, description=said)

    def line(self, text: str, style: str = "") -> None:
        """One line on standard error, above the bar."""
        with contextlib.suppress(OSError):  # a terminal that is gone ends nothing
            # soft_wrap: a line is as wide as it was made
            self._console.print(text, style=style, soft_wrap=True)

    def event(self, event: Event) -> None:
        """The line for an event that has one; without `verbose` only for what takes long, which looks like a fault."""
        is_shown = self._verbose or isinstance(event, Paused)
        if isinstance(event, BatchStands):
            before = self._batches.get(event.batch)
            is_shown = before is None or before.state != event.state
            self._batches[event.batch] = event
            if event.state in ENDED or event.state == GIVEN_UP:
                del self._batches[event.batch]
        text = write_event(event) if is_shown else None
        if text is not None:
            who = f"{event.ask}: " if event.ask else ""
            self.line(f"{time.strftime('%H:%M:%S')} {show_text(who + text)}")

    @staticmethod
    def restore_terminal() -> None:
        """Give the terminal its cursor back, when the process is about to end in the middle of it all."""
        if sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)


class Pace:
    """What stands behind a bar, from statistics that are told a few times a second; `rows` as `Display` takes them."""

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._seen: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES)
        self.done = 0  # items

    def describe(self, now: Statistics, width: int | None = None) -> str:
        """The words for `now`, see `describe`; the rate is over the last samples."""
        self.done = _count_done(now)
        # the last only: what came from the ledger at the start says nothing of the rest
        self._seen.append((now.seconds, self.done))
        seconds, before = self._seen[0]
        rate = (self.done - before) / (now.seconds - seconds) if now.seconds > seconds else 0.0
        return describe(now, self._rows, rate, width)


def row_printer(display: Display) -> Callable[[Line], None] | None:
    """What prints a line of the table on standard output where that is a terminal; None where it is not."""
    from rich.console import Console  # noqa: PLC0415  as above

    if not sys.stdout.isatty():
        return None
    if display.is_terminal:
        return lambda line: display.line(*line)
    console = Console(highlight=False, markup=False, emoji=False)
    return lambda line: console.print(line.text, style=line.style, soft_wrap=True)


def describe(now: Statistics, rows: int | None, rate: float, width: int | None = None) -> str:
    """What stands behind the bar: done, rate, spend, in flight, failed, time left. `rate` is in items a second.

    Where `width` characters are not enough, what matters least is left out: in flight, rate, spend, then failed.
    """
    done, spent = _count_done(now), now.settled + now.in_doubt
    parts = {
        "done": f"{done:,}" if rows is None else f"{done:,}/{rows:,}",
        "rate": f"{rate:,.0f}/s",
        "spent": format_usd(spent) + ("+?" if now.unpriced else "") if spent or now.unpriced else "",
        "in flight": f"{now.in_flight} in flight",
        "failed": f"{now.failed:,} failed" if now.failed else "",
        "left": _write_left((rows - done) / rate) if rows is not None and rate > 0 and done < rows else "",
    }
    for name in ("", "in flight", "rate", "spent", "failed"):
        parts.pop(name, None)
        said = "  ".join(part for part in parts.values() if part)
        if width is None or len(said) <= width:
            break
    return said


def _count_done(now: Statistics) -> int:
    return now.labelled + now.failed + now.doubt + now.pending


def _write_left(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"


def _write_standing(batch: BatchStands) -> str:
    return f"{batch.state.replace('_', ' ')} {batch.ended:,}/{batch.requests:,}"


def write_event(event: Event) -> str | None:
    """An event in a line; None for one that says nothing on its own."""
    match event:
        case AttemptEnded():
            size = "single" if event.items == 1 else f"pack of {event.items}"
            tokens = f", {event.usage.input_tokens}+{event.usage.output_tokens} tokens" if event.usage else ""
            cost = f", {format_usd(event.charge.usd)}" if event.charge else ""
            step = "" if event.step == "accept" else f", {event.step}"
            return f"{size}, attempt {event.number}: {event.outcome}{tokens}{cost}, {event.seconds:.1f} s{step}"
        case SettingRefused(setting=setting):
            return f"the gateway does not take {setting}; it is left out from now on"
        case Paused(seconds=seconds):
            return f"nothing is sent for {seconds:,.0f} s: the gateway asks to wait, or answers nobody"
        case Audited(broken=True, asked=asked, agreed=agreed):
            return f"asked again alone, {agreed:,} of {asked:,} items got the same answer: packs become smaller"
        case BatchStands():
            if not event.id:
                return f"a batch of {event.requests:,} requests is {event.state}"
            until = f", until {time.strftime('%H:%M', time.localtime(event.expires))} at most" if event.expires else ""
            return f"batch {event.id} {_write_standing(event)} requests{'' if event.state in ENDED else until}"
        case JobStopped(reason=reason):
            return f"stopping: {reason}"
        case _:
            return None
