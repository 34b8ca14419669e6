// Types to the models of reports, key by key; prints what is shown after every act.
// For tests/web/test_browser_engine.py.
import { readFileSync } from "node:fs";
import { ReportSource } from "../src/inspect/report.js";

const results = [];
for (const { report, acts } of JSON.parse(readFileSync(0, "utf8"))) {
  const source = new ReportSource(report);
  const shown = [];
  for (const [what, options] of acts) shown.push(await source.live(what, options));
  results.push(shown);
}
console.log(JSON.stringify(results));
