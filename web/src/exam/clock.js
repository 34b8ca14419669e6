// The time that a phase has left, as a number and as a bar.
import { h } from "../dom.js";
import { over, remaining } from "./session.js";

const SOON = 10_000; // milliseconds before the end from which the clock warns

/**
 * @param {(text: string) => void} say called once, when the end is near
 * @returns {{view: HTMLElement[], show: (session: import("./session.js").Session, now: number) => void}}
 */
export function clock(say) {
  const timer = h("p", { class: "timer", role: "timer" });
  const bar = h("progress", { max: 1, "aria-label": "time left" });
  const show = (/** @type {import("./session.js").Session} */ session, /** @type {number} */ now) => {
    const left = remaining(session, now);
    const whole = session.seconds[/** @type {import("./session.js").Timed} */ (session.phase)];
    const soon = left <= SOON;
    if (soon && !timer.classList.contains("soon") && session.since !== null && left > 0)
      say(`${Math.ceil(left / 1000)} seconds left`);
    timer.classList.toggle("soon", soon);
    timer.textContent = left > 0 ? clockText(left) : `+${clockText(over(session, now), Math.floor)}`;
    bar.value = left / (1000 * whole);
  };
  return { view: [timer, bar], show };
}

/**
 * @param {number} milliseconds
 * @param {(seconds: number) => number} whole
 */
function clockText(milliseconds, whole = Math.ceil) {
  const seconds = whole(milliseconds / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
