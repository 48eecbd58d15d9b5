"""Who is let in: buckets of requests and of tokens, and slots.

Who waits as long as was told is let in, unless somebody else came first.
"""

from dataclasses import dataclass, field


@dataclass
class Bucket:
    """`limit` a minute, full at the start; `None` is no limit."""

    limit: int | None
    left: float = field(default=0.0, init=False)
    at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.left = float(self.limit or 0)

    def take(self, amount: float, now: float) -> float:
        """0 where `amount` is let through, else the seconds after which it would be."""
        if self.limit is None:
            return 0.0
        self.left = min(float(self.limit), self.left + (now - self.at) * self.limit / 60)
        self.at = now
        # what is larger than the bucket passes when it is full; a sum of fractions may lack its last digit
        if self.left > min(amount, self.limit) - 1e-6:
            self.left -= amount
            return 0.0
        return (min(amount, self.limit) - self.left) * 60 / self.limit

    def headers(self, kind: str) -> dict[str, str]:
        """As OpenAI writes them; the reset is the time until the bucket is full."""
        if self.limit is None:
            return {}
        reset = (self.limit - self.left) * 60 / self.limit
        return {
            f"x-ratelimit-limit-{kind}": str(self.limit),
            f"x-ratelimit-remaining-{kind}": str(max(0, int(self.left))),
            f"x-ratelimit-reset-{kind}": write_duration(max(0.0, reset)),
        }


@dataclass
class Slots:
    """How many requests are worked on at once: `schedule` is pairs of (from this second on, so many slots)."""

    schedule: tuple[tuple[float, int], ...] = ()
    taken: int = field(default=0, init=False)

    def at(self, now: float) -> int | None:
        """The slots at a moment; None for no limit."""
        return next((slots for since, slots in reversed(self.schedule) if now >= since), None)

    def has_room(self, now: float) -> bool:
        """Whether one more may come in."""
        slots = self.at(now)
        return slots is None or self.taken < slots


def write_duration(seconds: float) -> str:
    """Seconds as Go writes a duration: `12ms`, `7.66s`, `6m0s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds, 2), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
