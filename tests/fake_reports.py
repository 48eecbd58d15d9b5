"""Reports for tests of the page: a real job's, and parts that other commands make, with numbers that add up."""

import copy
import json
from pathlib import Path
from typing import Any

import pydantic
import pytest
from fake_command import connect_to, make_transport

from packer import connections
from packer.cli import main
from packer.task import Task
from packer.votes import DoubtResult

LABEL = ["label", "in.csv", "--text", "text", "--labels", "spam,ham", "--model", "m", "--output", "out.csv"]
PRICE = ["--price-input", "0.3", "--price-output", "1.2", "--max-items", "2"]
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</style></title></svg><script>alert(2)</script>",
    "<!-- <b> ]]> &lt;i&gt;",
    "{{ 7919 * 7907 }} {% raw %}",
    "javascript:alert(1)",
    "https://evil.example/x.js",
    "url(https://evil.example/)",
    "__proto__",
    "constructor",
    "datum.x",
    "null",
    "same",
)
# As JSON, since a lone surrogate is none of these characters; what is shown of each
ESCAPED = {
    "\u202eevil": r"\u202eevil",
    "a\x00b\x1b[31m": r"a\x00b\x1b[31m",
    "\ufffe\uffff": r"\ufffe\uffff",
    "half \ud800": r"half \ud800",
    "\u2060__proto__": r"\u2060__proto__",
}


def run_job(folder: Path, *more: str, report: str = "report.json", **faults: Any) -> int:
    """A job of the real command in `folder`, against a fake gateway; the exit code."""
    rows = "".join(f"free {n}\nhello {n}\n" for n in range(8))
    (folder / "in.csv").write_text(f'text\n{rows}""\n', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(connections, "connect", connect_to(make_transport(Task(["spam", "ham"]), **faults)))
        return main([*LABEL, *PRICE, "--report", report, *more])


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def evaluation(labels: list[str]) -> dict[str, Any]:
    """An evaluation in which each label is taken for the next one, now and then."""
    size = len(labels)
    confusion = [
        [90 - gold if gold == given else gold + 1 if given == (gold + 1) % size else 0 for given in range(size)]
        for gold in range(size)
    ]
    right, total = sum(confusion[place][place] for place in range(size)), sum(map(sum, confusion))
    return {
        "items": total + 5,
        "labelled": total + 3,
        "without_gold": 3,
        "compared": total,
        "accuracy": share(right, total),
        "macro_f1": 0.875,
        "labels": [
            {
                "label": label,
                "support": sum(confusion[place]),
                "predicted": sum(row[place] for row in confusion),
                "precision": share(confusion[place][place], sum(row[place] for row in confusion)),
                "recall": None if place == 1 else share(confusion[place][place], sum(confusion[place])),
                "f1": 1 - place / 1_000,
            }
            for place, label in enumerate(labels)
        ],
        "confusion": confusion,
        "confusions": [{"gold": labels[-1], "label": labels[0], "count": size, "texts": ["one text", *labels[:1]]}],
        "by": {
            "position": [bucket(1, 1, 100, 4), bucket(2, 2, 100, 9)],
            "pack-size": [bucket(1, 20, 200, 13)],
            "length": [bucket(0, 40, 120, 3), bucket(41, 1_000, 80, 10)],
        },
    }


def doubt() -> dict[str, Any]:
    """What came of doubtful labels."""
    told = DoubtResult(asked_again=40, votes=90, changed=7, escalated=5, overruled=2, doubtful=3)
    found: dict[str, Any] = pydantic.TypeAdapter(DoubtResult).dump_python(told, mode="json")
    return found


def audit(*, broken: bool = False) -> dict[str, Any]:
    return {
        "asked": 200,
        "agreed": 191,
        "disagreement": {"value": 0.045, "low": 0.021, "high": 0.084},
        "promise": 0.03,
        "broken": broken,
        "by_position": [{"least": 1, "most": 10, "items": 120, "errors": 3}],
    }


def share(count: int, of: int) -> dict[str, float]:
    value = count / of
    return {"value": value, "low": value * 0.9, "high": min(1.0, value * 1.05)}


def bucket(least: int, most: int, items: int, errors: int) -> dict[str, Any]:
    return {"least": least, "most": most, "items": items, "errors": errors, "accuracy": share(items - errors, items)}


def hostile_words() -> list[str]:
    return [*HOSTILE, *ESCAPED, "x" * 5_000, "x" * 5_000 + "y"]


def hostile_evaluation() -> dict[str, Any]:
    found = evaluation(hostile_words())
    found["confusions"] = [{"gold": word, "label": word, "count": 1, "texts": [word] * 2} for word in hostile_words()]
    return found


def hostile(report: dict[str, Any]) -> dict[str, Any]:
    """The report with strangers' words wherever words can be."""
    words, found = hostile_words(), copy.deepcopy(report)
    found["audit"] = audit()
    found["asked"] = {
        "instructions": "\n".join(words),
        "labels": {word: word for word in words},
        "fields": words,
        "examples": 1,
        "canaries": 1,
        "shape": words[0],
    }
    found["outcomes"] = dict.fromkeys(words, 3)
    found["failed"] = dict.fromkeys(words, 3)
    found["unanswered"] = [
        {"row": row, "status": "failed", "reason": word, "text": word} for row, word in enumerate(words, 1)
    ]
    found["doubtful"] = [
        {"row": row, "answer": word, "confidence": 0.5, "votes": 3, "text": word} for row, word in enumerate(words, 1)
    ]
    found["doubt"] = doubt()
    found["statistics"]["refused_settings"] = words
    found["stopped"] = found["version"] = found["task"] = words[3]
    for name in ("input", "text", "output", "ledger", "model", "base_url"):
        found["settings"][name] = words[1]
    return found
