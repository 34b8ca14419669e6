// Finds the units of spans, and their further places; prints both.
// For tests/web/test_pattern.py.
import { readFileSync } from "node:fs";
import { findPlaces, findUnits } from "../src/inspect/pattern.js";

const results = JSON.parse(readFileSync(0, "utf8")).map(({ rows, columns, data, from, to, share }) => {
  const levels = { rows, columns, data: Uint8Array.from(data) };
  const units = findUnits(levels, from, to, share);
  return { units, places: findPlaces(levels, units, from, to, share) };
});
console.log(JSON.stringify(results));
