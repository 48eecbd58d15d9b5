"""How close the limiter comes to what each modelled gateway can give: `python bench/limiter.py [WORDS OF A NAME]`.

The clock is simulated. Columns are means of the seeds: answers as a share of the ideal in the first minute, in the rest
of ten minutes, and there in the worst seed; refusals and failures for 1,000 answers; the mean limit.
"""

import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from limiter_models import GATEWAYS, simulate

from packer.limiter import Limiter

SECONDS = 600.0
SEEDS = range(3)


def main() -> None:
    words = " ".join(sys.argv[1:])
    print(f"{'gateway':28}{'1st min':>8}{'then':>7}{'worst':>7}{'refused':>9}{'failed':>8}{'limit':>7}")
    for name, gateway in GATEWAYS.items():
        if words not in name:
            continue
        traces = [simulate(gateway, Limiter(), seconds=SECONDS, seed=seed) for seed in SEEDS]
        early = mean(trace.share(gateway, 0, 60) for trace in traces)
        late = [trace.share(gateway, 60, SECONDS) for trace in traces]
        answers = sum(len(trace.answers) for trace in traces) / 1000
        refused = sum(len(trace.refusals) for trace in traces) / answers
        failed = sum(len(trace.failures) for trace in traces) / answers
        limit = mean(trace.typical_limit(60, SECONDS) for trace in traces)
        print(
            f"{name:28}{early:8.0%}{mean(late):7.0%}{min(late):7.0%}{refused:9.1f}{failed:8.1f}{limit:7.0f}", flush=True
        )


if __name__ == "__main__":
    main()
