"""Gateways as models, and a limiter that works against them on a simulated clock: no sleep, no I/O, a seed.

A request takes its time at the speed that the gateway has with what is in it; there is always another one to send.
"""

import heapq
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from limiter_controllers import Controller

from packer.exchange import Bucket as Told
from packer.exchange import Buckets
from packer.limiter import Limiter
from packer.pacing import Mark, Pacer

Schedule = tuple[tuple[float, float], ...]


def steady(value: float) -> Schedule:
    """The same at all times."""
    return ((0.0, value),)


def at(schedule: Schedule, now: float) -> float:
    """The value of pairs of (from this second on, value) at a moment."""
    return next(value for since, value in reversed(schedule) if now >= since)


NONE = steady(0.0)
PLAIN = steady(1.0)
ENDLESS = steady(float("inf"))


def narrow(rng: random.Random) -> float:
    """Seconds that an answer takes: about 1, mean 1.046."""
    return rng.lognormvariate(0.0, 0.3)


def heavy(rng: random.Random) -> float:
    """About 1 with a long tail: mean 1.65, one in a hundred over 10."""
    return rng.lognormvariate(0.0, 1.0)


def mixed(share: float) -> Callable[[random.Random], float]:
    """1 s, and for a `share` of the requests 10 s."""
    return lambda rng: (10.0 if rng.random() < share else 1.0) * rng.uniform(0.9, 1.1)


@dataclass(frozen=True)
class Gateway:
    """What a gateway does with one request more.

    `slots` is where the cliff stands, by time. `over` says what happens beyond it: "refuse" (429), "fail" (503),
    "crowd" (503, and those who wait for theirs count as load), "divide" (the speed is divided by the load to the
    power of `power`: 1 keeps the throughput, 2 lets it fall), "stall" (ten times slower for all), "stick" (ten
    times slower for those who come), "wait" (first come, first served) or nothing. A refusal or failure takes
    `quick` seconds, and a refusal tells `retry_after`. `refused` and `failed` are shares that have nothing to do
    with the load, `slow` is a factor on all latencies, by time each. `per_minute` and `tokens_per_minute` are
    buckets, which `tells` tells of in headers; others take a share of them. `cold` is what the first answer takes
    on top. Each answer takes `ours` seconds of the client's one core, one after the other, and something else there
    makes it wait for `busy` seconds four times. `ideal` are the answers a second of a client that knows all this.
    """

    ideal: Schedule
    seconds: Callable[[random.Random], float] = narrow
    slots: Schedule = ENDLESS
    over: str = ""
    power: float = 1.0
    quick: float = 0.05
    retry_after: float | None = None
    refused: Schedule = NONE
    failed: Schedule = NONE
    slow: Schedule = PLAIN
    per_minute: float | None = None
    tokens_per_minute: float | None = None
    cold: float = 0.0
    ours: float = 0.0
    busy: float = 0.0
    tells: bool = False
    others: float = 0.0

    def moments(self) -> list[float]:
        """When something changes by itself."""
        return sorted({since for schedule in (self.slots, self.slow, self.failed) for since, _ in schedule})

    def speed(self, now: float, held: int) -> float:
        """Seconds of work that are done in a second for each of those who are `held`."""
        slots, speed = at(self.slots, now), 1.0 / at(self.slow, now)
        if held <= slots:
            return speed
        if self.over == "divide":
            return speed * float((slots / held) ** self.power)
        return 0.1 * speed if self.over == "stall" else speed


@dataclass
class Bucket:
    """`limit` a minute, full at the start; somebody else takes a share of what flows in."""

    limit: float
    others: float = 0.0
    left: float = field(init=False)
    since: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.limit

    def told(self) -> Told:
        """What the headers say."""
        return Told(self.limit, self.left, (self.limit - self.left) * 60 / self.limit)

    def take(self, amount: float, now: float) -> float:
        """0 where `amount` is let through, else the seconds after which it would be."""
        self.left = min(self.limit, self.left + (now - self.since) * (1 - self.others) * self.limit / 60)
        self.since = now
        if self.left < amount:
            return (amount - self.left) * 60 / self.limit / (1 - self.others)
        self.left -= amount
        return 0.0


