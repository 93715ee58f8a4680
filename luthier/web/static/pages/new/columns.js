// Which column of a file is which, and who speaks in its turns: mended where the file's own names are not those that
// are read.
//
// What goes in: what the first rows of the file look like, and the formats that are known. What comes out: `format`,
// `columns` and `roles` of the file in the recipe.

import { h, refill, unique } from "../../lib/dom.js";
import { has, t } from "../../lib/i18n.js";
import { state } from "./state.js";

// source: of the recipe. peek: of the file, as `files/content` tells it. save({format, columns, roles}) writes.
export function columns(source, peek, save) {
  const draft = { format: source.format ?? "auto", columns: { ...source.columns }, roles: { ...source.roles } };
  let way = wayOf(draft);
  const place = h("div", { class: "stack" });
  const node = h("details", { class: "fold-small" }, h("summary", {}, t("new.columns")), place);
  const unheard = peek.speakers.filter((each) => each.role === null);
  node.open = peek.format === "" || unheard.length > 0;

  function write() {
    save({ format: draft.format, columns: { ...draft.columns }, roles: { ...draft.roles } });
  }

  function draw() {
    const format = formatOf(draft.format);
    refill(
      place,
      h("p", { class: "help" }, t("new.columns.help")),
      proposal(),
      layout(),
      format ? ways(format) : null,
      format ? mapping(format) : null,
      speakers(),
    );
  }

  // What the names most likely mean: shown, and taken with one button.
  function proposal() {
    const guessed = unheard.filter((each) => each.guess !== null && !(each.name in draft.roles));
    const named = peek.proposal !== null && Object.keys(draft.columns).length === 0 ? peek.proposal : null;
    if (!named && !guessed.length) return null;
    const lines = [
      ...Object.entries(named?.columns ?? {}).map(([name, column]) => `${name} ← ${column}`),
      ...guessed.map((each) => `${each.name} → ${each.guess}`),
    ];
    function take() {
      if (named) {
        draft.format = named.format;
        draft.columns = { ...named.columns };
        way = wayOf(draft);
      }
      for (const each of guessed) draft.roles[each.name] = each.guess;
      write();
      draw();
      node.querySelector("summary").focus();
    }
    return h(
      "div",
      { class: "notice" },
      h(
        "div",
        { class: "stack" },
        h("p", {}, t("new.columns.proposed")),
        h(
          "ul",
          { class: "plain-list" },
          lines.map((line) => h("li", {}, h("code", { dir: "auto" }, line))),
        ),
        h(
          "div",
          { class: "actions" },
          h("button", { type: "button", class: "button primary", onclick: take }, t("new.columns.take")),
        ),
      ),
    );
  }

  function layout() {
    const id = unique("format");
    const known = state.formats.formats.map((each) => each.name);
    const names = [
      "auto",
      ...known,
      ...(draft.format === "auto" || known.includes(draft.format) ? [] : [draft.format]),
    ];
    const input = h(
      "select",
      { id, value: draft.format, onchange: choose },
      names.map((name) => h("option", { value: name }, formatName(name))),
    );
    function choose() {
      draft.format = input.value;
      draft.columns = {};
      way = 0;
      write();
      draw();
    }
    return h("div", { class: "field" }, h("label", { for: id }, t("new.columns.format")), input);
  }

  // A format may read rows under several sets of names.
  function ways(format) {
    if (format.required.length < 2) return null;
    const id = unique("way");
    const input = h(
      "select",
      { id, value: String(way), onchange: choose },
      format.required.map((keys, at) => h("option", { value: at }, keys.join(" + "))),
    );
    function choose() {
      way = Number(input.value);
      draft.columns = {};
      write();
      draw();
    }
    return h("div", { class: "field" }, h("label", { for: id }, t("new.columns.way")), input);
  }

  function mapping(format) {
    const needed = format.required[way] ?? format.required[0];
    return h(
      "div",
      { class: "mapping" },
      needed.map((name) => pick(name, true)),
      format.optional.map((name) => pick(name, false)),
    );
  }

  function pick(name, needed) {
    const id = unique("column");
    const fields = peek.fields.map((each) => each.name);
    const now = draft.columns[name] ?? (fields.includes(name) ? name : "");
    const options = [h("option", { value: "" }, t(needed ? "new.columns.choose" : "new.columns.none"))];
    for (const each of peek.fields)
      options.push(
        h(
          "option",
          { value: each.name },
          each.values[0] ? t("new.columns.like", { name: each.name, value: each.values[0].slice(0, 40) }) : each.name,
        ),
      );
    if (now && !fields.includes(now)) options.push(h("option", { value: now }, now));
    const input = h(
      "select",
      { id, value: now, "aria-invalid": needed && !now ? "true" : null, onchange: choose },
      options,
    );
    function choose() {
      if (!input.value || input.value === name) delete draft.columns[name];
      else draft.columns[name] = input.value;
      if (input.value) input.removeAttribute("aria-invalid");
      write();
    }
    return h(
      "div",
      { class: "field" },
      h(
        "label",
        { for: id },
        h("code", {}, name),
        " ",
        h("span", { class: "muted small" }, t(needed ? "new.columns.needed" : "new.columns.optional")),
      ),
      input,
    );
  }

  function speakers() {
    if (!peek.speakers.length) return null;
    return h(
      "div",
      { class: "stack" },
      h("h3", {}, t("new.roles")),
      h("div", { class: "mapping" }, peek.speakers.map(speaker)),
    );
  }

  function speaker(each) {
    const id = unique("role");
    const now = draft.roles[each.name] ?? each.role ?? "";
    const input = h("select", { id, value: now, "aria-invalid": now ? null : "true", onchange: choose }, [
      now ? null : h("option", { value: "" }, t("new.roles.choose")),
      state.formats.roles.map((role) => h("option", { value: role }, role)),
    ]);
    function choose() {
      draft.roles[each.name] = input.value;
      input.removeAttribute("aria-invalid");
      write();
    }
    return h(
      "div",
      { class: "field" },
      h(
        "label",
        { for: id },
        h("code", { dir: "auto" }, each.name),
        " ",
        h("span", { class: "muted small" }, t("new.roles.is")),
      ),
      input,
    );
  }

  draw();
  return node;
}

export function formatName(name) {
  return has(`new.format.${name}`) ? t(`new.format.${name}`) : name;
}

function formatOf(name) {
  return state.formats.formats.find((each) => each.name === name);
}

// Which of a format's sets of names a mapping is of.
function wayOf(draft) {
  const given = Object.keys(draft.columns);
  return Math.max(
    formatOf(draft.format)?.required.findIndex(
      (keys) => given.length > 0 && given.every((name) => keys.includes(name)),
    ) ?? 0,
    0,
  );
}
