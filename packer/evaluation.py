"""Gold labels against given ones: counts in, figures out. An item counts in the figures once, or in none.

Compared are the items that have both a gold label and a given one; those without either are counted, and no figure is
about them. Names and figures are scikit-learn's, and it computes them from counted pairs, so that memory grows with the
labels and not with the items. The order of the items changes nothing.

Each share comes with its interval (`intervals.py`, 95 %, two-sided), which takes items for independent: texts that
come again narrow it more than they should.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

from packer.extras import check_extra
from packer.intervals import Interval, proportion
from packer.task import fold_label

_MOST_CONFUSIONS = 1_000
_MOST_PAIRS = 10_000  # of labels that keep example texts
_TEXTS = 3
_TEXT_LENGTH = 200  # characters
_fold = lru_cache(4_096)(fold_label)


@dataclass(frozen=True, slots=True)
class Bin:
    """The compared items whose place or length is from `least` to `most`, both as they were seen; None: unknown."""

    least: int | None
    most: int | None
    items: int
    errors: int
    accuracy: Interval


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """One label: of `support` items it is the gold label, to `predicted` items it was given.

    `precision` is None for a label that was never given, `recall` for one that is nowhere gold; `f1` is 0 for both.
    """

    label: str
    support: int
    predicted: int
    precision: Interval | None
    recall: Interval | None
    f1: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """`count` items whose gold label is `gold` were given `label`; `texts` are a few, cut to 200 characters."""

    gold: str
    label: str
    count: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one label.

    Of `items`, `labelled` were given a label, `without_gold` have no gold label, and `compared` have both. `accuracy`
    is over the compared ones; `macro_f1` is None without any. `confusion` has a row a gold label and a column a given
    one, in the order of `labels`, which is that of their names. `confusions` are the pairs of two labels that were
    confused, the most frequent first, at most 1,000. Labels, confusion and macro F1 are left out (empty, None) where a
    record's field has more than a hundred values. `by` has the errors by what was asked for.
    """

    items: int
    labelled: int
    without_gold: int
    compared: int
    accuracy: Interval
    macro_f1: float | None
    labels: tuple[LabelFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    confusions: tuple[Confusion, ...]
    by: Mapping[str, tuple[Bin, ...]]


@dataclass(frozen=True, slots=True)
class RecordEvaluation:
    """An evaluation a field of the record."""

    fields: Mapping[str, Evaluation]


@dataclass(slots=True)
class _Count:
    items: int = 0
    errors: int = 0
    least: int | None = None
    most: int | None = None


@dataclass(slots=True)
class Tally:
    """Counts of gold labels against given ones, item by item.

    Labels are equal where a task's are (`fold_label`), and are shown as they were given, else as gold has them. With
    more than `most_labels` of them only what needs no labels is counted on, and `is_too_many` tells so.
    """

    most_labels: int
    items: int = 0
    labelled: int = 0
    without_gold: int = 0
    compared: int = 0
    errors: int = 0
    is_too_many: bool = False
    _pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    _spelled: dict[str, tuple[bool, str]] = field(default_factory=dict)
    _texts: dict[tuple[str, str], list[tuple[int, str]]] = field(default_factory=dict)
    _by: dict[str, dict[int, _Count]] = field(default_factory=dict)

    def add(
        self, gold: str | None, given: str | None, *, text: str = "", places: Mapping[str, int | None] | None = None
    ) -> None:
        """Count one item; None for a label that is not there. `places` has a number, None where it is unknown."""
        self.items += 1
        self.labelled += given is not None
        self.without_gold += gold is None
        if gold is None or given is None:
            return
        pair = _fold(gold), _fold(given)
        is_error = pair[0] != pair[1]
        self.compared += 1
        self.errors += is_error
        for name, place in (places or {}).items():
            _count_place(self._by.setdefault(name, {}), place, is_error=is_error)
        if self.is_too_many:
            return
        self._pairs[pair] += 1
        for folded, spelling in zip(pair, ((True, gold.strip()), (False, given.strip())), strict=True):
            self._spelled[folded] = min(spelling, self._spelled.get(folded, spelling))
        if len(self._spelled) > self.most_labels:
            self.is_too_many = True
            for kept in (self._pairs, self._spelled, self._texts):
                kept.clear()
        elif text and is_error:
            self._keep_text(pair, text)

    def figures(self) -> Evaluation:
        """The figures of all that was counted. Raises `CallError` where the extra `quality` is missing."""
        names = sorted(self._spelled, key=lambda folded: (self._spelled[folded][1], folded))
        labels, matrix, macro = _score(self._pairs, names) if names else ([], [], None)
        return Evaluation(
            items=self.items,
            labelled=self.labelled,
            without_gold=self.without_gold,
            compared=self.compared,
            accuracy=proportion(self.compared - self.errors, self.compared),
            macro_f1=macro,
            labels=tuple(
                LabelFigures(self._spelled[name][1], *figures) for name, figures in zip(names, labels, strict=True)
            ),
            confusion=tuple(tuple(row) for row in matrix),
            confusions=tuple(islice(self._confusions(), _MOST_CONFUSIONS)),
            by={name: tuple(_bins(counts)) for name, counts in self._by.items()},
        )

    def _keep_text(self, pair: tuple[str, str], text: str) -> None:
        """Keep the texts with the smallest digests: a sample that no order and no repetition of the items changes."""
        if pair not in self._texts and len(self._texts) >= _MOST_PAIRS:
            return
        kept = self._texts.setdefault(pair, [])
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        entry = (-int.from_bytes(digest, "big"), text[:_TEXT_LENGTH])
        if entry in kept:
            return
        if len(kept) < _TEXTS:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)

    def _confusions(self) -> Iterator[Confusion]:
        wrong = [(pair, count) for pair, count in self._pairs.items() if pair[0] != pair[1]]
        for pair, count in sorted(wrong, key=lambda found: (-found[1], found[0])):
            texts = tuple(text for _, text in sorted(self._texts.get(pair, []), reverse=True))
            gold, given = (self._spelled[name][1] for name in pair)
            yield Confusion(gold, given, count, texts)


