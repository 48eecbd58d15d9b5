"""What sends a prompt and gives a reply or one `TransportError`. Nothing here sends anything twice.

What a gateway refuses is found out once a job and left out from then on; the request that found it out is a failure
like any other, and `recovery.py` decides what follows it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from packer.dialects import Dialect, Dialects, Form, without_patterns
from packer.errors import Failure, TransportError
from packer.exchange import Charge, ChargeSource, Prompt, Reply
from packer.headers import (
    CHARGE_HEADER,
    is_charge_garbled,
    read_balance,
    read_buckets,
    read_charge,
    read_retry_after,
    read_usd,
)
from packer.prompts import names_pack
from packer.refusals import (
    Refusal,
    classify,
    clean_message,
    is_inside_schema,
    mask_secret,
    read_refusal,
    refused_setting,
)
from packer.replies import Reading, has_usage, read_completion, read_cost, read_error

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from packer.wire import Call, Wire

# What an SDK holds in the place of a key, which only the wire knows
PLACEHOLDER = "kept-in-the-wire"
# Where an answer names its pack, in any of the shapes that are asked for: near its beginning
_PACK = re.compile(r'"pack"\s*:\s*"(\w+)"')
_LONGEST_HEAD = 200
# Output tokens that a gateway may count beyond max_tokens without having ignored it
_MISCOUNT = 16
# A shorter key is a placeholder for a server without keys: hiding it would cut letters and words out of answers
_SHORTEST_SECRET = 8


class Transport(Protocol):
    """Sends prompts to one model."""

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        """The reply to `prompt`, within `deadline` seconds for the whole call. Raises `TransportError` only."""
        ...

    def refused_settings(self) -> tuple[str, ...]:
        """The optional settings that the gateway refused so far in this job."""
        ...

    def is_free(self) -> bool:
        """Whether no money is ever taken."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class HttpTransport(ABC):
    """What all transports over HTTP share: a wire, a dialect, and what a call that has ended means.

    `secret` is the key, which no message shows. A subclass writes requests with its SDK and reads replies in its
    format.
    """

    def __init__(
        self,
        wire: Wire,
        dialects: Dialects,
        *,
        secret: str | None,
        charge_header: str = CHARGE_HEADER,
    ) -> None:
        self._wire = wire
        self._dialects = dialects
        self._secret = secret
        self._charge_header = charge_header
        self._plain: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        """The reply to `prompt`, within `deadline` seconds for the whole call. Raises `TransportError` only."""
        self._open()
        dialect = self._dialects.current
        began = asyncio.get_running_loop().time()
        call = await self._wire.call(lambda: self._ask(prompt, dialect), deadline=deadline)
        # Raised outside of every except clause: a foreign error as cause would bring along its request and its words
        return self._reply(call, prompt, dialect, asyncio.get_running_loop().time() - began)

    def refused_settings(self) -> tuple[str, ...]:
        """The optional settings that the gateway refused so far in this job."""
        return self._dialects.refused()

    def is_free(self) -> bool:
        """False: whoever answers may charge, and a price of nothing is the price table's to say."""
        return False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()

    @abstractmethod
    def _open(self) -> None:
        """Import the SDK and make its client, once. That takes the most of a second, which no deadline counts."""

    @abstractmethod
    async def _ask(self, prompt: Prompt, dialect: Dialect) -> None:
        """Let the SDK send the one request."""

    @abstractmethod
    def _read(self, body: Any) -> Reading | None:
        """What a reply's JSON says; None where it is no reply."""

    def _schema(self, prompt: Prompt, dialect: Dialect) -> Mapping[str, Any]:
        """The schema that a request in `dialect` carries."""
        if dialect.form is not Form.PLAIN_SCHEMA:
            return prompt.schema
        if self._plain[0] is not prompt.schema:
            self._plain = (prompt.schema, without_patterns(prompt.schema))
        return self._plain[1]

    def _reply(self, call: Call, prompt: Prompt, dialect: Dialect, seconds: float) -> Reply:
        if call.status is None or call.untrusted:
            raise self._failed(call, _without_reply(call), call.trouble)
        if not call.complete and call.status in {200, 400, 404, 422}:
            # the other statuses say without their bodies what is to be done
            raise self._failed(call, Failure.MALFORMED if call.garbled else Failure.CUT, f"cut off: {call.trouble}")
        try:
            body = json.loads(call.body)
        except (ValueError, RecursionError) as error:
            # a body without a length ends where the connection does, and nobody says that it is not whole
            broken = isinstance(error, json.JSONDecodeError) and error.doc.lstrip()[:1] == "{" and _is_open(error)
            body = None
        else:
            broken = False
        if call.status != 200 or (error_body := read_error(body)) is not None:
            told = error_body if call.status == 200 else body
            refusal = read_refusal(call.status, told if told is not None else _text(call))
            raise self._refused(call, prompt, dialect, refusal, told=body)
        reading = self._read(body)
        if reading is None:
            failure = Failure.CUT if broken else Failure.MALFORMED
            wanted = f"expected a completion, got {_text(call)[:100]!r}"
            raise self._failed(call, failure, wanted, told=body)
        if reading.usage is not None and reading.usage.output_tokens > prompt.max_tokens + _MISCOUNT:
            # Older servers take an unknown name for the limit in silence, and no reserve would be a bound any more
            self._dialects.refuse(dialect.limit, dialect, keep_schema=False)
        if _is_of_another(reading.text, prompt):
            call.distrust()
        charge = self._charge(call, reading.cost)
        garbled = charge is None and is_charge_garbled(call.headers, self._charge_header)
        balance = read_balance(call.headers)
        buckets = read_buckets(call.headers, now=time.time())
        is_secret = len(self._secret or "") >= _SHORTEST_SECRET
        text = mask_secret(reading.text, self._secret) if is_secret else reading.text
        tokens = reading.tokens if prompt.logprobs else None
        return Reply(text, reading.stop_reason, seconds, reading.usage, charge, balance, garbled, buckets, tokens)

    def _refused(self, call: Call, prompt: Prompt, dialect: Dialect, refusal: Refusal, *, told: Any) -> TransportError:
        wait = read_retry_after({**refusal.hints, **call.headers}, now=time.time())
        setting = refused_setting(refusal, limit=dialect.limit, logprobs=prompt.logprobs and dialect.logprobs)
        if setting is not None:
            keep = is_inside_schema(refusal) and without_patterns(prompt.schema) != prompt.schema
            name = self._dialects.refuse(setting, dialect, keep_schema=keep)
            if name is not None:
                return self._failed(call, Failure.SETTING_REFUSED, refusal.message, setting=name, told=told)
        failure, message = classify(refusal), refusal.message
        if call.status == 404 and failure is Failure.BAD_REQUEST:
            message = f"{message or 'not found'} (is the base URL right?)"
        return self._failed(call, failure, message, retry_after=wait, told=told)

    def _failed(
        self,
        call: Call,
        failure: Failure,
        message: str,
        *,
        retry_after: float | None = None,
        setting: str | None = None,
        told: Any = None,
    ) -> TransportError:
        """`told` is the reply's JSON, None where there is none."""
        status = "" if call.status is None else f"HTTP {call.status}: "
        charge = self._charge(call, read_cost(told))
        worked = (call.status == 200 and has_usage(told)) or is_charge_garbled(call.headers, self._charge_header)
        return TransportError(
            failure,
            clean_message(f"{status}{message or failure}", secret=self._secret),
            status=call.status,
            retry_after=retry_after,
            charge=charge,
            balance=read_balance(call.headers),
            setting=setting,
            buckets=read_buckets(call.headers, now=time.time()),
            may_be_billed=charge is None and worked,
        )

    def _charge(self, call: Call, cost: Any) -> Charge | None:
        """What was told: by a header, else by the body's `cost`."""
        told, usd = read_charge(call.headers, self._charge_header), read_usd(cost)
        return Charge(usd, ChargeSource.BODY) if told is None and usd is not None else told


