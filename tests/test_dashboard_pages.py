"""The dashboard's numbers are the report's and the ledger's, and strangers' words on it are text and nothing else."""

import asyncio
import contextlib
import http.client
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from fake_reports import ESCAPED, HOSTILE, hostile, read_json, run_job
from gateway.scripts import read_script
from gateway.server import Setup, running_gateway

pytest.importorskip("jinja2", reason="the extra dashboard is not installed")
from selectolax.lexbor import LexborHTMLParser

from packer import batch_files, batches, ledger_jobs
from packer.cli import main
from packer.dashboard import past as past_module
from packer.dashboard import server as server_module
from packer.dashboard.bars import line_up
from packer.dashboard.course import Course
from packer.dashboard.live import LiveJob
from packer.dashboard.panels import draw_panels
from packer.dashboard.past import PastJobs
from packer.dashboard.watching import JobWatch
from packer.events import AttemptEnded, BatchStands
from packer.exchange import Charge, ChargeSource
from packer.items import Item, Result, Status
from packer.ledger import Attempt, AttemptState, Closed, JobEntry, Ledger, Opened
from packer.ledger_batches import Line
from packer.reading import read_report
from packer.recording import Moment
from packer.usage import format_usd

TAGS = """html head meta title link script body main header p h1 h2 h3 b i div dl dt dd section figure figcaption span
    table thead tbody tr th td ul li pre a svg path line rect text"""


class WatchedServer(server_module.Server):
    """A dashboard with one reader, who is there before the job begins, and keeps what it was told."""

    def __init__(self, pages: server_module.Pages) -> None:
        super().__init__(pages)
        self.parts: dict[str, str] = {}
        self.ended = False
        self._reader = threading.Thread(target=self._read)
        self._seen = threading.Event()
        WATCHED.append(self)

    def start(self) -> str:
        address = super().start()
        self._address = address
        self._reader.start()
        assert self._seen.wait(10)
        return address

    def close(self) -> None:
        super().close()
        self._reader.join(10)

    def _read(self) -> None:
        host, _, query = self._address.removeprefix("http://").partition("/")
        with contextlib.closing(http.client.HTTPConnection(host, timeout=10)) as connection:
            connection.request("GET", f"/{query}")
            answer = connection.getresponse()
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
            answer.read()
            connection.request("GET", "/events", headers={"Cookie": cookie})
            answer = connection.getresponse()
            self._seen.set()
            for event in answer.read().decode().split("\n\n")[:-1]:
                name, data = (line.partition(": ")[2] for line in event.splitlines())
                self.parts |= json.loads(data)
                self.ended = name == "end"
            answer.close()


