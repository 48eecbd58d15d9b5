"""`python tests/draw_dashboard.py` draws docs/dashboard.png anew: the dashboard of a real job, in a real browser.

The picture says in itself what it was drawn from, so that a test sees when the page has changed since.
"""

import asyncio
import csv
import hashlib
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from browser import Browser
from gateway.scripts import read_script
from gateway.server import Setup, running_gateway

import packer

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "dashboard.png"
ROWS, SHOWN = 1_800, 1_200
FAULTS = ["20=lost-row", "60=cut-after-headers", "80=reset-before-headers"]


def main() -> None:
    """Run a job, and look at it when two thirds are labelled."""
    with (
        tempfile.TemporaryDirectory() as name,
        running_gateway(Setup(seconds=0.5, slots=12, script=read_script(FAULTS, seed=0))) as gateway,
    ):
        folder = Path(name)
        with (ROOT / "examples" / "messages.csv").open(encoding="utf-8", newline="") as source:
            texts = [row["text"] for row in csv.DictReader(source)]
        with (folder / "messages.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text"])
            rows.writerows([f"{texts[number % len(texts)]} ({number})"] for number in range(ROWS))
        given = ["label", "messages.csv", "--text", "text", "--task", str(ROOT / "examples" / "messages.toml")]
        given += ["--model", "rehearsal", "--base-url", gateway.url, "--api-key-env", "K", "--output", "labelled.csv"]
        given += ["--price-input", "0.15", "--price-output", "0.60", "--budget-usd", "1", "--dashboard"]
        given += ["--max-items", "12"]
        environment = os.environ | {"K": gateway.accounts[0].key}
        command = [sys.executable, "-m", "packer", *given]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment) as job:
            assert job.stderr is not None
            try:
                asyncio.run(look(job.stderr.readline().split()[1], folder / "profile"))
            finally:
                job.kill()


async def look(address: str, profile: Path) -> None:
    async with Browser(profile) as browser:
        await browser.resize(1180, 1180)
        await browser.open(address)
        labelled = "parseInt(document.querySelector('.tiles dd').textContent.replace(',', ''))"
        await browser.wait_for(f"{labelled} > {SHOWN}", 120)
        await browser.look(PICTURE, width=1180, height=1180, whole=False)
    PICTURE.write_bytes(stamp(PICTURE.read_bytes(), describe_page()))


def describe_page() -> str:
    """The version, and a digest of what gives the page its looks: template, style and script."""
    looks = sorted(
        path for path in (ROOT / "packer" / "dashboard").iterdir() if path.suffix in {".html", ".css", ".js"}
    )
    digest = hashlib.blake2b(b"".join(path.read_bytes() for path in looks), digest_size=8)
    return f"prompt-packer {packer.__version__}, page {digest.hexdigest()}"


def stamp(picture: bytes, words: str) -> bytes:
    """A PNG with a comment in front of its last chunk, which is 12 bytes long."""
    chunk = b"tEXtComment\0" + words.encode("latin-1")
    return (
        picture[:-12] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + picture[-12:]
    )


if __name__ == "__main__":
    main()
