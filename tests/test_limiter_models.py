"""Throughput is held: at least 80 % of what each modelled gateway can give, on a simulated clock.

`bench/limiter.py` prints the whole table; what is held here is a part of it, with room for the luck of a seed.
"""

import asyncio

import pytest
from limiter_controllers import CONTROLLERS, Controller
from limiter_models import CLIFFS, COMPARED, GATEWAYS, MEAN, NONE, OWN_CORE, Gateway, Trace, simulate, steady

from packer.errors import Failure, TransportError
from packer.exchange import Prompt, Reply
from packer.limiter import Limiter
from packer.packs import PackLimits
from packer.runner import Runner
from packer.task import Task
from packer.testing import FakeClock, FakeTransport

# Ten times slower for those who come while it is too full: each probe costs 10 s, whatever is done then
_HELD = [kind for kind in CLIFFS if kind != "x10 for new ones"]


def work(name: str, *, seconds: float, seed: int = 0) -> Trace:
    return simulate(GATEWAYS[name], Limiter(), seconds=seconds, seed=seed)


@pytest.mark.no_cover
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", _HELD)
def test_below_a_cliff_at_thirty_in_flight_four_fifths_are_kept(kind: str, seed: int) -> None:
    name = f"{kind}, 30"
    trace = work(name, seconds=300, seed=seed)
    assert trace.share(GATEWAYS[name], 90, 300) >= 0.8
    if kind not in {"queue", "flat", "very slow 503"}:  # where more in flight costs no answer
        assert trace.typical_limit(90, 300) <= 36


@pytest.mark.no_cover
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("kind", _HELD)
def test_a_small_account_keeps_four_fifths(kind: str, slots: int) -> None:
    name = f"{kind}, {slots}"
    assert work(name, seconds=420).share(GATEWAYS[name], 120, 420) >= 0.8


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", _HELD)
def test_a_large_account_keeps_four_fifths(kind: str) -> None:
    name = f"{kind}, 200"
    assert work(name, seconds=180).share(GATEWAYS[name], 90, 180) >= 0.8


@pytest.mark.no_cover
@pytest.mark.parametrize("kind", _HELD)
def test_a_cliff_that_moves_is_followed(kind: str) -> None:
    name = f"{kind}, 30 8 60"  # each for five minutes
    trace = work(name, seconds=900)
    settled = [trace.share(GATEWAYS[name], since, since + 150) for since in (150, 450, 750)]
    assert min(settled) >= 0.8
    assert trace.share(GATEWAYS[name], 0, 900) >= 0.75


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("name", "since"),
    [
        ("open", 15),
        ("open, fast", 5),
        ("open, cold start", 20),
        ("1 % 429", 60),
        ("1 % slow 429", 60),
        ("1 % 503", 20),
        ("heavy tail", 60),
        ("10 % of 10 s", 30),
        ("30 % of 10 s", 90),
        ("50 % of 10 s", 150),
        ("spikes x5", 30),
        ("spikes x20", 30),
    ],
)
def test_what_is_no_cliff_is_not_taken_for_one(name: str, since: float) -> None:
    trace = work(name, seconds=since + 180)
    assert trace.share(GATEWAYS[name], since, since + 180) >= 0.8


@pytest.mark.no_cover
@pytest.mark.parametrize(("name", "right", "most"), [("0.1 s", 67, 160), ("0.02 s", 14, 50)])
def test_what_our_own_core_cannot_read_is_not_asked_for(name: str, right: int, most: int) -> None:
    trace = simulate(OWN_CORE[name], Limiter(), seconds=30, seed=0)
    assert trace.share(OWN_CORE[name], 2, 30) >= 0.95
    assert max(limit for _, limit in trace.limits) <= most
    assert trace.typical_limit(2, 30) <= 1.7 * right


@pytest.mark.no_cover
def test_a_core_that_others_keep_busy_holds_nothing_back() -> None:
    gateway = OWN_CORE["busy"]
    assert simulate(gateway, Limiter(), seconds=30, seed=0).share(gateway, 5, 30) >= 0.95


