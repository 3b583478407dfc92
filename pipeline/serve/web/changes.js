/** What has to be sent so that a fact says something else, and what takes it back. */

/** Return the step that deletes a fact. */
export function deletion(fact) {
  return { method: "DELETE", place: `facts/${fact.id}` };
}

/** Return the step that writes a fact; it supersedes the others of its slot if `replace`. */
export function writing({ head, relation, tail, start = "", end = "", source = "" }, replace) {
  const named = (part) => part.key ?? part;
  return {
    method: "POST",
    place: "facts",
    body: { head: named(head), relation: named(relation), tail: named(tail), start, end, source, replace },
  };
}

/**
 * Return the steps that let a fact say what was filled in: {tail, start, end, source}.
 *
 * Another tail supersedes the fact. A bound or a source that is no longer known can only be forgotten by
 * deleting the fact and writing it anew, since writing keeps what isn't given.
 */
export function edit(fact, values) {
  const tail = values.tail === fact.tail.label ? fact.tail : values.tail;
  const step = writing({ ...fact, ...values, tail }, true);
  const forgets =
    tail === fact.tail && ["start", "end", "source"].some((name) => fact[name] && !values[name]);
  return forgets ? [deletion(fact), step] : [step];
}

/**
 * Return the steps that take changes back: what they wrote goes, what they touched comes again as it was.
 *
 * @param {object[]} done - what the server said to each change: {written, superseded} or {deleted}.
 * @param {object[]} before - what the slot held before, each value with one of its periods.
 */
export function undoing(done, before) {
  const there = new Map();
  const touched = new Set();
  for (const { written, superseded = [], deleted } of done) {
    for (const fact of [written, deleted, ...superseded].filter(Boolean)) {
      touched.add(fact.id);
      there.set(fact.id, fact);
    }
    if (deleted) there.delete(deleted.id);
  }
  const former = before.filter(({ id }) => touched.has(id));
  return [...[...there.values()].map(deletion), ...former.map((value) => writing(value, false))];
}
