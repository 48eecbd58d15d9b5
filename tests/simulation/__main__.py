"""Replays a simulated job: `python tests/simulation --seed N` tells what happened, and which law was broken."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.checker import check
from simulation.simulator import simulate
from simulation.timeline import write_timeline


def main() -> int:
    """0 where every law held."""
    parser = argparse.ArgumentParser(prog="python tests/simulation", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="the job's number")
    history = simulate(parser.parse_args().seed)
    for line in write_timeline(history):
        print(line)
    problems = check(history)
    for problem in problems:
        print(f"BROKEN  {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
