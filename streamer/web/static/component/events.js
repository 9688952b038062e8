// Reads an event stream (HTML standard, 9.2.6) from the body of an answer.

const MOST_CHARS = 16 * 1024 * 1024; // of one event

/** Yield {id, kind, data} of each event; `id` is a number, 0 for one without. */
export async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { id: 0, kind: "message", data: null };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return; // an event without its end does not count
      }
      rest += value;
      // A "\r" at the end may be the first half of "\r\n".
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line !== "") {
          read(line, event);
        } else {
          if (event.data !== null) {
            yield event;
          }
          event = { id: 0, kind: "message", data: null };
        }
      }
      if (rest.length + (event.data?.length ?? 0) > MOST_CHARS) {
        throw new RangeError("an event is too large");
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function read(line, event) {
  const [, name, value] = line.match(/^([^:]*)(?:: ?(.*))?$/s);
  if (name === "data") {
    event.data = event.data === null ? (value ?? "") : `${event.data}\n${value ?? ""}`;
  } else if (name === "event") {
    event.kind = value ?? "message";
  } else if (name === "id" && /^\d+$/.test(value ?? "")) {
    event.id = Number(value);
  }
}