WATCHED: list[WatchedServer] = []


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a job was watched: refusals, a pack in doubt, an empty text."""
    folder = tmp_path_factory.mktemp("job")
    faults = {"2": "rate limited", "4": "lost"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_module, "Server", WatchedServer)
        assert run_job(folder, "--on-doubt", "hold", "--budget-usd", "1", "--dashboard", faults=faults) == 3
    return folder


@pytest.fixture
def past(job: Path) -> PastJobs:
    return PastJobs(str(job / "prompt-packer.db"))


def parse(html: str | None) -> LexborHTMLParser:
    assert html is not None
    return LexborHTMLParser(html)


def text_of(page: LexborHTMLParser, selector: str) -> str:
    found = page.css_first(selector)
    assert found is not None, selector
    return found.text()


def tiles_of(page: LexborHTMLParser) -> dict[str, list[str]]:
    return {node.css("dt")[0].text(): [dd.text() for dd in node.css("dd")] for node in page.css(".tiles div")}


def facts_of(page: LexborHTMLParser) -> dict[str, str]:
    rows = [row for table in page.css(".facts") for row in table.css("tr")]
    return {row.css("th")[0].text(): row.css("td")[0].text() for row in rows}


def check_numbers(page: LexborHTMLParser, report: dict[str, Any]) -> None:
    now, run, tiles, facts = report["statistics"], report["run"], tiles_of(page), facts_of(page)
    left = now["failed"] + now["doubt"]
    assert text_of(page, "h1").startswith(f"Finished: {now['labelled']} of {now['items']} items labelled, ")
    assert tiles["Labelled"][0] == f"{now['labelled']:,}"
    assert tiles["Without a label"][0] == f"{left:,}"
    least, most = format_usd(Decimal(run["least"])), format_usd(Decimal(run["most"]))
    cost = least if least == most else f"{least} to {most}"
    assert tiles["Cost of this run"][0] == cost
    assert tiles["Requests"][0] == f"{now['requests']:,}"
    assert facts["this run"] == cost
    assert facts["input tokens"].startswith(f"{now['usage']['input_tokens']:,}, ")
    assert facts["output tokens"] == f"{now['usage']['output_tokens']:,}"
    outcomes = {row.css("th")[0].text(): row.css("td.n")[0].text() for row in page.css(".outcomes tr")}
    assert {name: int(count.split()[0].replace(",", "")) for name, count in outcomes.items()} == report["outcomes"]
    panels = {node.css("h3")[0].text(): node.css(".now")[0].text() for node in page.css("figure")}
    assert panels["Items"].startswith(f"{now['labelled']:,} labelled")
    assert panels["Spent in this run"].endswith(most)
    assert panels["Requests in flight"] == f"0, the limit is {now['limit']:,}"


def check_items(page: LexborHTMLParser, report: dict[str, Any]) -> None:
    rows = [[cell.text() for cell in row.css("td")] for row in page.css("#items tbody tr")]
    states = {"failed": "failed", "doubt": "in doubt"}
    lost = [[f"{item['row']:,}", states[item["status"]], item["text"], item["reason"]] for item in report["unanswered"]]
    assert rows == lost[::-1][:30]


def test_the_last_that_a_reader_is_told_is_what_the_report_says(job: Path) -> None:
    (watched,) = WATCHED
    assert watched.ended
    report = read_json(job / "report.json")
    assert report["run"]["least"] != report["run"]["most"]
    assert report["outcomes"]["lost"] == 1
    page = LexborHTMLParser("".join(watched.parts.values()))
    check_numbers(page, report)
    check_items(page, report)
    troubles = [node.text() for node in page.css("#troubles td")]
    assert [words for words in troubles if "rate limited: the gateway says: rate limited" in words]
    assert [words for words in troubles if "lost: the gateway says: lost" in words]


def test_a_page_that_is_loaded_again_is_what_the_stream_tells(job: Path) -> None:
    report = read_report(str(job / "report.json"))
    live = LiveJob(17)
    early = parse(live.page("/"))
    assert "The job has not begun yet." in text_of(early, "h1")
    assert early.css("meta[http-equiv=refresh]"), "whoever is there before the job sees it begin"
    live.show(report)
    page = parse(live.page("/"))
    for name, html in (live.parts() or {}).items():
        (place,) = page.css(f"#{name}")
        assert place.text() == LexborHTMLParser(f"<div>{html}</div>").css("div")[0].text()
    assert live.page("/job/1") is None
    assert text_of(page, "h1") == "Running: 14 of 17 items labelled."
    assert {"Pace", "In flight", "Time left", "Cost to the end"} <= tiles_of(page).keys()
    assert tiles_of(page)["Cost to the end"][1] == "$1.00 of the budget left"
    live.show(report, is_over=True)
    check_numbers(parse(live.page("/")), read_json(job / "report.json"))


def test_what_is_left_follows_from_what_was_done(job: Path) -> None:
    document = read_json(job / "report.json")
    live = LiveJob(1_000)
    for seconds, done in ((0.0, 0), (10.0, 100), (40.0, 400)):
        now = {"seconds": seconds, "labelled": done, "failed": 0, "doubt": 0, "items": 500, "known": 100, "pending": 0}
        document["statistics"] |= now
        document["run"] |= {"least": "0.3", "most": "0.6"}
        (job / "moment.json").write_text(json.dumps(document), encoding="utf-8")
        live.show(read_report(str(job / "moment.json")))
    tiles = tiles_of(parse(live.page("/")))
    assert tiles["Pace"][0] == "10.0/s"
    assert tiles["Time left"] == ["1 min 00 s", "ran for 40.0 s"]
    # 300 of the 400 were asked, for 0.6 USD at most; 600 are left
    assert tiles["Cost to the end"][0] == "$1.20"
    assert tiles["Cost of this run"][0] == "$0.30 to $0.60"


def moments(*labelled: int, seconds: float = 10.0) -> list[Moment]:
    return [
        Moment(
            seconds=number * seconds,
            labelled=count,
            failed=number,
            requests=number,
            refused=0,
            settled=Decimal(number) / 1_000,
            in_doubt=Decimal(number) / 2_000,
            in_flight=number,
            limit=4,
            pack_size=20,
        )
        for number, count in enumerate(labelled)
    ]


def test_panels_draw_every_moment_within_their_frame() -> None:
    panels = draw_panels(moments(0, 100, 150, 400))
    assert [panel.title for panel in panels] == ["Items a second", "Items", "Spent in this run", "Requests in flight"]
    assert [panel.now for panel in panels] == [
        "25.1",
        "400 labelled, 3 failed",
        "$0.0030 to $0.0045",
        "3, the limit is 4",
    ]
    for panel in panels:
        paths = re.findall(r'<path class="([a-z ]+)"[^>]* d="M([^"]+)"', panel.svg)
        assert len(paths) >= 2
        for _, drawn in paths:
            points = [tuple(map(float, point.split())) for point in drawn.rstrip("Z").split("L")]
            assert len(points) >= 4
            assert points[0][0] == 0
            assert max(x for x, _ in points) == 1000
            assert all(0 <= x <= 1000 and 0 <= y <= 120 for x, y in points)
        assert panel.svg.count("<text") >= 4


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 0.3, 7, 3_600, 86_400, 1e7])
def test_panels_have_few_ticks_however_long_a_job_takes(seconds: float) -> None:
    for series in (moments(0), moments(0, 0, 0, seconds=seconds), moments(0, 10**9, 10**9, seconds=seconds)):
        for panel in draw_panels(series):
            assert 1 <= panel.svg.count('<text class="value"') <= 6
            assert 1 <= panel.svg.count('<text class="time') <= 7
            assert "nan" not in panel.svg
            assert "e+" not in panel.svg


def test_what_the_ledger_knew_does_not_flatten_the_pace() -> None:
    known = draw_panels(moments(10**6, *range(10**6, 10**6 + 4_000, 100)))[0]
    ticks = re.findall(r'<text class="value"[^>]*>([\d,]+)<', known.svg)
    assert max(int(tick.replace(",", "")) for tick in ticks) <= 20


# Batches


def rows_of(page: LexborHTMLParser, table: str) -> list[list[str]]:
    return [[" ".join(cell.text().split()) for cell in row.css("td")] for row in page.css(f"{table} tbody tr")]


def test_the_page_says_how_batches_stand_and_says_it_again_after_a_reload(job: Path) -> None:
    report, live = read_report(str(job / "report.json")), LiveJob(17)
    live.show(report)
    assert "Batches" not in parse(live.page("/")).html  # type: ignore[operator]
    live.event(BatchStands(1, "batch_a", "in_progress", 120, 3, 2_000, 1_784_557_800))
    live.event(BatchStands(2, "", "gathered", 0, 0, 40, None))
    live.show(report)
    for page in (parse(live.page("/")), LexborHTMLParser((live.parts() or {})["batches"])):
        assert rows_of(page, ".batches") == [
            ["batch_a", "in progress", "120 of 2,000 ended, 3 failed", "2026-07-20 14:30 UTC"],
            ["not made yet", "gathered", "0 of 40 ended", ""],
        ]
        assert text_of(page, ".lead").startswith("2 batches with 2,040 requests under way.")
        widths = [rect.attributes["width"] for rect in page.css(".batches rect")]
        assert widths == ["5.850%", "0.150%"]
    assert text_of(parse(live.page("/")), ".next").endswith("What is in a batch by then is collected by it.")
    assert not parse(live.page("/")).css("#troubles")
    live.event(BatchStands(1, "batch_a", "completed", 2_000, 3, 2_000, 1_784_557_800))
    live.event(BatchStands(2, "", "given up", 0, 0, 40, None))
    live.show(report, is_over=True)
    page = parse(live.page("/"))
    assert [row[1] for row in rows_of(page, ".batches")] == ["given up", "completed"]
    assert text_of(page, ".lead") == "2 batches have ended in this run."
    assert [row[1] for row in rows_of(page, "#troubles")] == ["a batch of 40 requests is given up"]


def test_what_a_page_keeps_of_batches_is_bounded(job: Path) -> None:
    live = LiveJob(17)
    for number in range(1_000):
        live.event(BatchStands(number, f"b-{number}", "completed", 5, 0, 5, None))
    live.show(read_report(str(job / "report.json")))
    page = parse(live.page("/"))
    assert text_of(page, ".lead") == "1,000 batches have ended in this run."
    assert [row[0] for row in rows_of(page, ".batches")] == [f"b-{number}" for number in range(999, 994, -1)]


@pytest.mark.parametrize("expires", [0, 10**12, 2**53 - 1])
def test_a_gateway_that_tells_nonsense_of_a_batch_has_a_page(expires: int, job: Path) -> None:
    live = LiveJob(17)
    live.event(BatchStands(1, HOSTILE[0], HOSTILE[1], 0, 7, 0, expires))
    live.event(BatchStands(2, "b", "validating", 10**15, 3, 1, expires))
    live.show(read_report(str(job / "report.json")))
    page = parse(live.page("/"))
    check_only_text(page)
    assert [row[3] for row in rows_of(page, ".batches")] == [""] * 2 if expires else ["1970-01-01 00:00 UTC"] * 2
    for rect in page.css(".batches rect"):
        start, width = (float((rect.attributes[name] or "").rstrip("%")) for name in ("x", "width"))
        assert 0 <= start <= start + width <= 100.001


def test_a_job_that_is_sent_in_batches_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server_module, "Server", WatchedServer)
    monkeypatch.setattr(batch_files, "_FIRST_LOOK", 0.001)
    monkeypatch.setattr(batches, "_QUIET", 0.05)
    Path("in.csv").write_text("text\n" + "".join(f"spam {number}\n" for number in range(24)), encoding="utf-8")
    with running_gateway(Setup()) as gateway:
        monkeypatch.setenv("K", gateway.accounts[0].key)
        given = ["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", "m", "--output", "out.csv"]
        given += ["--base-url", gateway.url, "--api-key-env", "K", "--max-items", "2", "--batch", "--dashboard"]
        assert main(given) == 0
    page = LexborHTMLParser(WATCHED.pop().parts["batches"])
    assert rows_of(page, ".batches") == [["batch_1", "completed", "11 of 11 ended", ""]]


# Strangers' words


def check_only_text(page: LexborHTMLParser) -> None:
    for node in page.css("*"):
        assert node.tag in TAGS.split(), node.tag
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in {"href", "src"}:
                assert re.fullmatch(r"/(page\.css|dashboard\.(css|js)|job/\d+)?|data:,", value or ""), value
    scripts = page.css("script")
    assert [(node.attributes["src"], node.text()) for node in scripts] in ([], [("/dashboard.js", "")])


def test_hostile_words_are_text_wherever_they_come_from(job: Path) -> None:
    document = hostile(read_json(job / "report.json"))
    (job / "hostile.json").write_text(json.dumps(document), encoding="utf-8")
    report = read_report(str(job / "hostile.json"))
    live = LiveJob(None)
    words = [*HOSTILE, *ESCAPED]
    for word in words:
        live.event(AttemptEnded(1, 2, 1, 0, f"bad request: {word}", "split", 0.1, None, None))
        live.result(word, Result(Item(word), Status.FAILED, error=word))
    for is_over in (False, True):
        live.show(report, is_over=is_over)
        page = parse(live.page("/"))
        check_only_text(page)
        check_only_text(LexborHTMLParser("".join((live.parts() or {}).values())))
        seen = [" ".join(node.text().split()) for node in page.css("td, th, li, pre")]
        for word in words:
            wanted = " ".join(ESCAPED.get(word, word).split())
            assert sum(wanted in text for text in seen) >= 4, word


def test_a_hostile_ledger_is_text_too(tmp_path: Path) -> None:
    words = [*HOSTILE, *ESCAPED]
    with Ledger(tmp_path / "l.db") as ledger:
        for number, word in enumerate(words, 1):
            job = ledger.start_job(word, {"task": word, "model": word, "parameters": {}, "ask": word})
            ledger.commit([Opened(number, job, ("k",), 1, None)])
            ledger.commit([Closed(number, AttemptState.DOUBT, f"lost: {word}", None, None, 1.0, {})])
            ledger.end_job(job, word, {"nonsense": word})
    past = PastJobs(str(tmp_path / "l.db"))
    check_only_text(parse(past.page("/")))
    for number, word in enumerate(words, 1):
        page = parse(past.page(f"/job/{number}"))
        check_only_text(page)
        assert page.body is not None
        shown = " ".join(page.body.text().split())
        assert shown.count(" ".join(ESCAPED.get(word, word).split())) >= 5, word


# Jobs of the ledger


def test_a_ledgers_page_of_a_job_says_what_the_report_said(job: Path, past: PastJobs) -> None:
    report = read_json(job / "report.json")
    now, run = report["statistics"], report["run"]
    cost = f"{format_usd(Decimal(run['least']))} to {format_usd(Decimal(run['most']))}"
    (row,) = parse(past.page("/")).css(".jobs tbody tr")
    cells = [cell.text(separator=" ").split() for cell in row.css("td")]
    assert cells[0] == ["1"]
    assert cells[2][-1] == "m"
    assert cells[2][0].endswith("in.csv#text")
    assert cells[3] == ["Finished"]
    assert [" ".join(cell) for cell in cells[4:6]] == [f"{now['labelled']} of {now['items']}", f"{now['requests']}"]
    assert " ".join(cells[7]) == cost
    page = parse(past.page("/job/1"))
    tiles, facts = tiles_of(page), facts_of(page)
    assert tiles["Labelled"][0] == tiles["Answers"][0] == f"{now['labelled']}"
    assert tiles["Without a label"] == ["3", "1 failed, 2 in doubt"]
    assert tiles["Cost of this run"][0] == facts["this run"] == cost
    assert tiles["Requests"][0] == f"{now['requests']}"
    assert facts["task"] == report["task"]
    outcomes = {row.css("th")[0].text(): row.css("td.n")[0].text().split()[0] for row in page.css(".outcomes tr")}
    counted = report["outcomes"]
    assert outcomes == {"answered": f"{counted['accept']}", "lost": "1", "rate limited": f"{counted['rate limited']}"}
    panels = {node.css("h3")[0].text(): node.css(".now")[0].text() for node in page.css("figure")}
    assert panels["Answers"] == f"{now['labelled']} answers"
    assert panels["Spent in this run"] == cost
    assert panels["Requests in flight"] == "0"
    assert len(page.css("#troubles tr")) == counted["lost"] + counted["rate limited"]


@pytest.mark.parametrize("path", ["/job/2", "/job/0", "/job/01", "/job/x", "/job/1/", "/job/" + "9" * 40, "/events"])
def test_a_job_that_is_not_there_has_no_page(path: str, past: PastJobs) -> None:
    assert past.page(path) is None
    assert past.parts(path) is None


def test_a_job_that_runs_is_shown_while_its_ledger_is_held(tmp_path: Path) -> None:
    past = PastJobs(str(tmp_path / "l.db"))
    with Ledger(tmp_path / "l.db") as ledger:
        job = ledger.start_job("j", {"task": "t", "model": "m", "parameters": {}})
        ledger.commit([Opened(1, job, ("a", "b"), 1, Decimal("0.5")), Opened(2, job, ("c",), 1, Decimal("0.25"))])
        ledger.commit([Closed(1, AttemptState.SETTLED, "2 of 2 answers", None, None, 1.0, {"a": "x", "b": "y"})])
        page = parse(past.page("/job/1"))
        assert text_of(page, "h1") == "No end: 2 answers from 2 requests."
        tiles = tiles_of(page)
        assert tiles["Requests"] == ["2", "1 in flight"]
        assert tiles["Cost of this run"][0] == "$0.50 to $0.75"
        (row,) = parse(past.page("/")).css(".jobs tbody tr")
        assert "2 answers" in row.text()


def test_a_ledger_that_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--ledger", str(tmp_path / "none.db")]) == 5
    assert "none.db" in capsys.readouterr().err
    (tmp_path / "odd.db").write_bytes(b"<script>" * 1_000)
    assert main(["dashboard", "--ledger", str(tmp_path / "odd.db")]) == 5
    page = parse(PastJobs(str(tmp_path / "odd.db")).page("/"))
    assert "not a ledger of prompt-packer" in text_of(page, "h1")


def test_the_command_serves_until_it_is_interrupted(job: Path) -> None:
    command = [sys.executable, "-m", "packer", "dashboard", "--ledger", str(job / "prompt-packer.db")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = process.stderr.readline().split()[1]
            host, _, query = address.removeprefix("http://").partition("/")
            with contextlib.closing(http.client.HTTPConnection(host, timeout=10)) as connection:
                connection.request("GET", f"/{query}")
                answer = connection.getresponse()
                cookie = answer.headers["Set-Cookie"].partition(";")[0]
                answer.read()
                connection.request("GET", "/job/1", headers={"Cookie": cookie})
                assert b"In numbers" in connection.getresponse().read()
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
            assert process.stderr.read() == "Ctrl-C ends it\n"
        finally:
            process.kill()


# A job of a ledger that another process writes


def money(value: str) -> Charge:
    return Charge(Decimal(value), ChargeSource.HEADER)


def test_what_a_watcher_adds_up_is_what_the_ledger_says_at_every_moment(tmp_path: Path) -> None:
    rng = random.Random(7)
    states = [AttemptState.SETTLED, AttemptState.DOUBT, AttemptState.FREED]
    charges = [None, money("0.003"), Charge(Decimal("0.002"), ChargeSource.RESERVE)]
    with Ledger(tmp_path / "l.db") as ledger:
        jobs = [ledger.start_job(name, {"task": "t", "model": "m", "parameters": {}}) for name in "ab"]
        watch = JobWatch(str(tmp_path / "l.db"), jobs[0])
        flying: dict[int, tuple[str, ...]] = {}
        free = list(range(1, 400))
        for moment in range(60):
            changes: list[Opened | Closed] = []
            # commits overtake each other: a higher number may be there a moment before a lower one
            for ident in rng.sample(free[:12], 4):
                free.remove(ident)
                flying[ident] = ("shared", f"{ident}-1", f"{ident}-2")
                changes.append(Opened(ident, rng.choice(jobs), flying[ident], 1, rng.choice([None, Decimal("0.01")])))
            for ident in rng.sample(sorted(flying), len(flying) // 2):
                state, keys = rng.choice(states), flying.pop(ident)
                charge = None if state is AttemptState.FREED else rng.choice(charges)
                outcome = "interrupted" if state is AttemptState.DOUBT else "2 of 3 answers"
                answers = dict.fromkeys(keys[: rng.randrange(4)], "x") if state is AttemptState.SETTLED else {}
                changes.append(Closed(ident, state, outcome, charge, None, 1.0, answers))
            ledger.commit(changes)
            if moment == 50:
                ledger.end_job(jobs[0], "finished", {})
            assert watch.look()
            wanted = next(job for job in ledger.jobs() if job.id == jobs[0])
            assert watch.record == wanted
            afresh = JobWatch(str(tmp_path / "l.db"), jobs[0])
            assert afresh.look()
            assert afresh.record == wanted
            assert afresh.course.moments()[-1].labelled == watch.course.moments()[-1].labelled == wanted.answers
            assert sum(watch.course.outcomes.values()) == wanted.requests
        assert wanted.unpriced
        assert wanted.in_flight
        assert wanted.least < wanted.most


def test_the_steps_of_a_course_are_bounded_however_the_clock_jumps() -> None:
    began = datetime(2026, 7, 20, tzinfo=UTC)
    course = Course(JobEntry(1, "j", {}, began, None, None, None))
    for number, hours in enumerate((0, 1e-6, 2, -50, 10**5, 3, -(10**4))):
        at = began + timedelta(hours=hours)
        state, outcome = AttemptState.SETTLED, "1 of 1 answers"
        back = began if number == 4 else at  # the clock was put back while it was out
        one = Attempt(number, 1, "", ("k",), 1, None, state, money("1"), None, 1.0, outcome, at, back)
        course.opened(one)
        course.closed(one, 1)
    moments = course.moments()
    assert len(moments) <= 240
    last = moments[-1]
    assert (last.labelled, last.requests, last.settled, last.in_flight) == (7, 7, Decimal(7), 0)
    assert last.seconds == pytest.approx(3.6e8, rel=0.01)
    assert min(moment.in_flight for moment in moments) >= 0
    assert draw_panels(moments, bought=True)


def test_a_course_that_outgrows_its_steps_keeps_everything_in_its_place() -> None:
    began = datetime(2026, 7, 20, tzinfo=UTC)
    course = Course(JobEntry(1, "j", {}, began, None, None, None))
    for number in range(1_000):
        at = began + timedelta(seconds=number)
        state, outcome = AttemptState.SETTLED, "1 of 1 answers"
        course.opened(one := Attempt(number, 1, "", ("k",), 1, None, state, None, None, 1.0, outcome, at, at))
        course.closed(one, 1)
    moments = course.moments()
    assert 120 <= len(moments) <= 240
    for moment in moments:
        until = moment.seconds + course.step.total_seconds()
        assert moment.requests == moment.labelled == min(math.ceil(until), 1_000)


@pytest.mark.parametrize(
    "parts", [[(-5, "bad"), (5, "good")], [(0, "bad")], [(10**400, "good"), (1, "bad")], [(7, "good")]]
)
def test_a_bar_never_goes_beyond_its_end(parts: list[tuple[int, str]]) -> None:
    for whole in (-1, 0, 3, 10**300):
        shares = list(line_up(parts, whole))
        assert all(share.width >= 0 for share in shares)
        assert sum(share.width for share in shares) <= 100.001


def test_a_list_that_is_cut_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_jobs, "_MOST_JOBS", 2)
    with Ledger(tmp_path / "l.db") as ledger:
        for count, said in ((2, "2 jobs in the ledger"), (3, "The last 2 of 3 jobs in the ledger")):
            while ledger.statistics().jobs < count:
                ledger.start_job("j", {"task": "t", "model": "m", "parameters": {}})
            assert text_of(parse(PastJobs(str(tmp_path / "l.db")).page("/")), "h1") == said


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_ledger_is_looked_at_no_more_often_than_it_costs_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.start_job("j", {"task": "t", "model": "m", "parameters": {}})
    clock, looks, look = Clock(), [], JobWatch.look
    takes = 0.0

    def watched(self: JobWatch) -> bool:
        looks.append(clock.now)
        clock.now += takes
        return look(self)

    monkeypatch.setattr(JobWatch, "look", watched)
    past = PastJobs(str(tmp_path / "l.db"), clock)
    for _ in range(41):
        assert past.parts("/job/1")
        clock.now += 0.25
    assert looks == [0, 2, 4, 6, 8, 10]
    clock.now = 12
    takes = 1.0
    looks.clear()
    for _ in range(100):
        assert past.parts("/job/1")
        clock.now += 0.5
    assert looks == [12, 33, 54]
    for number in range(20):
        past.page("/")
        past.page(f"/job/{number}")
    assert len(past._seen) <= 8


def test_a_page_follows_a_ledger_that_goes_and_comes_back(tmp_path: Path) -> None:
    def make(answers: int) -> None:
        with Ledger(path) as ledger:
            job = ledger.start_job(f"{answers}", {"task": "t", "model": "m", "parameters": {}})
            keys = tuple(map(str, range(answers)))
            ledger.commit([Opened(1, job, keys, 1, None)])
            ledger.commit([Closed(1, AttemptState.SETTLED, "", None, None, 1.0, dict.fromkeys(keys, "x"))])

    path, clock = tmp_path / "l.db", Clock()
    past = PastJobs(str(path), clock)
    make(3)
    assert "3 answers from 1 request" in (past.parts("/job/1") or {})["head"]
    path.rename(tmp_path / "away.db")
    clock.now += 3
    gone = past.parts("/job/1") or {}
    assert "there is no such file" in gone["head"]
    assert not any(html for name, html in gone.items() if name != "head")
    make(5)
    clock.now += 3
    assert "5 answers from 1 request" in (past.parts("/job/1") or {})["head"]


def test_a_ledgers_pages_say_what_waits_at_a_gateway(tmp_path: Path) -> None:
    past = PastJobs(str(tmp_path / "l.db"), clock := Clock())
    with Ledger(tmp_path / "l.db") as ledger:
        job = ledger.start_job("j", {"task": "t", "model": "m", "parameters": {}})
        ledger.commit([Opened(n, job, ("a", "b"), 1, Decimal("0.5")) for n in (1, 2, 3)])
        for n in (1, 2):
            lines = [Line(n, f"{n}-abc", "nonc", {})]
            ledger.note_batch(url="https://<b>.test", task="t", model="m", token=f"{n}", lines=lines)
        assert "2 batches wait at https://&lt;b&gt;.test since" in (past.parts("/job/1") or {})["batches"]
        ledger.commit([Closed(n, AttemptState.FREED, "", None, None, 1.0, {}) for n in (1, 3)])
        ledger.end_job(job, "interrupted", {})
        clock.now += 3
        page = parse(past.page("/job/1"))
        assert "1 batch waits at" in text_of(page, ".lead")
        assert ": 1 request with 2 texts, at most $0.50 set aside." in text_of(page, ".lead")
        assert "The same command with --batch collects" in text_of(page, ".lead")
        assert text_of(page, ".next").endswith("Batches wait at the gateway: see below.")
        assert rows_of(parse(past.page("/")), ".jobs")[0][3] == "Stopped, 1 batch waiting"
        ledger.commit([Closed(2, AttemptState.FREED, "", None, None, 1.0, {})])
        clock.now += 3
        assert (past.parts("/job/1") or {})["batches"].strip() == ""
        assert rows_of(parse(past.page("/")), ".jobs")[0][3] == "Stopped"


def test_each_page_says_how_a_job_is_stopped_since_it_cannot_stop_one(job: Path, tmp_path: Path) -> None:
    live = LiveJob(17)
    live.show(read_report(str(job / "report.json")))
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.start_job("j", {"task": "t", "model": "m", "parameters": {}})
    past = PastJobs(str(tmp_path / "l.db"))
    how = "stops it, the same command goes on."
    for page in (live.page("/"), past.page("/job/1")):
        assert f"Ctrl-C in its terminal {how}" in text_of(parse(page), ".next")
    assert f"Ctrl-C in the terminal of a job {how}" in text_of(parse(past.page("/")), ".next")
    for page in (live.page("/"), past.page("/job/1"), past.page("/")):
        assert not parse(page).css("form, button, input, select, textarea")


# In a browser

DRAWN = """[...document.querySelectorAll("figure svg svg")].filter(plot => [...plot.querySelectorAll("path")].every(
    path => path.getTotalLength() > 0 && path.getBoundingClientRect().width > 100)).length"""
COLOURS = """[...document.querySelectorAll("figure path.line")].map(path => getComputedStyle(path).stroke)"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real job of the command against the fake gateway, and the address of its dashboard."""
    rows = "".join(f"{'win a prize' if number % 3 else 'see you at five'} {number}\n" for number in range(300))
    (tmp_path / "in.csv").write_text(f'text\n{rows}""\n', encoding="utf-8")
    task = {"instructions": HOSTILE[0], "labels": {HOSTILE[3]: HOSTILE[1], "prize": "to win a prize"}}
    (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8")
    setup = Setup(
        seconds=0.3, slots=8, script=read_script(["3=error-503", "7=lost-row", "12=reset-before-headers"], seed=0)
    )
    with running_gateway(setup) as gateway:
        given = ["label", "in.csv", "--text", "text", "--task", "task.json", "--model", "m", "--output", "out.csv"]
        given += ["--base-url", gateway.url, "--api-key-env", "K", "--price-input", "1", "--price-output", "2"]
        given += ["--budget-usd", "1", "--max-items", "4", "--report", "report.json", "--dashboard"]
        environment = os.environ | {"K": gateway.accounts[0].key}
        command = [sys.executable, "-m", "packer", *given]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
            try:
                assert process.stderr is not None
                yield process, process.stderr.readline().split()[1]
            finally:
                process.kill()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_follows_a_job_to_its_end(running: tuple[subprocess.Popen[str], str], tmp_path: Path) -> None:
    process, address = running
    origin = address.partition("?")[0]

    async def follow() -> None:
        async with Browser(tmp_path / "profile") as browser:
            await browser.resize(1280)
            await browser.open(address)
            assert await browser.ask("location.href") == origin
            assert await browser.ask("document.cookie") == ""
            done = "parseInt(document.querySelector('.tiles dd').textContent)"
            before = await browser.wait_for(f"{done} > 20 && {done}")
            await browser.reload()
            assert await browser.wait_for(f"{done} >= {before} && {done}") < 300
            assert await browser.ask(DRAWN) == 4
            await browser.wait_for(f"{done} > {before} + 40")  # without a reload
            assert "Running:" in await browser.ask("document.querySelector('h1').textContent")
            light = set(await browser.ask(COLOURS))
            await browser.resize(400, dark=True)
            assert not light & set(await browser.ask(COLOURS))
            assert await browser.ask("document.documentElement.scrollWidth") == 400
            assert await browser.ask(DRAWN) == 4
            await browser.wait_for("!document.getElementById('note').hidden", 60)
            await asyncio.to_thread(process.wait, 20)
            # the process is gone, and the page is still there
            assert "The job has ended" in await browser.ask("document.getElementById('note').textContent")
            html = await browser.ask("document.documentElement.outerHTML")
            page = LexborHTMLParser(html)
            check_numbers(page, read_json(tmp_path / "report.json"))
            check_items(page, read_json(tmp_path / "report.json"))
            check_only_text(page)
            for word in (HOSTILE[0], HOSTILE[1], HOSTILE[3]):
                assert any(word in node.text() for node in page.css("pre, li")), word
            assert await browser.ask(DRAWN) == 4
            assert {asked for asked in browser.asked if not asked.startswith(origin)} == set()
            assert [asked for asked in browser.asked if "token" in asked] == [address]
            assert browser.complaints == []

    asyncio.run(follow())


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_whose_job_is_killed_keeps_its_numbers_and_says_so(
    running: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, address = running

    async def follow() -> None:
        async with Browser(tmp_path / "profile") as browser:
            await browser.open(address)
            await browser.wait_for("parseInt(document.querySelector('.tiles dd').textContent) > 20")
            process.kill()
            await browser.wait_for("!document.getElementById('note').hidden")
            assert "cannot be reached" in await browser.ask("document.getElementById('note').textContent")
            assert await browser.ask(DRAWN) == 4

    asyncio.run(follow())


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_policy_stops_what_a_template_would_let_through_and_a_reader_keeps_his_place(tmp_path: Path) -> None:
    looks: list[str] = []

    class Leaky:
        def page(self, path: str) -> str | None:
            evil = '<script>document.title="evil"</script><img src=x onerror=\'document.title="evil"\'>'
            style = '<link rel="stylesheet" href="/dashboard.css">'
            body = f'<p id="head"></p><div id="ends"></div>{evil}<p id="note"></p>'
            return f'<title>good</title>{style}{body}<script src="/dashboard.js"></script>'

        def parts(self, path: str) -> dict[str, str]:
            looks.append(path)
            last = f'<div class="last" tabindex="0">{len(looks)}{"<p>line" * 100}</div>'
            return {
                "ends": last,
                "head": '<img src=x onerror=\'document.title="evil"\'><script>document.title="evil"</script>in',
            }

    async def follow(address: str) -> None:
        async with Browser(tmp_path / "profile") as browser:
            await browser.open(address)
            await browser.wait_for("document.getElementById('head').textContent.endsWith('in')")
            assert await browser.ask("document.title") == "good"
            assert len([words for words in browser.complaints if "Content Security Policy" in words]) >= 3
            await browser.ask(
                "(last => {last.scrollTop = 99; last.focus(); window.before = last})(document.querySelector('.last'))"
            )
            await browser.wait_for("document.querySelector('.last') !== window.before")
            assert await browser.ask("document.querySelector('.last').scrollTop") == 99
            assert await browser.ask("document.activeElement.className") == "last"

    with contextlib.closing(server_module.Server(Leaky())) as server:
        asyncio.run(follow(server.start()))


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_page_of_a_ledger_moves_while_another_process_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(past_module, "_PACE", 0.1)

    def ask(number: int) -> None:
        keys = tuple(f"{number}-{item}" for item in range(20))
        settled = Closed(
            number, AttemptState.SETTLED, "20 of 20 answers", money("0.01"), None, 1.0, dict.fromkeys(keys, "x")
        )
        ledger.commit([Opened(number, job, keys, 1, Decimal("0.5"))])
        ledger.commit([settled] if number < 4 else [])

    async def follow(address: str) -> None:
        async with Browser(tmp_path / "profile") as browser:
            await browser.open(address)
            await browser.wait_for("document.querySelector('.jobs').textContent.includes('20 answers')")
            await browser.ask("document.querySelector('.jobs a').click()")
            title = "(document.querySelector('h1') ?? {textContent: ''}).textContent"  # none between two pages
            await browser.wait_for(f"{title}.includes('20 answers from 1 request.')")
            await browser.ask("window.same = true")
            for number in (2, 3, 4):
                ask(number)
            await browser.wait_for(f"{title}.includes('60 answers from 4 requests.')")
            page = LexborHTMLParser(await browser.ask("document.documentElement.outerHTML"))
            assert tiles_of(page)["Requests"] == ["4", "1 in flight"]
            assert tiles_of(page)["Cost of this run"][0] == "$0.0300 to $0.53"
            assert main(["ledger", str(tmp_path / "l.db")]) == 0
            shown = capsys.readouterr().out
            assert "answers    60\nrequests   4: 1 open, 3 settled\n" in shown
            assert "cost       $0.0300\nin doubt   at most $0.50, so that $0.53 is the most it can be\n" in shown
            ledger.end_job(job, "interrupted", {})
            await browser.wait_for(f"{title}.startsWith('Stopped:')")
            assert await browser.ask("window.same"), "never loaded again"
            server.close()
            await browser.wait_for("!document.getElementById('note').hidden")
            assert "The dashboard has ended." in await browser.ask("document.getElementById('note').textContent")
            check_only_text(page)
            assert browser.complaints == []

    with Ledger(tmp_path / "l.db") as ledger:
        job = ledger.start_job("j", {"task": "t", "model": "m", "parameters": {}})
        ask(1)
        with contextlib.closing(server_module.Server(PastJobs(str(tmp_path / "l.db")))) as server:
            asyncio.run(follow(server.start()))
