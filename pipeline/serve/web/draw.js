/** Draws the graph and the timeline whose places `graph.js` and `timeline.js` find. */

import { spoken } from "./dates.js";
import { drawn, element, widthOf } from "./dom.js";
import * as graph from "./graph.js";
import * as timeline from "./timeline.js";

const ARROW = 7;

/**
 * Draw entities and facts; an entity calls `press` with itself.
 *
 * @param {HTMLElement} place
 * @param {object[]} facts - with a `weight` where an answer was read from it.
 * @param {{focus: string, said: string, press: (entity: object) => void}} options - `focus` and `said`:
 *   keys of the entity that it is about, and of the one that was answered.
 */
export function drawGraph(place, facts, { focus, said, press }) {
  const made = graph.layout(facts, focus, place.clientWidth, widthOf(place));
  const svg = drawn("svg", {
    width: made.width,
    height: made.height,
    viewBox: `0 0 ${made.width} ${made.height}`,
    role: "group",
    "aria-label": "Graph of entities; each can be pressed to see its facts",
  });
  const read = ({ weight }) => weight !== undefined;
  for (const { fact, path, arrow } of made.edges.toSorted(
    (a, b) => Number(read(a.fact)) - Number(read(b.fact)),
  )) {
    const classes = read(fact) ? " read" : "";
    const line = drawn("path", { class: `edge${classes}`, d: path }, drawn("title", {}, fact.text));
    if (read(fact)) line.style.strokeWidth = `${1.25 + 3 * fact.weight}px`;
    const back = arrow.back ? 1 : -1;
    const head = `M${arrow.x} ${arrow.y}l${back * ARROW} -${ARROW / 2 + 1}v${ARROW + 2}z`;
    svg.append(line, drawn("path", { class: `arrow${classes}`, d: head }));
  }
  for (const { text, x, y } of made.labels) {
    svg.append(drawn("text", { class: "small", x, y, "text-anchor": "middle" }, text));
  }
  for (const { entity, label, x, y, width, height, head } of made.boxes) {
    const classes = ["node", head && "head", entity.key === said && "said"].filter(Boolean).join(" ");
    const node = drawn(
      "g",
      { class: classes, tabindex: "0", role: "button", "aria-label": `${entity.label}: show its facts` },
      drawn("title", {}, entity.label),
      drawn("rect", { x, y, width, height, rx: height / 2 }),
      drawn("text", { x: x + width / 2, y: y + height / 2 + 5, "text-anchor": "middle" }, label),
    );
    node.addEventListener("click", () => press(entity));
    node.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      press(entity);
    });
    svg.append(node);
  }
  place.replaceChildren(svg);
}

/**
 * Draw the values of a slot over time; a value calls `press` with a date that it held on.
 *
 * @param {HTMLElement} place
 * @param {object[]} values - facts of one slot with `start`, `end` and `holds`.
 * @param {{at: string, press: (date: string) => void}} options - `at`: the date asked for; empty for today.
 */
export function drawTimeline(place, values, { at, press }) {
  const made = timeline.layout(values, at, place.clientWidth);
  const rows = made.bars.map(({ value, x, width, open }) => {
    const fading = [open.start && "before", open.end && "after"].filter(Boolean).join(" ");
    const filled = placed(element("i", { className: fading }), x);
    filled.style.width = `${100 * width}%`;
    const date = timeline.dateIn(value);
    const when = spoken(value.start, value.end) || "always, as far as is known";
    return element(
      "li",
      { className: value.holds ? "holds" : "" },
      element(
        "button",
        {
          type: "button",
          onclick: () => press(date),
          "aria-label": `${value.tail.label}, ${when}: ask as of ${date || "today"}`,
        },
        element(
          "span",
          { className: "value" },
          element("span", {}, value.tail.label),
          element("span", {}, when),
        ),
        element("span", { className: "span" }, filled, marker(made.at)),
      ),
    );
  });
  const marks = made.marks.map(({ x, text }) =>
    placed(element("span", { className: side(x, place.clientWidth) }, text), x),
  );
  place.replaceChildren(
    element("ol", {}, ...rows),
    element("div", { className: "marks", "aria-hidden": "true" }, ...marks),
  );
}

function marker(x) {
  return placed(element("b", { title: "the date that is asked for" }), x);
}

function placed(made, x) {
  made.style.left = `${100 * x}%`;
  return made;
}

/** Return the class of a date that would stick out at an end of the line. */
function side(x, room) {
  if (x * room < timeline.TICK / 3) return "first";
  return (1 - x) * room < timeline.TICK / 3 ? "last" : "";
}
