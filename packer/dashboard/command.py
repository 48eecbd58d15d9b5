"""`prompt-packer dashboard`: the jobs of a ledger in a browser, until Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
import threading

from packer.dashboard.past import PastJobs
from packer.dashboard.server import Server
from packer.dashboard.writing import check_page_can_be_made
from packer.errors import CallError
from packer.ledger import Ledger


def show_jobs(path: str) -> int:
    """Serve the pages of the ledger at `path`; the exit code, once it is interrupted. Raises as `Ledger` does."""
    check_page_can_be_made()
    Ledger(path, read_only=True).close()
    server = Server(PastJobs(path))
    try:
        address = server.start()
    except OSError as error:
        raise CallError(f"the dashboard cannot be served: {error.strerror}") from error
    sys.stderr.write(f"dashboard  {address}\nCtrl-C ends it\n")
    sys.stderr.flush()
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    server.close()
    return 0
