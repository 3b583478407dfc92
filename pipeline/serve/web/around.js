/** Shows what stands around an answer: the graph, a slot's values over time, an entity's facts. */

import * as api from "./api.js";
import { at } from "./dom.js";
import { drawGraph, drawTimeline } from "./draw.js";
import { editor } from "./changing.js";
import { row } from "./facts.js";

const NEIGHBOURS = 8;
let redraw = () => {};
let read = []; // facts of the answer that is shown, with their weights

/** Show what stands around an answer that was read from these facts, as of a date. */
export async function around({ facts, refused }, asOf, askAsOf) {
  read = facts.flatMap((fact) => (fact.via ? [fact, { ...fact.via, weight: fact.weight }] : [fact]));
  at("around").hidden = !read.length;
  at("entity").hidden = true;
  if (!read.length) return;
  await Promise.all([graph(read[0].head, refused ? "" : read[0].tail.key), timeline(read[0], asOf, askAsOf)]);
}

/** Draw again, as the room has changed. */
export function drawAgain() {
  redraw();
}

async function graph(entity, said) {
  const { out, into } = await factsOf(entity);
  const shown = new Map(read.filter(touches(entity)).length ? read.map((fact) => [fact.id, fact]) : []);
  const room = shown.size + NEIGHBOURS;
  for (const fact of [...out, ...into]) if (shown.size < room && !shown.has(fact.id)) shown.set(fact.id, fact);
  redraw = () => drawGraph(at("graph"), [...shown.values()], { focus: entity.key, said, press: (other) => open(other, said) });
  at("graph-title").textContent = `Around ${entity.label}`;
  redraw();
}

const touches = ({ key }) => ({ head, tail }) => head.key === key || tail.key === key;

async function open(entity, said) {
  const { out, into, count } = await factsOf(entity);
  const rows = [...out, ...into];
  at("entity-title").textContent = entity.label;
  const more = count > rows.length ? `, of which ${rows.length} are shown` : "";
  at("entity-note").textContent = `${count} ${count === 1 ? "fact" : "facts"}${more}`;
  at("entity-facts").replaceChildren(...rows.map((fact) => row(fact, editor)));
  at("entity").hidden = false;
  await graph(entity, said);
  at("entity").focus();
  at("entity").scrollIntoView({ block: "nearest" });
}

async function timeline(fact, asOf, askAsOf) {
  const section = at("timeline-section");
  try {
    const { body } = await api.read(`facts/${fact.id}/history`, { as_of: asOf });
    section.hidden = !body.values.length;
    at("timeline-title").textContent = `${fact.head.label}: ${fact.relation.label} over time`;
    drawTimeline(at("timeline"), body.values, { at: asOf, press: askAsOf });
  } catch {
    section.hidden = true; // it was deleted meanwhile
  }
}

/** Return facts that an entity heads, facts that lead to it, and how many there are of both. */
async function factsOf({ key }) {
  const { body } = await api.read(`entities/${encodeURIComponent(key)}`);
  const [out, into] = [body.facts_out, body.facts_in ?? { facts: [], count: 0 }];
  return { out: out.facts, into: into.facts, count: out.count + into.count };
}
