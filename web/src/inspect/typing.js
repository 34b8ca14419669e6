// Typing to a report's model, or letting it write. A served page asks look/live.py, which
// does the same; a test gives both the same keys and expects the same answers.
import { initialStates, likeliest, logSoftmax, stepModel } from "./engine.js";

/** @typedef {import("./engine.js").Row} Row */
/** @typedef {{token: number, logits: Row, states: Row[][], named: Record<string, Row>}} Step */
/** @typedef {"reset" | "edit" | "sample" | "show"} Act */

export class Typing {
  /**
   * @param {import("./engine.js").Model} model
   * @param {string[]} vocabulary
   * @param {number | null} unknown the token of what is not in the vocabulary; never written
   */
  constructor(model, vocabulary, unknown) {
    this.model = model;
    this.vocabulary = vocabulary;
    this.unknown = unknown;
    this.tokens = new Map(vocabulary.map((piece, n) => [piece, n]));
    this.longest = Math.max(...vocabulary.map((piece) => piece.length));
    // First the settled steps, then those of `typed`, which every key cuts into tokens anew.
    /** @type {Step[]} */
    this.steps = [];
    this.settled = 0;
    this.written = ""; // the text of the settled steps
    this.typed = "";
    this.random = Math.random;
  }

  /** @param {{seed: number | null}} options */
  reset({ seed }) {
    this.settle(0);
    this.random = seed === null ? Math.random : seeded(seed);
  }

  /** Read this as the whole text. @param {{text: string}} options */
  edit({ text }) {
    if (!text.startsWith(this.written)) {
      let kept = 0; // settled tokens whose text it begins with
      while (text.startsWith(this.textOf(kept + 1))) kept++;
      this.settle(kept);
    }
    this.read(text.slice(this.written.length));
  }

  /** So many tokens are settled from now on, and none follows. @param {number} count */
  settle(count) {
    this.steps.length = count;
    [this.settled, this.written, this.typed] = [count, this.textOf(count), ""];
  }

  /** The text of the first tokens. @param {number} count */
  textOf(count) {
    return this.steps.slice(0, count).map(({ token }) => this.vocabulary[token]).join("");
  }

  /** Add a token of the model's own. @param {{temperature: number, top_k: number | null}} options */
  sample({ temperature, top_k: topK }) {
    if (!this.steps.length) this.edit({ text: "\n" });
    const logits = this.logits();
    this.push(temperature === 0 ? logits.indexOf(Math.max(...logits)) : this.draw(logits.map((v) => v / temperature), topK));
    this.settle(this.steps.length);
  }

  /** The text, what is likely next, and a named value after the last token. @param {string} [key] */
  show(key) {
    const piece = (/** @type {number} */ token) => this.vocabulary[token];
    const last = this.steps.at(-1);
    return {
      text: this.written + this.typed,
      tokens: this.steps.length,
      unknown: this.unknownPieces(),
      next: last ? likeliest(this.logits()).map(([token, chance]) => ({ piece: piece(token), chance })) : [],
      values: last && key ? [...last.named[key]] : [],
    };
  }

  /**
   * Characters are exact; words and byte pairs are taken as long as they match.
   * @param {string} text
   */
  encode(text) {
    return this.cut(text).map(({ token }) => token).filter((token) => token !== null);
  }

  /**
   * @param {string} text
   * @returns {{token: number | null, piece: string}[]}
   */
  cut(text) {
    const found = [];
    for (let at = 0; at < text.length;) {
      let length = Math.min(this.longest, text.length - at);
      while (length > 1 && !this.tokens.has(text.slice(at, at + length))) length--;
      let piece = text.slice(at, at + length);
      const token = this.tokens.get(piece) ?? this.unknown;
      if (token === this.unknown) piece = String.fromCodePoint(/** @type {number} */ (text.codePointAt(at)));
      found.push({ token, piece });
      at += piece.length;
    }
    return found;
  }

  /** What stands in the text for unknown tokens; of settled ones U+FFFD. */
  unknownPieces() {
    const settled = this.steps.slice(0, this.settled).filter(({ token }) => token === this.unknown);
    const typed = this.cut(this.typed).filter(({ token }) => token === this.unknown);
    return [...settled.map(() => "\ufffd"), ...typed.map(({ piece }) => piece)];
  }

  /** Only tokens that change are read again. @param {string} typed what follows the settled text from now on */
  read(typed) {
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
    const states = this.steps.at(-1)?.states ?? initialStates(this.model);
    const { logits, states: news, named } = stepModel(this.model, token, states);
    this.steps.push({ token, logits, states: news, named });
  }

  /** Of the next token; the unknown one is never written. */
  logits() {
    const { logits } = /** @type {Step} */ (this.steps.at(-1));
    return this.unknown === null ? logits : logits.map((v, n) => (n === this.unknown ? -Infinity : v));
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
