"""What a kill costs: `python bench/resume.py`. 20,000 messages, killed with SIGKILL at half of them, then run again.

The gateway counts each text that it answered, whether or not anybody was there to take the answer: that is what a
provider bills. `twice` is how many texts were bought more often than once, `missing` how many had no label in the end.
Sides that pack do so by 20; `in flight` is what stood at the gateway when the side died, at most.
"""

import argparse
import time

from sides import OURS, SIDES, Labelling, choose, describe_machine, read_texts, running_gateway, scratch


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How many texts are bought twice after a kill, side by side.")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=0.1, help="that a request takes (default: 0.1)")
    parser.add_argument("--in-flight", type=int, default=32, help="where a side has to be told (default: 32)")
    parser.add_argument("--patience", type=float, default=600, help="seconds after which a side is stopped")
    parser.add_argument("--sides", help=f"some of {', '.join(SIDES)}")
    options = parser.parse_args()
    texts = read_texts(None, options.texts)
    print(f"{len(texts)} messages, killed at half; {describe_machine()}")
    print(f"{'':18}{'packs of':>9}{'killed at':>11}{'twice':>8}{'of all':>9}{'missing':>9}{'seconds':>9}", flush=True)
    ours = None
    for side in choose(options.sides):
        if not side.resumes:
            print(f"{side.name:18}keeps no answers: it buys all of them again", flush=True)
            continue
        pack = 20 if side.packs else 1
        with scratch() as folder, running_gateway(texts, folder, "--seconds", str(options.seconds)) as gateway:
            told = {"pack": pack, "in_flight": options.in_flight}
            began = time.monotonic()
            first = Labelling(side, gateway, list(texts), folder / "side", **told)
            while first.works and (at := gateway.counts()["bought"]) < len(texts) / 2:
                if time.monotonic() - began > options.patience:
                    break
                time.sleep(0.05)
            died = not first.works
            first.kill()
            time.sleep(3 * options.seconds + 0.5)  # what is in flight is billed
            run = Labelling(side, gateway, list(texts), folder / "side", **told).wait(options.patience)
            counts = gateway.counts()
        if died or not at:
            print(f"{side.name:18}not measured: {run.trouble or 'it ended before half was done'}", flush=True)
            continue
        twice = counts["bought"] - counts["texts"]
        ours = twice if side.name == OURS else ours
        missing = len(texts) - run.labelled
        print(
            f"{side.name:18}{pack:9}{at:11}{twice:8}{twice / len(texts):9.2%}{missing:9}"
            f"{time.monotonic() - began:9.0f}" + (f"\n{'':4}{run.trouble}" if run.trouble else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
