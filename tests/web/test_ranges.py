"""Which bytes a request is for."""

from __future__ import annotations

import pytest

from streamer.model.ranges import Unsatisfiable
from streamer.web.ranges import byte_range


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=2-4", range(2, 5)),
        ("bytes= 2-4 ", range(2, 5)),
        ("bytes=2-", range(2, 10)),
        ("bytes=9-99", range(9, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-99", range(10)),
        ("bytes=0-" + "9" * 18, range(10)),
        *((header, None) for header in (None, "", "bytes=", "bytes=-", "bytes=4-2", "items=0-1")),
        *((header, None) for header in ("bytes=0-1,3-4", "bytes=a-b", "bytes=0-" + "9" * 19)),
        *((header, None) for header in ("bytes=+1-2", "bytes=1-2x", "bytes=١-2", "bytes=0x1-2")),
    ],
)
def test_a_range(header: str | None, wanted: range | None) -> None:
    assert byte_range(header, 10) == wanted


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-11", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_without_bytes(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable, match=f"{size} bytes") as refused:
        byte_range(header, size)
    assert refused.value.status == 416
