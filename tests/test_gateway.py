"""The fake gateway is true to what it says of itself: asked over plain HTTP, and run as a command in a process."""

import asyncio
import email.utils
import gzip
import json
import re
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from gateway.accounts import Account
from gateway.annotators import erring, keyword
from gateway.faults import FAULTS
from gateway.limits import Bucket, Slots, write_duration
from gateway.records import Record, read_log
from gateway.scripts import always, at, mixed, no_fault, read_script
from gateway.server import KEY, Gateway, Setup
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import NESTED, texts

from packer.items import normalise_text
from packer.prompts import write_system, write_user
from packer.task import AnswerShape, Task
from packer.usage import Price

ROOT = Path(__file__).resolve().parents[1]
LABELS = {"spam": "advertising, prizes", "ham": "anything else"}
SYSTEM = write_system(Task(LABELS))
NONCE = "k7f2"
PACK = ("win a prize now", "see you at five", "anything else")
ROWS = ["1 spam", "2 ham", "3 ham"]
ANSWER = {"pack": NONCE, "answers": ROWS}
PATIENCE = 0.2  # seconds after which a reply that was begun, or was not, is given up
SOON = 20.0  # seconds that no test may take

T = TypeVar("T")


@dataclass
class Heard:
    """What a client heard: `status` 0 where no header came, `ended` how the reply ended: whole, broken or silent."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    data: bytes = b""
    ended: str = "silent"
    seconds: float = 0.0
    logged: list[Record] = field(default_factory=list)  # what stood in the log's file when the headers came

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2
        return found[0] if found else None

    @property
    def body(self) -> Any:
        return json.loads(self.data)

    @property
    def text(self) -> str:
        return str(self.body["choices"][0]["message"]["content"])


def write_body(pack: Sequence[str] = PACK, *, system: str = SYSTEM, max_tokens: int = 200) -> bytes:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": write_user(pack, NONCE)}]
    return json.dumps({"model": "m", "messages": messages, "max_tokens": max_tokens}).encode()


class Asking:
    """A plain client, on a connection of its own for each request."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self._session = session

    async def __call__(self, body: bytes | None = None, *, key: str | None = KEY) -> Heard:
        heard, began = Heard(), time.monotonic()
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
        log = self.gateway.setup.log
        try:
            async with self._session.post(
                f"{self.gateway.url}/chat/completions",
                data=write_body() if body is None else body,
                headers=headers,
                allow_redirects=False,
            ) as reply:
                heard.status, heard.headers = reply.status, list(reply.headers.items())
                heard.logged = [] if log is None else read_log(log)
                heard.data = await reply.read()
                heard.ended = "whole"
        except TimeoutError:
            heard.ended = "silent"
        except aiohttp.ClientError:
            heard.ended = "broken"
        if not heard.status and log is not None:
            heard.logged = read_log(log)
        heard.seconds = time.monotonic() - began
        return heard


@asynccontextmanager
async def asking(setup: Setup | None = None, *, patience: float = SOON) -> AsyncIterator[Asking]:
    async with Gateway(setup or Setup()) as gateway:
        connector = aiohttp.TCPConnector(force_close=True)
        waiting = aiohttp.ClientTimeout(total=patience)
        # gzip is left as it came: what is in it is part of what is checked
        async with aiohttp.ClientSession(connector=connector, timeout=waiting, auto_decompress=False) as session:
            yield Asking(gateway, session)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, SOON))


def ask(setup: Setup, *bodies: bytes) -> list[Heard]:
    """One request after the other."""

    async def work() -> list[Heard]:
        async with asking(setup) as one:
            return [await one(body) for body in bodies]

    return run(work())


# Keys and money


def test_only_the_right_key_is_let_in_and_nobody_else_is_billed() -> None:
    async def work() -> None:
        async with asking() as one:
            assert [(await one(key=key)).status for key in (None, "", f"{KEY}x", KEY[:-1], KEY)] == [401] * 4 + [200]
            assert [record.billed > 0 for record in one.gateway.log.records] == [False] * 4 + [True]
            assert [record.account for record in one.gateway.log.records] == [""] * 4 + ["default"]

    run(work())


