"""2,000 simulated jobs keep the laws, each classic bug is seen to break one, and a seed is the same job each time.

A seed that fails here is replayed by `python tests/simulation --seed N`.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from simulation.checker import check
from simulation.fates import FATES, UNSENT
from simulation.mutants import MUTANTS
from simulation.scenario import POINTS
from simulation.simulator import simulate
from simulation.timeline import write_timeline

SEEDS, CHUNK = 2_000, 50
SEEDS_A_MUTANT = 400


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_simulated_jobs_keep_every_law(first: int) -> None:
    broken = {seed: problems for seed in range(first, first + CHUNK) if (problems := check(simulate(seed)))}
    assert not broken


@pytest.mark.parametrize("name", MUTANTS)
def test_a_classic_bug_is_seen(name: str) -> None:
    with MUTANTS[name].planted():
        assert any(check(simulate(seed)) for seed in range(SEEDS_A_MUTANT))


def test_the_seeds_reach_every_fate_every_failpoint_and_every_end() -> None:
    fates: Counter[str] = Counter()
    deaths: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for seed in range(300):
        history = simulate(seed)
        fates.update(sent.fate for sent in history.requests)
        deaths.update(run.died_at for run in history.runs if run.died_at is not None)
        ends.update(type(run.error).__name__ for run in history.runs if run.error is not None)
        ends.update(str(shown.result.status) for run in history.runs for shown in run.shown)
    assert set(fates) == {str(fate) for fate in FATES} - {str(failure) for failure in UNSENT}
    assert set(deaths) == set(POINTS)
    assert set(ends) == {"LedgerError", "LedgerFull", "labelled", "failed", "doubt", "pending"}


_REPLAY = """
from simulation.simulator import simulate
from simulation.timeline import write_timeline
for seed in range(40):
    print(*write_timeline(simulate(seed)), sep="\\n")
"""


def test_a_seed_is_the_same_job_whatever_the_order_of_hashes() -> None:
    def replay(hashes: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(Path(__file__).parent)}
        return subprocess.run(
            [sys.executable, "-c", _REPLAY], env=environment, capture_output=True, text=True, check=True
        ).stdout

    here = "".join(f"{line}\n" for seed in range(40) for line in write_timeline(simulate(seed)))
    assert replay("1") == replay("2") == here


def test_a_seed_is_replayed_from_the_command_line() -> None:
    command = [sys.executable, str(Path(__file__).parent / "simulation"), "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == list(write_timeline(simulate(5)))
