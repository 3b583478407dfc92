/** Makes elements; whatever a fact or an answer says gets into the page as text, here and nowhere else. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return an HTML element.
 *
 * @param {string} name - its tag.
 * @param {object} properties - of the element; attributes go by "aria-…", "data-…", "role", "for" and "list",
 *   listeners by "on…" with a function.
 * @param {...(Node|string|null)} children - strings become text.
 */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (/^(aria-|data-|role$|for$|list$)/.test(key)) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Return an SVG element with attributes; strings among the children become text. */
export function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

let canvas = null;

/** Return the width of a text in pixels, in the font of a place of the page. */
export function widthOf(place) {
  canvas ??= document.createElement("canvas").getContext("2d");
  const { fontFamily, fontWeight } = getComputedStyle(place);
  return (text, size) => {
    canvas.font = `${fontWeight} ${size}px ${fontFamily}`;
    return canvas.measureText(text).width;
  };
}

/** Return a text that is at most `room` wide, shortened by an ellipsis where it has to be. */
export function fitted(text, room, width) {
  const letters = [...text];
  if (width(text) <= room) return text;
  let few = 0;
  let many = letters.length;
  while (many - few > 1) {
    const middle = (few + many) >> 1;
    if (width(`${letters.slice(0, middle).join("")}…`) <= room) few = middle;
    else many = middle;
  }
  return `${letters.slice(0, few).join("").trimEnd()}…`;
}

/** Return the element of the page with an id. */
export function at(id) {
  return document.getElementById(id);
}
