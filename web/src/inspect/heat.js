// Units against steps, a pixel or more each; sorted as one likes; a crosshair that gives the value.
// Only what can be seen is fetched and painted, so a long text costs no more than a short one.
import { fail, fill, h } from "../dom.js";
import { newest } from "../newest.js";
import { levelPixels, pixels, short } from "./colour.js";
import { axis, linePlot, moveMark } from "./plot.js";
import { visible } from "./selection.js";

/** @typedef {import("./source.js").Block} Block */

const LARGEST = 12; // screen pixels of a value, at most
const HEIGHT = 560; // screen pixels that all units get, where they fit
const CONTEXT = 40; // tokens shown on both sides of the crosshair
const APART = { x: 60, y: 16 }; // pixels between an axis's labels, at least

/** @param {import("./inspect.js").Context} context */
export async function heatView({ source, run, selection }) {
  const steps = run.pieces.length;
  const canvas = h("canvas", { class: "heat", tabindex: 0, role: "img" });
  const cross = [h("div", { class: "cross across" }), h("div", { class: "cross down" })];
  const stack = h("div", { class: "stack" }, canvas, cross);
  const scroll = h("div", { class: "scroll map", tabindex: 0, role: "group", "aria-label": "Heat map, scrolls" }, stack);
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const scaleBox = h("div");
  const below = h("div");
  const axes = { x: h("div", { class: "ticks along" }), y: h("div", { class: "ticks upright" }) };
  const strip = h("p", { class: "strip", "aria-hidden": "true" });
  const by = h("select", { "aria-label": "Order of units", onchange: () => draw() },
    run.orders.map((name) => h("option", { value: name }, name)));
  let zoom = { x: 1, y: 1 };
  /** @type {number[]} */
  let order = [];
  /** @type {import("./source.js").Ranges} */
  let ranges;
  let shown = ""; // the value and order that are painted
  let plotted = ""; // the unit that the plot is of
  const begin = newest();

  /** What can be seen: steps and rows, from and to. */
  function seen() {
    const x = Math.floor(scroll.scrollLeft / zoom.x), y = Math.floor(scroll.scrollTop / zoom.y);
    return { x, y, right: Math.min(steps, x + Math.ceil(scroll.clientWidth / zoom.x) + 1),
      bottom: Math.min(selection.value.size, y + Math.ceil(scroll.clientHeight / zoom.y) + 1) };
  }

  async function draw() {
    if (!scroll.clientWidth) return; // not on the screen yet
    const current = begin();
    const { key, value } = selection;
    resize(value.size);
    const view = seen();
    try {
      const [blocks, sorted, found] = await Promise.all(
        [source.blocks(key, view.x, view.right), source.json("order", key, by.value), source.ranges(key)]);
      if (!current()) return; // the view has moved meanwhile
      [order, ranges] = [sorted, found];
      shown = `${key} ${selection.byUnit}`;
      fill(scaleBox, selection.legend(ranges));
      canvas.setAttribute("aria-label", `${selection.title}: ${value.size} units over ${steps} steps`);
      paint(canvas, view, blocks, order, rowPixels(selection, ranges));
      label(view);
      canvas.style.transform = `translate(${view.x * zoom.x}px, ${view.y * zoom.y}px)`;
      canvas.style.width = `${(view.right - view.x) * zoom.x}px`;
      canvas.style.height = `${(view.bottom - view.y) * zoom.y}px`;
      point();
      canvas.dataset.scale = selection.byUnit ? "unit" : "all";
      canvas.dataset.shown = `${key} ${by.value} ${view.x} ${view.y}`;
      requestIdleCallback(() => foresee(view));
    } catch (error) {
      if (current()) fail(readout, error);
    }
  }

  /**
   * Fetch what the reader may want next: other orders, and the other values of the layer.
   * @param {{x: number, right: number}} view
   */
  function foresee({ x, right }) {
    if (!scroll.isConnected) return;
    for (const name of run.orders) source.json("order", selection.key, name);
    for (const { key, layer } of run.values)
      if (layer === selection.value.layer) {
        source.blocks(key, x, right);
        source.ranges(key);
        source.json("order", key, by.value);
      }
  }

  /** @param {number} units */
  function resize(units) {
    const fit = (/** @type {number} */ room, /** @type {number} */ count) => Math.min(LARGEST, Math.max(1, Math.floor(room / count)));
    zoom = { x: fit(scroll.clientWidth, steps), y: fit(HEIGHT, units) };
    stack.style.width = `${steps * zoom.x}px`;
    stack.style.height = `${units * zoom.y}px`;
  }

  /** The axes' labels: every so many steps and rows. @param {{x: number, y: number, right: number, bottom: number}} view */
  function label({ x, y, right, bottom }) {
    fill(axes.x, axis(x, right, APART.x / zoom.x, (step) => [`${(step + 0.5) * zoom.x - scroll.scrollLeft}px`, String(step)]));
    fill(axes.y, axis(y, bottom, APART.y / zoom.y, (row) => [`${(row + 0.5) * zoom.y - scroll.scrollTop}px`, String(order[row])]));
    axes.y.style.height = `${scroll.clientHeight}px`;
  }

  function point() {
    cross[0].style.top = `${(order.indexOf(selection.unit) + 0.5) * zoom.y}px`;
    cross[1].style.left = `${(selection.step + 0.5) * zoom.x}px`;
  }

  /** The words, the text and the unit's line at the crosshair. */
  async function describe() {
    const { key, unit, step, title } = selection;
    const column = await source.exact(key, unit);
    if (key !== selection.key || unit !== selection.unit || step !== selection.step) return;
    readout.textContent = `Unit ${unit} of ${title}, step ${step}, “${visible(run.pieces[step])}”: ${short(column[step])}`;
    const from = Math.max(0, step - CONTEXT);
    fill(strip, run.pieces.slice(from, step + CONTEXT + 1).map((piece, n) =>
      h("span", { class: from + n === step && "at" }, visible(piece))));
    if (plotted !== `${key} ${unit}`) {
      plotted = `${key} ${unit}`;
      fill(below, linePlot([{ name: `unit ${unit}`, y: [...column] }],
        { label: `Unit ${unit} of ${title} over the steps`, x: "step", y: `unit ${unit} of ${title}`,
          marks: [step] }));
    }
    moveMark(/** @type {SVGElement} */ (below.firstElementChild), step);
  }

  /** Scroll to where the keyboard has taken the crosshair. */
  function reveal() {
    const x = (selection.step + 0.5) * zoom.x, y = (order.indexOf(selection.unit) + 0.5) * zoom.y;
    if (x < scroll.scrollLeft || x > scroll.scrollLeft + scroll.clientWidth) scroll.scrollLeft = x - scroll.clientWidth / 2;
    if (y < scroll.scrollTop || y > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = y - scroll.clientHeight / 2;
  }

  canvas.addEventListener("pointermove", (event) => {
    const box = stack.getBoundingClientRect();
    const step = Math.floor((event.clientX - box.left) / zoom.x);
    const row = Math.floor((event.clientY - box.top) / zoom.y);
    if (step !== selection.step || order[row] !== selection.unit)
      selection.set({ step, unit: order[row] ?? selection.unit });
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    if (!order.length) return; // not drawn yet
    const row = Math.min(Math.max(order.indexOf(selection.unit) + move[0], 0), order.length - 1);
    selection.set({ unit: order[row], step: selection.step + move[1] });
    reveal();
  });
  scroll.addEventListener("scroll", () => requestAnimationFrame(draw));
  new ResizeObserver(() => draw()).observe(scroll); // also when it first gets a size
  selection.listen(() => {
    if (shown === `${selection.key} ${selection.byUnit}`) point();
    else draw();
    if (ranges && selection.byUnit) fill(scaleBox, selection.legend(ranges));
    describe();
  });
  return h("section", {},
    h("div", { class: "bar" }, selection.valuePicker(), h("label", {}, "units by ", by), selection.unitPicker(), selection.scaleSwitch(), scaleBox),
    readout, strip,
    h("div", { class: "axes" }, h("span", { class: "title upright" }, "unit"), axes.y, scroll, axes.x, h("span", { class: "title along" }, "step: a token of the text")),
    below);
}

/**
 * The pixels of a unit's 256 levels, on the colours of all units or of its own.
 * @param {import("./selection.js").Selection} selection
 * @param {import("./source.js").Ranges} ranges
 * @returns {(unit: number) => Uint32Array}
 */
function rowPixels(selection, ranges) {
  const colours = pixels(selection.scale(ranges));
  return (unit) => levelPixels(selection.ends(ranges, unit), colours, ranges.low[unit], ranges.high[unit]);
}

/**
 * Steps from left to right, units from top to bottom.
 * @param {HTMLCanvasElement} canvas
 * @param {{x: number, y: number, right: number, bottom: number}} view
 * @param {Block[]} blocks that hold all of its steps
 * @param {number[]} order
 * @param {(unit: number) => Uint32Array} pixelsOf the pixels of a unit's levels
 */
function paint(canvas, view, blocks, order, pixelsOf) {
  const width = view.right - view.x, height = view.bottom - view.y;
  canvas.width = width;
  canvas.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  for (let row = 0; row < height; row++) {
    const unit = order[view.y + row], colours = pixelsOf(unit);
    for (const { from, columns, data } of blocks) {
      const first = Math.max(from, view.x), end = Math.min(from + columns, view.right);
      let at = unit * columns + first - from;
      const start = row * width - view.x;
      for (let to = start + first; to < start + end; to++, at++) out[to] = colours[data[at]];
    }
  }
  context.putImageData(image, 0, 0);
}
