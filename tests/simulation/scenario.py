"""A seed becomes a job: its texts, its gateway, and how each of its runs goes and ends. Nothing else is random."""

import random
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from packer import failpoints
from packer.items import normalise_text
from simulation.fates import FATAL, FATES, WELL, Mix

# A runner writes no output: its last two failpoints are the command's
POINTS = tuple(name for name in failpoints.NAMES if not name.startswith("output"))
_ODD = ("", "  text 3 ", "\u202etext", "x" * 30_000, "poison", "null \x00 byte", '1. "text 1"', "\ud800")


@dataclass(frozen=True)
class RunPlan:
    """One process. `kill` is a failpoint and how often it is passed before it kills, None for a run that may end.

    `stop_after` is when somebody presses Ctrl-C, in seconds. `breaks`, `at`, `keeps` are the disk's, see `Disk`. With
    `trickles` the texts come one by one.
    """

    mix: Mix
    hold: bool
    kill: tuple[str, int] | None
    stop_after: float | None
    breaks: Literal["", "full", "fails"]
    at: int
    keeps: bool
    concurrency: int | None
    max_items: int
    trickles: bool
    seed: int


@dataclass(frozen=True)
class Scenario:
    """A whole job; the last of its `runs` has a gateway that is well, and `last_cap` in the place of `cap`.

    `alone` of the `texts`, the last ones, are asked by a sibling while the runner asks the others.
    """

    seed: int
    texts: tuple[str, ...]
    cap: Decimal | None
    last_cap: Decimal | None
    tells: Literal["header", "body", "silent"]
    seconds: tuple[float, ...]
    slots: int
    balance: Decimal | None
    runs: tuple[RunPlan, ...]
    alone: int = 0


def draw_scenario(seed: int) -> Scenario:
    """The scenario with this number."""
    rng = random.Random(seed)
    count = rng.choice((1, 2, 7, 20, 40, 60))
    texts = [f"text {rng.randrange(2 * count)}" for _ in range(count)]
    for _ in range(rng.choice((0, 0, 1, 3))):
        texts.insert(rng.randrange(len(texts) + 1), rng.choice(_ODD))
    cap = rng.choice((None, Decimal("0.0001"), Decimal("0.0005"), Decimal("0.002"), Decimal("0.01")))
    others = tuple(rng.sample(_survivable(), rng.choice((1, 2, 4, 8))) + rng.sample(FATES, rng.choice((0, 1))))
    runs = [_draw_run(rng, others) for _ in range(rng.choice((1, 2, 2, 3, 4)))]
    last = RunPlan(
        mix=WELL,
        hold=rng.random() < 0.3,
        kill=None,
        stop_after=None,
        breaks="",
        at=0,
        keeps=False,
        concurrency=None,
        max_items=20,
        trickles=False,
        seed=rng.getrandbits(32),
    )
    scenario = Scenario(
        seed=seed,
        texts=tuple(texts),
        cap=cap,
        last_cap=None if cap is None else Decimal(10),
        tells=rng.choice(("header", "header", "body", "silent")),
        seconds=rng.choice(((0.5,), (1.0, 1.0, 9.0), (0.01, 2.0), (1.0, 200.0))),
        slots=rng.choice((2, 5, 1000, 1000)),
        balance=rng.choice((None, None, None, Decimal("0.0005"))),
        runs=(*runs, last),
    )
    if rng.random() < 0.7:
        return scenario
    # a text and its copies are asked in one of the two ways only: all who read a history know a text by its words
    ours = [text for text in texts if not is_asked_alone(normalise_text(text))]
    theirs = [text for text in texts if is_asked_alone(normalise_text(text))]
    return replace(scenario, texts=(*ours, *theirs), alone=len(theirs))


def is_asked_alone(text: str) -> bool:
    """Whether a normalised text is asked by the sibling, where there is one."""
    return len(text) % 2 == 0 or text[-1:] in {"3", "7"}


def _survivable() -> list[str]:
    return [fate for fate in FATES if fate not in FATAL and fate not in {"right", "over the reserve"}]


def _draw_run(rng: random.Random, others: tuple[str, ...]) -> RunPlan:
    # at times everything fails in the same way
    mix = Mix(0, others[:1]) if rng.random() < 0.1 else Mix(rng.choice((100, 90, 60, 20)), others)
    kill = (rng.choice(POINTS), rng.choice((1, 1, 2, 3, 5, 9))) if rng.random() < 0.6 else None
    breaks: tuple[Literal["", "full", "fails"], ...] = ("full", "fails") if rng.random() < 0.12 else ("",)
    return RunPlan(
        mix=mix,
        hold=rng.random() < 0.4,
        kill=kill,
        stop_after=rng.choice((0.0, 0.7, 3.0)) if rng.random() < 0.15 else None,
        breaks=rng.choice(breaks),
        at=rng.randint(2, 14),
        keeps=rng.random() < 0.5,
        concurrency=rng.choice((None, None, 1, 3, 16)),
        max_items=rng.choice((1, 3, 5, 20)),
        trickles=rng.random() < 0.25,
        seed=rng.getrandbits(32),
    )
