"""A request is written in the fullest form that its gateway has not refused. A step down is never undone or repeated.

So the number of refusals of a job is bounded: each of them leaves out one thing more, and there are few things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from packer.prompts import map_schemas


class Form(StrEnum):
    """How the answer's schema is asked for, from the most to the least that a gateway may know."""

    SCHEMA = "json_schema"
    PLAIN_SCHEMA = "json_schema without patterns"
    OBJECT = "json_object"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one request is written; `limit` is the name under which max_tokens is sent.

    `logprobs` may be asked for where a prompt wants them.
    """

    form: Form
    limit: str
    temperature: bool = True
    logprobs: bool = True


class Dialects:
    """The dialect of a job with one gateway, as it becomes known.

    `forms` and `limits` are the steps that the gateway's format has, the fullest first.
    """

    def __init__(self, forms: Sequence[Form], limits: Sequence[str]) -> None:
        self.current = Dialect(forms[0], limits[0])
        self._forms = tuple(forms)
        self._limits = tuple(limits)
        self._refused: list[str] = []

    def refused(self) -> tuple[str, ...]:
        """What was refused so far, in the gateway's words (`response_format json_schema`, `temperature`)."""
        return tuple(self._refused)

    def refuse(self, setting: str, sent: Dialect, *, keep_schema: bool) -> str | None:
        """Leave out `setting`, which was refused in a request written as `sent`.

        `keep_schema`: something in the schema is refused, and a simpler one may pass. Returns the name of what was
        refused, None where nothing is left to leave out. A request that was under way when the same thing was refused
        to another one leaves out nothing more.
        """
        name, smaller = self._smaller(setting, sent, keep_schema=keep_schema)
        if smaller is None:
            return None
        if name not in self._refused:
            self._refused.append(name)
            if setting == "temperature":
                self.current = replace(self.current, temperature=False)
            elif setting == "logprobs":
                self.current = replace(self.current, logprobs=False)
            elif setting == "response_format":
                self.current = replace(self.current, form=max(self.current.form, smaller.form, key=self._forms.index))
            else:
                self.current = replace(self.current, limit=smaller.limit)
        return name

    def _smaller(self, setting: str, sent: Dialect, *, keep_schema: bool) -> tuple[str, Dialect | None]:
        if setting == "temperature":
            return setting, replace(sent, temperature=False) if sent.temperature else None
        if setting == "logprobs":
            return setting, replace(sent, logprobs=False) if sent.logprobs else None
        if setting == "response_format":
            forms = self._forms[self._forms.index(sent.form) + 1 :]
            if sent.form is Form.SCHEMA and not keep_schema:
                forms = tuple(form for form in forms if form is not Form.PLAIN_SCHEMA)
            kept = forms[:1] == (Form.PLAIN_SCHEMA,)
            name = (
                f"{setting} {Form.SCHEMA if sent.form is Form.PLAIN_SCHEMA else sent.form}{' pattern' if kept else ''}"
            )
            return name, replace(sent, form=forms[0]) if forms else None
        limits = self._limits[self._limits.index(sent.limit) + 1 :]
        return setting, replace(sent, limit=limits[0]) if limits else None


def without_patterns(schema: Any) -> Any:
    """`schema` without the `pattern` keyword, which constrained decoding supports least."""
    return map_schemas(schema, lambda part: {name: inner for name, inner in part.items() if name != "pattern"})
