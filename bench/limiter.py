"""How close the limiter comes to what each modelled gateway can give: `python bench/limiter.py [PART OF A NAME]`.

The clock is simulated. Columns: answers as a share of what is possible, the mean of three seeds in the first minute and
in the rest of fifteen, and there in the worst seed; refusals and failures for 1,000 answers; the mean limit.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from limiter_models import GATEWAYS, simulate

from packer.limiter import Limiter

SECONDS = 900.0
SEEDS = range(3)


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


def main() -> None:
    """Print the table."""
    part = " ".join(sys.argv[1:])
    print(f"{'gateway':28}{'1st min':>8}{'then':>7}{'worst':>7}{'refused':>9}{'failed':>8}{'limit':>7}")
    with ProcessPoolExecutor() as pool:
        for line in pool.map(measure, [name for name in GATEWAYS if part in name]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