def test_a_revoked_key_is_refused_from_its_request_on_and_accounts_are_billed_apart() -> None:
    async def work() -> None:
        first, second = Account("first", "a", revoked_from=3), Account("second", "b", Decimal(5))
        async with asking(Setup(accounts=(first, second))) as one:
            assert [(await one(key=key)).status for key in "abaab"] == [200, 200, 401, 401, 200]
            assert (first.balance, second.balance) == (100 - first.billed, 5 - second.billed)
            assert second.billed == 2 * first.billed > 0

    run(work())


def test_the_log_and_the_replies_never_hold_a_key_and_echo_key_does() -> None:
    async def work(name: str) -> tuple[Heard, str]:
        async with asking(Setup(script=always(name))) as one:
            return await one(), str(one.gateway.log.records)

    heard, logged = run(work("error-500"))
    assert KEY.encode() not in heard.data
    assert KEY not in logged
    heard, logged = run(work("echo-key"))
    assert f"Bearer {KEY}".encode() in heard.data
    assert KEY not in logged


@settings(max_examples=25)
@given(
    packs=st.lists(st.lists(texts(), min_size=1, max_size=4), min_size=1, max_size=5),
    nano=st.integers(0, 200_000),
    prices=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
)
def test_the_balance_falls_by_exactly_what_is_billed_and_402_says_that_it_is_too_low(
    packs: list[list[str]], nano: int, prices: tuple[int, int]
) -> None:
    price = Price(*(Decimal(number) / 1000 for number in prices))

    async def work() -> None:
        account = Account("a", KEY, Decimal(nano) / 10**9)
        async with asking(Setup(accounts=(account,), price=price)) as one:
            for pack in packs:
                before, body = account.balance, write_body([normalise_text(text) for text in pack])
                heard, record = await one(body), one.gateway.log.records[-1]
                tokens = (record.input_tokens, record.output_tokens)
                due = (tokens[0] * price.input + tokens[1] * price.output) / 1_000_000
                due = due.quantize(Decimal("1e-9"))
                assert record.input_tokens == -(-len(body) // 4)
                if heard.status == 402:
                    assert before < due
                    assert account.balance == before
                    assert not record.billed
                    assert not record.arrived
                    continue
                assert heard.status == 200
                usage = heard.body["usage"]
                assert (usage["prompt_tokens"], usage["completion_tokens"]) == tokens
                assert usage["total_tokens"] == sum(tokens)
                assert before - account.balance == record.billed == record.told == due
                assert Decimal(heard.header("X-MDB-Charged-USD") or "none") == due
                assert Decimal(heard.header("X-MDB-Balance-USD") or "none") == account.balance >= 0
            assert account.billed == one.gateway.log.billed == Decimal(nano) / 10**9 - account.balance

    run(work())


@pytest.mark.parametrize("tells", ["header", "litellm", "body", "silent"])
def test_a_charge_is_told_in_one_place_only(tells: Any) -> None:
    for name in ("", "balance-jump", "usage-missing"):
        setup = Setup(tells=tells, script=always(name) if name else no_fault)

        async def work(setup: Setup = setup) -> tuple[Heard, Record]:
            async with asking(setup) as one:
                return await one(), one.gateway.log.records[0]

        heard, record = run(work())
        told = {
            "header": heard.header("X-MDB-Charged-USD"),
            "litellm": heard.header("x-litellm-response-cost"),
            "body": (heard.body["usage"] or {}).get("cost"),
        }
        there = {place for place, value in told.items() if value is not None}
        lost = tells == "silent" or (tells, name) == ("body", "usage-missing")
        assert there == (set() if lost else {tells})
        assert {Decimal(str(told[place])) for place in there} == (set() if lost else {record.billed})
        assert record.told == (None if lost else record.billed)
        if name != "balance-jump":
            assert (heard.header("X-MDB-Balance-USD") is not None) == (tells == "header")


# Limits


@given(st.floats(0, 100_000))
def test_a_duration_is_written_as_go_writes_it_and_read_back_to_a_hundredth(seconds: float) -> None:
    written = write_duration(seconds)
    found = re.fullmatch(r"(?:(\d+)ms)|(?:(\d+)m)?(?:([\d.]+)s)", written)
    assert found is not None
    milliseconds, minutes, rest = (float(part or 0) for part in found.groups())
    assert milliseconds / 1000 + 60 * minutes + rest == pytest.approx(seconds, abs=0.0051)
    assert rest < 60


@given(st.integers(1, 500), st.lists(st.tuples(st.floats(0, 40), st.integers(1, 600)), max_size=30))
def test_no_bucket_lets_more_through_than_it_held_and_got_and_who_waits_as_told_is_let_in(
    limit: int, asked: list[tuple[float, int]]
) -> None:
    bucket, now, taken = Bucket(limit), 0.0, 0
    for pause, amount in asked:
        now += pause
        wait = bucket.take(amount, now)
        assert wait <= 60 * (1 + taken / limit)
        if wait:
            assert amount > limit or taken + amount > limit - 1e-6
            now += wait
            assert bucket.take(amount, now) == 0
        taken += amount
        # what is larger than the bucket is lent the rest
        assert taken <= limit + now * limit / 60 + max(0, amount - limit) + 1e-3
        headers = bucket.headers("tokens")
        assert headers["x-ratelimit-limit-tokens"] == str(limit)
        assert headers["x-ratelimit-remaining-tokens"] == str(max(0, int(bucket.left)))


def test_requests_a_minute_are_counted_told_and_then_refused() -> None:
    heard = ask(Setup(rpm=3), *[write_body()] * 4)
    assert [one.status for one in heard] == [200, 200, 200, 429]
    assert [one.header("x-ratelimit-limit-requests") for one in heard] == ["3"] * 4
    assert [one.header("x-ratelimit-remaining-requests") for one in heard] == ["2", "1", "0", "0"]
    reset = [read_go(one.header("x-ratelimit-reset-requests") or "") for one in heard]
    assert reset[:3] == pytest.approx([20, 40, 60], abs=5)
    assert [one.header("Retry-After") for one in heard[:3]] == [None] * 3
    assert 15 <= int(heard[3].header("Retry-After") or 0) <= 20
    assert heard[0].header("x-ratelimit-limit-tokens") is None


def test_tokens_a_minute_count_the_input_and_all_of_max_tokens() -> None:
    body = write_body(max_tokens=500)
    need = -(-len(body) // 4) + 500
    heard = ask(Setup(tpm=2 * need + 10), body, body, body)
    assert [one.status for one in heard] == [200, 200, 429]
    told = [int(one.header("x-ratelimit-remaining-tokens") or -1) for one in heard]
    assert 0 <= told[0] - (need + 10) < need
    assert {one.header("x-ratelimit-limit-tokens") for one in heard} == {str(2 * need + 10)}
    assert heard[0].header("x-ratelimit-limit-requests") is None


def read_go(written: str) -> float:
    units = {"ms": 0.001, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|m|s)", written))


@pytest.mark.parametrize("form", ["seconds", "date", "ms", "nothing"])
def test_a_429_tells_the_wait_in_the_form_that_was_asked_for(form: Any) -> None:
    began = time.time()
    refused = ask(Setup(rpm=2, retry_after=form), *[write_body()] * 3)[-1]
    after, milliseconds = refused.header("Retry-After"), refused.header("retry-after-ms")
    assert refused.status == 429
    match form:
        case "seconds":
            assert 25 <= int(after or 0) <= 30
        case "ms":
            assert after is None
            assert 25_000 <= int(milliseconds or 0) <= 30_000
        case "date":
            when = email.utils.parsedate_to_datetime(after or "").timestamp()
            assert began + 29 <= when <= time.time() + 31
        case _:
            assert after is None
    assert (milliseconds is None) == (form != "ms")


def test_what_finds_no_slot_gets_429_until_one_is_free() -> None:
    async def work() -> None:
        inside = asyncio.Event()

        def hang(number: int, texts: Sequence[str]) -> str:
            inside.set()
            return "hang"

        async with asking(Setup(slots=1, script=hang), patience=PATIENCE) as one:
            hanging = asyncio.create_task(one())
            await inside.wait()
            refused = await one()
            assert (refused.status, refused.header("Retry-After")) == (429, "1")
            assert (await hanging).status == 0
        async with asking(Setup(slots=1)) as one:
            assert [(await one()).status for _ in range(3)] == [200] * 3

    run(work())


def test_with_a_queue_what_finds_no_slot_waits_for_one() -> None:
    async def work() -> None:
        async with asking(Setup(slots=1, queues=True, seconds=0.03)) as one:
            heard = await asyncio.gather(*(one() for _ in range(4)))
            assert [reply.status for reply in heard] == [200] * 4
            # one after the other: each waits for those before it
            for place, reply in enumerate(sorted(heard, key=lambda reply: reply.seconds), 1):
                assert reply.seconds >= 0.03 * place * 0.95

    run(work())


def test_slots_follow_their_schedule() -> None:
    slots = Slots(((0.0, 2), (10.0, 1), (20.0, 5)))
    assert [slots.at(now) for now in (0, 9.9, 10, 19, 20, 1e6)] == [2, 2, 1, 1, 5, 5]
    slots.taken = 1
    assert [slots.has_room(now) for now in (0, 10, 20)] == [True, False, True]
    assert Slots().has_room(0)


def test_what_comes_in_beyond_the_cliff_takes_ten_times_as_long() -> None:
    async def work() -> None:
        async with asking(Setup(cliff=1, seconds=0.03)) as one:
            alone = await one()
            both = sorted([reply.seconds for reply in await asyncio.gather(one(), one())])
            assert alone.seconds < 0.3 <= both[1]
            assert both[0] < both[1]

    run(work())


def test_a_request_that_could_cost_more_than_its_cap_is_refused_before_any_work() -> None:
    price, body = Price(Decimal(1), Decimal(10)), write_body(max_tokens=100)
    worst = (-(-len(body) // 4) + 10 * 100) / Decimal(1_000_000)
    for cap, status in ((worst, 200), (worst - Decimal("1e-9"), 400)):
        (heard,) = ask(Setup(price=price, request_cap_usd=cap), body)
        assert heard.status == status
    assert heard.body["error"]["type"] == "request_cap"


@settings(max_examples=20)
@given(asked=st.integers(1, 40), most=st.integers(1, 40) | st.none())
def test_an_answer_is_cut_at_the_lower_of_both_limits_and_says_so(asked: int, most: int | None) -> None:
    async def work() -> tuple[Heard, Heard, list[Record]]:
        async with asking() as one:
            whole = await one()
        async with asking(Setup(max_output_tokens=most)) as one:
            return whole, await one(write_body(max_tokens=asked)), one.gateway.log.records

    whole, heard, (record,) = run(work())
    limit = min(asked, most or asked)
    assert json.loads(whole.text) == ANSWER
    assert whole.text.startswith(heard.text)
    cut = heard.text != whole.text
    assert heard.body["choices"][0]["finish_reason"] == ("length" if cut else "stop")
    assert heard.body["usage"]["completion_tokens"] == (limit if cut else whole.body["usage"]["completion_tokens"])
    assert record.arrived == ({} if cut else dict(zip(PACK, ["spam", "ham", "ham"], strict=True)))
    assert record.max_tokens == limit


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "max_tokens", "messages", ""]), ANY_JSON), max_size=12))
def test_what_cannot_be_read_gets_400_and_never_breaks_the_gateway(changes: list[tuple[str, Any]]) -> None:
    async def work() -> None:
        async with asking() as one:
            for number, (place, value) in enumerate(changes, 1):
                body = json.loads(write_body())
                if place in {"system", "user"}:
                    body["messages"][place == "user"]["content"] = value
                elif place:
                    body[place] = value
                heard = await one(json.dumps(body if place else value).encode())
                taken = place == "max_tokens" and isinstance(value, float | int) and 1 <= value < 1_000_001
                assert heard.status == (200 if taken else 400), heard.data
                assert len(one.gateway.log.records) == number
            assert (await one(b"\xff{")).status == 400
            assert (await one()).status == 200

    run(work())


