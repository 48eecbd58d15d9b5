"""How sure a model was: the product over an answer's tokens, whatever the pieces; unknown, and never wrong, else."""

import asyncio
import csv
import io
import json
import math
import random
import time
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from gateway.annotators import Annotator, erring, gold, keyword, surety
from gateway.server import KEY, Gateway, Setup, running_gateway
from gateway_server import Answer, GatewayServer, completion
from hypothesis import given, settings
from hypothesis import strategies as st
from schema_documents import SCHEMAS
from strategies import FRAGMENTS, Written, answers, junk, mutated, tasks, texts

from packer.answers import Answer as Parsed
from packer.answers import parse_answer
from packer.cli import main
from packer.confidence import weigh
from packer.errors import TransportError
from packer.exchange import Prompt, Reply, Token
from packer.items import Result, Status
from packer.json_scan import MAX_DEPTH
from packer.refusals import read_refusal, refused_setting
from packer.replies import read_completion
from packer.runner import Runner
from packer.task import AnswerShape, Task, fold_label
from packer.transport import GatewayTransport

TASK = Task(["spam", "ham", "neither of the two"])
TEXTS = [f"{'prize' if number % 3 else 'lunch'} number {number}, é\U0001f600" for number in range(60)]


# Where an answer stands


def places_in(written: Written) -> dict[int, list[tuple[int, int]]]:
    """Where the answer of each row stands, by how it was written."""
    compact, task = written.comma == ",", written.task
    comma, colon = (",", ":") if compact else (", ", ": ")
    found: dict[int, list[tuple[int, int]]] = {}
    at = len(written.head)
    for (number, answer), part in zip(written.rows.items(), written.parts, strict=True):
        ascii_only = part.isascii()
        if task.record_schema is None:
            behind = {AnswerShape.LINE: '"', AnswerShape.PAIR: '"]', AnswerShape.OBJECT: '"}'}[task.shape]
            end = at + len(part) - len(behind)
            length = len(json.dumps(answer, ensure_ascii=ascii_only)) - 2
            others = [fold_label(label) for label in task.labels if label != answer]
            goes_on = any(other.startswith(fold_label(answer)) for other in others)
            found[number] = [(end - length, end + goes_on)]
        else:
            found[number] = []
            inner = at + len(f'{{"n"{colon}{number}')
            for key, value in answer.items():
                inner += len(comma + json.dumps(key, ensure_ascii=ascii_only) + colon)
                length = len(json.dumps(value, ensure_ascii=ascii_only, separators=(comma, colon)))
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                found[number].append((inner, inner + length + is_number))
                inner += length
        at += len(part) + len(written.comma)
    return found


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[Written, list[Token]]:
    """A valid answer, and any pieces of its bytes with any probabilities."""
    written = draw(answers())
    data = written.text.encode()
    rng = random.Random(draw(st.integers(0, 2**32)))
    longest = draw(st.sampled_from([1, 3, 12, 1000]))
    cuts = [0]
    while cuts[-1] < len(data):
        cuts.append(min(len(data), cuts[-1] + rng.randint(1, longest)))
    return written, [Token(data[left:right], -rng.expovariate(2)) for left, right in pairwise(cuts)]


@pytest.mark.no_cover
@settings(max_examples=200)
@given(tokenised())
def test_the_confidence_of_a_row_is_the_product_over_its_answers_tokens(case: tuple[Written, list[Token]]) -> None:
    written, tokens = case
    text = written.text
    answer = parse_answer(text, task=written.task, nonce=written.nonce, count=written.count, locate=True)
    assert set(answer.rows) == set(written.rows)
    ends = list(accumulate(len(token.piece) for token in tokens))
    expected = {}
    for number, parts in places_in(written).items():
        products = []
        for start, end in parts:
            first, last = (len(text[:place].encode()) for place in (start, end))
            pairs = zip([0, *ends], ends, tokens, strict=False)
            own = [token.logprob for left, right, token in pairs if left < last and right > first]
            products.append(math.prod(math.exp(logprob) for logprob in own))
        expected[number] = min(products)
    assert weigh(text, tokens, answer.spans) == pytest.approx(expected)


