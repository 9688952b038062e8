"""Start a real server that speaks the protocol of S3: SeaweedFS, which a package of PyPI brings."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from streamer.engine.stores.address import S3Address, parse_store
from tests.redisserver import free_port
from tests.tools import required_tools

__all__ = ["S3Server", "s3_server"]

START_S: Final = 60.0
BUCKET: Final = "streamer-tests"
KEY: Final = "an-access-key"
SECRET: Final = "a-secret-key"


class S3Server:
    """One server with one bucket; each `url` has a prefix of its own in it."""

    def __init__(self, executable: Path, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "log"
        keys = folder / "keys.json"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin"],
        }
        keys.write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        self._ports = ports = {
            name: free_port()
            for part in ("master", "volume", "filer", "s3")
            for name in (f"{part}.port", f"{part}.port.grpc")
        }
        ports["s3.port"] = self.port
        self._argv = (
            *(str(executable), "-logtostderr", "server", "-s3", f"-dir={folder / 'data'}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={keys}"),
            # It listens for nothing else, and tells nobody.
            *("-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-master.volumeSizeLimitMB=1024", "-volume.max=0", "-volume.minFreeSpace=1"),
            *(f"-{name}={port}" for name, port in ports.items()),
        )
        self._process: subprocess.Popen[bytes] | None = None

    def url(self) -> str:
        prefix = secrets.token_hex(4)
        return f"s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{self.port}&region=us-east-1"

    def settings(self) -> Mapping[str, str]:
        """Return keys of ``[engine]`` for a store of its own."""
        return {
            "blobs_url": self.url(),
            "blobs_access_key": KEY,
            "blobs_secret_key": SECRET,
        }

    def address(self) -> S3Address:
        address = parse_store(self.url(), KEY, SECRET)
        assert isinstance(address, S3Address)
        return address

    def start(self) -> None:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        ends = time.monotonic() + START_S
        while not self._made():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.05)

    def _made(self) -> bool:
        """Write an object: that makes the bucket, and shows that there is room."""
        import obstore  # not for every test
        from obstore.exceptions import BaseError
        from obstore.store import S3Store as Bucket

        bucket = Bucket(
            BUCKET,
            config={
                "endpoint": f"http://127.0.0.1:{self.port}",
                "access_key_id": KEY,
                "secret_access_key": SECRET,
            },
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        try:
            obstore.put(bucket, "started", b"x", use_multipart=False)
        except (OSError, BaseError):
            return False
        return True

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        for port in self._ports.values():  # it makes some there whatever it is told
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server; skip the test, or fail it, where none is installed."""
    executable = Path(sys.executable).with_name("weed")
    if not executable.exists():
        message = "SeaweedFS is not installed: make setup"
        pytest.fail(message) if "weed" in required_tools() else pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="streamer-s3-"))
    server = S3Server(executable, folder)
    try:
        server.start()
        yield server
    finally:
        server.close()
        shutil.rmtree(folder)
