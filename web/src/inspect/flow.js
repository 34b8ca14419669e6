// How far back predictions reach: gradient norms against distance, and by token.
import { fill, h } from "../dom.js";
import { newest } from "../newest.js";
import { css, inkOn, legend, PALE, pixels, scaleOf, short } from "./colour.js";
import { axis, linePlot, svg } from "./plot.js";
import { visible } from "./selection.js";

/** @param {import("./inspect.js").Context} context */
export async function flowView({ source, run, selection }) {
  const flow = await source.json("flow");
  const names = flow.names.filter((/** @type {string} */ name) => flow.medians[name].some((/** @type {any} */ v) => v !== null));
  const states = names.filter((/** @type {string} */ name) => name !== "x");
  const menu = h("select", { "aria-label": "State", onchange: () => triangle() },
    states.map((/** @type {string} */ name) => h("option", { value: name }, name)));
  if (states.length) menu.value = states.at(-1);
  const canvas = h("canvas", { class: "heat", role: "application", tabindex: 0 });
  const cross = [h("div", { class: "cross across" }), h("div", { class: "cross down" })];
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const axes = { x: h("div", { class: "ticks along" }), y: h("div", { class: "ticks upright" }) };
  const triangleScale = h("div");
  const one = h("div");
  let distance = 1; // of the crosshair: k
  /** @type {import("./source.js").Levels} */
  let levels;
  let state = ""; // that they are of

  const beginTriangle = newest();
  async function triangle() {
    const current = beginTriangle();
    const asked = menu.value;
    const found = await source.levels("triangle", asked);
    if (!current()) return; // another state was chosen meanwhile
    [levels, state] = [found, asked];
    const { low, high, rows, columns, data } = levels;
    const scale = scaleOf(0, 254);
    const colours = pixels(scale);
    canvas.width = rows;
    canvas.height = columns;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = context.createImageData(rows, columns);
    const out = new Uint32Array(image.data.buffer);
    for (let t = 0; t < rows; t++)
      for (let k = 0; k < columns; k++) {
        const level = data[t * columns + k];
        out[k * rows + t] = level ? colours[level] : 0;
      }
    context.putImageData(image, 0, 0);
    canvas.setAttribute("aria-label", `log₁₀ of the gradient's norm by ${state}: prediction from left to right, distance k downwards; arrow keys move the crosshair`);
    fill(axes.x, axis(0, rows, rows / 10, (t) => [`${(100 * (t + 0.5)) / rows}%`, String(t + 1)]));
    fill(axes.y, axis(0, columns, columns / 8, (k) => [`${(100 * (k + 0.5)) / columns}%`, String(k)]));
    fill(triangleScale, legend({ ...scale, low, high }, "log₁₀ ‖∂loss/∂state‖"));
    point();
  }

  /** The crosshair, and in words what is under it. */
  function point() {
    const { low, high, rows, columns, data } = levels;
    const step = Math.max(1, selection.step);
    const level = data[(step - 1) * columns + distance];
    cross[0].style.top = `${(100 * (distance + 0.5)) / columns}%`;
    cross[1].style.left = `${(100 * (step - 0.5)) / rows}%`;
    const norm = level ? `‖∂loss/∂${state}‖ = ${short(10 ** (low + ((high - low) * (level - 1)) / 254))}` : "nothing: before the start, or no gradient";
    readout.textContent = `Prediction of token ${step}, “${visible(run.pieces[step])}”, ${distance} step${distance === 1 ? "" : "s"} back: ${norm}`;
  }

  /** @param {number} step @param {number} k */
  function move(step, k) {
    distance = Math.min(Math.max(k, 0), levels.columns - 1);
    selection.set({ step: Math.max(1, step) });
  }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const part = (/** @type {number} */ at, /** @type {number} */ count) => Math.floor(at * count);
    move(1 + part((event.clientX - box.left) / box.width, levels.rows), part((event.clientY - box.top) / box.height, levels.columns));
  });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!by) return;
    event.preventDefault();
    move(Math.max(1, selection.step) + by[0], distance + by[1]);
    for (const line of cross) line.scrollIntoView({ block: "nearest", inline: "nearest" });
  });

  await triangle();
  const begin = newest();
  selection.listen(async () => {
    point();
    const current = begin();
    const step = Math.max(1, selection.step);
    const norms = await source.json("flow", step);
    if (current()) fill(one, prediction(run, step, norms, states, flow.reach));
  });

  const slowest = states.map((/** @type {string} */ name) => [name, flow.half_lives[name]])
    .filter((/** @type {any} */ [, life]) => life !== null);
  const guide = slowest.map((/** @type {any} */ [name, life]) =>
    life > 0 ? `through ${name} the gradient halves every ${life.toFixed(1)} steps` : `through ${name} it doubles every ${(-life).toFixed(1)} steps`);
  return h("section", {},
    h("p", { class: "guide" }, guide.length ? `In the median prediction, ${guide.join("; ")}.` : "The gradient is level."),
    linePlot(names.map((/** @type {string} */ name) => ({ name, y: flow.medians[name] })),
      { label: "Median gradient norm against distance", x: "k, steps back (dashed: the training window)", y: "median ‖∂loss(t)/∂s(t−k)‖", log: true,
        marks: [run.window] }),
    h("h2", {}, "Every prediction"),
    h("div", { class: "bar" }, h("label", {}, "gradient by ", menu), triangleScale),
    readout,
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Triangle, scrolls" }, 
      h("div", { class: "axes triangle" }, h("span", { class: "title upright" }, "k, steps back"), axes.y,
        h("div", { class: "stack" }, canvas, borders(run, flow.reach), cross), axes.x,
        h("span", { class: "title along" }, "the predicted token"))),
    h("h2", {}, "One prediction"), one);
}

