"""Sizes with units: what they mean, what is refused, and that every size accepts them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from streamer.cli.jobspec import job_spec
from streamer.config.load import load_config
from streamer.config.schema import Config, ServerConfig
from streamer.config.tree import with_sizes
from streamer.errors import ConfigError, InvalidJob
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import by_name
from streamer.model.sizes import parse_size

MEANT = {
    "0": 0,
    "123": 123,
    "268_435_456": 268_435_456,
    "7B": 7,
    "7b": 7,
    "1k": 1024,
    "1K": 1024,
    "1KiB": 1024,
    "1kB": 1000,
    "1KB": 1000,
    "10m": 10 * 2**20,
    "256M": 2**28,
    "256MiB": 2**28,
    "256 MiB": 2**28,
    " 256mib ": 2**28,
    "256MB": 256_000_000,
    "1.5GiB": 3 * 2**29,
    "1.5GB": 1_500_000_000,
    "2G": 2**31,
    "4TiB": 2**42,
    "4TB": 4 * 10**12,
    "1_0.25k": 10_496,
    "0.0001k": 0,
    "9223372036854775807": 2**63 - 1,
}
REFUSED = (
    *("", " ", "B", "MiB", "-1", "+1", "-1MiB", "1.5", "1.5B", "1.", ".5G", "1e6", "0x10", "nan"),
    *("1_", "_1", "1__0", "1iB", "1P", "1Mib/s", "256MiBB", "256 M iB", "1,5G", "inf", "\u0663M"),
    *("9223372036854775808", "8388608T", "9" * 39 + "T", "1\n\n1", "0" * 41, "9" * 1_000_000),
)


@pytest.mark.parametrize(("text", "size"), MEANT.items())
def test_what_a_size_means(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_what_is_no_size_is_refused_in_a_short_message(text: str) -> None:
    with pytest.raises(ValueError, match="size") as refused:
        parse_size(text)
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


def test_every_size_of_the_configuration_takes_a_unit(tmp_path: Path) -> None:
    document = Path(__file__).parents[2].joinpath("config.toml").read_text()
    lines = []
    for line in document.splitlines():
        key, equals, value = line.partition(" = ")
        if equals and key.endswith("_bytes") and not line.startswith("#"):
            line = f'{key} = "{value}B"'  # noqa: PLW2901
        lines.append(line)
    written = tmp_path / "config.toml"
    written.write_text("\n".join(lines))
    assert written.read_text().count('B"') > 15
    assert load_config(written, environ={}) == Config.from_mapping(tomllib.loads(document))


def test_sizes_in_environment_options_and_profiles(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[profiles.a.limits.max]\nmemory_bytes = "3GiB"\n'
        '[runtimes.python.limits]\nmemory_bytes = "300m"\n'
        '[runtimes.python.env]\nA_bytes = "1k"\n'
        '[sandbox.bwrap]\ntmp_bytes = "32MiB"\n'
        '[runtimes.python]\ntmp_bytes = "1MiB"\n'
        '[engine]\nblob_bytes_per_client = "2GB"\n'
    )
    config = load_config(
        path,
        environ={"STREAMER_SERVER__MAX_BODY_BYTES": "10m"},
        overrides=["streams.retention_bytes=1.5GiB"],
        profile="a",
    )
    assert config.limits.max.memory_bytes == 3 * 2**30
    assert config.runtimes["python"].limits["memory_bytes"] == 300 * 2**20
    assert config.runtimes["python"].env["A_bytes"] == "1k"
    assert config.runtimes["python"].tmp_bytes == 2**20
    assert config.sandbox.options["bwrap"]["tmp_bytes"] == 32 * 2**20
    assert config.server.max_body_bytes == 10 * 2**20
    assert config.engine.blob_bytes_per_client == 2 * 10**9
    assert config.streams.retention_bytes == 3 * 2**29
    config = load_config(path, environ={"STREAMER_ENGINE__BLOB_BYTES_PER_CLIENT": "1k"})
    assert config.engine.blob_bytes_per_client == 1024


def test_a_wrong_size_is_told_with_its_key_and_origin(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[limits.default]\nmemory_bytes = "many"\n')
    with pytest.raises(ConfigError) as refused:
        load_config(path, environ={})
    assert str(refused.value).startswith(f"{path}: limits.default.memory_bytes: 'many' is not")
    with pytest.raises(ConfigError) as refused:
        load_config(None, environ={"STREAMER_SERVER__MAX_BODY_BYTES": "12 apples"})
    assert str(refused.value).startswith(
        "environment STREAMER_SERVER__MAX_BODY_BYTES: server.max_body_bytes: '12 apples' is not"
    )


def test_sizes_in_python() -> None:
    assert ServerConfig(max_body_bytes="1MiB").max_body_bytes == 2**20  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"ServerConfig\.max_body_bytes: 'x' is not a size"):
        ServerConfig(max_body_bytes="x")  # type: ignore[arg-type]
    assert with_sizes({"a": {"b": 1, "c_bytes": "1k"}}) == {"a": {"b": 1, "c_bytes": 1024}}


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("memory_bytes=268_435_456", "memory_bytes", 2**28),
        ("memory_bytes=256MiB", "memory_bytes", 2**28),
        ("processes=1_0", "processes", 10),
        ("processes=-1", "processes", -1),
        ("wall_time_s=1.5", "wall_time_s", 1.5),
        ("wall_time_s=1_000", "wall_time_s", 1000),
    ],
)
def test_a_limit_on_the_command_line(tmp_path: Path, text: str, name: str, value: float) -> None:
    program = tmp_path / "a.py"
    program.write_text("")
    spec = job_spec(str(program), runtimes=by_name(DEFAULT_RUNTIMES), limits=[text])
    assert spec.limits == {name: value}


@pytest.mark.parametrize("text", ["memory_bytes=lots", "memory_bytes=", "wall_time_s=soon"])
def test_a_wrong_limit_on_the_command_line(tmp_path: Path, text: str) -> None:
    program = tmp_path / "a.py"
    program.write_text("")
    with pytest.raises(InvalidJob, match=f"--limit {text.partition('=')[0]}: "):
        job_spec(str(program), runtimes=by_name(DEFAULT_RUNTIMES), limits=[text])
