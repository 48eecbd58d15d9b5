"""What a pilot has found, in numbers, for a program or a later look; the texts are not in it.

Costs are what a plan expects with the price that is known: they do not change when nothing is bought any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from statistics import harmonic_mean
from typing import Any, TypeAlias

from packer import __version__
from packer.advice import Advice
from packer.auditing import ASK
from packer.items import normalise_text
from packer.ledger import Ledger, Place
from packer.pairs import Loss, Shift, differ_by_third, find_shifts, measure_loss
from packer.pilot import Arm, Pilot
from packer.requests import make_keys
from packer.task import Task, fold_label

SINGLES = "singles"  # the outcome of what all else is held against


@dataclass(frozen=True, slots=True)
class Third:
    """Of the items in a part of their packs: how many got another answer than alone."""

    differing: int
    items: int


@dataclass(frozen=True, slots=True)
class Setting:
    """A way of asking, and what is known of it.

    Of `items`, `differing` got another answer than alone, `failed` of them none. `at_most` is what the true share
    exceeds in at most 5 % of pilots. `items_a_request` is less than `max_items` where packs were split, or did not get
    full. `usd_per_million` is the expected cost of a million such texts, None where no
    price is known. `loss` is there where right labels were given, `shifts` for a task with labels; `thirds` are the
    first, middle and last part of packs. `outcome` is singles, keeps, breaks, unclear or not asked.
    """

    model: str
    shape: str
    max_items: int
    outcome: str
    items: int
    differing: int
    failed: int
    at_most: float | None
    items_a_request: float
    usd_per_million: Decimal | None
    loss: Loss | None = None
    shifts: tuple[Shift, ...] = ()
    thirds: tuple[Third, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """A pilot over `sample` texts of `input`.

    `settings` begin with singles; `chosen` is the place of one of them. `settled` False: the pilot could not tell, and
    singles are chosen because they are sure. `again` are singles that were asked a second time, None where none were.
    `stopped` says why the pilot ended before its end. `usd` is what all runs of this pilot cost, what is in doubt
    included; None where that is unknown.
    """

    version: str
    task: str
    input: str
    sample: int
    seed: int
    max_disagreement: float
    settings: tuple[Setting, ...]
    again: Setting | None
    chosen: int
    settled: bool
    advice: str
    stopped: str | None
    usd: Decimal | None


def name_ask(arm: Arm) -> str:
    """How `arm` is asked, as the ledger's keys have it."""
    if arm.size == 1:
        return f"{ASK} again" if arm.again else ASK  # a text that an audit has asked alone was asked alone
    return f"size {arm.size}"


Places: TypeAlias = Mapping[Arm, Mapping[int, Place]]
"""For each arm that asks packs, where in which pack an item was answered, by the item's place in the sample."""


def find_places(pilot: Pilot, *, task: Task, texts: Sequence[str], ledger: Ledger) -> Places:
    """Where the items of `pilot` stood. Raises `LedgerError`."""
    found = {}
    for arm in pilot.arms():
        if arm.size > 1 and pilot.asked(arm):
            make_key = make_keys(task.shaped(arm.shape), arm.model, name_ask(arm))
            keys = {item: make_key(normalise_text(texts[item])) for item in range(pilot.asked(arm))}
            places = ledger.find_places(list(keys.values()))
            found[arm] = {item: places[key] for item, key in keys.items() if key in places}
    return found


def items_a_request(arm: Arm, places: Places) -> float:
    """How many items a request of `arm` had on average, among those that answered; its size where none did."""
    packs = [place.items for place in places.get(arm, {}).values()]
    return harmonic_mean(packs) if packs else float(arm.size)


def collect(
    pilot: Pilot,
    advice: Advice,
    *,
    task: Task,
    gold: Sequence[str | None],
    costs: Mapping[Arm, Decimal | None],
    places: Places,
    about: Mapping[str, Any],
) -> Calibration:
    """The figures of `pilot` over texts whose right labels are `gold`; `about` has the fields that are given."""
    right = [None if label is None else fold_label(label) for label in gold]

    def measure(arm: Arm) -> Setting:
        standing = pilot.standing(arm)
        compared = pilot.compared(arm)
        is_singles = arm in {pilot.singles, pilot.again}
        setting = Setting(
            model=arm.model,
            shape=str(arm.shape),
            max_items=arm.size,
            outcome=SINGLES if is_singles else str(standing.outcome),
            items=standing.items,
            differing=standing.differing,
            failed=standing.failed,
            at_most=None if arm == pilot.singles else standing.bound,
            items_a_request=items_a_request(arm, places),
            usd_per_million=costs.get(arm),
        )
        if not standing.items:
            return setting
        if arm in places:
            stood = [(places[arm].get(item), single != packed) for item, single, packed in compared]
            counted = [(place.number, place.items, differs) for place, differs in stood if place is not None]
            setting = replace(setting, thirds=tuple(Third(*third) for third in differ_by_third(counted)))
        if task.record_schema is not None:
            return setting
        judged = [
            (fold_label(single), None if packed is None else fold_label(packed), label)
            for item, single, packed in compared
            if (label := right[item]) is not None
        ]
        return replace(
            setting,
            loss=measure_loss(judged) if judged else None,
            shifts=() if is_singles else tuple(find_shifts(pilot.pairs(arm))),
        )

    arms = [pilot.singles, *pilot.arms()]
    return Calibration(
        version=__version__,
        settings=tuple(measure(arm) for arm in arms),
        again=measure(pilot.again) if pilot.asked(pilot.again) else None,
        chosen=arms.index(advice.arm),
        settled=advice.settled,
        advice=advice.sentence,
        task=task.fingerprint,
        **about,
    )


def settings_of(found: Calibration) -> dict[str, Any]:
    """What a task file gets of it: the chosen setting, and the table."""
    chosen = found.settings[found.chosen]
    rows = [
        {
            "model": setting.model,
            "shape": setting.shape,
            "max_items": setting.max_items,
            "items": setting.items,
            "differing": setting.differing,
            "at_most": None if setting.at_most is None else round(setting.at_most, 4),
            "usd_per_million": None if setting.usd_per_million is None else round(float(setting.usd_per_million), 2),
            "outcome": setting.outcome,
        }
        for setting in found.settings
    ]
    table = {
        "advice": found.advice,
        "sample": found.sample,
        "seed": found.seed,
        "max_disagreement": found.max_disagreement,
        "settings": rows,
    }
    return {
        "model": chosen.model,
        "max_items": chosen.max_items,
        "shape": chosen.shape,
        "calibration": table,
    }


def encode_calibration(found: Calibration) -> bytes:
    """The figures as JSON; money is a decimal in a text, so that nothing of it is rounded."""
    import pydantic  # noqa: PLC0415  a bad call does not wait for it

    return pydantic.TypeAdapter(Calibration).dump_json(found, indent=2) + b"\n"