class GatewayTransport(HttpTransport):
    """Any gateway that speaks OpenAI's chat completions, through the `openai` SDK.

    `base_url` ends before `/chat/completions`. `api_key` None sends none. `connections` is the most that are open at
    once and has to be as many as there are requests in flight. `charge_header` names what tells a request's price.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        api_key: str | None,
        connections: int,
        charge_header: str = CHARGE_HEADER,
    ) -> None:
        from packer.wire import Wire  # noqa: PLC0415  aiohttp: not for who labels with the local model

        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        wire = Wire(base_url, headers, connections=connections)
        dialects = Dialects(tuple(Form), ("max_completion_tokens", "max_tokens"))
        super().__init__(wire, dialects, secret=api_key, charge_header=charge_header)
        self._model = model
        self._options: dict[str, Any] = {"api_key": PLACEHOLDER, "base_url": base_url, "max_retries": 0}
        self._client: AsyncOpenAI | None = None
        self._raw: Any = None
        # whole: the SDK parses an address three times more to join it from two parts
        self._url = f"{base_url.rstrip('/')}/chat/completions"

    def _open(self) -> None:
        if self._client is None:
            import httpx2  # noqa: PLC0415  slow, and it comes with openai
            import openai  # noqa: PLC0415  slow

            self._raw = httpx2.Response
            self._client = openai.AsyncOpenAI(http_client=self._wire.client(httpx2), **self._options)

    async def _ask(self, prompt: Prompt, dialect: Dialect) -> None:
        assert self._client is not None
        # The bare post: the SDK's documented ways to the headers take twice the CPU, and the wire has read them already
        await self._client.post(self._url, cast_to=self._raw, body=self._write(prompt, dialect))

    def _write(self, prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            dialect.limit: prompt.max_tokens,
        }
        if dialect.temperature:
            body["temperature"] = 0
        if prompt.logprobs and dialect.logprobs:
            body["logprobs"] = True
        if dialect.form in {Form.SCHEMA, Form.PLAIN_SCHEMA}:
            schema = {"name": "answer", "strict": True, "schema": self._schema(prompt, dialect)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif dialect.form is Form.OBJECT:
            body["response_format"] = {"type": "json_object"}
        return body

    def _read(self, body: Any) -> Reading | None:
        return read_completion(body)


def _without_reply(call: Call) -> Failure:
    if call.untrusted:
        return Failure.UNTRUSTED
    if not call.sent:
        return Failure.BAD_REQUEST if call.unwritten else Failure.NOT_SENT
    return Failure.MALFORMED if call.garbled else Failure.LOST


def _is_of_another(text: str, prompt: Prompt) -> bool:
    """Whether a reply names another pack: whoever mixes replies up may have the next one waiting on this connection."""
    named = _PACK.search(text, 0, _LONGEST_HEAD)
    return named is not None and not names_pack(prompt.user, named[1])


def _text(call: Call) -> str:
    return call.body[:4_000].decode("utf-8", "replace")


def _is_open(error: json.JSONDecodeError) -> bool:
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
