// Runs one step of each layer that standard input describes; prints every named value.
// For tests/web/test_browser_engine.py.
import { readFileSync } from "node:fs";
import { OPERATIONS, stepLayer } from "../src/inspect/engine.js";

const floats = (text) =>
  new Float32Array(Uint8Array.from(Buffer.from(text, "base64")).buffer);
const map = (record, change) =>
  Object.fromEntries(Object.entries(record).map(([k, v]) => [k, change(v)]));
const matrix = ({ weight, bias, rows, columns }) =>
  ({ weight: floats(weight), bias: bias && floats(bias), rows, columns });

const results = JSON.parse(readFileSync(0, "utf8")).map(({ layer, x, states }) => {
  const { graph, matrices, vectors } = layer;
  const built = { graph, matrices: map(matrices, matrix), vectors: map(vectors, floats) };
  const olds = states.map((state) => Float64Array.from(state));
  const { named, output, news } = stepLayer(built, Float64Array.from(x), olds);
  const after = Object.fromEntries(graph.states.map((name, n) => [`new ${name}`, [...news[n]]]));
  return { ...map(named, (v) => [...v]), ...after, output: [...output] };
});
console.log(JSON.stringify({ results, operations: OPERATIONS }));
