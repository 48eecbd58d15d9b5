"""Random replies, failures, kills and resumes: "every item ends in exactly one reported state", and the other laws.

A kill is a transport that dies in mid-request: what was committed is there, what was open is in doubt. Each example is
one job over as many runs as it takes; the fake gateway's own log is what the ledger and the results are held against.
"""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from packer.errors import Failure, TransportError
from packer.exchange import Charge, ChargeSource, Prompt, Reply, StopReason
from packer.items import Result, Status, canonical_json, key_maker, normalise_text
from packer.ledger import AttemptState, Ledger
from packer.packs import PackLimits
from packer.prompts import read_user, write_answer
from packer.runner import Runner
from packer.task import Task
from packer.testing import FakeClock, FakeTransport
from packer.usage import Price, Usage

LABELS = [f"label {number}" for number in range(6)]
PRICE = Price(Decimal("0.15"), Decimal("0.6"))

FAULTS = ["right"] * 12 + ["cut", "shifted", "foreign", "prose", "lost row", "charged too little", "kill", *Failure]
CURABLE = [
    fault
    for fault in FAULTS
    if fault not in {Failure.KEY_REFUSED, Failure.QUOTA, Failure.UNKNOWN_MODEL, Failure.UNTRUSTED}
]


class Killed(BaseException):
    """The process is gone."""


def right_label(text: str) -> str:
    return LABELS[sum(map(ord, text)) % len(LABELS)]


CANARIES = [f"canary {number}" for number in range(8)]
TASK = Task(LABELS, canaries=[(text, right_label(text)) for text in CANARIES])


