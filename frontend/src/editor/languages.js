// Which highlighting a file gets, by its name; each is loaded when it is first needed.

import { StreamLanguage } from "@codemirror/language";

const legacy = (load, name) => async () => StreamLanguage.define((await load())[name]);
const clike = (name) => legacy(() => import("@codemirror/legacy-modes/mode/clike"), name);

const cpp = async () => (await import("@codemirror/lang-cpp")).cpp();
const javascript = (options) => async () =>
  (await import("@codemirror/lang-javascript")).javascript(options);
const shell = legacy(() => import("@codemirror/legacy-modes/mode/shell"), "shell");
const ocaml = legacy(() => import("@codemirror/legacy-modes/mode/mllike"), "oCaml");

const BY_EXTENSION = {
  bash: shell,
  c: cpp,
  cc: cpp,
  cpp,
  cs: clike("csharp"),
  css: async () => (await import("@codemirror/lang-css")).css(),
  cxx: cpp,
  go: async () => (await import("@codemirror/lang-go")).go(),
  h: cpp,
  hpp: cpp,
  hs: legacy(() => import("@codemirror/legacy-modes/mode/haskell"), "haskell"),
  html: async () => (await import("@codemirror/lang-html")).html(),
  java: async () => (await import("@codemirror/lang-java")).java(),
  js: javascript({}),
  json: async () => (await import("@codemirror/lang-json")).json(),
  jsx: javascript({ jsx: true }),
  kt: clike("kotlin"),
  kts: clike("kotlin"),
  lua: legacy(() => import("@codemirror/legacy-modes/mode/lua"), "lua"),
  mjs: javascript({}),
  ml: ocaml,
  mli: ocaml,
  mts: javascript({ typescript: true }),
  pas: legacy(() => import("@codemirror/legacy-modes/mode/pascal"), "pascal"),
  php: async () => (await import("@codemirror/lang-php")).php(),
  pl: legacy(() => import("@codemirror/legacy-modes/mode/perl"), "perl"),
  pm: legacy(() => import("@codemirror/legacy-modes/mode/perl"), "perl"),
  py: async () => (await import("@codemirror/lang-python")).python(),
  r: legacy(() => import("@codemirror/legacy-modes/mode/r"), "r"),
  rb: legacy(() => import("@codemirror/legacy-modes/mode/ruby"), "ruby"),
  rs: async () => (await import("@codemirror/lang-rust")).rust(),
  sh: shell,
  sql: async () => (await import("@codemirror/lang-sql")).sql(),
  toml: legacy(() => import("@codemirror/legacy-modes/mode/toml"), "toml"),
  ts: javascript({ typescript: true }),
  tsx: javascript({ typescript: true, jsx: true }),
};

/** Return the language of a file as an extension of CodeMirror; none for plain text. */
export async function languageOf(name) {
  const extension = name.slice(name.lastIndexOf(".") + 1).toLowerCase();
  return Object.hasOwn(BY_EXTENSION, extension) ? await BY_EXTENSION[extension]() : [];
}
