"""What a million messages cost: `python bench/cost.py [TABLE.csv]` (the columns text and label).

Each side labels the same distinct messages with the same guideline of 720 bytes (180 tokens) through a gateway that is
always right and counts the bytes of what crosses the wire: contents of messages, schema, answers. A token is taken for
four bytes; prices are USD 0.15 and 0.60 a million. Providers differ in what they bill for a schema, so the sum stands
without and with it. The floor is a message's text and one token of answer, without any instructions.
"""

import argparse
import sys
from pathlib import Path

from sides import (
    ANSWER,
    OURS,
    SIDES,
    TASK,
    Labelling,
    Run,
    Side,
    choose,
    describe_machine,
    read_texts,
    running_gateway,
    scratch,
)

INPUT, OUTPUT, BYTES = 0.15, 0.60, 4
PACKS = (20, 1, 5, 40, 100)


def measure(side: Side, texts: dict[str, str], pack: int) -> tuple[dict[str, int], Run]:
    """The bytes of each part, and the messages that were labelled."""
    with scratch() as folder, running_gateway(texts, folder) as gateway:
        run = Labelling(side, gateway, list(texts), folder / "side", pack=pack).wait(600)
        return gateway.counts()["bytes"], run


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="What a million messages cost, side by side.")
    parser.add_argument("table", nargs="?", type=Path, help="a CSV with the columns text and label (else generated)")
    parser.add_argument("--texts", type=int, default=2_000, help="messages, spread over the table (default: 2000)")
    parser.add_argument("--sides", help=f"some of {', '.join(SIDES)}")
    options = parser.parse_args()
    texts = read_texts(options.table, options.texts)
    floor = sum(len(text.encode()) for text in texts) / BYTES / len(texts) * INPUT + OUTPUT
    print(f"USD a million messages; {len(texts)} messages, {describe_machine()}")
    print(f"{'':18}{'packs of':>9}{'no schema':>11}{'schema':>8}{'sum':>8}{'of ours':>9}{'labelled':>9}")
    ours, parts = 0.0, []
    for side in choose(options.sides):
        for pack in PACKS if side.name == OURS else (20,) if side.packs else (1,):
            counted, run = measure(side, texts, pack)
            if not run.labelled:
                print(f"{side.name:18}not measured: {run.trouble}", flush=True)
                continue
            usd = {name: count / BYTES / len(texts) * INPUT for name, count in counted.items()}
            usd["answers"] *= OUTPUT / INPUT
            plain = usd["system"] + usd["user"] + usd["answers"]
            total = plain + usd["schema"]
            ours = ours or total
            if side.name == OURS:
                parts.append((pack, counted["requests"], usd))
            share = f"{total / ours:8.2f}x"
            print(
                f"{side.name:18}{pack:9}{plain:11.2f}{usd['schema']:8.2f}{total:8.2f}{share}{run.labelled:9}",
                flush=True,
            )
    print(f"{'floor':18}{'':9}{floor:11.2f}{0:8.2f}{floor:8.2f}{floor / (ours or floor):8.2f}x")
    print("\nWhere ours goes, in USD a million messages")
    names = ("guideline", "labels, rules", "schema", "lines", "texts", "answers", "sum")
    print(f"{'packs of':9}" + "".join(f"{name:>{max(9, len(name) + 1)}}" for name in names))
    for pack, requests, usd in sorted(parts, key=lambda part: part[0]):
        guideline = requests * len(TASK) / BYTES / len(texts) * INPUT
        spent = (guideline, usd["system"] - guideline, usd["schema"], usd["user"] - usd["texts"], usd["texts"])
        row = (*spent, usd["answers"], sum(spent) + usd["answers"])
        print(
            f"{pack:<9}" + "".join(f"{part:{max(9, len(name) + 1)}.2f}" for name, part in zip(names, row, strict=True))
        )
    print(f"\nSingles are told: {ANSWER!r}; ours has labels and rules in its place.", file=sys.stderr)


if __name__ == "__main__":
    main()
