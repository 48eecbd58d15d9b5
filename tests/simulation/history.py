"""What one simulated job left behind, told by the gateway, the screen and the ledger; nobody's opinion of it.

The simulator writes a history and the checker reads it. Neither imports the other: they share these words only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from packer.events import Statistics
from packer.items import Result
from packer.ledger import Attempt, Spending


@dataclass(frozen=True)
class Sent:
    """One request as the gateway saw it, numbered from 1 over all runs.

    `texts` are the item texts as they stood in the prompt. `billed` is what the account really lost, told or not;
    `told` is the charge that a header told the client, None where none arrived. `fate` names the fault, `right` for
    none. `arrived` maps each text that an intact reply labelled rightly to its label; it is empty where the reply did
    not arrive, was foreign, shifted, or prose. `honest` is False where the gateway billed more than `worst`.
    """

    number: int
    run: int
    at: float
    nonce: str
    texts: tuple[str, ...]
    max_tokens: int
    worst: Decimal
    billed: Decimal
    told: Decimal | None
    fate: str
    arrived: Mapping[str, str]
    honest: bool


@dataclass(frozen=True)
class Shown:
    """One result as the caller got it, in the order in which it was shown; `sent_before` requests had left by then."""

    result: Result
    sent_before: int


@dataclass(frozen=True)
class Image:
    """What is on the disk: every attempt, every answer (key to value), what is booked, what `verify` complains of."""

    attempts: tuple[Attempt, ...]
    answers: Mapping[str, object]
    spending: Spending
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One process. `died_at` is the failpoint at which it was killed, None where it ended by itself.

    `sent` is the range of numbers of its requests. `statistics` are the last ones, None where it died. `error` is what
    it ended with, None where it ended well. `before` and `after` are the disk when it began and when it was gone.
    """

    number: int
    died_at: str | None
    hold: bool
    sent: range
    shown: tuple[Shown, ...]
    statistics: Statistics | None
    error: BaseException | None
    before: Image | None
    after: Image
    seconds: float


@dataclass(frozen=True)
class History:
    """A whole job: `texts` were asked in every run, under one `cap`; `gold` is the right label of a normalised text.

    `key` gives a normalised text's ledger key. In the last run the gateway is well, the process is not killed, and the
    cap is `last_cap`, which is large enough; all others have `cap`.
    """

    seed: int
    texts: tuple[str, ...]
    cap: Decimal | None
    last_cap: Decimal | None
    gold: Callable[[str], str]
    key: Callable[[str], str]
    requests: tuple[Sent, ...]
    runs: tuple[Run, ...]
