// The core of LSTMVis (Strobelt, Gehrmann, Pfister & Rush 2018): the units that are on in a
// span of the text and off around it, and where else in the text they are on.
//
// A unit is on where its value is among the largest of its own, or among the smallest: a
// sign means nothing by itself. How many count is `share`, of the steps.

/** @typedef {import("./source.js").Bytes} Bytes each unit's 256 levels: (units, steps) */
/** @typedef {{unit: number, high: boolean, contrast: number}} Lit contrast: between the span and the steps beside it, of the unit's range */
/** @typedef {{from: number, to: number, score: number}} Place its first and last step */
/** @typedef {(step: number) => boolean} On */

const MOST_UNITS = 12;
const MOST_PLACES = 12;
const ALIKE = 2 / 3; // of the units are on wherever the pattern is found again

/**
 * When a unit is on, at its upper end and at its lower.
 * @param {Uint8Array} row its levels
 * @param {number} share
 * @returns {{high: On, low: On}}
 */
export function onOf(row, share) {
  const counts = new Uint32Array(256);
  for (const level of row) counts[level]++;
  const room = share * row.length;
  let above = 256, below = -1; // a level that too many have is no end
  for (let sum = 0; above > 0 && (sum += counts[above - 1]) <= room;) above--;
  for (let sum = 0; below < 255 && (sum += counts[below + 1]) <= room;) below++;
  return { high: (step) => row[step] >= above, low: (step) => row[step] <= below };
}

/** @param {Bytes} levels @param {number} unit */
const rowOf = ({ columns, data }, unit) => data.subarray(unit * columns, (unit + 1) * columns);

/**
 * The units that are on at every step of a span, and off at the step on either side.
 * @param {Bytes} levels
 * @param {number} from
 * @param {number} to
 * @param {number} share
 * @returns {Lit[]} the clearest
 */
export function findUnits(levels, from, to, share) {
  const beside = [from - 1, to + 1].filter((step) => step >= 0 && step < levels.columns);
  const inside = Array.from({ length: to - from + 1 }, (_, n) => from + n);
  const found = [];
  for (let unit = 0; unit < levels.rows; unit++) {
    const row = rowOf(levels, unit);
    const mean = (/** @type {number[]} */ steps) => steps.reduce((sum, step) => sum + row[step], 0) / steps.length;
    for (const [end, on] of Object.entries(onOf(row, share)))
      if (inside.every(on) && !beside.some(on))
        found.push({ unit, high: end === "high", contrast: beside.length ? Math.abs(mean(inside) - mean(beside)) / 255 : 0 });
  }
  return found.sort((a, b) => b.contrast - a.contrast || a.unit - b.unit).slice(0, MOST_UNITS);
}

/**
 * Where most of these units are on together again: the best places first.
 * @param {Bytes} levels
 * @param {Lit[]} units
 * @param {number} from the span that they were found in
 * @param {number} to
 * @param {number} share
 * @returns {Place[]}
 */
export function findPlaces(levels, units, from, to, share) {
  const on = units.map(({ unit, high }) => onOf(rowOf(levels, unit), share)[high ? "high" : "low"]);
  const together = Array.from({ length: levels.columns }, (_, step) => on.filter((is) => is(step)).length / on.length);
  const found = [];
  for (let step = 0; step < together.length; step++) {
    if (!on.length || together[step] < ALIKE) continue;
    const first = step;
    while (step + 1 < together.length && together[step + 1] >= ALIKE) step++;
    if (first > to || step < from) found.push({ from: first, to: step, score: scoreOf(together, first, step, to - from + 1) });
  }
  return found.sort((a, b) => b.score - a.score || a.from - b.from).slice(0, MOST_PLACES);
}

/**
 * The share of the units that are on, less that beside, times how alike the lengths are.
 * @param {number[]} together by step
 * @param {number} first
 * @param {number} last
 * @param {number} length of the span that was selected
 */
function scoreOf(together, first, last, length) {
  const own = last - first + 1;
  const inside = together.slice(first, last + 1).reduce((a, b) => a + b, 0) / own;
  const beside = ((together[first - 1] ?? 0) + (together[last + 1] ?? 0)) / 2;
  return ((inside - beside) * Math.min(own, length)) / Math.max(own, length);
}
