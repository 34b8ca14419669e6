// Line plots as SVG: axes, grid, labels; a name at the end of each line, not colour alone.
import { short } from "./colour.js";

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 640;
const HEIGHT = 260;
const EDGE = { left: 62, right: 64, top: 12, bottom: 42 };
const DASHES = ["", "7 4", "2 4", "9 3 2 3", "1 3"];

/** @typedef {{name: string, y: (number | null)[]}} Line */

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/**
 * @param {Line[]} lines over x = 0, 1, …
 * @param {{label: string, x: string, y: string, log?: boolean, marks?: number[], range?: [number, number]}} options
 *   marks: vertical lines at these x.
 */
export function linePlot(lines, { label, x, y, log = false, marks = [], range }) {
  const value = (/** @type {number | null} */ v) => (v === null || (log && v <= 0) ? null : log ? Math.log10(v) : v);
  const seen = lines.flatMap((line) => line.y.map(value)).filter((v) => v !== null);
  const last = Math.max(1, ...lines.map((line) => line.y.length - 1));
  let [low, high] = range ?? [Math.min(...seen), Math.max(...seen)];
  if (!seen.length) [low, high] = [0, 1];
  if (high - low < 1e-12) [low, high] = [low - 0.5, high + 0.5];
  const right = (/** @type {number} */ v) => across(v, last);
  const up = (/** @type {number} */ v) => HEIGHT - EDGE.bottom - ((v - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", "aria-label": label, "data-last": last });
  for (const tick of ticks(low, high, log)) {
    plot.append(svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: up(tick), y2: up(tick), class: "grid" }),
      svg("text", { x: EDGE.left - 6, y: up(tick) + 4, "text-anchor": "end" }, log ? power(tick) : short(tick)));
  }
  for (const tick of ticks(0, last, true))
    plot.append(svg("text", { x: right(tick), y: HEIGHT - EDGE.bottom + 17, "text-anchor": "middle" }, String(tick)));
  for (const mark of marks.filter((m) => m >= 0 && m <= last))
    plot.append(svg("line", { x1: right(mark), x2: right(mark), y1: EDGE.top, y2: HEIGHT - EDGE.bottom, class: "mark" }));
  plot.append(svg("text", { x: (EDGE.left + WIDTH - EDGE.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, x),
    svg("text", { transform: `translate(14 ${HEIGHT / 2}) rotate(-90)`, "text-anchor": "middle" }, y));
  const taken = /** @type {number[]} */ ([]);
  lines.forEach((line, n) => {
    const points = line.y.map((v, k) => [k, value(v)]).filter(([, v]) => v !== null);
    const path = points.map(([k, v], m) =>
      `${m && points[m - 1][0] === /** @type {number} */ (k) - 1 ? "L" : "M"}${right(/** @type {number} */ (k)).toFixed(1)} ${up(/** @type {number} */ (v)).toFixed(1)}`);
    const colour = `line-${n % 6}`;
    plot.append(svg("path", { d: path.join(""), class: `line ${colour}`, "stroke-dasharray": DASHES[n % 5] }));
    const end = points.at(-1);
    if (!end || lines.length < 2) return;
    let height = up(/** @type {number} */ (end[1])) + 4;
    const away = height > HEIGHT / 2 ? -13 : 13; // names that meet stay within the plot
    while (taken.some((other) => Math.abs(other - height) < 13)) height += away;
    taken.push(height);
    plot.append(svg("text", { x: right(/** @type {number} */ (end[0])) + 5, y: height, class: `name ${colour}` }, line.name));
  });
  return plot;
}

/**
 * Labels along a picture that is no plot: at every so many steps, round numbers.
 * @param {number} from
 * @param {number} end
 * @param {number} apart at least
 * @param {(n: number) => [string, string]} place its CSS position, and the words
 */
export function axis(from, end, apart, place) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((s) => s >= apart) ?? 10000;
  const found = [];
  for (let n = Math.ceil(from / step) * step; n < end; n += step) {
    const [at, words] = place(n);
    const label = document.createElement("span");
    label.textContent = words;
    label.style.setProperty("--at", at);
    found.push(label);
  }
  return found;
}

/** @param {number} x @param {number} last */
const across = (x, last) => EDGE.left + (x / last) * (WIDTH - EDGE.left - EDGE.right);

/**
 * Put a plot's first vertical line elsewhere.
 * @param {Element} plot
 * @param {number} x
 */
export function moveMark(plot, x) {
  const at = String(across(x, Number(plot.getAttribute("data-last"))));
  const mark = plot.querySelector(".mark");
  mark?.setAttribute("x1", at);
  mark?.setAttribute("x2", at);
}

/** @param {number} exponent */
function power(exponent) {
  const raised = [...String(exponent)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)] ?? "⁻").join("");
  return exponent === 0 ? "1" : `10${raised}`;
}

/**
 * Round numbers between two.
 * @param {number} low
 * @param {number} high
 * @param {boolean} whole only whole ones
 */
function ticks(low, high, whole) {
  const rough = (high - low) / 5;
  const size = 10 ** Math.floor(Math.log10(rough));
  let step = /** @type {number} */ ([1, 2, 5, 10].map((m) => m * size).find((s) => s >= rough));
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high + 1e-9; n++) found.push(n * step);
  return found;
}
