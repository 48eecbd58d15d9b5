"""How long 3,000 singles take on three gateways: `python bench/throughput.py [cap|bucket|queue]...`.

cap: 60 slots, 1 s a request, 429 beyond. bucket: 2,000 requests a minute, full at the start, told in headers, 0.2 s a
request, 429 beyond. queue: 60 slots, 1 s a request, what comes beyond waits. A 429 tells Retry-After, as of 1 s. The
time is from the first request to the last answer on the gateway's clock; `start` is what comes before and after that,
imports above all. Ours, saturate and ondine find out how many requests to have in flight; the recipe has 10; the others
are told a number that somebody who does not know the gateway might choose (`--in-flight`). `given up` are texts that
ended without a label; where there are any, the time is not compared. `--seconds` scales the time that a request takes;
what sides wait between attempts does not scale.
"""

import argparse
import time

from sides import OURS, SIDES, Labelling, choose, describe_machine, read_texts, running_gateway, scratch

RPM = 2_000


def ideal(kind: str, items: int, seconds: float) -> float:
    """Seconds that no client can beat."""
    if kind == "bucket":
        return max(0, items - RPM) * 60 / RPM + seconds
    return items / 60 * seconds


def main() -> None:
    """Print a table a gateway."""
    parser = argparse.ArgumentParser(description="How long 3,000 singles take on three gateways, side by side.")
    parser.add_argument(
        "kinds", nargs="*", choices=["cap", "bucket", "queue", []], help="which gateways (default: all)"
    )
    parser.add_argument("--texts", type=int, default=3_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a request takes; a fifth with the bucket")
    parser.add_argument("--in-flight", type=int, default=32, help="where a side has to be told (default: 32)")
    parser.add_argument("--patience", type=float, default=600, help="seconds after which a side is stopped")
    parser.add_argument("--sides", help=f"some of {', '.join(SIDES)}")
    options = parser.parse_args()
    texts = read_texts(None, options.texts)
    for kind in options.kinds or ("cap", "bucket", "queue"):
        seconds = options.seconds / 5 if kind == "bucket" else options.seconds
        setup = {
            "cap": ["--slots", "60"],
            "bucket": ["--rpm", str(RPM)],
            "queue": ["--slots", "60", "--queue"],
        }[kind]
        best = ideal(kind, len(texts), seconds)
        print(f"{kind}: {len(texts)} singles, {seconds:g} s each, ideal {best:.0f} s; {describe_machine()}")
        print(
            f"{'':18}{'seconds':>9}{'of ideal':>9}{'of ours':>9}{'refused':>9}{'given up':>10}{'start':>8}", flush=True
        )
        ours = 0.0
        for side in choose(options.sides):
            with scratch() as folder, running_gateway(texts, folder, "--seconds", str(seconds), *setup) as gateway:
                told = {"in_flight": options.in_flight, "headers": kind == "bucket"}
                run = Labelling(side, gateway, list(texts), folder / "side", **told).wait(options.patience)
                counts = gateway.counts()
            if not counts["bought"]:
                print(f"{side.name:18}not measured: {run.trouble}", flush=True)
                continue
            taken = counts["seconds"]
            ours = taken if side.name == OURS else ours
            refused = counts["statuses"].get("429", 0)
            lost = len(texts) - (counts["texts"] if run.stopped else run.labelled)
            shares = f"{best / taken:9.0%}" + (f"{taken / ours:8.2f}x" if ours else f"{'':9}")
            if lost:
                shares = f"{'-':>9}{'-':>9}"
            print(
                f"{side.name:18}{taken:9.1f}{shares}{refused:9}{lost:>10}{run.seconds - taken:8.1f}"
                + (f"\n{'':4}{run.trouble}" if run.trouble else ""),
                flush=True,
            )
            time.sleep(1)
        print()


if __name__ == "__main__":
    main()
