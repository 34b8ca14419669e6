// Type to the model, or let it write: every key is a step from the state before it.
import { fail, fill, h } from "../dom.js";
import { newest } from "../newest.js";
import { css, short } from "./colour.js";
import { bars } from "./next.js";
import { counted } from "./selection.js";

const ACROSS = 64; // squares of units in a row
const SQUARE = 14; // pixels
const PAUSE = 60; // milliseconds between two tokens of the model's own

/** @param {import("./inspect.js").Context} context */
export async function liveView({ source, selection, read }) {
  const text = h("textarea", { class: "text typed", "aria-label": "Type here", spellcheck: "false", autocomplete: "off", autocapitalize: "off",
    oninput: () => { running = false; act("edit"); } });
  const unknown = h("p", { class: "faint", "aria-live": "polite" });
  const side = h("aside", { class: "hints" });
  const scaleBox = h("div");
  const squares = h("span", { class: "faint" });
  const units = h("canvas", { class: "cells", "aria-hidden": "true" });
  /** @type {number[]} */
  let now = []; // the values that the squares show
  const number = (/** @type {string} */ label, /** @type {any} */ more) => h("input", { type: "number", "aria-label": label, class: "unit", ...more });
  const temperature = number("Temperature", { value: 0.8, min: 0, step: 0.1 });
  const topK = number("Top k", { placeholder: "all", min: 1 });
  const seed = number("Seed", { placeholder: "any" });
  const problem = h("p", { role: "alert" });
  /** @type {Promise<any>} */
  let queue = Promise.resolve(); // one act after the other
  let running = false;
  /** @type {import("./source.js").Ranges} */
  let ranges;

  /** @param {import("./typing.js").Act} what @param {any} [body] */
  function act(what, body) {
    queue = queue.then(() => ask(what, body)).catch((error) => {
      running = false;
      fill(problem);
      fail(problem, error);
    });
    return queue;
  }

  /** @param {import("./typing.js").Act} what @param {any} [body] */
  async function ask(what, body) {
    const before = text.value, { key } = selection;
    const edited = what === "edit" && { text: before }; // as it is now: later keys are in it
    const [live, found] = await Promise.all([source.live(what, { key, ...body, ...edited }), source.ranges(key)]);
    fill(problem);
    ranges = found;
    if (!edited && text.value === before && live.text !== before) { // else a key has come meanwhile
      text.value = live.text;
      text.scrollTop = text.scrollHeight;
    }
    if (key === selection.key) show(live);
  }

  /** @param {any} live */
  function show(live) {
    unknown.textContent = live.unknown.length ? `Unknown to this model: ${counted(live.unknown)}.` : "";
    fill(side, h("h2", {}, "Next"), live.next.length ? bars(live.next) : h("p", {}, "Type something."));
    paintUnits(live.values);
    text.dataset.shown = `${live.tokens} ${selection.key}`;
  }

  /** @param {number[]} values */
  function paintUnits(values) {
    units.width = Math.min(ACROSS, values.length);
    units.height = Math.ceil(values.length / ACROSS);
    units.style.width = `${units.width * SQUARE}px`;
    const context = /** @type {CanvasRenderingContext2D} */ (units.getContext("2d"));
    const common = selection.scale(ranges);
    values.forEach((value, n) => {
      const scale = selection.byUnit ? selection.scale(ranges, n) : common;
      context.fillStyle = css(scale.rgb(value));
      context.fillRect(n % ACROSS, Math.floor(n / ACROSS), 1, 1);
    });
    now = values;
    fill(scaleBox, selection.legend(ranges));
    squares.textContent = values.length > ACROSS ? `unit 0 at the upper left, ${ACROSS} in a row` : "unit 0 at the left";
  }
  units.addEventListener("pointermove", (event) => {
    const unit = Math.floor(event.offsetX / SQUARE) + ACROSS * Math.floor(event.offsetY / SQUARE);
    if (unit in now) units.title = `unit ${unit}: ${short(now[unit])}`;
  });

  const settings = () => ({ temperature: temperature.valueAsNumber || 0, top_k: topK.valueAsNumber || null });
  const play = h("button", { class: "main", onclick: () => { running = !running; refresh(); if (running) run(); } });
  const refresh = () => { play.textContent = running ? "Pause" : "Write"; };
  const begin = newest();
  async function run() {
    const current = begin();
    while (running && current() && text.isConnected) { // one at a time, however often it was started
      await act("sample", settings());
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
    refresh();
  }
  refresh();
  const bar = h("div", { class: "bar" }, play,
    h("button", { onclick: () => act("sample", settings()) }, "One step"),
    h("label", {}, "temperature ", temperature), h("label", {}, "top k ", topK), h("label", {}, "seed ", seed),
    h("button", { onclick: () => act("reset", { seed: Number.isNaN(seed.valueAsNumber) ? null : seed.valueAsNumber }) }, "Start anew"),
    read && h("button", { onclick: () => read(text.value, "text").catch((error) => fail(problem, error)) }, "Use this in all views"));
  selection.listen(() => act("show"));
  await queue;
  return h("section", {}, bar, problem, h("div", { class: "beside" }, h("div", {}, text, unknown), side),
    h("div", { class: "bar" }, h("h2", {}, "Units now"), selection.valuePicker(), selection.scaleSwitch(), scaleBox), units, squares);
}
