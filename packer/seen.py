"""What a table has shown so far is remembered on the disk: memory does not grow with it."""

from __future__ import annotations

import hashlib
import sqlite3

from packer.errors import InputError


class Seen:
    """The keys seen so far, as digests in a nameless database that ends with the process."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", "cache_size = -32000"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, key: str, line: int) -> int | None:
        """None for a new key, else the line with which it came first. Raises `InputError` where the disk is full."""
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        try:
            self._database.execute("INSERT INTO seen VALUES (?, ?)", (digest, line))
        except sqlite3.IntegrityError:
            found = self._database.execute("SELECT line FROM seen WHERE key = ?", (digest,)).fetchone()
            return int(found[0])
        except sqlite3.Error as error:
            raise InputError(f"line {line}: the rows cannot be compared: {error}", line=line) from error
        return None

    def close(self) -> None:
        """Forget everything."""
        self._database.close()
