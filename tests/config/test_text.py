"""What `streamer config` prints is a configuration: it can be written to a file and read again."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from streamer.config.load import load_config, load_with_origins
from streamer.config.schema import AuthConfig, Config, MetricsConfig
from streamer.config.text import in_force, template
from streamer.errors import ConfigError

ROOT = Path(__file__).parents[2]
DIGEST = "5" * 64
RICH = f"""
[server]
host = "::1"
allowed_origins = ["https://example.org", "*"]
trusted_proxies = ["127.0.0.1"]
[sandbox]
preset = "strict"
path = "/usr/bin:/opt/\\"x\\"\\u007f\\\\"
[sandbox.bwrap]
path = "/opt/bwrap"
[sandbox.own]
deep = {{ "a.b" = [1, 2.5, true, {{ c = "d" }}] }}
[runtimes."c++11"]
run = ["./a.out", "\\t\\n\\u0001"]
env = {{ A = "é\\u2028", B_C = "" }}
[streams]
heartbeat_s = 7
[metrics]
token_sha256 = "{DIGEST}"
[auth.tenants."a b"]
max_running = 2
max_waiting_bytes = "16MiB"
max_sessions = 0
[[auth.tokens]]
tenant = "a"
sha256 = "{DIGEST}"
[[auth.tokens]]
tenant = "b"
sha256 = "{DIGEST[:-1]}6"
name = "n"
scopes = ["metrics"]
expires = 2030-12-31T00:00:00Z
"""


@pytest.mark.parametrize("text", ["", RICH, '[sandbox]\npreset = "dev"\n'])
@pytest.mark.parametrize("with_origins", [False, True])
def test_what_is_printed_is_read_again(tmp_path: Path, text: str, *, with_origins: bool) -> None:
    written, again = tmp_path / "config.toml", tmp_path / "again.toml"
    written.write_text(text)
    config, origins = load_with_origins(written, environ={})
    printed = "\n".join(in_force(config, origins if with_origins else None))
    assert DIGEST not in printed
    again.write_text(printed)
    assert load_config(again, environ={}) == replace(
        config, auth=AuthConfig(tenants=config.auth.tenants), metrics=MetricsConfig()
    )


def test_a_secret_is_a_comment(tmp_path: Path) -> None:
    written = tmp_path / "config.toml"
    written.write_text(
        RICH + '[engine]\nurl = "redis://u:hunter2@h/0"\n[sandbox.x]\ntoken = "hunter2"'
    )
    lines = list(in_force(load_config(written, environ={})))
    assert "hunter2" not in "\n".join(lines)
    for line in (
        (
            '# auth.tokens = [{tenant = "a", sha256 = "***"}, {tenant = "b", sha256 = "***", '
            'name = "n", scopes = ["metrics"], expires = "2030-12-31T00:00:00Z"}]'
        ),
        '# metrics.token_sha256 = "***"',
        '# engine.url = "redis://u:***@h/0"',
        '# sandbox.x.token = "***"',
    ):
        assert line in lines


def test_the_template_is_config_toml_and_sets_nothing() -> None:
    begin = template()
    config = Config.from_mapping(tomllib.loads(begin))
    assert config.sandbox.options == {"bwrap": {}, "firejail": {}}
    assert replace(config, sandbox=replace(config.sandbox, options={})) == Config()
    assert not re.search(r"^[^#\[\n]", begin, re.MULTILINE)
    # Every setting is there, and valid once it is uncommented.
    original = (ROOT / "config.toml").read_text().splitlines()
    for line, commented in zip(original, begin.splitlines(), strict=True):
        assert commented in (line, f"#{line}")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"port": 1}, "port: unknown key; did you mean server.port?"),
        ({"max_waiting": 1}, "max_waiting: unknown key; did you mean queue.max_waiting?"),
        ({"servr": {}}, "servr: unknown key; did you mean server?"),
        (
            {"auth": {"tokens": [{"token": "x"}]}},
            "auth.tokens[0]: contains unknown key token; write tenant and sha256",
        ),
        (
            {"auth": {"tokens": [{"tenant": "x"}]}},
            "auth.tokens[0]: missing required key sha256; write tenant and sha256",
        ),
        (
            {"auth": {"tokens": [{"tenant": "x", "sha256": DIGEST, "scopes": ["admin"]}]}},
            "auth.tokens[0].scopes[0]: unknown value; known: run, read, upload, metrics",
        ),
        *(
            (
                {"auth": {"tokens": [{"tenant": "x", "sha256": DIGEST, "expires": wrong}]}},
                "auth.tokens[0].expires: ",
            )
            for wrong in (1, "soon", "2030-12-31")
        ),
        *(
            ({"auth": {"tenants": tenants}}, message)
            for tenants, message in (
                (5, "auth.tenants: expected tables"),
                ({"a.b": 5}, "auth.tenants.a.b: expected a table"),
                ({"a": {"max_runing": 1}}, "auth.tenants.a.max_runing: unknown key; did you mean"),
                ({"a": {"max_running": 0}}, "auth.tenants.a.max_running: expected a whole number"),
                ({"a": {"max_running": "x"}}, "auth.tenants.a.max_running: expected a whole"),
                ({"a": {"blob_bytes": "x"}}, "auth.tenants.a.blob_bytes: "),
                ({"a": {"max_sessions": -1}}, "auth.tenants.a.max_sessions: "),
            )
        ),
        (
            {"auth": {"tokens_file": "tokens.json", "anonymous": True}},
            "auth.anonymous: it admits everybody, so auth.tokens_file has no effect",
        ),
        (
            {"limits": {"default": {"memory_bytes": 1}}},
            "limits.default.memory_bytes: with 1 no program can run; 4194304 is the least",
        ),
        (
            {"limits": {"max": {"open_files": 7}}},
            "limits.max.open_files: with 7 no program can run; 8 is the least",
        ),
        (
            {"webhooks": {"allow_hosts": ["http://hooks.internal:8080"]}},
            "webhooks.allow_hosts: 'http://hooks.internal:8080': this is a URL; write a host such as ",
        ),
        (
            {"webhooks": {"allow_hosts": ["hooks.internal:0"]}},
            "webhooks.allow_hosts: 'hooks.internal:0': a port is a number from 1 to 65535; write",
        ),
        ({"metrics": {"token_sha256": "x"}}, "metrics.token_sha256: not 64 hexadecimal"),
        ({"server": {"trusted_proxies": ["x"]}}, "server.trusted_proxies: 'x' is not an address"),
        (
            {"server": {"public_url": "example.org"}},
            "server.public_url: 'example.org': write the URL",
        ),
        (
            {"server": {"public_url": "https://a?b"}},
            "server.public_url: 'https://a?b': write the URL",
        ),
    ],
)
def test_what_is_wrong_says_how_to_mend_it(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config.from_mapping(tree)
    assert str(refused.value).startswith(message)


def test_no_repr_has_a_digest() -> None:
    assert DIGEST not in repr(Config.from_mapping(tomllib.loads(RICH)))
