"""The page for operators: its nginx with TLS, and its line of the log."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.interop import nginx
from tests.redisserver import free_port
from tests.tools import tool
from tests.web.test_connections import serving

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and its key."""
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


@pytest.mark.slow
async def test_jobs_run_through_its_nginx_and_are_logged_as_it_says(tmp_path: Path) -> None:
    (server,) = [code for language, code in FENCE.findall(PAGE) if language == "nginx"]
    made, key = certificate(tmp_path)
    port = free_port()
    (tmp_path / "config.toml").write_text(
        '[auth]\nanonymous = true\n[logging]\nformat = "json"\n[server]\n'
        'trusted_proxies = ["127.0.0.1"]\n'
    )
    async with serving(tmp_path) as served:
        for old, new in [
            ("443 ssl", f"127.0.0.1:{port} ssl"),
            ("/etc/letsencrypt/live/code.example.org/fullchain.pem", str(made)),
            ("/etc/letsencrypt/live/code.example.org/privkey.pem", str(key)),
            ("127.0.0.1:8080", f"127.0.0.1:{served.port}"),
        ]:
            assert old in server
            server = server.replace(old, new)
        trust = ssl.create_default_context(cafile=str(made))
        async with (
            nginx.serving(server, tmp_path),
            ClientSession(f"https://127.0.0.1:{port}") as session,
        ):
            body = {"language": "python", "code": "print(6 * 7)"}
            headers = {"Accept": "text/event-stream"}
            async with session.post(
                "/api/execute", json=body, headers=headers, ssl=trust
            ) as answer:
                text = await answer.text()
                written = re.findall(r'"stream":"stdout","data":("[^"]*")', text)
                assert "".join(json.loads(part) for part in written) == "42\n"
                assert "event: complete" in text
            async with session.get("/metrics", ssl=trust) as answer:
                assert answer.status == 404
        logged = json.loads(await served.until_logged('"streamer.jobs"'))
    (sample,) = [line for line in PAGE.splitlines() if line.startswith('{"time"')]
    assert json.loads(sample).keys() == logged.keys()
