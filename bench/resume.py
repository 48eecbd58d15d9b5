"""What a kill costs: `python bench/resume.py`. 20,000 messages, killed at half of them, then run again.

The gateway counts each text that it answered, whether or not anybody was there to take the answer: that is what a
provider bills. `in flight` is what it was still to answer when the side had been killed, `twice` how many texts were
bought that had been bought before, and `lost` the difference: answers that the side had received and did not keep.
`missing` had no label in the end. Sides that pack do so by 20. `--signal INT` is Ctrl-C; a side that has not ended a
minute later is killed.
"""

import argparse
import signal
import time

from sides import SIDES, Labelling, choose, describe_machine, read_texts, running_gateway, scratch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How many texts are bought twice after a kill, side by side.")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=0.1, help="that a request takes (default: 0.1)")
    parser.add_argument("--in-flight", type=int, default=32, help="where a side has to be told (default: 32)")
    parser.add_argument("--patience", type=float, default=600, help="seconds after which a side is stopped")
    parser.add_argument("--signal", choices=["KILL", "INT"], default="KILL", help="which one (default: KILL)")
    parser.add_argument("--sides", help=f"some of {', '.join(SIDES)}")
    options = parser.parse_args()
    texts = read_texts(None, options.texts)
    print(f"{len(texts)} messages, SIG{options.signal} at half; {describe_machine()}")
    names = ("packs of", "killed at", "in flight", "twice", "of all", "lost", "missing")
    print(f"{'':16}" + "".join(f"{name:>{len(name) + 2}}" for name in names), flush=True)
    for side in choose(options.sides):
        if not side.resumes:
            print(f"{side.name:18}keeps no answers: it buys all of them again", flush=True)
            continue
        pack = 20 if side.packs else 1
        with scratch() as folder, running_gateway(texts, folder, "--seconds", str(options.seconds)) as gateway:
            told = {"pack": pack, "in_flight": options.in_flight}
            began = time.monotonic()
            first = Labelling(side, gateway, list(texts), folder / "side", **told)
            while first.works and gateway.counts()["bought"] < len(texts) / 2:
                if time.monotonic() - began > options.patience:
                    break
                time.sleep(0.05)
            died = not first.works
            at = gateway.counts()["bought"]
            first.kill(signal.Signals[f"SIG{options.signal}"])
            time.sleep(3 * options.seconds + 0.5)  # what is in flight is billed
            flying = gateway.counts()["bought"] - at
            run = Labelling(side, gateway, list(texts), folder / "side", **told).wait(options.patience)
            counts = gateway.counts()
        if died or not at:
            print(f"{side.name:18}not measured: {run.trouble or 'it ended before half was done'}", flush=True)
            continue
        twice = counts["bought"] - counts["texts"]
        row = (pack, at, flying, twice, f"{twice / len(texts):.2%}", max(0, twice - flying), len(texts) - run.labelled)
        print(f"{side.name:16}" + "".join(f"{part:>{len(name) + 2}}" for name, part in zip(names, row, strict=True)))
        if run.trouble:
            print(f"    {run.trouble}")


if __name__ == "__main__":
    main()
