// <streamer-run>: a button beside a code block of any page that runs it here and shows its output.
// docs/component.md says how to use it.

import { look } from "./component/look.js";
import { Run } from "./component/run.js";
import { Stage } from "./result/stage.js";
import { failureOf, verdictOf } from "./verdict.js";

const HERE = new URL("../../", import.meta.url).href; // the service that served this file
const STATES = {
  sending: "sending",
  queued: "waiting",
  compiling: "compiling",
  running: "running",
  reconnecting: "connection lost, resuming",
};

class StreamerRun extends HTMLElement {
  #run = null;
  #stage;
  #block = null;
  #ui = {};

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [look()];
    const ui = this.#ui;
    ui.run = element("button", { type: "button", className: "run", textContent: "Run" });
    ui.stop = element("button", { type: "button", textContent: "Stop", hidden: true });
    ui.state = element("span", { className: "state", role: "status" });
    ui.dropped = element("p", { className: "dropped", hidden: true });
    ui.list = element("div", { className: "list" });
    ui.box = element("div", { className: "box", tabIndex: 0, role: "region", ariaLabel: "Output" });
    ui.box.append(ui.dropped, ui.list);
    ui.newest = element("button", { type: "button", textContent: "Newest", hidden: true });
    ui.bar = element("div", { className: "bar" });
    ui.bar.append(ui.run, ui.stop, ui.state, ui.newest);
    ui.result = element("div", { className: "result", hidden: true });
    ui.result.append(ui.box);
    root.append(document.createElement("slot"), ui.bar, ui.result);
    this.#stage = new Stage(ui);
    ui.run.addEventListener("click", () => this.run());
    ui.stop.addEventListener("click", () => this.stop());
    root.addEventListener("keydown", this.#key);
  }

  connectedCallback() {
    // Above it in the page, so it is there already; what is inside may still be on its way.
    if (document.readyState === "loading") {
      document.addEventListener("DOMContentLoaded", () => this.#adopt(), { once: true });
    } else {
      this.#adopt();
    }
  }

  disconnectedCallback() {
    this.stop(); // nobody sees what it writes any more
    this.#run?.close();
    this.#run = null;
    this.#busy(false);
    this.#say("", "");
    this.#block?.removeEventListener("keydown", this.#key);
    this.#block = null;
  }

  /** The code that is run: the text of the block. */
  get code() {
    const block = this.#block;
    // Where somebody edits, browsers may break lines by elements.
    return (block?.isContentEditable ? block.innerText : block?.textContent) ?? "";
  }

  /** Run the block; a run that goes on is stopped first. */
  run() {
    this.#adopt();
    const ui = this.#ui;
    ui.result.hidden = false;
    this.#stage.clear();
    const language = this.getAttribute("language");
    if (this.#block === null || language === null) {
      const missing = language === null ? "the attribute language" : "a code block to run";
      this.#say("bad", `This <streamer-run> has not ${missing}.`);
      return;
    }
    this.stop();
    this.#run?.close();
    const stdin = this.getAttribute("stdin");
    const request = { language, code: this.code, ...(stdin === null ? {} : { stdin }) };
    const named = `${this.getAttribute("src") ?? HERE}/`.replace(/\/+$/, "/");
    const service = new URL(named, document.baseURI);
    this.#busy(true);
    this.#say("", STATES.sending);
    const run = new Run(service.href, this.getAttribute("token"), {
      event: (kind, data) => this.#event(run, kind, data),
      state: (state) => run === this.#run && this.#say("", STATES[state] ?? state),
      failure: (text) => run === this.#run && this.#end("bad", text),
    });
    this.#run = run;
    run.start(request);
  }

  /** Stop what runs. */
  stop() {
    if (!this.#ui.stop.hidden) {
      this.#run?.cancel();
    }
  }

  #adopt() {
    const block = this.#find();
    if (block !== this.#block) {
      this.#block?.removeEventListener("keydown", this.#key);
      block?.addEventListener("keydown", this.#key);
      this.#block = block;
    }
    if (block !== null && this.hasAttribute("editable") && !block.isContentEditable) {
      block.contentEditable = "plaintext-only";
      block.spellcheck = false;
      block.tabIndex = 0;
      block.role = "textbox";
      block.ariaMultiLine = "true";
      block.ariaLabel ??= `Program in ${this.getAttribute("language")}, Control and Enter runs it`;
    }
  }

  /** The block: that of `for`, one inside, or the one before. */
  #find() {
    const named = this.getAttribute("for");
    const start =
      named !== null ? this.getRootNode().getElementById(named) : this.querySelector("pre, code");
    const around = start ?? (named === null ? this.#before() : null);
    return around?.querySelector("pre code") ?? around?.querySelector("pre") ?? around;
  }

  /** What stands before it, or before the paragraph that Markdown puts around an unknown element. */
  #before() {
    const paragraph = this.parentElement?.closest("p");
    return this.previousElementSibling ?? paragraph?.previousElementSibling ?? null;
  }

  #key = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.run();
    } else if (event.key === "Escape" && event.currentTarget === this.shadowRoot) {
      this.stop();
    }
  };

  #event(run, kind, data) {
    if (run !== this.#run) {
      return; // the end of an earlier one
    }
    this.#stage.apply(kind, data);
    if (kind === "status") {
      this.#say("", STATES[data.state] ?? data.state);
    } else if (kind === "complete" || kind === "error") {
      const { tone, text, facts } = kind === "complete" ? verdictOf(data) : failureOf(data);
      const told = facts.filter(([name]) => ["duration", "memory"].includes(name));
      this.#end(tone, [text, ...told.map((fact) => fact.join(" "))].join(", "));
    }
  }

  #end(tone, text) {
    this.#stage.draw();
    this.#busy(false);
    this.#say(tone, text);
    const detail = { tone, text };
    this.dispatchEvent(new CustomEvent("streamer-end", { bubbles: true, detail }));
  }

  #busy(busy) {
    const { run, stop } = this.#ui;
    const held = this.shadowRoot.activeElement;
    stop.hidden = !busy;
    run.hidden = busy;
    if (held === run || held === stop) {
      (busy ? stop : run).focus(); // the keyboard stays where it was
    }
  }

  #say(tone, text) {
    const { state } = this.#ui;
    state.dataset.tone = tone;
    state.textContent = text;
  }
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

if (customElements.get("streamer-run") === undefined) {
  customElements.define("streamer-run", StreamerRun);
}
