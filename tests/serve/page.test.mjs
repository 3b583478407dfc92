// Logic of the page that needs no browser; test_page_modules.py runs it.

import assert from "node:assert/strict";
import { test } from "node:test";

const folder = new URL("../../pipeline/serve/web/", import.meta.url);
const load = (name) => import(new URL(name, folder));
const { ask, events, explained, Refused } = await load("api.js");
const { edit, undoing, writing } = await load("changes.js");
const { months, spoken, ticks, written } = await load("dates.js");
const { fitted } = await load("dom.js");
const { about, percent } = await load("facts.js");
const graph = await load("graph.js");
const timeline = await load("timeline.js");

const width = (text, size) => [...text].length * size * 0.55;
const entity = (label) => ({ key: `key of ${label}`, label });
const fact = (head, relation, tail, more = {}) => ({
  id: [head, relation, tail].join("|"),
  head: entity(head),
  relation: entity(relation),
  tail: entity(tail),
  start: "",
  end: "",
  source: "",
  ...more,
});

const GRAPHS = {
  "a star": [
    fact("France", "capital", "Paris"),
    fact("France", "currency", "euro"),
    fact("France", "continent", "Europe"),
  ],
  "a tail of two heads": [
    fact("France", "capital", "Paris"),
    fact("Eiffel Tower", "location", "Paris"),
    fact("France", "largest city", "Paris"),
  ],
  "a chain": [
    fact("Paris", "mayor", "Anne"),
    fact("France", "capital", "Paris"),
    fact("Europe", "part", "France"),
  ],
  "both ways": [fact("A", "is next to", "B"), fact("B", "is next to", "A"), fact("A", "is next to", "A")],
  "long names": [
    fact(
      "The United Kingdom of Great Britain and Northern Ireland",
      "highest judicial authority of",
      "Supreme Court",
    ),
    fact("The United Kingdom of Great Britain and Northern Ireland", "a", "b".repeat(300)),
    fact("日本国".repeat(40), "首都".repeat(40), "東京".repeat(40)),
  ],
  many: Array.from({ length: 12 }, (_, index) =>
    fact(`head ${index % 5}`, `relation ${index}`, `tail ${index % 7}`),
  ),
  nothing: [],
};

const overlap = (a, b) =>
  a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

for (const [name, facts] of Object.entries(GRAPHS)) {
  for (const room of [320, 640, 2000]) {
    test(`graph of ${name} at ${room}: no label on another, nothing cut off`, () => {
      const made = graph.layout(facts, facts[0]?.head.key, room, width);
      const labels = made.labels.map(({ text, x, y }) => {
        const wide = width(text, graph.SMALL);
        return { x: x - wide / 2, y: y - graph.SMALL, width: wide, height: graph.SMALL };
      });
      const places = [...made.boxes, ...labels];
      for (const [index, place] of places.entries()) {
        for (const other of places.slice(index + 1))
          assert.ok(!overlap(place, other), JSON.stringify([place, other]));
        assert.ok(
          place.x >= 0 &&
            place.y >= 0 &&
            place.x + place.width <= made.width &&
            place.y + place.height <= made.height,
        );
      }
      assert.ok(made.width <= room);
      const drawn = new Set(made.edges.map((edge) => edge.fact.id));
      assert.deepEqual(drawn, new Set(facts.map(({ id }) => id)));
      const shown = new Set(made.boxes.map((box) => box.entity.key));
      assert.deepEqual(shown, new Set(facts.flatMap(({ head, tail }) => [head.key, tail.key])));
      for (const { path, arrow } of made.edges)
        assert.ok(!/NaN|undefined/.test(`${path}${arrow.x}${arrow.y}`), path);
    });
  }
}

test("graph: what points to the focus stands at its left where there is room, below it on a phone", () => {
  const made = graph.layout(GRAPHS["a chain"], entity("Paris").key, 2000, width);
  const place = (found, label) => found.boxes.find((box) => box.entity.label === label);
  assert.ok(place(made, "France").x < place(made, "Paris").x);
  assert.ok(place(made, "Paris").x < place(made, "Anne").x);
  const narrow = graph.layout(GRAPHS["a chain"], entity("Paris").key, 320, width);
  assert.ok(place(narrow, "France").y > place(narrow, "Paris").y);
});