@dataclass
class Gateway:
    """Decides each request's fate, and keeps the log that the ledger must agree with."""

    data: st.DataObject
    faults: list[str]
    charged: Decimal = Decimal(0)
    answered: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def transport(self) -> FakeTransport:
        return FakeTransport(
            TASK, right_label, seconds=lambda _: self.data.draw(st.sampled_from([0.1, 1.0, 7.0])), fault=self.fate
        )

    def fate(self, prompt: Prompt, _: int) -> Reply | TransportError:
        self.requests += 1
        fault = self.data.draw(st.sampled_from(self.faults), label="fault")
        if fault == "kill":
            raise Killed
        if fault in set(Failure):
            failure = Failure(fault)
            told = failure is Failure.CUT and self.data.draw(st.booleans())
            return TransportError(failure, "words", retry_after=2.0, charge=self.charge(prompt) if told else None)
        nonce, texts = read_user(prompt.user)
        rows = {number: right_label(text) for number, text in enumerate(texts, 1)}
        if fault == "shifted":
            rows = {number + 1: label for number, label in rows.items()}
        elif fault == "foreign":
            nonce = "zzzz"
        elif fault == "lost row":
            rows.pop(self.data.draw(st.sampled_from(sorted(rows))))
        text = write_answer(TASK, nonce, rows)
        if fault == "cut":
            text = text[: self.data.draw(st.integers(0, len(text) - 1))]
        elif fault == "prose":
            text = "I cannot help with that."
        stop = StopReason.MAX_TOKENS if fault == "cut" else StopReason.STOP
        return Reply(text, stop, 1.0, Usage(len(prompt.user) // 4 + 50, len(text) // 4), self.charge(prompt))

    def charge(self, prompt: Prompt) -> Charge:
        usd = Decimal(len(prompt.system + prompt.user)) / 40_000_000
        self.charged += usd
        return Charge(usd, ChargeSource.HEADER)


async def one_run(
    texts: list[str], gateway: Gateway, ledger: Path, *, size: int, hold: bool, cap: Decimal, untrusted: bool
) -> list[Result]:
    async with Runner(
        TASK,
        model="m",
        transport=gateway.transport(),
        ledger=ledger,
        limits=PackLimits(max_items=size),
        budget_usd=cap,
        price=PRICE,
        on_doubt="hold" if hold else "retry",
        untrusted=untrusted,
    ) as runner:
        results = [result async for result in runner.stream(texts)]
        statistics = runner.statistics()
        assert statistics.settled + statistics.in_doubt + statistics.reserved <= cap
        assert statistics.items == len(results)
        assert statistics.reserved == 0
        assert statistics.in_flight == 0
        return results


@settings(max_examples=80)
@given(
    data=st.data(),
    texts=st.lists(st.sampled_from([f"text {n}" for n in range(30)] + ["", " text 3", "\u202etext"]), max_size=60),
    faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=6),
    size=st.integers(1, 25),
    hold=st.booleans(),
    untrusted=st.booleans(),
    cap=st.sampled_from([Decimal("0.0002"), Decimal("0.002"), Decimal(1)]),
)
def test_every_item_ends_in_exactly_one_state_whatever_happens(
    *, data: st.DataObject, texts: list[str], faults: list[str], size: int, hold: bool, untrusted: bool, cap: Decimal
) -> None:
    gateway = Gateway(data, ["right", *faults])
    labelled: dict[str, str] = {}
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / "l.db"
        for _ in range(4):
            try:
                results = FakeClock().run(
                    one_run(texts, gateway, ledger, size=size, hold=hold, cap=cap, untrusted=untrusted)
                )
            except Killed:
                continue
            assert [result.item.text for result in results] == texts, (
                "no row is dropped, none is doubled, order is kept"
            )
            for result in results:
                check(result)
                text = normalise_text(result.item.text)
                if text in labelled:
                    assert (result.label, result.known) == (labelled[text], True), "what was paid for is kept"
            labelled |= {normalise_text(r.item.text): r.label for r in results if r.label is not None}
        with Ledger(ledger) as opened:
            assert opened.verify() == []
            spending = opened.spending(opened_name(ledger))
            assert spending.settled + spending.doubt + spending.open <= cap
            assert opened.statistics().attempts.get(AttemptState.OPEN, 0) == 0
            asked = {normalise_text(text) for text in texts}
            make_key = key_maker(fingerprint=TASK.fingerprint, model="m", parameters={"temperature": 0})
            answers = {row["key"] for row in opened.export()}
            assert answers <= {make_key(text) for text in asked}, "no canary is an item"


@settings(max_examples=60)
@given(
    data=st.data(),
    texts=st.lists(st.sampled_from([f"text {n}" for n in range(40)]), min_size=1, max_size=60),
    faults=st.lists(st.sampled_from(CURABLE), min_size=1, max_size=6),
    size=st.integers(1, 25),
    untrusted=st.booleans(),
)
def test_once_the_gateway_is_well_a_rerun_labels_everything_and_buys_nothing_twice(
    *, data: st.DataObject, texts: list[str], faults: list[str], size: int, untrusted: bool
) -> None:
    sick, well = Gateway(data, ["right", *faults]), Gateway(data, ["right"])
    with TemporaryDirectory() as folder:
        ledger = Path(folder) / "l.db"
        done: set[str] = set()
        try:
            results = FakeClock().run(
                one_run(texts, sick, ledger, size=size, hold=False, cap=Decimal(1), untrusted=untrusted)
            )
            done = {result.item.text for result in results if result.label is not None}
        except Killed:
            pass
        transport = well.transport()

        async def rerun() -> list[Result]:
            async with Runner(
                TASK, model="m", transport=transport, ledger=ledger, price=PRICE, untrusted=untrusted
            ) as runner:
                return [result async for result in runner.stream(texts)]

        results = FakeClock().run(rerun())
        assert [result.label for result in results] == [right_label(text) for text in texts]
        sent = [text for prompt in transport.prompts for text in read_user(prompt.user)[1]]
        again = [text for text in sent if text not in CANARIES]
        assert not done & set(again)
        assert len(again) == len(set(again))


def check(result: Result) -> None:
    text = normalise_text(result.item.text)
    if result.status is Status.LABELLED:
        assert result.label == right_label(text), "an answer reaches only the item it names"
        assert result.error == ""
    else:
        assert result.label is None
        assert result.error


def opened_name(ledger: Path) -> str:
    assert ledger.exists()
    return canonical_json([TASK.fingerprint, "m", ""])
