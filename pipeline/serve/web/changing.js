/** Changes facts: the forms, what a change did, and how it is taken back. */

import * as api from "./api.js";
import { deletion, edit, undoing, writing } from "./changes.js";
import { at, element } from "./dom.js";
import { form } from "./facts.js";
import { askForToken } from "./token.js";

let back = []; // the steps that take back the last change

/**
 * Return the form of a fact, filled with what it says now.
 *
 * @param {object} fact
 * @param {() => void} close - closes the form.
 * @param {boolean} current - whether to show what its slot holds instead, where it holds no longer.
 */
export async function editor(fact, close, current = false) {
  const slot = { head: fact.head.key, relation: fact.relation.key };
  let now = fact;
  let etag = null;
  try {
    const found = await api.read("facts", slot);
    etag = found.etag;
    const { facts } = found.body;
    now = facts.find(({ id }) => id === fact.id) ?? (current ? facts[0] : null);
    now ??= (await api.read(`facts/${fact.id}`)).body;
  } catch {
    now = fact; // it is gone: sending the form says so
  }
  const tail = {
    name: "tail",
    label: capital(now.relation.label),
    value: now.tail.label,
    complete: entities,
    className: "wide",
  };
  const made = form(
    [tail, ...times(now)],
    [
      { text: "Save", className: "main" },
      { text: "Cancel", press: close },
      { text: "Delete", className: "remove", press: () => run(made, [deletion(now)], now, etag) },
    ],
    (values) => run(made, edit(now, values), now, etag),
  );
  made.anew = () => editor(fact, close, true);
  return made;
}

/** Return the form of a new fact. */
export function newFact() {
  const name = (name, label) => ({ name, label, className: "third" });
  const made = form(
    [
      { ...name("head", "About"), complete: entities },
      name("relation", "Relation"),
      { ...name("tail", "Is"), complete: entities },
      ...times(),
    ],
    [{ text: "Write it", className: "main" }],
    (values) => run(made, [writing(values, true)], values, null),
  );
  return made;
}

function times({ start, end, source } = {}) {
  return [
    { name: "start", label: "Since", value: start, date: true, className: "half" },
    { name: "end", label: "Until", value: end, date: true, className: "half" },
    { name: "source", label: "Source", value: source, required: false, className: "third" },
  ];
}

/** Take the last change back. */
export async function undo() {
  const steps = back;
  try {
    for (const step of steps) await send(step);
    back = [];
    notice(["Taken back."]);
  } catch (error) {
    if (!(error instanceof api.Cancelled)) notice([api.explained(error)]);
  }
}

/**
 * Carry out the steps of a change of a fact's slot; tell what they did, and remember how it is taken back.
 */
async function run(shown, steps, fact, etag) {
  try {
    const before = await held(fact);
    const done = [];
    for (const step of steps) {
      try {
        done.push(await send(step, done.length ? null : etag));
      } catch (error) {
        for (const again of undoing(done, before)) await send(again);
        throw error;
      }
    }
    back = undoing(done, before);
    const took = `${done.reduce((sum, { milliseconds }) => sum + milliseconds, 0).toFixed(0)} ms`;
    const { written, superseded = [], notes = [] } = done.at(-1);
    const what = written ? `Written in ${took}: ${written.text}` : `Deleted in ${took}: ${fact.text}`;
    notice([what, ...superseded.map(({ text }) => `No longer: ${text}`), ...notes]);
  } catch (error) {
    if (error instanceof api.Cancelled) return;
    let form = shown;
    if (error.status === 412) shown.replaceWith((form = await shown.anew()));
    form.problem(api.explained(error));
  }
}

function send({ method, place, body }, etag = null) {
  return api.write(method, place, { body, etag, token: askForToken });
}

/** Show what a change did, and let one key ask again. */
function notice(lines) {
  at("notice-text").replaceChildren(...lines.map((line) => element("p", {}, line)));
  at("undo").hidden = !back.length;
  at("notice").hidden = false;
  at("told").textContent = lines.join(" ");
  for (const open of document.querySelectorAll(".facts form")) open.remove();
  for (const button of document.querySelectorAll(".fact")) button.setAttribute("aria-expanded", "false");
  at("note").textContent = "This was answered before the change.";
  at("again").focus();
}

/** Return what the slot of a fact has held so far, each value with its period; nothing where it is new. */
async function held({ id, head, relation }) {
  try {
    const { body } = id ? { body: { facts: [{ id }] } } : await api.read("facts", { head, relation });
    if (!body.facts.length) return [];
    return (await api.read(`facts/${body.facts[0].id}/history`)).body.values;
  } catch (error) {
    if (error instanceof api.Refused && error.status < 429) return []; // a name or a fact that isn't there
    throw error;
  }
}

async function entities(query) {
  const { body } = await api.read("entities", { query });
  const labels = body.entities.map(({ label }) => label);
  return body.entities.map(({ key, label }) => ({
    value: labels.indexOf(label) === labels.lastIndexOf(label) ? label : key,
    label: key === label ? "" : key,
  }));
}

function capital(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
