"""The tools of languages work without network, within the limits of their language."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from streamer.compose import Parts, build
from streamer.model.job import SourceFile
from tests.running import run_job

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

NPM = """
    const { execFileSync } = require('child_process');
    execFileSync('npm', ['install', '--offline', '--no-audit', '--no-fund', './dep']);
    console.log(require('dep'));
    """

GEM = """
    system('gem', 'build', '--quiet', 'dep.gemspec', out: :err) or exit 1
    system('gem', 'install', '--quiet', '--local', '--install-dir', 'gems', 'dep-1.0.gem', out: :err) or exit 2
    $LOAD_PATH.unshift(*Dir['gems/gems/*/lib'])
    require 'dep'
    puts DEP
    """

GO = """
    package main
    import ("fmt"; "example.org/dep"; "example.org/main/inner")
    func main() { fmt.Println(dep.Dep() + inner.Empty) }
    """

PIP = """
    import subprocess, sys, zipfile
    with zipfile.ZipFile("dep-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("dep.py", "DEP = 'works'")
        wheel.writestr("dep-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: dep\\nVersion: 1.0\\n")
        wheel.writestr("dep-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("dep-1.0.dist-info/RECORD", "")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    subprocess.run([*pip, "--target", "packages", "./dep-1.0-py3-none-any.whl"], check=True)
    sys.path.append("packages")
    import dep
    print(dep.DEP)
    """

CARGO = """
    use std::process::{exit, Command};
    fn main() {
        let words = ["run", "--quiet", "--offline", "--manifest-path", "app/Cargo.toml"];
        exit(Command::new("cargo").args(words).status().unwrap().code().unwrap())
    }
    """

CASES = {
    "npm": (
        "javascript",
        NPM,
        {
            "dep/package.json": '{"name": "dep", "version": "1.0.0"}',
            "dep/index.js": "module.exports = 'works'",
        },
    ),
    "pip3": ("python", PIP, {}),
    "cargo": (
        "rust",
        CARGO,
        {
            "app/Cargo.toml": '[package]\nname = "app"\nversion = "1.0.0"\n[dependencies]\ndep = { path = "../dep" }\n',
            "app/src/main.rs": 'fn main() { println!("{}", dep::DEP); }',
            "dep/Cargo.toml": '[package]\nname = "dep"\nversion = "1.0.0"\n',
            "dep/src/lib.rs": 'pub const DEP: &str = "works";',
        },
    ),
    "gem": (
        "ruby",
        GEM,
        {
            "dep.gemspec": "Gem::Specification.new('dep', '1.0') { |s| s.summary = 'x'; s.authors = ['x']; s.files = ['lib/dep.rb'] }",
            "lib/dep.rb": "DEP = 'works'",
        },
    ),
    "go": (
        "go",
        GO,
        {
            "go.mod": "module example.org/main\ngo 1.19\nrequire example.org/dep v1.0.0\nreplace example.org/dep => ./dep\n",
            "inner/inner.go": 'package inner\nconst Empty = ""\n',
            "dep/go.mod": "module example.org/dep\ngo 1.19\n",
            "dep/dep.go": 'package dep\nfunc Dep() string { return "works" }\n',
        },
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(need: Callable[[str], str]) -> AsyncIterator[Parts]:
    async with build({"sandbox": {"backend": need("bwrap"), "warm": False}}) as service:
        yield service


@pytest.mark.parametrize("name", CASES)
async def test_a_project_with_a_package(name: str, service: Parts) -> None:
    # That of the jobs: they do not see a version manager's in somebody's home.
    if shutil.which(name, path=service.config.sandbox.path) is None:
        pytest.skip(f"{name} is not installed")
    language, code, texts = CASES[name]
    files = tuple(SourceFile(path, text.encode()) for path, text in texts.items())
    program = textwrap.dedent(code)
    ran = await run_job(service, language=language, code=program, files=files)
    assert (ran.verdict, ran.text()) == ("exited 0", "works\n"), ran.events
