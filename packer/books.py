"""What the gateway tells of money and of tokens, added up: by source, by how much was in flight, and what is left.

The books tell, and a balance warns; only `budget.py` binds. A balance is information: it moves with other people's
requests and with payments, and replies overtake each other. So only two low ones in a row count as low.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from packer.events import Level
from packer.exchange import Charge, ChargeSource
from packer.usage import Usage

# Whoever told a charge in one of these ways tells one for every request
_TOLD = {ChargeSource.HEADER, ChargeSource.PROXY, ChargeSource.BODY}


@dataclass(slots=True)
class Books:
    """The sums of one job's run.

    `unpriced` requests cost what nobody knows; `doubt_requests` may have been billed without a word, and asked for
    `doubt_texts` texts; `assumed` USD are booked for answers whose charge was not told. These four begin with what
    earlier runs left behind.
    """

    unpriced: int = 0
    doubt_requests: int = 0
    doubt_texts: int = 0
    assumed: Decimal = Decimal(0)
    usage: Usage = field(default=Usage(0, 0), init=False)
    sources: dict[ChargeSource, int] = field(default_factory=dict, init=False)
    balance: Decimal | None = field(default=None, init=False)
    _balance_before: Decimal | None = field(default=None, init=False)
    _largest: Decimal = field(default=Decimal(0), init=False)
    _levels: dict[int, _Sum] = field(default_factory=dict, init=False)

    def charged(self, charge: Charge) -> None:
        """Book a charge."""
        self.sources[charge.source] = self.sources.get(charge.source, 0) + 1
        self._largest = max(self._largest, charge.usd)
        if charge.source is ChargeSource.RESERVE:
            self.assumed += charge.usd

    def doubted(self, *, texts: int, priced: bool) -> None:
        """Book a request whose fate is unknown; `priced` where its reserve is known."""
        self.doubt_requests += 1
        self.doubt_texts += texts
        self.unpriced += not priced

    def reopened(self, *, texts: int, priced: bool) -> None:
        """Take back what `doubted` booked: the request's fate is known now."""
        self.doubt_requests -= 1
        self.doubt_texts -= texts
        self.unpriced -= not priced

    def told(self, usage: Usage | None, balance: Decimal | None) -> None:
        """Book what a reply, or a refusal, told besides; None where it did not."""
        if usage is not None:
            self.usage += usage
        if balance is not None:
            self._balance_before, self.balance = self.balance, balance

    def tells_charges(self) -> bool:
        """Whether the gateway has told what a request took."""
        return not _TOLD.isdisjoint(self.sources)

    def is_low(self, worst: Decimal | None, *, reserved: Decimal, in_flight: int) -> bool:
        """Whether the account may not last for what is in flight and one request more.

        `worst` and `reserved` are the most that the next request and those in flight can cost; where no price is known
        (`worst` None), each of them is taken for the largest charge so far.
        """
        if self.balance is None or self._balance_before is None:
            return False
        needed = self._largest * (in_flight + 1) if worst is None else reserved + worst
        return max(self.balance, self._balance_before) < needed

    def answered(self, *, in_flight: int, items: int, seconds: float, charge: Charge | None) -> None:
        """Book an answer with `items` sound rows, sent while `in_flight` requests (itself included) were under way."""
        self._levels.setdefault(in_flight.bit_length(), _Sum()).add(in_flight, items, seconds, charge)

    def levels(self) -> tuple[Level, ...]:
        """Cost and pace by how much was in flight, in powers of two, the least first."""
        return tuple(total.level(bits) for bits, total in sorted(self._levels.items()))

    def add(self, other: Books) -> None:
        """Take the sums of another gateway in; its balance and levels are its own."""
        self.unpriced += other.unpriced
        self.doubt_requests += other.doubt_requests
        self.doubt_texts += other.doubt_texts
        self.assumed += other.assumed
        self.usage += other.usage
        for source, count in other.sources.items():
            self.sources[source] = self.sources.get(source, 0) + count


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    items: int = 0
    in_flight: int = 0
    seconds: float = 0.0
    usd: Decimal | None = Decimal(0)

    def add(self, in_flight: int, items: int, seconds: float, charge: Charge | None) -> None:
        self.requests += 1
        self.items += items
        self.in_flight += in_flight
        self.seconds += seconds
        self.usd = None if self.usd is None or charge is None else self.usd + charge.usd

    def level(self, bits: int) -> Level:
        # Little's law: what is in flight is the pace times the time that one takes
        pace = self.items * self.in_flight / self.requests / self.seconds if self.seconds > 0 else None
        return Level(
            least=1 << (bits - 1),
            most=(1 << bits) - 1,
            requests=self.requests,
            items=self.items,
            usd=self.usd,
            usd_an_item=self.usd / self.items if self.usd is not None and self.items else None,
            items_a_second=pace,
        )
