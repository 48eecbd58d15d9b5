"""A task whose right labels a test knows: whether a text has an even number of characters, or an odd one."""

from collections.abc import Sequence
from typing import Any

from packer.task import Task

TASK = Task(["even", "odd"])


def parity(text: str) -> str:
    """The right label."""
    return "even" if len(text) % 2 == 0 else "odd"


def right(texts: Sequence[str], labels: Any) -> list[str]:
    """The right labels of a pack."""
    return [parity(text) for text in texts]


def texts(count: int) -> list[str]:
    """Distinct texts of both labels."""
    return [f"text {'x' * (number % 7)} {number}" for number in range(count)]