# Faults


# What a client sees of each: a status; or a reply of status 200 that is right, that is whole and wrong, whose end is
# missing, or that never comes to an end; or no header at all
RIGHT, WRONG, CUT, LATE, GONE, NEVER = "right", "wrong", "cut", "late", "gone", "never"
SEEN: dict[str, str] = {
    "reset-before-headers": GONE,
    "eof-before-headers": GONE,
    "cut-after-headers": CUT,
    "hang": NEVER,
    "slow-loris": LATE,
    "wrong-length-long": CUT,
    "wrong-length-short": GONE,  # of a reply that goes on after its end this client gives out nothing
    "duplicate-reply": RIGHT,
    "usage-missing": RIGHT,
    "usage-stale": RIGHT,
    "charge-missing": RIGHT,
    "charge-nan": RIGHT,
    "charge-negative": RIGHT,
    "charge-twice": RIGHT,
    "charge-over-reserve": RIGHT,
    "balance-jump": RIGHT,
    "latency-spike": RIGHT,
    "reorder": RIGHT,
    "poison": RIGHT,
}
CHARGES = {
    "charge-missing": [],
    "charge-nan": ["NaN"],
    "charge-negative": ["-0.01"],
    "charge-twice": ["0.000001", "0.000002"],
}

# What stands in the place of the right answer
ANSWERS: dict[str, Any] = {
    "shifted-numbers": ANSWER | {"answers": ["2 spam", "3 ham", "4 ham"]},
    "foreign-nonce": ANSWER | {"pack": "zzzz"},
    "lost-row": ANSWER | {"answers": ROWS[1:]},
    "duplicate-row": ANSWER | {"answers": [ROWS[0], *ROWS]},
    "unknown-label": ANSWER | {"answers": ["1 no such label", *ROWS[1:]]},
    "stale-reply": {"pack": "zzzz", "answers": []},
}


