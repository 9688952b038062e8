"""Use a session as Deep Agents uses a sandbox."""

from __future__ import annotations

import sys

from deepagents.backends.protocol import FileDownloadResponse
from deepagents_sandbox import StreamerBackend

from streamer import SyncClient

with SyncClient(sys.argv[1]) as client, client.session() as session:
    backend = StreamerBackend(session)
    assert backend.id == session.id

    said = backend.execute("echo out; echo err >&2; exit 3")
    assert (said.output, said.exit_code, said.truncated) == ("out\nerr\n", 3, False), said
    assert backend.execute("kill -9 $$").exit_code == 137
    assert backend.execute("sleep 60", timeout=1).exit_code == 124
    assert backend.execute("head -c 200000 /dev/zero | tr '\\0' x").truncated
    home = backend.execute("pwd").output.strip()

    files = [(f"{home}/a/b.txt", b"one\ntwo\n"), ("relative", b""), ("/etc/x", b""), ("/tmp", b"")]
    errors = [response.error for response in backend.upload_files(files)]
    assert errors == [None, "invalid_path", "permission_denied", "is_directory"], errors
    paths = [f"{home}/a/b.txt", f"{home}/none", "/tmp", "relative"]
    assert backend.download_files(paths) == [
        FileDownloadResponse(paths[0], b"one\ntwo\n", None),
        FileDownloadResponse(paths[1], None, "file_not_found"),
        FileDownloadResponse(paths[2], None, "is_directory"),
        FileDownloadResponse(paths[3], None, "invalid_path"),
    ]

    # What the base class makes of these: an agent's tools.
    assert backend.write(f"{home}/c.py", "print('c')\n").error is None
    assert backend.edit(f"{home}/c.py", "'c'", "'d'").occurrences == 1
    assert backend.edit(f"{home}/a/b.txt", "one", "1" * 60_000).error is None
    assert backend.read(f"{home}/c.py").file_data["content"] == "print('d')"
    assert f"{home}/a" in [entry["path"] for entry in backend.ls(home).entries]
    assert [found["path"] for found in backend.glob("**/*.txt", home).matches] == [paths[0]]
    assert [found["text"] for found in backend.grep("two", home).matches] == ["two"]
    assert backend.delete(f"{home}/c.py").error is None
    assert backend.write("/tmp/kept", "x").error is None
    assert backend.read("/tmp/kept").file_data["content"] == "x"
