"""Tokens of an identity provider, forged in every way we know; the provider is a real HTTP server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.adapters import oidc
from service.adapters.oidc import OidcVerifier, Provider
from service.domain.access import Principal, Scope
from service.domain.errors import ArrowQuantError
from tests.processes import HOST

AUDIENCE = "arrowquant"
Key = Any
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
WEAK_RSA = rsa.generate_private_key(65537, 1024)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def public(key: Key, kid: str, algorithm: str, **more: Any) -> dict[str, Any]:
    made = jwt.get_algorithm_by_name(algorithm)
    return made.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"} | more


class IdentityProvider:
    """Answers what it is told, and counts."""

    def __init__(self) -> None:
        self.keys = [
            public(RSA, "r", "RS256"),
            public(EC, "e", "ES256"),
            public(ED, "d", "EdDSA"),
        ]
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                provider.answers.get(self.path, lambda h: reply(h, {}, 404))(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}"
        self.answers["/jwks"] = lambda handler: reply(handler, {"keys": self.keys})
        self.answers["/.well-known/openid-configuration"] = lambda handler: reply(
            handler, {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        values = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "tenant": "acme",
            "scope": "openid jobs:read",
        }
        return {k: v for k, v in (values | changes).items() if v is not None}

    def token(
        self, key: Key = RSA, algorithm: str = "RS256", kid: str | None = "r", **changes: Any
    ) -> str:
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(self.claims(**changes), key, algorithm, headers)


def reply(handler: BaseHTTPRequestHandler, body: Any, status: int = 200) -> None:
    data = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    yield provider
    provider.close()


class Clock:
    def __init__(self) -> None:
        self.moment = 1000.0

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


def verifier(idp: IdentityProvider, clock: Clock | None = None, **changes: Any) -> OidcVerifier:
    values: dict[str, Any] = {
        "issuer": idp.url,
        "audience": AUDIENCE,
        "jwks_url": f"{idp.url}/jwks",
    }
    return OidcVerifier(Provider(**(values | changes)), clock or Clock())


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "r"), (EC, "ES256", "e"), (ED, "EdDSA", "d")]
)
def test_a_token_of_the_provider_opens(
    idp: IdentityProvider, key: Key, algorithm: str, kid: str
) -> None:
    found = verifier(idp).verify(idp.token(key, algorithm, kid))
    assert found == Principal("acme", "oidc:ann", frozenset({Scope.JOBS_READ}))


def test_the_keys_are_found_by_discovery(idp: IdentityProvider) -> None:
    assert verifier(idp, jwks_url=None).verify(idp.token()) is not None
    assert idp.asked == ["/.well-known/openid-configuration", "/jwks"]


def b64(data: Any) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    return f"{b64(header)}.{b64(claims)}.{b64(signature)}"


def test_alg_none(idp: IdentityProvider) -> None:
    for name in ("none", "None", "NONE", "nOnE", ""):
        for signature in (b"", b"x"):
            token = forged({"alg": name, "kid": "r"}, idp.claims(), signature)
            assert verifier(idp).verify(token) is None
    stripped = idp.token().rpartition(".")[0] + "."
    assert verifier(idp).verify(stripped) is None


def test_hs256_with_the_public_key_as_secret(idp: IdentityProvider) -> None:
    key = RSA.public_key()
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for secret in (pem, der, json.dumps(idp.keys[0]).encode(), b""):
        for name, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
            signed = f"{b64({'alg': name, 'kid': 'r'})}.{b64(idp.claims())}"
            mac = hmac.new(secret, signed.encode(), digest).digest()
            assert verifier(idp).verify(f"{signed}.{b64(mac)}") is None


def test_algorithms_that_are_not_ours(idp: IdentityProvider) -> None:
    for algorithm in ("RS384", "RS512", "PS256"):
        assert verifier(idp).verify(idp.token(RSA, algorithm)) is None
    # A key goes with the algorithm of its kind, and with the one that it names.
    assert verifier(idp).verify(idp.token(RSA, "RS256", "e")) is None
    assert verifier(idp).verify(idp.token(EC, "ES256", "r")) is None
    idp.keys[0]["alg"] = "PS256"
    assert verifier(idp).verify(idp.token()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": ["a", "b"]},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 300},
        {"tenant": None},
        {"tenant": ""},
        {"tenant": "a/b"},
        {"tenant": ["acme", "rival"]},
        {"tenant": "x" * 200},
    ],
)
def test_claims_that_do_not_hold(idp: IdentityProvider, changes: dict[str, Any]) -> None:
    assert verifier(idp).verify(idp.token(**changes)) is None


def test_a_clock_may_be_a_minute_off(idp: IdentityProvider) -> None:
    now = int(time.time())
    judge = verifier(idp)
    assert judge.verify(idp.token(exp=now - 30)) is not None
    assert judge.verify(idp.token(nbf=now + 30)) is not None
    assert judge.verify(idp.token(exp=now - 90)) is None
    assert judge.verify(idp.token(nbf=now + 120)) is None


def test_another_key_and_a_changed_token(idp: IdentityProvider) -> None:
    judge = verifier(idp)
    assert judge.verify(idp.token(OTHER_RSA)) is None
    head, _, signature = idp.token().split(".")
    assert judge.verify(f"{head}.{b64(idp.claims(tenant='rival'))}.{signature}") is None
    idp.keys[:] = [public(WEAK_RSA, "r", "RS256")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the key is weak is the point
        assert verifier(idp).verify(idp.token(WEAK_RSA)) is None


def test_keys_and_addresses_in_the_token_are_not_looked_at(idp: IdentityProvider) -> None:
    evil = public(OTHER_RSA, "mine", "RS256")
    idp.answers["/evil"] = lambda handler: reply(handler, {"keys": [evil]})
    for header in (
        {"kid": "mine", "jwk": evil},
        {"kid": "mine", "jku": f"{idp.url}/evil"},
        {"kid": "mine", "x5u": f"{idp.url}/evil"},
        {"kid": "r", "crit": ["b64"], "b64": True},
        {"kid": ["r"]},
        {"kid": None},
    ):
        key = RSA if header["kid"] == "r" else OTHER_RSA
        encoded = jwt.encode(
            idp.claims(), key, "RS256", {k: v for k, v in header.items() if k == "x"}
        )
        _, body, _ = encoded.split(".")
        signed = f"{b64({'alg': 'RS256', **header})}.{body}"
        signature = jwt.get_algorithm_by_name("RS256").sign(signed.encode(), key)
        assert verifier(idp).verify(f"{signed}.{b64(signature)}") is None
    assert "/evil" not in idp.asked


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "\0", "é.é.é", "x" * 9000, "eyJ.eyJ."])
def test_what_is_no_token(idp: IdentityProvider, text: str) -> None:
    assert verifier(idp).verify(text) is None


def test_a_flood_of_unknown_keys_is_one_question(idp: IdentityProvider, clock: Clock) -> None:
    judge = verifier(idp, clock)
    assert judge.verify(idp.token()) is not None
    for number in range(50):
        assert judge.verify(idp.token(kid=f"k{number}")) is None
    assert len(idp.asked) == 1
    clock.moment += oidc.FETCH_EVERY_S
    for number in range(50):
        assert judge.verify(idp.token(kid=f"k{number}")) is None
    assert len(idp.asked) == 2


def test_the_provider_changes_its_keys(idp: IdentityProvider, clock: Clock) -> None:
    judge = verifier(idp, clock)
    assert judge.verify(idp.token()) is not None
    old = idp.token()
    idp.keys[:] = [public(OTHER_RSA, "new", "RS256")]
    clock.moment += oidc.FETCH_EVERY_S
    assert judge.verify(idp.token(OTHER_RSA, kid="new")) is not None
    assert judge.verify(old) is None  # the key was taken back


def test_a_provider_that_is_away(idp: IdentityProvider, clock: Clock) -> None:
    judge = verifier(idp, clock)
    assert judge.verify(idp.token()) is not None
    idp.answers["/jwks"] = lambda handler: reply(handler, {}, 500)
    clock.moment += oidc.FRESH_S + 1
    assert judge.verify(idp.token()) is not None  # believed for a while
    clock.moment += oidc.STALE_S
    with pytest.raises(ArrowQuantError, match="identity_unavailable"):
        judge.verify(idp.token())
    with pytest.raises(ArrowQuantError, match="identity_unavailable"):
        verifier(idp).verify(idp.token())


def oversized(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(1000):
            handler.wfile.write(b" " * 65536)
    except OSError:
        pass  # it was cut off


def redirected(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def too_many(handler: BaseHTTPRequestHandler) -> None:
    keys = [public(ED, f"k{number}", "EdDSA") for number in range(oidc.MAX_KEYS + 1)]
    reply(handler, {"keys": keys})


@pytest.mark.parametrize(
    "answer",
    [
        oversized,
        redirected,
        too_many,
        lambda handler: reply(handler, []),
        lambda handler: reply(handler, {"keys": "r"}),
    ],
)
def test_key_sets_that_are_not_believed(
    idp: IdentityProvider, answer: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    idp.answers["/jwks"] = answer
    idp.answers["/elsewhere"] = lambda handler: reply(handler, {"keys": idp.keys})
    with pytest.raises(ArrowQuantError, match="identity_unavailable"):
        verifier(idp).verify(idp.token())
    assert "/elsewhere" not in idp.asked


@pytest.mark.parametrize(
    "found",
    [
        {"issuer": "https://evil.example"},
        {"jwks_uri": "http://keys.example/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
    ],
)
def test_discovery_that_is_not_believed(idp: IdentityProvider, found: dict[str, Any]) -> None:
    document = {"issuer": idp.url, "jwks_uri": f"{idp.url}/jwks"} | found
    idp.answers["/.well-known/openid-configuration"] = lambda handler: reply(handler, document)
    with pytest.raises(ArrowQuantError, match="identity_unavailable"):
        verifier(idp, jwks_url=None).verify(idp.token())


def test_what_scopes_grant(idp: IdentityProvider) -> None:
    def granted(scopes: Any, **mapped: Any) -> set[Scope]:
        changes = {"scopes": mapped} if mapped else {}
        found = verifier(idp, **changes).verify(idp.token(scope=scopes))
        assert found is not None
        return set(found.scopes)

    assert granted("jobs:read jobs:write other") == {Scope.JOBS_READ, Scope.JOBS_WRITE}
    assert granted(["artifacts:read", 7, None]) == {Scope.ARTIFACTS_READ}
    assert granted(None) == set()
    # Who rules is never decided by a word in a token alone: an operator has to map it.
    assert granted("admin operator") == set()
    ops = {"quant-ops": (Scope.OPERATOR, Scope.ADMIN)}
    assert granted(["quant-ops"], **ops) == {Scope.OPERATOR, Scope.ADMIN}
    assert granted("operator jobs:read", **ops) == set()
