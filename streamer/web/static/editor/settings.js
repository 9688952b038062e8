// Arguments, input and limits of a program.

const MIB = 1024 * 1024;

const LIMITS = [
  { name: "wallTimeS", title: "Time", unit: "s", factor: 1 },
  { name: "cpuTimeS", title: "CPU time", unit: "s", factor: 1 },
  { name: "memoryBytes", title: "Memory", unit: "MiB", factor: MIB },
  { name: "processes", title: "Processes", unit: "", factor: 1 },
  { name: "diskBytes", title: "Disk", unit: "MiB", factor: MIB },
  { name: "outputBytes", title: "Output", unit: "MiB", factor: MIB },
];

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 2 });

export class Settings {
  #ui;
  #fields = new Map();

  constructor(ui, onChange) {
    this.#ui = ui;
    for (const limit of LIMITS) {
      const { row, input, hint } = rowFor(limit);
      this.#fields.set(limit.name, { ...limit, input, hint });
      ui.limits.append(row);
    }
    for (const element of [ui.args, ui.stdin, ui.limits]) {
      element.addEventListener("input", onChange);
    }
  }

  /** Show what a language's programs get by default, and the most that one may ask for. */
  offer(defaults, maxima) {
    for (const [name, { input, hint, unit, factor }] of this.#fields) {
      input.placeholder = name in defaults ? String(round(defaults[name] / factor)) : "";
      const ceiling = name in maxima ? maxima[name] / factor : null;
      input.max = ceiling === null ? "" : String(ceiling);
      const most = ceiling === null ? "" : `at most ${number(ceiling)}`;
      hint.textContent = [unit, most].filter(Boolean).join(", ");
    }
  }

  /** The fields of a request for what is set. */
  request() {
    const request = {};
    const args = this.#ui.args.value.replace(/\n$/, "");
    if (args !== "") {
      request.args = args.split("\n");
    }
    if (this.#ui.stdin.value !== "") {
      request.stdin = this.#ui.stdin.value;
    }
    const set = [...this.#fields].filter(([, { input }]) => input.value !== "");
    if (set.length > 0) {
      request.limits = Object.fromEntries(
        set.map(([name, { input, factor }]) => [name, asked(Number(input.value), factor)]),
      );
    }
    return request;
  }

  fill({ args = [], stdin = "", limits = {} }) {
    this.#ui.args.value = args.join("\n");
    this.#ui.stdin.value = stdin;
    for (const [name, { input, factor }] of this.#fields) {
      input.value = name in limits ? String(round(limits[name] / factor)) : "";
    }
    this.#ui.more.open = args.length > 0 || stdin !== "" || Object.keys(limits).length > 0;
  }
}

const round = (value) => Math.round(value * 1000) / 1000;
const asked = (value, factor) => (factor === 1 ? value : Math.round(value * factor));

function rowFor({ name, title, factor }) {
  const row = document.createElement("label");
  const input = document.createElement("input");
  const hint = document.createElement("span");
  Object.assign(input, { type: "number", min: "0", step: "any", id: `limit-${name}` });
  input.inputMode = factor === 1 && name === "processes" ? "numeric" : "decimal";
  hint.className = "hint";
  row.append(title, input, hint);
  return { row, input, hint };
}
