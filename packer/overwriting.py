"""What a job reads and what it keeps is written over by nothing that it writes, under whatever name."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from packer.errors import CallError
from packer.order import Order
from packer.report import check_report_paths


def refuse_overwriting(order: Order) -> None:
    """Raise `CallError` where an output of `order` is a file that it reads, its ledger, or another output."""
    if sys.stdout is None and (order.table or order.output in {None, "-"}):
        raise CallError("standard output is closed; expected --output FILE")
    if order.table and order.output == "-":
        raise CallError("--table: the rows go to standard output already (--output -); expected one of the two")
    read = {"input": order.input, "task file": order.task_file, "key file": order.api_key_file}
    read["examples"] = order.examples
    reports = [] if order.report is None else [str(path) for path in check_report_paths(order.report) if path]
    for path, name in ((order.output or "-", "output"), *((path, "report") for path in reports)):
        written = _identity(path, 1)
        for what, source in read.items():
            if written is not None and source is not None and written == _identity(source, 0):
                shown = path if order.output is not None or name == "report" else "standard output"
                raise CallError(f"{shown}: the {name} is the {what}; expected another file")
    taken = {os.path.realpath(order.ledger): "ledger"}
    for place, name in ((order.output, "output"), *((path, "report") for path in reports)):
        if place is None or place == "-":
            continue
        other = taken.setdefault(os.path.realpath(place), name)
        if other != name:
            raise CallError(f"{place}: the {name} is the {other}; expected another file")


def refuse_same(path: str | None, others: Iterable[tuple[str | None, str]], option: str) -> None:
    """Raise `CallError` where `path`, which `option` is to write, is one of the `others` by whatever name."""
    for other, name in others:
        if path is not None and other is not None and os.path.realpath(other) == os.path.realpath(path):
            raise CallError(f"{option} {path}: this is the {name}; expected another file")


def _identity(path: str, descriptor: int) -> tuple[int, int] | None:
    """What a regular file is, under whatever name; None for anything else."""
    try:
        found = os.fstat(descriptor) if path == "-" else Path(path).stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None
