"""Where webhooks may be sent to, as far as a URL tells."""

from __future__ import annotations

import pytest

from streamer.errors import Forbidden, InvalidJob
from streamer.jobs.webhooks.target import Targets
from streamer.model.webhook import Webhook

ANY = Targets(())
LISTED = Targets(("127.0.0.1:9000", "hooks.internal", "[::1]:9000"))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://example.org", "example.org:443"),
        ("https://EXAMPLE.org./a?b=c%20d&e=@:/", "example.org:443"),
        ("https://example.org:8443/x", "example.org:8443"),
        ("https://xn--bcher-kva.example.org/", "xn--bcher-kva.example.org:443"),
        ("https://93.184.215.14/", "93.184.215.14:443"),
        (
            "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
            "[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:443",
        ),
        ("https://example.org?a", "example.org:443"),
    ],
)
def test_the_place_of_a_url(url: str, place: str) -> None:
    assert ANY.checked(Webhook(url)).place == place


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.org", "//example.org/", "ftp://example.org/", "file:///etc/passwd"),
        *("https://", "https:///x", "https://:443/", "https://example.org:0/", "HTTPS://example.org/"),
        *("https://example.org:65536/", "https://example.org:x/", "https://example.org:/"),
        *("https://user@example.org/", "https://user:pass@example.org/", "https://a@b@example.org/"),
        *("https://example.org/#part", "https://example.org\\@10.0.0.1/", "https://example.org/ x"),
        *("https://example.org/\r\nX: y", "https://example.org/\x00", "https://b\u00fccher.example/"),
        *("https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/"),
        *("https://0x7f.0.0.1/", "https://127.0.0.1.0x1/", "https://1.2.3/", "https://[::1%25lo]/"),
        *("https://[127.0.0.1]/", "https://::1/", "https://example.org%2f@x/", "https://exa_mple!.org/"),
        f"https://example.org/{'x' * 2048}",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        ANY.checked(Webhook(url))
    assert refused.value.path == "$.webhook.url"


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.org/", "https://example.org:25/", "https://example.org:22/"),
        *("https://127.0.0.1/", "https://127.8.8.8/", "https://0.0.0.0/", "https://10.0.0.1/"),
        *("https://172.16.0.1/", "https://192.168.1.1/", "https://169.254.169.254/"),
        *("https://100.64.0.1/", "https://224.0.0.1/", "https://255.255.255.255/"),
        *("https://168.63.129.16/", "https://198.18.0.1/", "https://192.0.2.1/"),
        *("https://[::1]/", "https://[::]/", "https://[fe80::1]/", "https://[fc00::1]/"),
        *("https://[::ffff:127.0.0.1]/", "https://[::ffff:10.0.0.1]/", "https://[::127.0.0.1]/"),
        *("https://[64:ff9b::7f00:1]/", "https://[64:ff9b::a00:1]/", "https://[2002:7f00:1::]/"),
        *("https://[2001::1]/", "https://[ff02::1]/", "https://[2001:db8::1]/", "https://[::2]/"),
    ],
)  # fmt: skip
def test_what_leads_inwards_is_refused(url: str) -> None:
    with pytest.raises(Forbidden, match=r"webhooks\.allow_hosts") as refused:
        ANY.checked(Webhook(url))
    assert refused.value.path == "$.webhook.url"


def test_the_operator_may_list_hosts() -> None:
    for url in ("http://127.0.0.1:9000/x", "http://hooks.internal:25/", "https://[::1]:9000/"):
        assert LISTED.checked(Webhook(url)).place
    for url in ("http://127.0.0.1:9001/", "http://127.0.0.1/", "http://x.hooks.internal/"):
        with pytest.raises(Forbidden):
            LISTED.checked(Webhook(url))


@pytest.mark.parametrize("events", [(), ("complete", "complete")])
def test_each_event_is_named_once(events: tuple[str, ...]) -> None:
    with pytest.raises(InvalidJob):
        ANY.checked(Webhook("https://example.org/", events))  # type: ignore[arg-type]
