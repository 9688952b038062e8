/** Mistakes that the types must find: tsc refuses an expected error that is none. */
import { StreamerClient } from "../src/index.js";

export async function mistaken(client: StreamerClient): Promise<void> {
  // @ts-expect-error: a field that no job has
  await client.submit({ langauge: "python" });
  // @ts-expect-error: a number is no language
  await client.submit({ language: 3 });
  for await (const event of client.follow("a")) {
    // @ts-expect-error: only what a program writes has a stream
    console.log(event.data.stream);
    // @ts-expect-error: the name is `exitCode`
    if (event.kind === "complete") console.log(event.data.exitcode);
  }
}
