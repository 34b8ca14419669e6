// A cell's graph run in the browser, so that a report can type and generate without a
// server. Derived operations come written out in primitives (language/expand.py). Numbers
// are doubles, weights float32.

/** @typedef {{op: string, args: number[], attrs: Record<string, any>}} Node */
/** @typedef {{weight: Float32Array, bias: Float32Array | null, rows: number, columns: number}} Matrix */
/**
 * @typedef {object} Graph
 * @property {Node[]} nodes
 * @property {string[]} states
 * @property {number[]} updates
 * @property {number} output
 * @property {[string, number][]} names
 * @property {Record<string, number>} rows of the named values that are matrices
 */
/** @typedef {{graph: Graph, matrices: Record<string, Matrix>, vectors: Record<string, Float32Array>}} Layer */
/** @typedef {Float64Array} Row */

const sigmoid = (/** @type {number} */ v) => 1 / (1 + Math.exp(-v));

/** @type {Record<string, (...args: number[]) => number>} */
const EACH = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  neg: (a) => -a,
  greater: (a, b) => +(a > b),
  greater_equal: (a, b) => +(a >= b),
  less: (a, b) => +(a < b),
  less_equal: (a, b) => +(a <= b),
  equal: (a, b) => +(a === b),
  not_equal: (a, b) => +(a !== b),
  sigmoid,
  tanh: Math.tanh,
  exp: Math.exp,
  log: Math.log,
  abs: Math.abs,
  sqrt: Math.sqrt,
  sin: Math.sin,
  cos: Math.cos,
  maximum: Math.max,
  minimum: Math.min,
  where: (c, u, v) => (c ? u : v),
};

/** @param {number} size @param {(n: number) => number} value of each place @returns {Row} */
function filled(size, value) {
  const out = new Float64Array(size);
  for (let n = 0; n < size; n++) out[n] = value(n);
  return out;
}

/** @param {Row} a @param {number} from @param {Row} b @param {number} at @param {number} count */
function dot(a, from, b, at, count) {
  let total = 0;
  for (let n = 0; n < count; n++) total += a[from + n] * b[at + n];
  return total;
}

/**
 * Operations over all units of a row. A matrix is flat: block (head) by block, each row by row.
 * @type {Record<string, (args: Row[], attrs: any) => Row>}
 */
const WHOLE = {
  sum: ([v], { heads = 1 }) => {
    const width = v.length / heads;
    return filled(heads, (n) => v.subarray(n * width, (n + 1) * width).reduce((a, b) => a + b, 0));
  },
  spread: ([v, like]) => filled(like.length, (n) => v[Math.floor((n * v.length) / like.length)]),
  outer: ([v, k], { heads = 1 }) => {
    const columns = k.length / heads, block = (v.length / heads) * columns;
    return filled(heads * block, (n) =>
      v[Math.floor(n / columns)] * k[Math.floor(n / block) * columns + (n % columns)]);
  },
  matvec: ([C, q], { heads = 1 }) => {
    const columns = q.length / heads, rows = C.length / columns;
    return filled(rows, (row) =>
      dot(C, row * columns, q, Math.floor((row * heads) / rows) * columns, columns));
  },
  vecmat: ([v, C], { heads = 1 }) => {
    const rows = v.length / heads, columns = C.length / v.length;
    return filled(heads * columns, (n) => {
      const head = Math.floor(n / columns);
      let total = 0;
      for (let row = head * rows; row < (head + 1) * rows; row++)
        total += v[row] * C[row * columns + (n % columns)];
      return total;
    });
  },
  to_matrix: ([v]) => v,
  scale_rows: ([C, v]) => filled(C.length, (n) => C[n] * v[Math.floor((n * v.length) / C.length)]),
  scale_columns: ([C, v], { heads = 1 }) => {
    const columns = v.length / heads, block = C.length / heads;
    return filled(C.length, (n) => C[n] * v[Math.floor(n / block) * columns + (n % columns)]);
  },
  softmax: ([v]) => {
    const top = Math.max(...v);
    const powers = v.map((x) => Math.exp(x - top));
    const total = powers.reduce((a, b) => a + b, 0);
    return powers.map((p) => p / total);
  },
  block_mean: ([v], { heads }) => {
    const out = new Float64Array(v.length);
    const width = v.length / heads;
    for (let from = 0; from < v.length; from += width)
      out.fill(v.subarray(from, from + width).reduce((a, b) => a + b, 0) / width, from, from + width);
    return out;
  },
};

/** The operations that run here: the language's primitives, as a test holds. */
export const OPERATIONS = [...Object.keys(EACH), ...Object.keys(WHOLE)];