@dataclass
class Trace:
    """What came of it: the moments of answers, refusals and failures, and (moment, limit) after each of them."""

    answers: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)
    sent: int = 0

    def rate(self, since: float, until: float) -> float:
        """Answers a second."""
        return sum(since <= moment < until for moment in self.answers) / (until - since)

    def share(self, gateway: Gateway, since: float, until: float) -> float:
        """Answers as a share of what is possible."""
        steps = [since + (until - since) * (step + 0.5) / 1000 for step in range(1000)]
        return self.rate(since, until) / (sum(at(gateway.ideal, moment) for moment in steps) / 1000)

    def typical_limit(self, since: float, until: float) -> float:
        """The mean limit, by time."""
        total, before, value = 0.0, since, 0.0
        for moment, limit in self.limits:
            if moment > since:
                total += value * (min(moment, until) - before)
                before = min(moment, until)
            value = limit
        return (total + value * (until - before)) / (until - since)


def simulate(gateway: Gateway, limiter: Limiter | Controller, *, seconds: float, seed: int) -> Trace:
    """Send to `gateway` whatever `limiter` lets through, for so many simulated seconds. Only ours reads headers."""
    rng = random.Random(seed)
    trace, now, virtual = Trace(), 0.0, 0.0
    working: list[tuple[float, int, float, float]] = []  # (finished at this virtual time, number, sent at, tokens)
    timed: list[tuple[float, int, str, float, float | None]] = []  # (at, number, kind, sent at, retry after)
    for moment in gateway.moments():
        heapq.heappush(timed, (moment, 0, "change", 0.0, None))
    servers: list[float] = []
    requests = None if gateway.per_minute is None else Bucket(gateway.per_minute, gateway.others)
    tokens = None if gateway.tokens_per_minute is None else Bucket(gateway.tokens_per_minute, gateway.others)
    in_flight = held = waiting = failing = 0
    pacer, marks = Pacer(), dict[int, tuple[Mark, Buckets]]()
    size, read_at = rng.uniform(500, 1500), 0.0

    def arrive() -> None:
        nonlocal held, waiting, failing
        wait = max(
            0.0 if requests is None else requests.take(1, now), 0.0 if tokens is None else tokens.take(size, now)
        )
        if gateway.tells and isinstance(limiter, Limiter):
            told = Buckets(requests.told() if requests else None, tokens.told() if tokens else None)
            marks[trace.sent] = pacer.sent(now, int(size)), told
        full = held + waiting + (failing if gateway.over == "crowd" else 0) >= at(gateway.slots, now)
        lost: tuple[str, float | None] | None = None
        if wait > 0:
            lost = ("refused", float(int(wait) + 1))
        elif rng.random() < at(gateway.refused, now) or (full and gateway.over == "refuse"):
            lost = ("refused", gateway.retry_after)
        elif rng.random() < at(gateway.failed, now) or (full and gateway.over in {"fail", "crowd"}):
            lost = ("failed", None)
        if lost is not None:
            failing += 1
            heapq.heappush(timed, (now + gateway.quick * rng.uniform(0.8, 1.2), trace.sent, lost[0], now, lost[1]))
            return
        work = gateway.seconds(rng) + (gateway.cold if trace.sent == 1 else 0.0)
        if gateway.over == "wait":
            while servers and (servers[0] <= now):
                heapq.heappop(servers)
            slots = int(at(gateway.slots, now))
            start = now if len(servers) < slots else sorted(servers)[len(servers) - slots]
            heapq.heappush(servers, start + work)
            heapq.heappush(timed, (start + work, trace.sent, "answered", now, None))
            waiting += 1
            return
        if gateway.over == "stick" and full:
            work *= 10
        held += 1
        heapq.heappush(working, (virtual + work, trace.sent, now, 0.0))

    while True:
        alone = not trace.answers  # as the job: the first request goes alone
        paced = pacer.wait(now, int(size))
        while limiter.may_send(now, in_flight) and (in_flight == 0 or not alone) and not paced:
            in_flight += 1
            trace.sent += 1
            arrive()
            size = rng.uniform(500, 1500)
            paced = pacer.wait(now, int(size))
        speed = gateway.speed(now, held)
        soonest = now + max(0.0, working[0][0] - virtual) / speed if working else float("inf")
        due = timed[0][0] if timed else float("inf")
        thaw = now + max(limiter.frozen_for(now), paced) if limiter.frozen_for(now) > 0 or paced else float("inf")
        following = min(soonest, due, thaw)
        if following >= seconds:
            return trace
        virtual += (following - now) * speed
        now = following
        if following == thaw and thaw < min(soonest, due):
            continue
        if soonest <= due:
            _, number, sent, _ = heapq.heappop(working)
            held -= 1
            kind, retry_after = "answered", None
        else:
            _, number, kind, sent, retry_after = heapq.heappop(timed)
            if kind == "change":
                continue
            waiting -= kind == "answered"
            failing -= kind in {"refused", "failed"}
        if kind == "answered" and gateway.ours:
            began, read_at = now, max(now, read_at) + gateway.ours
            wait = read_at - gateway.ours - began + 4 * gateway.busy
            heapq.heappush(timed, (read_at + 4 * gateway.busy, number, "read", sent, wait))
            continue
        in_flight -= 1
        if kind == "read":
            kind = "answered"
            if isinstance(limiter, Limiter):
                limiter.waited(now, (retry_after or 0.0) / 4)
        if number in marks:
            mark, told = marks.pop(number)
            pacer.told(now, mark, told, refused=kind == "refused")
        if kind == "answered":
            trace.answers.append(now)
            limiter.succeeded(now, seconds=now - sent, output_tokens=0)
        elif kind == "refused":
            trace.refusals.append(now)
            limiter.refused(now, seconds=now - sent, in_flight=in_flight, retry_after=retry_after, jitter=rng.random())
        else:
            trace.failures.append(now)
            limiter.failed(now, seconds=now - sent, jitter=rng.random())
        trace.limits.append((now, limiter.limit))