test("graph: an entity that two heads point to has one box where there is room", () => {
  const made = graph.layout(GRAPHS["a tail of two heads"], entity("France").key, 2000, width);
  assert.equal(made.boxes.filter((box) => box.entity.label === "Paris").length, 1);
  assert.ok(made.labels[0].text.startsWith("capital · location"), made.labels[0].text);
});

test("texts are shortened to their room, by whole letters", () => {
  assert.equal(
    fitted("Paris", 1000, (text) => width(text, 10)),
    "Paris",
  );
  const short = fitted("😀😀😀😀😀😀", 22, (text) => width(text, 10));
  assert.equal(short, "😀😀😀…");
});

test("timeline: bars go from start to end, and to the edge where one isn't known", () => {
  const values = [
    { start: "", end: "1960" },
    { start: "1960", end: "" },
    { start: "1980", end: "1990" },
  ];
  const { bars, marks, at } = timeline.layout(values, "1950", 600);
  assert.deepEqual(
    bars.map(({ open }) => [open.start, open.end]),
    [
      [true, false],
      [false, true],
      [false, false],
    ],
  );
  assert.equal(bars[0].x, 0);
  assert.ok(Math.abs(bars[0].width - bars[1].x) < 1e-9);
  assert.ok(Math.abs(bars[1].x + bars[1].width - 1) < 1e-9);
  assert.ok(at < bars[1].x && at > 0);
  assert.ok(marks.length >= 3);
});

for (const [from, until] of [
  ["1950", "2020"],
  ["-0500", "2020"],
  ["2026-11-30", "2026-12-01"],
  ["2020", "2020"],
]) {
  for (const room of [200, 400, 1000]) {
    test(`timeline from ${from} to ${until} at ${room}: dates don't touch`, () => {
      const { marks, bars } = timeline.layout([{ start: from, end: until }], from, room);
      const places = marks.map(({ x }) => x * room);
      for (const [index, place] of places.slice(1).entries())
        assert.ok(place - places[index] >= timeline.TICK - 1e-6);
      for (const { x, width: wide } of bars) assert.ok(x >= 0 && wide >= 0 && x + wide <= 1 + 1e-9);
      assert.equal(new Set(marks.map(({ text }) => text)).size, marks.length);
    });
  }
}

test("timeline: a value is asked for on a day that it held on", () => {
  assert.equal(timeline.dateIn({ start: "", end: "" }), "");
  assert.equal(timeline.dateIn({ start: "1960", end: "" }), "");
  assert.equal(timeline.dateIn({ start: "", end: "1960" }), "1959-12");
  assert.equal(timeline.dateIn({ start: "1822", end: "1960" }), "1822");
  assert.equal(timeline.dateIn({ start: "2999", end: "" }), "2999");
});

test("dates are read as the memory reads them", () => {
  assert.equal(months("1960"), 1960 * 12);
  assert.equal(months("1960-03"), 1960 * 12 + 2);
  assert.equal(months("-0500"), -500 * 12);
  for (const wrong of ["", "60", "1960-13", "1960-00", "1960-1", "1960-01-32", "soon"])
    assert.equal(months(wrong), null);
  assert.equal(written(months("1960")), "1960");
  assert.equal(written(months("1960"), false), "1960-01");
  assert.equal(written(months("-0500-07")), "-0500-07");
  assert.deepEqual(ticks(0, 24, 2), [0, 12, 24]);
  assert.deepEqual(
    ["", "a"].flatMap((start) => ["", "b"].map((end) => spoken(start, end))),
    ["", "until b", "since a", "a to b"],
  );
});

test("a percentage never rounds to all or nothing", () => {
  assert.deepEqual([0, 0.0001, 0.02, 0.5, 0.989, 0.996, 0.9997, 1].map(percent), [
    "0 %",
    "< 0.1 %",
    "2.0 %",
    "50 %",
    "99 %",
    "99.6 %",
    "> 99.9 %",
    "100 %",
  ]);
});

test("what is known about a fact is told", () => {
  const via = fact("France", "capital", "Paris", { text: "The capital of France is Paris." });
  assert.equal(about(fact("a", "b", "c")), "");
  const told = about(fact("a", "b", "c", { start: "1960", source: "gazette", via }));
  assert.equal(told, "since 1960 · source: gazette · by way of: The capital of France is Paris.");
});

