"""The places at which a process may die, by name, so that tests can let it die at each of them.

Nothing happens at a failpoint unless a test has put something there: no option, variable or file of a user's can.
Random moments miss what stands between two statements; names do not.
"""

from __future__ import annotations

from collections.abc import Callable

# In the order in which a request passes them. "durable" means: SQLite has said so.
NAMES = (
    "job: about to be noted in the ledger",
    "job: noted",
    "intent: about to be written",
    "intent: durable, nothing sent",
    "reply: here, nothing booked",
    "verdict: durable, nothing shown",
    "verdict: applied",
    "commit: written, not durable",
    "commit: durable",
    "job: about to be ended in the ledger",
    "job: ended",
    "output: complete, not in its place",
    "output: in its place",
)
# Those that only a job with --batch passes
BATCH_NAMES = (
    "batch: about to be noted",
    "batch: noted, nothing uploaded",
    "batch: uploaded, about to be made",
    "batch: made, its id not noted",
    "batch: its id is noted",
    "batch: its results are here",
    "batch: an earlier one is collected",
)

_hook: Callable[[str], None] | None = None


def reach(name: str) -> None:
    """Tell whoever tests that the process is here."""
    if _hook is not None:
        _hook(name)


def put(hook: Callable[[str], None] | None) -> None:
    """Call `hook` with the name of every failpoint from now on; None ends that. For tests."""
    global _hook  # noqa: PLW0603  one process, one switch
    _hook = hook
