"""Which addresses are refused, in all their spellings."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.egress import EgressPolicy, public, target_of
from service.domain.errors import ArrowQuantError

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "52.95.110.1", "172.32.0.1", "100.128.0.1", "169.253.1.1"),
    *("2606:4700::1111", "2a00:1450:4001::200e", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"),
]
REFUSED = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255"),
    *("172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "169.254.170.2"),
    *("100.64.0.1", "100.100.100.200", "100.127.255.255", "192.0.0.192", "168.63.129.16"),
    *("198.18.0.1", "198.19.255.255", "192.0.2.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::7f00:1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::ffff:0.0.0.0"),
    *("64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "64:ff9b::10.0.0.1"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::", "2002:0808:0808::", "2001:0:53aa:64c::1"),
    *("2001:db8::1", "3fff::1", "100::1", "5f00::1", "2606:4700::5efe:127.0.0.1"),
    *("2606:4700::200:5efe:8.8.8.8", "1::1", "4000::1"),
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses(text: str) -> None:
    assert public(ip_address(text))


@pytest.mark.parametrize("text", REFUSED)
def test_addresses_that_are_refused(text: str) -> None:
    assert not public(ip_address(text))


@given(st.integers(0, 2**32 - 1))
def test_no_form_of_ipv6_opens_what_ipv4_does_not(number: int) -> None:
    plain = public(IPv4Address(number))
    for base in ("::ffff:0:0", "64:ff9b::"):
        assert public(IPv6Address(int(IPv6Address(base)) | number)) == plain
    for base in ("::", "64:ff9b:1::", "2606:4700::5efe:0:0"):
        assert not public(IPv6Address(int(IPv6Address(base)) | number))
    assert not public(IPv6Address(int(IPv6Address("2002::")) | number << 80))
    # What Python itself holds to be private is never public here.
    assert not (plain and not IPv4Address(number).is_global)


@given(st.integers(0, 2**128 - 1))
def test_nothing_is_public_that_python_holds_to_be_private(number: int) -> None:
    address = IPv6Address(number)
    assert not (public(address) and (address.is_private or address.is_multicast))


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://s3.example.com", "s3.example.com", 443),
        ("https://S3.Example.com:9000/path?x=1", "s3.example.com", 9000),
        ("http://127.0.0.1:8333", "127.0.0.1", 8333),
        ("https://[2001:DB8::1]:1", "2001:db8::1", 1),
        ("https://xn--mnchen-3ya.de", "xn--mnchen-3ya.de", 443),
        ("https://minio_1.internal.", "minio_1.internal.", 443),
    ],
)
def test_addresses_are_read(url: str, host: str, port: int) -> None:
    target = target_of(url)
    assert (target.host, target.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        *("", "s3.example.com", "//x", "ftp://x", "file:///etc/passwd", "gopher://x", "https://"),
        *("https://user@x", "https://user:hunter2@x", "https://x@127.0.0.1", "https://x:0"),
        *("https://x:99999", "https://x:a", "https://x y", "https://x\n", "https://x\\@127.0.0.1"),
        *("https://münchen.de", "https://127.1", "https://0x7f000001", "https://2130706433"),
        *("https://0x7f.1", "https://127.0.0.1.", "https://[::1", "https://[::1%eth0]"),
        *("https://-x", "https://x..y", "https://.x", "https://%31%32", "https://x\0y"),
        *("https://①②⑦.⓪.⓪.①", "https://" + "a." * 130 + "de", "https://x/" + "a" * 3000),
    ],
)
def test_addresses_that_could_be_read_in_two_ways(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        target_of(url)
    assert "hunter2" not in str(caught.value)


def _judged(policy: list[str], url: str, *addresses: str) -> str:
    try:
        EgressPolicy.of(policy).judge(target_of(url), [ip_address(a) for a in addresses])
    except ArrowQuantError as error:
        shown = str(error).replace(target_of(url).host, "")
        return "told" if any(address in shown for address in addresses) else error.code
    return "allowed"


REFUSAL = "endpoint_not_allowed"


@pytest.mark.parametrize(
    ("policy", "url", "addresses", "outcome"),
    [
        ([], "https://x.de", ["8.8.8.8"], "allowed"),
        ([], "https://x.de", ["8.8.8.8", "10.0.0.1"], REFUSAL),  # one is enough
        ([], "https://x.de", [], REFUSAL),
        ([], "http://x.de", ["8.8.8.8"], REFUSAL),  # not encrypted
        (["x.de"], "http://x.de", ["8.8.8.8"], "allowed"),
        (["10.0.0.0/8"], "http://x.de", ["10.0.0.1"], "allowed"),
        (["10.0.0.0/8"], "http://x.de", ["10.0.0.1", "8.8.8.8"], REFUSAL),
        (["10.0.0.0/8"], "https://x.de", ["10.0.0.1", "8.8.8.8"], "allowed"),
        (["10.0.0.0/8"], "https://x.de", ["11.0.0.1", "127.0.0.1"], REFUSAL),
        (["10.0.0.1:9000"], "https://10.0.0.1:9000", ["10.0.0.1"], "allowed"),
        (["10.0.0.1:9000"], "https://10.0.0.1:6379", ["10.0.0.1"], REFUSAL),
        (["minio.internal"], "http://minio.internal", ["10.0.0.1"], "allowed"),
        (["MinIO.internal."], "http://minio.internal.", ["10.0.0.1"], "allowed"),
        (["minio.internal"], "http://not-minio.internal", ["10.0.0.1"], REFUSAL),
        (["minio.internal"], "http://minio.internal.evil.de", ["10.0.0.1"], REFUSAL),
        (["minio.internal:9000"], "http://minio.internal", ["10.0.0.1"], REFUSAL),
        # A name never opens the metadata of a machine, whatever it is pointed at; a number does.
        (["minio.internal"], "http://minio.internal", ["169.254.169.254"], REFUSAL),
        (["minio.internal"], "http://minio.internal", ["::ffff:169.254.169.254"], REFUSAL),
        (["minio.internal"], "http://minio.internal", ["fd00:ec2::254"], REFUSAL),
        (["169.254.169.254"], "http://minio.internal", ["169.254.169.254"], "allowed"),
        (["fd00::/16"], "http://[fd00::5]", ["fd00::5"], "allowed"),
        (["[fd00::5]:80"], "http://[fd00::5]", ["fd00::5"], "allowed"),
        (["127.0.0.1"], "http://x.de", ["::ffff:127.0.0.1"], REFUSAL),  # listed as it is dialled
    ],
)
def test_what_is_listed(policy: list[str], url: str, addresses: list[str], outcome: str) -> None:
    assert _judged(policy, url, *addresses) == outcome


@pytest.mark.parametrize(
    "text",
    ["", "http://x", "10.0.0.1/8", "10.0.0.0/33", "x/8", "x:0", "x:99999", "*", "a b", "127.1"],
)
def test_entries_that_mean_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        EgressPolicy.of([text])
