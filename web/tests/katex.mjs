// Typesets every formula of standard input in KaTeX's strict mode; prints what it refuses.
// For tests/web/test_katex.py.
import { readFileSync } from "node:fs";
import katex from "katex";

const refused = {};
for (const [name, formula] of Object.entries(JSON.parse(readFileSync(0, "utf8")))) {
  try {
    katex.renderToString(formula, { displayMode: true, strict: "error", throwOnError: true });
  } catch (error) {
    refused[name] = String(error.message);
  }
}
console.log(JSON.stringify(refused));
