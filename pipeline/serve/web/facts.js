/** Facts as rows to press: each opens into what it says, to be changed or deleted. */

import { PATTERN, spoken } from "./dates.js";
import { element } from "./dom.js";

/** Return a share as a percentage that never rounds to all or nothing. */
export function percent(share) {
  if (share === 0 || share === 1) return `${100 * share} %`;
  if (share >= 0.9995) return "> 99.9 %";
  if (share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(share >= 0.1 && share < 0.99 ? 0 : 1)} %`;
}

/** Return a bar that is filled to a share. */
export function bar(share) {
  const filled = element("span");
  filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return element("div", { className: "bar", "aria-hidden": "true" }, filled);
}

/** Return what is known about a fact: when it holds, who says so, which fact led to it. */
export function about(fact) {
  const parts = [
    spoken(fact.start, fact.end),
    fact.source && `source: ${fact.source}`,
    fact.via && `by way of: ${fact.via.text}`,
  ];
  return parts.filter(Boolean).join(" · ");
}

/**
 * Return a row for a fact; pressing it opens the editor that `open` makes below it, pressing it again closes
 * it.
 *
 * @param {object} fact - with a `weight` where an answer was read from it.
 * @param {(fact: object, close: () => void) => Promise<HTMLElement>} open
 */
export function row(fact, open) {
  const known = about(fact);
  const button = element(
    "button",
    { type: "button", className: "fact", "aria-expanded": "false", "data-fact": fact.id },
    element("span", { dir: "auto" }, fact.text),
    fact.weight === undefined
      ? null
      : element(
          "span",
          { className: "weight" },
          element("span", { className: "hidden" }, "weight "),
          percent(fact.weight),
        ),
    fact.weight === undefined ? null : bar(fact.weight),
    known ? element("span", { className: "about" }, known) : null,
  );
  const item = element("li", {}, button);
  const close = () => {
    item.querySelector("form")?.remove();
    button.setAttribute("aria-expanded", "false");
    button.focus();
  };
  item.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && item.querySelector("form")) close();
  });
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-expanded") === "true") return close();
    button.setAttribute("aria-expanded", "true");
    const opened = await open(fact, close);
    item.append(opened);
    const first = opened.querySelector("input");
    first.focus();
    first.select();
  });
  return item;
}

/**
 * Return a form for a fact.
 *
 * @param {object[]} fields - {name, label, value, date?, complete?, className}; `complete` gives, for what
 *   was typed, the {value, label} that may be meant.
 * @param {object[]} buttons - {text, className?, press?}; one without `press` submits.
 * @param {(values: object) => Promise<void>} submit - gets what was filled in.
 */
export function form(fields, buttons, submit) {
  const problem = element("p", { className: "problem", role: "alert", hidden: true });
  const made = element(
    "form",
    { className: "editor", noValidate: true },
    ...fields.map(fieldOf),
    problem,
    element(
      "div",
      { className: "actions" },
      ...buttons.map(({ text, className = "", press }) =>
        element(
          "button",
          { type: press ? "button" : "submit", className, onclick: press ?? (() => {}) },
          text,
        ),
      ),
    ),
  );
  made.problem = (text) => {
    problem.textContent = text;
    problem.hidden = !text;
  };
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    const inputs = [...made.querySelectorAll("input")];
    const wrong = inputs.filter((input) => !valid(input));
    for (const input of inputs) input.setAttribute("aria-invalid", String(wrong.includes(input)));
    if (wrong.length) {
      made.problem(
        wrong[0].dataset.date ? "Write a date as 2020, 2020-05 or 2020-05-17." : "This can't be empty.",
      );
      wrong[0].focus();
      return;
    }
    made.problem("");
    await submit(Object.fromEntries(inputs.map((input) => [input.name, input.value.trim()])));
  });
  return made;
}

let count = 0;

function fieldOf({ name, label, value = "", date = false, complete, className, required = !date }) {
  const id = `field-${++count}`;
  const input = element("input", {
    id,
    name,
    value,
    autocomplete: "off",
    maxLength: 300,
    spellcheck: false,
    required,
  });
  if (date)
    Object.assign(input, { pattern: PATTERN, placeholder: "unknown", maxLength: 11 }).dataset.date = "true";
  const list = complete ? element("datalist", { id: `${id}-list` }) : null;
  if (list) {
    input.setAttribute("list", list.id);
    input.addEventListener(
      "input",
      later(async () => {
        const found = input.value.trim() ? await complete(input.value.trim()) : [];
        list.replaceChildren(...found.map(({ value, label }) => element("option", { value, label })));
      }),
    );
  }
  return element("div", { className }, element("label", { for: id }, label), input, ...(list ? [list] : []));
}

function valid(input) {
  const { value, required } = input;
  return (value.trim() !== "" || !required) && !input.validity.patternMismatch;
}

/** Return a function that calls another once nothing has called it for a moment. */
function later(call, milliseconds = 150) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(() => call().catch(() => {}), milliseconds);
  };
}
