"""Feature keys: a formatted key parses to the same key, and malformed tokens, texts and fields are refused."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sketch.hotsketch
import streams.keys
from streams.errors import ConfigError
from streams.keys import CRITEO_FIELDS, MISSING, Field, field_key, format_key, hash_token, make_key, parse_key

FIELDS = (Field("C1", "hex32"), Field("device_ip"), Field("site-id.x", "hash"))


@pytest.mark.parametrize(
    ("number", "kind", "token", "text"),
    [
        (1, "hex32", "7e0ccccf", "C1:7e0ccccf"),
        (1, "hex32", "00000000", "C1:00000000"),
        (1, "hex32", "ffffffff", "C1:ffffffff"),
        (1, "hex32", "", "C1:missing"),
        (2, "hash", "", "device_ip:missing"),
        (2, "hash", "10.0.0.1", f"device_ip:~{hash_token('10.0.0.1'):014x}"),
        (3, "hash", "7e0ccccf", f"site-id.x:~{hash_token('7e0ccccf'):014x}"),
    ],
)
def test_the_key_of_a_token_is_formatted_and_parsed_without_loss(number, kind, token, text):
    key = make_key(number, kind, token)
    assert format_key(key, FIELDS) == text
    assert parse_key(text, FIELDS) == key


def test_a_criteo_token_is_its_payload_with_the_field_number_above():
    assert make_key(14, "hex32", "7e0ccccf") == 14 << 56 | 0x7E0CCCCF
    assert format_key(14 << 56 | 0x7E0CCCCF) == "C14:7e0ccccf"


def test_the_hash_of_a_token_never_changes():
    assert [hash_token(token) for token in ("", "a", "10.0.0.1", "\u00fc")] == [
        53002663664512346,
        58991183507454409,
        70764326787271652,
        65936578496792753,
    ]
    assert hash_token("\u00fc") == hash_token("\u00fc".encode())


@given(st.integers(0, (1 << 32) - 1), st.integers(1, 26))
def test_every_criteo_key_round_trips(payload, number):
    key = number << 56 | payload
    assert parse_key(format_key(key)) == key
    assert make_key(number, "hex32", f"{payload:08x}") == key


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_every_hashed_token_round_trips_and_none_is_missing(token):
    key = make_key(2, "hash", token)
    assert key & MISSING != MISSING
    assert parse_key(format_key(key, FIELDS), FIELDS) == key


def test_each_field_has_its_own_key_for_a_missing_value():
    keys = {make_key(number, field.kind, "") for number, field in enumerate(CRITEO_FIELDS, 1)}
    assert len(keys) == 26
    assert all(key & MISSING == MISSING for key in keys)


@pytest.mark.parametrize("token", ["7e0cccc", "7e0ccccf0", "7e0cccxf", "68 fd 1e", " 7e0cccc", "0x7e0ccc", "+7e0cccc"])
def test_a_hex_field_accepts_eight_hex_digits_only(token):
    with pytest.raises(ValueError, match="expected 8 hex digits"):
        make_key(1, "hex32", token)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected NAME"),
        ("C1", "expected NAME"),
        ("C1:", "expected NAME"),
        ("C1:7E0CCCCF", "expected NAME"),
        ("C1:7e0ccccf\n", "expected NAME"),
        ("C1:7e0cccc", "expected NAME"),
        ("device_ip:~123", "expected NAME"),
        ("C9:7e0ccccf", "got field 'C9', expected one of C1, device_ip, site-id.x"),
        ("C1:~0c1d2e3f4a5b6c", "expected 8 hex digits: field C1 is of kind hex32"),
        ("device_ip:7e0ccccf", "expected ~ and 14 hex digits: field device_ip is of kind hash"),
    ],
)
def test_text_that_is_not_a_formatted_key_is_refused_with_the_reason(text, why):
    with pytest.raises(ValueError, match=why):
        parse_key(text, FIELDS)


@pytest.mark.parametrize("key", [0, 123, 4 << 56, 255 << 56 | 1, (1 << 64) - 1])
def test_a_key_with_an_unknown_field_number_cannot_be_formatted(key):
    with pytest.raises(ValueError, match="field number"):
        format_key(key, FIELDS)


@pytest.mark.parametrize("number", [0, -1, 256])
def test_field_numbers_are_1_to_255(number):
    with pytest.raises(ConfigError, match="expected 1 to 255"):
        field_key(number)
    assert int(field_key(255)) == 255 << 56


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a" * 65, "\u00e4", "x\n", 'a"b'])
def test_a_field_name_that_would_need_escaping_is_refused(name):
    with pytest.raises(ConfigError, match="field name"):
        Field(name)


def test_an_unknown_field_kind_is_refused():
    with pytest.raises(ConfigError, match="got kind 'int'"):
        Field("C1", "int")


@pytest.mark.parametrize("module", [streams.keys, sketch.hotsketch], ids=lambda module: module.__name__)
def test_the_doctests_pass(module):
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted > 0
    assert result.failed == 0
