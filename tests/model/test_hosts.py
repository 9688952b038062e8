"""The proxy's rules: what a host is, which addresses are allowed, how a request is parsed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.config.schema import Config
from streamer.errors import ConfigError
from streamer.model.hosts import Address, HostRule, Place, address_refusal, canonical_host
from streamer.sandbox.network.request import Refused, parse_request

# -- addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",  # a cloud's metadata
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",  # a cloud's metadata
        "169.254.169.254",  # most clouds' metadata
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",  # a cloud's metadata
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # IPv4-compatible
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0:127.0.0.1",  # IPv4-translated
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "100::1",
        "2001::1",  # Teredo
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",  # a cloud's metadata
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert address_refusal(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.0",
        "151.101.0.223",
        "172.15.255.255",
        "172.32.0.0",
        "169.253.255.255",
        "223.255.255.255",
        "2606:4700::1111",
        "2a04:4e42::223",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_a_public_address_passes(address: str) -> None:
    assert address_refusal(ip_address(address)) == ""


@given(st.ip_addresses(v=4) | st.ip_addresses(network="2000::/3"))
@example(ip_address("192.0.0.9"))
def test_what_passes_is_public_to_python_too(address: Address) -> None:
    if not address_refusal(address):
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_alike(address: IPv4Address) -> None:
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        carrier = IPv6Address(int(IPv6Address(prefix)) + int(address))
        assert address_refusal(carrier) == address_refusal(address)


# -- hosts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("example.org", "example.org"),
        ("Example.ORG", "example.org"),
        ("example.org.", "example.org"),
        ("_x.a-b.org", "_x.a-b.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.1.1.1", "1.1.1.1"),
        ("::1", "::1"),
        ("2606:4700:0:0::1111", "2606:4700::1111"),
        ("::FFFF:1.2.3.4", "::ffff:102:304"),
        ("3com.com", "3com.com"),
        ("a" * 63 + ".org", "a" * 63 + ".org"),
    ],
)
def test_a_host_has_one_form(text: str, host: str) -> None:
    assert canonical_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        "-a.org",
        "a-.org",
        "a b.org",
        "a\0b.org",
        "evil\0.allowed.org",
        "a\r\n.org",
        "a\t",
        "bücher.example",
        "a。org",
        "１.1.1.1",  # full-width
        "a%2eorg",
        "user@a.org",
        "a/b",
        "a\\b",
        "*.a.org",
        "a" * 64 + ".org",
        "a." * 127 + "org",
        # unusual forms of IPv4
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "a.1",
        "a.0x1",
        "0x",
        # IPv6
        "fe80::1%eth0",
        ":",
        "1:2",
        "::1::",
        "::ffff:127.1",
    ],
)
def test_what_could_be_read_in_two_ways_is_no_host(text: str) -> None:
    with pytest.raises(ValueError):
        canonical_host(text)


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-fxA-FX.:\-_*%\[\]]{0,30}", fullmatch=True))
def test_a_canonical_host_is_its_own_form_and_harmless(text: str) -> None:
    try:
        host = canonical_host(text)
    except ValueError:
        return
    assert canonical_host(host) == host
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.:")
    assert Place.parse(str(Place(host, 80))) == Place(host, 80)


@pytest.mark.parametrize(
    "text",
    [
        *("a.org", "a.org:", "a.org:0", "a.org:080", "a.org:65536", "a.org:-1", "a.org:80:80"),
        *("a.org:+80", "a.org:8_0", "a.org: 80", "a.org:８０", "[::1]", "[::1]80", "[::1:80"),
        *("[a.org]:80", "[]:80", "::1:80", "a.org@b.org:80"),
    ],
)
def test_a_place_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(ValueError):
        Place.parse(text)


# -- rules -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "yes", "no"),
    [
        (
            "example.org",
            ["example.org:80", "EXAMPLE.org.:443"],
            ["example.org:8080", "www.example.org:443"],
        ),
        (
            "allowed.com",
            ["allowed.com:443"],
            ["allowed.com.evil.com:443", "evilallowed.com:443", "a.allowed.com:443"],
        ),
        (
            "*.allowed.com",
            ["a.allowed.com:443", "b.a.allowed.com:80"],
            ["allowed.com:443", "evilallowed.com:443", "a.allowed.com.evil.com:443"],
        ),
        ("*.a.org:8443", ["x.a.org:8443"], ["x.a.org:443", "x.a.org:18443"]),
        ("1.1.1.1", ["1.1.1.1:443"], ["11.1.1.1:443", "[::ffff:1.1.1.1]:443"]),
        ("[2606:4700::1111]:53", ["[2606:4700:0::1111]:53"], ["[2606:4700::1111]:443"]),
    ],
)
def test_an_entry_covers_what_it_says(entry: str, yes: list[str], no: list[str]) -> None:
    rule = HostRule.parse(entry)
    assert [text for text in yes if not rule.allows(Place.parse(text))] == []
    assert [text for text in no if rule.allows(Place.parse(text))] == []


@pytest.mark.parametrize(
    "entry",
    [
        *("*", "*.", "*.*", "*.com", "*.1.1.1.1", "a.*.org", "https://a.org", "a.org/x", "a.org:x"),
        *("a.org:0", "10.0.0.1", "127.0.0.1:8080", "[::1]:80", "169.254.169.254", "bücher.de"),
        *(" a", "a b"),
    ],
)
def test_a_useless_or_dangerous_entry_stops_the_start(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"^sandbox\.allow_hosts: .*(write|remove)"):
        Config.from_mapping({"sandbox": {"allow_hosts": [entry]}})


# -- requests --------------------------------------------------------------------------


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


def test_a_tunnel_is_understood() -> None:
    request = parse_request(head("CONNECT A.org:443 HTTP/1.1", "Host: b.org:80"))
    assert (request.place, request.body_bytes) == (Place("a.org", 443), None)


def test_a_request_is_written_anew() -> None:
    request = parse_request(
        head(
            "POST HTTP://A.org/x?y=http://b HTTP/1.1",
            "Host: evil.org",
            "Proxy-Authorization: Basic x",
            "Connection: keep-alive, X-Hop , Host, Content-Length",
            "X-Hop: 1",
            "Upgrade: h2c",
            "Content-Length: 3",
            "Accept: */* ",
        )
    )
    assert (request.place, request.body_bytes) == (Place("a.org", 80), 3)
    assert request.head == head(
        "POST /x?y=http://b HTTP/1.1",
        "Host: a.org",
        "Content-Length: 3",
        "accept: */*",
        "Via: 1.1 streamer",
        "Connection: close",
    )


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("http://a.org", "GET / HTTP/1.0"),
        ("http://a.org?q", "GET /?q HTTP/1.0"),
        ("http://a.org:8080/", "GET / HTTP/1.0"),
    ],
)
def test_a_path_may_be_left_out(target: str, line: str) -> None:
    request = parse_request(head(f"GET {target} HTTP/1.0"))
    assert request.head.startswith(line.encode() + b"\r\nHost: a.org")
    assert request.body_bytes == 0


@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET https://a.org/ HTTP/1.1",
        "GET ftp://a.org/ HTTP/1.1",
        "GET http:a.org HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http://a.org/#f HTTP/1.1",
        "GET http://u:p@a.org/ HTTP/1.1",
        "GET http://allowed.com@evil.org/ HTTP/1.1",
        "GET http://allowed.com\\@evil.org/ HTTP/1.1",
        "GET http://allowed.com%00.evil.org/ HTTP/1.1",
        "GET http://evil\0.allowed.com/ HTTP/1.1",
        "GET http://a.org:/ HTTP/1.1",
        "GET http://a.org/ HTTP/2.0",
        "GET http://a.org/ HTTP/1.1 ",
        "GET  http://a.org/ HTTP/1.1",
        "GET\thttp://a.org/ HTTP/1.1",
        "GET http://a.org/ x HTTP/1.1",
        "GET http://a.org/",
        "CONNECT a.org HTTP/1.1",
        "CONNECT http://a.org:443 HTTP/1.1",
        "CONNECT a.org:443/x HTTP/1.1",
        "CONNECT evil\0.allowed.com:443 HTTP/1.1",
        "CONNECT 0x7f.1:443 HTTP/1.1",
        "CONNECT a.org:1-65535 HTTP/1.1",
        "",
    ],
)
def test_another_first_line_is_refused(line: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_request(head(line))
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (400, ["no colon"]),
        (400, ["Space : x"]),
        (400, [" folded: x"]),
        (400, ["A: x", "\tfolded"]),
        (400, ["A: x\ny: z"]),
        (400, ["A: x\rB: z"]),
        (400, ["A: \0"]),
        (400, ["Content-Length: 1", "Content-Length: 1"]),
        (400, ["Content-Length: 1, 1"]),
        (400, ["Content-Length: +1"]),
        (400, ["Content-Length: 0x1"]),
        (400, ["Content-Length:"]),
        (400, ["Content-Length: 9999999999999999"]),
        (400, ["A: x"] * 101),
        (411, ["Transfer-Encoding: chunked"]),
        (411, ["Transfer-Encoding: chunked", "Content-Length: 1"]),
    ],
)
def test_headers_that_could_be_read_in_two_ways_are_refused(
    status: int, headers: list[str]
) -> None:
    with pytest.raises(Refused) as refused:
        parse_request(head("POST http://a.org/ HTTP/1.1", *headers))
    assert refused.value.status == status


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for raw in (data, b"GET http://" + data, b"GET http://a.org/ HTTP/1.1\r\n" + data):
        try:
            request = parse_request(raw + b"\r\n\r\n")
        except Refused:
            continue
        # The head of one request, without a byte that would end a line early.
        assert request.head.count(b"\r\n\r\n") <= 1
        assert request.head.replace(b"\r\n", b"").translate(None, b"\r\n\0") == (
            request.head.replace(b"\r\n", b"")
        )
