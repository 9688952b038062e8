from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.eventlog.frames import (
    HEARTBEAT,
    check_event,
    comment,
    data_value,
    frame,
    gap_frame,
    joined_lines,
    padding,
    preamble,
    retry,
    split_frames,
)
from streamer.sse import EventParser, to_json

Event = tuple[str, str, str]

texts = st.text() | st.text(alphabet="\r\n\0\x85\u2028\ufeff: dataevntirych1\\")
names = st.text(min_size=1).filter(lambda name: not re.search("[\r\n\0]", name) and name != "gap")
numbers = st.integers(min_value=1, max_value=10**15)


def whatwg(stream: bytes) -> tuple[list[Event], list[str]]:
    """Interpret a stream word for word as section 9.2.6 says, apart from ours.

    Returns the events and the values of `retry`.
    """
    text = stream.decode("utf-8", "replace")
    text = text.removeprefix("\ufeff")
    events: list[Event] = []
    retries: list[str] = []
    data, kind, last_id = "", "", ""
    lines = re.split("\r\n|\n|\r", text)
    for line in lines[:-1]:  # an incomplete event is discarded
        if line == "":
            if data != "":
                events.append((last_id, kind or "message", data[:-1]))
            data, kind = "", ""
            continue
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            retries.append(value)
    return events, retries


def seen(text: str) -> str:
    """Return a text as a client gets it: every line end becomes LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.slow
@given(names, texts, numbers)
@example("e", "\ndata: x", 1)
@example("e", "a\n\nid: 7\n\nevent: forged\ndata: x", 1)
def test_any_text_arrives_as_one_event(name: str, text: str, number: int) -> None:
    made = frame(check_event(name), data_value(text), number)
    assert whatwg(made) == ([(str(number), name, seen(text))], [])
    assert EventParser().feed(made) == [(str(number), name, seen(text))]


@pytest.mark.slow
@given(st.lists(st.tuples(names, texts), max_size=5), numbers)
def test_frames_are_split_as_they_were_made(events: list[tuple[str, str]], first: int) -> None:
    frames = [frame(name, data_value(text), first + n) for n, (name, text) in enumerate(events)]
    assert list(split_frames(b"".join(frames))) == [
        (first + n, name, seen(text).encode(), frames[n]) for n, (name, text) in enumerate(events)
    ]


@given(st.text(alphabet="a\r\n\0", min_size=1).filter(lambda name: re.search("[\r\n\0]", name)))
def test_a_name_that_could_end_its_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must not contain"):
        check_event(name)


def test_a_name_that_is_ours_or_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="is reserved"):
        check_event("gap")
    with pytest.raises(UnicodeEncodeError):
        check_event("\udc80")
    with pytest.raises(UnicodeEncodeError):
        data_value("\udc80")


@pytest.mark.slow
@given(texts, st.lists(texts, max_size=3))
def test_a_comment_is_never_a_field_an_event_or_part_of_one(text: str, more: list[str]) -> None:
    made = comment(text) + b"".join(comment(other) for other in more) + HEARTBEAT
    assert whatwg(made + frame("e", b"x", 1)) == ([("1", "e", "x")], [])
    assert b"\n\n" not in made, "some clients take a comment with a blank line for a message"


@given(st.integers(min_value=1, max_value=10**6), st.integers(min_value=0, max_value=10**6))
def test_retry_is_one_line_within_its_bounds(least: int, jitter: int) -> None:
    made = retry(least, jitter)
    assert whatwg(made) == ([], [made[7:-1].decode()])
    assert least <= int(made[7:-1]) <= least + jitter


def test_retry_spreads_clients_out() -> None:
    assert len({retry(1000, 2000) for _ in range(100)}) > 50


@pytest.mark.parametrize(("least", "jitter"), [(0, 0), (-1, 5), (1, -1)])
def test_a_retry_that_would_be_a_storm_is_refused(least: int, jitter: int) -> None:
    with pytest.raises(ValueError, match="at least 1 ms"):
        retry(least, jitter)


def test_a_gap_says_from_where_to_where() -> None:
    [(number, kind, data)] = whatwg(gap_frame(4, 9))[0]
    assert (number, kind) == ("9", "gap")
    assert json.loads(data) == {"from": 5, "to": 9, "reason": "retention"}


def test_padding_and_preamble_are_comments_of_their_size() -> None:
    for made, size in ((padding(), 2049), (preamble(), 2056)):
        assert len(made) == size
        assert made.startswith(b":")
        assert made.index(b"\n") == size - 1


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(json_values)
@example("\ud83d and \u2028")
def test_json_is_one_line_for_every_client_and_means_the_same(value: object) -> None:
    text = to_json(value)
    assert len(text.splitlines()) <= 1
    assert text.encode()
    assert json.loads(text) == json.loads(json.dumps(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_what_json_does_not_have_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        to_json(value)


streams = st.lists(
    st.sampled_from(
        ["data", "event: e", "id", "id: 7", "id: a\0", "retry: 5", "retry: x", ": c", "", "data:",
         "data: x", "data:  y", "other: z", "dä: ta", "\ufeffdata: z", "datax: 1"]
    ),
    max_size=12,
)  # fmt: skip


@given(streams, st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=1), st.data())
def test_the_parser_does_what_the_specification_says(
    lines: list[str], ends: list[str], data: st.DataObject
) -> None:
    stream = "".join(line + ends[n % len(ends)] for n, line in enumerate(lines)).encode()
    if data.draw(st.booleans()):
        stream = b"\xef\xbb\xbf" + stream
    events, retries = whatwg(stream)
    parser, found, at = EventParser(), [], 0
    cuts = data.draw(st.lists(st.integers(min_value=0, max_value=len(stream)), max_size=6))
    for end in [*sorted(cuts), len(stream)]:
        found += parser.feed(stream[at:end])
        at = end
    assert found == events
    assert parser.retry_ms == (int(retries[-1]) if retries else None)


def test_the_parser_waits_for_nothing_after_a_carriage_return() -> None:
    parser = EventParser()
    assert parser.feed(b"data: x\r\r") == [("", "message", "x")]
    assert parser.feed(b"\ndata: y\r\n\r") == [("", "message", "y")]


@given(texts)
def test_lines_are_joined_again_for_another_frame(text: str) -> None:
    [(_, _, data, _)] = split_frames(frame("e", data_value(text), 1))
    assert whatwg(frame("e", joined_lines(data), 1))[0] == [("1", "e", seen(text))]
