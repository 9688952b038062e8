"""Programs of several files run in the layouts that the tools of their language expect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import pytest
import pytest_asyncio

from streamer.compose import Parts, build
from streamer.model.job import SourceFile
from tests.languages.test_languages import need_language, of
from tests.running import run_job

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

MAVEN: Final = {
    "pom.xml": "<project/>",
    "src/main/java/org/example/Main.java": """
        package org.example;
        import org.example.words.Word;
        public class Main {
            public static void main(String[] args) throws Exception {
                try (var said = Main.class.getResourceAsStream("/said.txt")) {
                    System.out.print(Word.HELLO + new String(said.readAllBytes()));
                }
            }
        }
        """,
    "src/main/java/org/example/words/Word.java": """
        package org.example.words;
        public class Word { public static final String HELLO = "hello "; }
        """,
    "src/main/resources/said.txt": "there\n",
    "src/test/java/org/example/MainTest.java": """
        package org.example;
        import org.junit.Test;
        public class MainTest { @Test public void works() {} }
        """,
}

GO: Final = {
    "go.mod": "module example.org/app\ngo 1.19\n",
    "main.go": """
        package main
        import ("fmt"; "example.org/app/inner")
        func main() { fmt.Println(inner.Hello, "there") }
        """,
    "inner/inner.go": 'package inner\nconst Hello = "hello"\n',
    "cmd/other/main.go": """
        package main
        import ("fmt"; "example.org/app/inner")
        func main() { fmt.Println(inner.Hello, "there") }
        """,
}

OCAML: Final = {
    "main.ml": "let () = print_endline (Zeta.hello ^ Alpha.there)",
    "zeta.ml": 'let hello = Beta.hello ^ " "',
    "beta.ml": 'let hidden = 1\nlet hello = "hello"',
    "beta.mli": "val hello : string",
    "alpha.ml": 'let there = "there"',
    "unused.ml": 'let () = print_endline "never"',
    "broken.ml": "let",
}

LAYOUTS: Final[Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "maven": ("java", "src/main/java/org/example/Main.java", MAVEN),
    "go": ("go", "main.go", GO),
    "go command": ("go", "cmd/other/main.go", GO),
    "ocaml": ("ocaml", "main.ml", OCAML),
    "ocaml alone": ("ocaml", "-x y.ml", {"-x y.ml": 'let () = print_endline "hello there"'}),
    "ocaml with a name of its own": ("ocaml", "a b.ml", {"a b.ml": OCAML["main.ml"], **OCAML}),
    "ocaml with all kinds of interfaces": (
        "ocaml",
        "main.ml",
        {
            "main.ml": "let () = print_endline (Live.hello ^ There.there)",
            "main.mli": "",
            "live.ml": 'let hello : Text.t = "hello "',
            "live.mli": "val hello : Text.t",
            "text.mli": "type t = string",
            "there.ml": 'let there = "there"',
        },
    ),
    "ocaml named as a file of ours": (
        "ocaml",
        "live.ml",
        {"live.ml": 'let () = print_endline "hello there"'},
    ),
    "a java package named as tests are": (
        "java",
        "src/Main.java",
        {
            "src/Main.java": """
                public class Main {
                    public static void main(String[] args) { System.out.println(test.Word.HELLO); }
                }
                """,
            "src/test/Word.java": """
                package test;
                public class Word { public static final String HELLO = "hello there"; }
                """,
        },
    ),
    "resources beside sources": (
        "java",
        "org/example/Main.java",
        {
            name.removeprefix("src/main/java/").replace("src/main/resources/", ""): text
            for name, text in MAVEN.items()
        },
    ),
    "kotlin": (
        "kotlin",
        "src/main/kotlin/Main.kt",
        {
            "src/main/kotlin/Main.kt": 'fun main() { println(HELLO + " there") }',
            "src/main/kotlin/words/Word.kt": 'const val HELLO = "hello"',
            "src/test/kotlin/MainTest.kt": "import org.junit.Test\nclass MainTest { @Test fun works() {} }",
        },
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(need: Callable[[str], str]) -> AsyncIterator[Parts]:
    async with build({"sandbox": {"backend": need("bwrap"), "warm": False}}) as service:
        yield service


@pytest.mark.parametrize("below", ["", "app-main/"], ids=["", "below a folder"])
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_layout(layout: str, below: str, service: Parts) -> None:
    """Below a folder as in an archive of GitHub, whose name is not that of the module."""
    language, entry, texts = LAYOUTS[layout]
    need_language(service, language)
    files = tuple(SourceFile(below + name, text.encode()) for name, text in texts.items())
    end = await run_job(service, language=language, entry=below + entry, files=files)
    assert (end.verdict, of(end)) == ("exited 0", "hello there\n"), end.events
