"""What packs cost a real model in accuracy: `python bench/packing_quality.py --base-url URL --model NAME`.

A balanced sample of a table with right labels is labelled once for each size of packs, by `prompt-packer label` with a
ledger of its own, and held against the right labels by `prompt-packer evaluate` and against the answers of the first
size. Samples and answers stay in `--folder`: what is there is not asked again, so that a run that was broken off, or
one with another size, buys only what is missing.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from sides import describe_machine

from packer.intervals import proportion
from packer.ledger import Ledger
from packer.task import AnswerShape, fold_label, read_task

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
COMMAND = [sys.executable, "-m", "packer"]
CAN_FINISH = (0, 3)  # 3: some items failed


@dataclass(frozen=True)
class Setting:
    """One size of packs in one shape of answers; its files in `folder` begin with its name."""

    folder: Path
    shape: str
    size: int

    def file(self, ending: str) -> Path:
        """Its file of that ending."""
        return self.folder / f"{self.shape}-{self.size}{ending}"

    @property
    def task(self) -> Path:
        """The task file, which all sizes of a shape share."""
        return self.folder / f"{self.shape}.toml"

    def answers(self) -> list[dict[str, str]]:
        """The rows that `label` wrote."""
        with self.file(".csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def write_sample(table: Path, columns: tuple[str, str], items: int, seed: int, path: Path) -> None:
    """At most `items` distinct texts, as many of each label as of the next, in a random order."""
    text, gold = columns
    with table.open(encoding="utf-8", newline="") as file:
        known = {row[text].strip(): row[gold] for row in reversed(list(csv.DictReader(file)))}
    labels = sorted(set(known.values()))
    draw = random.Random(seed)
    rows = []
    for label in labels:
        texts = sorted(one for one, its in known.items() if its == label)
        rows += [(one, label) for one in draw.sample(texts, min(len(texts), items // len(labels)))]
    draw.shuffle(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "gold"), *rows])


def label(setting: Setting, asked: Sequence[str], options: Sequence[str]) -> None:
    """Label the sample; the command says on standard error how far it is."""
    sample, output = str(setting.folder / "sample.csv"), str(setting.file(".csv"))
    command = [*COMMAND, "label", sample, *asked, "--max-items", str(setting.size), "--confidence", "--output", output]
    if subprocess.run([*command, *options], check=False).returncode not in CAN_FINISH:
        raise SystemExit(f"packs of {setting.size} did not end; the same command again goes on")


def evaluate(setting: Setting, asked: Sequence[str]) -> dict[str, Any]:
    """What `prompt-packer evaluate` says of it."""
    figures, table = setting.file(".evaluation.json"), str(setting.file(".csv"))
    command = [*COMMAND, "evaluate", table, "--gold", "gold", "--by", "position", *asked, "--json", str(figures)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    return found


def show(setting: Setting, first: Setting, found: dict[str, Any]) -> str:
    """A line of the table; `first` is what its answers are held against."""
    rows, alone = setting.answers(), first.answers()
    failed = sum(not row["label"] for row in rows)
    both = [(row, single) for row, single in zip(rows, alone, strict=True) if row["label"] and single["label"]]
    changed = sum(row["label"] != single["label"] for row, single in both)
    lost = sum(is_right(single) and not is_right(row) for row, single in both)
    won = sum(is_right(row) and not is_right(single) for row, single in both)
    with Ledger(setting.file(".db"), read_only=True) as ledger:
        now = ledger.statistics()
    usage, accuracy = now.usage, found["accuracy"]
    change = proportion(changed, len(both))
    cells = (
        f"{setting.shape} {setting.size}",
        show_share(accuracy["value"], accuracy["low"], accuracy["high"]),
        failed,
        sum(now.attempts.values()),
        f"{usage.input_tokens / len(rows):.0f} + {usage.output_tokens / len(rows):.1f}",
        "" if setting == first else f"{changed}: {show_share(change.value, change.low, change.high)}",
        "" if setting == first else f"{lost}, {won}",
        show_confidence(rows),
    )
    return f"| {' | '.join(map(str, cells))} |"


def show_confidence(rows: Iterable[dict[str, str]]) -> str:
    """The mean confidence of right labels and of wrong ones, and how many are right above its median and below."""
    known = sorted(((float(row["confidence"]), is_right(row)) for row in rows if row["confidence"]), reverse=True)
    if not known:
        return "none | none"
    middle = median(sure for sure, _ in known)
    parts = [[sure for sure, right in known if right is wanted] for wanted in (True, False)]
    halves = [[right for sure, right in known if (sure >= middle) is upper] for upper in (True, False)]
    means = ", ".join(f"{fmean(part):.2f}" if part else "none" for part in parts)
    return f"{means} | {', '.join(f'{sum(half)} of {len(half)}' for half in halves)}"


def is_right(row: dict[str, str]) -> bool:
    return fold_label(row["label"]) == fold_label(row["gold"])


def show_share(value: float | None, low: float, high: float) -> str:
    return "none" if value is None else f"{value:.1%} ({low:.0%} to {high:.0%})".replace("%", " %")


def show_place(part: dict[str, Any]) -> str:
    if part["least"] is None:
        return "unknown"
    return str(part["least"]) if part["least"] == part["most"] else f"{part['least']} to {part['most']}"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description="What packs cost a model in accuracy.", allow_abbrev=False)
    add = parser.add_argument
    add("table", nargs="?", type=Path, default=EXAMPLES / "messages.csv", help="a CSV (default: examples/messages.csv)")
    add(
        "--task",
        type=Path,
        default=EXAMPLES / "messages.toml",
        help="a .toml without a shape (default: examples/messages.toml)",
    )
    add("--text", default="text", help="the column of the texts (default: text)")
    add("--gold", default="gold", help="the column of the right labels (default: gold)")
    add("--base-url", required=True, help="an OpenAI-compatible gateway")
    add("--model", required=True, help="its name at the gateway")
    add("--api-key-env", help="the environment variable that holds the key")
    add("--items", type=int, default=100, help="texts in the sample (default: 100)")
    add("--sizes", default="1,4,8,16", help="of packs; 8-object: answers of another shape (default: 1,4,8,16)")
    add("--concurrency", default="auto", help="requests in flight (default: auto)")
    add("--seed", type=int, default=0, help="of the sample and the order in packs (default: 0)")
    add("--folder", type=Path, default=Path("packing-quality"), help="keeps the answers (default: packing-quality)")
    options = parser.parse_args()
    usual = read_task(options.task).shape
    settings = []
    for name in options.sizes.split(","):
        size, _, shape = name.partition("-")
        settings.append(Setting(options.folder, AnswerShape(shape or usual).value, int(size)))
    options.folder.mkdir(parents=True, exist_ok=True)
    sample = options.folder / "sample.csv"
    if not sample.exists():
        write_sample(options.table, (options.text, options.gold), options.items, options.seed, sample)
    sent = ["--base-url", options.base_url, "--concurrency", options.concurrency]
    sent += ["--api-key-env", options.api_key_env] if options.api_key_env else []
    lines, places = [], []
    for setting in settings:
        if not setting.task.exists():
            told = options.task.read_text(encoding="utf-8")
            told = told if setting.shape == usual else f'shape = "{setting.shape}"\n{told}'
            setting.task.write_text(told, encoding="utf-8")
        asked = ["--text", "text", "--task", str(setting.task), "--model", options.model, "--seed", str(options.seed)]
        asked += ["--ledger", str(setting.file(".db"))]
        if not setting.file(".csv").exists():
            label(setting, asked, sent)
        found = evaluate(setting, asked)
        lines.append(show(setting, settings[0], found))
        if setting.size > 1:
            bins = (f"{show_place(part)}: {part['errors']} of {part['items']}" for part in found["by"]["position"])
            places.append(f"{setting.shape} {setting.size:<4}{'; '.join(bins)}")
    print(f"{options.model}, {len(settings[0].answers())} texts; {describe_machine()}\n")
    first = f"as {settings[0].shape} {settings[0].size}"
    print(
        f"| packs of | accuracy (95 %) | failed | requests | tokens a text | other label than {first} (95 %) "
        "| right there only, here only | mean confidence: right, wrong | right: surer half, other half |"
    )
    print("|---" * 9 + "|", *lines, sep="\n")
    print("\nerrors by the place in the pack", *places, sep="\n")


if __name__ == "__main__":
    main()
