"""Charges, balances and waits as gateways tell them in headers, and what hostile ones tell: nothing."""

import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.exchange import NO_BUCKETS, Bucket, Buckets, Charge, ChargeSource
from packer.headers import (
    parse_reset,
    read_balance,
    read_buckets,
    read_charge,
    read_headers,
    read_retry_after,
    read_usd,
)

NOW = datetime(2026, 10, 26, 5, 33, 20, tzinfo=UTC).timestamp()

TEXTS = st.one_of(
    st.text(),
    st.text("0123456789.:-+eEhmsuµTZ ,", max_size=40),
    st.from_regex(r"[0-9]{1,30}(\.[0-9]+)?(ms|s|m|h)?", fullmatch=True),
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("250µs", 0.00025),
        ("30", 30.0),
        (" 30 ", 30.0),
        ("0", 0.0),
        (f"{NOW + 60:.0f}", 60.0),
        (f"{(NOW + 60) * 1000:.0f}", 60.0),
        (f"{NOW - 60:.0f}", 0.0),
        ("2026-10-26T05:34:20Z", 60.0),
        ("2026-10-26T07:34:20+02:00", 60.0),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("1s 2s", None),
        ("9" * 100, None),
        ("9" * 10_000 + "s", None),
    ],
)
def test_a_reset_is_read_in_every_form_that_gateways_use(text: str, seconds: float | None) -> None:
    wait = parse_reset(text, now=NOW)
    assert wait is None if seconds is None else wait == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": "20", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Mon, 26 Oct 2026 05:34:20 GMT"}, 60.0),
        # only the gateway's own clock says how long it is from its now to its then
        ({"retry-after": "Sat, 01 Jan 2000 00:00:30 GMT", "date": "Sat, 01 Jan 2000 00:00:00 GMT"}, 30.0),
        ({"retry-after": "Sat, 01 Jan 2000 00:00:30 GMT"}, 0.0),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Mon, 26 Oct 2026 05:34:20 GMT" + " " * 100}, None),
        ({"retry-after": "-5"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "12ms",
            },
            1.0,
        ),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-10-26T05:34:20Z",
            },
            60.0,
        ),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{(NOW + 9) * 1000:.0f}"}, 9.0),
        ({"retry-after": "3", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "900"}, 3.0),
    ],
)
def test_the_wait_is_what_the_gateway_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    wait = read_retry_after(read_headers(headers.items()), now=NOW)
    assert wait is None if seconds is None else wait == pytest.approx(seconds)


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date", "x-ratelimit-reset"]), TEXTS))
def test_no_header_raises_and_every_wait_is_finite(headers: dict[str, str]) -> None:
    told = {**{name: [text] for name, text in headers.items()}, "x-ratelimit-remaining": ["0"]}
    wait = read_retry_after(told, now=NOW)
    assert wait is None or (math.isfinite(wait) and wait >= 0)


