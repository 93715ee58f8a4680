// Which column of a file is which, and who speaks in its turns: mended where the file's own names are not those that are
// read.
//
// What goes in: the names of the file's columns, what the check says, the formats that are known. What comes out:
// `format`, `columns` and `roles` of the file in the recipe.

import { clear, h, unique } from "../../lib/dom.js";
import { has, t } from "../../lib/i18n.js";
import { sources, state } from "./state.js";

const ASKING = ["data.format_unknown", "data.column_absent", "data.column_target", "data.role_target", "data.role_unknown"];
// Problems that are mended here.

// index: of the file in data.train. names: its columns. found: the report, or null. save(index, {format, columns, roles})
// writes.
export function columns(index, names, found, save) {
  const source = sources()[index];
  const asked = (found?.findings ?? []).filter((each) => ASKING.includes(each.id) && (each.where ?? "").startsWith(source.path));
  const place = h("div", { class: "stack" });
  const node = h("details", { class: "fold-small", dataset: { field: `data.train.${index}.columns` } }, h("summary", {}, t("new.columns")), place);
  node.open = asked.length > 0 || hasNames(source);
  const draft = { format: source.format ?? "auto", columns: { ...source.columns }, roles: { ...source.roles }, way: 0 };
  draft.way = wayOf(draft);

  function write() {
    save(index, { format: draft.format, columns: { ...draft.columns }, roles: { ...draft.roles } });
  }

  function draw() {
    const format = state.formats.formats.find((each) => each.name === draft.format);
    clear(place, h("p", { class: "help" }, t("new.columns.help")), proposal(asked), chooser(), format ? ways(format) : null, format ? names_(format) : null, roles());
  }

  // The remedy has the line of the recipe already: it is taken with one button.
  function proposal(list) {
    const made = list.map((each) => proposed(each.remedy, names)).find((each) => each !== null);
    if (!made) return null;
    const text = Object.entries(made.columns).map(([name, column]) => `${name} ← ${column}`);
    return h(
      "div",
      { class: "notice" },
      h(
        "div",
        { class: "stack" },
        h("p", {}, t("new.columns.proposed")),
        h("p", {}, h("code", { dir: "auto" }, [made.format ?? "", text.join(", ")].filter(Boolean).join(": "))),
        h("div", { class: "actions" }, h("button", { type: "button", class: "button primary", onclick: () => take(made) }, t("new.columns.take"))),
      ),
    );
  }

  function take(made) {
    draft.format = made.format ?? draft.format;
    draft.columns = made.columns;
    draft.way = wayOf(draft);
    write();
    draw();
  }

  function chooser() {
    const id = unique("format");
    const input = h("select", { id, value: draft.format, onchange: () => ((draft.format = input.value), (draft.columns = {}), (draft.way = 0), write(), draw()) }, [
      h("option", { value: "auto" }, t("new.format.auto")),
      state.formats.formats.map((each) => h("option", { value: each.name }, has(`new.format.${each.name}`) ? t(`new.format.${each.name}`) : each.name)),
      draft.format !== "auto" && !state.formats.formats.some((each) => each.name === draft.format) ? h("option", { value: draft.format }, draft.format) : null,
    ]);
    input.value = draft.format;
    return h("div", { class: "field" }, h("label", { for: id }, t("new.columns.format")), input);
  }

  // A format may read rows under several sets of names.
  function ways(format) {
    if (format.required.length < 2) return null;
    const id = unique("way");
    const input = h("select", { id, onchange: () => ((draft.way = Number(input.value)), (draft.columns = {}), write(), draw()) }, format.required.map((keys, at) => h("option", { value: at }, keys.join(" + "))));
    input.value = draft.way;
    return h("div", { class: "field" }, h("label", { for: id }, t("new.columns.way")), input);
  }

  function names_(format) {
    const needed = format.required[draft.way] ?? format.required[0];
    return h("div", { class: "mapping" }, needed.map((name) => pick(name, true)), format.optional.map((name) => pick(name, false)));
  }

  function pick(name, needed) {
    const id = unique("column");
    const now = draft.columns[name] ?? (names.includes(name) ? name : "");
    const options = [h("option", { value: "" }, t(needed ? "new.columns.choose" : "new.columns.none")), names.map((each) => h("option", { value: each }, each))];
    if (now && !names.includes(now)) options.push(h("option", { value: now }, now));
    const input = h("select", { id, "aria-invalid": needed && !now ? "true" : null, onchange: choose }, options);
    input.value = now;
    function choose() {
      if (!input.value || input.value === name) delete draft.columns[name];
      else draft.columns[name] = input.value;
      write();
      if (input.value) input.removeAttribute("aria-invalid");
    }
    return h("div", { class: "field" }, h("label", { for: id }, h("code", {}, name), " ", h("span", { class: "muted small" }, t(needed ? "new.columns.needed" : "new.columns.optional"))), input);
  }

  function roles() {
    const given = Object.entries(draft.roles);
    const line = ([name, role]) => {
      const nameId = unique("role");
      const roleId = unique("role");
      const input = h("input", { id: nameId, type: "text", value: name, dir: "auto", autocomplete: "off", onchange: renamed });
      const choice = h("select", { id: roleId, onchange: () => ((draft.roles[input.value] = choice.value), write()) }, state.formats.roles.map((each) => h("option", { value: each }, each)));
      choice.value = role;
      function renamed() {
        delete draft.roles[name];
        if (input.value.trim()) draft.roles[input.value.trim()] = choice.value;
        write();
        draw();
      }
      const away = h("button", { type: "button", class: "button plain small", onclick: () => (delete draft.roles[name], write(), draw()) }, t("new.remove"));
      return h("div", { class: "row role-row" }, h("label", { for: nameId }, t("new.roles.name")), input, h("label", { for: roleId }, t("new.roles.is")), choice, away);
    };
    const add = h("button", { type: "button", class: "button small", onclick: () => (place.append(line(["", state.formats.roles[0]])), place.lastChild.querySelector("input").focus(), place.append(add.parentNode)) }, t("new.roles.add"));
    return h("div", { class: "stack" }, given.length ? h("h4", {}, t("new.roles")) : null, given.map(line), h("div", { class: "actions" }, add));
  }

  draw();
  return node;
}

export function hasNames(source) {
  return Object.keys(source.columns ?? {}).length > 0 || Object.keys(source.roles ?? {}).length > 0;
}

function wayOf(draft) {
  const format = state.formats.formats.find((each) => each.name === draft.format);
  const given = Object.keys(draft.columns);
  const at = format?.required.findIndex((keys) => given.some((name) => keys.includes(name)) && keys.every((key) => given.includes(key))) ?? -1;
  return Math.max(at, 0);
}

// `format: qa` and `columns: {question: frage, answer: antwort}` in a remedy, where they name columns of this file.
function proposed(remedy, names) {
  const line = /columns: \{([^{}]*)\}/.exec(remedy);
  if (!line) return null;
  const made = {};
  for (const pair of line[1].split(", ")) {
    const [, name, column] = /^([^:]+): (.+)$/.exec(pair) ?? [];
    const plain = column?.replace(/^(['"])(.*)\1$/, "$2");
    if (!name || !names.includes(plain)) return null;
    made[name] = plain;
  }
  return { format: /format: (\w+)/.exec(remedy)?.[1] ?? null, columns: made };
}
