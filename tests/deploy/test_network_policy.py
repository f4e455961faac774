"""Where the chart lets pods go, held to where the service itself would go."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from service.domain import egress
from service.domain.egress import Address, EgressPolicy, Target
from service.domain.errors import ArrowQuantError
from tests.deploy.chart import Rendered, render
from tests.deploy.test_chart import CHART

METADATA = ("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254")
STORES = (443, 5432, 6379)
ODD = 8443


@pytest.fixture(scope="module")
def defaults(helm: Path) -> Rendered:
    return render(helm, CHART)


def _lets_out(rendered: Rendered, address: str, port: int, protocol: str = "TCP") -> bool:
    """Whether the policy of all pods has a rule for it, as Kubernetes reads one."""
    policy = rendered.named("NetworkPolicy", "arrowquant")
    return any(
        any(one["protocol"] == protocol and one.get("port", port) == port for one in rule["ports"])
        and ("to" not in rule or any(_covers(to["ipBlock"], address) for to in rule["to"]))
        for rule in policy["spec"]["egress"]
    )


def _covers(block: dict[str, Any], address: str) -> bool:
    networks = [ip_network(block["cidr"]), *map(ip_network, block["except"])]
    inside, *excepted = [ip_address(address) in network for network in networks]
    return inside and not any(excepted)


def _dialled(address: Address) -> bool:
    try:
        EgressPolicy().judge(Target("https", "hooks.example", ODD), [address])
    except ArrowQuantError:
        return False
    return True


def _edges() -> Iterable[Address]:
    """The first and the last address of all that is refused, and their neighbours."""
    for network in (*egress._REFUSED, *egress._NEVER_BY_NAME, egress._UNICAST):
        for number in (int(network.network_address), int(network.broadcast_address)):
            for near in (number - 1, number, number + 1):
                if 0 <= near < 2**network.max_prefixlen:
                    yield type(network.network_address)(near)


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("port", [80, *STORES, ODD])
def test_no_pod_reaches_a_machine_s_metadata(defaults: Rendered, address: str, port: int) -> None:
    assert not _lets_out(defaults, address, port)


def test_what_no_name_may_lead_to_is_closed_at_every_port(defaults: Rendered) -> None:
    for network in egress._NEVER_BY_NAME:
        for address in (network.network_address, network.broadcast_address):
            for port in STORES:
                assert not _lets_out(defaults, str(address), port), address


def test_receivers_and_stores_of_tenants_are_reached_at_any_port_where_the_service_would_go(
    defaults: Rendered,
) -> None:
    tried = set(_edges())
    let_out = {one for one in tried if _lets_out(defaults, str(one), ODD)}
    assert let_out == {one for one in tried if _dialled(one)}
    assert len(let_out) > 20
    assert _lets_out(defaults, "93.184.215.14", 80)


def test_stores_may_be_at_private_addresses(defaults: Rendered) -> None:
    for port in STORES:
        assert _lets_out(defaults, "10.1.2.3", port)
        assert _lets_out(defaults, "fd12::3", port)
    assert not _lets_out(defaults, "10.1.2.3", 22)


def test_names_are_resolved_wherever_the_resolver_is(defaults: Rendered) -> None:
    for address in ("10.96.0.10", "169.254.20.10", "fd00::a"):
        assert _lets_out(defaults, address, 53, "UDP")
        assert _lets_out(defaults, address, 53)


def test_the_policy_holds_for_every_pod_and_lets_nobody_in(defaults: Rendered) -> None:
    spec = defaults.named("NetworkPolicy", "arrowquant")["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    assert spec["ingress"] == []
    for _, pod in defaults.pods():
        assert spec["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_the_way_to_public_addresses_can_be_closed(helm: Path) -> None:
    closed = render(helm, CHART, "--set", "networkPolicy.toPublic=false")
    assert not _lets_out(closed, "93.184.215.14", ODD)
    assert _lets_out(closed, "93.184.215.14", 443)


def test_only_prometheus_is_let_to_metrics(helm: Path) -> None:
    rendered = render(helm, CHART, "--set", "metrics.port=9090")
    (rule,) = rendered.named("NetworkPolicy", "metrics")["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "metrics"}]
    assert rule["from"], "an empty list would be everyone"
