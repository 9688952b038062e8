// As much of an EventSource as the documents' snippets use; Node.js 20 has none of its own.
let base = "";
class EventSource extends EventTarget {
  constructor(url) {
    super();
    this.controller = new AbortController();
    this.read(base + url).catch((error) => {
      if (error.name !== "AbortError") this.dispatchEvent(new Event("error"));
    });
  }
  async read(url) {
    // The snippet's first lines run before `base` is needed.
    const response = await fetch(url, { signal: this.controller.signal });
    let rest = "";
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      const blocks = (rest + chunk).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = Object.fromEntries(
          block.split("\n").map((line) => [line.split(":", 1)[0], line.replace(/^[^:]*: ?/, "")]),
        );
        if (!("data" in fields)) continue;
        this.dispatchEvent(new MessageEvent(fields.event ?? "message", { data: fields.data }));
      }
    }
  }
  close() {
    this.controller.abort();
  }
}