def assert_same(text: str, task: Task, nonce: str, count: int) -> Parsed:
    """ "Asking where the rows stand changes no answer", and what stands there is the answer."""
    plain = parse_answer(text, task=task, nonce=nonce, count=count)
    located = parse_answer(text, task=task, nonce=nonce, count=count, locate=True)
    assert (located.rows, located.defects, located.rejected) == (plain.rows, plain.defects, plain.rejected)
    assert not plain.spans
    assert located.spans.keys() <= located.rows.keys()
    for number, spans in located.spans.items():
        shown = [text[start:end] for start, end in spans]
        if task.record_schema is None:
            for label in shown:
                whole = label[:-1] if located.rows[number] in task.open_labels else label
                assert task.match_label(json.loads(f'"{whole}"')) == located.rows[number]
        else:
            values = [value if value[-1:] not in ",} \n]" or value[0] in "[{" else value[:-1] for value in shown]
            assert list(map(json.loads, values)) == list(located.rows[number].values())
    return located


@pytest.mark.no_cover
@settings(max_examples=150)
@given(answers(), st.data())
def test_asking_where_rows_stand_changes_no_answer(written: Written, data: st.DataObject) -> None:
    text = data.draw(mutated(written).flatmap(lambda text: junk(written.nonce).map(lambda more: text + more)))
    assert_same(text, written.task, written.nonce, written.count)


