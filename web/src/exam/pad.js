// The sketch pad: strokes as data, drawn again from them for undo, replay and export.
import { h } from "../dom.js";

/** A point is x and y in [0, 1] of the pad's width, pressure, milliseconds.
 * @typedef {[number, number, number, number]} Point */
/** @typedef {{tool: "pen" | "eraser", colour: number, points: Point[]}} Stroke */

const WIDTH = 1200; // the canvas's own pixels; the page scales it
const HEIGHT = 750;
const COLOURS = ["#1b1d20", "#0072b2", "#d55e00", "#009e73"]; // on white paper
const NAMES = ["black", "blue", "orange", "green"];

/**
 * @param {Stroke[]} strokes what is on it already
 * @param {(strokes: Stroke[]) => void} changed called after every stroke
 */
export function sketchPad(strokes, changed) {
  let drawn = [...strokes];
  /** @type {Stroke[]} */
  let undone = [];
  /** @type {"pen" | "eraser"} */
  let tool = "pen";
  let colour = 0;
  let replaying = 0;
  const canvas = h("canvas", {
    width: WIDTH, height: HEIGHT, class: "pad", tabindex: 0,
    "aria-label": "Sketch pad: draw with a pointer; Ctrl+Z undoes, Ctrl+Y draws again",
    role: "img",
  });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));

  const stop = () => cancelAnimationFrame(replaying);
  const redraw = () => { stop(); paint(context, drawn); };
  /** @param {Stroke[]} now */
  const set = (now) => { drawn = now; redraw(); refresh(); changed(drawn); };
  const undo = () => {
    const last = drawn.at(-1);
    if (last) { undone.push(last); set(drawn.slice(0, -1)); }
  };
  const redo = () => {
    const last = undone.pop();
    if (last) set([...drawn, last]);
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    canvas.setPointerCapture(event.pointerId);
    redraw();
    /** @type {Stroke} */
    const stroke = { tool: event.buttons & 32 ? "eraser" : tool, colour, points: [] };
    /** @param {PointerEvent} moved */
    const add = (moved) => {
      const all = moved.getCoalescedEvents?.() ?? [];
      for (const one of all.length ? all : [moved]) {
        stroke.points.push(place(canvas, one));
        line(context, stroke, stroke.points.length - 1);
      }
    };
    canvas.dataset.drawing = ""; // the page changes only between strokes
    const end = () => {
      delete canvas.dataset.drawing;
      canvas.removeEventListener("pointermove", add);
      undone = [];
      set([...drawn, stroke]);
    };
    add(event);
    canvas.addEventListener("pointermove", add);
    canvas.addEventListener("pointerup", end, { once: true });
    canvas.addEventListener("pointercancel", end, { once: true });
  });
  /** @param {KeyboardEvent} event */
  const typed = (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    const key = event.key.toLowerCase();
    if (key === "z" && !event.shiftKey) undo();
    else if (key === "y" || key === "z") redo();
    else return;
    event.preventDefault();
  };

  const replay = () => {
    stop();
    const steps = drawn.flatMap((stroke) => stroke.points.map((_, n) => ({ stroke, n })));
    const perFrame = Math.max(1, Math.round(steps.length / 240)); // about four seconds
    let done = 0;
    paint(context, []);
    const frame = () => {
      for (const { stroke, n } of steps.slice(done, done + perFrame)) line(context, stroke, n);
      done += perFrame;
      if (done < steps.length) replaying = requestAnimationFrame(frame);
      else redraw();
    };
    frame();
  };
  const save = () => {
    const link = h("a", { href: canvas.toDataURL("image/png"), download: "sketch.png" });
    link.click();
  };
  /** @param {number} n */
  const pick = (n) => { tool = "pen"; colour = n; refresh(); };
  const pens = NAMES.map((name, n) =>
    h("button", { type: "button", class: `pen pen-${n}`, "aria-label": `${name} pen`, onclick: () => pick(n) }));
  const eraser = h("button", { type: "button", onclick: () => { tool = "eraser"; refresh(); } }, "Eraser");
  const back = h("button", { type: "button", onclick: undo }, "Undo");
  const again = h("button", { type: "button", onclick: redo }, "Redo");
  const whole = [
    h("button", { type: "button", onclick: replay }, "Replay"),
    h("button", { type: "button", onclick: save }, "PNG"),
    h("button", { type: "button", onclick: () => { undone = []; set([]); } }, "Clear"),
  ];
  function refresh() {
    pens.forEach((pen, n) => pen.setAttribute("aria-pressed", String(tool === "pen" && colour === n)));
    eraser.setAttribute("aria-pressed", String(tool === "eraser"));
    back.disabled = !drawn.length;
    again.disabled = !undone.length;
    for (const button of whole) button.disabled = !drawn.length;
  }
  const bar = h("div", { class: "bar", role: "toolbar", "aria-label": "Sketch" }, pens, eraser, back, again, whole);
  redraw();
  refresh();
  return h("div", { class: "sketch", onkeydown: typed }, bar, canvas);
}

/**
 * Strokes as a PNG's address, for the summary.
 * @param {Stroke[]} strokes
 */
export function picture(strokes) {
  const canvas = h("canvas", { width: WIDTH, height: HEIGHT });
  paint(/** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")), strokes);
  return canvas.toDataURL("image/png");
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {PointerEvent} event
 * @returns {Point}
 */
function place(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width;
  const y = (event.clientY - box.top) / box.width;
  // A mouse reports 0.5 while it is pressed, and some pens 0 at first.
  return [round(x), round(y), round(event.pressure || 0.5), Math.round(event.timeStamp)];
}

const round = (/** @type {number} */ v) => Math.round(v * 1e4) / 1e4;

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Stroke[]} strokes
 */
function paint(context, strokes) {
  context.globalCompositeOperation = "source-over";
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, WIDTH, HEIGHT);
  for (const stroke of strokes) stroke.points.forEach((_, n) => line(context, stroke, n));
}

/**
 * The part of a stroke that ends in its n-th point.
 * @param {CanvasRenderingContext2D} context
 * @param {Stroke} stroke
 * @param {number} n
 */
function line(context, stroke, n) {
  const [x, y, pressure] = stroke.points[n];
  const [fromX, fromY] = stroke.points[Math.max(0, n - 1)];
  const erases = stroke.tool === "eraser";
  context.strokeStyle = erases ? "#ffffff" : COLOURS[stroke.colour];
  context.lineWidth = erases ? 40 : 2 + 6 * pressure;
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(fromX * WIDTH, fromY * WIDTH);
  context.lineTo(x * WIDTH, y * WIDTH);
  context.stroke();
}