@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["600 a minute", "6000 a minute", "600k tokens a minute"])
def test_a_bucket_of_requests_or_tokens_is_emptied_as_fast_as_it_fills(name: str) -> None:
    trace = work(name, seconds=300)
    assert trace.share(GATEWAYS[name], 60, 300) >= 0.9
    assert len(trace.refusals) < 0.2 * len(trace.answers)


@pytest.mark.no_cover
@pytest.mark.parametrize("name", [name for name in GATEWAYS if "told" in name])
def test_a_bucket_that_is_told_of_is_emptied_as_fast_as_it_fills_and_hardly_refuses(name: str) -> None:
    trace = work(name, seconds=300)
    assert trace.share(GATEWAYS[name], 60, 300) >= 0.95
    assert len(trace.refusals) <= 0.005 * len(trace.answers)


@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["30, heavy, 429", "30, 1 % 429, 429"])
def test_a_cliff_is_found_through_noise(name: str) -> None:
    assert work(name, seconds=600).share(GATEWAYS[name], 120, 600) >= 0.8


@pytest.mark.parametrize(("share", "load"), [(0.5, 1.3), (0.8, 0.3), (0.95, 0.1)])
def test_a_brownout_is_met_with_less_load_and_is_recovered_from(share: float, load: float) -> None:
    failed = (*NONE, (60.0, share), (240.0, 0.0))
    gateway = Gateway(ideal=steady(30 / MEAN), slots=steady(30), over="refuse", failed=failed)
    trace = simulate(gateway, Limiter(), seconds=360, seed=0)
    during = len([moment for moment in (*trace.answers, *trace.failures) if 60 <= moment < 240]) / 180
    assert during < load * trace.rate(30, 60)
    assert trace.share(gateway, 300, 360) >= 0.8


@pytest.mark.no_cover
def test_a_job_on_a_gateway_with_a_cliff_has_the_results_of_one_without() -> None:
    task = Task(["even", "odd"])
    given = [f"text {number}" for number in range(6000)]

    def label(slots: int) -> tuple[list[str | None], float]:
        clock = FakeClock()
        transport = FakeTransport(task, lambda text: "odd" if len(text) % 2 else "even")
        send = transport.send
        held = 0

        async def crowded(prompt: Prompt, *, deadline: float) -> Reply:
            nonlocal held
            held += 1
            try:
                if held > slots:
                    await asyncio.sleep(1.0)
                    raise TransportError(Failure.OVERLOADED, "busy", status=503)
                return await send(prompt, deadline=deadline)
            finally:
                held -= 1

        transport.send = crowded  # type: ignore[method-assign]

        async def work() -> list[str | None]:
            limits = PackLimits(max_items=1)
            async with Runner(task, model="m", transport=transport, ledger=None, limits=limits) as runner:
                return [result.label async for result in runner.stream(given)]

        return clock.run(work()), clock.now

    plain, _ = label(1000)
    cliff, seconds = label(20)
    assert cliff == plain
    assert None not in plain
    assert seconds < 6000 / 20 / 0.8


@pytest.mark.no_cover
def test_the_way_up_takes_hardly_longer_than_twice_as_many_each_round() -> None:
    # 60 slots, 1 s, 3,000 answers: 50 s at best, 53 with 1, 8, 16 and 32 in flight for a second each
    gateway = Gateway(steady(60 / 1.02), lambda rng: rng.uniform(1.0, 1.04), steady(60.0), "refuse", retry_after=1.0)
    trace = simulate(gateway, Limiter(), seconds=300, seed=0)
    assert trace.answers[2999] <= 56
    assert sum(moment < 60 for moment in trace.refusals) <= 6
    assert trace.share(gateway, 60, 300) >= 0.97


@pytest.mark.no_cover
@pytest.mark.parametrize("name", COMPARED)
def test_no_other_controller_is_both_as_quick_and_as_seldom_refused(name: str) -> None:
    gateway = COMPARED[name]

    def measure(controller: Limiter | Controller) -> tuple[float, float]:
        trace = simulate(gateway, controller, seconds=600, seed=0)
        return trace.share(gateway, 60, 600), 1000 * len(trace.refusals) / len(trace.answers)

    share, refused = measure(Limiter())
    assert share >= 0.95
    assert refused <= 5
    for other in CONTROLLERS.values():
        others_share, others_refused = measure(other())
        assert others_share < share - 0.02 or others_refused >= refused
