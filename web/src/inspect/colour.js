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
 * What a value's levels look like: values of both signs diverge from 0, others rise.
 * @param {number} low the value of level 0
 * @param {number} high that of level 255
 * @param {Rgb[]} rising the colours of values of one sign
 */
export function scaleOf(low, high, rising = SEQUENTIAL) {
  const signed = low < 0 && high > 0;
  const end = Math.max(-low, high);
  /** @param {number} value @returns {Rgb} */
  const rgb = (value) =>
    signed ? between(DIVERGING, (value / end + 1) / 2)
      : between(rising, high > low ? (value - low) / (high - low) : 0);
  const table = Array.from({ length: 256 }, (_, level) => rgb(low + (level / 255) * (high - low)));
  return { low, high, rgb, table };
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
 * The scale, always beside what it explains.
 * @param {Scale} scale
 * @param {string} [unit]
 */
export function legend(scale, unit = "") {
  const bar = h("canvas", { width: 256, height: 1, class: "scale", role: "img",
    "aria-label": `colours from ${short(scale.low)} to ${short(scale.high)} ${unit}` });
  const context = /** @type {CanvasRenderingContext2D} */ (bar.getContext("2d"));
  scale.table.forEach((rgb, level) => { context.fillStyle = css(rgb); context.fillRect(level, 0, 1, 1); });
  return h("p", { class: "legend" }, short(scale.low), " ", bar, " ", short(scale.high), " ", unit);
}

/** @param {number} value */
export function short(value) {
  if (value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}