test("another tail supersedes; what is forgotten is deleted and written anew", () => {
  const before = fact("Brazil", "capital", "Rio", { end: "1960", source: "atlas" });
  const values = { tail: "Rio", start: "", end: "1960", source: "atlas" };
  const [other, ...none] = edit(before, { ...values, tail: "Brasília" });
  assert.deepEqual(none, []);
  assert.deepEqual(
    [other.method, other.body.tail, other.body.head, other.body.replace],
    ["POST", "Brasília", "key of Brazil", true],
  );
  const [step, ...more] = edit(before, { ...values, start: "1763" });
  assert.deepEqual([step.body.tail, step.body.start, more], ["key of Rio", "1763", []]);
  const forgetting = edit(before, { ...values, source: "" });
  assert.deepEqual(
    forgetting.map(({ method }) => method),
    ["DELETE", "POST"],
  );
});

test("undoing leaves what was before, each value with its periods", () => {
  const former = fact("France", "capital", "Paris", { end: "1940" });
  const old = fact("France", "capital", "Paris", { start: "1944" });
  const [fresh, other] = ["Lyon", "Vichy"].map((tail) => fact("France", "capital", tail));
  const before = [former, other, old];
  const sent = (done) =>
    undoing(done, before).map(({ method, place, body }) =>
      body ? [method, body.tail, body.start, body.end] : [method, place],
    );
  const again = [
    ["POST", "key of Paris", "", "1940"],
    ["POST", "key of Paris", "1944", ""],
  ];
  assert.deepEqual(sent([{ written: fresh, superseded: [old] }]), [
    ["DELETE", `facts/${fresh.id}`],
    ["DELETE", `facts/${old.id}`],
    ...again,
  ]);
  assert.deepEqual(sent([{ deleted: old }]), again);
  assert.deepEqual(sent([{ deleted: old }, { written: old, superseded: [] }]), [
    ["DELETE", `facts/${old.id}`],
    ...again,
  ]);
  assert.deepEqual(sent([{ written: fresh, superseded: [] }]), [["DELETE", `facts/${fresh.id}`]]);
  assert.deepEqual(sent([]), []);
  assert.ok(undoing([{ deleted: old }], before).every(({ body }) => body.replace === false));
});

test("a stream is read however it is cut", async () => {
  const text =
    'data: {"n": 1}\n\n: comment\n\ndata: {"n": "é\\n"}\r\n\r\nevent: x\ndata: {"n":\ndata: 3}\n\ndata: [DONE]\n\ndata: {"n": 4}\n\n';
  for (let cut = 0; cut <= text.length; cut++) {
    async function* pieces() {
      yield text.slice(0, cut);
      yield text.slice(cut);
    }
    const found = [];
    for await (const { n } of events(pieces())) found.push(n);
    assert.deepEqual(found, [1, "é\n", 3], String(cut));
  }
});

test("asking yields texts and what they were read from, and says what was refused", async (context) => {
  const chunks = [
    { knowledge: { facts: [] }, choices: [{ delta: { role: "assistant", content: "" } }] },
    { choices: [{ delta: { content: "Par" } }] },
  ];
  const body = chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join("");
  let sent = null;
  context.mock.method(globalThis, "fetch", async (_, options) => {
    if (!options.body) return Response.json({ data: [{ id: "m" }] });
    sent = JSON.parse(options.body);
    return new Response(body);
  });
  const found = [];
  for await (const event of ask("Where?", { asOf: "1950" })) found.push(event);
  assert.deepEqual(found, [{ knowledge: { facts: [] } }, { text: "Par" }]);
  assert.deepEqual(
    [sent.stream, sent.model, sent.knowledge, sent.messages[0].content],
    [true, "m", { as_of: "1950" }, "Where?"],
  );
  const refusal = { error: { message: "queue full" } };
  fetch.mock.mockImplementation(
    async () => new Response(JSON.stringify(refusal), { status: 429, headers: { "Retry-After": "2" } }),
  );
  await assert.rejects(
    () => ask("Where?", { asOf: "" }).next(),
    (error) => explained(error) === "The server is busy. Try again in 2 s.",
  );
});

test("each refusal is explained", () => {
  const told = (status) => explained(new Refused(status, "Details.", null));
  for (const [status, text] of [
    [401, "token"],
    [409, "Try again"],
    [412, "Someone else"],
    [429, "busy"],
    [503, "shutting down"],
    [400, "Details."],
  ]) {
    assert.ok(told(status).includes(text), told(status));
  }
  assert.ok(explained(new TypeError("failed")).includes("can't be reached"));
});
