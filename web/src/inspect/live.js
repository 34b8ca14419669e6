// Type to the model, or let it write: every key is a step from the state before it.
import { fail, fill, h } from "../dom.js";
import { css, legend, scaleOf, short } from "./colour.js";
import { bars } from "./next.js";

const ACROSS = 64; // squares of units in a row
const SQUARE = 14; // pixels
const PAUSE = 60; // milliseconds between two tokens of the model's own

/** @param {import("./inspect.js").Context} context */
export async function liveView({ source, selection }) {
  const text = h("div", { class: "text typed", tabindex: 0, role: "textbox", "aria-label": "Type here", "aria-multiline": "true" });
  const side = h("aside", { class: "hints" });
  const scaleBox = h("div");
  const units = h("canvas", { class: "cells", "aria-hidden": "true" });
  /** @type {number[]} */
  let now = []; // the values that the squares show
  const number = (/** @type {string} */ label, /** @type {any} */ more) => h("input", { type: "number", "aria-label": label, class: "unit", ...more });
  const temperature = number("Temperature", { value: 0.8, min: 0, step: 0.1 });
  const topK = number("Top k", { placeholder: "all", min: 1 });
  const seed = number("Seed", { placeholder: "any" });
  const problem = h("p", { role: "alert" });
  /** @type {Promise<any>} */
  let queue = Promise.resolve(); // keys take effect in the order in which they were pressed
  let running = false;

  /** @param {import("./typing.js").Act} what @param {any} [body] */
  function act(what, body) {
    queue = queue.then(() => source.live(what, { key: selection.key, ...body })).then(show, (error) => {
      running = false;
      fill(problem);
      fail(problem, error);
    });
    return queue;
  }

  /** @param {any} live */
  function show(live) {
    fill(text, live.text, h("span", { class: "caret" }));
    text.scrollTop = text.scrollHeight;
    fill(side, h("h2", {}, "Next"), live.next.length ? bars(live.next) : h("p", {}, "Type something."));
    paintUnits(live.values);
    text.dataset.shown = `${live.tokens} ${selection.key}`;
  }

  /** @param {number[]} values */
  function paintUnits(values) {
    const scale = scaleOf(selection.value.low, selection.value.high);
    units.width = Math.min(ACROSS, values.length);
    units.height = Math.ceil(values.length / ACROSS);
    units.style.width = `${units.width * SQUARE}px`;
    const context = /** @type {CanvasRenderingContext2D} */ (units.getContext("2d"));
    values.forEach((value, n) => {
      context.fillStyle = css(scale.rgb(value));
      context.fillRect(n % ACROSS, Math.floor(n / ACROSS), 1, 1);
    });
    now = values;
    fill(scaleBox, legend(scale, selection.title));
  }
  units.addEventListener("pointermove", (event) => {
    const unit = Math.floor(event.offsetX / SQUARE) + ACROSS * Math.floor(event.offsetY / SQUARE);
    if (unit in now) units.title = `unit ${unit}: ${short(now[unit])}`;
  });

  text.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Backspace") act("back");
    else if (event.key === "Enter") act("type", { text: "\n" });
    else if (event.key.length === 1) act("type", { text: event.key });
    else return;
    event.preventDefault();
  });
  text.addEventListener("paste", (event) => {
    event.preventDefault();
    act("type", { text: event.clipboardData?.getData("text/plain") ?? "" });
  });

  const settings = () => ({ temperature: temperature.valueAsNumber || 0, top_k: topK.valueAsNumber || null });
  const play = h("button", { class: "main", onclick: () => { running = !running; refresh(); if (running) run(); } });
  const refresh = () => { play.textContent = running ? "Pause" : "Write"; };
  async function run() {
    while (running && text.isConnected) {
      await act("sample", settings());
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
    refresh();
  }
  refresh();
  const bar = h("div", { class: "bar" }, play,
    h("button", { onclick: () => act("sample", settings()) }, "One step"),
    h("label", {}, "temperature ", temperature), h("label", {}, "top k ", topK), h("label", {}, "seed ", seed),
    h("button", { onclick: () => act("reset", { seed: Number.isNaN(seed.valueAsNumber) ? null : seed.valueAsNumber }) }, "Start anew"));
  selection.listen(() => act("show"));
  await queue;
  return h("section", {}, bar, problem, h("div", { class: "beside" }, text, side),
    h("div", { class: "bar" }, h("h2", {}, "Units now"), selection.valuePicker(), scaleBox), units);
}
