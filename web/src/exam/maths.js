// A displayed formula, written in one line, as MathML: {a}/{b} is a fraction, x_t and x^{k} have
// scripts, (…) and ‖…‖ grow with what they hold, ∑ and ∏ have their limits below and above.

const NAMESPACE = "http://www.w3.org/1998/Math/MathML";
const TOKEN = /\s{2,}|[a-z]{2,}|\d+(?:[.,]\d+)*|\S\p{M}*/giu;
/** @type {Record<string, string>} */
const CLOSING = { "{": "}", "(": ")", "‖": "‖" };

/** @typedef {{tokens: string[], at: number}} Source */

/**
 * @param {string} text
 * @returns {Element}
 */
export function maths(text) {
  const source = { tokens: text.match(TOKEN) ?? [], at: 0 };
  return m("math", { display: "block" }, ...row(source, ""));
}

/**
 * Items up to a closing sign, which is read too.
 * @param {Source} source
 * @param {string} closing "" for the end
 */
function row(source, closing) {
  const items = [];
  while (source.at < source.tokens.length) {
    if (source.tokens[source.at] === closing) { source.at++; break; }
    items.push(item(source));
  }
  return items;
}

/**
 * An atom with its scripts; two atoms with / between them.
 * @param {Source} source
 * @returns {Element}
 */
function item(source) {
  const sign = source.tokens[source.at];
  let base = atom(source);
  if (sign === "{" && source.tokens[source.at] === "/") {
    source.at++;
    base = m("mfrac", {}, base, atom(source));
  }
  /** @type {Record<string, Element>} */
  const scripts = {};
  while (["_", "^"].includes(source.tokens[source.at]))
    scripts[source.tokens[source.at++]] = atom(source);
  const { _: low, "^": high } = scripts;
  const [both, below, above] = "∑∏".includes(sign)
    ? ["munderover", "munder", "mover"] : ["msubsup", "msub", "msup"];
  if (low && high) return m(both, {}, base, low, high);
  if (low) return m(below, {}, base, low);
  return high ? m(above, {}, base, high) : base;
}

/**
 * @param {Source} source
 * @returns {Element}
 */
function atom(source) {
  const sign = source.tokens[source.at++] ?? "";
  const closing = CLOSING[sign];
  if (sign === "{") return m("mrow", {}, ...row(source, closing));
  if (closing)
    return m("mrow", {}, m("mo", { form: "prefix", stretchy: "true" }, sign), ...row(source, closing),
      m("mo", { form: "postfix", stretchy: "true" }, closing));
  if (!sign.trim()) return m("mspace", { width: "1.2em" });
  if (/^\d/.test(sign)) return m("mn", {}, sign);
  if (/^.\u0303$/u.test(sign)) // a tilde that combines with its letter
    return m("mover", { accent: "true" }, m("mi", {}, sign[0]), m("mo", { stretchy: "false" }, "~"));
  if (/^[\p{L}∂]/u.test(sign)) return m("mi", {}, sign);
  return m("mo", {}, sign);
}

/**
 * @param {string} tag
 * @param {Record<string, string>} attributes
 * @param {...(string | Element)} children
 */
function m(tag, attributes, ...children) {
  const element = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
