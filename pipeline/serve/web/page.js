/** The page: ask, see what the answer was read from, change it, ask again. */

import { begin, conclude, say, show } from "./answer.js";
import * as api from "./api.js";
import { around, drawAgain } from "./around.js";
import { editor, newFact, undo } from "./changing.js";
import { months } from "./dates.js";
import { at, element } from "./dom.js";

const EVERY = 5000;
const EXAMPLES = 3;
const AMONG = 50;
let asking = null; // aborts the question under way

async function ask(question) {
  const asOf = at("as-of").value.trim();
  asking?.abort();
  problem("");
  if (!question) return problem("Ask something first.", at("question"));
  if (asOf && months(asOf) === null)
    return problem("Write the date as 2020, 2020-05 or 2020-05-17.", at("as-of"));
  const own = (asking = new AbortController());
  at("send").textContent = "Stop";
  begin(question, asOf);
  let [text, read] = ["", null];
  try {
    for await (const { knowledge, text: more } of api.ask(question, { asOf, signal: own.signal })) {
      if (more) say((text += more));
      if (!knowledge) continue;
      show(knowledge, editor);
      if (!read) around(knowledge, asOf, askAsOf);
      read = knowledge;
    }
    at("told").textContent = `${text} ${conclude(read, asOf)}`;
    state();
  } catch (error) {
    if (asking !== own) return;
    at("answer").setAttribute("aria-busy", "false");
    at("result").hidden = !read;
    if (error.name !== "AbortError") problem(api.explained(error));
  } finally {
    if (asking === own) {
      asking = null;
      at("send").textContent = "Ask";
    }
  }
}

/** Ask as of a date that was pressed; the focus goes to the answer, as what was pressed is drawn anew. */
function askAsOf(date) {
  at("as-of").value = date;
  at("answer").focus();
  ask(at("question").value.trim());
}

function problem(text, place = null) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
  for (const input of [at("question"), at("as-of")])
    input.setAttribute("aria-invalid", String(input === place));
  place?.focus();
}

/** Show what the server holds and does. */
async function state() {
  if (document.hidden) return;
  try {
    const { body } = await api.read("status");
    const shown = {
      facts: body.facts.toLocaleString("en"),
      memory: `${Math.round(body.resident_bytes / 2 ** 20).toLocaleString("en")} MB`,
      changes: body.version.toLocaleString("en"),
      "questions under way": body.running,
      waiting: body.waiting,
    };
    at("status").replaceChildren(
      ...Object.entries(shown).map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, String(value))),
      ),
    );
  } catch {
    at("status").replaceChildren(element("div", {}, element("dd", {}, "The server can't be reached.")));
  }
}

/** Offer questions that the memory can answer. */
async function examples() {
  const { body } = await api.read("facts", { limit: AMONG });
  const chosen = [];
  const others = (fact) =>
    chosen.every(({ head, relation }) => head.key !== fact.head.key && relation.key !== fact.relation.key);
  for (const fact of body.facts) if (chosen.length < EXAMPLES && others(fact)) chosen.push(fact);
  for (const { head, relation } of chosen) {
    const question = `What is the ${relation.label} of ${head.label}?`;
    const press = () => {
      at("question").value = question;
      ask(question);
    };
    at("examples").append(element("button", { type: "button", onclick: press }, question));
  }
  at("examples").hidden = !body.facts.length;
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (asking && document.activeElement === at("send")) asking.abort();
  else ask(at("question").value.trim());
});
at("again").addEventListener("click", () => ask(at("question").value.trim()));
at("undo").addEventListener("click", undo);
at("new-form").append(newFact());
let width = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width !== width) drawAgain();
  width = contentRect.width;
}).observe(at("graph"));
document.addEventListener("visibilitychange", state);
setInterval(state, EVERY);
state();
examples().catch(() => {});
