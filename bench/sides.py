"""A side is whoever labels in a bench: a process of its own, in an environment of its own, told all by one order.

A peer's environment is made on first use under ~/.cache/prompt-packer-bench (or BENCH_CACHE), with pinned versions.
Ours and the plain recipe run in the project's. An order is a JSON file; a side's last line of output is JSON with the
number of texts that it labelled. Orders name everything that a side may know: address, texts, instructions, pack size,
a folder that outlives a kill, and how many requests in flight where a side cannot find that out by itself.
"""

import contextlib
import csv
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A bench that is told to end ends its gateways and sides too
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

BENCH = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("BENCH_CACHE", Path.home() / ".cache" / "prompt-packer-bench"))
OURS = "prompt-packer"
RECIPE = "plain recipe"
KEY = "bench-key"
LABELS = ("spam", "ham")
TASK = (
    "You sort text messages that arrived on a private phone for a study of mobile fraud. Call a message spam when "
    "it was sent in bulk or by a machine to sell, to win trust or to collect money or data: prizes, ring tones, dating "
    "lines, loans, premium numbers to call or to text back, links to unknown sites, offers that end soon, and notices "
    "of unclaimed rewards. Call it ham when a person wrote it to somebody they know, or when a service that the owner "
    "uses tells of a delivery, an appointment, a bill or a code. Slang, typing errors, capitals, flirting, swearing or "
    "talk of money between friends do not make spam. Judge by what the sender wants, not by tone; if both are as "
    "likely, say ham. Read all of every message first."
)
ANSWER = "Answer with spam or ham only."


@dataclass(frozen=True)
class Side:
    """`packs`: it puts many texts into a request; `resumes`: it keeps answers on disk; `finds`: in flight by itself."""

    name: str
    requires: tuple[str, ...] = ()
    packs: bool = False
    resumes: bool = False
    finds: bool = False

    @property
    def script(self) -> Path:
        """What it runs."""
        return BENCH / "peers" / f"{self.name.replace('-', '_').replace(' ', '_')}.py"


SIDES = {
    side.name: side
    for side in (
        Side(OURS, packs=True, resumes=True, finds=True),
        Side(RECIPE),
        Side("saturate", ("saturate==0.2.0",), resumes=True, finds=True),
        Side("flexllm", ("flexllm==0.17.10",), resumes=True),
        Side("async-batch-llm", ("async-batch-llm[openai]==0.28.0",), resumes=True),
        Side("curator", ("bespokelabs-curator==0.1.31",), resumes=True),
        Side("openaivec", ("openaivec==2.9.3",), packs=True),
        Side("ondine", ("ondine==2.1.1",), packs=True, resumes=True, finds=True),
    )
}


def find_python(side: Side) -> Path:
    """The interpreter of a side's environment, which is made where it is missing."""
    if not side.requires:
        return Path(sys.executable)
    folder = CACHE / side.name
    python, made = folder / "bin" / "python", folder / "made.json"
    if not made.exists() or json.loads(made.read_text()) != list(side.requires):
        print(f"making {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *side.requires], check=True, stderr=subprocess.DEVNULL)
        made.write_text(json.dumps(side.requires))
    return python


class Gateway:
    """A running recording gateway."""

    def __init__(self, url: str) -> None:
        self.url = url

    def counts(self) -> dict[str, Any]:
        """What has crossed the wire so far."""
        with urllib.request.urlopen(f"{self.url}/counts", timeout=30) as reply:
            return json.load(reply)


@contextlib.contextmanager
def running_gateway(texts: dict[str, str], folder: Path, *options: str) -> Iterator[Gateway]:
    """A recording gateway that knows `texts` and their labels."""
    known = folder / "known.json"
    known.write_text(json.dumps(texts), encoding="utf-8")
    command = [sys.executable, str(BENCH / "recording_gateway.py"), str(known), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Gateway(process.stdout.readline().strip())
        finally:
            process.terminate()


@dataclass
class Run:
    """What became of a side: `labelled` of its texts, in `seconds` from start to end; `trouble` where it failed.

    `stopped`: it had not ended in time, and nobody knows what it has labelled.
    """

    labelled: int = 0
    seconds: float = 0.0
    trouble: str = ""
    stopped: bool = False


class Labelling:
    """A side at work; its errors go to a file in `folder`."""

    def __init__(self, side: Side, gateway: Gateway, texts: Sequence[str], folder: Path, **more: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        listed, order = folder / "texts.json", folder / "order.json"
        listed.write_text(json.dumps(list(texts)), encoding="utf-8")
        told = {"url": gateway.url, "key": KEY, "texts": str(listed), "folder": str(folder), "labels": LABELS}
        told |= {"task": TASK, "instructions": f"{TASK} {ANSWER}", "pack": 1, "in_flight": 32, "headers": False}
        order.write_text(json.dumps(told | more), encoding="utf-8")
        self._log = folder / "errors.txt"
        # peers look for a key, a home and a terminal; none of them shall find the user's
        environment = os.environ | {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": gateway.url,
            "PYTHONPATH": str(BENCH / "peers" / "shared"),
            "HOME": str(folder),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it waits for a download
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [find_python(side), "-P", side.script, order],  # -P: a script may have the name of what it imports
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            # what runs in a shell's background ignores SIGINT, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads here
            text=True,
        )

    @property
    def works(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self, number: int = signal.SIGKILL, *, seconds: float = 60) -> None:
        """Send it a signal, and SIGKILL where it has not ended so many seconds later."""
        self._process.send_signal(number)
        try:
            self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def wait(self, seconds: float) -> Run:
        """How it ended; it is killed after `seconds`."""
        try:
            said, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return Run(seconds=seconds, trouble=f"stopped after {seconds:.0f} s", stopped=True)
        taken = time.monotonic() - self._began
        try:
            return Run(json.loads(said.splitlines()[-1])["labelled"], taken)
        except (ValueError, LookupError, TypeError):
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
            return Run(0, taken, (lines or [f"exit code {self._process.returncode}"])[-1][:100])


def choose(names: str | None, *, among: Sequence[Side] = tuple(SIDES.values())) -> list[Side]:
    """The sides that were named, separated by commas; all where None were."""
    return [side for side in among if names is None or side.name in names.split(",")]


def read_texts(path: Path | None, most: int) -> dict[str, str]:
    """At most so many distinct texts and their labels, evenly from the whole table; without one, generated."""
    if path is None:
        return {
            f"message {number}: are we still on for lunch, or shall I go alone?": LABELS[number % 7 != 0]
            for number in range(most)
        }
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["text"].strip(): row["label"] for row in csv.DictReader(file)}
    step = max(1.0, len(rows) / most)
    pairs = list(rows.items())
    return dict(pairs[int(place * step)] for place in range(min(most, len(pairs))))


def describe_machine() -> str:
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
