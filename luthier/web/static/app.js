// The page's frame: header, language, theme, the line to the server, and which page is shown.
//
// What goes in: the address's part behind `#`. What comes out: the page of that name, shown in `main`, with the
// keyboard at its heading. Each page is a module `pages/NAME.js` with `show(root, {path, query})`, which may return
// what to do when it is left.

import { unreachable } from "./lib/api.js";
import { h, clear, icon, problems } from "./lib/dom.js";
import { ready, t, language, setLanguage } from "./lib/i18n.js";
import { onState } from "./lib/overview.js";

const PAGES = {
  // first word of the route: module
  "": "home",
  new: "new",
  run: "run",
  compare: "compare",
  chat: "chat",
  export: "export",
};
const THEMES = ["system", "light", "dark"];
const THEME_KEY = "luthier.theme";

const main = document.getElementById("main");
let leave = null;
let turn = 0;
let waits = false;
// For the server, which could not be reached when the page was opened.
let stale = false;

// ------------------------------------------------------------------------------------------------ routes

function route() {
  const [before, after = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...path] = before.split("/").map(decoded);
  return { name, path: path.filter((each) => each !== ""), query: Object.fromEntries(new URLSearchParams(after)) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (!(error instanceof URIError)) throw error;
    return text;
  }
}

async function open(focus = true) {
  turn += 1;
  const mine = turn;
  waits = false;
  const { name, path, query } = route();
  const old = leave;
  leave = null;
  old?.();
  tellNavigation(name);
  const root = h("div", { class: `page page-${PAGES[name] ?? "none"}` });
  clear(main, root);
  let left = null;
  try {
    if (PAGES[name] === undefined) throw Object.assign(new Error(name), { problems: [unknownPage(name)] });
    const page = await load(PAGES[name]);
    if (mine !== turn) return;
    left = (await page.show(root, { path, query })) ?? null;
  } catch (error) {
    if (mine !== turn) return;
    showFault(root, error);
    waits = error.status === 0;
  }
  // Another page may have been asked for meanwhile.
  if (mine !== turn) return left?.();
  leave = left;
  const heading = root.querySelector("h1");
  document.title = heading && name ? `${heading.textContent} · Luthier` : "Luthier";
  if (!heading || !focus) return;
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

// A module that could not be fetched is not fetched again before the page is loaded anew.
async function load(name) {
  try {
    return await import(`./pages/${name}.js`);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    stale = true;
    throw unreachable();
  }
}

function unknownPage(name) {
  return { id: "web.page", where: "", field: "", value: name, rule: t("common.no_page"), remedy: "" };
}

function showFault(root, error) {
  const told = Array.isArray(error.problems)
    ? error.problems
    : [{ id: "web.page", where: "", field: "", value: "", rule: String(error), remedy: t("common.reload") }];
  clear(
    root,
    h("h1", {}, t("common.went_wrong")),
    problems(told),
    h(
      "div",
      { class: "actions" },
      h("button", { class: "button", type: "button", onclick: () => open() }, t("common.again")),
      h("a", { class: "button", href: "#/" }, t("common.page.home")),
    ),
  );
  if (!Array.isArray(error.problems)) console.error(error);
}

// ------------------------------------------------------------------------------------------------ header

const header = document.getElementById("header");

const skip = document.getElementById("skip");

// Its address would be taken for a route.
skip.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

function showHeader() {
  skip.textContent = t("common.skip");
  const link = (name, id) => h("a", { href: `#/${name}`, dataset: { page: name } }, t(id));
  clear(
    header,
    h(
      "a",
      { class: "brand", href: "#/", "aria-label": t("common.brand") },
      h("img", { src: "icon.svg", alt: "", width: 28, height: 28 }),
      h("span", {}, "Luthier"),
    ),
    h(
      "nav",
      { "aria-label": t("common.pages") },
      link("", "common.page.home"),
      link("new", "common.page.new"),
      link("compare", "common.page.compare"),
      link("chat", "common.page.chat"),
    ),
    h("div", { class: "header-tools" }, connection(), languageSwitch(), themeSwitch()),
  );
  tellNavigation(route().name);
}

function tellNavigation(name) {
  for (const each of header.querySelectorAll("nav a")) {
    if (each.dataset.page === name) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
}

const LINE_TEXTS = {
  open: () => t("common.line.open"),
  lost: () => t("common.line.lost"),
  refused: () => t("common.line.refused"),
};
let line = "lost";

function connection() {
  const box = h(
    "span",
    { class: "line", id: "line", role: "status" },
    h("span", { class: "dot", "aria-hidden": "true" }),
    h("span", { class: "line-text" }),
  );
  tellLine(box);
  return box;
}

function tellLine(box = document.getElementById("line")) {
  if (!box) return;
  box.dataset.state = line;
  box.querySelector(".line-text").textContent = LINE_TEXTS[line]();
  box.title = LINE_TEXTS[line]();
}

function languageSwitch() {
  const other = language() === "zh" ? "en" : "zh";
  const name = other === "zh" ? "中文" : "English";
  return h(
    "button",
    { type: "button", class: "button plain", id: "language", lang: other, onclick: () => setLanguage(other) },
    icon("language"),
    name,
  );
}

// ------------------------------------------------------------------------------------------------ theme

let theme = "system";

function keptTheme() {
  try {
    const kept = localStorage.getItem(THEME_KEY);
    return THEMES.includes(kept) ? kept : "system";
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    return "system";
  }
}

function setTheme(name) {
  theme = name;
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    localStorage.setItem(THEME_KEY, name);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
  }
  window.dispatchEvent(new Event("luthier:theme"));
}

const THEME_LOOKS = {
  system: ["system", () => t("common.theme.system")],
  light: ["sun", () => t("common.theme.light")],
  dark: ["moon", () => t("common.theme.dark")],
};

function themeSwitch() {
  const button = h("button", { type: "button", class: "button plain", id: "theme" });
  const tell = () => {
    const [picture, text] = THEME_LOOKS[theme];
    clear(button, icon(picture));
    button.setAttribute("aria-label", text());
    button.title = text();
  };
  button.addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
    tell();
  });
  tell();
  return button;
}

// ------------------------------------------------------------------------------------------------ start

setTheme(keptTheme());
await ready;
showHeader();
onState((state) => {
  line = state;
  tellLine();
  if (state === "open" && stale) location.reload();
  else if (state === "open" && waits) open();
});
window.addEventListener("hashchange", () => open());
window.addEventListener("luthier:language", () => {
  showHeader();
  open(false);
  document.getElementById("language").focus();
});
open(false);