@pytest.mark.parametrize(
    ("value", "usd"),
    [
        ("0.0000123", "0.0000123"),
        ("1.23e-05", "0.0000123"),
        (" 49.872 ", "49.872"),
        ("0", "0"),
        (0.0042, "0.0042"),
        (3, "3"),
        ("-0.1", None),
        ("NaN", None),
        ("Infinity", None),
        ("1,5", None),
        ("$1", None),
        ("0.1, 0.2", None),
        ("", None),
        ("1e9", None),
        ("1" * 50, None),
        (float("nan"), None),
        (float("inf"), None),
        (-0.5, None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_money_is_a_finite_amount_of_at_most_a_million(value: object, usd: str | None) -> None:
    assert read_usd(value) == (None if usd is None else Decimal(usd))


@given(st.one_of(TEXTS, st.floats(), st.integers(), st.none(), st.booleans()))
def test_no_amount_raises_or_is_beyond_its_bounds(value: object) -> None:
    usd = read_usd(value)
    assert usd is None or 0 <= usd <= 1_000_000


@pytest.mark.parametrize(
    ("pairs", "charge"),
    [
        ([], None),
        ([("X-MDB-Charged-USD", "0.002")], Charge(Decimal("0.002"), ChargeSource.HEADER)),
        ([("x-litellm-response-cost", "3e-05")], Charge(Decimal("0.00003"), ChargeSource.PROXY)),
        (
            [("x-litellm-response-cost", "1"), ("x-mdb-charged-usd", "2")],
            Charge(Decimal(2), ChargeSource.HEADER),
        ),
        ([("X-MDB-Charged-USD", "1"), ("x-mdb-charged-usd", "1")], None),
        ([("X-MDB-Charged-USD", "NaN")], None),
        ([("X-MDB-Charged-USD", "-1"), ("x-litellm-response-cost", "1")], Charge(Decimal(1), ChargeSource.PROXY)),
    ],
)
def test_a_charge_is_exactly_one_amount_from_the_most_trusted_header(
    pairs: list[tuple[str, str]], charge: Charge | None
) -> None:
    assert read_charge(read_headers(pairs)) == charge


def test_the_charge_header_has_the_name_that_was_given() -> None:
    headers = read_headers([("X-Cost", "0.5"), ("X-MDB-Charged-USD", "9")])
    assert read_charge(headers, "X-COST") == Charge(Decimal("0.5"), ChargeSource.HEADER)


def test_a_balance_is_read_like_a_charge() -> None:
    assert read_balance(read_headers([("x-mdb-balance-usd", "49.872")])) == Decimal("49.872")
    assert read_balance(read_headers([("x-mdb-balance-usd", "?")])) is None
    assert read_balance(read_headers([("x-mdb-balance-usd", "-0.5")])) == Decimal("-0.5"), "overdrawn"
    assert read_balance(read_headers([("x-mdb-balance-usd", "--0.5")])) is None
    assert read_balance(read_headers([("x-mdb-balance-usd", "-0.5")] * 2)) is None


@pytest.mark.parametrize(
    ("headers", "buckets"),
    [
        ({}, NO_BUCKETS),
        (
            {
                "X-RateLimit-Limit-Requests": "600",
                "X-RateLimit-Remaining-Requests": "590",
                "X-RateLimit-Reset-Requests": "1s",
                "x-ratelimit-limit-tokens": "90000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m0s",
            },
            Buckets(Bucket(600, 590, 1.0), Bucket(90_000, 0, 60.0)),
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-requests-reset": "2026-10-26T05:33:21Z",
                "anthropic-ratelimit-input-tokens-limit": "40000",
                "anthropic-ratelimit-input-tokens-remaining": "39000",
            },
            Buckets(Bucket(50, 49, 1.0), Bucket(40_000, 39_000, None)),
        ),
        # Azure does not count; nonsense says nothing
        ({"x-ratelimit-limit-requests": "600", "x-ratelimit-remaining-requests": "-1"}, NO_BUCKETS),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0"}, NO_BUCKETS),
        ({"x-ratelimit-limit-requests": "6", "x-ratelimit-remaining-requests": "7"}, NO_BUCKETS),
        ({"x-ratelimit-limit-requests": "1e999", "x-ratelimit-remaining-requests": "7"}, NO_BUCKETS),
        ({"x-ratelimit-limit-requests": "9" * 20, "x-ratelimit-remaining-requests": "7"}, NO_BUCKETS),
        ({"x-ratelimit-limit-requests": "60"}, NO_BUCKETS),
    ],
)
def test_buckets_are_read_as_openai_and_anthropic_tell_them(headers: dict[str, str], buckets: Buckets) -> None:
    assert read_buckets(read_headers(headers.items()), now=NOW) == buckets


def test_a_bucket_that_is_told_twice_is_none() -> None:
    twice = [("x-ratelimit-limit-requests", "60"), *[("x-ratelimit-remaining-requests", "7")] * 2]
    assert read_buckets(read_headers(twice), now=NOW) == NO_BUCKETS