/**
 * Where training cuts gradients, were the text cut into windows from its start: between the
 * states before and after step n·window, on whichever diagonal t − k that is.
 * @param {import("./inspect.js").Description} run
 * @param {number} reach
 */
function borders({ pieces, window }, reach) {
  const steps = pieces.length - 1, end = reach + 1;
  const lines = svg("svg", { class: "borders", viewBox: `0 0 ${steps} ${end}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (let first = window; first < steps; first += window)
    lines.append(svg("line", { x1: first - 0.5, y1: 0, x2: first - 0.5 + end, y2: end, class: "mark" }));
  return lines;
}

/**
 * Which tokens a prediction depends on.
 * @param {import("./inspect.js").Description} run
 * @param {number} step the token that is predicted
 * @param {Record<string, (number | null)[]>} norms
 * @param {string[]} states
 * @param {number} reach
 */
function prediction(run, step, norms, states, reach) {
  const by = norms.x;
  const top = Math.max(...by.map((v) => v ?? 0));
  const scale = scaleOf(0, top || 1, { rising: PALE });
  const first = Math.max(0, step - 1 - reach);
  const spans = run.pieces.slice(first, step).map((piece, n) => {
    const norm = by[step - 1 - (first + n)] ?? 0;
    const rgb = scale.rgb(norm);
    const span = h("span", { title: short(norm) }, piece === "\n" ? "↵\n" : piece);
    span.style.backgroundColor = css(rgb);
    span.style.color = inkOn(rgb);
    return span;
  });
  return h("div", {},
    h("p", {}, `Token ${step}, `, h("strong", {}, `“${visible(run.pieces[step])}”`), ", depends on the tokens before it by ‖∂loss/∂x‖:"),
    h("div", { class: "text few" }, spans, h("span", { class: "at" }, visible(run.pieces[step]))),
    legend(scale, "‖∂loss/∂x‖"),
    linePlot(states.map((name) => ({ name, y: norms[name] })),
      { label: `Gradient norms of the prediction of token ${step}`, x: "k, steps back (dashed: borders of training windows)", y: "‖∂loss(t)/∂s(t−k)‖", log: true,
        marks: Array.from({ length: Math.ceil(reach / run.window) }, (_, n) => ((step - 1) % run.window) + 0.5 + n * run.window) }));
}
