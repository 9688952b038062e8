"""The layers of the configuration: which one wins, which is named, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from streamer.config.load import effective, load_config, load_with_origins, stray_variables
from streamer.config.schema import (
    Config,
)
from streamer.config.tree import Written
from streamer.errors import ConfigError
from streamer.model.job import Limits
from streamer.model.runtime import Runtime

DOCUMENT = Path(__file__).parents[2] / "config.toml"
DIGEST = "0d1ee1fb8dcee1b5a1eb2a66f1cb58a14d2fd9ee7e6fdc6a5bd7f6d4fd3d2e5b"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes config.toml into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str) -> Path:
        Path("config.toml").write_text(text)
        return Path("config.toml")

    return write_file


def load_refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        load_config(*args, **{"environ": {}, **kwargs})
    return refused.value.message


# -- layers and origins ----------------------------------------------------------------

FILE = """
[server]
port = 1
[queue]
max_waiting = 1
[streams]
grace_s = 1.5
heartbeat_s = 1
[profiles.small.server]
port = 2
[profiles.small.queue]
max_waiting = 2
[profiles.small.streams]
heartbeat_s = 2
[profiles.large.server]
port = 3
"""


def test_later_layers_win_and_are_named(write: Write) -> None:
    config, origins = load_with_origins(
        write(FILE),
        environ={"STREAMER_SERVER__PORT": "4", "STREAMER_QUEUE__MAX_WAITING": "4"},
        overrides=["server.port=5", "server.port=6"],
        profile="small",
    )
    keys = {
        "server.port": (config.server.port, 6, "command line"),
        "queue.max_waiting": (
            config.queue.max_waiting,
            4,
            "environment STREAMER_QUEUE__MAX_WAITING",
        ),
        "streams.heartbeat_s": (config.streams.heartbeat_s, 2, "config.toml [profiles.small]"),
        "streams.grace_s": (config.streams.grace_s, 1.5, "config.toml"),
        "server.host": (config.server.host, "127.0.0.1", "default"),
    }
    for key, (value, expected, origin) in keys.items():
        assert (key, value, origins[key]) == (key, expected, origin)


def test_every_effective_key_has_an_origin_and_nothing_else(write: Write) -> None:
    path = write(
        "[sandbox.own]\nlevel = 3\n"
        '[runtimes.tcl]\nrun = ["tclsh", "{entry}"]\nenv = {A = "1"}\nlimits = {}\n'
        "[limits.max]\nwall_time_s = 100\n"
        f'[[auth.tokens]]\ntenant = "a"\nsha256 = "{DIGEST}"\n'
        "[queue]\n"
    )
    config, origins = load_with_origins(path, environ={})
    assert origins.keys() == effective(config).keys()
    assert {key for key, origin in origins.items() if origin != "default"} == {
        "sandbox.own.level",
        "runtimes.tcl.run",
        "runtimes.tcl.env.A",
        "limits.max.wall_time_s",
        "auth.tokens",
    }


def test_nothing_given_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("STREAMER_"):
            monkeypatch.delenv(name)
    assert load_config() == Config()
    assert Config.from_mapping({}) == Config()
    monkeypatch.setenv("STREAMER_SERVER__PORT", "1")
    assert load_config().server.port == 1


def test_a_profile_by_variable_yields_to_the_option(write: Write) -> None:
    path = write(FILE)
    environ = {"STREAMER_PROFILE": "small"}
    assert load_config(path, environ=environ).server.port == 2
    assert load_config(path, environ=environ, profile="large").server.port == 3
    assert load_config(path, environ={"STREAMER_PROFILE": ""}).server.port == 1


def test_tables_are_extended_key_by_key() -> None:
    config = Config.from_mapping(
        {
            "runtimes": {"python": {"run": ["pypy3", "{entry}"], "env": {"A": "1"}}},
            "limits": {"default": {"processes": 9}, "max": {"wall_time_s": 100}},
        }
    )
    python, built_in = config.runtimes["python"], Config().runtimes["python"]
    assert python.run == ("pypy3", "{entry}")
    assert python.entry == built_in.entry
    assert python.env == {**built_in.env, "A": "1"}
    assert config.runtimes["bash"] == Config().runtimes["bash"]
    assert config.limits.default == Limits(processes=9)
    assert config.limits.max.wall_time_s == 100
    assert config.limits.max.memory_bytes == Config().limits.max.memory_bytes


def test_an_empty_table_changes_nothing(write: Write) -> None:
    path = write(FILE + "[profiles.empty.server]\n")
    assert load_config(path, environ={}, profile="empty").server.port == 1


def test_the_options_of_backends_are_kept_for_them() -> None:
    tree = {"sandbox": {"backend": "own", "own": {"level": 3, "deep": {"a": [1]}}}}
    assert Config.from_mapping(tree).sandbox.options == {"own": {"level": 3, "deep": {"a": [1]}}}


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "config.toml"
    path.write_text(
        '[server]\nstate_dir = "state"\n'
        '[profiles.p.server]\nstate_dir = "../other"\n'
        '[profiles.abs.server]\nstate_dir = "/srv/state"\n'
        '[profiles.none.server]\nstate_dir = ""\n'
    )

    def folder(**layers: Any) -> str:
        return load_config(path, **{"environ": {}, **layers}).server.state_dir

    assert folder() == str(tmp_path / "etc" / "state")
    assert Path(folder(profile="p")).resolve() == tmp_path / "other"
    assert folder(profile="abs") == "/srv/state"
    assert folder(profile="none") == ""
    assert folder(environ={"STREAMER_SERVER__STATE_DIR": "here"}) == "here"


# -- the environment and options -------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("server.host", "0.0.0.0", "0.0.0.0"),  # noqa: S104
        ("server.host", "12", "12"),
        ("server.host", '"x"', '"x"'),
        ("server.port", "0x10", 16),
        ("server.drain_s", "2", 2.0),
        ("server.allowed_origins", '["*"]', ("*",)),
        ("sandbox.network", "open", "open"),
        ("sandbox.allow_hosts", '["*.example.org:8443"]', ("*.example.org:8443",)),
        ("limits.default.wall_time_s", "0.5", 0.5),
        ("limits.max.memory_bytes", "1_000_000_000", 1_000_000_000),
        ("streams.on_output_limit", "truncate", "truncate"),
        ("logging.level", "debug", "debug"),
        ("engine.url", "other://x?a=b", "other://x?a=b"),
        ("runtimes.python.entry", "app.py", "app.py"),
        ("runtimes.python.run", '["pypy3", "{entry}"]', ("pypy3", "{entry}")),
        # Only the backend knows the types of its options.
        ("sandbox.own.level", "3", Written("3")),
        ("sandbox.own.path", "/opt/own", Written("/opt/own")),
        ("sandbox.own.quoted", '"3"', Written('"3"')),
        ("sandbox.own.table.level", "3", 3),
    ],
)
def test_a_variable_and_an_option_are_the_same_grammar(key: str, text: str, value: object) -> None:
    variable = "STREAMER_" + key.upper().replace(".", "__")
    from_variable = load_config(environ={variable: text})
    from_option = load_config(environ={}, overrides=[f"{key}={text}"])
    assert from_variable == from_option
    found: Any = from_variable
    for name in key.split("."):
        if hasattr(found, "options") and name not in found.__struct_fields__:
            found = found.options
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    assert (found, type(found)) == (value, type(value))


def test_a_new_language_by_variables() -> None:
    environ = {
        "STREAMER_RUNTIMES__TCL__RUN": '["tclsh", "{entry}"]',
        "STREAMER_RUNTIMES__TCL__ENTRY": "main.tcl",
        "streamer_runtimes__tcl__env__TclIO": "1",
    }
    tcl = load_config(environ=environ).runtimes["tcl"]
    assert tcl == Runtime(
        name="tcl", run=("tclsh", "{entry}"), entry="main.tcl", env={"TclIO": "1"}
    )


def test_names_of_variables_are_taken_without_regard_to_case() -> None:
    assert load_config(environ={"Streamer_Server__Port": "1"}).server.port == 1


def test_variables_that_are_not_ours_do_no_harm() -> None:
    environ = {
        "STREAMER_PORT": "tcp://10.0.0.1:8080",  # Kubernetes, for a service of this name
        "STREAMER_SERVICE_HOST": "10.0.0.1",
        "STREAMER_CONFIG": "elsewhere.toml",
        "STREAMER_REQUIRE_BACKENDS": "bwrap",
        "STREAMERS__X": "1",
        "SERVER__PORT": "1",
        "PATH": "/bin",
    }
    assert load_config(environ=environ) == Config()


NO_TOML = 'the value is not valid TOML; write it like 8080, true or ["a", "b"]'


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"STREAMER_SERVER__PORT": "http"},
            f"environment STREAMER_SERVER__PORT: {NO_TOML}",
        ),
        (
            {"STREAMER_SERVER__PORT": "1\n[queue]"},
            f"environment STREAMER_SERVER__PORT: {NO_TOML}",
        ),
        (
            {"STREAMER_SERVER__PORT": "70000"},
            "environment STREAMER_SERVER__PORT: server.port: expected a whole number <= 65535",
        ),
        (
            {"STREAMER_SERVER__PROT": "1"},
            "environment STREAMER_SERVER__PROT: server.prot: unknown key; did you mean server.port",
        ),
        (
            {"STREAMER_SERVR__PORT": "1"},
            "environment STREAMER_SERVR__PORT: servr: unknown key; did you mean server?",
        ),
        (
            {"STREAMER_SERVER__PORT__X": "1"},
            "environment STREAMER_SERVER__PORT__X: server.port: expected a whole number, got a",
        ),
        (
            {"STREAMER_SERVER": "1"},
            "environment STREAMER_SERVER: a section has no value of its own; add __KEY",
        ),
        (
            {"STREAMER_STREAMS__HEARTBEAT_S": "nan"},
            "environment STREAMER_STREAMS__HEARTBEAT_S: streams.heartbeat_s: expected a number > 0",
        ),
        (
            {"STREAMER_AUTH__TOKENS": '[{tenant="a"}]'},
            "environment STREAMER_AUTH__TOKENS: auth.tokens[0]: missing required key sha256",
        ),
        (
            {"STREAMER_LIMITS__MAX__PROCESSES": "2"},
            "environment STREAMER_LIMITS__MAX__PROCESSES: limits: default.processes is 64 and ",
        ),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], message: str) -> None:
    assert load_refusal(environ=environ).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("server.port", "command line: server.port: write section.key=VALUE"),
        ("port=1", "command line: port: write section.key=VALUE"),
        ("server.=1", "command line: server.: write section.key=VALUE"),
        (
            "server.port=true",
            "command line: server.port: expected a whole number, got true or false",
        ),
        ("limits.default.wall_time=1", "command line: limits.default.wall_time: unknown key"),
        ("runtimes.c.compile=cc", "command line: runtimes.c.compile: the value is not valid TOML"),
        (
            "runtimes.own.entry=x",
            "command line: runtimes.own: missing required key run of a new language; there are: ",
        ),
        (
            "runtimes.py.fork=true",
            "command line: runtimes.py: missing required key run; py is another name of runtimes.p",
        ),
    ],
)
def test_a_wrong_option_is_named(override: str, message: str) -> None:
    assert load_refusal(overrides=[override]).startswith(message)


def test_the_layer_at_fault_is_named_not_the_first(write: Write) -> None:
    message = load_refusal(write("[server]\nport = 1\n"), overrides=["server.port=-1"])
    assert message.startswith("command line: server.port: ")
    message = load_refusal(write("[server]\nport = -1\n[profiles.p.server]\n"), profile="p")
    assert message.startswith("config.toml: server.port: ")
    strict = '[sandbox]\npreset = "strict"\n[limits.max]\nprocesses = 2\n'
    assert load_refusal(write(strict)).startswith("config.toml: limits: default.processes is 32")


@pytest.mark.parametrize(
    "environ",
    [
        {"STREAMER_AUTH__TOKENS": '[{tenant="a", sha256="hunter2"}]'},
        {"STREAMER_AUTH__TOKENS": '[{tenant="a", sha256="hunter2"'},
        {"STREAMER_AUTH__TOKENS": '[{tenant="a", sha256=["hunter2"]}]'},
        {"STREAMER_ENGINE__URL": "hunter2"},
        {"STREAMER_RUNTIMES__PYTHON__ENV": '"hunter2"'},
    ],
)
def test_a_refusal_does_not_repeat_a_secret(environ: dict[str, str]) -> None:
    assert "hunter2" not in load_refusal(environ=environ)


# -- the file --------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named() -> None:
    assert load_refusal("gone.toml") == "gone.toml: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server\n", "config.toml: invalid TOML: "),
        ("server = 5\n", "config.toml: server: expected a table of settings"),
        ("port = 5\n", "config.toml: port: unknown key; did you mean server.port?"),
        (
            "[server]\nprot = 5\n",
            "config.toml: server.prot: unknown key; did you mean server.port?",
        ),
        (
            '[server]\nport = "5"\n',
            "config.toml: server.port: expected a whole number, got a string",
        ),
        (
            "[streams]\nheartbeat_s = inf\n",
            "config.toml: streams.heartbeat_s: expected a number <=",
        ),
        ("[sandbox]\npath = {}\n", "config.toml: sandbox.path: expected a string, got a table"),
        (
            "[limits.dflt]\nprocesses = 1\n",
            "config.toml: limits.dflt: unknown key; did you mean limits.default?",
        ),
        (
            '[runtimes.c]\ncompile = "cc"\n',
            'config.toml: runtimes.c.compile: expected a list, got a string; write it like ["a", "b"]',
        ),
        (
            '[runtimes."Perl 5"]\nrun = ["tclsh"]\n',
            "config.toml: runtimes.Perl 5: use only a-z",
        ),
        ("[runtimes.own]\nentry = 'x'\n", "config.toml: runtimes.own: missing required key run"),
        (
            '[runtimes.micropython]\nrun = ["x"]\naliases = ["py"]\n',
            "config.toml: runtimes.micropython.aliases: 'py' is also a name of the runtime 'python'",
        ),
        (
            '[runtimes.node]\nrun = ["node18", "{entry}"]\n',
            "config.toml: runtimes.node: this is another name of runtimes.javascript: write that",
        ),
        (
            '[runtimes.own]\nrun = ["x"]\nlimits = { memory = "1" }\n',
            "config.toml: runtimes.own.limits.memory: unknown key; did you mean runtimes.own.limits.",
        ),
        (
            '[runtimes.own]\nrun = ["x"]\nlimits = { processes = "1" }\n',
            "config.toml: runtimes.own.limits: expected a number, got a string",
        ),
        ("[runtimes.own]\nrun = ['x']\nlimits = 1\n", "config.toml: runtimes.own.limits: expected"),
        (
            '[environments."../x"]\nlanguages = ["python"]\n',
            "config.toml: environments.../x: use only letters",
        ),
        ("profiles = 1\n", "config.toml: profiles: expected tables"),
        ("[profiles]\ndev = 1\n", "config.toml: profiles: expected tables"),
        (
            "[profiles.unused.server]\nport = -1\n",
            "config.toml [profiles.unused]: server.port: expected a whole number >= 0",
        ),
        (
            "[profiles.unused.profiles.inner]\nx = 1\n",
            "config.toml [profiles.unused]: profiles: unknown key",
        ),
    ],
)
def test_a_wrong_file_is_named_with_key_and_remedy(write: Write, text: str, message: str) -> None:
    refused = load_refusal(write(text))
    assert refused.startswith(message), refused


def test_bytes_that_are_no_text_are_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"# \xff\n")
    assert load_refusal(path).startswith(f"{path}: invalid TOML: ")


def test_an_unknown_profile_is_refused(write: Write) -> None:
    assert load_refusal(write(FILE), profile="smal") == (
        "config.toml: there is no [profiles.smal]; did you mean small?"
    )
    assert load_refusal(environ={"STREAMER_PROFILE": "small"}) == (
        "no configuration file is given: there is no [profiles.small]"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("STREAMER_SERVER_PORT", "STREAMER_SERVER__PORT"),
        ("streamer_server_port", "STREAMER_SERVER__PORT"),
        ("STREAMER_SERVER_MAX_BODY_BYTE", "STREAMER_SERVER__MAX_BODY_BYTES"),
        ("STREAMER_AUTH_TOKENS", "STREAMER_AUTH__TOKENS"),
        ("STREAMER_LIMITS_DEFAULT_WALL_TIME_S", "STREAMER_LIMITS__DEFAULT__WALL_TIME_S"),
        ("STREAMER_SERVER_SERVICE_HOST", None),
        ("STREAMER_SERVER_PORT_80_TCP_ADDR", None),
        ("STREAMER_PORT", None),
        ("STREAMER_TOKEN", None),
        ("STREAMER_CONFIG", None),
        ("STREAMER_PROFILE", None),
        ("STREAMER_SERVER__PORT", None),
        ("OTHER_SERVER_PORT", None),
    ],
)
def test_a_variable_that_is_nearly_ours_is_told_of(name: str, meant: str | None) -> None:
    assert list(stray_variables({name: "1"})) == ([(name, meant)] if meant else [])


def test_the_bounds_of_a_tenant_come_from_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[auth.tenants.school]\nmax_running = 1\nblob_bytes = "1MiB"\n')
    config = load_config(
        file,
        environ={"STREAMER_AUTH__TENANTS__SCHOOL__MAX_WAITING": "3"},
        overrides=["auth.tenants.school.max_running=2", 'auth.tenants."a.b".max_sessions=0'],
    )
    school, other = config.auth.tenants["school"], config.auth.tenants["a.b"]
    assert (school.max_running, school.max_waiting, school.blob_bytes) == (2, 3, 1024 * 1024)
    text = load_config(environ={"STREAMER_AUTH__TENANTS__A__RATE": "5/second"}).auth
    assert text.tenants["a"].rate == "5/second"
    assert (school.max_sessions, other.max_sessions) == (None, 0)
