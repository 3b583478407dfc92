/** Shows what stands around an answer: the graph, a slot's values over time, an entity's facts. */

import * as api from "./api.js";
import { editor } from "./changing.js";
import { at } from "./dom.js";
import { drawGraph, drawTimeline } from "./draw.js";
import { row } from "./facts.js";

const NEIGHBOURS = 8; // facts of the entity in the middle that weren't read
const OTHERS = 2; // facts that lead to what was answered
let read = []; // facts of the answer that is shown, with their weights
let said = ""; // key of the entity that it named
let date = ""; // that it was asked as of
let turn = 0; // counts what was asked to be shown: what comes too late is not
let redraw = () => {};

/**
 * Show what stands around an answer.
 *
 * @param {{facts: object[], refused: boolean}} knowledge - what it was read from.
 * @param {string} asOf - the date it was asked as of.
 * @param {(date: string) => void} askAsOf - asks as of another date.
 */
export async function around({ facts, refused }, asOf, askAsOf) {
  const own = ++turn;
  read = facts.flatMap((fact) => (fact.via ? [fact, { ...fact.via, weight: fact.weight }] : [fact]));
  said = refused || !read.length ? "" : read[0].tail.key;
  date = asOf;
  at("around").hidden = !read.length;
  at("entity").hidden = true;
  if (read.length) await Promise.all([graph(read[0].head, own), timeline(read[0], own, askAsOf)]);
}

/** Draw again, as the room has changed. */
export function drawAgain() {
  redraw();
}

async function graph(entity, own, facts = null) {
  const [{ out, into }, answered] = await Promise.all([
    facts ?? factsOf(entity),
    said && !facts ? factsOf(read[0].tail) : { into: [] },
  ]);
  if (own !== turn) return;
  const near = read.some(({ head, tail }) => head.key === entity.key || tail.key === entity.key);
  const shown = new Map(near ? read.map((fact) => [fact.id, fact]) : []);
  const room = shown.size + NEIGHBOURS;
  for (const fact of [...out, ...into])
    if (shown.size < room && !shown.has(fact.id)) shown.set(fact.id, fact);
  for (const fact of answered.into.filter(({ id }) => !shown.has(id)).slice(0, OTHERS))
    shown.set(fact.id, fact);
  redraw = () => drawGraph(at("graph"), [...shown.values()], { focus: entity.key, said, press: open });
  at("graph-title").textContent = `Around ${entity.label}`;
  redraw();
}

/** Show the facts of an entity, and put it into the middle of the graph. */
async function open(entity) {
  const own = ++turn;
  const facts = await factsOf(entity);
  if (own !== turn) return;
  const rows = [...facts.out, ...facts.into];
  const more = facts.count > rows.length ? `, of which ${rows.length} are shown` : "";
  at("entity-title").textContent = entity.label;
  const note = facts.problem ?? `${facts.count} ${facts.count === 1 ? "fact" : "facts"}${more}`;
  at("entity-note").textContent = note;
  at("entity-facts").replaceChildren(...rows.map((fact) => row(fact, editor)));
  at("entity").hidden = false;
  await graph(entity, own, facts);
  at("entity").focus();
}

async function timeline(fact, own, askAsOf) {
  try {
    const { body } = await api.read(`facts/${fact.id}/history`, { as_of: date });
    if (own !== turn) return;
    at("timeline-section").hidden = false;
    at("timeline-title").textContent = `${fact.head.label}: ${fact.relation.label} over time`;
    drawTimeline(at("timeline"), body.values, { at: date, press: askAsOf });
  } catch {
    at("timeline-section").hidden = true; // it was deleted meanwhile
  }
}

/**
 * Return facts that an entity heads, facts that lead to it, and how many there are; as of a date only heads.
 */
async function factsOf({ key }) {
  try {
    if (date) {
      const { body } = await api.read("facts", { head: key, as_of: date });
      return { out: body.facts, into: [], count: body.facts.length };
    }
    const { body } = await api.read(`entities/${encodeURIComponent(key)}`);
    const [out, into] = [body.facts_out, body.facts_in ?? { facts: [], count: 0 }];
    return { out: out.facts, into: into.facts, count: out.count + into.count };
  } catch (error) {
    return { out: [], into: [], count: 0, problem: api.explained(error) };
  }
}
