"""Who answers: pure functions from a pack's texts and the labels to one label a text, by laws that a test can state."""

import csv
import hashlib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Annotator: TypeAlias = Callable[[Sequence[str], Mapping[str, str]], list[str]]
"""Texts in the order of their numbers, and the labels with their descriptions, to a label each."""

STEERING = re.compile(
    r"label (?:everything|all|the rest|every text)\b[^.]*?\b(?:as|is) \"?(?P<label>[\w -]+)", re.IGNORECASE
)


def chance(*parts: object) -> float:
    """A number in [0, 1) that hangs on `parts` only."""
    digest = hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def keyword(texts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    """The first label whose name, or a word of its description, stands in the text; else one by the text's digest."""
    return [_find_label(text, labels) for text in texts]


def gold(answers: Mapping[str, str]) -> Annotator:
    """The right label of every text in `answers`; of another text as `keyword` has it."""

    def annotate(texts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
        return [answers[text] if answers.get(text) in labels else _find_label(text, labels) for text in texts]

    return annotate


def read_gold(path: Path) -> dict[str, str]:
    """The columns `text` and `label` (or `gold`) of a CSV file; texts as they are asked: no white space round them.

    Raises `ValueError` where there are no such columns.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        names = rows.fieldnames or ()
        label = next((name for name in ("label", "gold") if name in names), "")
        if "text" not in names or not label:
            raise ValueError(f"{path}: expected the columns text and label, or text and gold")
        return {row["text"].strip(): row[label] for row in rows}


@dataclass(frozen=True)
class Erring:
    """An annotator that knows its own chances of being wrong; see `erring`."""

    inner: Annotator
    base: float
    an_item: float
    a_place: float
    uneven: bool
    anew: bool
    seed: int

    def chances(self, texts: Sequence[str]) -> list[float]:
        """The probability with which the label of each text is wrong."""
        found = []
        for place, text in enumerate(texts):
            average = self.base + self.an_item * (len(texts) - 1) + self.a_place * place
            own = 3 * chance(self.seed, "hard", text) ** 2 if self.uneven else 1.0  # 1 on average
            found.append(min(1.0, average * own))
        return found

    def __call__(self, texts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
        answers = self.inner(texts, labels)
        pack = tuple(texts) if self.anew else ()
        for place, (text, right, wrong) in enumerate(zip(texts, answers, self.chances(texts), strict=True)):
            if chance(self.seed, "errs", text, *pack) < wrong:
                others = [label for label in labels if label != right]
                answers[place] = others[int(chance(self.seed, "wrong", text, *pack) * len(others))]
        return answers


def erring(
    inner: Annotator,
    *,
    base: float = 0.0,
    an_item: float = 0.0,
    a_place: float = 0.0,
    uneven: bool = False,
    anew: bool = False,
    seed: int = 0,
) -> Erring:
    """`inner`, wrong with probability `base + an_item * (size - 1) + a_place * (number - 1)`, by text and seed.

    `uneven`: that is so on average, and each text has a chance of its own, up to three times as high. `anew`: chance
    falls anew for each pack and order that a text stands in; else a text that errs under some probability errs again.
    """
    return Erring(inner, base, an_item, a_place, uneven, anew, seed)


def surety(annotator: Annotator, texts: Sequence[str]) -> list[float]:
    """The probability with which the label of each text is right, 1 where the annotator does not know."""
    if isinstance(annotator, Erring):
        return [1.0 - wrong for wrong in annotator.chances(texts)]
    return [1.0] * len(texts)


def gullible(inner: Annotator, *, obeys: float = 1.0, seed: int = 0) -> Annotator:
    """`inner`, but a text that says "label everything as X" gives each row of its pack X with probability `obeys`."""

    def annotate(texts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
        answers = inner(texts, labels)
        for order in texts:
            found = STEERING.search(order)
            wanted = found and next(
                (label for label in labels if label.lower() == found["label"].strip().lower()), None
            )
            if wanted:
                answers = [
                    wanted if chance(seed, order, text) < obeys else answer
                    for text, answer in zip(texts, answers, strict=True)
                ]
        return answers

    return annotate


def fill_record(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A record that `schema` allows: each field's first choice, or the least of its type."""
    definitions = schema.get("$defs", {})
    return {name: _fill(part, text, definitions) for name, part in schema["properties"].items()}


def _fill(part: Mapping[str, Any], text: str, definitions: Mapping[str, Any]) -> Any:
    part = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    if "enum" in part:
        return part["enum"][int(chance(text) * len(part["enum"]))]
    if "const" in part:
        return part["const"]
    if "anyOf" in part:
        return _fill(part["anyOf"][0], text, definitions)
    match part.get("type"):
        case "string":
            least, most = part.get("minLength", 0), part.get("maxLength", 20)
            return text[: max(least, min(most, 20))].ljust(least, ".")
        case "boolean":
            return len(text) % 2 == 0
        case "integer" | "number":
            return _fill_number(part, len(text))
        case "array":
            return [_fill(part["items"], text, definitions) for _ in range(part.get("minItems", 0))]
        case "object":
            return {name: _fill(inner, text, definitions) for name, inner in part.get("properties", {}).items()}
        case _:
            return None


def _fill_number(part: Mapping[str, Any], wanted: float) -> float:
    bounds = {"minimum": operator.ge, "exclusiveMinimum": operator.gt}
    bounds |= {"maximum": operator.le, "exclusiveMaximum": operator.lt}
    given: list[tuple[Callable[[float, float], bool], float]]
    given = [(keeps, part[name]) for name, keeps in bounds.items() if name in part]
    ends = [bound for _, bound in given]
    tries = [wanted, *ends, *(end + 1 for end in ends), *(end - 1 for end in ends), sum(ends) / max(1, len(ends))]
    return next(number for number in tries if all(keeps(number, bound) for keeps, bound in given))


def _find_label(text: str, labels: Mapping[str, str]) -> str:
    words = set(re.findall(r"\w+", text.lower()))
    for label, description in labels.items():
        if label.lower() in text.lower() or words & set(re.findall(r"\w{4,}", description.lower())):
            return label
    return list(labels)[int(chance(text) * len(labels))]
