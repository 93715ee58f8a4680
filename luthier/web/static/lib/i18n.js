// Texts of the page in the person's language.
//
// What goes in: an id and the values of its placeholders, `{name}`. What comes out: the text; the id itself where there
// is none. The language is the one chosen before, else the browser's.

const LANGUAGES = ["en", "zh"];
const KEY = "luthier.language";

let chosen = initial();
let texts = {};

function initial() {
  const kept = stored();
  if (LANGUAGES.includes(kept)) return kept;
  const wanted = (navigator.languages ?? [navigator.language ?? "en"]).map((name) => name.slice(0, 2).toLowerCase());
  return wanted.find((name) => LANGUAGES.includes(name)) ?? "en";
}

// Browsers that keep nothing for a page throw here; the choice then lasts as long as the page.
function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    return null;
  }
}

async function load(name) {
  const response = await fetch(`i18n/${name}.json`);
  if (!response.ok) throw new Error(`i18n/${name}.json: ${response.status}`);
  texts = await response.json();
  chosen = name;
  document.documentElement.lang = name === "zh" ? "zh-CN" : "en";
}

export const ready = load(chosen);

export function language() {
  return chosen;
}

export async function setLanguage(name) {
  await load(name);
  try {
    localStorage.setItem(KEY, name);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
  }
  window.dispatchEvent(new Event("luthier:language"));
}

export function t(id, values = {}) {
  const text = texts[id];
  if (text === undefined) return id;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

// Whether there is a text: for ids made of what the server says, which may be newer than this page.
export function has(id) {
  return texts[id] !== undefined;
}
