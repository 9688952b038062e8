"""Attacks on the verdict: faking another end, forging the stream, writing to the init."""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import Attack, ends, exits

__all__ = ["ATTACKS"]

_COMPLETE: Final = '{"reason":"exited","exitCode":0,"signal":null}'


def _prints(name: str, text: str, *covers: int) -> Attack:
    """Return an attack that writes a text, which must arrive unchanged."""
    return Attack(
        name,
        f"os.write(1, {text.encode()!r})\nos._exit(3)",
        judge=exits(3, text),
        covers=(*covers, 22),
    )


ATTACKS: Final = (
    Attack("passing for killed", "os._exit(137)", judge=exits(137), covers=(26,)),
    Attack("passing for out of time", "os._exit(124)", judge=exits(124), covers=(26,)),
    Attack("passing for a sandbox that failed", "os._exit(125)", judge=exits(125), covers=(26,)),
    Attack(
        "passing for a command that is missing", "os._exit(127)", judge=exits(127), covers=(26,)
    ),
    Attack(
        "passing for ended by itself",
        "print('done', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)",
        judge=ends("signaled SIGKILL"),
        covers=(26,),
    ),
    Attack(
        "passing for well by a child's end",
        """
        if os.fork():
            os.waitpid(-1, 0)
            os._exit(9)
        os._exit(0)
        """,
        judge=exits(9),
        covers=(26,),
    ),
    Attack(
        "passing for well where nobody waits for children",
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        subprocess.Popen(["true"])
        time.sleep(0.1)
        os._exit(9)
        """,
        judge=exits(9),
        covers=(14,),
    ),
    Attack(
        "the verdict written to every descriptor",
        f"""
        import socket
        for fd in range(3, 256):
            for text in ({_COMPLETE!r}.encode(), b"\\x26\\0\\0\\0X-" + bytes(36), b"0"):
                with contextlib.suppress(OSError):
                    os.write(fd, text)
        os._exit(9)
        """,
        judge=exits(9, ""),
        covers=(26, 44),
    ),
    Attack(
        "the verdict written to standard input",
        f"""
        for text in ({_COMPLETE!r}.encode(), b"\\x26\\0\\0\\0X-" + bytes(36)):
            with contextlib.suppress(OSError):
                os.write(0, text)
        os._exit(9)
        """,
        judge=exits(9, ""),
        covers=(26,),
    ),
    Attack(
        "the verdict as the status of the wrapper",
        f"""
        print({_COMPLETE!r}, '{{"exit-code": 0}}', "Parent is shutting down, bye...", flush=True)
        os._exit(9)
        """,
        judge=exits(9),
        covers=(26,),
    ),
    Attack(
        "the last bytes of a large output",
        "os.set_blocking(1, True)\ndata = b'x' * 2**20\nwhile data: data = data[os.write(1, data):]\nos._exit(9)",
        judge=exits(9, "x" * 2**20),
        covers=(9, 18),
    ),
    _prints("a frame by line feeds", f"\n\nevent: complete\ndata: {_COMPLETE}\nid: 99\n\n"),
    _prints("a frame by carriage returns", f"\r\revent: complete\rdata: {_COMPLETE}\rid: 99\r\r"),
    _prints("a frame by both", f"\r\n\r\nevent: error\r\ndata: {_COMPLETE}\r\n\r\n"),
    _prints(
        "a frame by other ends of lines",
        f"\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1eevent: complete\u2028data: {_COMPLETE}\u2028\u2028",
    ),
    _prints(
        "a frame by NUL and a byte-order mark",
        f"\0\0\ufeffevent: complete\0data: {_COMPLETE}\0\0",
        23,
    ),
    _prints(
        "a frame by comments and a new id", ":\n\nid: 1000000\nretry: 1\n\n: heartbeat\n\n", 23
    ),
    _prints("a string that ends the JSON", '"}\n\n{"reason":"exited"}\\u0022}</script>'),
    _prints("escapes of a terminal", "\x1b]52;c;ZXZpbA==\x07\x1b]0;root\x07\x1b[2J\x9b31m", 29),
    Attack(
        "bytes that are no text",
        """
        os.write(1, b"\\xff\\xfe\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80\\xc0\\x8aevent: complete\\n")
        os._exit(9)
        """,
        judge=exits(9),
        covers=(19, 21),
    ),
)
