// The numbers of a report: all in the page itself; typing and changes run in the browser.
import { initialStates, logSoftmax, stepModel } from "./engine.js";

/** @typedef {import("./engine.js").Row} Row */
/** @typedef {{token: number, logits: Row, states: Row[][], named: Record<string, Row>}} Step */

const LIKELY = 10;

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
    this.kept = new Map();
    // As in live.py: settled steps, then what has been typed since, cut anew with every key.
    /** @type {Step[]} */
    this.steps = [];
    this.settled = 0;
    this.typed = "";
    this.random = Math.random;
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
    this.longest = model ? Math.max(...model.vocabulary.map((/** @type {string} */ p) => p.length)) : 0;
    this.tokens = new Map(model?.vocabulary.map((/** @type {string} */ piece, /** @type {number} */ n) => [piece, n]));
  }

  /** @param {...(string | number)} parts @returns {Promise<any>} */
  async json(...parts) {
    if (parts[0] === "flow" && parts.length === 2) return this.flowAt(Number(parts[1]));
    if (parts[0] === "interesting" && parts[1] === "pattern")
      throw new Error("A report has the detectors it was made with; patterns need `cellwright inspect`.");
    return this.report.json[parts.join("/")];
  }

  /** @param {...(string | number)} parts @returns {Promise<import("./source.js").Levels>} */
  async levels(...parts) {
    const path = parts.join("/");
    const found = this.kept.get(path);
    if (found) return found;
    const stored = this.report.levels[path];
    const levels = { ...stored, data: bytes(stored.data) };
    this.kept.set(path, levels);
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
   * Values at the resolution of 256 levels.
   * @param {string} key @param {number} unit
   */
  async exact(key, unit) {
    const { low, high, columns, data } = await this.levels("values", key);
    const row = data.subarray(unit * columns, (unit + 1) * columns);
    return Float32Array.from(row, (level) => low + ((high - low) * level) / 255);
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

  /** @param {string} what @param {any} [options] */
  async live(what, { key, ...options } = {}) {
    if (!this.model) throw new Error("This report holds no weights: the model has over a million. `cellwright inspect` types to it.");
    if (what === "reset") {
      [this.steps, this.settled, this.typed] = [[], 0, ""];
      this.random = options.seed === null ? Math.random : seeded(options.seed);
    }
    if (what === "back") this.back();
    if (what === "type") this.readTyped(this.typed + options.text);
    if (what === "sample") this.sample(options);
    const last = this.steps.at(-1);
    return {
      text: this.steps.slice(0, this.settled).map((step) => this.piece(step.token)).join("") + this.typed,
      tokens: this.steps.length,
      next: last ? likely(this.allowed(last.logits)).map(([token, chance]) => ({ piece: this.piece(token), chance })) : [],
      values: last && key ? [...last.named[key]] : [],
    };
  }

  /** @param {any[]} changes */
  async intervene(changes) {
    if (!this.model) throw new Error("This report holds no weights, so nothing can be changed.");
    const before = this.read([]);
    const after = this.read(changes);
    const mean = (/** @type {number[]} */ v) => v.reduce((a, b) => a + b, 0) / v.length;
    return {
      before: mean(before.surprisal), after: mean(after.surprisal),
      difference: [null, ...after.surprisal.map((v, n) => v - before.surprisal[n])],
      next: likely(after.last).map(([token, chance]) =>
        ({ piece: this.piece(token), before: Math.exp(logSoftmax(before.last)[token]), after: chance })),
    };
  }

  /**
   * Surprisal of the report's text under changes.
   * @param {any[]} changes
   */
  read(changes) {
    const layers = this.report.model.layers;
    const wanted = changes.map((change) => {
      const [layer, ...name] = change.key.split(".");
      const node = layers[layer].graph.names.find((/** @type {any} */ n) => n[0] === name.join("."))[1];
      return { ...change, layer: Number(layer), node };
    });
    const change = (/** @type {number} */ layer, /** @type {number} */ node, /** @type {Row} */ value) => {
      for (const w of wanted)
        if (w.layer === layer && w.node === node)
          value = value.map((v, n) => (w.unit !== null && w.unit !== n ? v : w.kind === "clamp" ? w.amount : v * w.amount));
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

  /** @param {number} token */
  piece(token) {
    return this.report.model.vocabulary[token];
  }

  /**
   * Characters are exact; words and byte pairs are taken as long as they match.
   * @param {string} text
   */
  encode(text) {
    const found = [];
    for (let at = 0; at < text.length;) {
      let length = Math.min(this.longest, text.length - at);
      while (length > 1 && !this.tokens.has(text.slice(at, at + length))) length--;
      const token = this.tokens.get(text.slice(at, at + length)) ?? this.report.model.unknown;
      if (token !== null) found.push(token);
      at += length;
    }
    return found;
  }

  back() {
    if (this.typed) this.readTyped(this.typed.slice(0, -1));
    else { this.steps.pop(); this.settled = this.steps.length; }
  }

  /** @param {string} typed what follows the settled text from now on */
  readTyped(typed) {
    const tokens = this.encode(typed);
    const old = this.steps.slice(this.settled);
    let same = 0;
    while (same < Math.min(old.length, tokens.length) && old[same].token === tokens[same]) same++;
    this.steps.length = this.settled + same;
    tokens.slice(same).forEach((token) => this.push(token));
    this.typed = typed;
  }

  /** @param {number} token */
  push(token) {
    const model = /** @type {import("./engine.js").Model} */ (this.model);
    const states = this.steps.at(-1)?.states ?? initialStates(model);
    const { logits, states: news, named } = stepModel(model, token, states);
    this.steps.push({ token, logits, states: news, named });
  }

  /** @param {Row} logits */
  allowed(logits) {
    const { unknown } = this.report.model;
    return unknown === null ? logits : logits.map((v, n) => (n === unknown ? -Infinity : v));
  }

  /** @param {{temperature: number, top_k: number | null}} options */
  sample({ temperature, top_k: topK }) {
    if (!this.steps.length) this.readTyped("\n");
    const logits = this.allowed(/** @type {Step} */ (this.steps.at(-1)).logits);
    this.push(temperature === 0 ? logits.indexOf(Math.max(...logits)) : this.draw(logits.map((v) => v / temperature), topK));
    this.settled = this.steps.length;
    this.typed = "";
  }

  /** @param {Row} logits @param {number | null} topK */
  draw(logits, topK) {
    const chances = logSoftmax(logits).map(Math.exp);
    const sorted = [...chances].sort((a, b) => b - a);
    const least = topK ? sorted[Math.min(topK, sorted.length) - 1] : 0;
    let left = this.random() * chances.reduce((sum, p) => sum + (p >= least ? p : 0), 0);
    for (let n = 0; n < chances.length; n++) {
      if (chances[n] < least) continue;
      left -= chances[n];
      if (left < 0) return n;
    }
    return chances.indexOf(sorted[0]);
  }
}

/** @param {Row} logits @returns {[number, number][]} */
function likely(logits) {
  const chances = logSoftmax(logits).map(Math.exp);
  const order = [...chances.keys()].sort((a, b) => chances[b] - chances[a]);
  return order.slice(0, LIKELY).map((token) => [token, chances[token]]);
}

/** A generator of numbers in [0, 1) from a seed (mulberry32). @param {number} seed */
function seeded(seed) {
  let a = seed | 0;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * @template T, U
 * @param {Record<string, T>} record
 * @param {(value: T) => U} change
 * @returns {Record<string, U>}
 */
const map = (record, change) =>
  Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value)]));
