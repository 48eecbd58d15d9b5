"""The truth about each request, written down before its reply leaves: tests kill the client and read it afterwards."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any


@dataclass
class Record:
    """One request. `at` is in seconds since the gateway began; `fault` is empty where the reply is as it should be.

    `account` is a name, never a key. `billed` is what the account lost; `told` what the reply said of it, None where it
    said nothing. `arrived` maps the texts of a whole and honest reply to their labels, and is empty for any other.
    """

    number: int
    at: float
    account: str
    nonce: str
    texts: list[str]
    max_tokens: int
    fault: str = ""
    status: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    billed: Decimal = Decimal(0)
    told: Decimal | None = None
    arrived: dict[str, Any] = field(default_factory=dict)
    in_batch: bool = False


class Log:
    """The records in the order in which they were written; in a file of JSON lines too, where one is named."""

    def __init__(self, path: Path | None = None) -> None:
        self.records: list[Record] = []
        self._file = None if path is None else path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Write `record` down."""
        self.records.append(record)
        if self._file is not None:
            self._file.write(json.dumps(dataclasses.asdict(record), default=str) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    @property
    def billed(self) -> Decimal:
        """What all requests together cost."""
        return sum((record.billed for record in self.records), Decimal(0))

    def counts(self) -> Mapping[str, int]:
        """Requests by their fault; those without one under the empty name."""
        counts: dict[str, int] = {}
        for record in self.records:
            counts[record.fault] = counts.get(record.fault, 0) + 1
        return counts


def read_log(path: Path) -> list[Record]:
    """The records in a file; a last line that was cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            break
        told = fields["told"]
        fields |= {"billed": Decimal(fields["billed"]), "told": None if told is None else Decimal(told)}
        records.append(Record(**fields))
    return records
