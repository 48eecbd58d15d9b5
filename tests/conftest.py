"""The network is off but for loopback, no key is in the environment, and CI's examples are the same each time."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_command
import pytest
from hypothesis import HealthCheck, settings
from uncounted import UNCOUNTED

from packer import connections
from packer.task import Task
from packer.testing import FakeTransport

settings.register_profile("dev", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("long", parent=settings.get_profile("dev"), max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in UNCOUNTED:
            item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Where no branch is counted, nothing is traced: a worker of xdist has a second tracer below the one paused."""
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    tracer, starter = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)
        threading.settrace(starter)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        if not (host.startswith("127.") or host in {"::1", "localhost"}):
            pytest.fail(f"a test may not connect to {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_BASE_URL")):
            monkeypatch.delenv(name)


@pytest.fixture
def shared_data() -> Path:
    if not DATA.is_dir():
        pytest.skip("the shared data sets are not beside this repository")
    return DATA


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: a default ledger must not land in the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, in_folder: Path) -> FakeTransport:
    """A fake gateway for commands that run in this process, in an empty folder."""
    transport = fake_command.make_transport(Task(["spam", "ham"]))
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    return transport


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts; what it mounts goes again."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting takes root and mount(8)")
    mounted: list[Path] = []

    def mount(*arguments: str, at: Path) -> Path:
        done = subprocess.run(["mount", *arguments, at], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")
        mounted.append(at)
        return at

    yield mount
    for at in reversed(mounted):
        subprocess.run(["umount", "--lazy", at], check=True)
