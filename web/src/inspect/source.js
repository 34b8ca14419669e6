// Where a page's numbers come from: the server, or the report that it is part of.
import { get, getResponse, post } from "../api.js";

/** @typedef {{rows: number, columns: number, data: Uint8Array}} Bytes */
/** @typedef {Bytes & {low: number, high: number}} Levels of one scale */
/** @typedef {Bytes & {from: number}} Block units in rows, each of its own scale; steps from `from` on in columns */
/** @typedef {{low: number[], high: number[], from: number[], to: number[]}} Ranges of each unit: its lowest and highest value, and where 98 % are */

const BLOCK = 512; // steps of a value that are fetched at once
const MOST_BLOCKS = 96; // in the cache

export class Source {
  /**
   * @param {number} reading the number of the text's reading, of which all numbers are
   * @param {string} page whose typed text it is
   */
  constructor(reading = 0, page = Math.random().toString(36).slice(2)) {
    /** @type {Map<string, Promise<any>>} */
    this.cache = new Map();
    this.reading = reading;
    this.page = page;
  }

  /** Read another text: the source of its numbers. @param {string} text */
  async read(text) {
    const { reading } = await post("/api/read", { text });
    return new Source(reading, this.page);
  }

  /**
   * Ask once; what failed is asked again.
   * @template T
   * @param {string} path
   * @param {(path: string) => Promise<T>} fetch
   * @returns {Promise<T>}
   */
  once(path, fetch) {
    const known = this.cache.get(path);
    if (known) return known;
    const answer = fetch(path);
    this.cache.set(path, answer);
    answer.catch(() => { if (this.cache.get(path) === answer) this.cache.delete(path); });
    return answer;
  }

  /** @param {...(string | number)} parts @returns {Promise<any>} */
  json(...parts) {
    return this.once(this.address(parts), get);
  }

  /** @param {string} key @returns {Promise<Ranges>} */
  ranges(key) {
    return this.json("ranges", key);
  }

  /** @param {...(string | number)} parts @returns {Promise<Levels>} */
  levels(...parts) {
    return this.once(this.address(parts), async (path) => {
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
    const old = [...this.cache.keys()].filter((path) => path.includes("/values/"));
    for (const path of old.slice(0, -MOST_BLOCKS)) this.cache.delete(path);
    return found;
  }

  /** @param {string} key @param {number} unit @returns {Promise<Float32Array>} */
  exact(key, unit) {
    return this.once(this.address(["exact", key, unit]), async (path) =>
      new Float32Array(await (await getResponse(path)).arrayBuffer()));
  }

  /** @param {string} what @param {any} [body] @returns {Promise<any>} */
  live(what, body = {}) {
    return post(address("live", what), { page: this.page, ...body });
  }

  /** @param {any[]} changes @returns {Promise<any>} */
  intervene(changes) {
    return post(this.address(["intervene"]), { changes });
  }

  /** @param {(string | number)[]} parts of the reading */
  address(parts) {
    return address(this.reading, ...parts);
  }
}

/** @param {...(string | number)} parts */
const address = (...parts) => `/api/${parts.map((p) => (String(p).startsWith("?") ? p : encodeURIComponent(p))).join("/").replace("/?", "?")}`;
