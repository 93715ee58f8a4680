// Making what is shown.
//
// What goes in: tags, attributes, texts. What comes out: nodes. Text always goes in as text nodes, so that what a
// file, a run's name or a model says can never be markup.

import { t } from "./i18n.js";

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = ["value", "checked", "disabled", "selected", "indeterminate", "open"];

// Attributes: `on...` are listeners, `class`, `dataset` {name: text}, `style` {property: text}; false, null and
// undefined leave one out, true sets it without a value.
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    else if (PROPERTIES.includes(name)) continue;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false) node.setAttribute(name, String(value));
  }
  add(node, children);
  // After the children: a select takes a value only once it has the option.
  for (const name of PROPERTIES)
    if (attributes?.[name] !== undefined && attributes[name] !== null) node[name] = attributes[name];
  return node;
}

function add(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) add(node, child);
    else node.append(child instanceof Node ? child : String(child));
  }
}

export function clear(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

// Fills a node anew; a keyboard that was inside stays inside, at the control of the same name, else at the first one.
export function refill(node, ...children) {
  const held = node.contains(document.activeElement) ? named(document.activeElement) : null;
  clear(node, ...children);
  if (held === null) return node;
  const controls = [...node.querySelectorAll("a, button, input, select")];
  (controls.find((each) => named(each) === held) ?? controls[0])?.focus();
  return node;
}

function named(control) {
  return control.getAttribute("aria-label") ?? (control.labels?.[0] ?? control).textContent;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

// Strokes in a square of 24.
const ICONS = {
  add: "M12 5v14M5 12h14",
  again: "M20 12a8 8 0 1 1-2.3-5.7M20 3v4h-4",
  back: "M19 12H5M11 6l-6 6 6 6",
  chart: "M4 4v16h16M8 15l4-5 3 3 5-7",
  chat: "M4 5h16v11H9l-5 4z",
  check: "M5 13l4 4L19 7",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  disk: "M4 6c0-1.7 3.6-3 8-3s8 1.3 8 3v12c0 1.7-3.6 3-8 3s-8-1.3-8-3zM4 6c0 1.7 3.6 3 8 3s8-1.3 8-3M4 12c0 1.7 3.6 3 8 3s8-1.3 8-3",
  down: "M6 9l6 6 6-6",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  export: "M12 15V4M7 8l5-5 5 5M5 13v7h14v-7",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  first: "M5 5h14M12 20V9M7 13l5-5 5 5",
  folder: "M3 6h7l2 2h9v11H3z",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 11v5M12 7.5v.5",
  language: "M4 6h9M8.5 4v2M11 6c-.6 3.4-3 6.4-6.4 8M6.5 9.5c1 2 2.6 3.6 4.6 4.5M13 20l4-10 4 10M14.3 17h5.4",
  longer: "M4 12h13M13 7l5 5-5 5M21 5v14",
  memory: "M7 7h10v10H7zM10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4",
  moon: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
  next: "M5 12h14M13 6l6 6-6 6",
  pencil: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  play: "M7 4l13 8-13 8z",
  settings: "M4 7h10M18 7h2M4 17h2M10 17h10M14 4.5v5M10 14.5v5",
  spark: "M12 3l1.9 5.6L19.5 10.5l-5.6 1.9L12 18l-1.9-5.6L4.5 10.5l5.6-1.9zM19 17v4M17 19h4",
  stop: "M6 6h12v12H6z",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 2v2M12 20v2M4.9 4.9l1.4 1.4M17.7 17.7l1.4 1.4M2 12h2M20 12h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4",
  system: "M3 5h18v11H3zM8 20h8M12 16v4",
  table: "M4 5h16v14H4zM4 10h16M4 14.5h16M10 5v14",
  thumb_down: "M7 13V4H4v9zM7 13l4 8c1.7 0 2.5-1 2.5-2.6V15H19c1.2 0 2-1 1.7-2.2l-1.5-7c-.2-1-1-1.8-2-1.8H7",
  thumb_up: "M7 11v9H4v-9zM7 11l4-8c1.7 0 2.5 1 2.5 2.6V9H19c1.2 0 2 1 1.7 2.2l-1.5 7c-.2 1-1 1.8-2 1.8H7",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  up: "M6 15l6-6 6 6",
  warn: "M12 4l9 16H3zM12 10v4M12 17v.5",
};

export function icon(name) {
  const node = svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" });
  node.append(svg("path", { d: ICONS[name] }));
  return node;
}

// What is wrong, each with its rule and remedy, as the command line says it.
export function problems(list) {
  return h("div", { class: "problems", role: "alert" }, (list ?? []).map(problem));
}

function problem(each) {
  const subject = each.field && each.value ? `${each.field} = ${each.value}` : each.field || each.value;
  const head = [each.where, subject].filter(Boolean).join(": ");
  return h(
    "div",
    { class: "problem", dataset: { id: each.id } },
    icon("warn"),
    h(
      "div",
      {},
      head ? h("code", { class: "problem-where" }, head) : null,
      h("p", {}, each.rule),
      each.remedy ? h("p", { class: "muted" }, each.remedy) : null,
    ),
  );
}

// A question that waits for its answer. actions: [{label, value, kind: primary|danger|undefined, icon}]. Resolves
// with the value of the action taken, or null where it was closed. body: a node; what it holds is read by the caller
// afterwards.
export function dialog({ title, body, actions }) {
  return new Promise((resolve) => {
    const back = document.activeElement;
    const id = unique("dialog");
    const buttons = actions.map((action) =>
      h(
        "button",
        { type: "button", class: `button ${action.kind ?? ""}`, onclick: () => close(action.value) },
        action.icon ? icon(action.icon) : null,
        action.label,
      ),
    );
    const box = h(
      "dialog",
      { class: "dialog", "aria-labelledby": id, oncancel: () => close(null) },
      h("h2", { id }, title),
      h("div", { class: "dialog-body" }, body),
      h("div", { class: "actions end" }, buttons),
    );
    let done = false;
    function close(value) {
      if (done) return;
      done = true;
      box.close();
      box.remove();
      if (back instanceof HTMLElement) back.focus();
      resolve(value);
    }
    document.body.append(box);
    box.showModal();
  });
}

// A short word about what happened; kind: info, good or bad.
export function toast(text, kind = "info") {
  const box = h(
    "div",
    { class: `toast ${kind}` },
    icon(kind === "good" ? "check" : kind === "bad" ? "warn" : "info"),
    h("span", {}, text),
  );
  box.append(
    h(
      "button",
      { type: "button", class: "button plain small", "aria-label": t("common.close"), onclick: () => box.remove() },
      icon("close"),
    ),
  );
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), kind === "bad" ? 12000 : 5000);
  return box;
}

