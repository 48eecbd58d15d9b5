"""`python tests/simulation --seed N`: replay a simulated job; what happened, and which law it broke."""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """0 where every law held."""
    from simulation.checker import check
    from simulation.simulator import simulate
    from simulation.timeline import write_timeline

    parser = argparse.ArgumentParser(prog="python tests/simulation", description="Replay a simulated job.")
    parser.add_argument("--seed", type=int, required=True, help="the job's number")
    history = simulate(parser.parse_args().seed)
    for line in write_timeline(history):
        print(line)
    problems = check(history)
    for problem in problems:
        print(f"BROKEN  {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    # run as a folder, this one is where modules are looked for first; its name is that of a package
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main())
