// What the reader looks at: one value, one unit of it, one step. Every view shows it.
import { h } from "../dom.js";
import { endsOf, legend, scaleOf } from "./colour.js";

export class Selection {
  /** @param {import("./inspect.js").Description} run */
  constructor(run) {
    this.run = run;
    const state = run.values.findLast((value) => value.state) ?? run.values[0];
    this.key = run.best?.key ?? state.key;
    this.unit = run.best?.unit ?? 0;
    this.step = Math.min(1, run.pieces.length - 1);
    this.byUnit = true; // whether every unit has colours of its own
    /** @type {(() => void)[]} */
    this.listeners = [];
  }

  /**
   * @param {() => void} listener called at once and after every change
   * @returns {() => void} ends that
   */
  listen(listener) {
    this.listeners.push(listener);
    listener();
    return () => { this.listeners = this.listeners.filter((other) => other !== listener); };
  }

  /** The same selection, without listeners. */
  copy() {
    const { key, unit, step, byUnit } = this;
    return Object.assign(new Selection(this.run), { key, unit, step, byUnit });
  }

  /** @param {{key?: string, unit?: number, step?: number, byUnit?: boolean}} change */
  set(change) {
    Object.assign(this, change);
    this.unit = Math.min(Math.max(this.unit, 0), this.value.size - 1);
    this.step = Math.min(Math.max(this.step, 0), this.run.pieces.length - 1);
    for (const listener of this.listeners) listener();
  }

  get value() {
    return /** @type {import("./inspect.js").Value} */ (this.run.values.find((v) => v.key === this.key));
  }

  /** The value's name as people say it. */
  get title() {
    const { layer } = this.value;
    return this.run.layers > 1 ? `${written(this.value)} of layer ${layer}` : written(this.value);
  }

  /**
   * The colours of a unit: where 98 % of its values are, or of those of all units.
   * @param {import("./source.js").Ranges} ranges
   * @param {number} [unit]
   */
  scale(ranges, unit = this.unit) {
    const { low, high } = this.ends(ranges, unit);
    return scaleOf(low, high, { signed: this.signed });
  }

  /** The ends of that scale. @param {import("./source.js").Ranges} ranges @param {number} unit */
  ends(ranges, unit) {
    const [from, to] = this.byUnit ? [ranges.from[unit], ranges.to[unit]] : this.value.usual;
    return endsOf(from, to, this.signed);
  }

  /** Whether the value has both signs. */
  get signed() {
    const [low, high] = this.value.usual;
    return low < 0 && high > 0;
  }

  /** What the colours mean. @param {import("./source.js").Ranges} ranges */
  legend(ranges) {
    const { unit, value, byUnit, title } = this;
    const all = byUnit ? { low: ranges.low[unit], high: ranges.high[unit] } : value;
    return legend(this.scale(ranges), byUnit ? `unit ${unit} of ${title}` : title, all);
  }

  /** A menu of all values. */
  valuePicker() {
    const menu = h("select", { "aria-label": "Value", onchange: () => this.set({ key: menu.value }) },
      this.run.values.map((value) =>
        h("option", { value: value.key }, this.run.layers > 1 ? `layer ${value.layer}: ${written(value)}` : written(value))));
    this.listen(() => { menu.value = this.key; });
    return menu;
  }

  unitPicker() {
    const input = h("input", { type: "number", min: 0, "aria-label": "Unit", class: "unit",
      onchange: () => this.set({ unit: input.valueAsNumber || 0 }) });
    this.listen(() => { input.max = String(this.value.size - 1); input.value = String(this.unit); });
    return h("label", {}, "unit ", input);
  }

  /** A switch between the colours of all units and those of each. */
  scaleSwitch() {
    const box = h("input", { type: "checkbox", onchange: () => this.set({ byUnit: box.checked }) });
    this.listen(() => { box.checked = this.byUnit; });
    return h("label", { title: "Colours show where 98 % of the values are: of all units, or of each" }, box, " a scale for each unit");
  }
}

/** A value's name; a matrix is shown by the norms of its rows. @param {import("./inspect.js").Value} value */
const written = ({ name, matrix }) => matrix ? `‖${name}‖ by row` : name;

/** Pieces of text with how often each is there: "é (2), ü". @param {string[]} pieces */
export function counted(pieces) {
  const counts = new Map();
  for (const piece of pieces) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  return [...counts].map(([piece, count]) => visible(piece) + (count > 1 ? ` (${count})` : "")).join(", ");
}

/**
 * A token as it can be seen.
 * @param {string} piece
 */
export function visible(piece) {
  return { "\n": "↵", " ": "␣", "\t": "⇥", "": "∅" }[piece] ?? piece;
}
