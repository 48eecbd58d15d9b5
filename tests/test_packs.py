from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.errors import CallError
from packer.packs import Envelope, Pack, PackLimits, Question, plan_packs, split_pack, usual_items

QUESTIONS = st.lists(
    st.builds(lambda tokens, bound: (tokens, bound), st.integers(1, 60), st.integers(1, 200)), max_size=60
).map(lambda sizes: [Question(f"k{n}", f"text {n}", tokens, bound) for n, (tokens, bound) in enumerate(sizes)])
ENVELOPES = st.builds(
    Envelope,
    items=st.integers(1, 30),
    tokens=st.integers(1, 200),
    usd=st.none() | st.decimals("0.00001", "0.01", places=6),
    token_usd=st.decimals("0", "0.0001", places=7),
    row_usd=st.decimals("0", "0.0001", places=7),
)


def question(tokens: int = 1, bound: int = 1) -> Question:
    return Question(f"k{tokens}.{bound}", "text", tokens, bound)


@given(QUESTIONS, ENVELOPES)
def test_every_question_stands_in_exactly_one_pack_in_order(questions: list[Question], envelope: Envelope) -> None:
    packs = list(plan_packs(questions, envelope))
    assert [q for pack in packs for q in pack.questions] == questions
    assert all(len(pack) for pack in packs)


@given(QUESTIONS, ENVELOPES)
def test_no_pack_of_several_passes_a_cap(questions: list[Question], envelope: Envelope) -> None:
    for pack in plan_packs(questions, envelope):
        assert len(pack) <= envelope.items
        if len(pack) > 1:
            assert pack.tokens <= envelope.tokens
            assert envelope.usd is None or sum(map(envelope.worst, pack.questions)) <= envelope.usd


@given(QUESTIONS, ENVELOPES)
def test_no_pack_is_closed_before_a_cap_says_so(questions: list[Question], envelope: Envelope) -> None:
    for pack, following in pairwise(plan_packs(questions, envelope)):
        larger = [*pack.questions, following.questions[0]]
        assert (
            len(larger) > envelope.items
            or sum(q.tokens for q in larger) > envelope.tokens
            or (envelope.usd is not None and sum(map(envelope.worst, larger)) > envelope.usd)
        )


def test_planning_holds_one_pack_at_a_time() -> None:
    taken = []

    def endless() -> object:
        while True:
            taken.append(1)
            yield question()

    packs = plan_packs(endless(), Envelope(items=5, tokens=1000))  # type: ignore[arg-type]  # an endless generator
    next(packs)
    assert len(taken) == 6


@pytest.mark.parametrize(
    ("asked", "envelope", "words"),
    [
        (question(tokens=9), Envelope(20, 8), "about 9 tokens, and a request has room for 8"),
        (question(tokens=9), Envelope(20, -5), "room for 0"),
        (question(bound=9), Envelope(20, 8, Decimal("0.1"), Decimal("0.02")), "cost more than the cap"),
        (
            question(bound=5),
            Envelope(20, 8, Decimal("0.1"), Decimal("0.02"), Decimal("0.001")),
            "cost more than the cap",
        ),
    ],
)
def test_a_text_that_alone_passes_a_cap_is_told_which(asked: Question, envelope: Envelope, words: str) -> None:
    assert words in (envelope.why_not(asked) or "")


def test_a_text_at_the_caps_is_askable() -> None:
    assert Envelope(1, 8, Decimal("0.1"), Decimal("0.02")).why_not(question(tokens=8, bound=5)) is None


@given(QUESTIONS.filter(bool), st.integers(1, 70))
def test_a_split_keeps_every_question_once_and_in_order_and_is_even(questions: list[Question], parts: int) -> None:
    packs = split_pack(Pack(tuple(questions)), parts)
    assert [q for pack in packs for q in pack.questions] == questions
    assert len(packs) == min(parts, len(questions))
    assert max(map(len, packs)) - min(map(len, packs)) <= 1


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"max_items": 0}, "max_items: expected 1 to 100, got 0"),
        ({"max_items": 101}, "max_items: expected 1 to 100, got 101"),
        ({"max_input_tokens": 0}, "max_input_tokens: expected at least 1, got 0"),
        ({"max_request_usd": Decimal(0)}, "max_request_usd: expected more than 0, got 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, object], wanted: str) -> None:
    with pytest.raises(CallError, match=wanted):
        PackLimits(**limits)  # type: ignore[arg-type]  # wrong on purpose


def test_a_pack_knows_its_keys_texts_and_sizes_in_the_order_of_the_numbers() -> None:
    pack = Pack((Question("a", "one", 1, 10), Question("b", "two", 2, 20)))
    assert (pack.keys, pack.texts, pack.tokens, pack.bound) == (("a", "b"), ["one", "two"], 3, 30)


def test_a_pack_is_as_large_as_the_task_says_and_smaller_where_texts_are_untrusted() -> None:
    assert usual_items(untrusted=False) == PackLimits().max_items == 20
    assert usual_items(50, untrusted=False) == 50
    assert usual_items(untrusted=True) == usual_items(50, untrusted=True) == 5
    assert usual_items(3, untrusted=True) == 3
