// What a program uses over time, as plain data: CPU from second to second, and memory.

const MOST_POINTS = 240; // of a chart; beyond it two neighbours become one

/** Two points as one: the later time, and the higher of what was used. */
function merged(a, b) {
  const higher = (one, other) => (one === null || other === null ? (one ?? other) : Math.max(one, other));
  return { t: b.t, cpu: higher(a.cpu, b.cpu), memory: higher(a.memory, b.memory) };
}

export class Usage {
  #points = [];
  #last = null;

  /** {t: ms, cpu: processors in use since the point before or null, memory: bytes or null} each. */
  get points() {
    return this.#points;
  }

  /** Take an event `stats`; the first one tells the mean since `from`, when the job began to run. */
  add({ t, cpuTimeMs, memoryBytes }, from = 0) {
    const before = this.#last ?? { t: from, cpuTimeMs: 0 };
    if (t <= before.t) {
      return;
    }
    const known = cpuTimeMs !== null && before.cpuTimeMs !== null;
    const cpu = known ? Math.max(0, (cpuTimeMs - before.cpuTimeMs) / (t - before.t)) : null;
    this.#points.push({ t, cpu, memory: memoryBytes });
    this.#last = { t, cpuTimeMs };
    if (this.#points.length > MOST_POINTS) {
      const points = this.#points;
      this.#points = points.flatMap((point, index) => {
        if (index % 2 === 1) {
          return [merged(points[index - 1], point)];
        }
        return index === points.length - 1 ? [point] : [];
      });
    }
  }
}

/**
 * The corners of a line of values within a width and a height: "x,y x,y ...". `most` is the value at
 * the top; what is not known is left out.
 */
export function polyline(points, valueOf, most, { width, height }) {
  const first = points[0]?.t ?? 0;
  const span = Math.max(1, (points.at(-1)?.t ?? 0) - first);
  return points
    .filter((point) => valueOf(point) !== null)
    .map((point) => {
      const x = ((point.t - first) / span) * width;
      const y = height - Math.min(1, valueOf(point) / most) * height;
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
}
