// Colour maps that colour-blind readers can read, and their legends.
import { h } from "../dom.js";

/** @typedef {[number, number, number]} Rgb */

// Blue – pale – orange (ColorBrewer's PuOr and RdBu ends), and a viridis of nine stops.
/** @type {Rgb[]} */
const DIVERGING = [[5, 69, 130], [67, 130, 190], [165, 203, 228], [246, 246, 244], [250, 200, 140], [226, 125, 35], [150, 66, 0]];
/** @type {Rgb[]} */
const SEQUENTIAL = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];

// Pale to dark, for text: most tokens are near 0 and stay readable.
/** @type {Rgb[]} */
export const PALE = [[255, 255, 240], [254, 227, 145], [254, 170, 60], [217, 95, 14], [120, 40, 4]];

/**
 * @param {Rgb[]} stops
 * @param {number} t in [0, 1]
 * @returns {Rgb}
 */
function between(stops, t) {
  const place = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  const part = place - below;
  return /** @type {Rgb} */ (stops[below].map((v, n) => Math.round(v + part * (stops[below + 1][n] - v))));
}

/**
 * The colours from one value to another; beyond, those of the ends. Values of both signs
 * diverge from 0, as far to both sides; others rise.
 * @param {number} from
 * @param {number} to
 * @param {{rising?: Rgb[], signed?: boolean}} [options] the colours of values of one sign; whether these have both
 */
export function scaleOf(from, to, { rising = SEQUENTIAL, signed = from < 0 && to > 0 } = {}) {
  const { low, high } = endsOf(from, to, signed);
  const stops = signed ? DIVERGING : rising;
  /** @param {number} value @returns {Rgb} */
  const rgb = (value) => between(stops, high > low ? (value - low) / (high - low) : 0);
  const table = Array.from({ length: 256 }, (_, level) => between(stops, level / 255));
  return { low, high, rgb, table };
}

/** A scale's ends. @param {number} from @param {number} to @param {boolean} signed */
export function endsOf(from, to, signed) {
  const end = Math.max(Math.abs(from), Math.abs(to)) || 1;
  return signed ? { low: -end, high: end } : { low: from, high: to };
}

/** @typedef {ReturnType<typeof scaleOf>} Scale */

/** @param {Rgb} rgb */
export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/**
 * Black or white, whichever can be read on a colour (relative luminance, WCAG 2).
 * @param {Rgb} rgb
 */
export function inkOn(rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

/**
 * Style declarations for text on a scale's 256 colours.
 * @param {Scale} scale
 * @returns {(value: number) => string}
 */
export function swatches({ low, high, table }) {
  const styles = table.map((rgb) => `background-color:${css(rgb)};color:${inkOn(rgb)}`);
  const levels = high > low ? 255 / (high - low) : 0;
  return (value) => styles[Math.min(255, Math.max(0, Math.round((value - low) * levels)))];
}

/**
 * 256 colours as a canvas's 32-bit pixels.
 * @param {Scale} scale
 */
export function pixels(scale) {
  const bytes = new Uint8ClampedArray(1024);
  scale.table.forEach((rgb, level) => bytes.set([...rgb, 255], 4 * level));
  return new Uint32Array(bytes.buffer);
}

/**
 * The pixels of 256 levels from one value to another.
 * @param {{low: number, high: number}} scale
 * @param {Uint32Array} colours the scale's pixels
 * @param {number} low the value of level 0
 * @param {number} high that of level 255
 */
export function levelPixels(scale, colours, low, high) {
  const each = scale.high > scale.low ? 255 / (scale.high - scale.low) : 0;
  const first = (low - scale.low) * each + 0.5, step = ((high - low) / 255) * each;
  const out = new Uint32Array(256);
  for (let level = 0; level < 256; level++)
    out[level] = colours[Math.min(255, Math.max(0, Math.floor(first + level * step)))];
  return out;
}

/**
 * Of numbers, where 98 % are: from which to which, without the hundredth at each end.
 * @param {number[]} values
 * @returns {[number, number]}
 */
export function usual(values) {
  const sorted = Float64Array.from(values).sort();
  const at = (/** @type {number} */ share) => sorted[Math.round(share * (sorted.length - 1))] ?? 0;
  return at(0.01) < at(0.99) ? [at(0.01), at(0.99)] : [at(0), at(1)];
}

/**
 * The scale, always beside what it explains.
 * @param {Scale} scale
 * @param {string} [unit]
 * @param {{low: number, high: number}} [all] the lowest and the highest value, which may be beyond its ends
 */
export function legend(scale, unit = "", all = scale) {
  const bar = h("canvas", { width: 256, height: 1, class: "scale", role: "img",
    "aria-label": `colours from ${short(scale.low)} to ${short(scale.high)} ${unit}` });
  const context = /** @type {CanvasRenderingContext2D} */ (bar.getContext("2d"));
  scale.table.forEach((rgb, level) => { context.fillStyle = css(rgb); context.fillRect(level, 0, 1, 1); });
  const less = all.low < scale.low && "≤ ", more = all.high > scale.high && "≥ ";
  return h("p", { class: "legend", title: (less || more) && `all values: ${short(all.low)} to ${short(all.high)}` },
    h("span", {}, less, short(scale.low)), bar, h("span", {}, more, short(scale.high)), h("span", {}, unit));
}

/** @param {number} value */
export function short(value) {
  const plain = value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e5);
  const text = plain ? String(Number(value.toPrecision(3))) : value.toExponential(2);
  return text.replace(/^-/, "−");
}
