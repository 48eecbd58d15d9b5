"""Which transport a model's name and a base URL mean, and which key goes there. A key goes only where it was meant.

A key that is named for a host by nobody is not sent to it: not the one of another gateway, and not one that happens to
be in the environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from packer.errors import CallError
from packer.headers import CHARGE_HEADER
from packer.providers import PROVIDERS
from packer.transport import GatewayTransport, Transport

OPENAI_URL = "https://api.openai.com/v1"

_KEY_OF_HOST = {
    "api.openai.com": ("OPENAI_API_KEY",),
    "modeldatabase.com": ("MDB_API_KEY",),
    "openrouter.ai": ("OPENROUTER_API_KEY",),
}
_KEY_OF_PROVIDER = {"anthropic": ("ANTHROPIC_API_KEY",), "google": ("GOOGLE_API_KEY", "GEMINI_API_KEY")}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def connect(
    model: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    api_key_env: str | None = None,
    api_key_file: Path | str | None = None,
    connections: int = 100,
    charge_header: str = CHARGE_HEADER,
    batch: bool = False,
) -> Transport:
    """The transport for `model`; with `batch` one that sends through the gateway's Batch API.

    With a `base_url`: any gateway that is compatible with OpenAI, and `model` is what it calls the model. Without one:
    `local` is the embedded model, `anthropic/...` and `google/...` are these providers, everything else is OpenAI.

    The key is `api_key`, or the value of the environment variable `api_key_env`, or the content of `api_key_file` (mode
    0600), or the value of the variable that the host is known to use; at most one of the first three is given. A
    gateway on loopback needs none. `connections` is the most requests that are in flight at once. `charge_header` names
    what tells a request's price. Raises `CallError`.
    """
    if not model.strip() or not model.isprintable():
        raise CallError(f"model: expected a name, got {model[:80]!r}")
    if sum(source is not None for source in (api_key, api_key_env, api_key_file)) > 1:
        raise CallError("expected one of api_key, api_key_env and api_key_file")
    model = model.strip()
    if batch and base_url is None and name_provider(model) != "openai":
        raise CallError(f"batch: expected a gateway with OpenAI's Batch API, and {model} is none; see docs/batch.md")
    if base_url is None and model == "local":
        from packer.local import LocalTransport  # noqa: PLC0415  an extra

        return LocalTransport()

    key = _given_key(api_key, api_key_env, api_key_file)
    provider, _, name = model.partition("/")
    if base_url is None and provider in PROVIDERS:
        if not re.fullmatch(r"[A-Za-z0-9._:@-]+", name):
            raise CallError(f"model: expected {provider}/ and a model's name, got {model[:80]!r}")
        key = key or _known_key(_KEY_OF_PROVIDER[provider], f"model {model}")
        return PROVIDERS[provider](name, api_key=key, connections=connections, charge_header=charge_header)

    url = check_url(OPENAI_URL if base_url is None else base_url)
    if base_url is None:
        model = model.removeprefix("openai/")
    host = url.hostname or ""
    if key is None and host in _KEY_OF_HOST:
        key = _known_key(_KEY_OF_HOST[host], host)
    if key is None and not _is_loopback(host):
        raise CallError(f"{host}: no key is known for this host; name the environment variable that holds its key")
    kind: type[GatewayTransport] = GatewayTransport
    if batch:
        from packer.batches import BatchTransport as kind  # noqa: N813, PLC0415  few jobs need it
    return kind(model, base_url=url.geturl(), api_key=key, connections=connections, charge_header=charge_header)


def shares_key(base_url: str | None, model: str, other: str) -> bool:
    """Whether a key for `model` is one for `other` too: where no address is given, each provider has its own."""
    return base_url is not None or name_provider(model) == name_provider(other)


def name_provider(model: str) -> str:
    """Whose key a model takes where no base URL is given: `anthropic`, `google`, `local`, else `openai`."""
    provider = model.strip().partition("/")[0]
    return provider if provider in PROVIDERS or model.strip() == "local" else "openai"


def check_url(base_url: str) -> SplitResult:
    """`base_url`, split, without a slash at its end.

    Raises `CallError` unless it is https, or http to loopback, and nothing but scheme, host, port and path.
    """
    shown = base_url[:80]
    if not base_url.isascii() or not base_url.isprintable() or set(base_url) & set(" \\"):
        raise CallError(f"base URL: expected one without spaces and special characters, got {shown!r}")
    try:
        url = urlsplit(base_url)
        host, _ = url.hostname or "", url.port
    except ValueError as error:
        raise CallError(f"base URL: expected https://HOST/PATH: {error}") from None
    if "@" in url.netloc:
        # what stands before the @ may be a password: it is not repeated
        raise CallError("base URL: expected no user name or password in it")
    if url.scheme not in {"http", "https"} or not host:
        raise CallError(f"base URL: expected https://HOST/PATH, got {shown!r}")
    if "?" in base_url or "#" in base_url:
        raise CallError("base URL: expected no query and no fragment in it")
    if url.scheme == "http" and not _is_loopback(host):
        raise CallError(f"base URL: expected https, because the key would be readable on the way, got {shown!r}")
    return url._replace(path=url.path.rstrip("/"))


def _given_key(api_key: str | None, variable: str | None, path: Path | str | None) -> str | None:
    if variable is not None:
        if not _VARIABLE.fullmatch(variable):
            raise CallError("API key: expected the name of an environment variable, not a key")
        return _known_key((variable,), "API key")
    if path is not None:
        return _check_key(_read_file(Path(path)), f"key file {path}")
    return None if api_key is None else _check_key(api_key, "API key")


def _known_key(variables: tuple[str, ...], whose: str) -> str:
    for variable in variables:
        value = os.environ.get(variable, "")
        if value.strip():
            return _check_key(value, f"environment variable {variable}")
    raise CallError(f"{whose}: expected a key in the environment variable {' or '.join(variables)}")


def _read_file(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CallError(f"key file {path}: expected a regular file")
        if status.st_mode & 0o077:
            raise CallError(f"key file {path}: others may read it; expected mode 0600 (chmod 600)")
        with path.open(encoding="utf-8") as file:
            return file.read(10_000)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "expected text"
        raise CallError(f"key file {path}: {reason}") from None


def _check_key(key: str, where: str) -> str:
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise CallError(f"{where}: expected one key of printable ASCII characters")
    return key


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
