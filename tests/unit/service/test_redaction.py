"""Nothing that has the form or the name of a secret leaves through the log, wherever it stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service import logs

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
secret = st.text(_ALPHABET, min_size=16, max_size=40)
upper = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=16)
# Texts in which a secret stands in a form of its own; {} is where.
FORMS = (
    "redis://user:{}@host:6379/0",
    "postgresql+psycopg://arrowquant:{}@db/arrowquant?sslmode=require",
    "https://{}@host/path",
    "GET https://b.s3.amazonaws.com/k?partNumber=3&X-Amz-Signature={}&x=1",
    "https://b/k?X-Amz-Credential={}&X-Amz-Date=1",
    "https://b/k?X-Amz-Security-Token={}",
    "Authorization: Bearer {}",
    "authorization=Basic {}",
    "aq_1f2e3d4c_{}",
    "the key aq_1f2e3d4c_{}, as sent",
    "whsec_{}",
    "password={}",
    'password: "{}"',
    "{{'secretAccessKey': '{}', 'x': 1}}",
    '{{"aws_secret_access_key":"{}"}}',
    "client_secret={}&grant_type=x",
    "refresh_token: {}",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
)
NAMES = (
    "password",
    "db_password",
    "secret",
    "client_secret",
    "secretAccessKey",
    "api_key",
    "apiKey",
    "x-api-key",
    "access_key_id",
    "Authorization",
    "proxy-authorization",
    "session_token",
    "Set-Cookie",
    "webhook_secret",
    "X-Amz-Signature",
    "credentials",
    "private_key",
)
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=12))


@st.composite
def nested(draw: st.DrawFn, leaf: Any) -> Any:
    """A value with the leaf somewhere in it, lists and dictionaries around."""
    value = leaf
    for _ in range(draw(st.integers(0, 5))):
        if draw(st.booleans()):
            value = [draw(plain), value, draw(plain)]
        else:
            value = {"a": draw(plain), draw(st.sampled_from(["b", "detail", "where"])): value}
    return value


def shown(event: dict[str, Any]) -> str:
    return json.dumps(logs.redact(None, "info", event), default=repr)


@given(st.data(), secret, st.sampled_from(FORMS))
def test_by_its_form_in_any_text(data: st.DataObject, value: str, form: str) -> None:
    text = data.draw(st.sampled_from(["", "failed: ", "x "])) + form.format(value)
    event = {"event": text, "more": data.draw(nested(text)), "key": data.draw(nested([text]))}
    assert value not in shown(event)


@given(st.data(), secret, st.sampled_from(NAMES))
def test_by_the_name_of_its_field(data: st.DataObject, value: str, name: str) -> None:
    inner = data.draw(st.sampled_from([value, [value], {"x": value}]))
    assert value not in shown({"event": "x", "data": data.draw(nested({name: inner})), name: inner})


@given(upper, st.sampled_from(["AKIA", "ASIA"]))
def test_ids_of_aws_keys(value: str, prefix: str) -> None:
    assert prefix + value not in shown(
        {"event": f"signed by {prefix}{value}", "x": [prefix + value]}
    )


@given(secret)
def test_in_exceptions_and_objects(value: str) -> None:
    class Thing:
        def __repr__(self) -> str:
            return f"Thing(password='{value}')"

    assert value not in shown({"error": ValueError(f"redis://:{value}@h"), "x": Thing()})


@given(st.text(max_size=200))
def test_twice_is_once(text: str) -> None:
    once = logs.redact_text(text)
    assert logs.redact_text(once) == once


@given(st.dictionaries(st.sampled_from(["job_id", "unit", "bytes", "tensor"]), plain))
def test_what_is_no_secret_stays(event: dict[str, Any]) -> None:
    assume(all(logs.redact_text(str(v)) == str(v) for v in event.values()))
    assert logs.redact(None, "info", event) == event


@pytest.mark.parametrize(
    "text",
    [
        "blocks.0.attn.token_embed.weight",
        "tokenizer.json and tokens.bin",
        "https://docs.example/path?page=3&x=y",
        "a signature of 3 bytes, and no password was asked for",
        "tensor secret_layers.3.weight",
    ],
)
def test_words_alone_are_no_secret(text: str) -> None:
    assert logs.redact_text(text) == text
