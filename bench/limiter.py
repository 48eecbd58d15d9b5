"""How close the limiter comes to what each modelled gateway can give: `python bench/limiter.py [PART OF A NAME]`.

`python bench/limiter.py compare` sets it beside other controllers: answers as a share of what is possible after the
first minute of ten, and refusals for 1,000 answers, means of three seeds.

The clock is simulated. Columns: answers as a share of what is possible, the mean of three seeds in the first minute and
in the rest of fifteen, and there in the worst seed; refusals and failures for 1,000 answers; the mean limit.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from limiter_controllers import CONTROLLERS
from limiter_models import COMPARED, GATEWAYS, simulate

from packer.limiter import Limiter

SECONDS = 900.0
SEEDS = range(3)
OURS = {"ours": Limiter}


def measure(name: str) -> str:
    """One line of the table."""
    gateway = GATEWAYS[name]
    traces = [simulate(gateway, Limiter(), seconds=SECONDS, seed=seed) for seed in SEEDS]
    early = mean(trace.share(gateway, 0, 60) for trace in traces)
    late = [trace.share(gateway, 60, SECONDS) for trace in traces]
    answers = sum(len(trace.answers) for trace in traces) / 1000
    refused = sum(len(trace.refusals) for trace in traces) / answers
    failed = sum(len(trace.failures) for trace in traces) / answers
    limit = mean(trace.typical_limit(60, SECONDS) for trace in traces)
    return f"{name:28}{early:8.0%}{mean(late):7.0%}{min(late):7.0%}{refused:9.1f}{failed:8.1f}{limit:7.0f}"


def compare(name: str) -> str:
    """One line of the other table."""
    cells = []
    for gateway in COMPARED.values():
        traces = [simulate(gateway, (CONTROLLERS | OURS)[name](), seconds=600, seed=seed) for seed in SEEDS]
        share = mean(trace.share(gateway, 60, 600) for trace in traces)
        refused = 1000 * sum(len(trace.refusals) for trace in traces) / sum(len(trace.answers) for trace in traces)
        cells.append(f"{share:5.0%} /{refused:5.0f}")
    return f"{name:10}" + "".join(f"{cell:>15}" for cell in cells)


def main() -> None:
    """Print the table."""
    part = " ".join(sys.argv[1:])
    if part == "compare":
        print(f"{'':10}" + "".join(f"{name:>15}" for name in COMPARED))
        with ProcessPoolExecutor() as pool:
            for line in pool.map(compare, CONTROLLERS | OURS):
                print(line, flush=True)
        return
    print(f"{'gateway':28}{'1st min':>8}{'then':>7}{'worst':>7}{'refused':>9}{'failed':>8}{'limit':>7}")
    with ProcessPoolExecutor() as pool:
        for line in pool.map(measure, [name for name in GATEWAYS if part in name]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
