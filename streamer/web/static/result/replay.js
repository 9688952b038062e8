// The bar below a finished run that shows it again: play, pause, a slider over its time, a speed.

import { Player } from "./player.js";

const SHORTEST_MS = 300; // below that there is nothing to see

const inSeconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

export class Replay {
  #ui;
  #stage;
  #player = null;
  #frame = null;

  /** `ui` has the elements bar, play, slider, time and speed; `stage` is cleared and played to. */
  constructor(ui, stage) {
    this.#ui = ui;
    this.#stage = stage;
    ui.play.addEventListener("click", () => {
      if (this.#player.isPlaying) {
        this.#player.pause();
      } else {
        this.#player.speed = Number(ui.speed.value);
        this.#player.play();
      }
      this.#run();
    });
    ui.slider.addEventListener("input", () => {
      this.#player.pause();
      this.#player.seek(Number(ui.slider.value));
      this.#draw();
    });
    ui.speed.addEventListener("change", () => (this.#player.speed = Number(ui.speed.value)));
  }

  /** Offer a finished run, or none. */
  offer(recording) {
    cancelAnimationFrame(this.#frame);
    const worth = recording !== null && recording.duration >= SHORTEST_MS;
    this.#player = worth ? new Player(recording, this.#stage) : null;
    this.#ui.bar.hidden = !worth;
    if (worth) {
      const step = Math.max(1, Math.round(recording.duration / 100));
      // The end has to be a whole number of steps, or the slider cannot stand there.
      this.#ui.slider.max = String(step * Math.ceil(recording.duration / step));
      this.#ui.slider.step = String(step);
      this.#draw();
    }
  }

  #run() {
    cancelAnimationFrame(this.#frame);
    this.#player.tick();
    this.#draw();
    if (this.#player.isPlaying) {
      this.#frame = requestAnimationFrame(() => this.#run());
    }
  }

  #draw() {
    const { at, duration, isPlaying } = this.#player;
    const place = `${inSeconds(at)} of ${inSeconds(duration)}`;
    this.#ui.slider.value = String(at >= duration ? this.#ui.slider.max : Math.round(at));
    this.#ui.slider.setAttribute("aria-valuetext", place);
    this.#ui.time.textContent = place;
    const words = isPlaying ? "Pause" : "Replay";
    if (this.#ui.play.textContent !== words) {
      this.#ui.play.textContent = words;
    }
  }
}
