"""One line says what is wrong with a command line, and never echoes what may be a key: the parser, and who reads words.

Nothing slow is imported.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from packer.errors import CallError
from packer.items import MAX_ITEMS_CEILING, MOST_IN_FLIGHT
from packer.votes import MOST_VOTES

PROGRAM = "prompt-packer"
COMMANDS = "label, plan, models, calibrate, evaluate, report, dashboard or ledger"
SHAPES = ("line", "pair", "object")


class Parser(argparse.ArgumentParser):
    """argparse, but for its errors: one line, and no echo of what may be a key."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it; what is unknown is an error here."""
        self._given = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # told here: the parser of the whole command does not know this one's options
            self.error(f"unrecognized arguments: {len(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Raise `CallError`, in words that name the command and what was wanted."""
        unknown = self._find_unknown()
        words = unknown or _reword(message)
        where = self.prog.removeprefix(PROGRAM).strip()
        raise CallError(f"{where}: {words}" if where else words)

    def _find_unknown(self) -> str:
        """The first option that does not exist; what argparse misses because of it is no news."""
        known = self._option_string_actions
        for word in self._given:
            if word == "--":
                break
            name = word.split("=", 1)[0]
            if name.startswith("-") and name != "-" and name not in known and not re.match(r"-[.\d]", name):
                if not name.startswith("--") and name[:2] in known:
                    continue
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help"
                return f"unknown option {name[:40]}{hint}"
        return ""


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size((80, 24)).columns, 100) - 1
        super().__init__(prog, max_help_position=26, width=width)


def _reword(message: str) -> str:
    message = re.sub(r"^argument ([^:]+): ", r"\1: ", message)
    found = re.search(r"^(.*?)invalid choice: (.*) \(choose from (.*)\)$", message, re.DOTALL)
    if found:
        *choices, last = found[3].replace("'", "").split(", ")
        return f"{found[1]}expected {', '.join(choices)} or {last}, got {found[2]}"
    message = message.replace("expected one argument", "expected a value")
    message = message.replace("the following arguments are required: COMMAND", f"expected a command: {COMMANDS}")
    message = message.replace("the following arguments are required: ", "missing: ")
    message = re.sub(r"^one of the arguments (.*) (\S+) is required$", r"missing: \1 or \2", message)
    # what is too much may be a key that was meant for another place
    return "expected one INPUT, got more" if message.startswith("unrecognized arguments") else message


def read_labels(given: str) -> list[str]:
    """Labels, separated by commas."""
    return [label.strip() for label in given.split(",")]


def read_models(given: str) -> list[str]:
    """Names of models, each once."""
    names = list(dict.fromkeys(name.strip() for name in given.split(",")))
    if all(name and name.isprintable() for name in names):
        return names
    raise argparse.ArgumentTypeError("expected names of models, separated by commas")


def read_shapes(given: str) -> list[str]:
    """Shapes of an answer, each once."""
    return list(dict.fromkeys(one_of(*SHAPES)(name.strip()) for name in given.split(",")))


def read_sizes(given: str) -> tuple[int, ...]:
    """Sizes of packs, from small to large, each once."""
    return tuple(sorted({whole(1, MAX_ITEMS_CEILING)(size.strip()) for size in given.split(",")}))


def whole(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`."""

    def read(given: str) -> int:
        if re.fullmatch(r"\d{1,19}", given, re.ASCII) and least <= int(given) <= most:
            return int(given)
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {given!r}")

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """A reader of one of `words`."""

    def read(given: str) -> str:
        if given in words:
            return given
        raise argparse.ArgumentTypeError(f"expected {', '.join(words[:-1])} or {words[-1]}, got {given!r}")

    return read


def read_concurrency(given: str) -> int | None:
    """Requests in flight; None for `auto`."""
    if given == "auto":
        return None
    try:
        return whole(1, MOST_IN_FLIGHT)(given)
    except argparse.ArgumentTypeError:
        message = f"expected auto or a whole number from 1 to {MOST_IN_FLIGHT}, got {given!r}"
        raise argparse.ArgumentTypeError(message) from None


def read_header(given: str) -> str:
    """A header's name."""
    if re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", given):  # RFC 9110, a token
        return given
    raise argparse.ArgumentTypeError(f"expected the name of a header, like X-Cost-USD, got {given[:40]!r}")


def _read_amount(given: str) -> Decimal:
    try:
        return Decimal(given) if given.isascii() else Decimal("NaN")
    except InvalidOperation:
        return Decimal("NaN")


def read_usd(given: str) -> Decimal:
    """An amount above 0."""
    amount = _read_amount(given)
    if amount.is_finite() and Decimal("1e-9") <= amount <= 1_000_000:
        return amount
    raise argparse.ArgumentTypeError(f"expected US dollars above 0, like 2.50, got {given!r}")


def read_votes(given: str) -> int:
    """The most votes that an item gets."""
    return int(one_of(*map(str, MOST_VOTES))(given))


def read_target(given: str) -> float:
    """A share that is less than all."""
    share = _read_amount(given)
    if share.is_finite() and 0 < share < 1:
        return float(share)
    raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, like 0.95, got {given!r}")


def read_share(given: str) -> float:
    """A share from what was typed."""
    share = _read_amount(given)
    if share.is_finite() and 0 < share <= 1:
        return float(share)
    raise argparse.ArgumentTypeError(f"expected a share above 0, and 1 at most, like 0.01, got {given!r}")


def read_price(given: str) -> Decimal:
    """A price: 0 is one."""
    amount = _read_amount(given)
    if amount.is_finite() and 0 <= amount <= 1_000_000:
        return amount
    raise argparse.ArgumentTypeError(f"expected US dollars per million tokens, like 0.15, got {given!r}")