MEAN = 1.046  # seconds, of `narrow`
_MOVES: Schedule = ((0.0, 30.0), (300.0, 8.0), (600.0, 60.0))


def cliff(slots: float, over: str, **more: Any) -> Gateway:
    """A gateway for `slots` requests."""
    return Gateway(ideal=steady(slots / MEAN), slots=steady(slots), over=over, **more)


def moving(over: str, **more: Any) -> Gateway:
    """30 slots, then 8, then 60."""
    ideal = tuple((since, slots / MEAN) for since, slots in _MOVES)
    return Gateway(ideal=ideal, slots=_MOVES, over=over, **more)


def open_gateway(mean: float, *, slow: Schedule = PLAIN, **more: Any) -> Gateway:
    """A gateway without a limit, whose ideal is the cap of 256."""
    ideal = tuple((since, 256 / mean / factor) for since, factor in slow)
    return Gateway(ideal=ideal, slow=slow, **more)


def own_core(seconds: float) -> Gateway:
    """A gateway without a limit, faster than what a core can read: 1.5 ms an answer."""
    return Gateway(ideal=steady(1 / 1.5e-3), seconds=lambda rng: seconds * narrow(rng), ours=1.5e-3)


def spikes(factor: float, length: float, every: float) -> Schedule:
    """Times of `length` seconds in which all is slower."""
    moments = [(every * number, factor) for number in range(1, 20)]
    return ((0.0, 1.0), *(pair for since, value in moments for pair in ((since, value), (since + length, 1.0))))


