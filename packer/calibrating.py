"""A pilot is run: the plan is shown, settings are asked one after the other, and what was found is written.

Each setting is a runner of its own within one job, whose answers stand in the ledger under a key of their own: no
answer of a pack is ever read as a single, nor the other way round, and running it again buys nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from packer.adoption import adopt_singles
from packer.advice import advise
from packer.calibration import (
    Calibration,
    Places,
    collect,
    encode_calibration,
    find_places,
    items_a_request,
    name_ask,
    settings_of,
)
from packer.calibration_view import write_calibration, write_plan
from packer.errors import CallError
from packer.headers import CHARGE_HEADER
from packer.items import MOST_IN_FLIGHT, Result, Status, canonical_json, plain_record
from packer.ledger import Ledger
from packer.order import Order
from packer.outputs import OutputFile
from packer.parsing import PROGRAM
from packer.pilot import Arm, Pilot
from packer.progress import Display
from packer.report import check_report_path
from packer.requests import name_job
from packer.sampling import Sample
from packer.signals import Signals
from packer.summary import Line
from packer.task_files import write_settings
from packer.trials import ArmPlan, Trial, check_trial, job_name, limits_of, make_pilot, plan_arms, read_sample

if TYPE_CHECKING:
    from packer.runner import Runner
    from packer.transport import Transport

FOUND, UNSETTLED, STOPPED = 0, 3, 4
_TICK = 0.25  # seconds between two looks at the statistics


def calibrate(trial: Trial, *, width: int) -> tuple[list[Line], int]:
    """Run the pilot; what it found as lines of at most `width`, and the exit code (0, 3 or 4).

    The plan and the progress go to standard error. Raises `CallError` and `LedgerError`.
    """
    order = trial.order
    with contextlib.ExitStack() as undo:
        signals = undo.enter_context(Signals())
        check_trial(trial)
        sample = read_sample(trial)
        pilot = make_pilot(trial, len(sample.texts))
        plans = plan_arms(trial, pilot, sample.texts)
        output = None
        if trial.output is not None:
            output = OutputFile(check_report_path(trial.output, option="--json"), private=True)
            undo.callback(output.abandon)
        stopped = ""
        with Display(None, verbose=order.verbose) as display:
            for line in write_plan(pilot, plans, items=sample.items, budget=order.budget_usd, width=width):
                display.line(*line)
            display.line("")
            if pilot.next_ask() is not None:
                signals.job = run = _Run(trial, pilot, sample, display)
                stopped = asyncio.run(run.run())
                _adopt(order, sample)
        found = _collect(trial, pilot, sample, plans, stopped)
        if output is not None:
            _write(output, trial.output, encode_calibration(found))
        written = _write_task(trial, found)
    code = FOUND if found.settled else STOPPED if stopped else UNSETTLED
    command = _next_command(trial, found, written)
    return write_calibration(found, written=written, command=command, width=width), code


class _Run:
    def __init__(self, trial: Trial, pilot: Pilot, sample: Sample, display: Display) -> None:
        self._trial = trial
        self._pilot = pilot
        self._texts = sample.texts
        self._transports: dict[str, Transport] = {}
        self._asking: dict[Arm, Runner] = {}
        self._main: Runner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._display = display
        self._now: Runner | None = None
        self._ended = False

    async def run(self) -> str:
        """Ask until all is settled; why it ended before, empty where it did not."""
        from packer.runner import Runner  # noqa: PLC0415  a bad call does not wait for it

        order = self._trial.order
        self._loop = asyncio.get_running_loop()
        runner = Runner(
            order.task,
            model=order.model,
            transport=self._connect(order.model),
            ledger=order.ledger,
            job=job_name(order),
            limits=limits_of(order, 1),
            budget_usd=order.budget_usd,
            price=order.price,
            concurrency=order.concurrency,
            seed=order.seed,
            on_event=self._display.event,
        )
        async with runner, contextlib.AsyncExitStack() as siblings:
            self._main = runner
            ticker = asyncio.create_task(self._tick())
            try:
                return await self._ask_all(runner, siblings)
            finally:
                ticker.cancel()
                self._ended = True

    def interrupt(self) -> None:
        """Stop at the next occasion. Raises `KeyboardInterrupt` where nothing has begun. For a signal handler."""
        if self._main is None or self._loop is None:
            raise KeyboardInterrupt
        if not self._ended:
            self._loop.call_soon_threadsafe(self._stop)

    def leave(self) -> None:
        """End the process at once. For a signal handler."""
        Display.restore_terminal()
        os._exit(STOPPED)

    def _stop(self) -> None:
        assert self._main is not None, "there is something to stop"
        self._main.stop("interrupted")
        self._display.line("stopping: waiting for what is in flight; press Ctrl-C again to leave at once", "yellow")

    async def _ask_all(self, main: Runner, siblings: contextlib.AsyncExitStack) -> str:
        stopped = ""
        while (ask := self._pilot.next_ask()) is not None:
            if ask.arm not in self._asking:
                self._asking[ask.arm] = await siblings.enter_async_context(self._sibling(main, ask.arm))
            self._now = runner = self._asking[ask.arm]
            async for result in runner.stream(self._texts[ask.start : ask.end]):
                if result.status is Status.PENDING:
                    stopped = stopped or runner.statistics().stopped or "stopped"
                elif not stopped:
                    self._pilot.record(ask.arm, _answer(result))
            if stopped:
                break
        return stopped

    def _sibling(self, main: Runner, arm: Arm) -> Runner:
        order = self._trial.order
        is_other = arm.model != order.model
        return main.sibling(
            name_ask(arm),
            task=order.task.shaped(arm.shape),
            model=arm.model,
            transport=self._connect(arm.model) if is_other else None,
            limits=limits_of(order, arm.size),
        )

    def _connect(self, model: str) -> Transport:
        from packer import connections  # noqa: PLC0415  a bad call does not wait for openai

        order = self._trial.order
        if model not in self._transports:
            is_same_host = connections.shares_key(order.base_url, order.model, model)
            self._transports[model] = connections.connect(
                model,
                base_url=order.base_url,
                api_key_env=order.api_key_env if is_same_host else None,
                api_key_file=order.api_key_file if is_same_host else None,
                connections=MOST_IN_FLIGHT,
                charge_header=order.charge_header or CHARGE_HEADER,
            )
        return self._transports[model]

    async def _tick(self) -> None:
        while True:
            if self._now is not None:
                self._display.update(self._now.statistics())
            await asyncio.sleep(_TICK)


def _answer(result: Result) -> str | None:
    if result.status is not Status.LABELLED:
        return None
    if result.label is not None:
        return result.label
    return canonical_json(plain_record(result.record))


def _adopt(order: Order, sample: Sample) -> None:
    name = name_job(order.task, order.model, job_name(order))
    with Ledger(order.ledger) as ledger:
        adopt_singles(ledger, task=order.task, model=order.model, texts=sample.texts, name=name)


def _collect(trial: Trial, pilot: Pilot, sample: Sample, plans: Mapping[Arm, ArmPlan], stopped: str) -> Calibration:
    order, task = trial.order, trial.order.task
    places: Places = {}
    spent: Decimal | None = Decimal(0)
    if pilot.asked(pilot.singles):
        with Ledger(order.ledger, read_only=True) as ledger:
            places = find_places(pilot, task=task, texts=sample.texts, ledger=ledger)
            spending = ledger.spending(name_job(task, order.model, job_name(order)))
        spent = None if spending.unknown else spending.settled + spending.doubt + spending.open
    held = {arm: items_a_request(arm, places) for arm in plans}
    costs = {arm: plan.usd_per_million(held[arm]) for arm, plan in plans.items()}
    answers = "labels" if task.record_schema is None else "records"
    advice = advise(pilot, costs, held=held, answers=answers, stopped=stopped)
    about = {
        "input": order.input,
        "sample": pilot.items,
        "seed": order.seed,
        "max_disagreement": trial.promise,
        "stopped": stopped or None,
        "usd": spent,
    }
    gold = [_read_gold(trial, extra) for extra in sample.extras]
    return collect(pilot, advice, task=task, gold=gold, costs=costs, places=places, about=about)


def _read_gold(trial: Trial, given: str | None) -> str | None:
    return None if given is None else trial.order.task.match_label(given) or given


def _write(output: OutputFile, path: str | None, data: bytes) -> None:
    try:
        output.write(data)
        output.finish()
    except OSError as error:
        raise CallError(f"--json {path}: cannot be written: {error.strerror}") from error


def _write_task(trial: Trial, found: Calibration) -> str:
    """Write what was found into a task file; its name, empty where there is none or nothing was found."""
    order = trial.order
    path = trial.write_task or order.task_file
    if path is None or not found.settled:
        return ""
    settings = settings_of(found)
    if order.task_file is None:
        settings = {"labels": list(order.task.labels), **settings}
    if settings["model"] != order.model:
        settings["price"] = None  # it was another model's
    if settings["shape"] == order.task.shape:
        del settings["shape"]
    write_settings(path, settings, source=order.task_file)
    return path


def _next_command(trial: Trial, found: Calibration, written: str) -> list[str]:
    """The words of the command to run next, an option and its value in one; none where nothing was found."""
    if not found.settled:
        return []
    order = trial.order
    chosen = found.settings[found.chosen]
    pairs: list[tuple[str, str | None]] = [("--text", order.text)]
    task = written or order.task_file
    pairs.append(("--labels", ",".join(order.task.labels)) if task is None else ("--task", task))
    if order.examples is not None:  # they are drawn by the seed
        count, seed = trial.examples_per_label, order.seed
        pairs += [("--examples", order.examples), ("--examples-per-label", None if count is None else str(count))]
        pairs.append(("--seed", str(seed) if seed else None))
    if not written:
        pairs += [("--model", chosen.model), ("--max-items", str(chosen.max_items))]
    pairs += [("--base-url", order.base_url), ("--api-key-env", order.api_key_env)]
    # errors that come by whole packs are seen in many packs only: the job goes on looking
    audit = "0.01" if chosen.max_items > 1 else None
    pairs += [("--api-key-file", order.api_key_file), ("--audit", audit), ("--output", "labelled.csv")]
    words = [PROGRAM, "label", shlex.quote(order.input)]
    return words + [f"{option} {shlex.quote(value)}" for option, value in pairs if value is not None]
