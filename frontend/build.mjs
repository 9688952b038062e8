// Bundles what the playground needs of npm, with the licences of it, into one folder:
//
//     node build.mjs FOLDER
//
// Each file in src/ is an entry point, which imports the rest when it is needed. FOLDER is replaced as
// a whole, so that a service that starts meanwhile finds the old one or the new one.

import { mkdir, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
/** What a page loads before anything is typed, compressed, in bytes. */
const FIRST_BYTES = 300_000;

/** The packages whose code is in the bundle, as folders below node_modules. */
function packagesIn(metafile) {
  const found = new Set();
  for (const { inputs } of Object.values(metafile.outputs)) {
    for (const [input, { bytesInOutput }] of Object.entries(inputs)) {
      const place = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input);
      if (place !== null && bytesInOutput > 0) {
        found.add(place[1]);
      }
    }
  }
  return [...found].sort();
}

/** Name each package with its version and licence, and give the licence's text. */
async function licences(metafile) {
  const parts = ["The files beside this one contain code of these packages from npm.\n"];
  for (const folder of packagesIn(metafile)) {
    const { name, version, license } = JSON.parse(await readFile(join(folder, "package.json")));
    const file = (await readdir(folder)).find((each) => /^(licen[cs]e|copying)/i.test(each));
    if (file === undefined || typeof license !== "string") {
      throw new Error(`${name} ${version} states no licence, so it cannot be shipped`);
    }
    const text = (await readFile(join(folder, file), "utf8")).trim();
    parts.push(`${"=".repeat(72)}\n${name} ${version} (${license})\n\n${text}\n`);
  }
  return parts.join("\n");
}

/** The compressed size of an entry point and of all that it imports at once. */
async function firstBytes(metafile, entry) {
  const outputs = new Map(Object.entries(metafile.outputs));
  const wanted = [[...outputs.keys()].find((path) => path.endsWith(`/${entry}.js`))];
  const seen = new Set();
  let sum = 0;
  while (wanted.length > 0) {
    const path = wanted.pop();
    if (!seen.has(path)) {
      seen.add(path);
      sum += gzipSync(await readFile(path)).length;
      const { imports } = outputs.get(path);
      wanted.push(
        ...imports.filter(({ kind }) => kind === "import-statement").map(({ path: next }) => next),
      );
    }
  }
  return sum;
}

/** xterm.js makes style elements, which the page's policy forbids: another element takes their place. */
const withoutStyleElements = {
  name: "without-style-elements",
  setup(building) {
    building.onLoad({ filter: /@xterm\/xterm\/lib\/xterm\.mjs$/ }, async ({ path }) => {
      const text = await readFile(path, "utf8");
      const contents = text.replaceAll(/createElement\((["'])style\1\)/g, "createElement('terminal-sheet')");
      if (contents === text) {
        throw new Error(`${path} makes no style elements: is terminal-sheet still needed?`);
      }
      return { contents, loader: "js" };
    });
  },
};

async function main(folder) {
  const staged = `${folder}.new`;
  await rm(staged, { recursive: true, force: true });
  await mkdir(staged, { recursive: true });
  process.chdir(here);
  const files = await readdir(join(here, "src"), { withFileTypes: true });
  const entries = files.filter((file) => file.isFile()).map(({ name }) => name.replace(/\.js$/, ""));
  const { metafile } = await build({
    absWorkingDir: here,
    bundle: true,
    chunkNames: "chunk-[hash]",
    entryPoints: entries.map((name) => `src/${name}.js`),
    format: "esm",
    loader: { ".css": "text" }, // for constructed style sheets: the policy forbids others
    legalComments: "none", // LICENSES.txt has them all
    metafile: true,
    minify: true,
    outdir: staged,
    plugins: [withoutStyleElements],
    splitting: true,
    target: ["chrome111", "firefox114", "safari16.4"],
  });
  for (const entry of entries) {
    const bytes = await firstBytes(metafile, entry);
    if (bytes > FIRST_BYTES) {
      throw new Error(`${entry}.js and what it imports at once: ${bytes} bytes compressed`);
    }
    process.stdout.write(`${entry}.js: ${(bytes / 1000).toFixed(0)} kB compressed at first\n`);
  }
  await writeFile(join(staged, "LICENSES.txt"), await licences(metafile));
  await rm(folder, { recursive: true, force: true });
  await rename(staged, folder);
}

await main(resolve(process.argv[2]).replace(/\/+$/, ""));
