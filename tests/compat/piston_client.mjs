// Runs programs through Piston's client from npm; prints what it gets, a line of JSON for each.
import piston from "piston-client";

const client = piston({ server: process.argv[2] });
const tell = (found) => console.log(JSON.stringify(found));

tell((await client.runtimes()).map((one) => one.language));
tell(await client.execute("python", "import sys; print(sys.argv[1:], input())", { stdin: "typed" }));
tell(await client.execute({
  language: "c",
  files: [{ name: "main.c", content: '#include <stdio.h>\nint main(void) { puts("hi"); }' }],
  args: [],
}));
tell(await client.execute("python", "print(1)", { version: "1.0.0" }));
tell(await client.execute("python", "while True: pass", { runTimeout: 300 }));
