// How open the gates are (Karpathy, Johnson & Li 2015): a dot for each unit, by the fraction
// of the steps it is nearly shut and nearly open; two models side by side.
import { h } from "../dom.js";
import { svg } from "./plot.js";

const SIZE = 240;
const EDGE = 40;

/** @param {import("./inspect.js").Context} context */
export async function saturationView({ source, run, selection, go }) {
  const found = await source.json("saturation");
  if (!found.run.length)
    return h("section", {}, h("p", {}, "No value of this cell stays between 0 and 1: it has no gate to saturate."),
      constants(found.constant.run));
  const pick = (/** @type {string} */ key) => (/** @type {number} */ unit) => { selection.set({ key, unit }); go("text"); };
  /** @type {[string | null, any[], any[], (key: string) => ((unit: number) => void) | null][]} */
  const models = [[run.run, found.run, found.constant.run, pick]];
  if (found.beside) models.push([run.beside, found.beside, found.constant.beside, () => null]); // its text is not here
  return h("section", {},
    h("p", { class: "faint" }, "On the dashed line a unit is always open or shut: a switch. Near the origin it never saturates: ",
      "an analogue weight. Arrow keys on a plot go from dot to dot; a click, or Enter, shows the unit in the text."),
    models.map(([name, gates, constant, pickOf]) => h("section", {}, models.length > 1 && h("h2", {}, name),
      h("div", { class: "gates" }, gates.map((gate) => card(gate, pickOf(gate.key)))), constants(constant))));
}

/**
 * The states whose old value a number multiplies, in every layer.
 * @param {any[]} states
 */
function constants(states) {
  return states.map(({ state, factor, steps }) =>
    h("p", {}, `The old ${state} is multiplied by ${factor} at every step: its implied memory 1/(1 − ${factor}) is ${inSteps(steps[0])} steps.`));
}

/** @param {number | null} memory */
const inSteps = (memory) => memory === null ? "∞" : memory.toFixed(memory < 10 ? 2 : 0);

/**
 * @param {any} gate
 * @param {((unit: number) => void) | null} pick shows a unit in the text, where that is here
 */
function card(gate, pick) {
  const at = (/** @type {number} */ v) => EDGE + v * (SIZE - EDGE - 12);
  const plot = svg("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, class: "plot", role: "application", tabindex: 0,
    "aria-label": `${gate.key}: ${gate.mean.length} units by fraction of steps above 0.9 and below 0.1; arrow keys go from unit to unit` });
  const y = (/** @type {number} */ v) => SIZE - at(v);
  for (const tick of [0, 0.5, 1])
    plot.append(svg("line", { x1: at(tick), x2: at(tick), y1: y(0), y2: y(1), class: "grid" }),
      svg("line", { x1: at(0), x2: at(1), y1: y(tick), y2: y(tick), class: "grid" }),
      svg("text", { x: at(tick), y: y(0) + 15, "text-anchor": "middle" }, String(tick)),
      svg("text", { x: at(0) - 5, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
  plot.append(svg("line", { x1: at(0), y1: y(1), x2: at(1), y2: y(0), class: "mark" }),
    svg("text", { x: at(0.5), y: SIZE - 5, "text-anchor": "middle" }, "share of steps above 0.9: open"),
    svg("text", { transform: `translate(10 ${y(0.5)}) rotate(-90)`, "text-anchor": "middle" }, "share of steps below 0.1: shut"));
  const words = (/** @type {number} */ unit) =>
    `unit ${unit}: ${percent(gate.high[unit])} open, ${percent(gate.low[unit])} shut, mean ${gate.mean[unit].toFixed(3)}`;
  const dots = gate.mean.map((/** @type {number} */ _, /** @type {number} */ unit) => {
    const dot = svg("circle", { cx: at(gate.high[unit]), cy: y(gate.low[unit]), r: 3.5, class: "dot" }, svg("title", {}, words(unit)));
    if (pick) dot.addEventListener("click", () => pick(unit));
    return dot;
  });
  plot.append(...dots);
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  listenForKeys(plot, gate, (unit) => {
    plot.querySelector(".at")?.classList.remove("at");
    dots[unit].classList.add("at");
    plot.append(dots[unit]); // above those that hide it
    readout.textContent = words(unit);
  }, pick);
  return h("figure", { class: "gate" }, h("figcaption", {}, h("strong", {}, gate.key)), plot, readout, histogram(gate),
    gate.memory.map((/** @type {any} */ memory) => implied(memory, pick)));
}

/**
 * How long a state remembers that a gate keeps, where the gate is what multiplies its old value.
 * @param {any} memory
 * @param {((unit: number) => void) | null} pick
 */
function implied({ state, factor, steps }, pick) {
  const longest = steps.map((/** @type {number | null} */ m, /** @type {number} */ unit) => ({ m, unit }))
    .sort((/** @type {any} */ a, /** @type {any} */ b) => (b.m ?? Infinity) - (a.m ?? Infinity)).slice(0, 5);
  return h("p", {}, `The old ${state} is multiplied by ${factor}. Implied memory 1/(1 − its mean), in steps, longest first: `,
    longest.map((/** @type {any} */ l, /** @type {number} */ n) => [n > 0 && ", ",
      pick ? h("button", { class: "link", onclick: () => pick(l.unit) }, `unit ${l.unit}`) : `unit ${l.unit}`,
      `: ${inSteps(l.m)}`]).flat());
}

/**
 * Keys that go from dot to dot: left and right by how often a unit is open, up and down by
 * how often it is shut, so that dots which cover one another are reached too.
 * @param {SVGElement} plot
 * @param {any} gate
 * @param {(unit: number) => void} show
 * @param {((unit: number) => void) | null} pick
 */
function listenForKeys(plot, gate, show, pick) {
  const sorted = (/** @type {number[]} */ by) => by.map((_, unit) => unit).sort((a, b) => by[a] - by[b]);
  const open = sorted(gate.high), shut = sorted(gate.low);
  /** @type {Record<string, [number[], number]>} */
  const moves = { ArrowLeft: [open, -1], ArrowRight: [open, 1], ArrowDown: [shut, -1], ArrowUp: [shut, 1] };
  let unit = open[0];
  plot.addEventListener("focus", () => show(unit));
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Enter") pick?.(unit);
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [order, by] = moves[event.key];
    unit = order[Math.min(Math.max(order.indexOf(unit) + by, 0), order.length - 1)];
    show(unit);
  });
}

/** @param {any} gate */
function histogram(gate) {
  const width = SIZE / gate.histogram.length;
  const top = Math.max(...gate.histogram);
  const bars = svg("svg", { viewBox: `0 0 ${SIZE} 60`, class: "plot", role: "img",
    "aria-label": `Histogram of ${gate.key} from 0 to 1; ${percent(gate.histogram[0])} in the lowest bin, ${percent(gate.histogram.at(-1))} in the highest` });
  gate.histogram.forEach((/** @type {number} */ share, /** @type {number} */ n) =>
    bars.append(svg("rect", { x: n * width, width: width - 1, y: 44 - (44 * share) / top, height: (44 * share) / top, class: "bar-fill" },
      svg("title", {}, percent(share)))));
  bars.append(svg("text", { x: 0, y: 58 }, "0"), svg("text", { x: SIZE, y: 58, "text-anchor": "end" }, "1"),
    svg("text", { x: SIZE / 2, y: 58, "text-anchor": "middle" }, "value: share of all steps and units"));
  return bars;
}

/** @param {number} share */
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