async def meet(setup: Setup, body: bytes | None = None, *, patience: float = SOON) -> tuple[Heard, Record, Gateway]:
    """One request to a gateway of its own."""
    async with asking(setup, patience=patience) as one:
        heard = await one(body)
        return heard, one.gateway.log.records[0], one.gateway


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_can_be_asked_for_does_what_it_says_and_is_logged_before_its_reply_leaves(
    name: str, tmp_path: Path
) -> None:
    setup = Setup(script=read_script([name], seed=2), log=tmp_path / "log", seed=2)
    seen = SEEN.get(name)
    heard, record, gateway = run(meet(setup, patience=PATIENCE if seen in {LATE, NEVER} else SOON))
    account, fault = gateway.accounts[0], FAULTS[name]

    assert heard.logged == [record]
    assert (record.fault, record.texts, record.nonce) == (name, list(PACK), NONCE)
    assert 100 - account.balance == account.billed == record.billed
    if fault.billed is not None:
        assert (record.billed > 0) == fault.billed
    charges = [value for key, value in heard.headers if key == "X-MDB-Charged-USD"]
    if name in CHARGES:
        assert (charges, record.told) == (CHARGES[name], None)
    else:
        assert charges == ([f"{record.told:f}"] if record.told is not None and heard.status else [])
        assert record.told in {None, record.billed}
    assert record.arrived == (dict(zip(PACK, ["spam", "ham", "ham"], strict=True)) if seen == RIGHT else {})
    status = re.match(r"[45]\d\d(?=: )|400 whose|307|nine of ten get 503", fault.what)
    refused = int(re.findall(r"\d{3}", status[0])[0]) if status else 200
    assert heard.status == (0 if seen in {GONE, NEVER} else refused)
    assert heard.ended == {CUT: "broken", LATE: "silent", GONE: "broken", NEVER: "silent"}.get(seen or "", "whole")
    if seen == RIGHT:
        assert json.loads(heard.text) == ANSWER
    if name in ANSWERS:
        assert json.loads(heard.text) == ANSWERS[name]


