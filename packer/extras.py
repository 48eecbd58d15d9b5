"""An extra that is missing is told in one line, with how to install it, before anything is read or sent."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from packer.errors import CallError


def check_extra(name: str, libraries: Mapping[str, str], *, needed_by: str) -> None:
    """Raise `CallError` where one of `libraries` (modules, and what they are installed as) of the extra is missing."""
    for module, library in libraries.items():
        if importlib.util.find_spec(module) is None:
            raise CallError(f"{needed_by} needs {library}, which is not installed: pip install 'prompt-packer[{name}]'")