// Holds a button back while something it asked for is under way; a refusal is told in a toast. Resolves with the
// outcome, or with undefined where it was refused.
export async function busy(button, promise) {
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    return await promise;
  } catch (error) {
    if (!Array.isArray(error.problems)) throw error;
    toast(said(error.problems), "bad");
    return undefined;
  } finally {
    button.removeAttribute("aria-busy");
    button.disabled = false;
  }
}

// Problems in one line of text.
export function said(list) {
  return list.map((each) => [each.rule, each.remedy].filter(Boolean).join(" ")).join(" ");
}

// An input with its label, its help and what is wrong with it.
export function field({ label, help, input, problem: fault }) {
  const target = input.matches("input, select, textarea, button")
    ? input
    : input.querySelector("input, select, textarea");
  target.id ||= unique("field");
  const described = [];
  const helper = help ? h("p", { class: "help", id: `${target.id}-help` }, help) : null;
  const wrong = fault ? h("div", { class: "field-problem", id: `${target.id}-problem` }, problem(fault)) : null;
  if (helper) described.push(helper.id);
  if (wrong) described.push(wrong.id);
  if (described.length) target.setAttribute("aria-describedby", described.join(" "));
  if (wrong) target.setAttribute("aria-invalid", "true");
  return h("div", { class: "field" }, h("label", { for: target.id }, label), input, helper, wrong);
}

// Draws a plain value where it is another than the one drawn last, so that what is open, chosen or under the keyboard
// stays.
export function whenNew(draw) {
  let drawn = null;
  return (value) => {
    const text = JSON.stringify(value);
    if (text === drawn) return;
    drawn = text;
    draw(value);
  };
}

let made = 0;
export function unique(prefix) {
  made += 1;
  return `${prefix}-${made}`;
}
