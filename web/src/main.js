// One bundle for every page and for notebooks: the body's data-page names the one to draw.
import "./style.css";
import "./exam/exam.css";
import "./inspect/inspect.css";
import "./pairs/pairs.css";
import { fail, h } from "./dom.js";
import { exam } from "./exam/exam.js";
import { examiner } from "./exam/examiner.js";
import { inspect } from "./inspect/inspect.js";
import { ReportSource } from "./inspect/report.js";
import { Source } from "./inspect/source.js";
import { pairs, PairReport, PairSource } from "./pairs/pairs.js";

/** A report's data: JSON in a script of its own. */
const reportData = () => JSON.parse(document.getElementById("report")?.textContent ?? "null");

/** @type {Record<string, (root: HTMLElement) => Promise<void>>} */
const PAGES = {
  exam,
  examiner,
  inspect: (root) => inspect(root, new Source()),
  pairs: (root) => pairs(root, new PairSource()),
  "pairs-report": (root) => pairs(root, new PairReport(reportData())),
  report: (root) => inspect(root, new ReportSource(reportData())),
};

const name = document.body.dataset.page ?? "";
if (Object.hasOwn(PAGES, name)) PAGES[name](document.body).catch((error) => fail(document.body, error));

/**
 * A notebook draws the report that its model holds, with a style of its own.
 * @param {{model: {get: (name: string) => any}, el: HTMLElement}} host as anywidget gives it
 */
async function render({ model, el }) {
  const root = h("div");
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(model.get("style"));
  const shadow = el.attachShadow({ mode: "open" });
  shadow.adoptedStyleSheets = [sheet];
  shadow.append(root);
  // JupyterLab: keys that are typed here are no commands, and its theme is ours.
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const light = document.body.dataset.jpThemeLight;
  if (light !== undefined) el.style.colorScheme = light === "true" ? "light" : "dark";
  try {
    await inspect(root, new ReportSource(JSON.parse(model.get("report"))));
  } catch (error) {
    fail(root, error);
  }
}

export default { render };
