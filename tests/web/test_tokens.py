"""Tokens of an identity provider, from the settings to the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from structlog.testing import capture_logs

from service.settings import InvalidSettings, Settings
from service.web.app import create_app
from tests.security.test_oidc import AUDIENCE, OTHER_RSA, IdentityProvider
from tests.web.conftest import job_body
from tests.web.test_requests import check_problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def idp() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    yield provider
    provider.close()


@pytest.fixture
async def anybody(settings: Settings, idp: IdentityProvider) -> AsyncIterator[httpx.AsyncClient]:
    """A client without credentials of a service that knows the provider."""
    known = {"oidc_issuer": idp.url, "oidc_audience": AUDIENCE}
    app = create_app(settings.model_copy(update=known))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_token_opens_what_its_scopes_say(
    anybody: httpx.AsyncClient, idp: IdentityProvider
) -> None:
    token = bearer(idp.token())
    assert (await anybody.get("/v1/jobs", headers=token)).json()["jobs"] == []
    refused = await anybody.post("/v1/jobs", json=job_body(), headers=token)
    check_problem(refused, 403, "forbidden")
    writer = bearer(idp.token(scope="jobs:write", tenant="rival"))
    assert (await anybody.post("/v1/jobs", json=job_body(), headers=writer)).status_code == 202
    # What belongs to one tenant is not another's, whoever signs.
    assert (await anybody.get("/v1/jobs", headers=token)).json()["jobs"] == []


async def test_wrong_tokens_are_all_answered_alike(
    anybody: httpx.AsyncClient, idp: IdentityProvider
) -> None:
    wrong = [
        idp.token(OTHER_RSA),
        idp.token(exp=1),
        idp.token(aud="x"),
        idp.token(kid="x"),
        "a.b.c",
    ]
    details = set()
    for token in [*wrong, "x" * 9000]:
        with capture_logs() as logged:
            answer = await anybody.get("/v1/jobs", headers=bearer(token))
        details.add(check_problem(answer, 401, "unauthorized")["detail"])
        assert token not in str(logged)
    assert details == {"the token is not valid"}


async def test_a_token_in_the_address_opens_nothing(
    anybody: httpx.AsyncClient, idp: IdentityProvider
) -> None:
    token = idp.token()
    for name in ("access_token", "token", "authorization", "api_key"):
        with capture_logs() as logged:
            answer = await anybody.get(f"/v1/jobs?{name}={token}")
        check_problem(answer, 401, "unauthorized")
        assert token not in str(logged)
    for headers in ({"Cookie": f"token={token}"}, {"X-Api-Key": token}):
        check_problem(await anybody.get("/v1/jobs", headers=headers), 401, "unauthorized")


async def test_without_a_provider_a_token_is_no_key(
    client: httpx.AsyncClient, idp: IdentityProvider
) -> None:
    answer = await client.get("/v1/jobs", headers=bearer(idp.token()))
    check_problem(answer, 401, "unauthorized")
    assert idp.asked == []


async def test_a_provider_that_is_away_is_a_503_and_keys_work(settings: Settings, key: str) -> None:
    gone = {"oidc_issuer": "http://127.0.0.1:9", "oidc_audience": AUDIENCE}
    app = create_app(settings.model_copy(update=gone))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        header = "eyJhbGciOiJSUzI1NiIsImtpZCI6InIifQ"
        answer = await client.get("/v1/jobs", headers=bearer(f"{header}.e30.AAAA"))
        check_problem(answer, 503, "identity_unavailable")
        assert (await client.get("/v1/jobs", headers=bearer(key))).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OIDC_ISSUER", "http://idp.example"),
        ("OIDC_ISSUER", "ftp://127.0.0.1"),
        ("OIDC_ISSUER", "https://user:pass@idp.example"),
        ("OIDC_JWKS_URL", "http://10.0.0.1/keys"),
        ("OIDC_JWKS_URL", "file:///etc/passwd"),
        ("OIDC_SCOPES", '{"a": ["root"]}'),
        ("OIDC_AUDIENCE", ""),
    ],
)
def test_settings_that_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("ARROWQUANT_OIDC_ISSUER", "https://idp.example")
    monkeypatch.setenv("ARROWQUANT_OIDC_AUDIENCE", "a")
    assert Settings.load().oidc_issuer == "https://idp.example"
    monkeypatch.setenv(f"ARROWQUANT_{name}", value)
    with pytest.raises(InvalidSettings, match="OIDC"):
        Settings.load()
