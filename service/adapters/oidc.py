"""Bearer tokens of an OpenID Connect provider: JWTs, judged by the keys that it publishes.

Everything a token says about how it wants to be judged is checked against what we expect, never
followed: the algorithm against a list without `none` and without shared secrets, the key's id against
the provider's set, and no address that stands in a token is ever fetched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import jwt
import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from service.connection_settings import is_safe_url
from service.domain.access import TENANT_FORM, Principal, Scope
from service.domain.errors import ArrowQuantError

log = structlog.get_logger(__name__)

# Public keys only, and which kind of key each goes with.
ALGORITHMS: Final = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
# What a provider may put into a token by itself; more than that must be mapped by an operator.
UNMAPPED: Final = frozenset({Scope.JOBS_READ, Scope.JOBS_WRITE, Scope.ARTIFACTS_READ})
MIN_RSA_BITS: Final = 2048
CLOCK_SKEW_S: Final = 60
MAX_DOCUMENT_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64
MAX_SUBJECT_CHARS: Final = 200
FETCH_S: Final = 5.0
# Keys are fetched again after so long; those of a provider that is away are believed a while longer.
FRESH_S: Final = 300.0
STALE_S: Final = 3600.0
# However many unknown keys are asked for, the provider is asked no more often.
FETCH_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Provider:
    """An issuer, and how its claims become a tenant and scopes.

    jwks_url  of its keys; None: as its discovery document says
    scopes    what each value of the scopes claim grants; empty: values that are called like the
              scopes of jobs and artifacts grant these
    """

    issuer: str
    audience: str
    jwks_url: str | None = None
    tenant_claim: str = "tenant"
    scopes_claim: str = "scope"
    scopes: Mapping[str, Sequence[Scope]] = field(default_factory=dict)


class OidcVerifier:
    """`TokenVerifier` of one provider. Its keys are kept in memory."""

    def __init__(self, provider: Provider, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._provider, self._keys = provider, KeySet(provider, monotonic)

    def verify(self, token: str) -> Principal | None:
        """The caller, or None. Why a token was refused goes to the log at debug level only."""
        try:
            claims = self._claims(token)
            return self._principal(claims)
        except (jwt.PyJWTError, _Refused, ValueError, TypeError) as error:
            log.debug("token_refused", why=type(error).__name__)
            return None

    def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS or not isinstance(kid, str) or "crit" in header:
            raise _Refused
        key = self._keys.find(kid)
        if key is None or key.get("kty") != ALGORITHMS[algorithm]:
            raise _Refused
        if key.get("alg", algorithm) != algorithm:
            raise _Refused
        public = jwt.PyJWK.from_dict(key, algorithm=algorithm).key
        if isinstance(public, RSAPublicKey) and public.key_size < MIN_RSA_BITS:
            raise _Refused
        claims: dict[str, Any] = jwt.decode(
            token,
            public,
            algorithms=[algorithm],
            audience=self._provider.audience,
            issuer=self._provider.issuer,
            leeway=CLOCK_SKEW_S,
            # nbf and iat are checked where they stand; not every provider writes them.
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        provider = self._provider
        subject, tenant = claims["sub"], claims.get(provider.tenant_claim)
        if not isinstance(tenant, str) or TENANT_FORM.fullmatch(tenant) is None:
            raise _Refused
        if not 0 < len(subject) <= MAX_SUBJECT_CHARS or not subject.isprintable():
            raise _Refused
        return Principal(tenant, f"oidc:{subject}", self._granted(claims))

    def _granted(self, claims: Mapping[str, Any]) -> frozenset[Scope]:
        given = claims.get(self._provider.scopes_claim) or ()
        values = given.split() if isinstance(given, str) else given
        words = [value for value in values if isinstance(value, str)]
        mapped = self._provider.scopes
        if mapped:
            return frozenset(scope for word in words for scope in mapped.get(word, ()))
        return frozenset(scope for scope in UNMAPPED if scope.value in words)


class KeySet:
    """The provider's public keys by id, fetched when they are needed and not too often."""

    def __init__(self, provider: Provider, monotonic: Callable[[], float]) -> None:
        self._provider, self._now = provider, monotonic
        self._lock = threading.Lock()
        self._keys: dict[str, dict[str, Any]] = {}
        self._fetched: float | None = None
        self._tried: float | None = None

    def find(self, kid: str) -> dict[str, Any] | None:
        """The key, asking the provider if it is unknown or our copy is old."""
        with self._lock:
            if kid not in self._keys or self._older_than(FRESH_S):
                self._refresh()
            if self._older_than(STALE_S):
                raise ArrowQuantError(
                    "identity_unavailable",
                    "the keys of the identity provider cannot be fetched",
                    "Try again in some seconds.",
                )
            return self._keys.get(kid)

    def _older_than(self, seconds: float) -> bool:
        return self._fetched is None or self._now() - self._fetched > seconds

    def _refresh(self) -> None:
        now = self._now()
        if self._tried is not None and now - self._tried < FETCH_EVERY_S:
            return
        self._tried = now
        try:
            self._keys = _by_id(fetch(self._jwks_url()))
        except (httpx.HTTPError, ValueError, TypeError) as error:
            log.warning("oidc_keys_not_fetched", why=str(error)[:200])
            return
        self._fetched = now

    def _jwks_url(self) -> str:
        if self._provider.jwks_url is not None:
            return self._provider.jwks_url
        issuer = self._provider.issuer
        found = fetch(issuer.rstrip("/") + "/.well-known/openid-configuration")
        url = found.get("jwks_uri")
        if found.get("issuer") != issuer or not isinstance(url, str) or not is_safe_url(url):
            raise ValueError("the discovery document is not this issuer's")
        return url


def fetch(url: str) -> dict[str, Any]:
    """A small JSON document: no redirects, bounded in size and in time. Raises ValueError."""
    deadline, data = time.monotonic() + FETCH_S, b""
    with (
        httpx.Client(timeout=FETCH_S, follow_redirects=False, trust_env=False) as client,
        client.stream(
            "GET", url, headers={"Accept": "application/json", "Accept-Encoding": "identity"}
        ) as response,
    ):
        if response.status_code != 200:
            raise ValueError(f"{url} answered {response.status_code}")
        for chunk in response.iter_raw(16 * 1024):
            data += chunk
            if len(data) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"{url} sent more than {MAX_DOCUMENT_BYTES} bytes")
            if time.monotonic() > deadline:
                raise ValueError(f"{url} took longer than {FETCH_S} s")
    found = orjson.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"{url} sent no JSON object")
    return found


def _by_id(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    keys = document.get("keys")
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise ValueError("the key set is none, or too large")
    return {
        key["kid"]: key
        for key in keys
        if isinstance(key, dict)
        and isinstance(key.get("kid"), str)
        and key.get("use", "sig") == "sig"
        and key.get("kty") in ALGORITHMS.values()
    }


class _Refused(Exception):
    """The token is not one that we believe."""