CLIFFS: dict[str, Any] = {
    "429": {"over": "refuse"},
    "quick 503": {"over": "fail"},
    "slow 503": {"over": "fail", "quick": 1.0},
    "very slow 503": {"over": "fail", "quick": 5.0},
    "crowding 503": {"over": "crowd", "quick": 1.0},
    "queue": {"over": "wait"},
    "flat": {"over": "divide"},
    "falling": {"over": "divide", "power": 2.0},
    "x10 for all": {"over": "stall"},
    "x10 for new ones": {"over": "stick"},
}
GATEWAYS: dict[str, Gateway] = (
    {f"{kind}, 30": cliff(30, **more) for kind, more in CLIFFS.items()}
    | {f"{kind}, 200": cliff(200, **more) for kind, more in CLIFFS.items()}
    | {f"{kind}, {n}": cliff(n, **more) for n in (1, 2, 4) for kind, more in CLIFFS.items()}
    | {f"{kind}, 30 8 60": moving(**more) for kind, more in CLIFFS.items()}
    | {
        "open": open_gateway(MEAN),
        "open, fast": open_gateway(MEAN / 5, seconds=lambda rng: narrow(rng) / 5),
        "open, cold start": open_gateway(MEAN, cold=8.0),
        "1 % 429": open_gateway(MEAN, refused=steady(0.01)),
        "1 % slow 429": open_gateway(MEAN, refused=steady(0.01), quick=1.0),
        "1 % 503": open_gateway(MEAN, failed=steady(0.01)),
        "5 % 503": open_gateway(MEAN, failed=steady(0.05)),
        "heavy tail": open_gateway(1.65, seconds=heavy),
        "10 % of 10 s": open_gateway(1.9, seconds=mixed(0.1)),
        "30 % of 10 s": open_gateway(3.7, seconds=mixed(0.3)),
        "50 % of 10 s": open_gateway(5.5, seconds=mixed(0.5)),
        "spikes x5": open_gateway(MEAN, slow=spikes(5.0, 5.0, 60.0)),
        "spikes x20": open_gateway(MEAN, slow=spikes(20.0, 10.0, 100.0)),
        "30, heavy, 429": Gateway(ideal=steady(30 / 1.65), slots=steady(30), over="refuse", seconds=heavy),
        "30, heavy, falling": Gateway(
            ideal=steady(30 / 1.65), slots=steady(30), over="divide", power=2.0, seconds=heavy
        ),
        "30, heavy, x10": Gateway(ideal=steady(30 / 1.65), slots=steady(30), over="stall", seconds=heavy),
        "30, 1 % 429, 429": cliff(30, "refuse", refused=steady(0.01)),
        "600 a minute": Gateway(ideal=steady(10), per_minute=600),
        "6000 a minute": Gateway(ideal=steady(100), per_minute=6000),
        "600k tokens a minute": Gateway(ideal=steady(10), tokens_per_minute=600_000),
        "600 a minute, told": Gateway(ideal=steady(10), per_minute=600, tells=True),
        "6000 a minute, told": Gateway(ideal=steady(100), per_minute=6000, tells=True),
        "600 a minute, told, shared": Gateway(ideal=steady(5), per_minute=600, tells=True, others=0.5),
        "6000 a minute, told, shared": Gateway(ideal=steady(50), per_minute=6000, tells=True, others=0.5),
        "600k tokens a minute, told": Gateway(ideal=steady(10), tokens_per_minute=600_000, tells=True),
    }
)


# Where the client's own core is the limit
OWN_CORE: Mapping[str, Gateway] = {
    "0.1 s": own_core(0.1),
    "0.02 s": own_core(0.02),
    "busy": open_gateway(0.1046 + 0.08, seconds=lambda rng: narrow(rng) / 10, ours=1e-4, busy=0.02),
}


def three_seconds(rng: random.Random) -> float:
    """About 3, with the tail of a language model: mean 3.14."""
    return rng.lognormvariate(math.log(3.0), 0.3)


_RIGHT = 60 / 3.14  # answers a second, at 60 in flight
_SQUEEZE: Schedule = ((0.0, 60.0), (200.0, 20.0), (400.0, 60.0))
# The right limit is 60, for ten minutes
COMPARED: Mapping[str, Gateway] = {
    "hard cap": Gateway(steady(_RIGHT), three_seconds, slots=steady(60), over="refuse"),
    "RPM bucket": Gateway(steady(_RIGHT), three_seconds, per_minute=60 * _RIGHT, tells=True),
    "TPM bucket": Gateway(steady(_RIGHT), three_seconds, tokens_per_minute=60_000 * _RIGHT, tells=True),
    "queue": Gateway(steady(_RIGHT), three_seconds, slots=steady(60), over="wait"),
    "60, 20, 60": Gateway(
        tuple((since, slots / 3.14) for since, slots in _SQUEEZE), three_seconds, slots=_SQUEEZE, over="refuse"
    ),
    "shared account": Gateway(steady(_RIGHT), three_seconds, per_minute=120 * _RIGHT, tells=True, others=0.5),
}
