"""What a request may cost is known before it is written, and is a bound."""

from collections.abc import Sequence
from decimal import Decimal
from json import dumps

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import tasks, texts

from packer.canaries import Canaries, Canary
from packer.items import normalise_text
from packer.packs import Pack, PackLimits, Question
from packer.prompts import write_user
from packer.requests import Requests
from packer.task import Task
from packer.usage import Price, Usage, cost

PRICE = Price(Decimal("0.15"), Decimal("0.6"))
LABELS = Task(["spam", "ham"])


def count(given: Sequence[str]) -> list[int]:
    return [len(text) // 4 + 1 for text in given]


def bound(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def make(
    task: Task = LABELS, *, price: Price | None = PRICE, canaries: Sequence[Canary] = (), **limits: object
) -> Requests:
    caps = PackLimits(**limits)  # type: ignore[arg-type]  # the limits' own types
    by_label: dict[str, list[Canary]] = {}
    for canary in canaries:
        by_label.setdefault(canary.label, []).append(canary)
    return Requests(task, caps, price, count, bound, by_label)


# Two of one label, of which the longer one counts
CANARIES = [Canary("free money", "spam"), Canary("lunch?", "ham"), Canary("a canary that is longer " * 9, "ham")]


def pack_of(given: Sequence[str]) -> Pack:
    return Pack(
        tuple(
            Question(f"k{n}", text, count([text])[0] + 5, bound(write_user([text], "")) + 2)
            for n, text in enumerate(given)
        )
    )


@given(tasks(), st.lists(texts().map(normalise_text), min_size=1, max_size=20))
def test_the_worst_case_covers_every_byte_of_the_input_and_the_whole_allowance(task: Task, given: list[str]) -> None:
    requests, pack = make(task), pack_of(given)
    max_tokens = requests.max_tokens(pack)
    sent = bound(requests.system) + bound(write_user(given, "k7f2")) + bound(dumps(requests.schema))
    worst = requests.worst(pack, max_tokens)
    assert worst is not None
    assert worst >= cost(Usage(sent, max_tokens), PRICE)


@given(
    st.lists(texts(), min_size=3, max_size=3),
    st.lists(texts().map(normalise_text), min_size=1, max_size=20),
    st.integers(0, 2),
)
def test_the_worst_case_covers_the_canaries_and_their_rows(words: list[str], given: list[str], ham: int) -> None:
    canaries = [Canary(word, canary.label) for word, canary in zip(words, CANARIES, strict=True)]
    requests, pack = make(canaries=canaries), pack_of(given)
    drawn = Canaries({1: canaries[0], len(given) + 2: canaries[1 + ham % 2]} if len(given) > 1 else {})
    assert requests.rows(pack) == len(given) + len(drawn)
    max_tokens = requests.max_tokens(pack)
    assert max_tokens == requests.allowance.allow(len(given) + len(drawn))
    sent = bound(requests.system) + bound(write_user(drawn.mix(given), "k7f2")) + bound(dumps(requests.schema))
    worst = requests.worst(pack, max_tokens)
    assert worst is not None
    assert worst >= cost(Usage(sent, max_tokens), PRICE)


def test_a_single_carries_no_canaries_and_costs_nothing_for_them() -> None:
    guarded, plain = make(canaries=CANARIES), make()
    single, pair = pack_of(["a"]), pack_of(["a", "b"])
    assert (guarded.canaries_in(1), guarded.canaries_in(2), plain.canaries_in(2)) == (0, 2, 0)
    assert guarded.worst(single, 9) == plain.worst(single, 9)
    assert guarded.estimate(single) == plain.estimate(single)
    assert guarded.envelope(1) == plain.envelope(1)
    assert guarded.estimate(pair) > plain.estimate(pair)
    assert guarded.envelope(2).tokens < plain.envelope(2).tokens


def test_the_estimate_holds_the_average_of_the_canaries() -> None:
    requests, pair = make(canaries=CANARIES), pack_of(["a", "b"])
    lines = [count([write_user([canary.text], "")])[0] for canary in CANARIES]
    assert requests.estimate(pair) - make().estimate(pair) == round(lines[0] + (lines[1] + lines[2]) / 2)


def test_without_a_price_there_is_no_worst_case() -> None:
    assert make(price=None).worst(pack_of(["a"]), 10) is None


def test_the_cap_of_a_request_bounds_its_max_tokens() -> None:
    requests = make(max_request_usd=Decimal("0.0001"))
    pack = pack_of(["a"])
    free = make().max_tokens(pack)
    requests.allowance.truncated(free, 1)
    capped = requests.max_tokens(pack)
    assert 0 < capped < 4 * free
    worst = requests.worst(pack, capped)
    assert worst is not None
    assert worst <= Decimal("0.0001")


def test_a_cap_without_room_for_an_answer_leaves_less_than_one_token() -> None:
    assert make(max_request_usd=Decimal("0.000001")).max_tokens(pack_of(["a"])) < 1


def test_a_free_answer_is_not_bounded_by_the_cap() -> None:
    requests = make(price=Price(Decimal(1), Decimal(0)), max_request_usd=Decimal("0.1"))
    assert requests.max_tokens(pack_of(["a"])) == requests.allowance.allow(1)


def test_the_envelope_leaves_room_for_the_constant_part() -> None:
    requests = make(max_input_tokens=1000)
    assert requests.envelope(20).tokens + requests.estimate(Pack(())) == 1000
    requests.scale.observed(counted=100, reported=200)
    assert requests.envelope(20).tokens + requests.estimate(Pack(())) == 500


@given(
    st.lists(texts(max_size=200).map(normalise_text), min_size=1, max_size=20),
    st.decimals("0.0001", "0.01", places=5),
    st.sampled_from([(), CANARIES]),
)
def test_what_fits_the_envelope_keeps_the_cap(given: list[str], cap: Decimal, canaries: Sequence[Canary]) -> None:
    requests, pack = make(max_request_usd=cap, canaries=canaries), pack_of(given)
    envelope = requests.envelope(20)
    assert envelope.usd is not None
    if sum(map(envelope.worst, pack.questions)) <= envelope.usd:
        worst = requests.worst(pack, requests.max_tokens(pack))
        assert worst is not None
        assert worst <= cap
        assert requests.max_tokens(pack) == requests.allowance.allow(requests.rows(pack))


@pytest.mark.parametrize(("shape", "most"), [("line", 12), ("pair", 14), ("object", 20)])
def test_the_first_allowance_is_close_to_what_the_shape_takes(shape: str, most: int) -> None:
    requests = make(Task(["spam", "ham"], shape=shape))
    assert requests.allowance.row <= most


def test_a_record_starts_from_a_guess() -> None:
    record = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert make(Task(record=record)).allowance.row == 80
