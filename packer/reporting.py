"""Who hears a run and tells it: as a report, as its page, and in a browser while it runs. None of it ends the job."""

from __future__ import annotations

import contextlib
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from packer.items import Result, Status
from packer.order import Order
from packer.outputs import Output, OutputFile
from packer.recording import Recorder
from packer.report import Report, check_report_paths, encode_report, make_report

if TYPE_CHECKING:
    from packer.audit import AuditResult
    from packer.dashboard.live import LiveJob
    from packer.dashboard.server import Server
    from packer.events import Event, Statistics
    from packer.progress import Display
    from packer.runner import Runner
    from packer.votes import DoubtResult

_REASONS_KEPT = 1_000  # of failed items; more are counted as one


class Reporter:
    """Opens what `order` wants to be told by, and refuses with `CallError` what cannot be.

    `begin` comes before all else but `abandon`. `reasons` counts failed items by their reason.
    """

    def __init__(self, order: Order) -> None:
        self.reasons: Counter[str] = Counter()
        self._order = order
        if order.dashboard:
            from packer.dashboard.writing import check_page_can_be_made  # noqa: PLC0415  slow

            check_page_can_be_made()
        self._file, self._page = _open_report(order.report)
        self._recorder = Recorder()
        self._began = datetime.now(UTC)
        self._display: Display | None = None
        self._runner: Runner | None = None
        self._earlier: Statistics | None = None
        self._live: LiveJob | None = None
        self._server: Server | None = None

    def begin(self, runner: Runner, display: Display, *, rows: int | None, began: datetime) -> None:
        """From here on `runner` is told, and `display` shows what cannot be done. `rows` None: not known."""
        self._runner, self._display, self._began = runner, display, began
        self._earlier = runner.statistics()
        if self._order.dashboard:
            self._serve(display, rows)

    def event(self, event: Event) -> None:
        """Hear it."""
        self._recorder.event(event)
        if self._live is not None:
            self._live.event(event)

    def result(self, text: str, result: Result) -> None:
        """See the next row's result."""
        self._recorder.result(text, result)
        if result.status is Status.FAILED:
            known = result.error in self.reasons or len(self.reasons) < _REASONS_KEPT
            self.reasons[result.error if known else "another reason"] += 1
        if self._live is not None:
            self._live.result(text, result)

    def sample(self, now: Statistics) -> None:
        """See how things stand."""
        self._recorder.sample(now)
        if self._live is not None:
            self._live.show(self._make_report(now, code=0, stopped=now.stopped or "", audit=None, doubt=None))

    def finish(
        self, now: Statistics, *, code: int, stopped: str, audit: AuditResult | None, doubt: DoubtResult | None
    ) -> None:
        """Leave the report; `stopped` is why the job ended before its end, empty where it did not."""
        if self._file is None and self._live is None:
            return
        report = self._make_report(now, code=code, stopped=stopped, audit=audit, doubt=doubt)
        if self._live is not None and self._server is not None:
            self._live.show(report, is_over=True)
            self._server.close()
        if self._file is not None:
            self._write(self._file, encode_report(report))
        if self._page is not None:  # second: the page can be made again from the report
            self._write_page(self._page, report)

    def abandon(self) -> None:
        """Leave what was not finished undone. Safe to call at any time."""
        for file in (self._file, self._page):
            if file is not None:
                file.abandon()
        if self._server is not None:
            self._server.close()

    def _serve(self, display: Display, rows: int | None) -> None:
        from packer.dashboard.live import LiveJob  # noqa: PLC0415  an extra
        from packer.dashboard.server import Server  # noqa: PLC0415  as above

        live = LiveJob(rows)
        server = Server(live)
        try:
            address = server.start()
        except OSError as error:
            display.line(f"the dashboard cannot be served: {error.strerror}; the job runs all the same", "red")
            return
        self._live, self._server = live, server
        display.line(f"dashboard  {address}")

    def _make_report(
        self, now: Statistics, *, code: int, stopped: str, audit: AuditResult | None, doubt: DoubtResult | None
    ) -> Report:
        assert self._runner is not None, "begin() comes first"
        assert self._earlier is not None, "as above"
        return make_report(
            task=self._order.task,
            began=self._began,
            ended=datetime.now(UTC),
            exit_code=code,
            stopped=stopped or None,
            settings=self._order.settings(self._runner.price),
            earlier=self._earlier,
            now=now,
            failed=dict(self.reasons),
            audit=audit,
            doubt=doubt,
            recording=self._recorder.finish(now),
        )

    def _write_page(self, file: Output, report: Report) -> None:
        from packer.page import write_page  # noqa: PLC0415  an extra

        try:
            page = write_page(report)
        except Exception as error:  # noqa: BLE001  what draws is no part of the job, and the report is written
            file.abandon()
            self._complain(f"the page cannot be drawn: {error}")
        else:
            self._write(file, page.encode())

    def _write(self, file: Output, data: bytes) -> None:
        try:
            file.write(data)
            file.finish()
        except OSError as error:
            file.abandon()
            self._complain(f"the report cannot be written: {error.strerror}")

    def _complain(self, words: str) -> None:
        assert self._display is not None, "begin() comes first"
        self._display.line(f"{self._order.report}: {words}", "red")


def _open_report(path: str | None) -> tuple[Output | None, Output | None]:
    if path is None:
        return None, None
    file, page = check_report_paths(path)
    if page is None:
        return OutputFile(file, private=True), None
    from packer.page import check_page_can_be_made  # noqa: PLC0415  slow

    check_page_can_be_made()
    with contextlib.ExitStack() as undo:
        report = OutputFile(file, private=True)
        undo.callback(report.abandon)
        opened = (report, OutputFile(page, private=True))
        undo.pop_all()
    return opened