def check_libraries() -> None:
    """Raise `CallError` where what computes the figures is not installed: before a long table is read for nothing."""
    check_extra("quality", {"sklearn": "scikit-learn", "scipy": "scipy"}, needed_by="evaluate")


def _count_place(counts: dict[int, _Count], place: int | None, *, is_error: bool) -> None:
    # 1, 2, 3 to 4, 5 to 8, ...: many items in each, and not many of them, whatever is counted
    count = counts.setdefault(-1 if place is None else (max(place, 1) - 1).bit_length(), _Count())
    count.items += 1
    count.errors += is_error
    if place is not None:
        count.least = place if count.least is None else min(count.least, place)
        count.most = place if count.most is None else max(count.most, place)


def _bins(counts: Mapping[int, _Count]) -> Iterator[Bin]:
    for place in sorted(counts, key=lambda place: (place < 0, place)):  # the unknown ones last
        count = counts[place]
        accuracy = proportion(count.items - count.errors, count.items)
        yield Bin(count.least, count.most, count.items, count.errors, accuracy)


_Figures = tuple[int, int, Interval | None, Interval | None, float]


def _score(pairs: Mapping[tuple[str, str], int], names: Sequence[str]) -> tuple[list[_Figures], list[list[int]], float]:
    """Figures a label, the matrix, and the macro average of F1, over the labels that are gold or were given."""
    from sklearn import metrics  # noqa: PLC0415  2 s, and it may be absent

    number = {name: place for place, name in enumerate(names)}
    matrix = [[0] * len(names) for _ in names]
    for (gold, given), count in pairs.items():
        matrix[number[gold]][number[given]] = count
    cells = {
        "y_true": [number[gold] for gold, _ in pairs],
        "y_pred": [number[given] for _, given in pairs],
        "sample_weight": list(pairs.values()),
    }
    # an undefined precision or recall is nan here, and None in the figures: their F1 is 0 all the same
    _, _, f1, _ = metrics.precision_recall_fscore_support(**cells, zero_division=float("nan"))
    figures: list[_Figures] = []
    for place in range(len(names)):
        hits, support, predicted = matrix[place][place], sum(matrix[place]), sum(row[place] for row in matrix)
        precision = proportion(hits, predicted) if predicted else None
        recall = proportion(hits, support) if support else None
        figures.append((support, predicted, precision, recall, float(f1[place])))
    return figures, matrix, float(metrics.f1_score(**cells, average="macro"))
