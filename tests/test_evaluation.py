"""Figures are what scikit-learn says of the items one by one, whatever their order. Lines fit, and obey nobody."""

import importlib.util
import math
import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import texts

from packer import evaluation
from packer.errors import CallError
from packer.evaluation import Evaluation, RecordEvaluation, Tally, check_libraries
from packer.evaluation_view import write_evaluation
from packer.intervals import Interval, proportion
from packer.items import Status
from packer.shown import show_text

Pairs = list[tuple[str | None, str | None]]

LABELS = st.sampled_from(["ham", "spam", "other", "Rück"])
PAIRS = st.lists(st.tuples(LABELS | st.none(), LABELS | st.none()), max_size=60)


def evaluate(pairs: Pairs, *, most_labels: int = 1_000, by: bool = False) -> Evaluation:
    tally = Tally(most_labels)
    for place, (gold, label) in enumerate(pairs):
        places = {"length": place % 7 + 1, "position": None if place % 3 else 1} if by else None
        tally.add(gold, label, text=f"text {place}", places=places)
    return tally.figures()


@pytest.mark.filterwarnings("ignore:A single label was found")  # the reference's own word, for its matrix of one
@given(PAIRS)
def test_the_figures_are_scikit_learns_over_the_items_one_by_one(pairs: Pairs) -> None:
    from sklearn import metrics

    found = evaluate(pairs)
    compared = [(gold, label) for gold, label in pairs if gold is not None and label is not None]
    assert found.compared == len(compared)
    if not compared:
        assert (found.accuracy, found.macro_f1, found.labels) == (Interval(None, 0, 1), None, ())
        return
    gold, given_ = ([pair[side] for pair in compared] for side in (0, 1))
    names = sorted({*gold, *given_}, key=str)
    assert [label.label for label in found.labels] == names
    assert found.accuracy.value == pytest.approx(metrics.accuracy_score(gold, given_))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(gold, given_, average="macro"))
    assert [list(row) for row in found.confusion] == metrics.confusion_matrix(gold, given_, labels=names).tolist()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        gold, given_, labels=names, zero_division=math.nan
    )
    assert [label.support for label in found.labels] == support.tolist()
    assert [label.f1 for label in found.labels] == pytest.approx(f1.tolist())
    assert values([label.precision for label in found.labels]) == pytest.approx(precision.tolist(), nan_ok=True)
    assert values([label.recall for label in found.labels]) == pytest.approx(recall.tolist(), nan_ok=True)


def values(shares: list[Interval | None]) -> list[float]:
    return [math.nan if share is None or share.value is None else share.value for share in shares]


@given(PAIRS)
def test_every_item_is_counted_and_the_counts_add_up(pairs: Pairs) -> None:
    found = evaluate(pairs, by=True)
    assert found.items == len(pairs)
    assert found.labelled == sum(label is not None for _, label in pairs)
    assert found.without_gold == sum(gold is None for gold, _ in pairs)
    counts = [count for row in found.confusion for count in row]
    assert sum(counts) == found.compared == sum(label.support for label in found.labels)
    assert found.compared == sum(label.predicted for label in found.labels)
    errors = sum(pair.count for pair in found.confusions)
    assert found.accuracy == proportion(found.compared - errors, found.compared)
    for bins in found.by.values():
        assert (sum(part.items for part in bins), sum(part.errors for part in bins)) == (found.compared, errors)
    assert len(found.by) == (2 if found.compared else 0)


@given(
    st.lists(st.tuples(LABELS | st.none(), LABELS | st.none(), texts(), st.integers(0, 99)), max_size=40), st.randoms()
)
def test_the_order_of_the_items_changes_nothing(
    items: list[tuple[str | None, str | None, str, int]], rng: random.Random
) -> None:
    def figures() -> Evaluation:
        tally = Tally(1_000)
        for gold, label, text, place in items:
            tally.add(gold, label, text=text, places={"length": place})
        return tally.figures()

    before = figures()
    rng.shuffle(items)
    assert figures() == before


def test_labels_match_as_a_tasks_do_and_are_shown_as_they_were_given() -> None:
    found = evaluate(
        [("SPAM ", "spam"), (" re\u0301sume\u0301", "R\u00e9sum\u00e9"), ("GOLD", "spam"), ("Gold", "spam")]
    )
    assert [label.label for label in found.labels] == ["GOLD", "R\u00e9sum\u00e9", "spam"]
    assert (found.accuracy.value, found.compared) == (0.5, 4)


def test_what_is_undefined_is_none_and_its_f1_is_0() -> None:
    found = evaluate([("a", "b"), ("a", "b")])
    a, b = found.labels
    assert (a.precision, a.recall, a.f1) == (None, proportion(0, 2), 0)
    assert (b.precision, b.recall, b.f1) == (proportion(0, 2), None, 0)
    assert found.macro_f1 == 0


def test_too_many_values_leave_the_accuracy() -> None:
    found = evaluate([*((str(number), str(number)) for number in range(20)), ("a", "b")], most_labels=10, by=True)
    assert found.accuracy == proportion(20, 21)
    assert (found.macro_f1, found.labels, found.confusion, found.confusions) == (None, (), (), ())
    assert sum(part.items for part in found.by["length"]) == 21


def test_a_confusion_keeps_three_different_texts_however_many_there_are() -> None:
    tally = Tally(10)
    for number in range(1_000):
        tally.add("a", "b", text=f"text {number % 100} " + "x" * 500)
        tally.add("a", "a", text="right")
    (pair,) = tally.figures().confusions
    assert (pair.gold, pair.label, pair.count) == ("a", "b", 1_000)
    assert len(set(pair.texts)) == 3
    assert {len(text) for text in pair.texts} == {200}