def test_a_rate_limit_tells_the_wait_in_its_form() -> None:
    told = {}
    for form in ("seconds", "date", "silent"):
        heard, _, _ = run(meet(Setup(script=always(f"rate-limited-{form}"))))
        told[form] = heard.header("Retry-After")
    assert (told["seconds"], told["silent"]) == ("1", None)
    assert abs(email.utils.parsedate_to_datetime(told["date"] or "").timestamp() - time.time()) < 5


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if re.match(r"[45]\d\d", fault.what)])
def test_a_refusal_is_an_error_object(name: str) -> None:
    heard, _, _ = run(meet(Setup(script=always(name)), write_body(["POISON"])))
    assert heard.body["error"]["message"]
    assert heard.header("Content-Type") == "application/json"


def test_a_redirect_leads_to_a_host_that_counts_who_comes() -> None:
    async def work() -> None:
        async with asking(Setup(script=always("redirect"))) as one:
            heard = await one()
            assert heard.header("Location") == one.gateway.elsewhere != one.gateway.url
            assert one.gateway.asked_elsewhere == 0
            async with aiohttp.ClientSession() as session, session.post(one.gateway.elsewhere) as reply:
                assert reply.status == 200
            assert one.gateway.asked_elsewhere == 1

    run(work())


def test_what_is_200_and_no_completion_is_what_it_says() -> None:
    said = {name: run(meet(Setup(script=always(name))))[0] for name in ("ok-error-body", "ok-empty-choices", "ok-html")}
    assert said["ok-error-body"].body["error"]["type"] == "server_error"
    assert said["ok-empty-choices"].body["choices"] == []
    assert said["ok-html"].data.startswith(b"<html>")
    assert (said["ok-html"].header("Content-Type") or "").startswith("text/html")


