"""Examples are drawn from a labelled table by its texts, its labels and a seed, and by nothing else.

So they are the same in every request of a job and in every run of it, whatever the input is and in whatever order the
table stands: a prompt's beginning that changed would be another question, and every answer would be bought again. That
is also why a text of the input may be an example: it is labelled like all others, and its answer stands in the prompt.

Each label gets as many examples as the next one, as far as the table goes. A draw is the texts with the least digests
under the seed: fair, without memory of the whole table, and the same for a table with a row more but for that row.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping

from packer.errors import CallError, InputError
from packer.items import normalise_text
from packer.prompts import quote
from packer.shown import count_of
from packer.tables import Reader, Row, is_streamed
from packer.task import Example, Task
from packer.tokens import count_tokens

LABEL_COLUMNS = ("label", "gold")  # the first that the table has
PER_LABEL = 2
LONGEST = 300  # characters of an example: what is paid for in each request is to be short
MOST_TOKENS = 4_000  # of all that is drawn: as long as a pack or two
_SPARE = 4  # times as many are kept as are wanted, for those that turn out to have two labels


def draw_examples(
    path: str, task: Task, *, text: str, encoding: str = "utf-8", per_label: int = PER_LABEL, seed: int = 0
) -> tuple[Example, ...]:
    """At most `per_label` examples of each label of `task`, drawn from the table at `path`, in rounds of one a label.

    `text` names the column of the texts; the labels stand in the column `label`, else `gold`. Left out are rows without
    a text or a label, texts of more than 300 characters, those that stand in the table with two labels, and those that
    are examples or canaries of the task already. There are fewer rounds where all would take more than 4,000 tokens.

    Raises `CallError`, and `InputError` with the line of a label that the task does not have.
    """
    if task.record_schema is not None:
        raise CallError("--examples: expected a task with labels; the examples of records belong into the task file")
    if is_streamed(path):
        raise CallError(f"{path}: expected a file: examples are read twice")
    taken = {normalise_text(example.text) for example in (*task.examples, *task.canaries)}
    pools: dict[str, dict[str, bytes]] = {label: {} for label in task.labels}
    for own, label in _read(path, task, text=text, encoding=encoding):
        if own in taken or len(own) > LONGEST or own in pools[label]:
            continue
        pool = pools[label]
        pool[own] = hashlib.blake2b(own.encode("utf-8", "surrogatepass"), key=str(seed).encode()).digest()
        if len(pool) > _SPARE * per_label:
            del pool[max(pool, key=pool.__getitem__)]
    # once more: the row that contradicts may be one that was not kept
    for own, label in _read(path, task, text=text, encoding=encoding):
        if any(own in pool and other != label for other, pool in pools.items()):
            for pool in pools.values():
                pool.pop(own, None)
    examples = [example for found in _fit(pools, per_label) for example in found]
    if not examples:
        raise CallError(
            f"{path}: no row can be an example: expected texts of at most {LONGEST} characters, each with one label"
        )
    return tuple(examples)


def describe_examples(task: Task) -> str:
    """How many examples `task` has of each label, in words."""
    counts = Counter(str(example.answer) for example in task.examples)
    most = max(counts.values())
    fewer = [label for label in task.labels if counts[label] < most]
    shown = ", ".join(map(repr, fewer[:3])) + (f" and {len(fewer) - 3} more" if len(fewer) > 3 else "")
    return f"{count_of(len(task.examples), 'example')}, {most} a label" + (f"; fewer for {shown}" if fewer else "")


def _fit(pools: Mapping[str, Mapping[str, bytes]], per_label: int) -> Iterator[list[Example]]:
    """Rounds of one example a label, as many as fit. Raises `CallError` where the first does not."""
    ordered = {label: sorted(pool, key=pool.__getitem__) for label, pool in pools.items()}
    room = MOST_TOKENS
    for number in range(per_label):
        # by their digests: an example's place says nothing of its label
        found = [
            (pools[label][texts[number]], texts[number], label)
            for label, texts in ordered.items()
            if number < len(texts)
        ]
        examples = [Example(own, label) for _, own, label in sorted(found)]
        tokens = sum(count_tokens([f"{quote(example.text)} -> {example.answer}\n" for example in examples]))
        room -= tokens
        if room < 0:
            if not number:
                raise CallError(
                    f"--examples: one for each of {len(found)} labels takes {tokens:,} tokens in every request, and "
                    f"{MOST_TOKENS:,} is the most; expected shorter texts, or examples in the task file"
                )
            return
        yield examples


def _read(path: str, task: Task, *, text: str, encoding: str) -> Iterator[tuple[str, str]]:
    """The normalised texts of a table with their labels in the task's spelling."""
    with Reader(path, text=text, encoding=encoding) as reader:
        column = next((name for name in LABEL_COLUMNS if name in reader.columns), None)
        if column is None:
            raise InputError(f"{path}: no column {' or '.join(map(repr, LABEL_COLUMNS))}")
        if reader.columns.count(column) > 1:
            raise InputError(f"{path}: two columns are named {column!r}; expected one")
        place = reader.columns.index(column)
        for row in reader:
            own, given = normalise_text(row.text), _label_of(row, column, place)
            if own and given is not None and given != "":
                # normalising takes quadratic time
                is_short = isinstance(given, str) and (given in task.labels or len(given) <= LONGEST)
                label = task.match_label(str(given)) if is_short else None
                if label is None:
                    known = ", ".join(list(task.labels)[:8]) + (", ..." if len(task.labels) > 8 else "")
                    message = f"expected one of the labels ({known}), got {given!r}"[:300]
                    raise InputError(f"{path}: line {row.line}: {message}", line=row.line)
                yield own, label


def _label_of(row: Row, column: str, place: int) -> object:
    given = row.cell(column, place)
    return given.strip() if isinstance(given, str) else given
