"""Settled + in doubt + reserved never passes the cap: money is set aside before it is spent. Whole nano-USD.

A charge over its reserve is booked in full all the same, and stops the job: the gateway's word is money.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from packer.usage import floor_nano, to_nano, to_usd


@dataclass(slots=True)
class Budget:
    """The money of one job. `cap` None means no cap.

    `spent`, `doubt` and `waiting` are what earlier runs of it left behind; what waits is in flight still.
    """

    cap: Decimal | None = None
    spent: Decimal = Decimal(0)
    doubt: Decimal = Decimal(0)
    waiting: Decimal = Decimal(0)
    _cap: int | None = field(init=False)
    _settled: int = field(init=False)
    _doubt: int = field(init=False)
    _reserved: int = field(init=False)

    def __post_init__(self) -> None:
        self._cap = None if self.cap is None else floor_nano(self.cap)
        self._settled = to_nano(self.spent)
        self._doubt = to_nano(self.doubt)
        self._reserved = to_nano(self.waiting)

    @property
    def settled(self) -> Decimal:
        """USD that is known to be spent, earlier runs included."""
        return to_usd(self._settled)

    @property
    def in_doubt(self) -> Decimal:
        """USD that may be spent: the reserves of requests whose fate is unknown."""
        return to_usd(self._doubt)

    @property
    def reserved(self) -> Decimal:
        """USD set aside for what is in flight."""
        return to_usd(self._reserved)

    def has_room(self, worst: Decimal) -> bool:
        """Whether `worst` can be reserved now."""
        return self._cap is None or self._settled + self._doubt + self._reserved + to_nano(worst) <= self._cap

    def may_grow(self, worst: Decimal) -> bool:  # noqa: ARG002  what is lent may
        """Whether there may be room for `worst` later although nothing is in flight."""
        return False

    def reserve(self, worst: Decimal) -> Decimal:
        """Set `worst` aside. Raises `ValueError` where there is no room (ask `has_room` first)."""
        if not self.has_room(worst):
            raise ValueError(f"no room for {worst} USD under the cap of {self.cap} USD")
        self._reserved += to_nano(worst)
        return to_usd(to_nano(worst))

    def settle(self, reserve: Decimal, charge: Decimal) -> None:
        """Book what was charged for a request, and release its reserve."""
        self._reserved -= to_nano(reserve)
        self._settled += to_nano(charge)

    def hold(self, reserve: Decimal) -> None:
        """Keep the reserve of a request whose fate is unknown."""
        self._reserved -= to_nano(reserve)
        self._doubt += to_nano(reserve)

    def reopen(self, reserve: Decimal) -> None:
        """Take a reserve out of doubt: what became of its request is known now, and booked next."""
        self._doubt -= to_nano(reserve)
        self._reserved += to_nano(reserve)

    def release(self, reserve: Decimal) -> None:
        """Give back the reserve of a request that never left."""
        self._reserved -= to_nano(reserve)