def test_what_ends_an_answer_early_says_so_and_prose_does_not() -> None:
    finish = {}
    for name in ("truncated", "content-filter", "prose"):
        heard, _, _ = run(meet(Setup(script=always(name))))
        finish[name] = (heard.body["choices"][0]["finish_reason"], heard.text)
    assert finish["truncated"][0] == "length"
    assert 0 < len(finish["truncated"][1]) < len(json.dumps(ANSWER, separators=(",", ":")))
    assert finish["content-filter"] == ("content_filter", "")
    assert finish["prose"][0] == "stop"
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(finish["prose"][1])


def test_a_usage_is_missing_or_another_ones() -> None:
    assert run(meet(Setup(script=always("usage-missing"))))[0].body["usage"] is None
    heard, record, _ = run(meet(Setup(script=always("usage-stale"))))
    assert heard.body["usage"]["total_tokens"] < record.input_tokens + record.output_tokens


def test_a_charge_over_the_reserve_is_more_than_a_token_a_byte_and_all_of_max_tokens() -> None:
    body = write_body(max_tokens=300)
    _, record, gateway = run(meet(Setup(script=always("charge-over-reserve")), body))
    price = gateway.setup.price
    assert record.billed > (len(body) * price.input + 300 * price.output) / 1_000_000


def test_a_balance_jumps_in_the_reply_and_not_on_the_account() -> None:
    heard, _, gateway = run(meet(Setup(script=always("balance-jump"))))
    assert heard.header("X-MDB-Balance-USD") == "0.00001"
    assert gateway.accounts[0].balance > 99


def test_a_stale_reply_is_the_one_to_the_request_before() -> None:
    first, second = ask(Setup(script=at({2: "stale-reply"})), write_body(["a prize"]), write_body(["b"]))
    assert second.text == first.text == '{"pack":"k7f2","answers":["1 spam"]}'


def test_a_gzip_body_is_none_or_ends_early_or_is_a_bomb() -> None:
    sent = {name: run(meet(Setup(script=always(name))))[0] for name in ("bad-gzip", "cut-gzip", "gzip-bomb")}
    assert {heard.header("Content-Encoding") for heard in sent.values()} == {"gzip"}
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(sent["bad-gzip"].data)
    with pytest.raises(EOFError):
        gzip.decompress(sent["cut-gzip"].data)
    bomb = sent["gzip-bomb"].data
    assert len(bomb) < 1_000_000
    assert int.from_bytes(bomb[-4:], "little") == 400_000_000  # gzip's last field is the size of what is packed


