"""Forms with files (multipart/form-data)."""

from __future__ import annotations

import pytest

from streamer.errors import InvalidRequest

from . import files_in, form_of

B = b"xyz"


def test_names_of_browsers_and_curl() -> None:
    form = form_of(
        [
            (b'name="files"; filename="src/a.py"', b"1"),
            (b'name="files"; filename="a%22b%0D%0A.py"', b"2"),
            (b'filename="first.py"; name="files"', b"3"),
            ('name=x; filename="ä.py"'.encode(), b"4"),
            (b"name=x; filename*=UTF-8''%C3%B6%20%2Fo.py", b"5"),
            (b'name="filename=\\"no.py\\""; filename="100%25.py"', b"6"),
        ]
    )
    assert files_in(form, boundary=B) == {
        "src/a.py": b"1",
        'a"b\r\n.py': b"2",
        "first.py": b"3",
        "ä.py": b"4",
        "ö /o.py": b"5",
        "100%25.py": b"6",
    }


def test_names_of_other_clients() -> None:
    form = form_of(
        [
            (b'name="f"; filename="src%2Fa%20b%25.py"', b"aiohttp"),
            (b'name="f"; filename="%C3%A4.py"', b"aiohttp, too"),
            (b'name="f"; filename="a%20b.py"', b"a browser, or aiohttp: it stays as it came"),
            (b'name="f"; filename="d/%C3%A4%2F.py"', b"a browser, since it has a slash"),
            (b"name=f; filename=c.py", b"C#"),
            (b"name=f; filename=d.py; filename*=utf-8''d%20e.py", b"C#, too"),
        ]
    )
    assert [*files_in(form, boundary=B)] == [
        *("src/a b%.py", "\u00e4.py", "a%20b.py", "d/%C3%A4%2F.py", "c.py", "d e.py"),
    ]


def test_content_that_looks_like_a_boundary() -> None:
    contents = [b"\r\n--xy", b"--xyz", b"\r\n", b"\r", b"\r\n--xy\r\n--xy", b"\r\n-"]
    form = form_of([(b'filename="%d"' % n, data) for n, data in enumerate(contents)])
    assert list(files_in(form, boundary=B).values()) == contents


@pytest.mark.parametrize("size", range(128 * 1024 - 12, 128 * 1024 + 4))
def test_a_boundary_between_two_reads(size: int) -> None:
    form = form_of([(b'filename="a"', bytes(size)), (b'filename="b"', b"x")])
    assert files_in(form, boundary=B) == {"a": bytes(size), "b": b"x"}


@pytest.mark.parametrize(
    ("disposition", "said"),
    [
        (b'name="code"', "'code' is no file"),
        (b'name="code"; filename=""', "'code' is no file"),
        (b"", "without a name is no file"),
        (b'filename="a/"', "'a' is a folder"),
        (b'filename="a\\"b"', "backslash"),
        (b'filename="a\xff"', "UTF-8"),
        (b"filename*=utf-8''%00", "NUL"),
        (b"filename*=utf-8''..%2Fx", "relative"),
        (b'filename="..%2Fx"', "relative"),
        (b'filename="%00%2Fx"', "NUL"),
        (b'filename="%FFx"', "UTF-8"),
        (b'filename="a"\r\nContent-Transfer-Encoding: base64', "Transfer-Encoding"),
    ],
)
def test_parts_that_are_refused(disposition: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        files_in(form_of([(disposition, b"")]), boundary=B)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (b"", "begin with its boundary"),
        (b"preamble\r\n--xyz--", "begin with its boundary"),
        (b"--xyz", "line with its boundary"),
        (b"--xyzz\r\n", "line with its boundary"),
        (b"--xyz\r\nContent-Disposition: form-data", "headers of a part"),
        (b"--xyz\r\nX: " + b"x" * 9000 + b"\r\n\r\n", "headers of a part"),
        (b'--xyz\r\nContent-Disposition: form-data; filename="a"\r\n\r\nabc', "truncated"),
    ],
)
def test_forms_that_are_damaged(form: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        files_in(form, boundary=B)
