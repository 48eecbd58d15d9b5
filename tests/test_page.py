"""A page shows the report's numbers, needs nothing but itself, and takes strangers' words for text."""

import json
import os
import re
import shutil
import stat
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fake_reports import ESCAPED, HOSTILE, audit, doubt, evaluation, hostile, hostile_evaluation, read_json, run_job
from schema_documents import SCHEMAS

pytest.importorskip("vl_convert", reason="the extra report is not installed")
pytest.importorskip("jinja2", reason="the extra report is not installed")
from selectolax.lexbor import LexborHTMLParser, LexborNode

from packer import page as page_module
from packer.cli import main
from packer.drawing import percent
from packer.reading import read_report
from packer.usage import format_usd

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LABELS = [f"label_{number}" for number in range(77)]
TAGS = """html head meta title style body main header p h1 h2 h3 b i div dl dt dd section figure figcaption span table
    thead tbody tr th td ul li pre details summary footer svg g path line rect text"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a job has left its page: refusals, a doubtful pack, an empty text."""
    folder = tmp_path_factory.mktemp("job")
    faults = {"2": "rate limited", "4": "lost"}
    assert run_job(folder, "--on-doubt", "hold", "--budget-usd", "1", report="page.html", faults=faults) == 3
    return folder


@pytest.fixture
def report(job: Path) -> dict[str, Any]:
    return read_json(job / "page.json")


@pytest.fixture(scope="module")
def hostile_page(job: Path, tmp_path_factory: pytest.TempPathFactory) -> LexborHTMLParser:
    return draw(tmp_path_factory.mktemp("hostile"), hostile(read_json(job / "page.json")), hostile_evaluation())


