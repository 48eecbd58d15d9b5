"""Nobody but the browser that was given the address reads the dashboard, and whoever tries holds up no job."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from fake_reports import read_json, run_job

pytest.importorskip("jinja2", reason="the extra dashboard is not installed")

from packer.dashboard import server as server_module
from packer.dashboard.server import Server

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class FakePages:
    """Pages that say what they are told to say."""

    def __init__(self) -> None:
        self.said: Mapping[str, str] | None = {"head": "<p>one</p>"}
        self.of_job: Mapping[str, str] | None = None
        self.asked: list[str] = []
        self.fails = False

    def page(self, path: str) -> str | None:
        if self.fails:
            raise RuntimeError("secret")
        return "<p>hello" if path in {"/", "/job/1"} else None

    def parts(self, path: str) -> Mapping[str, str] | None:
        self.asked.append(path)
        return self.said if path == "/" else self.of_job if path == "/job/1" else None


class Reader:
    """One who knows the address of a dashboard, and says of himself what he likes."""

    def __init__(self, address: str) -> None:
        _, _, self.host = address.partition("//")
        self.host, _, query = self.host.partition("/")
        self.port, self.token = int(self.host.partition(":")[2]), query.partition("=")[2]
        self.cookie = ""
        self._opened: dict[http.client.HTTPResponse, http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Leave every connection."""
        for answer in list(self._opened):
            self.leave(answer)

    def leave(self, answer: http.client.HTTPResponse) -> None:
        """Hear no more of it."""
        self._opened.pop(answer).close()
        answer.close()

    def ask(self, path: str, *headers: tuple[str, str], method: str = "GET") -> http.client.HTTPResponse:
        """The answer, of which only the head has been read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers or [("Host", self.host)]:
            connection.putheader(name, value)
        if self.cookie:
            connection.putheader("Cookie", self.cookie)
        connection.endheaders()
        answer = connection.getresponse()
        self._opened[answer] = connection
        return answer

    def enter(self) -> None:
        """Follow the printed address, as a browser does."""
        answer = self.ask(f"/?token={self.token}")
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]


def next_event(answer: http.client.HTTPResponse) -> tuple[str, dict[str, str]]:
    name, data, _ = (answer.readline().decode().rstrip("\n") for _ in range(3))
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.fixture
def pages() -> FakePages:
    return FakePages()


@pytest.fixture
def server(pages: FakePages) -> Iterator[Server]:
    with closing(Server(pages)) as server:
        yield server


@pytest.fixture
def reader(server: Server) -> Iterator[Reader]:
    with closing(Reader(server.start())) as reader:
        yield reader


def test_the_printed_address_lets_a_browser_in_and_leaves_no_token_in_it(reader: Reader) -> None:
    answer = reader.ask(f"/?token={reader.token}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert {part.strip() for part in cookie.split(";")[1:]} == {"HttpOnly", "Path=/", "SameSite=Strict"}
    assert reader.token not in cookie
    assert len(reader.token) >= 22  # 128 bits
    reader.cookie = cookie.partition(";")[0]
    again = reader.ask(f"/?token={reader.token}")  # the printed address, clicked once more
    assert (again.status, again.headers["Location"]) == (303, "/")
    for _ in range(2):  # a reload
        answer = reader.ask("/")
        assert (answer.status, answer.read()) == (200, b"<p>hello")


def test_each_dashboard_has_another_secret(server: Server, reader: Reader, pages: FakePages) -> None:
    del server
    with closing(Server(pages)) as other, closing(Reader(other.start())) as stranger:
        stranger.enter()
        assert stranger.token != reader.token
        reader.cookie = stranger.cookie
        assert reader.ask("/").status == 403
        reader.cookie = f"prompt-packer-{reader.port}={stranger.cookie.partition('=')[2]}"
        assert reader.ask("/").status == 403


@pytest.mark.parametrize("path", ["/", "/events", "/page.css", "/dashboard.js", "/job/1", "/nowhere"])
def test_without_the_token_there_is_nothing(path: str, reader: Reader) -> None:
    for asked in (
        path,
        f"{path}?token=",
        f"{path}?token={reader.token[:-1]}",
        f"{path}?token=%ed%b2%80%ff",
        f"{path}?",
    ):
        answer = reader.ask(asked)
        assert answer.status == 403
        assert answer.read() == b"open the address that prompt-packer printed, with its token"
        assert answer.headers["Set-Cookie"] is None


def test_the_token_opens_the_first_page_only(reader: Reader) -> None:
    assert reader.ask(f"/events?token={reader.token}").status == 403
    assert reader.ask("/", ("Host", reader.host), ("Authorization", f"Bearer {reader.token}")).status == 403
    reader.cookie = f"prompt-packer-{reader.port}={reader.token}"
    assert reader.ask("/").status == 403


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:PORT", "[::1]:PORT"],
)
def test_another_name_of_this_machine_is_refused(host: str, reader: Reader) -> None:
    reader.enter()
    for path in ("/", f"/?token={reader.token}", "/events"):
        answer = reader.ask(path, ("Host", host.replace("PORT", str(reader.port))))
        assert (answer.status, answer.read()) == (403, b"expected the host 127.0.0.1")


def test_the_host_is_named_once(reader: Reader) -> None:
    reader.enter()
    assert reader.ask("/", ("Host", f"localhost:{reader.port}")).status == 200
    assert reader.ask("/", ("X-Host", reader.host)).status in {400, 403}
    assert reader.ask("/", ("Host", reader.host), ("Host", "evil.example")).status in {400, 403}


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Origin", "http://evil.example", 403),
        ("Origin", "null", 403),
        ("Origin", "http://127.0.0.1:1", 403),
        ("Origin", "https://127.0.0.1:PORT", 403),
        ("Origin", "http://127.0.0.1:PORT", 200),
        ("Sec-Fetch-Site", "cross-site", 403),
        ("Sec-Fetch-Site", "same-site", 403),
        ("Sec-Fetch-Site", "same-origin", 200),
        ("Sec-Fetch-Site", "none", 200),
    ],
)
def test_another_page_cannot_ask(header: str, value: str, status: int, reader: Reader) -> None:
    reader.enter()
    for path in ("/", "/page.css"):
        answer = reader.ask(path, ("Host", reader.host), (header, value.replace("PORT", str(reader.port))))
        assert answer.status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
def test_nothing_can_be_done_with_it(method: str, reader: Reader) -> None:
    reader.enter()
    for path in ("/", "/events", "/stop"):
        answer = reader.ask(path, method=method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/server.py",
        "/server.py",
        "/job.html",
        "//page.css",
        "/page.css/",
        "/page.css%00.js",
        "/dashboard.css/../server.py",
        "/job/1/../../server.py",
        "/job/-1",
    ],
)
def test_no_path_leads_anywhere_else(path: str, reader: Reader) -> None:
    reader.enter()
    answer = reader.ask(path)
    assert answer.status in {400, 404}
    assert b"import" not in answer.read()


def test_every_answer_carries_the_policy_and_says_little_of_its_server(reader: Reader) -> None:
    answers = [reader.ask("/"), reader.ask("/", ("Host", "evil")), reader.ask("/", method="POST")]
    answers.append(reader.ask(f"/?token={reader.token}"))
    reader.enter()
    answers += [reader.ask(path) for path in ("/", "/events", "/page.css", "/dashboard.css", "/dashboard.js", "/none")]
    assert [answer.status for answer in answers] == [403, 403, 405, 303, 200, 200, 200, 200, 200, 404]
    for answer in answers:
        told = answer.headers
        assert told.get_all("Content-Security-Policy") == [POLICY]
        assert told["X-Content-Type-Options"] == "nosniff"
        assert told["Referrer-Policy"] == "no-referrer"
        assert told["Cache-Control"] == "no-store"
        assert told["Cross-Origin-Opener-Policy"] == told["Cross-Origin-Resource-Policy"] == "same-origin"
        assert told["Server"] == "prompt-packer"
        assert told["Access-Control-Allow-Origin"] is None
    kinds = [answer.headers["Content-Type"].partition(";")[0] for answer in answers[4:]]
    assert kinds == ["text/html", "text/event-stream", "text/css", "text/css", "text/javascript", "text/plain"]


def test_it_listens_on_loopback_only(reader: Reader) -> None:
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no other address")
    with socket.socket() as connection:
        connection.settimeout(2)
        # not connect(): no test may
        assert connection.connect_ex((own, reader.port)) != 0


def test_a_stream_tells_what_changes_then_the_end(server: Server, reader: Reader, pages: FakePages) -> None:
    reader.enter()
    answer = reader.ask("/events")
    assert next_event(answer) == ("parts", {"head": "<p>one</p>"})
    pages.said = {"head": "<p>one</p>", "ends": "a\u2028\n\ndata: b"}
    while not (event := next_event(answer))[1]:
        pass
    assert event == ("parts", {"ends": "a\u2028\n\ndata: b"})
    pages.said = {"head": "<p>over</p>", "ends": ""}
    server.close()
    seen: dict[str, str] = {}
    while (event := next_event(answer))[0] != "end":
        seen |= event[1]
    assert seen == {"head": "<p>over</p>", "ends": ""}
    assert answer.read() == b""


def test_each_page_has_a_stream_of_its_own(reader: Reader, pages: FakePages) -> None:
    reader.enter()
    assert reader.ask("/events/job/1").status == 404
    pages.of_job = {"head": "of a job"}
    assert next_event(reader.ask("/events/job/1")) == ("parts", {"head": "of a job"})
    assert next_event(reader.ask("/events")) == ("parts", {"head": "<p>one</p>"})
    for path in ("/events/job/2", "/events/events", "/eventsjob/1"):
        assert reader.ask(path).status == 404


def test_nobody_asks_how_things_stand_when_nobody_looks(
    reader: Reader, pages: FakePages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_BEAT", 0.02)
    reader.enter()
    reader.ask("/").read()
    assert not pages.asked
    stream = reader.ask("/events")
    next_event(stream)
    next_event(stream)
    reader.leave(stream)
    deadline = time.monotonic() + 10
    asked = 0
    while asked != len(pages.asked):
        assert time.monotonic() < deadline
        asked = len(pages.asked)
        time.sleep(0.1)  # longer than between two looks


def test_where_nothing_changes_there_is_no_stream(reader: Reader, pages: FakePages) -> None:
    reader.enter()
    pages.said = None
    assert reader.ask("/events").status == 404


def test_too_many_pages_are_turned_away_until_one_is_closed(reader: Reader) -> None:
    reader.enter()
    streams = [reader.ask("/events") for _ in range(8)]
    assert [stream.status for stream in streams] == [200] * 8
    assert reader.ask("/events").status == 503
    assert reader.ask("/").status == 200
    reader.leave(streams.pop())
    deadline = time.monotonic() + 10
    while (again := reader.ask("/events")).status != 200:
        assert time.monotonic() < deadline
        reader.leave(again)


def test_connections_without_a_request_are_bounded(reader: Reader) -> None:
    idle = [socket.create_connection(("127.0.0.1", reader.port), timeout=10) for _ in range(40)]
    # the last ones are closed at once, the first ones wait for a request
    for connection in idle[-8:]:
        assert connection.recv(1) == b""
    idle[0].settimeout(0.1)
    with pytest.raises(TimeoutError):
        idle[0].recv(1)
    for connection in idle:
        connection.close()
    deadline = time.monotonic() + 10
    while not reader.cookie:
        assert time.monotonic() < deadline
        with contextlib.suppress(ConnectionResetError):  # the server has not seen yet that they are gone
            reader.enter()


def test_a_reader_who_does_not_read_holds_up_neither_the_others_nor_the_end(
    server: Server, reader: Reader, pages: FakePages
) -> None:
    reader.enter()
    with socket.create_connection(("127.0.0.1", reader.port), timeout=10) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(f"GET /events HTTP/1.1\r\nHost: {reader.host}\r\nCookie: {reader.cookie}\r\n\r\n".encode())
        other = reader.ask("/events")
        for number in range(3):
            pages.said = {"head": f"{number}" * 8_000_000}
            while not (event := next_event(other))[1]:
                pass
            assert event[0] == "parts"
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 3
        while event[0] != "end":
            event = next_event(other)


def test_a_page_that_cannot_be_made_says_nothing_of_why(
    reader: Reader, pages: FakePages, capfd: pytest.CaptureFixture[str]
) -> None:
    reader.enter()
    pages.fails = True
    answer = reader.ask("/")
    assert (answer.status, answer.read()) == (500, b"the page cannot be made")
    with socket.create_connection(("127.0.0.1", reader.port), timeout=10) as odd:
        odd.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b"400" in odd.recv(100)
    pages.fails = False
    assert reader.ask("/").status == 200
    assert capfd.readouterr() == ("", "")


def test_closing_is_safe_at_any_time(pages: FakePages) -> None:
    server = Server(pages)
    server.close()
    address = Reader(server.start())
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        address.ask("/")


def test_a_job_runs_all_the_same_where_no_page_can_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert run_job(tmp_path, "--dashboard") == 3
    assert "the dashboard cannot be served: Too many open files; the job runs all the same" in capsys.readouterr().err
    assert read_json(tmp_path / "report.json")["statistics"]["labelled"] == 16


def test_without_the_extra_nothing_is_sent_and_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else True)
    assert run_job(tmp_path, "--dashboard") == 2
    wanted = "the dashboard needs jinja2, which is not installed: pip install 'prompt-packer[dashboard]'"
    assert capsys.readouterr().err == f"prompt-packer: {wanted}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_the_token_is_printed_once_and_kept_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(tmp_path, "--dashboard", "--verbose") == 3
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("dashboard  http://127.0.0.1:")]
    token = line.partition("token=")[2]
    assert said.err.count(token) == 1
    assert token not in said.out
    for path in tmp_path.iterdir():
        assert token.encode() not in path.read_bytes(), path
