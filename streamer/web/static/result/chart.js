// Draws what a program uses, in two small charts with their values in words.

import { bytes } from "../verdict.js";
import { polyline, Usage } from "./usage.js";

const SVG = "http://www.w3.org/2000/svg";
const SIZE = { width: 120, height: 28 };

export class Chart {
  #element;
  #usage = new Usage();
  #limit = null;
  #from = null;
  #figures;

  /** `element` gets the charts, and is hidden while there is nothing to draw. */
  constructor(element) {
    this.#element = element;
    this.#figures = { cpu: new Figure("CPU"), memory: new Figure("Memory") };
    element.replaceChildren(this.#figures.cpu.element, this.#figures.memory.element);
  }

  clear() {
    this.#usage = new Usage();
    this.#limit = null;
    this.#from = null;
    this.#element.hidden = true;
  }

  /** A program of the job began at the time `t`; the first one counts. */
  begin(t) {
    this.#from ??= t;
  }

  /** At most so many bytes of memory may be used; null if that is not known. */
  limit(memoryBytes) {
    this.#limit = memoryBytes;
  }

  add(stats) {
    this.#usage.add(stats, this.#from ?? 0);
    const { points } = this.#usage;
    const { cpu, memory } = points.at(-1) ?? { cpu: null, memory: null };
    if (cpu === null && memory === null) {
      return;
    }
    this.#element.hidden = false;
    const most = (valueOf) => Math.max(...points.map((point) => valueOf(point) ?? 0));
    const cpuOf = (point) => point.cpu;
    const memoryOf = (point) => point.memory;
    const percent = (value) => `${Math.round(value * 100)} %`;
    this.#figures.cpu.draw(
      polyline(points, cpuOf, Math.max(1, most(cpuOf)), SIZE),
      cpu === null ? "" : percent(cpu),
      `at most ${percent(most(cpuOf))}`,
    );
    const whole = this.#limit === null ? "" : ` of ${bytes(this.#limit)}`;
    this.#figures.memory.draw(
      polyline(points, memoryOf, Math.max(1, this.#limit ?? most(memoryOf)), SIZE),
      memory === null ? "" : `${bytes(memory)}${whole}`,
      `at most ${bytes(most(memoryOf))}${whole}`,
    );
  }
}

class Figure {
  #line = document.createElementNS(SVG, "polyline");
  #title = document.createElementNS(SVG, "title");
  #now = document.createElement("span");
  #name;

  constructor(name) {
    this.#name = name;
    this.element = document.createElement("figure");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${SIZE.width} ${SIZE.height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.append(this.#title, this.#line);
    const caption = document.createElement("figcaption");
    caption.append(`${name} `, this.#now);
    this.element.append(caption, svg);
  }

  /** Draw a line by its corners, with the present value and the highest in words. */
  draw(corners, now, highest) {
    this.#line.setAttribute("points", corners);
    this.#now.textContent = now;
    this.#title.textContent = `${this.#name} over time, ${highest}`;
  }
}