def test_only_so_many_pairs_keep_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_MOST_PAIRS", 2)
    found = evaluate([("a", "b"), ("b", "a"), ("c", "a"), ("a", "b")])
    assert [(pair.gold, len(pair.texts)) for pair in found.confusions] == [("a", 2), ("b", 1), ("c", 0)]


def test_every_text_is_as_likely_to_be_shown() -> None:
    drawn = []
    for start in range(200):
        tally = Tally(10)
        for number in range(20):
            tally.add("a", "b", text=f"{start}: {number}")
        drawn += [int(text.split()[1]) for text in tally.figures().confusions[0].texts]
    assert all(10 <= drawn.count(number) <= 60 for number in range(20))  # 30 expected


def test_bins_double_and_say_what_was_seen_in_them() -> None:
    tally = Tally(10)
    for place in (1, 2, 3, 4, 5, 8, 9, 12, 17, None, 20, 0):
        tally.add("a", "a" if place else "b", places={"position": place})
    bins = tally.figures().by["position"]
    assert [(part.least, part.most, part.items, part.errors) for part in bins] == [
        *((0, 1, 2, 1), (2, 2, 1, 0), (3, 4, 2, 0), (5, 8, 2, 0), (9, 12, 2, 0), (17, 20, 2, 0)),
        (None, None, 1, 1),
    ]
    assert bins[2].accuracy == proportion(2, 2)


@pytest.mark.parametrize(("module", "name"), [("sklearn", "scikit-learn"), ("scipy", "scipy")])
def test_without_the_extra_one_line_says_what_to_install(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda found: None if found == module else find(found))
    with pytest.raises(CallError, match=rf"{name}, which is not installed: pip install 'prompt-packer\[quality\]'"):
        check_libraries()
    monkeypatch.setitem(sys.modules, module, None)  # the real one's word for what cannot be imported
    assert find(module) is None


# The lines


@settings(max_examples=30)
@given(
    pairs=st.lists(st.tuples(texts().filter(str.strip), texts().filter(str.strip)), min_size=1, max_size=30),
    width=st.integers(20, 200),
    as_record=st.booleans(),
)
def test_no_line_is_wider_than_asked_and_none_is_obeyed(pairs: Any, width: int, as_record: bool) -> None:
    from rich.cells import cell_len

    tally = Tally(1_000)
    for place, (gold, label) in enumerate(pairs):
        tally.add(gold, label, text=gold + label, places={"pack-size": place, "length": None})
    found = tally.figures()
    shown: Evaluation | RecordEvaluation = RecordEvaluation({pairs[0][0]: found, "x": found}) if as_record else found
    for line in write_evaluation(shown, {Status.FAILED: 3}, width=width):
        assert cell_len(line.text) <= max(width, 31)  # facts take 31 where nobody can have less
        assert show_text(line.text) == line.text.replace("\n", "") or "  " in line.text
        assert all(show_text(character) == character or character == " " for character in line.text)


def lines(pairs: Pairs, *, width: int = 80) -> list[str]:
    return [line.text for line in write_evaluation(evaluate(pairs), {}, width=width)]


def test_of_many_labels_the_worst_are_shown_and_how_many_are_not() -> None:
    names = [f"label_{number:02}" for number in range(77)]
    pairs: Pairs = [(name, name) for name in names for _ in range(5)]
    pairs += [(names[number], names[number + 1]) for number in range(10, 30)]
    shown = lines(pairs)
    assert not any(line.startswith("gold \\ label") for line in shown)
    table = shown[shown.index(next(line for line in shown if line.startswith("label "))) + 1 :]
    listed = [line.split()[0] for line in table[:12]]
    assert set(listed) <= set(names[10:31])
    assert table[12].startswith("and 65 labels more, with an f1-score from 0.")
    assert any(line.startswith("label_10 -> label_11") for line in shown)
    assert "and 12 pairs more, with at most 1 item" in shown


def test_a_matrix_is_shown_where_it_fits() -> None:
    pairs: Pairs = [(name, other) for name in "abcdefghij" for other in "abcdefghij"]
    assert any(line.startswith("gold \\ label") for line in lines(pairs, width=100))
    assert not any(line.startswith("gold \\ label") for line in lines(pairs, width=60))


def test_items_without_a_label_are_said_beside_the_accuracy() -> None:
    found = evaluate([("a", "a"), ("a", "a"), ("b", "a"), ("b", None), (None, "a"), (None, None)])
    shown = [line.text for line in write_evaluation(found, {Status.FAILED: 1, Status.PENDING: 1}, width=90)]
    assert shown[:4] == [
        "items      6: 4 labelled, 1 failed, 1 pending",
        "gold       4 items with it; 2 without are in no figure",
        f"accuracy   0.667 ({found.accuracy.low:.3f}-{found.accuracy.high:.3f}) of 3 items with a label and a gold one",
        "labelled   0.750 of the items with gold; the others counted as errors, accuracy is 0.500",
    ]


def test_no_figure_is_made_up_where_nothing_can_be_compared() -> None:
    shown = [line.text for line in write_evaluation(evaluate([("a", None), (None, "a")]), {Status.DOUBT: 1}, width=80)]
    assert shown[:3] == [
        "items      2: 1 labelled, 1 doubt",
        "gold       1 item with it; 1 without are in no figure",
        "accuracy   unknown: no item has both a label and a gold one",
    ]