def draw(folder: Path, report: dict[str, Any], evaluation: dict[str, Any] | None = None) -> LexborHTMLParser:
    """The page that the real command makes of the report."""
    (folder / "r.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "e.json").write_text(json.dumps(evaluation), encoding="utf-8")
    more = [] if evaluation is None else ["--evaluation", str(folder / "e.json")]
    assert main(["report", str(folder / "r.json"), *more]) == 0
    return LexborHTMLParser((folder / "r.html").read_text(encoding="utf-8"))


def refusal(folder: Path, content: str | bytes, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    path = folder / "r.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    capsys.readouterr()
    assert main(["report", str(path), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not (folder / "r.html").exists()
    assert len(line) < 500
    return line


def first(place: LexborHTMLParser | LexborNode, selector: str) -> LexborNode:
    found = place.css_first(selector)
    assert found is not None, selector
    return found


def text_of(page: LexborHTMLParser) -> str:
    assert page.body is not None
    return " ".join(page.body.text(separator=" ").split())


def headings(page: LexborHTMLParser) -> list[str]:
    return [node.text() for node in page.css("h2, h3")]


def facts_of(page: LexborHTMLParser) -> dict[str, str]:
    return {first(row, "th").text(): first(row, "td").text() for table in page.css(".facts") for row in table.css("tr")}


def test_a_job_leaves_its_page_and_its_report_to_its_owner_only(job: Path) -> None:
    for name in ("page.html", "page.json"):
        assert stat.S_IMODE((job / name).stat().st_mode) == 0o600
    schema = json.loads((SCHEMAS / "report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(read_json(job / "page.json"), schema, format_checker=jsonschema.FormatChecker())
    left = {path.name for path in job.iterdir()}
    assert left == {"in.csv", "out.csv", "page.html", "page.json", "prompt-packer.db"}


def test_the_same_report_makes_the_same_page(job: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        assert main(["report", str(job / "page.json"), "--output", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes() == (job / "page.html").read_bytes()
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_the_numbers_of_the_page_are_the_reports(job: Path, report: dict[str, Any]) -> None:
    page = LexborHTMLParser((job / "page.html").read_text(encoding="utf-8"))
    tiles = {first(node, "dt").text(): [dd.text() for dd in node.css("dd")] for node in page.css(".tiles div")}
    now, run = report["statistics"], report["run"]
    assert now["failed"] == 1
    assert now["doubt"] == 2
    assert tiles["Labelled"][0] == str(now["labelled"])
    assert tiles["Without a label"] == ["3", "1 failed, 2 in doubt"]
    least, most = format_usd(Decimal(run["least"])), format_usd(Decimal(run["most"]))
    assert least != most
    assert tiles["Cost of this run"] == [f"{least} to {most}", "of a budget of $1.00"]
    assert tiles["Requests"] == [str(now["requests"]), "1 refused"]
    facts = facts_of(page)
    assert facts["in doubt"].startswith("1 request with 2 texts")
    assert facts["input tokens"].startswith(f"{now['usage']['input_tokens']:,}, ")
    assert facts["output tokens"] == f"{now['usage']['output_tokens']:,}"
    assert facts["fingerprint"] == report["task"]
    rows = [[cell.text() for cell in row.css("td")] for row in page.css("table.stack tbody tr")]
    states = {"failed": "failed", "doubt": "in doubt"}
    assert rows == [
        [str(item["row"]), states[item["status"]], item["text"], item["reason"]] for item in report["unanswered"]
    ]
    assert len(rows) == 3
    outcomes = " ".join(node.text() for node in page.css("figure svg text"))
    for name, count in report["outcomes"].items():
        assert f"{count:,} (" in outcomes, name
    assert (
        first(page, "h1").text()
        == f"Finished: {now['labelled']} of {now['items']} items labelled, 1 failed, 2 in doubt."
    )


@pytest.mark.parametrize(
    ("changed", "words", "tone"),
    [
        ({"failed": 0, "doubt": 0, "labelled": 17}, "Done: all 17 items labelled.", "good"),
        ({"failed": 2, "labelled": 15}, "Finished: 15 of 17 items labelled, 2 failed, 2 in doubt.", "warn"),
    ],
)
def test_the_first_line_says_whether_it_is_done(
    changed: dict[str, int], words: str, tone: str, report: dict[str, Any], tmp_path: Path
) -> None:
    report["statistics"] |= changed
    page = draw(tmp_path, report)
    assert first(page, "h1").text() == words
    assert first(page, "header").attributes["class"] == tone


def test_a_job_that_stopped_says_why_and_how_to_go_on(report: dict[str, Any], tmp_path: Path) -> None:
    report["stopped"] = "budget: the next request could pass the cap"
    page = draw(tmp_path, report)
    assert first(page, "h1").text() == "Stopped: 14 of 17 items labelled, 3 to go."
    assert "the next request could pass the cap. When that is mended, run the same command again" in text_of(page)
    assert "prompt-packer.db" in first(page, ".next").text()


def test_an_unknown_cost_is_never_a_number(report: dict[str, Any], tmp_path: Path) -> None:
    report["run"]["unpriced"] = report["job"]["unpriced"] = 2
    tile = draw(tmp_path, report).css(".tiles div")[2]
    assert [node.text() for node in tile.css("dd")] == ["unknown", "no price for 2 requests, of a budget of $1.00"]


def test_labels_that_are_in_doubt_still_are_shown_with_what_came_of_the_others(
    report: dict[str, Any], tmp_path: Path
) -> None:
    assert "Doubtful labels" not in headings(draw(tmp_path, report))
    report["doubt"] = doubt()
    report["doubtful"] = [
        {"row": 1_204, "answer": "spam", "confidence": 0.514, "votes": 3, "text": "call <now>"},
        {"row": 1_300, "answer": "ham", "confidence": None, "votes": 5, "text": "ok"},
    ]
    page = draw(tmp_path, report)
    assert "Doubtful labels" in headings(page)
    assert (
        "40 texts asked again, 7 of which changed their label. 5 texts labelled by the stronger model, 2 of which "
        "otherwise. 3 labels in doubt still." in text_of(page)
    )
    rows = [[cell.text().strip() for cell in row.css("td")] for row in page.css("tr") if row.css("[data-name=votes]")]
    assert rows == [["1,204", "spam", "0.51", "3", "call <now>"], ["1,300", "ham", "unknown", "5", "ok"]]
    report["doubt"] |= {"asked_again": 0, "escalated": 0, "doubtful": 0}
    report["doubtful"] = []
    assert "No label is in doubt any more." in text_of(draw(tmp_path, report))


def test_a_job_that_cost_nothing_has_no_plot_of_money(report: dict[str, Any], tmp_path: Path) -> None:
    words = [node.text() for node in draw(tmp_path, report).css("svg text")]
    assert {"Spent in this run, USD", "Cost of 1,000 items, USD"} <= set(words)
    for moment in report["timeline"]:
        moment |= {"settled": "0", "in_doubt": "0"}
    for level in report["statistics"]["levels"]:
        level |= {"usd": "0", "usd_an_item": "0"}
    words = [node.text() for node in draw(tmp_path, report).css("svg text")]
    assert {"Items labelled", "Items a second"} <= set(words)
    assert not [word for word in words if "USD" in word or "$" in word]


def test_each_part_is_there_only_where_the_report_has_it(report: dict[str, Any], tmp_path: Path) -> None:
    quality = {"Accuracy", "Confusion matrix", "Precision and recall", "Errors by position", "What is taken for what"}
    agreement = {"Agreement with singles", "Disagreement by position", "Disagreement with singles"}
    without = set(headings(draw(tmp_path, report)))
    assert not without & (quality | agreement)
    assert {"Over time", "Requests by outcome", "Cost and pace by load", "Items without a label"} <= without
    report["audit"] = audit()
    figures = evaluation(["spam", "ham"])
    assert quality | agreement <= set(headings(draw(tmp_path, report, figures)))
    fields = {"fields": {"topic": figures, "tone": figures}}
    assert {"Accuracy of topic", "Accuracy of tone"} <= set(headings(draw(tmp_path, report, fields)))
    nothing = {"value": None, "low": 0, "high": 1}
    figures |= {"labels": [], "confusion": [], "confusions": [], "by": {}, "accuracy": nothing, "compared": 0}
    report |= {"outcomes": {}, "timeline": [], "unanswered": [], "failed": {}}
    report["statistics"]["levels"] = []
    parts = ["How it went", "Agreement with singles", "Disagreement with singles", "Disagreement by position"]
    parts += ["Accuracy", "What was asked"]
    assert headings(draw(tmp_path, report, figures)) == [*parts, "The task", "Settings", "Money", "Requests and tokens"]


def test_an_audit_says_whether_its_promise_holds(report: dict[str, Any], tmp_path: Path) -> None:
    for broken, words in ((False, "The promise holds"), (True, "The promise is broken")):
        report["audit"] = audit(broken=broken)
        page = draw(tmp_path, report)
        lead = page.css("section .lead")[0].text().replace("\N{NO-BREAK SPACE}", " ")
        assert lead == (
            f"191 of 200 items got the same label when asked again alone. {words}: at most 3 % were to disagree; "
            "4.5 % (2.1 % to 8.4 %) did."
        )
        (chart,) = [node for node in page.css(".wide") if "the promise of" in str(node.attributes["aria-label"])]
        assert ("var(--bad)" in str(chart.html)) == broken


def test_an_evaluation_of_77_labels_is_shown_whole(report: dict[str, Any], tmp_path: Path) -> None:
    given = evaluation(LABELS)
    page = draw(tmp_path, report, given)
    (matrix,) = page.css("figure .scroll svg")
    assert sorted(node.text() for node in matrix.css("text") if node.text() in LABELS) == sorted(LABELS * 2)
    told = {node.text() for node in matrix.css("title")}
    cells = {
        f"{LABELS[gold]} labelled {LABELS[label]}: {count:,} of {sum(row):,}"
        for gold, row in enumerate(given["confusion"])
        for label, count in enumerate(row)
        if count
    }
    assert told == cells
    table = [
        [cell.text().replace("\N{NO-BREAK SPACE}", " ") for cell in row.css("td")]
        for row in page.css("details tbody tr")
    ]
    assert [row[0] for row in table] == LABELS
    assert [row[1:3] for row in table] == [
        [str(label["support"]), str(label["predicted"])] for label in given["labels"]
    ]
    assert table[1][4:] == ["-", "0.999"]
    dots = next(node for node in page.css("figure") if "Precision and recall" in node.text())
    assert "The 30 of 77 labels with the lowest F1." in dots.text()
    assert LABELS[76] in dots.text()
    assert LABELS[3] not in dots.text()


def test_strangers_words_are_text_and_nothing_else(hostile_page: LexborHTMLParser) -> None:
    nodes = hostile_page.css("*")
    assert {node.tag for node in nodes} <= set(TAGS.split())
    for node in nodes:
        for name, value in node.attributes.items():
            assert not name.startswith("on"), (node.tag, name)
            assert name not in {"href", "xlink:href", "src", "srcset", "action", "formaction", "data", "poster"}
            if name == "style":
                assert re.fullmatch(r"flex: \d+ 0 0|width: \d+(em|%)", value or ""), value
            if name not in {"aria-label", "content"}:
                assert "evil" not in (value or "")
                assert "alert" not in (value or "")
    (style,) = hostile_page.css("style")
    assert "url(" not in style.text()
    assert "@import" not in style.text()
    assert "evil" not in style.text()
    words = text_of(hostile_page)
    for word in [*HOSTILE, *ESCAPED.values()]:
        assert words.count(" ".join(word.split())) > 5, word
    assert not re.search("[\ud800-\udfff\u202a-\u202e\u2060-\u206f\ufffe\uffff\x00-\x08]", words)
    assert str(7919 * 7907) not in words


def test_no_name_breaks_a_chart(hostile_page: LexborHTMLParser) -> None:
    figures = {first(figure, "h3").text(): first(figure, "svg") for figure in hostile_page.css("figure")}
    words = [*HOSTILE, *ESCAPED, "x", "y"]
    told = [node.text() for node in figures["Requests by outcome"].css("title")]
    assert len(told) == len(words)
    assert "__proto__: 3 requests" in told
    assert len(figures["Confusion matrix"].css("title")) == 2 * len(words)
    names = [node.text() for node in figures["Confusion matrix"].css("text")]
    assert names.count("__proto__") == 2
    assert len([name for name in names if name.startswith("xxx")]) == len([name for name in names if "(2)" in name]) * 2
    assert len(set(names) - {""}) == len(words) + 2  # with the titles of both axes
    assert len(figures["Precision and recall"].css("title")) == 2 * len(words) - 1


def test_the_page_may_load_and_run_nothing(hostile_page: LexborHTMLParser) -> None:
    (policy,) = hostile_page.css("meta[http-equiv]")
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert hostile_page.head is not None
    assert [node.attributes.get("charset") for node in hostile_page.head.css("meta")][:1] == ["utf-8"]


def test_every_chart_says_what_it_shows_and_takes_its_colours_from_the_page(hostile_page: LexborHTMLParser) -> None:
    style = first(hostile_page, "style").text()
    themes = [set(re.findall(r"(--\w+): #", block)) for block in style.split("prefers-color-scheme: dark")[:2]]
    assert themes[0] == themes[1]
    drawings = hostile_page.css("svg")
    assert len(drawings) > 10
    for drawing in drawings:
        parent = drawing.parent
        assert parent is not None
        assert parent.attributes["role"] == "img"
        assert len(parent.attributes["aria-label"] or "") > 20
        for node in drawing.css("*"):
            for name in ("fill", "stroke"):
                colour = node.attributes.get(name)
                assert colour in {None, "none", "transparent"} | {f"var({known})" for known in themes[0]}, colour


def test_words_are_legible_in_light_and_dark(hostile_page: LexborHTMLParser) -> None:
    style = first(hostile_page, "style").text()
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colours = dict(re.findall(r"(--\w+): (#\w{6})", block))
        for ground in ("--page", "--card", "--soft"):
            for ink in ("--ink", "--muted", "--accent", "--good", "--bad"):
                least = 4.5 if ink in {"--ink", "--muted"} else 3  # WCAG 2.2: 1.4.3, and 1.4.11 for what is drawn
                assert contrast(colours[ink], colours[ground]) >= least, (ink, ground)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


DEEP = "[" * 100_000
ITEM = {"row": 1, "status": "failed", "reason": "", "text": ""}


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        (b"[]", "is not of type 'object' @ $"),
        (b"{}", "is a required property @ $"),
        (DEEP.encode(), "it is nested too deeply"),
        (b'{"task": ' + b"[" * 900 + b"]" * 900 + b"}", "@ $"),
        (b" " * (16 * 1024 * 1024 + 1), "more than 16 MB"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(
    content: bytes, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wanted in refusal(tmp_path, content, capsys)


@pytest.mark.parametrize(
    ("lie", "wanted"),
    [
        ((["statistics", "items"], "many"), "'many' is not of type 'integer' @ $.statistics.items"),
        ((["statistics", "labels"], float("nan")), "a number that is out of all bounds: NaN"),
        ((["statistics", "items"], 10**400), "a number that is out of all bounds: 1000"),
        ((["statistics", "seconds"], float("inf")), "a number that is out of all bounds: Infinity"),
        ((["run", "most"], "NaN"), "@ run.most"),
        ((["run", "most"], "lots"), "@ run.most"),
        ((["run", "most"], "1e999999"), "an amount that is no money"),
        ((["run", "most"], "1e-999999"), "an amount that is no money"),
        ((["began"], "yesterday"), "@ began"),
        ((["began"], "2026-01-01T00:00:00"), "a time without its zone"),
        ((["settings", "on_doubt"], "panic"), "'panic' is not one of ['retry', 'hold'] @ $.settings.on_doubt"),
        ((["unanswered"], [ITEM] * 101), "is too long @ $.unanswered"),
        ((["audit"], {"asked": 1}), "@ $.audit"),
    ],
)
def test_a_report_that_lies_is_refused_in_one_line(
    lie: tuple[list[str], Any],
    wanted: str,
    report: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path, value), place = lie, report
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert wanted in refusal(tmp_path, json.dumps(report), capsys)


@pytest.mark.parametrize(
    ("lie", "wanted"),
    [
        ({"items": None}, "None is not of type 'integer' @ $.items"),
        ({"confusion": [[1]]}, "the confusion matrix is not one of 2 rows and columns"),
        ({"confusion": [[1, 2], [3]]}, "the confusion matrix is not one of 2 rows and columns"),
    ],
)
def test_an_evaluation_that_lies_is_refused_too(
    lie: dict[str, Any],
    wanted: str,
    report: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "e.json").write_text(json.dumps(evaluation(["spam", "ham"]) | lie), encoding="utf-8")
    line = refusal(tmp_path, json.dumps(report), capsys, "--evaluation", str(tmp_path / "e.json"))
    assert "e.json: this is no report that can be shown: " in line
    assert wanted in line


def test_a_page_replaces_nothing_that_it_is_made_from(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.dumps(report)
    assert "expected a name that ends in .html" in refusal(
        tmp_path, content, capsys, "--output", str(tmp_path / "x.json")
    )
    (tmp_path / "e.html").write_text("{}", encoding="utf-8")
    same = ["--evaluation", str(tmp_path / "e.html"), "--output", str(tmp_path / "e.html")]
    assert "would replace what it is made from" in refusal(tmp_path, content, capsys, *same)
    os.link(tmp_path / "r.json", tmp_path / "page.html")
    assert main(["report", str(tmp_path / "page.html")]) == 2
    assert "would replace what it is made from" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == content


def test_a_report_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none.json")]) == 2
    assert "none.json: cannot be read: No such file or directory" in capsys.readouterr().err


def test_without_the_extra_nothing_is_sent_and_one_line_says_what_to_install(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vl_convert" else True)
    assert run_job(tmp_path, report="page.html") == 2
    wanted = "a page needs vl_convert, which is not installed: pip install 'prompt-packer[report]'\n"
    assert capsys.readouterr().err == f"prompt-packer: {wanted}"
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    assert main(["report", str(job / "page.json"), "--output", str(tmp_path / "x.html")]) == 2
    assert capsys.readouterr().err == f"prompt-packer: {wanted}"


def test_a_page_that_cannot_be_drawn_costs_neither_the_report_nor_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(page_module, "write_page", fail)
    assert run_job(tmp_path, report="page.html") == 3
    assert "page.html: the page cannot be drawn: no ink" in capsys.readouterr().err
    assert read_report(str(tmp_path / "page.json")).statistics.labelled == 16
    assert not list(tmp_path.glob("*.html")) + list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "1E2 %"), (1e-9, "0.01 %"), (0.99999, "99.99 %"), (0.5, "50 %"), (0.1234, "12.3 %")],
)
def test_a_share_is_not_rounded_to_all_or_nothing(share: float, words: str) -> None:
    assert percent(share) == words.replace("1E2", "100").replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_it_at_any_width_in_light_and_dark(job: Path, tmp_path: Path) -> None:
    draw(tmp_path, hostile(read_json(job / "page.json")), hostile_evaluation())
    frames = "".join(
        f'<iframe src="r.html" style="border:0;width:{width}px;height:900px" id="f{width}"></iframe>'
        for width in (360, 400, 700, 1200)
    )
    script = """
      addEventListener("load", () => {
        document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => ({
          wide: frame.contentDocument.documentElement.scrollWidth - frame.contentDocument.documentElement.clientWidth,
          scripts: frame.contentDocument.scripts.length,
          shown: [...frame.contentDocument.querySelectorAll("svg")].filter(svg => svg.getClientRects().length).length,
          ground: frame.contentWindow.getComputedStyle(frame.contentDocument.body).backgroundColor,
        })));
      });"""
    (tmp_path / "frames.html").write_text(f"<!doctype html>{frames}<script>{script}</script>", encoding="utf-8")
    seen = {}
    for theme, value in (("light", 1), ("dark", 0)):
        command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += ["--disable-component-update", "--disable-sync", "--no-first-run", "--allow-file-access-from-files"]
        command += [f"--user-data-dir={tmp_path / theme}", f"--blink-settings=preferredColorScheme={value}"]
        done = subprocess.run(
            [*command, "--dump-dom", f"file://{tmp_path / 'frames.html'}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        title = first(LexborHTMLParser(done.stdout), "title").text()
        seen[theme] = json.loads(title)
    for frames_seen in seen.values():
        assert [frame["wide"] for frame in frames_seen] == [0, 0, 0, 0]
        assert [frame["scripts"] for frame in frames_seen] == [0, 0, 0, 0]
        assert len({frame["shown"] for frame in frames_seen}) == 1
    assert seen["light"][0]["ground"] == "rgb(246, 247, 249)"
    assert seen["dark"][0]["ground"] == "rgb(16, 20, 25)"
