"""Which texts name a trace (W3C Trace Context, 3.2)."""

from __future__ import annotations

import pytest

from streamer.model.tracecontext import parsed_traceparent, trace_id

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


def test_a_caller_names_its_trace() -> None:
    text = f"00-{IDS}-01"
    assert parsed_traceparent(text) == text
    assert trace_id(text) == IDS[:32]


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parsed_traceparent(f"cc-{IDS}-01-what-the-future-is") == f"00-{IDS}-01"
    assert parsed_traceparent(f"cc-{IDS}-01") == f"00-{IDS}-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{IDS}",
        f"00-{IDS}-01-more",
        f"ff-{IDS}-01",
        f"cc-{IDS}-01.more",
        f"00-{IDS.upper()}-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        f" 00-{IDS}-01",
        f"00-{IDS}-01\n",
        f"00-{IDS}-0g",
        f"0-{IDS}-01",
        "x" * 8000,
    ],
)
def test_what_names_none_is_left_out(text: str) -> None:
    assert parsed_traceparent(text) == ""