async def read_raw(name: str) -> tuple[list[bytes], bytes]:
    """The header lines and the rest of all that comes on a connection until it is closed, or nothing more comes."""
    async with Gateway(Setup(script=always(name))) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.split(":")[2].split("/")[0]))
        body = write_body()
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}"]
        writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        data = b""
        try:
            while part := await asyncio.wait_for(reader.read(1 << 20), PATIENCE):
                data += part
        except TimeoutError:
            pass
        writer.close()
        head, _, rest = data.partition(b"\r\n\r\n")
        return head.split(b"\r\n"), rest


def test_lengths_are_wrong_as_they_say_on_the_wire() -> None:
    for name, more in (("wrong-length-long", 50), ("wrong-length-short", -50)):
        head, body = run(read_raw(name))
        assert f"Content-Length: {len(body) + more}".encode() in head
        assert json.loads(body)["choices"]
        assert any(line.startswith(b"X-MDB-Charged-USD: 0.0000") for line in head)
    for name, announced in (("cut-after-headers", True), ("cut-unannounced", False)):
        head, body = run(read_raw(name))
        assert any(line.lower().startswith(b"content-length") for line in head) == announced
        assert body.startswith(b'{"id"')
        with pytest.raises(ValueError, match=r"delimiter|Unterminated"):
            json.loads(body)


def test_a_duplicate_reply_comes_twice_on_the_wire() -> None:
    _, rest = run(read_raw("duplicate-reply"))
    first, second = rest.split(b"HTTP/1.1 200 OK\r\n")
    assert second.endswith(b"\r\n\r\n" + first)
    assert json.loads(first)["choices"]


@pytest.mark.parametrize(("name", "share"), [("brownout", 0.1), ("eof-before-headers", 0.5)])
def test_what_is_billed_or_not_is_both_in_its_share(name: str, share: float) -> None:
    async def work() -> list[Record]:
        async with asking(Setup(script=always(name))) as one:
            await asyncio.gather(*(one() for _ in range(200)))
            return one.gateway.log.records

    billed = sum(record.billed > 0 for record in run(work()))
    assert abs(billed - 200 * share) < 4 * (200 * share * (1 - share)) ** 0.5


def test_poison_refuses_the_packs_that_hold_it_and_no_other() -> None:
    clean, poisoned = ask(Setup(script=always("poison")), write_body(), write_body([*PACK, "some POISON here"]))
    assert (clean.status, poisoned.status) == (200, 400)


# The same again


@settings(max_examples=8)
@given(st.integers(0, 2**32), st.sampled_from(["", "pair", "record"]))
def test_equal_seeds_and_equal_requests_give_equal_runs(seed: int, kind: str) -> None:
    shares = dict.fromkeys(("error-503", "eof-before-headers", "brownout", "lost-row", "ok-html"), 0.15)
    system = SYSTEM
    if kind == "record":
        system = write_system(Task(record=NESTED))
    elif kind:
        system = write_system(Task(LABELS, shape=AnswerShape.PAIR))

    def once() -> list[tuple[Any, ...]]:
        async def work() -> list[tuple[Any, ...]]:
            setup = Setup(script=mixed(shares, seed=seed), seed=seed, annotate=erring(keyword, base=0.3, seed=seed))
            async with asking(setup) as one:
                heard = [await one(write_body([f"{number}", f"{number}!"], system=system)) for number in range(12)]
                log = one.gateway.log.records
                said = [(reply.status, reply.data, reply.ended) for reply in heard]
                return [(*reply, str(replace(record, at=0))) for reply, record in zip(said, log, strict=True)]

        return run(work())

    first = once()
    assert first == once()
    seed += 1
    assert first != once()


def test_the_log_can_be_read_though_its_last_line_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ask(Setup(log=path, script=at({2: "hang", 1: "lost-row"})), write_body())
    ask(Setup(log=path), write_body(), b"{}")
    whole = read_log(path)
    assert [(record.fault, record.status) for record in whole] == [("lost-row", 200), ("", 200), ("", 400)]
    assert whole[0].billed > 0
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    assert read_log(path) == whole[:2]
