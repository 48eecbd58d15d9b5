"""The public names, and nothing else: each is imported when it is first used, so that the command starts at once."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packer.errors import (
        CallError,
        InputError,
        LedgerError,
        PackerError,
        PriceError,
        StoppedError,
        TaskError,
    )
    from packer.events import Event, Statistics
    from packer.frames import label_frame
    from packer.items import Decision, Item, Result, Status
    from packer.options import Doubt
    from packer.packs import PackLimits
    from packer.results import Results
    from packer.runner import Runner
    from packer.sync import label
    from packer.task import AnswerShape, Example, Task, read_task
    from packer.usage import Price, Usage

__version__ = "0.1.0"

__all__ = [
    "AnswerShape",
    "CallError",
    "Decision",
    "Doubt",
    "Event",
    "Example",
    "InputError",
    "Item",
    "LedgerError",
    "PackLimits",
    "PackerError",
    "Price",
    "PriceError",
    "Result",
    "Results",
    "Runner",
    "Statistics",
    "Status",
    "StoppedError",
    "Task",
    "TaskError",
    "Usage",
    "label",
    "label_frame",
    "read_task",
]

_HOMES = {
    "errors": ["CallError", "InputError", "LedgerError", "PackerError", "PriceError", "StoppedError", "TaskError"],
    "events": ["Event", "Statistics"],
    "frames": ["label_frame"],
    "items": ["Decision", "Item", "Result", "Status"],
    "options": ["Doubt"],
    "packs": ["PackLimits"],
    "results": ["Results"],
    "runner": ["Runner"],
    "sync": ["label"],
    "task": ["AnswerShape", "Example", "Task", "read_task"],
    "usage": ["Price", "Usage"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'packer' has no attribute {name!r}")
    return getattr(import_module(f"packer.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