/**
 * @param {Matrix} matrix
 * @param {Row[]} operands
 * @returns {Row}
 */
function affine({ weight, bias, rows, columns }, operands) {
  const joined = new Float64Array(columns);
  let at = 0;
  for (const operand of operands) { joined.set(operand, at); at += operand.length; }
  const out = new Float64Array(rows);
  for (let row = 0, w = 0; row < rows; row++) {
    let total = bias ? bias[row] : 0;
    for (let column = 0; column < columns; column++, w++) total += weight[w] * joined[column];
    out[row] = total;
  }
  return out;
}

/**
 * Element by element, one number standing for as many as the others have.
 * @param {(...args: number[]) => number} operation
 * @param {Row[]} args
 */
function each(operation, args) {
  const size = Math.max(...args.map((arg) => arg.length));
  const out = new Float64Array(size);
  for (let n = 0; n < size; n++)
    out[n] = operation(...args.map((arg) => arg[arg.length === 1 ? 0 : n]));
  return out;
}

/** @param {Row} value @param {number} size */
const wide = (value, size) => (value.length === size ? value : new Float64Array(size).fill(value[0]));

/**
 * One step of one layer.
 * @param {Layer} layer
 * @param {Row} x
 * @param {Row[]} olds
 * @param {(node: number, value: Row) => Row} [change]
 */
export function stepLayer({ graph, matrices, vectors }, x, olds, change = (_, value) => value) {
  /** @type {Row[]} */
  const values = [];
  graph.nodes.forEach(({ op, args, attrs }, n) => {
    const given = args.map((a) => values[a]);
    let value;
    if (op === "affine") value = affine(matrices[attrs.weight], given);
    else if (op === "weight") value = Float64Array.from(vectors[attrs.weight]);
    else if (op === "constant") value = Float64Array.of(attrs.value);
    else if (op === "input") value = x;
    else if (op === "state") value = olds[graph.states.indexOf(attrs.name)];
    else if (op in WHOLE) value = WHOLE[op](given, attrs);
    else value = each(EACH[op], given);
    values.push(change(n, value));
  });
  return {
    output: values[graph.output],
    news: graph.updates.map((u, n) => wide(values[u], olds[n].length)),
    named: Object.fromEntries(graph.names.map(([name, node]) => [name, shown(values[node], graph.rows[name])])),
  };
}

/** A named value as the page shows it: of a matrix the norm of each row. @param {Row} value @param {number} [rows] */
function shown(value, rows) {
  if (!rows) return value;
  const width = value.length / rows;
  return filled(rows, (row) => Math.sqrt(dot(value, row * width, value, row * width, width)));
}

/**
 * A language model: embedding, layers, linear.
 * @typedef {object} Model
 * @property {Matrix} embedding a row a token
 * @property {(Layer & {initial: Float32Array[]})[]} layers with their states before the first token
 * @property {Matrix} head
 */

/** @param {Model} model @returns {Row[][]} */
export const initialStates = ({ layers }) =>
  layers.map(({ initial }) => initial.map((state) => Float64Array.from(state)));

/**
 * @param {Model} model
 * @param {number} token
 * @param {Row[][]} states
 * @param {(layer: number, node: number, value: Row) => Row} [change]
 */
export function stepModel({ embedding, layers, head }, token, states, change) {
  const { weight, columns } = embedding;
  /** @type {Row} */
  let x = Float64Array.from(weight.subarray(token * columns, (token + 1) * columns));
  /** @type {Record<string, Row>} */
  const named = {};
  const news = layers.map((layer, k) => {
    const stepped = stepLayer(layer, x, states[k], change && ((node, value) => change(k, node, value)));
    for (const [name, value] of Object.entries(stepped.named)) named[`${k}.${name}`] = value;
    x = stepped.output;
    return stepped.news;
  });
  return { logits: affine(head, [x]), states: news, named };
}

/** @param {Row} logits @returns {Row} */
export const logSoftmax = (logits) => {
  const top = Math.max(...logits);
  const total = top + Math.log(logits.reduce((sum, v) => sum + Math.exp(v - top), 0));
  return logits.map((v) => v - total);
};

const LIKELIEST = 10; // tokens that are shown

/** The likeliest tokens with their chances, best first. @param {Row} logits @returns {[number, number][]} */
export function likeliest(logits) {
  const chances = logSoftmax(logits).map(Math.exp);
  const order = [...chances.keys()].sort((a, b) => chances[b] - chances[a]);
  return order.slice(0, LIKELIEST).map((token) => [token, chances[token]]);
}
