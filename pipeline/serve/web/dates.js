/** Dates of any precision ("2020", "2020-05", "2020-05-17"), as the memory reads them. */

const DATE = /^(-?\d{4})(?:-(\d{2})(?:-(\d{2}))?)?$/;
/** What a date is written as, for the `pattern` of an input. */
export const PATTERN = "-?[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?";
const STEPS = [1, 3, 6, 12, 24, 60, 120, 240, 600, 1200, 2400, 6000, 12000, 24000];

/** Return the first day of a date in months since the year 0, or null where it is no date. */
export function months(text) {
  const found = DATE.exec(text);
  if (!found) return null;
  const [year, month, day] = found.slice(1).map((part) => (part === undefined ? 1 : Number(part)));
  if (month < 1 || month > 12 || day < 1 || day > 31) return null;
  return year * 12 + month - 1 + (day - 1) / 31;
}

/** Return the date of a whole number of months: a year where it is a January's and `plain`, else a month. */
export function written(number, plain = true) {
  const year = Math.floor(number / 12);
  const month = number - 12 * year + 1;
  const digits = String(Math.abs(year)).padStart(4, "0");
  const named = year < 0 ? `-${digits}` : digits;
  return plain && month === 1 ? named : `${named}-${String(month).padStart(2, "0")}`;
}

/** Return whole numbers of months between two, at round dates, at most `most` of them. */
export function ticks(from, until, most) {
  const step = STEPS.find((months) => (until - from) / months <= most) ?? STEPS.at(-1);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= until; at += step) found.push(at);
  return found;
}

/** Return when a fact holds, in words; empty where nothing is known of it. */
export function spoken(start, end) {
  if (start && end) return `${start} to ${end}`;
  if (start) return `since ${start}`;
  return end ? `until ${end}` : "";
}

/** Return today by the clock. */
export function today() {
  const now = new Date();
  return [now.getFullYear(), now.getMonth() + 1, now.getDate()]
    .map((part) => String(part).padStart(2, "0"))
    .join("-");
}
