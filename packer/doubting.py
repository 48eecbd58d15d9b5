"""What the command does about doubtful labels: whom it asks, from which sample it learns, and what it says of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from packer.cascade import SAMPLE, Threshold, count_needed
from packer.errors import CallError, InputError
from packer.items import normalise_text
from packer.order import Order
from packer.sampling import draw_sample
from packer.tables import Reader, Row, is_streamed
from packer.usage import Price
from packer.votes import BELOW

if TYPE_CHECKING:
    from packer.options import Doubt
    from packer.transport import Transport


def with_doubt(order: Order, options: argparse.Namespace) -> Order:
    """`order` with what `options` say of doubtful labels. Raises `CallError` where that makes no sense together."""
    is_asked = options.vote is not None or options.escalate is not None
    prices = (options.escalate_price_input, options.escalate_price_output)
    if options.doubtful_below is not None and (not is_asked or options.target_accuracy is not None):
        raise CallError("--doubtful-below: expected --vote or --escalate too, and no --target-accuracy")
    if any(price is not None for price in prices) and (options.escalate is None or None in prices):
        raise CallError("--escalate-price-input and --escalate-price-output: expected both, and --escalate")
    if options.vote is not None and order.limits.max_items == 1:
        raise CallError("--vote: expected packs of more than one item, for a single asked again is the same question")
    if options.escalate == order.model:
        raise CallError(f"--escalate: expected another model than {order.model}")
    if options.target_accuracy is None:
        if options.gold is not None or options.sample is not None:
            raise CallError("--gold and --sample: expected --target-accuracy too")
    elif options.escalate is None or options.vote is not None:
        raise CallError("--target-accuracy: expected --escalate MODEL, and no --vote")
    elif is_streamed(order.input):
        raise CallError("--target-accuracy: expected a file, for a sample of it is asked first")
    return replace(
        order,
        vote=options.vote,
        doubtful_below=options.doubtful_below or BELOW,
        escalate=options.escalate,
        escalate_price=None if None in prices else Price(*prices),
        target_accuracy=options.target_accuracy,
        gold=options.gold,
        sample=options.sample or SAMPLE,
    )


def make_doubt(order: Order, connect: Callable[..., Transport], **about: Any) -> Doubt | None:
    """What a runner is to do for `order`, None where nothing is doubted; `about` is what `connect` is told besides.

    Raises `CallError`.
    """
    from packer.connections import shares_key  # noqa: PLC0415  slow
    from packer.options import Doubt  # noqa: PLC0415  slow

    if order.vote is None and order.escalate is None:
        return None
    transport = None
    if order.escalate is not None:
        keys = {"api_key_env": order.api_key_env, "api_key_file": order.api_key_file}
        if not shares_key(order.base_url, order.model, order.escalate):
            keys = {}  # it was meant for another host
        transport = connect(order.escalate, base_url=order.base_url, **keys, **about)
    return Doubt(
        vote=order.vote,
        below=order.doubtful_below,
        escalate=order.escalate,
        transport=transport,
        price=order.escalate_price,
        target=order.target_accuracy,
    )


def read_sample(order: Order) -> tuple[tuple[str, ...], Mapping[str, str] | None]:
    """Texts of the input, drawn at random, and their gold labels, None where no column has them.

    Raises `CallError`, also where they are too few to tell anything.
    """
    assert order.target_accuracy is not None, "it is what a sample is for"
    gold = order.gold
    with Reader(order.input, text=order.text, encoding=order.encoding) as reader:
        rows: Iterator[tuple[str, str | None]] = ((row.text, None) for row in reader)
        if gold is not None:
            if not order.task.labels:
                raise CallError("--gold: expected a task with labels, not with a record")
            reader.check_column(gold)
            place = reader.columns.index(gold)
            rows = ((row.text, label) for row in reader if (label := _label_of(order, row, gold, place)) is not None)
        sample = draw_sample(rows, size=order.sample, seed=order.seed)
    needed, there = count_needed(order.target_accuracy), len(sample.texts)
    if there < needed:
        what = "different texts" if gold is None else "different texts with a gold label"
        raise CallError(
            f"--target-accuracy {order.target_accuracy:g}: not enough items to tell: expected a sample of {needed:,} "
            f"{what} at the least, got {there:,}"
        )
    return sample.texts, None if gold is None else dict(zip(sample.texts, map(str, sample.extras), strict=True))


def _label_of(order: Order, row: Row, column: str, place: int) -> str | None:
    given = row.cell(column, place)
    if given is None or not str(given).strip() or not normalise_text(row.text):
        return None
    label = order.task.match_label(str(given).strip())
    if label is None:
        message = f"expected one of the task's labels in {column!r}, got {str(given)[:40]!r}"
        raise InputError(f"{order.input}: line {row.line}: {message}", line=row.line)
    return label


def describe_threshold(found: Threshold, *, gold: bool) -> str:
    """What came of the sample, for somebody who knows nothing of statistics."""
    promise = f"{100 * found.target:.4g} %"
    judge = "gold" if gold else "the stronger model"
    sure = f"{100 * (1 - found.delta):.3g} % sure"
    tried = f"a sample of {found.items:,} texts"
    if found.items < found.needed:
        return (
            f"{tried} is not enough to tell: for {promise}, {found.needed:,} are needed at the least; "
            "everything goes to the stronger model"
        )
    most = f"at most {100 * found.bound:.1f} % of all labels differ from {judge} ({sure})"
    if not found.certified:
        return (
            f"in {tried}, {found.errors:,} labels of the stronger model itself differ from gold, so that {promise} "
            "cannot be promised; everything goes to it"
        )
    if not found.kept:
        return (
            f"in {tried}, no confidence is enough to keep {promise} of the labels right: all go to the stronger model"
        )
    share = f"{100 * found.kept / found.items:.0f} % of {tried}"
    return f"answers with a confidence of {found.below:.6g} or more are kept, like those to {share}: {most}"


def price_of(order: Order) -> Price | None:
    """The stronger model's price, None where it is unknown."""
    from packer.pricing import find_price  # noqa: PLC0415  slow

    assert order.escalate is not None, "there is one"
    return order.escalate_price or find_price(order.escalate)
