// What there is to choose: language, packages, sandbox.

import * as api from "../api.js";

const ASK_AGAIN_MS = 1500;
const ASK_AGAIN = 4; // the tools of the languages are asked for their versions when we ask first

const isolationIn = (isolation) =>
  isolation === "none" ? "no isolation" : isolation.replaceAll("_", " ");

function fill(select, entries) {
  const chosen = select.value;
  select.replaceChildren(
    ...entries.map(({ value, label, reason, disabled }) => {
      const option = new Option(label, value);
      option.disabled = disabled;
      option.title = reason ?? "";
      return option;
    }),
  );
  select.value = entries.some(({ value }) => value === chosen) ? chosen : "";
}

export class Choices {
  #ui;
  #runtimes = [];
  #maxLimits = {};

  constructor(ui) {
    this.#ui = ui;
  }

  /** Ask the service. */
  async load() {
    const [{ runtimes, maxLimits }, sandboxes] = await Promise.all([
      api.listRuntimes(),
      api.listSandboxes(),
    ]);
    this.#runtimes = runtimes;
    this.#maxLimits = maxLimits;
    this.#fillLanguages();
    this.#fillSandboxes(sandboxes);
    this.#askVersions(ASK_AGAIN);
  }

  /** The language that is chosen, as the service describes it; null before it has. */
  get runtime() {
    return this.named(this.#ui.language.value);
  }

  get maxLimits() {
    return this.#maxLimits;
  }

  get available() {
    return this.#runtimes.filter(({ available }) => available);
  }

  /** The language with a name, or with an alias. */
  named(name) {
    return (
      this.#runtimes.find((each) => each.name === name) ??
      this.#runtimes.find((each) => each.aliases.includes(name)) ??
      null
    );
  }

  /** Choose a language, and offer its packages. */
  choose({ language, environment = "", sandbox = "" }) {
    this.#ui.language.value = this.named(language)?.name ?? "";
    this.showEnvironments();
    this.#ui.environment.value = environment;
    this.#ui.sandbox.value = sandbox;
    for (const select of [this.#ui.environment, this.#ui.sandbox]) {
      select.value = select.selectedIndex < 0 ? "" : select.value;
    }
  }

  /** The fields of a request for what is chosen. */
  request() {
    const request = { language: this.#ui.language.value };
    for (const name of ["environment", "sandbox"]) {
      if (this.#ui[name].value !== "") {
        request[name] = this.#ui[name].value;
      }
    }
    return request;
  }

  showEnvironments() {
    const environments = this.runtime?.environments ?? [];
    fill(this.#ui.environment, [
      { value: "", label: "none", disabled: false },
      ...environments.map(({ name, available, reason, packages }) => {
        const listed = Object.entries(packages).map((each) => each.join(" "));
        return {
          value: name,
          label: available ? name : `${name} (not available)`,
          reason: reason ?? listed.join(", "),
          disabled: !available,
        };
      }),
    ]);
    this.#ui.environment.parentElement.hidden = environments.length === 0;
  }

  #fillLanguages() {
    const listed = [...this.#runtimes].sort((a, b) => a.title.localeCompare(b.title));
    fill(
      this.#ui.language,
      listed.map(({ name, title, version, available, reason }) => ({
        value: name,
        label: available ? [title, version].filter(Boolean).join(" ") : `${title} (not installed)`,
        disabled: !available,
        reason,
      })),
    );
  }

  #fillSandboxes(sandboxes) {
    fill(
      this.#ui.sandbox,
      sandboxes.map((each) => {
        const mayChoose = each.default || each.selectable;
        const isolation = each.available ? isolationIn(each.isolation) : "not available";
        return {
          // The default goes unnamed: naming one is a right that not every caller has.
          value: each.default ? "" : each.name,
          label: `${each.name}: ${isolation}`,
          disabled: !each.available || !mayChoose,
          reason: each.reason ?? (mayChoose ? "" : "callers may not choose it (sandbox.allow)"),
        };
      }),
    );
    const options = [...this.#ui.sandbox.options];
    this.#ui.sandbox.parentElement.hidden = options.filter((o) => !o.disabled).length < 2;
  }

  #askVersions(times) {
    if (times > 0 && this.available.some(({ version }) => version === null)) {
      setTimeout(async () => {
        try {
          this.#runtimes = (await api.listRuntimes()).runtimes;
          this.#fillLanguages();
          this.#askVersions(times - 1);
        } catch {
          // They are an addition to the names.
        }
      }, ASK_AGAIN_MS);
    }
  }
}
