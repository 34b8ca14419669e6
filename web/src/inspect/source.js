// Where a page's numbers come from: the server, or the report that it is part of.
import { get, getResponse, post } from "../api.js";

/** @typedef {{low: number, high: number, rows: number, columns: number, data: Uint8Array}} Levels */
/** @typedef {Levels & {from: number}} Block units in rows, steps from `from` on in columns */

const BLOCK = 512; // steps of a value that are fetched at once
const MOST_BLOCKS = 96; // in the cache

export class Source {
  constructor() {
    /** @type {Map<string, Promise<any>>} */
    this.cache = new Map();
    this.page = Math.random().toString(36).slice(2);
  }

  /**
   * @template T
   * @param {string} path
   * @param {(path: string) => Promise<T>} fetch
   * @returns {Promise<T>}
   */
  once(path, fetch) {
    if (!this.cache.has(path)) this.cache.set(path, fetch(path));
    return /** @type {Promise<T>} */ (this.cache.get(path));
  }

  /** @param {...(string | number)} parts @returns {Promise<any>} */
  json(...parts) {
    return this.once(address(parts), get);
  }

  /** @param {...(string | number)} parts @returns {Promise<Levels>} */
  levels(...parts) {
    return this.once(address(parts), async (path) => {
      const response = await getResponse(path);
      const number = (/** @type {string} */ name) => Number(response.headers.get(name));
      return { low: number("X-Low"), high: number("X-High"), rows: number("X-Rows"),
        columns: number("X-Columns"), data: new Uint8Array(await response.arrayBuffer()) };
    });
  }

  /**
   * The blocks of a value that hold some of its steps.
   * @param {string} key
   * @param {number} from
   * @param {number} to
   * @returns {Promise<Block[]>}
   */
  async blocks(key, from, to) {
    const firsts = [];
    for (let first = from - (from % BLOCK); first < to; first += BLOCK) firsts.push(first);
    const found = await Promise.all(firsts.map(async (first) =>
      ({ ...await this.levels("values", key, first, first + BLOCK), from: first })));
    const old = [...this.cache.keys()].filter((path) => path.startsWith("/api/values/"));
    for (const path of old.slice(0, -MOST_BLOCKS)) this.cache.delete(path);
    return found;
  }

  /** @param {string} key @param {number} unit @returns {Promise<Float32Array>} */
  exact(key, unit) {
    return this.once(address(["exact", key, unit]), async (path) =>
      new Float32Array(await (await getResponse(path)).arrayBuffer()));
  }

  /** @param {string} what @param {any} [body] @returns {Promise<any>} */
  live(what, body = {}) {
    return post(address(["live", what]), { page: this.page, ...body });
  }

  /** @param {any[]} changes @returns {Promise<any>} */
  intervene(changes) {
    return post("/api/intervene", { changes });
  }
}

/** @param {(string | number)[]} parts */
const address = (parts) => `/api/${parts.map((p) => (String(p).startsWith("?") ? p : encodeURIComponent(p))).join("/").replace("/?", "?")}`;
