"""An evaluation as a person reads it: what is the figure, how sure is it, where are the errors. The worst come first.

Of many labels only the worst are shown, and how many are not; a matrix is shown where it fits the width. Precision,
recall, f1-score and support stand in scikit-learn's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from packer.evaluation import Bin, Confusion, Evaluation, LabelFigures, RecordEvaluation
from packer.intervals import Interval
from packer.items import Status
from packer.shown import count_of, cut_text, pad_text, show_text
from packer.summary import Line, write_facts

_LABELS = 12
_CONFUSIONS = 8
_TEXTS = 2
_NUMBERS = 2 * 18 + 10 + 9  # the width of a label's figures
_COUNT = 9
_CORNER = "gold \\ label"  # of the matrix


def write_evaluation(
    found: Evaluation | RecordEvaluation, unlabelled: Mapping[Status, int], *, width: int
) -> list[Line]:
    """The figures as lines of at most `width`; `unlabelled` counts the items without a label by their status."""
    return [Line(cut_text(line.text, width), line.style) for line in _write(found, unlabelled, width)]


def _write(found: Evaluation | RecordEvaluation, unlabelled: Mapping[Status, int], width: int) -> Iterator[Line]:
    if isinstance(found, Evaluation):
        yield from _write_one(found, unlabelled, width)
    else:
        for place, (field, figures) in enumerate(found.fields.items()):
            if place:
                yield Line("")
            yield Line(f"field {show_text(field)}", "bold")
            yield from _write_one(figures, unlabelled, width)
    yield Line("")
    note = "in brackets: where the true figure lies, with 95 % certainty, if items like these come again"
    yield from write_facts([("note", note, "")], width=width)


def _write_one(found: Evaluation, unlabelled: Mapping[Status, int], width: int) -> Iterator[Line]:
    yield from write_facts(_facts(found, unlabelled), width=width)
    if found.labels:
        yield Line("")
        yield from _write_labels(found.labels, width)
    matrix = list(_write_matrix(found, width))
    if matrix:
        yield Line("")
        yield from matrix
    if found.confusions:
        yield Line("")
        yield from _write_confusions(found, width)
    for name, bins in found.by.items():
        yield Line("")
        yield from _write_bins(name, bins)


def _facts(found: Evaluation, unlabelled: Mapping[Status, int]) -> Iterator[tuple[str, str, str]]:
    states = [(found.labelled, "labelled"), *((count, str(status)) for status, count in unlabelled.items())]
    listed = ", ".join(f"{count:,} {word}" for count, word in states if count)
    yield "items", f"{found.items:,}: {listed}", ""
    with_gold = found.items - found.without_gold
    if found.without_gold:
        yield "gold", f"{count_of(with_gold, 'item')} with it; {found.without_gold:,} without are in no figure", ""
    if found.accuracy.value is None:
        yield "accuracy", "unknown: no item has both a label and a gold one", "yellow"
        return
    what = f"of {count_of(found.compared, 'item')} with a label and a gold one"
    yield "accuracy", f"{_show(found.accuracy, 3)} {what}", "bold"
    if found.compared < with_gold:
        right = round(found.accuracy.value * found.compared)
        share, strict = found.compared / with_gold, right / with_gold
        words = f"{share:.3f} of the items with gold; the others counted as errors, accuracy is {strict:.3f}"
        yield "labelled", words, "yellow"
    if found.macro_f1 is not None:
        yield "macro F1", f"{found.macro_f1:.3f} over {count_of(len(found.labels), 'label')}", ""
    else:
        yield "macro F1", "none: the field has too many values for figures a value", ""


def _write_labels(labels: Sequence[LabelFigures], width: int) -> Iterator[Line]:
    shown = labels
    if len(labels) > _LABELS:
        shown = sorted(labels, key=lambda label: (label.f1, -label.support))[:_LABELS]
    room = _room([label.label for label in shown], width - _NUMBERS, least="label")
    yield Line(f"{'label':<{room}}  {'precision':<16}  {'recall':<16}  {'f1-score':>8}  {'support':>7}", "bold")
    for label in shown:
        figures = f"{_show(label.precision, 2):<16}  {_show(label.recall, 2):<16}  {label.f1:>8.2f}"
        yield Line(f"{pad_text(show_text(label.label), room)}  {figures}  {label.support:>7,}")
    if len(shown) < len(labels):
        least = min(label.f1 for label in labels if label not in shown)
        yield Line(
            f"and {count_of(len(labels) - len(shown), 'label')} more, with an f1-score from {least:.2f} up", "dim"
        )


def _write_matrix(found: Evaluation, width: int) -> Iterator[Line]:
    """The matrix with a row a gold label; nothing where it is too wide."""
    names = [show_text(label.label) for label in found.labels]
    room = _room(names, width // 3, least=_CORNER)
    longest = max((count for row in found.confusion for count in row), default=0)
    cell = max(len(f"{longest:,}"), *(min(len(name), 12) for name in names), 5) + 2 if names else 0
    if not names or room + cell * len(names) > width:
        return
    yield Line(f"{_CORNER:<{room}}" + "".join(f"  {_right(name, cell - 2)}" for name in names), "bold")
    for name, row in zip(names, found.confusion, strict=True):
        counts = "".join(f"{f'{count:,}' if count else '.':>{cell}}" for count in row)
        yield Line(f"{pad_text(name, room)}{counts}")


def _write_confusions(found: Evaluation, width: int) -> Iterator[Line]:
    support = {label.label: label.support for label in found.labels}
    shown = found.confusions[:_CONFUSIONS]
    room = _room([_pair(pair) for pair in shown], width - _COUNT - 11, least="gold -> label")
    yield Line(f"{'gold -> label':<{room}}{'items':>{_COUNT}}  of gold", "bold")
    for pair in shown:
        share = pair.count / support[pair.gold]
        yield Line(f"{pad_text(_pair(pair), room)}{pair.count:>{_COUNT},}{share:>9.2f}")
        for text in pair.texts[:_TEXTS]:
            yield Line(f"    {show_text(text)}", "dim")
    if len(shown) < len(found.confusions):
        rest = found.confusions[len(shown) :]
        yield Line(f"and {count_of(len(rest), 'pair')} more, with at most {count_of(rest[0].count, 'item')}", "dim")


def _pair(pair: Confusion) -> str:
    return f"{show_text(pair.gold)} -> {show_text(pair.label)}"


def _write_bins(name: str, bins: Sequence[Bin]) -> Iterator[Line]:
    head = {"length": "characters", "position": "position in the pack", "pack-size": "items in the pack"}[name]
    yield Line(f"{head:<20}{'items':>{_COUNT}}{'errors':>{_COUNT}}  accuracy", "bold")
    for found in bins:
        where = "unknown" if found.least is None else f"{found.least:,}"
        where += f" to {found.most:,}" if found.most != found.least else ""
        yield Line(f"{where:<20}{found.items:>{_COUNT},}{found.errors:>{_COUNT},}  {_show(found.accuracy, 2)}")


def _show(interval: Interval | None, digits: int) -> str:
    if interval is None or interval.value is None:
        return "-"
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f}-{interval.high:.{digits}f})"


def _room(names: Sequence[str], most: int, *, least: str) -> int:
    from rich.cells import cell_len  # noqa: PLC0415  a bad call does not wait for rich

    longest = max((cell_len(show_text(name)) for name in names), default=0)
    return max(len(least), min(longest, most))


def _right(name: str, width: int) -> str:
    return " " * (width - len(pad_text(name, width).rstrip())) + pad_text(name, width).rstrip()