@given(st.lists(st.sampled_from(FRAGMENTS) | texts() | junk("k7f2"), max_size=12).map("".join), tasks())
def test_asking_where_rows_stand_raises_for_no_text(text: str, task: Task) -> None:
    assert_same(text, task, "k7f2", 3)


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"pack":"k7f2","answers":["1 spam","2 ham"]}\n```',
        'Here: {"pack":"k7f2","answers":[[1,"SPAM"],[2," ham "]]}',
        '<think>"1 ham", or {"n":1,"label":"ham"}?</think>{"pack":"k7f2","answers":["1  spam","02 ham"]}',
        '{"n":1,"label":"spam"}\n{"n":2,"label":"\\u0068am"}',
        '[1,"spam"]\n[2,"ham"]',
        '{"pack":"k7f2","answers":["1 spam",[2,"spam"],"2 ham"]}',
        '{"pack":"k7f2","answers":["1 spam",{"label":"ham"},"2 ham"]}',
        '{"pack":"k7f2","answers":["1 spam","2 ham","1 spam"',
        '[{"pack":"k7f2","answers":[{"label":"spam","n":1},{"n":2,"label":"ham"},]}]',
    ],
)
def test_in_whatever_a_row_is_wrapped_its_place_is_found(text: str) -> None:
    assert assert_same(text, TASK, "k7f2", 2).spans.keys() == {1, 2}


def test_a_row_that_is_written_in_escapes_or_nested_without_end_has_no_place() -> None:
    text = '{"pack":"k7f2","answers":["1\\u0020neither of the two","2 ham"]}'
    located = assert_same(text, TASK, "k7f2", 2)
    assert located.rows == {1: "neither of the two", 2: "ham"}
    assert weigh(text, [Token(text.encode(), -1.0)], located.spans) == {2: pytest.approx(math.exp(-1))}
    record = Task(record={"type": "object", "properties": {"a": {}}})
    deep = f'{{"pack":"k7f2","answers":[{{"n":1,"a":{"[" * MAX_DEPTH}{"]" * MAX_DEPTH}}},{{"n":2,"a":[]}}]}}'
    assert not assert_same(deep, record, "k7f2", 2).spans


# What the tokens make of it


def read(text: str, *tokens: tuple[str, float], task: Task = TASK, count: int = 1) -> dict[int, float]:
    located = parse_answer(text, task=task, nonce="k7f2", count=count, locate=True)
    return weigh(text, [Token(piece.encode(), logprob) for piece, logprob in tokens], located.spans)


def test_labels_with_a_common_beginning_are_told_apart_by_what_follows_it() -> None:
    task = Task(["spam", "spammer", "ham"])
    head, half = '{"pack":"k7f2","answers":["1', math.log(0.5)
    for label, rest in (("spam", [('"', half), ("]}", 0.0)]), ("spammer", [("mer", half), ('"]}', -3.0)])):
        tokens = [(head, -2.0), (" spam", math.log(0.8)), *rest]
        found = read(f'{head} {label}"]}}', *tokens, task=task)
        assert found == {1: pytest.approx(0.4)}
    # of a label that no other one begins with, what follows says nothing
    assert read(f'{head} ham"]}}', (head, -2.0), (" ham", half), ('"]}', -3.0), task=task) == {1: pytest.approx(0.5)}


def test_what_a_schema_forces_changes_nothing() -> None:
    text = '{"pack":"k7f2","answers":["1 spam"]}'
    free = [(text[:28], 0.0), (" s", math.log(0.7)), ("pam", 0.0), (text[33:], 0.0)]
    assert read(text, *free) == {1: pytest.approx(0.7)}


def test_a_record_is_as_sure_as_its_least_sure_field() -> None:
    task = Task(record={"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}})
    text = '{"pack":"k7f2","answers":[{"n":1,"a":12,"b":"x"}]}'
    tokens = [(text[:37], -1.0), ("1", math.log(0.9)), ("2,", math.log(0.5)), ('"b":', -1.0), ('"x', math.log(0.6))]
    assert read(text, *tokens, (text[46:], 0.0), task=task) == {1: pytest.approx(0.45)}


def test_tokens_that_do_not_spell_the_text_say_nothing() -> None:
    text = '{"pack":"k7f2","answers":["1 spam"]}'
    assert read(text, (text, -0.5)) == {1: pytest.approx(math.exp(-0.5))}
    for tokens in ([], [(text[:-1], -0.5)], [(f" {text}", -0.5)], [(text.replace("spam", "maps"), -0.5)]):
        assert not read(text, *tokens)
    # some servers show what ended the answer, once
    end = ("<|im_end|>", -7.0)
    assert read(text, (text, -0.5), end) == {1: pytest.approx(math.exp(-0.5))}
    assert not read(text, (text, -0.5), end, end)


@pytest.mark.parametrize("logprob", [math.nan, math.inf, -math.inf, 0.01])
def test_a_probability_that_cannot_be_makes_only_its_own_row_unknown(logprob: float) -> None:
    text = '{"pack":"k7f2","answers":["1 spam","2 ham"]}'
    tokens = [(text[:28], math.nan), (" spam", logprob), ('","2', 5.0), (" ham", -0.5), (text[41:], math.nan)]
    assert read(text, *tokens, count=2) == {2: pytest.approx(math.exp(-0.5))}


HOSTILE: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["content", "token", "bytes", "logprob"]), inner)
    ),
    max_leaves=12,
)


@given(HOSTILE)
def test_no_log_probabilities_of_a_reply_raise_anything(logprobs: Any) -> None:
    text = '{"pack":"k7f2","answers":["1 spam"]}'
    body = completion(text)
    body["choices"][0]["logprobs"] = logprobs
    reading = read_completion(body)
    assert reading is not None
    weigh(text, reading.tokens or (), {1: ((28, 32),)})


def test_a_token_is_its_bytes_else_its_text_and_else_there_are_none() -> None:
    def tokens(*content: Any) -> Any:
        body = completion("x")
        body["choices"][0]["logprobs"] = {"content": list(content)}
        reading = read_completion(body)
        assert reading is not None
        return reading.tokens

    assert tokens({"token": "\ufffd", "bytes": [0xC3], "logprob": -0.5}, {"token": "b", "logprob": 0}) == [
        Token(b"\xc3", -0.5),
        Token(b"b", 0.0),
    ]
    for logprob in (None, "0", True, -(10**400), 1):
        ((piece, read),) = tokens({"token": "a", "bytes": None, "logprob": logprob})
        assert piece == b"a"
        assert math.isnan(read)
    for wrong in ({}, {"token": 1}, {"token": "a", "bytes": [256]}, {"token": "a", "bytes": ["a"]}, {"bytes": 7}, None):
        assert tokens({"token": "a", "logprob": 0.0}, wrong) is None


def test_a_million_tokens_take_a_time_that_grows_with_their_number() -> None:
    seconds = []
    for size in (100_000, 1_000_000):
        text = '{"pack":"k7f2","answers":["1 spam"]}' + " " * (size - 36)
        tokens = [Token(text[at : at + 1].encode(), -1e-6) for at in range(size)]
        located = parse_answer(text, task=TASK, nonce="k7f2", count=1, locate=True)
        began = time.perf_counter()
        assert weigh(text, tokens, located.spans) == {1: pytest.approx(1.0, abs=1e-4)}
        seconds.append(time.perf_counter() - began)
    assert seconds[1] < 5.0
    assert seconds[1] < 40 * seconds[0] + 0.5


# What is asked of a gateway, and refused


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "Unsupported parameter: 'logprobs'.", "param": "logprobs"}}),
        (
            400,
            {"error": {"message": "Logprobs is not enabled for models/gemini-2.5-pro", "status": "INVALID_ARGUMENT"}},
        ),
        (400, {"error": {"message": "This model doesn't support logprobs. Please remove it.", "param": None}}),
        (403, {"error": {"message": "You are not allowed to request logprobs from this model", "type": "invalid"}}),
        (400, {"error": {"message": "logprobs and response_format are not supported together"}}),
        (400, {"error": {"message": "5 is greater than the maximum of 1 - 'logprobs'", "param": "logprobs"}}),
    ],
)
def test_refused_log_probabilities_are_recognised_where_they_were_asked_for(status: int, body: Any) -> None:
    refusal = read_refusal(status, body)
    assert refused_setting(refusal, limit="max_tokens", logprobs=True) == "logprobs"
    assert refused_setting(refusal, limit="max_tokens") != "logprobs"


def test_a_key_that_is_refused_is_no_refused_setting() -> None:
    refusal = read_refusal(403, {"error": {"message": "You are not allowed to use this model"}})
    assert refused_setting(refusal, limit="max_tokens", logprobs=True) is None


async def ask(transport: GatewayTransport, *, logprobs: bool) -> Reply | TransportError:
    try:
        return await transport.send(Prompt("s", 'pack: k7f2\n1. "x"', {}, 100, logprobs), deadline=5.0)
    except TransportError as error:
        return error


def test_log_probabilities_are_asked_for_where_they_are_wanted_and_only_then_read() -> None:
    told = completion("hi")
    told["choices"][0]["logprobs"] = {"content": [{"token": "hi", "bytes": None, "logprob": -0.5}]}

    async def run() -> None:
        async with GatewayServer([Answer(told), Answer(told)]) as server:
            transport = GatewayTransport("m", base_url=f"{server.url}/v1", api_key=None, connections=1)
            wanted, plain = await ask(transport, logprobs=True), await ask(transport, logprobs=False)
            await transport.aclose()
        assert isinstance(wanted, Reply)
        assert isinstance(plain, Reply)
        assert (wanted.tokens, plain.tokens) == ([Token(b"hi", -0.5)], None)
        assert [body.get("logprobs") for body in server.bodies] == [True, None]
        assert not any("top_logprobs" in body for body in server.bodies)

    asyncio.run(run())


# A whole job


def label(setup: Setup, given: Sequence[str] = TEXTS, *, task: Task = TASK, **options: Any) -> Any:
    """The results, the runner's statistics and the gateway."""
    options = {"ledger": None, "confidence": True, "concurrency": 4} | options

    async def run() -> Any:
        async with Gateway(setup) as gateway:
            runner = Runner(task, model="m", base_url=gateway.url, api_key=KEY, **options)
            async with runner:
                results = [result async for result in runner.stream(given)]
            return results, runner.statistics(), gateway

    return asyncio.run(run())


def sure_of(annotate: Annotator, given: Sequence[str] = TEXTS) -> list[float]:
    return [surety(annotate, [text])[0] for text in given]


UNEVEN = erring(keyword, base=0.25, uneven=True, seed=3)


@pytest.mark.parametrize("shape", list(AnswerShape))
def test_every_item_gets_the_confidence_of_its_own_label(shape: AnswerShape) -> None:
    task = Task(TASK.labels, shape=shape)
    results, _, _ = label(Setup(annotate=UNEVEN), task=task)
    assert [result.confidence for result in results] == pytest.approx(sure_of(UNEVEN))
    assert len({round(result.confidence, 6) for result in results}) > 50


def test_canaries_move_no_confidence_to_another_item() -> None:
    texts = [f"prize {number}" for number in range(30)]
    canaries = [("buy now", "spam"), ("see you", "ham"), ("good", "neither of the two")]
    task = Task(TASK.labels, canaries=canaries)
    honest = erring(gold(dict(canaries)), base=0.25, uneven=True, seed=0)  # of which no canary is wrong
    results, statistics, _ = label(Setup(annotate=honest), texts, task=task, untrusted=True)
    assert statistics.canaries_asked
    assert not statistics.canary_hits
    assert [result.confidence for result in results] == pytest.approx(sure_of(honest, texts))


def test_a_gateway_that_refuses_log_probabilities_is_asked_without_them() -> None:
    results, statistics, gateway = label(Setup(logprobs="refused"))
    assert {result.status for result in results} == {Status.LABELLED}
    assert {result.confidence for result in results} == {None}
    assert statistics.refused_settings == ("logprobs",)
    # the first pack goes alone, so that one request finds it out
    assert [record.status for record in gateway.log.records].count(400) == 1


@pytest.mark.parametrize(("setup", "wanted"), [(Setup(logprobs="ignored"), True), (Setup(), False)])
def test_a_confidence_that_is_not_told_or_not_asked_for_is_unknown(setup: Setup, wanted: bool) -> None:
    results, statistics, _ = label(setup, confidence=wanted)
    assert [(result.label is not None, result.confidence) for result in results] == [(True, None)] * len(TEXTS)
    assert statistics.refused_settings == ()


def test_a_later_run_shows_the_confidence_that_was_paid_for_and_buys_nothing(tmp_path: Path) -> None:
    """ "It does not change the answer": a job that asks for confidence finds the answers of one that did not."""
    ledger = tmp_path / "labels.db"
    old, new = TEXTS[:20], TEXTS[20:]
    label(Setup(annotate=UNEVEN), old, ledger=ledger, confidence=False)
    label(Setup(annotate=UNEVEN), new, ledger=ledger)
    again, statistics, _ = label(Setup(annotate=UNEVEN), TEXTS, ledger=ledger)
    assert statistics.requests == 0
    assert [result.known for result in again] == [True] * len(TEXTS)
    assert [result.confidence for result in again] == [None] * 20 + [
        pytest.approx(sure) for sure in sure_of(UNEVEN, new)
    ]
    plain, _, _ = label(Setup(), TEXTS, ledger=ledger, confidence=False)
    assert {result.confidence for result in plain} == {None}


def test_copies_of_a_text_share_its_confidence() -> None:
    results: list[Result]
    results, _, _ = label(Setup(annotate=UNEVEN), [TEXTS[0], TEXTS[1], TEXTS[0]])
    assert results[0].confidence == results[2].confidence == pytest.approx(sure_of(UNEVEN)[0])
    assert results[0].confidence != results[1].confidence


def test_a_sibling_asks_for_confidence_as_its_main_runner_does() -> None:
    async def run(*, wanted: bool) -> float | None:
        async with Gateway(Setup(annotate=UNEVEN)) as gateway:
            main = Runner(TASK, model="m", base_url=gateway.url, api_key=KEY, ledger=None, confidence=wanted)
            async with main, main.sibling("single") as alone:
                return (await alone.submit(TEXTS[0])).confidence

    assert asyncio.run(run(wanted=True)) == pytest.approx(sure_of(UNEVEN)[0])
    assert asyncio.run(run(wanted=False)) is None


def test_the_gateways_stated_probability_is_how_often_its_labels_are_right() -> None:
    """The law of the fake annotator, on which every evidence about confidence rests."""
    texts = [f"text {number}" for number in range(6_000)]
    labels = dict.fromkeys(TASK.labels, "")
    right = keyword(texts, labels)
    given = UNEVEN(texts, labels)
    by_tenth: dict[int, list[tuple[float, bool]]] = {}
    for sure, label, truth in zip(surety(UNEVEN, texts), given, right, strict=True):
        by_tenth.setdefault(int(sure * 10), []).append((sure, label == truth))
    assert len(by_tenth) >= 7
    for pairs in by_tenth.values():
        stated = sum(sure for sure, _ in pairs) / len(pairs)
        found = sum(is_right for _, is_right in pairs) / len(pairs)
        assert abs(stated - found) < 4 * math.sqrt(max(stated * (1 - stated), 0.01) / len(pairs)), (stated, found)


# The command


def write_table(path: Path, texts: Sequence[str] = TEXTS, column: str = "id") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[column, "text"], *([str(number), text] for number, text in enumerate(texts))])
    return path


def run_command(gateway: Gateway, table: Path, *more: str) -> int:
    return main(
        [
            *("label", str(table), "--text", "text", "--labels", "spam,ham,neither of the two", "--model", "m"),
            *("--base-url", gateway.url, "--api-key-env", "REHEARSAL_KEY", *more),
        ]
    )


def test_the_command_writes_a_column_of_confidences_where_it_is_asked_to(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REHEARSAL_KEY", KEY)
    table, again = write_table(in_folder / "in.csv"), write_table(in_folder / "again.csv", column="confidence")
    with running_gateway(Setup(annotate=UNEVEN)) as gateway:
        assert run_command(gateway, table, "--output", "out.csv", "--confidence") == 0
        assert run_command(gateway, table, "--output", "plain.csv") == 0
        assert run_command(gateway, again, "--output", "out.jsonl", "--confidence") == 0
    rows = list(csv.DictReader(io.StringIO((in_folder / "out.csv").read_text(encoding="utf-8"))))
    assert list(rows[0]) == ["id", "text", "label", "confidence", "status", "error"]
    assert [float(row["confidence"]) for row in rows] == pytest.approx(sure_of(UNEVEN), abs=1e-6)
    plain = (in_folder / "plain.csv").read_text(encoding="utf-8")
    assert plain.splitlines()[0] == "id,text,label,status,error"
    lines = [json.loads(line) for line in (in_folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(lines[0]) == ["confidence", "text", "label", "confidence_2", "status", "error"]
    assert [line["confidence_2"] for line in lines] == [float(row["confidence"]) for row in rows]
    assert "confidence is empty" not in capsys.readouterr().err


def test_a_row_with_a_confidence_is_one_of_the_document(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEARSAL_KEY", KEY)
    table = write_table(in_folder / "in.csv", [*TEXTS[:5], ""])
    with running_gateway(Setup(annotate=UNEVEN)) as gateway:
        assert run_command(gateway, table, "--output", "out.jsonl", "--confidence") == 3
    document = json.loads((SCHEMAS / "result.schema.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (in_folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        jsonschema.validate(row, document)
    assert [row["confidence"] is None for row in rows] == [False] * 5 + [True]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(rows[0] | {"confidence": 1.5}, document)


def test_the_command_says_for_how_many_items_it_knows_no_confidence(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REHEARSAL_KEY", KEY)
    table = write_table(in_folder / "in.csv", TEXTS[:5])
    with running_gateway(Setup(logprobs="refused")) as gateway:
        assert run_command(gateway, table, "--output", "out.csv", "--confidence") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "the gateway does not take logprobs; it was left out" in told
    assert "confidence is empty for 5 labelled items" in told
    rows = list(csv.DictReader(io.StringIO((in_folder / "out.csv").read_text(encoding="utf-8"))))
    assert {row["confidence"] for row in rows} == {""}
