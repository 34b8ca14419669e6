// What the reader looks at: one value, one unit of it, one step. Every view shows it.
import { h } from "../dom.js";

export class Selection {
  /** @param {import("./inspect.js").Description} run */
  constructor(run) {
    this.run = run;
    const state = run.values.findLast((value) => value.state) ?? run.values[0];
    this.key = state.key;
    this.unit = 0;
    this.step = Math.min(1, run.pieces.length - 1);
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
    const { key, unit, step } = this;
    return Object.assign(new Selection(this.run), { key, unit, step });
  }

  /** @param {{key?: string, unit?: number, step?: number}} change */
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
    const { layer, name } = this.value;
    return this.run.layers > 1 ? `${name} of layer ${layer}` : name;
  }

  /** A menu of all values. */
  valuePicker() {
    const menu = h("select", { "aria-label": "Value", onchange: () => this.set({ key: menu.value }) },
      this.run.values.map((value) =>
        h("option", { value: value.key }, this.run.layers > 1 ? `layer ${value.layer}: ${value.name}` : value.name)));
    this.listen(() => { menu.value = this.key; });
    return menu;
  }

  unitPicker() {
    const input = h("input", { type: "number", min: 0, "aria-label": "Unit", class: "unit",
      onchange: () => this.set({ unit: input.valueAsNumber || 0 }) });
    this.listen(() => { input.max = String(this.value.size - 1); input.value = String(this.unit); });
    return h("label", {}, "unit ", input);
  }
}

/**
 * A token as it can be seen.
 * @param {string} piece
 */
export function visible(piece) {
  return { "\n": "↵", " ": "␣", "\t": "⇥", "": "∅" }[piece] ?? piece;
}
