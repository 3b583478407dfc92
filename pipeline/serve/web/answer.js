/** Shows an answer while it comes: its words, the facts that it was read from, what it took. */

import { at, element } from "./dom.js";
import { bar, percent, row } from "./facts.js";

const UNSURE = 0.5;
const LONG = 60;
const TIMES = { waiting: "waiting", finding: "finding", first_token: "first token", total: "total" };

let listed = ""; // the facts that are shown

/** Make place for the answer to a question. */
export function begin(question, asOf) {
  at("result").hidden = false;
  at("answer").setAttribute("aria-busy", "true");
  at("answer").classList.remove("refused", "doubtful");
  at("asked").textContent = asOf ? `${question} (as of ${asOf})` : question;
  for (const id of ["text", "note"]) at(id).textContent = "";
  for (const id of ["timing", "read", "none"]) at(id).replaceChildren();
  listed = "";
}

/** Show the words that have come so far. */
export function say(text) {
  at("text").textContent = text;
  at("text").classList.toggle("long", text.length > LONG);
}

/**
 * Show what an answer is read from.
 *
 * @param {object} knowledge - as the server's extension field has it.
 * @param {(fact: object, close: () => void) => Promise<HTMLElement>} editor - makes the form of a fact.
 */
export function show({ facts, refusal, refused, milliseconds }, editor) {
  at("answer").classList.toggle("refused", refused);
  at("read-title").textContent = refused ? "Facts it looked at" : "Facts it read";
  if (JSON.stringify(facts) !== listed) at("read").replaceChildren(...facts.map((fact) => row(fact, editor)));
  listed = JSON.stringify(facts);
  const weight = element("span", { className: "weight" }, percent(refusal));
  const none = facts.length ? "Probability that no fact answers" : "No fact was found";
  at("none").replaceChildren(element("span", {}, none), weight, bar(refusal));
  const known = Object.entries(TIMES).filter(([key]) => typeof milliseconds?.[key] === "number");
  at("timing").replaceChildren(
    ...known.map(([key, name]) => {
      const told = `${shortly(milliseconds[key])} ms`;
      return element("div", {}, element("dt", {}, name), element("dd", {}, told));
    }),
  );
}

/** Say in a sentence what an answer rests on; return the sentence. */
export function conclude({ refused, refusal, facts }, asOf) {
  at("answer").setAttribute("aria-busy", "false");
  const read = `${facts.length} ${facts.length === 1 ? "fact" : "facts"}`;
  let note = `Read from ${read}.`;
  if (refused) note = `No fact in memory answers this${asOf ? ` as of ${asOf}` : ""}, so it doesn't guess.`;
  else if (refusal >= UNSURE) note = `Doubtful: most likely no fact answers this. Read from ${read}.`;
  at("note").textContent = note;
  at("answer").classList.toggle("doubtful", !refused && refusal >= UNSURE);
  return note;
}

function shortly(number) {
  return number >= 100 ? Math.round(number).toLocaleString("en") : number.toFixed(1);
}
