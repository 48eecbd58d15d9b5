"""What a job of many processes costs its lender: `python bench/cluster.py`. CPU of each process, per request.

The gateway and all workers are on this machine, so that nothing is said of how fast a cluster is. What is said is how
many requests a lender can carry, since there is one of it: every request asks it for a commit before it leaves and for
another one after it has come back.
"""

import os
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import ray

import packer
from packer import distributed
from packer.usage import Price

ROOT = Path(__file__).resolve().parents[1]
KEY = "rehearsal-key-0123456789"
TASK = packer.Task(["spam", "ham"], instructions="Messages of a phone, as spam or ham. " * 20)
PACK, REQUESTS = 20, 2_000
TEXTS = [f"message {number}: are we still on for lunch, or shall I go alone?" for number in range(PACK * REQUESTS)]


def cpu_of(title: bytes) -> float:
    """Seconds of CPU that processes have taken whose title begins so."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cmdline").read_bytes().startswith(title):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(url: str, folder: Path, workers: int) -> None:
    """Label all texts by so many workers."""
    job = distributed.open_job(
        TASK,
        model="m",
        base_url=url,
        api_key_env="BENCH_KEY",
        ledger=folder / f"{workers}.db",
        price=Price(Decimal("0.15"), Decimal("0.6")),
        budget_usd=100,
        limits=packer.PackLimits(PACK),
        concurrency=16 * workers,
    )
    with job:
        part = len(TEXTS) // workers
        list(job.stream(TEXTS[:100], workers=workers, part=100 // workers))  # workers have started
        lender = cpu_of(b"ray::_LenderActor")
        began = time.monotonic()
        results = list(job.stream(TEXTS[100:], workers=workers, part=part))
        seconds = time.monotonic() - began
        lender = cpu_of(b"ray::_LenderActor") - lender
        requests = job.statistics().requests
    assert all(result.label is not None for result in results)
    print(f"{workers:7}  {seconds:7.1f} s  {1000 * lender / requests:9.2f} ms")


def main() -> None:
    """A gateway and a Ray on this machine, and the table."""
    os.environ["BENCH_KEY"] = KEY
    command = [sys.executable, str(ROOT / "tests" / "gateway"), "--seconds", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        url = next(word for line in gateway.stdout for word in line.split() if word.startswith("http")).rstrip(";")
        try:
            ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            print("workers     time  CPU of the lender a request")
            with tempfile.TemporaryDirectory() as folder:
                for workers in (1, 2, 4):
                    measure(url, Path(folder), workers)
        finally:
            gateway.terminate()


if __name__ == "__main__":
    main()
