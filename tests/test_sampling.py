"""A sample hangs on texts and seed, and on nothing else: not on the order, not on repetitions, not on the size."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.sampling import draw_sample

TEXTS = [f"text {number}" for number in range(200)]
ROWS = [(text, text[-1]) for text in TEXTS]


@given(st.randoms(use_true_random=False), st.integers(1, 300), st.integers(0, 5))
def test_the_order_of_rows_and_their_repetitions_change_nothing(rng: random.Random, size: int, seed: int) -> None:
    drawn = draw_sample(ROWS, size=size, seed=seed)
    rows = [*ROWS, *rng.choices(ROWS, k=50)]
    rng.shuffle(rows)
    again = draw_sample(rows, size=size, seed=seed)
    assert (again.texts, again.extras) == (drawn.texts, drawn.extras)
    assert len(set(drawn.texts)) == len(drawn.texts) == min(size, 200)
    assert again.items == 250


@given(st.integers(1, 200), st.integers(1, 200))
def test_a_larger_sample_begins_with_the_smaller_one(one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert draw_sample(ROWS, size=large, seed=1).texts[:small] == draw_sample(ROWS, size=small, seed=1).texts


def test_every_text_is_as_likely_and_seeds_differ() -> None:
    counts = Counter(text for seed in range(400) for text in draw_sample(ROWS, size=20, seed=seed).texts)
    assert len(counts) == 200
    assert all(15 <= count <= 70 for count in counts.values())  # 40 are expected


def test_a_text_is_taken_as_it_is_asked_with_what_stands_beside_it_first() -> None:
    drawn = draw_sample([(" one\r\n", "a"), ("one", "b"), ("", "c"), ("  ", None), ("two", None)], size=5, seed=0)
    assert dict(zip(drawn.texts, drawn.extras, strict=True)) == {"one": "a", "two": None}
    assert drawn.items == 5


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_any_seed_and_any_text_will_do(seed: int) -> None:
    assert draw_sample([("\ud800", None)], size=1, seed=seed).texts == ("\ud800",)
