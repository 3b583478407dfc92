/**
 * Where entities and facts stand in a small graph, so that no two labels overlap.
 *
 * With room, heads stand in the middle, what they point to at their right, and what points to them at their
 * left; every entity beside them has a row of its own, and relations are written on the level end of its
 * edges, where no other edge goes. Without the room (on a phone) each head is followed by its rows, one below
 * the other.
 */

import { fitted } from "./dom.js";

export const ROW = 46;
export const BOX = 32;
export const SIZE = 14;
export const SMALL = 12;
const GAP = 14;
const INSET = 12;
const WIDEST = 190;
const WIDEST_RELATION = 150;
const BEND = 44;
const WIDEST_BEND = 96;
const STEM = 16;
const ARROW = 7;

/**
 * Return boxes for the entities, labels for the relations and edges for the facts.
 *
 * @param {object[]} facts - {head, relation, tail}, each {key, label}.
 * @param {string} focus - key of the entity that the graph is about.
 * @param {number} room - its width in pixels.
 * @param {(text: string, size: number) => number} width - of a text in pixels.
 * @returns {{boxes: object[], labels: object[], edges: object[], width: number, height: number}}
 */
export function layout(facts, focus, room, width) {
  const heads = headsOf(facts, focus);
  const groups = grouped(facts, heads, true);
  const bends = ["left", "right"].filter((side) => groups.some((group) => group[side].length)).length;
  const least = columns(groups, BEND, width).width;
  if (least > room) return tree(grouped(facts, heads, false), room, width);
  return columns(groups, Math.min(WIDEST_BEND, BEND + (room - least) / Math.max(1, bends)), width);
}

/** Return the entities in the middle: the focus, and heads of facts that have no end there yet. */
function headsOf(facts, focus) {
  const ends = facts.flatMap(({ head, tail }) => [head, tail]);
  const first = ends.find(({ key }) => key === focus) ?? ends[0];
  const found = new Map(first ? [[first.key, first]] : []);
  for (const { head, tail } of facts) if (!found.has(tail.key)) found.set(head.key, head);
  return found;
}

/**
 * Return each head with its rows; an entity that several heads point to has one row where they are `shared`.
 */
function grouped(facts, heads, shared) {
  const groups = new Map([...heads].map(([key, head]) => [key, { head, left: [], right: [] }]));
  const rows = new Map();
  for (const fact of facts) {
    const outward = heads.has(fact.head.key);
    const [middle, other, side] = outward ? [fact.head, fact.tail, "right"] : [fact.tail, fact.head, "left"];
    const name = JSON.stringify([side, other.key, shared || middle.key]);
    if (!rows.has(name)) {
      rows.set(name, { other, side, facts: [] });
      groups.get(middle.key)[side].push(rows.get(name));
    }
    rows.get(name).facts.push({ fact, middle: middle.key });
  }
  return [...groups.values()];
}

function columns(groups, gap, width) {
  const size = { middle: 0, left: 0, right: 0 };
  const flat = { left: 0, right: 0 };
  const most = (key, value, of = size) => (of[key] = Math.max(of[key], value));
  for (const group of groups) {
    most("middle", boxOf(group.head, WIDEST, width).width);
    for (const row of [...group.left, ...group.right]) {
      most(row.side, boxOf(row.other, WIDEST, width).width);
      most(row.side, width(named(row, width), SMALL) + 2 * INSET + ARROW, flat);
    }
  }
  const start = size.left && size.left + flat.left + gap;
  const end = start + size.middle;
  const right = end + gap + flat.right;
  const boxes = [];
  const labels = [];
  const places = new Map();
  let top = 0;
  for (const group of groups) {
    const height = Math.max(group.left.length, group.right.length, 1) * ROW;
    const box = { ...boxOf(group.head, WIDEST, width), x: start, y: top + (height - BOX) / 2, head: true };
    places.set(group.head.key, box);
    boxes.push(box);
    for (const side of ["left", "right"]) {
      group[side].forEach((row, index) => {
        const made = boxOf(row.other, WIDEST, width);
        const inset = (height - group[side].length * ROW + ROW - BOX) / 2;
        const x = side === "left" ? size.left - made.width : right;
        boxes.push((row.box = { ...made, x, y: top + inset + index * ROW }));
        const middle = side === "left" ? size.left + flat.left / 2 : right - flat.right / 2;
        labels.push({ text: named(row, width), x: middle, y: row.box.y + BOX / 2 - 6 });
      });
    }
    top += height + GAP;
  }
  const edges = groups
    .flatMap((group) => [...group.left, ...group.right])
    .flatMap((row) =>
      row.facts.map(({ fact, middle }) => {
        const from = places.get(middle);
        const [y, level] = [from.y + BOX / 2, row.box.y + BOX / 2];
        if (row.side === "right") {
          const curve = bend(end, y, end + gap, level);
          const path = `M${from.x + from.width} ${y}H${end}${curve}H${right - ARROW}`;
          return { fact, path, arrow: { x: right, y: level } };
        }
        const [out, flatEnd] = [size.left, size.left + flat.left];
        const path = `M${out} ${level}H${flatEnd}${bend(flatEnd, level, start - ARROW, y)}`;
        return { fact, path, arrow: { x: start, y } };
      }),
    );
  const total = groups.some((group) => group.right.length) ? right + size.right : end;
  return { boxes, labels, edges, width: total, height: Math.max(0, top - GAP) };
}

function tree(groups, room, width) {
  const boxes = [];
  const labels = [];
  const edges = [];
  let top = 0;
  for (const group of groups) {
    boxes.push({ ...boxOf(group.head, room, width), x: 0, y: top, head: true });
    const stem = top + BOX;
    top += ROW;
    for (const row of [...group.right, ...group.left]) {
      const text = named(row, width, room * 0.36);
      const left = STEM + width(text, SMALL) + 2 * INSET + 2 * ARROW;
      const level = top + BOX / 2;
      boxes.push({ ...boxOf(row.other, room - left, width), x: left, y: top });
      labels.push({ text, x: (STEM + left) / 2, y: level - 6 });
      for (const { fact } of row.facts) {
        const inward = row.side === "left";
        const across = inward ? `M${STEM + ARROW} ${level}H${left}` : `H${left - ARROW}`;
        const path = `M${STEM} ${stem}V${level}${across}`;
        edges.push({ fact, path, arrow: { x: inward ? STEM : left, y: level, back: inward } });
      }
      top += ROW;
    }
    top += GAP;
  }
  return { boxes, labels, edges, width: room, height: Math.max(0, top - GAP - ROW + BOX) };
}

function boxOf(entity, room, width) {
  const label = fitted(entity.label, room - 2 * INSET, (text) => width(text, SIZE));
  return { entity, label, width: Math.ceil(width(label, SIZE)) + 2 * INSET, height: BOX };
}

/** Return what is written on the edges of a row. */
function named(row, width, room = WIDEST_RELATION) {
  const names = new Set(row.facts.map(({ fact }) => fact.relation.label));
  return fitted([...names].join(" · "), room, (text) => width(text, SMALL));
}

function bend(x, y, toX, toY) {
  const middle = (x + toX) / 2;
  return `C${middle} ${y} ${middle} ${toY} ${toX} ${toY}`;
}
