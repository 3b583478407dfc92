/** Where the values of a slot stand on a line of time: one row each, so that no two labels overlap. */

import { months, ticks, today, written } from "./dates.js";

/** Pixels that a date below the line takes at least. */
export const TICK = 84;
const LEAST = 24;
const MARGIN = 0.08;

/**
 * Return a bar for each value, and the dates below them.
 *
 * Where no date is known there are no dates below. Places are shares of the width, from 0 to 1. A bar whose
 * start (end) isn't known goes to the edge and is `open.start` (`open.end`).
 *
 * @param {object[]} values - {start, end}, dates or empty.
 * @param {string} at - the date that is asked for; empty for today.
 * @param {number} room - width in pixels.
 * @returns {{bars: object[], marks: object[], at: number}}
 */
export function layout(values, at, room) {
  const now = months(at) ?? months(today());
  const known = values
    .flatMap(({ start, end }) => [months(start), months(end)])
    .filter((date) => date !== null);
  let [from, until] = [Math.min(...known, now), Math.max(...known, now)];
  const widen = Math.max((until - from) * MARGIN, (LEAST - (until - from)) / 2);
  [from, until] = [from - widen, until + widen];
  const place = (date) => (date - from) / (until - from);
  const bars = values.map((value) => {
    const [start, end] = [months(value.start), months(value.end)];
    const x = start === null ? 0 : place(start);
    return {
      value,
      x,
      width: (end === null ? 1 : place(end)) - x,
      open: { start: start === null, end: end === null },
    };
  });
  const found = known.length ? ticks(from, until, Math.max(1, Math.floor(room / TICK))) : [];
  const plain = found.every((date) => date % 12 === 0);
  const marks = found.map((date) => ({ x: place(date), text: written(date, plain) }));
  return { bars, marks, at: place(now) };
}

/** Return a date that a value held on, to ask as of; empty where it holds now, or where none is known. */
export function dateIn({ start, end }) {
  const now = months(today());
  const [first, last] = [months(start), months(end)];
  if ((first === null || first <= now) && (last === null || last > now)) return "";
  if (start) return start;
  return last === null ? "" : written(Math.ceil(last) - 1, false);
}
