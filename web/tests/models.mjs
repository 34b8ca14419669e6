// Reads texts with the models of reports, as a page that was opened from the disk does;
// prints the logits after every token. For tests/web/test_browser_engine.py.
import { readFileSync } from "node:fs";
import { ReportSource } from "../src/inspect/report.js";

const results = JSON.parse(readFileSync(0, "utf8")).map(({ report, tokens }) => {
  const { typing } = new ReportSource(report);
  for (const token of tokens) typing.push(token);
  return typing.steps.map(({ logits }) => [...logits]);
});
console.log(JSON.stringify(results));
