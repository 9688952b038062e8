"""Callers learn no path of the server."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Start
from tests.support import parts_of
from tests.web import problem


async def test_callers_are_told_no_path_of_the_server(start: Start, tmp_path: Path) -> None:
    wrapper = tmp_path / "secret-wrapper"
    wrapper.write_text("#!/bin/sh\necho cannot open /srv/internal/keys >&2\nexit 3\n")
    wrapper.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    tool = tmp_path / "secret-tool"
    client = await start(
        sandbox={"firejail": {"path": str(wrapper)}, "path": f"/usr/bin:/bin:{tmp_path}"},
        runtimes={"absent": {"entry": "main.x", "run": [str(tool), "{entry}"]}},
    )
    async with client.get("/api/sandboxes") as response:
        text = await response.text()
        (firejail,) = [s for s in (await response.json())["sandboxes"] if s["name"] == "firejail"]
    assert not firejail["available"]
    assert "streamer doctor" in firejail["reason"]
    async with client.get("/api/runtimes") as response:
        text += await response.text()
        (absent,) = [r for r in (await response.json())["runtimes"] if r["name"] == "absent"]
    assert "streamer runtimes" in absent["reason"]
    job = {"language": "absent", "code": "1"}
    async with client.post("/api/execute", json=job) as response:
        await problem(response, 400, "unknown_language")
        text += await response.text()
    for secret in ("/srv", "secret", str(tmp_path), "/usr/bin"):
        assert secret not in text
    # The operator's log has it.
    service = parts_of(client)
    assert "/srv/internal/keys" in (await service.worker.backends.reasons())["firejail"]
    assert "secret-tool" in service.worker.host.languages.missing["absent"]
