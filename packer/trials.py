"""What a pilot is asked to try: checked, sampled, and planned with its cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from packer.calibration import name_ask
from packer.errors import CallError, InputError
from packer.ledger import Ledger
from packer.order import Order
from packer.overwriting import refuse_same
from packer.packs import PackLimits
from packer.pilot import Arm, Pilot
from packer.plan_view import open_ledger
from packer.planning import Plan, plan_job
from packer.pricing import find_price, refuse_unpriced
from packer.requests import Requests, make_keys
from packer.sampling import Sample, draw_sample
from packer.tables import Reader
from packer.task import AnswerShape
from packer.task_files import check_task_path
from packer.tokens import bound_tokens, count_tokens
from packer.usage import FREE, Price


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried.

    `order` says what is asked of whom; the size of its packs is not used. `models` are asked besides the order's;
    `promise` is the share of answers that packs may change. `gold` names the column of right labels. `write_task` is a
    new task file for what is found, None where that of the order gets it. `output` is for the figures as JSON.
    `examples_per_label` is what the order's examples were drawn with, None for the default.
    """

    order: Order
    sizes: Sequence[int]
    shapes: Sequence[AnswerShape]
    models: Sequence[str] = ()
    sample: int = 300
    promise: float = 0.03
    gold: str | None = None
    write_task: str | None = None
    output: str | None = None
    examples_per_label: int | None = None


def check_trial(trial: Trial) -> None:
    """Raise `CallError` for what cannot be tried."""
    order = trial.order
    if trial.gold is not None and order.task.record_schema is not None:
        raise CallError("--gold: expected none for a record task: a record has no one right answer")
    for shape in trial.shapes:
        order.task.shaped(shape)
    target = trial.write_task or order.task_file
    if target is not None:
        check_task_path(target, source=order.task_file)
    if trial.write_task is not None and Path(trial.write_task).exists():
        raise CallError(f"--write-task {trial.write_task}: expected the name of a new file, this one exists")
    read = [(order.input, "input"), (order.task_file, "task file"), (order.ledger, "ledger")]
    read += [(order.api_key_file, "key file"), (order.examples, "examples")]
    refuse_same(trial.output, [*read, (trial.write_task, "new task file")], "--json")
    refuse_same(trial.write_task, read, "--write-task")


def read_sample(trial: Trial) -> Sample:
    """The texts that are asked, each with its right label. Raises `InputError`."""
    order = trial.order
    with Reader(order.input, text=order.text, id_column=order.id_column, encoding=order.encoding) as reader:
        if trial.gold is not None:
            reader.check_column(trial.gold)
        sample = draw_sample(_rows(reader, trial.gold), size=trial.sample, seed=order.seed)
        if not sample.texts:
            raise InputError(f"{reader.name}: no row has a text in the column {order.text!r}")
        if trial.gold is not None and not any(sample.extras):
            raise InputError(f"{reader.name}: no row of the sample has anything in the gold column {trial.gold!r}")
    return sample


def _rows(reader: Reader, gold: str | None) -> Iterator[tuple[str, str | None]]:
    place = None if gold is None else reader.columns.index(gold)
    for row in reader:
        if gold is None or place is None:
            yield row.text, None
            continue
        cell: Any = row.cell(gold, place)
        yield row.text, None if cell is None or not str(cell).strip() else str(cell).strip()


def make_pilot(trial: Trial, items: int) -> Pilot:
    """The pilot over a sample of `items` texts. Raises `CallError`."""
    order = trial.order
    singles = Arm(order.model, order.task.shape, 1)
    lines = [
        [Arm(model, shape, size) for size in trial.sizes]
        for model in (order.model, *(name for name in trial.models if name != order.model))
        for shape in sorted(trial.shapes, key=lambda shape: shape is not order.task.shape)
    ]
    pilot = Pilot(items, singles=singles, lines=lines, promise=trial.promise)
    if not list(pilot.arms()):
        raise CallError("--sizes: expected a size above 1 to hold against singles")
    return pilot


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """What asking an arm to its end takes: `whole` as if nothing were known, `left` of what the ledger has not.

    `is_tried` False: the sample is too small to tell anything of it, and it is not asked.
    """

    whole: Plan
    left: Plan
    price: Price | None
    is_tried: bool

    def usd_per_million(self, held: float) -> Decimal | None:
        """The expected cost of a million such texts; None where no price is known.

        `held` is how many items a request has on average. Where packs are split it is less than their size; the part
        of the cost that each request has anyhow is then paid so much more often.
        """
        if self.price is None or not self.whole.asked:
            return None
        packs, singles = self.whole.packs, self.whole.singles
        planned, alone = packs.cost(self.price), singles.cost(self.price)
        requests = max(Decimal(packs.requests), Decimal(self.whole.asked / held))
        if singles.requests > packs.requests:
            planned += (alone - planned) * (requests - packs.requests) / (singles.requests - packs.requests)
        return planned * 1_000_000 / self.whole.asked


def plan_arms(trial: Trial, pilot: Pilot, texts: Sequence[str]) -> dict[Arm, ArmPlan]:
    """What each arm takes. Raises `PriceError` where a cap needs a price, and `LedgerError`."""
    order = trial.order
    prices = {model: _find_price(order, model) for model in (order.model, *trial.models)}
    ledger = open_ledger(order.ledger)
    tried = {arm for arm in pilot.arms() if pilot.can_tell(arm)}
    tried |= {pilot.singles} if tried else set()
    try:
        return {
            arm: ArmPlan(
                whole=_plan_arm(order, arm, texts, prices[arm.model], None),
                left=_plan_arm(order, arm, texts[: pilot.largest(arm)], prices[arm.model], ledger),
                price=prices[arm.model],
                is_tried=arm in tried,
            )
            for arm in (pilot.singles, *pilot.arms())
        }
    finally:
        if ledger is not None:
            ledger.close()


def _plan_arm(order: Order, arm: Arm, texts: Sequence[str], price: Price | None, ledger: Ledger | None) -> Plan:
    task = order.task.shaped(arm.shape)
    return plan_job(
        texts,
        requests=Requests(task, limits_of(order, arm.size), price, count_tokens, bound_tokens),
        make_key=make_keys(task, arm.model, name_ask(arm)),
        find=None if ledger is None else ledger.find,
    )


def job_name(order: Order) -> str:
    """What the budget of a pilot belongs to: it is not that of the job which follows."""
    return f"{order.job}: calibrate"


def _find_price(order: Order, model: str) -> Price | None:
    if model == "local" and order.base_url is None:
        return FREE
    own = (order.price or order.task.price_of(model)) if model == order.model else None
    price = own or find_price(model)
    if price is None and order.has_cap:
        raise refuse_unpriced(model)
    return price


def limits_of(order: Order, size: int) -> PackLimits:
    """The caps of packs of `size`."""
    return PackLimits(size, max_request_usd=order.limits.max_request_usd)
