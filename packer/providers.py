"""The providers that are not compatible with OpenAI, each behind `instructor`, all of them over the same wire.

instructor makes the request of a provider's SDK: it is called with `response_model=None`, its documented way to the
unparsed completion, because a reply that fails a model's validation would come back as an exception, and what is sound
in it has been paid for. So the answer's schema goes out in the provider's own parameter, and replies are read by
`answers.py` like everybody's. `from_provider` takes neither a base URL nor an HTTP client nor "no retries" for each of
them, so their clients are made here and handed to `from_anthropic` and `from_genai`, which it would call itself.

What that leaves out: no prompt caching (a labelling prompt is below the providers' minimum), and a cache write is
priced as plain input.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, ClassVar

from packer.dialects import Dialect, Dialects, Form
from packer.errors import CallError
from packer.exchange import Prompt
from packer.headers import CHARGE_HEADER
from packer.replies import Reading, read_candidate, read_message
from packer.transport import PLACEHOLDER, HttpTransport


class ProviderTransport(HttpTransport):
    """One model of one provider.

    `model` is its name without the provider's. `base_url` None means the provider's own. `connections` is the most that
    are open at once. Raises `CallError` where the extra is not installed.
    """

    EXTRA: ClassVar[str]
    MODULES: ClassVar[tuple[str, ...]]
    URL: ClassVar[str]
    KEY_HEADER: ClassVar[str]
    PASSED: ClassVar[tuple[str, ...]] = ()
    LIMIT: ClassVar[str]
    FORMS: ClassVar[tuple[Form, ...]]

    def __init__(
        self,
        model: str,
        *,
        api_key: str,
        connections: int,
        base_url: str | None = None,
        charge_header: str = CHARGE_HEADER,
    ) -> None:
        if not all(map(_is_installed, ("instructor", *self.MODULES))):
            extra = f"prompt-packer[{self.EXTRA}]"
            raise CallError(f"model {self.EXTRA}/{model}: needs an extra; install it with: pip install '{extra}'")
        from packer.wire import Wire  # noqa: PLC0415  aiohttp

        self._base_url = base_url or self.URL
        wire = Wire(self._base_url, {self.KEY_HEADER: api_key}, passed=self.PASSED, connections=connections)
        super().__init__(wire, Dialects(self.FORMS, (self.LIMIT,)), secret=api_key, charge_header=charge_header)
        self._model = model
        self._create: Callable[..., Any] | None = None

    def _open(self) -> None:
        if self._create is None:
            import httpx  # noqa: PLC0415  slow, and it comes with the provider's SDK

            self._create = self._connect(self._wire.client(httpx)).create

    async def _ask(self, prompt: Prompt, dialect: Dialect) -> None:
        assert self._create is not None
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        settings = self._settings(prompt, dialect)
        await self._create(response_model=None, messages=messages, model=self._model, max_retries=0, **settings)

    @abstractmethod
    def _connect(self, http: Any) -> Any:
        """An asynchronous instructor over the HTTP client."""

    @abstractmethod
    def _settings(self, prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
        """The provider's own parameters."""


class AnthropicTransport(ProviderTransport):
    """Anthropic's Messages."""

    EXTRA = "anthropic"
    MODULES = ("anthropic",)
    URL = "https://api.anthropic.com"
    KEY_HEADER = "x-api-key"
    PASSED = ("anthropic-",)
    LIMIT = "max_tokens"
    FORMS = (Form.SCHEMA, Form.PLAIN_SCHEMA, Form.TEXT)

    def _connect(self, http: Any) -> Any:
        import anthropic  # noqa: PLC0415  an extra
        import instructor  # noqa: PLC0415  the same

        client = anthropic.AsyncAnthropic(api_key=PLACEHOLDER, base_url=self._base_url, max_retries=0, http_client=http)
        return instructor.from_anthropic(client)

    def _settings(self, prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
        settings: dict[str, Any] = {self.LIMIT: prompt.max_tokens}
        if dialect.temperature:
            settings["temperature"] = 0
        if dialect.form is not Form.TEXT:
            settings["output_config"] = {"format": {"type": "json_schema", "schema": self._schema(prompt, dialect)}}
        return settings

    def _read(self, body: Any) -> Reading | None:
        return read_message(body)


class GoogleTransport(ProviderTransport):
    """Gemini's generateContent."""

    EXTRA = "google"
    MODULES = ("google.genai", "jsonref")
    URL = "https://generativelanguage.googleapis.com"
    KEY_HEADER = "x-goog-api-key"
    LIMIT = "max_output_tokens"
    FORMS = tuple(Form)

    def _connect(self, http: Any) -> Any:
        import instructor  # noqa: PLC0415  an extra
        from google import genai  # noqa: PLC0415  the same
        from google.genai import types  # noqa: PLC0415  the same

        options = types.HttpOptions(base_url=self._base_url, api_version="v1beta", httpx_async_client=http)
        client = genai.Client(vertexai=False, api_key=PLACEHOLDER, http_options=options)
        return instructor.from_genai(client, use_async=True)

    def _settings(self, prompt: Prompt, dialect: Dialect) -> dict[str, Any]:
        config: dict[str, Any] = {self.LIMIT: prompt.max_tokens}
        if dialect.temperature:
            config["temperature"] = 0
        if dialect.form is not Form.TEXT:
            config["response_mime_type"] = "application/json"
        if dialect.form in {Form.SCHEMA, Form.PLAIN_SCHEMA}:
            config["response_json_schema"] = self._schema(prompt, dialect)
        return {"config": config}

    def _read(self, body: Any) -> Reading | None:
        return read_candidate(body)


PROVIDERS: dict[str, type[ProviderTransport]] = {"anthropic": AnthropicTransport, "google": GoogleTransport}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # not even its parent is
        return False
