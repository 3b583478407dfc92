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
 * Another tail supersedes the fact. A bound or a source that is no longer known can only be forgotten by deleting
 * the fact and writing it anew, since writing keeps what isn't given.
 */
export function edit(fact, values) {
  const tail = values.tail === fact.tail.label ? fact.tail : values.tail;
  const step = writing({ ...fact, ...values, tail }, true);
  const forgets = tail === fact.tail && ["start", "end", "source"].some((name) => fact[name] && !values[name]);
  return forgets ? [deletion(fact), step] : [step];
}

/**
 * Return the steps that take a change back: what it wrote goes, what it changed comes again as it was.
 *
 * @param {object[]} written - facts that it wrote.
 * @param {object[]} before - facts as they were that it wrote over, superseded or deleted.
 * @param {Set<string>} gone - ids of those that it deleted.
 */
export function undoing(written, before, gone) {
  const held = new Map([...written, ...before].map((fact) => [fact.id, fact]));
  const there = [...held.values()].filter(({ id }) => !gone.has(id));
  return [...there.map(deletion), ...before.map((fact) => writing(fact, false))];
}
