// The numbers of a report: all in the page itself; typing and changes run in the browser.
import { initialStates, likeliest, logSoftmax, stepModel } from "./engine.js";
import { Typing } from "./typing.js";

/** @typedef {import("./engine.js").Row} Row */

/** @param {string} text base64 */
function bytes(text) {
  const decoded = atob(text);
  const out = new Uint8Array(decoded.length);
  for (let n = 0; n < decoded.length; n++) out[n] = decoded.charCodeAt(n);
  return out;
}

/** @param {string} text base64 */
const floats = (text) => new Float32Array(bytes(text).buffer);

/** @param {any} matrix as the report has it */
const matrixOf = ({ weight, bias, rows, columns }) =>
  ({ weight: floats(weight), bias: bias && floats(bias), rows, columns });

export class ReportSource {
  /** @param {any} report */
  constructor(report) {
    this.report = report;
    /** @type {Map<string, import("./source.js").Levels>} */
    this.decoded = new Map();
    const model = report.model;
    this.model = model && {
      embedding: matrixOf(model.embedding),
      head: matrixOf(model.head),
      layers: model.layers.map((/** @type {any} */ layer) => ({
        graph: layer.graph,
        matrices: map(layer.matrices, matrixOf),
        vectors: map(layer.vectors, floats),
        initial: layer.initial.map(floats),
      })),
    };
    this.read = null; // a report has one text
    this.typing = this.model && new Typing(this.model, model.vocabulary, model.unknown);
  }

  /** @param {...(string | number)} parts @returns {Promise<any>} */
  async json(...parts) {
    if (parts[0] === "flow" && parts.length === 2) return this.flowAt(Number(parts[1]));
    if (parts[0] === "interesting" && parts[1] === "pattern")
      throw new Error("A report has the detectors it was made with; patterns need `cellwright inspect`.");
    return this.report.json[parts.join("/")];
  }

  /** @param {string} key @returns {Promise<import("./source.js").Ranges>} */
  ranges(key) {
    return this.json("ranges", key);
  }

  /** @param {...(string | number)} parts @returns {Promise<import("./source.js").Levels>} */
  async levels(...parts) {
    const path = parts.join("/");
    const found = this.decoded.get(path);
    if (found) return found;
    const stored = this.report.levels[path];
    const levels = { ...stored, data: bytes(stored.data) };
    this.decoded.set(path, levels);
    return levels;
  }

  /**
   * A report has every value whole.
   * @param {string} key
   * @returns {Promise<import("./source.js").Block[]>}
   */
  async blocks(key) {
    return [{ ...await this.levels("values", key), from: 0 }];
  }

  /**
   * A unit's values at the resolution of 256 levels.
   * @param {string} key @param {number} unit
   */
  async exact(key, unit) {
    const [{ low, high }, { columns, data }] = await Promise.all([this.ranges(key), this.levels("values", key)]);
    const row = data.subarray(unit * columns, (unit + 1) * columns);
    return Float32Array.from(row, (level) => low[unit] + ((high[unit] - low[unit]) * level) / 255);
  }

  /** @param {number} step the token that is predicted */
  async flowAt(step) {
    const flow = this.report.json.flow;
    /** @type {Record<string, (number | null)[]>} */
    const norms = {};
    for (const name of flow.names) {
      const { low, high, columns, data } = await this.levels("triangle", name);
      norms[name] = [...data.subarray((step - 1) * columns, step * columns)].map((level) =>
        level ? 10 ** (low + ((high - low) * (level - 1)) / 254) : null);
    }
    return norms;
  }

  /** @param {import("./typing.js").Act} what @param {any} [options] */
  async live(what, { key, ...options } = {}) {
    if (!this.typing) throw new Error("This report holds no weights: the model has over a million. `cellwright inspect` types to it.");
    if (what !== "show") this.typing[what](options);
    return this.typing.show(key);
  }

  /** @param {any[]} changes */
  async intervene(changes) {
    if (!this.model) throw new Error("This report holds no weights, so nothing can be changed.");
    const before = this.readWith([]);
    const after = this.readWith(changes);
    const mean = (/** @type {number[]} */ v) => v.reduce((a, b) => a + b, 0) / v.length;
    return {
      before: mean(before.surprisal), after: mean(after.surprisal),
      difference: [null, ...after.surprisal.map((v, n) => v - before.surprisal[n])],
      next: likeliest(after.last).map(([token, chance]) =>
        ({ piece: this.report.model.vocabulary[token], before: Math.exp(logSoftmax(before.last)[token]), after: chance })),
    };
  }

  /**
   * Surprisal of the report's text under changes.
   * @param {any[]} changes
   */
  readWith(changes) {
    const layers = this.report.model.layers;
    const wanted = changes.map((change) => {
      const [layer, ...name] = change.key.split(".");
      const { names, rows } = layers[layer].graph;
      const node = names.find((/** @type {any} */ n) => n[0] === name.join("."))[1];
      return { ...change, layer: Number(layer), node, rows: rows[name.join(".")] };
    });
    const change = (/** @type {number} */ layer, /** @type {number} */ node, /** @type {Row} */ value) => {
      for (const w of wanted)
        if (w.layer === layer && w.node === node)
          value = changed(value, w);
      return value;
    };
    const model = /** @type {import("./engine.js").Model} */ (this.model);
    let states = initialStates(model);
    /** @type {number[]} */
    const surprisal = [];
    /** @type {Row} */
    let last = new Float64Array();
    for (const token of this.report.tokens) {
      if (last.length) surprisal.push(-logSoftmax(last)[token]);
      const stepped = stepModel(model, token, states, wanted.length ? change : undefined);
      [states, last] = [stepped.states, stepped.logits];
    }
    return { surprisal, last };
  }
}

/**
 * @param {Row} value
 * @param {{kind: string, amount: number, unit: number | null, rows?: number}} change of a matrix: of a row
 */
function changed(value, { kind, amount, unit, rows = value.length }) {
  const width = value.length / rows;
  return value.map((v, n) =>
    unit !== null && unit !== Math.floor(n / width) ? v : kind === "clamp" ? amount : v * amount);
}

/**
 * @template T, U
 * @param {Record<string, T>} record
 * @param {(value: T) => U} change
 * @returns {Record<string, U>}
 */
const map = (record, change) =>
  Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value)]));
