// The step in which the examples are brought: uploaded, picked from a folder or pasted; looked at, checked and mended.
//
// What goes in: files. What comes out: `data.train`, `data.validation` and how rows are read, in the recipe.

import { get, part, post, put } from "../../lib/api.js";
import { clear, h, icon, toast, unique } from "../../lib/dom.js";
import { bytes } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { columns, formatName } from "./columns.js";
import { controls } from "./controls.js";
import { mask } from "./mask.js";
import { kindName, showProblems } from "./parts.js";
import { report } from "./report.js";
import { change, hasData, note, settled, sources, state, subscribe, wrong, written } from "./state.js";

const ROWS_SHOWN = 3;
const METHODS_SHOWN = 3;
const FIELDS = ["data.bad_rows", "data.too_long", "data.max_tokens", "data.template"];

export async function show(place) {
  const complaints = h("div", { class: "problems", role: "alert", hidden: true });
  const files = h("section", { class: "panel", dataset: { field: "data.train" } });
  const checked = h("section", { class: "panel" });
  const masked = h("section", { class: "panel" });
  const held = h("section", { class: "panel", dataset: { field: "data.validation" } });
  const rules = h("section", { class: "panel" });
  clear(place, h("p", { class: "lead" }, t("new.data.lead")), complaints, files, checked, masked, held, rules);
  const stops = [];
  const looks = new Map();
  // What was asked of a file -> its first rows, null where it has none.
  let shown = "";
  let gone = false;

  // ---------------------------------------------------------------------------------------------- files

  function draw() {
    const list = sources();
    const own = JSON.stringify(list.map((each) => each.path));
    if (own === shown) {
      list.forEach((_, index) => look(index));
      return;
    }
    shown = own;
    const adding = adder(list.length === 0);
    clear(
      files,
      h("h2", {}, t("new.data.files")),
      list.length ? h("ul", { class: "sources" }, list.map(source)) : null,
      list.length ? h("details", { class: "fold-small" }, h("summary", {}, t("new.data.another")), adding) : adding,
    );
    list.forEach((_, index) => look(index));
  }

  function source(each, index) {
    const away = h("button", { type: "button", class: "button plain small", "aria-label": t("new.data.remove", { name: each.path }), onclick: () => remove(index) }, icon("trash"), t("new.remove"));
    return h(
      "li",
      { class: "source", dataset: { field: `data.train.${index}` } },
      h("div", { class: "row source-head" }, icon("file"), h("bdi", { class: "strong break" }, each.path), h("span", { class: "spring" }), away),
      h("div", { class: "read stack", role: "status", "aria-live": "polite" }),
      h("div", { class: "raw" }),
      h("div", { class: "mend" }),
    );
  }

  // The first rows of a file under the names that the recipe gives it. A folder, a pattern or a data set on the hub has
  // none of its own; the check says what is wrong with it.
  async function look(index) {
    const each = sources()[index];
    const { path, format, columns: named = {}, roles = {} } = each;
    const asked = { path, format: format ?? settled("data.format"), columns: JSON.stringify(named), roles: JSON.stringify(roles), first: 1, rows: ROWS_SHOWN };
    const key = JSON.stringify(asked);
    if (!looks.has(key)) {
      try {
        looks.set(key, await get("files/content", asked));
      } catch (error) {
        if (!Array.isArray(error.problems)) throw error;
        looks.set(key, null);
      }
    }
    const item = files.querySelectorAll(".source")[index];
    const now = key + settled("method.kind");
    if (gone || !item || JSON.stringify(sources()[index]) !== JSON.stringify(each) || item.dataset.shown === now) return;
    const first = item.dataset.shown === undefined;
    item.dataset.shown = now;
    drawLook(item, index, looks.get(key), first);
  }

  function drawLook(item, index, peek, first) {
    const [read, raw, mend] = [".read", ".raw", ".mend"].map((name) => item.querySelector(name));
    if (peek === null) {
      clear(read);
      clear(raw);
      clear(mend);
      return;
    }
    clear(read, h("p", { class: peek.format ? "small muted" : "small bad" }, peek.format ? t("new.data.read_as", { format: formatName(peek.format) }) : t("new.data.read_not")), suits(peek));
    if (first) clear(raw, h("details", { class: "fold-small" }, h("summary", {}, t("new.data.raw")), h("pre", { class: "text", dir: "auto", tabindex: "0" }, peek.lines.join("\n"))));
    if (mend.contains(document.activeElement)) return;
    const open = mend.querySelector("details")?.open ?? false;
    const node = columns(sources()[index], peek, (names) => mended(index, names));
    node.open ||= open;
    clear(mend, node);
  }

  // Rows may be of a kind that another method learns from.
  function suits(peek) {
    const method = settled("method.kind");
    if (!peek.methods.length || peek.methods.includes(method)) return null;
    return h(
      "div",
      { class: "notice" },
      icon("info"),
      h(
        "div",
        { class: "stack" },
        h("p", {}, t("new.data.other_method", { method: kindName("method", method) })),
        h("div", { class: "actions" }, peek.methods.slice(0, METHODS_SHOWN).map((kind) => h("button", { type: "button", class: "button small", onclick: () => change({ method: kind }) }, t("new.data.use_method", { method: kindName("method", kind) })))),
      ),
    );
  }

  function mended(index, names) {
    const list = sources();
    const { format, columns: given, roles, ...rest } = { ...list[index], ...names };
    list[index] = { ...rest, ...(format === "auto" ? {} : { format }), ...(Object.keys(given).length ? { columns: given } : {}), ...(Object.keys(roles).length ? { roles } : {}) };
    return write(list);
  }

  function write(list) {
    const short = list.map((each) => (Object.keys(each).length === 1 ? each.path : each));
    const only = short.length === 1 && typeof short[0] === "string";
    return change({ "data.train": short.length === 0 ? null : only ? short[0] : short });
  }

  async function add(paths) {
    const there = sources();
    const more = paths.filter((path) => !there.some((each) => each.path === path));
    await write([...there, ...more.map((path) => ({ path }))]);
    files.querySelector("h2")?.scrollIntoView({ block: "nearest" });
  }

  async function remove(index) {
    await write(sources().filter((_, at) => at !== index));
    (files.querySelector(".source button") ?? files.querySelector(".drop input"))?.focus();
  }

  // ---------------------------------------------------------------------------------------------- adding

  function adder(first) {
    const refused = h("div", { class: "problems", role: "alert", hidden: true });
    const progress = h("div", { class: "stack", role: "status", "aria-live": "polite" });
    const below = h("div", {});

    async function upload(list) {
      showProblems(refused, []);
      const paths = [];
      for (const file of list) {
        const bar = h("progress", { max: 1, value: 0, "aria-label": t("new.data.uploading", { name: file.name }) });
        clear(progress, h("p", { class: "small" }, t("new.data.uploading", { name: file.name }), " ", h("span", { class: "muted" }, bytes(file.size))), bar);
        try {
          const made = await put(`files/${part(file.name)}`, file, (sent, all) => (bar.value = all ? sent / all : 0));
          paths.push(made.path);
        } catch (error) {
          if (!Array.isArray(error.problems)) throw error;
          showProblems(refused, error.problems);
        }
      }
      clear(progress);
      if (paths.length) await add(paths);
    }

    const input = h("input", { type: "file", multiple: true, class: "sr", id: unique("file"), onchange: () => upload([...input.files]) });
    const drop = h(
      "div",
      { class: `drop${first ? "" : " slim"}` },
      icon("export"),
      h("p", { class: "strong" }, t("new.data.drop")),
      h("p", { class: "muted small" }, t("new.data.kinds")),
      h("div", { class: "actions" }, input, h("label", { for: input.id, class: `button ${first ? "primary" : ""}` }, icon("file"), t("new.data.upload")), h("button", { type: "button", class: "button", onclick: () => browse() }, icon("folder"), t("new.data.browse")), h("button", { type: "button", class: "button", onclick: () => paste() }, icon("copy"), t("new.data.paste"))),
    );
    drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      upload([...event.dataTransfer.files]);
    });

    async function browse(dir = state.browsed) {
      let listing;
      try {
        listing = await get("files", { dir: dir || null });
      } catch (error) {
        if (!Array.isArray(error.problems)) throw error;
        if (dir) return browse("");
        return showProblems(refused, error.problems);
      }
      note({ browsed: listing.dir });
      const open = (each) =>
        h("li", {}, h("button", { type: "button", class: "button plain entry", onclick: () => browse(each.path) }, icon("folder"), h("bdi", { class: "break" }, each.name)));
      const file = (each) =>
        h("li", {}, h("button", { type: "button", class: "button plain entry", onclick: () => take(each.path) }, icon("file"), h("bdi", { class: "break" }, each.name), h("span", { class: "muted small" }, bytes(each.bytes))));
      const folders = listing.entries.filter((each) => each.folder);
      const data = listing.entries.filter((each) => !each.folder && each.data);
      const heading = h("h3", { tabindex: "-1" }, t("new.data.folder"), " ", h("bdi", { class: "break muted" }, listing.dir));
      clear(
        below,
        h(
          "div",
          { class: "browser" },
          heading,
          h("div", { class: "actions" }, listing.parent === null ? null : h("button", { type: "button", class: "button small", onclick: () => browse(listing.parent) }, icon("up"), t("new.data.up")), data.length > 1 ? h("button", { type: "button", class: "button small", onclick: () => take(listing.dir) }, t("new.data.whole_folder", { count: data.length })) : null, closer()),
          folders.length || data.length ? h("ul", { class: "entries" }, folders.map(open), data.map(file)) : h("p", { class: "muted" }, t("new.data.empty_folder")),
        ),
      );
      heading.focus();
      return undefined;
    }

    function take(path) {
      clear(below);
      add([path]);
    }

    function closer() {
      return h("button", { type: "button", class: "button plain small", onclick: () => (clear(below), drop.querySelector("button").focus()) }, t("new.close"));
    }

    function paste() {
      const text = h("textarea", { id: unique("paste"), rows: 8, spellcheck: "false", dir: "auto", placeholder: '{"instruction": "…", "output": "…"}', class: "mono" });
      const name = h("input", { type: "text", id: unique("paste"), autocomplete: "off", value: "pasted" });
      const kind = h("select", { id: unique("paste") }, ["jsonl", "json", "csv", "txt"].map((each) => h("option", { value: each }, t(`new.data.kind.${each}`))));
      let chosen = false;
      kind.addEventListener("change", () => (chosen = true));
      text.addEventListener("input", () => {
        if (!chosen) kind.value = guess(text.value);
      });
      const save = h("button", { type: "submit", class: "button primary" }, t("new.data.paste.save"));
      async function send(event) {
        event.preventDefault();
        if (!text.value.trim()) return text.focus();
        save.disabled = true;
        try {
          const made = await post("files/paste", { name: `${name.value.trim() || "pasted"}.${kind.value}`, text: text.value });
          toast(t("new.data.saved", { path: made.path }), "good");
          take(made.path);
        } catch (error) {
          if (!Array.isArray(error.problems)) throw error;
          showProblems(refused, error.problems);
        } finally {
          save.disabled = false;
        }
      }
      clear(
        below,
        h(
          "form",
          { class: "paste stack", onsubmit: send },
          h("div", { class: "field" }, h("label", { for: text.id }, t("new.data.paste.text")), text),
          h("div", { class: "row" }, h("div", { class: "field" }, h("label", { for: name.id }, t("new.data.paste.name")), name), h("div", { class: "field" }, h("label", { for: kind.id }, t("new.data.paste.kind")), kind)),
          h("div", { class: "actions" }, save, closer()),
        ),
      );
      text.focus();
    }

    return h("div", { class: "stack" }, drop, progress, refused, below);
  }

  // ---------------------------------------------------------------------------------------------- the rest

  const rows = mask(masked);
  stops.push(() => rows.stop());
  stops.push(
    report(checked, (result) => rows.setTotal(result ? result.train : null)),
  );
  stops.push(validation(held));
  const list = h("div", { class: "settings" });
  clear(rules, h("details", { class: "fold" }, h("summary", {}, t("new.data.rules")), h("p", { class: "help" }, t("new.data.rules.help")), list));
  stops.push(controls(list, FIELDS));

  function update(what) {
    if (what !== "recipe") return;
    draw();
    held.hidden = rules.hidden = !hasData();
    // That no data are there yet is what the step is about; it is no error before the start.
    const list_ = wrong("data").filter((each) => hasData() && !owned(each.field));
    showProblems(complaints, list_);
    if (FIELDS.some((name) => wrong(name).length)) rules.querySelector("details").open = true;
  }
  update("recipe");
  stops.push(subscribe(update));
  return () => {
    gone = true;
    stops.forEach((stop) => stop());
  };
}

// Whether a problem is told beside its field.
function owned(name) {
  return [...FIELDS, "data.validation"].some((field) => name === field || name.startsWith(`${field}.`)) || (name.startsWith("data.") && !name.startsWith("data.train"));
}

function guess(text) {
  const start = text.trimStart();
  if (start.startsWith("[")) return "json";
  if (start.startsWith("{")) return "jsonl";
  const [first = "", second = ""] = start.split("\n");
  const commas = first.split(",").length;
  return commas > 1 && second.split(",").length >= commas ? "csv" : "txt";
}

// ------------------------------------------------------------------------------------------------ validation

const SHARE = { first: 0.05, least: 0.01, most: 0.5 };

// What is held out to test on: by itself, a share, a file, or nothing.
function validation(place) {
  const group = unique("held");
  const ways = ["auto", "share", "none", "file"];
  const radios = Object.fromEntries(ways.map((way) => [way, h("input", { type: "radio", name: group, value: way, onchange: () => choose(way) })]));
  const share = h("input", { type: "range", min: 1, max: 50, step: 1, id: unique("share"), oninput: shareMoved });
  const shareText = h("output", { for: share.id, class: "strong" });
  const file = h("input", { type: "text", id: unique("file"), autocomplete: "off", spellcheck: "false", dir: "auto", placeholder: "data/held-out.jsonl", onchange: () => file.value.trim() && change({ "data.validation": file.value.trim() }) });
  const shareRow = h("div", { class: "row sub" }, h("label", { for: share.id }, t("new.held.share.label")), share, shareText);
  const fileRow = h("div", { class: "row sub" }, h("label", { for: file.id }, t("new.held.file.label")), file);
  const problems = h("div", { class: "field-problem", "aria-live": "polite", hidden: true });
  let timer = null;
  let own = null;
  // The way chosen before it has a value: a file that is not named yet.

  function shareMoved() {
    shareText.textContent = `${share.value} %`;
    clearTimeout(timer);
    timer = setTimeout(() => change({ "data.validation": Number(share.value) / 100 }), 250);
  }

  function choose(way) {
    own = way === "file" ? way : null;
    if (way === "auto") change({ "data.validation": null });
    else if (way === "none") change({ "data.validation": 0 });
    else if (way === "share") change({ "data.validation": SHARE.first });
    else {
      update("recipe");
      file.focus();
    }
  }

  function wayOf(value) {
    if (value === undefined || value === null || value === "auto") return "auto";
    if (typeof value === "number") return value === 0 ? "none" : "share";
    return "file";
  }

  function update(what) {
    if (what !== "recipe") return;
    const value = written("data.validation");
    const way = own ?? wayOf(value);
    for (const each of ways) radios[each].checked = each === way;
    shareRow.hidden = way !== "share";
    fileRow.hidden = way !== "file";
    if (way === "share" && typeof value === "number" && document.activeElement !== share) {
      share.value = Math.round(100 * Math.min(Math.max(value, SHARE.least), SHARE.most));
      shareText.textContent = `${Number((100 * value).toFixed(2))} %`;
    }
    if (wayOf(value) === "file" && document.activeElement !== file) file.value = typeof value === "string" ? value : (value[0]?.path ?? value.path ?? value[0] ?? "");
    showProblems(problems, wrong("data.validation"));
  }

  clear(
    place,
    h("h2", { id: `${group}-title` }, t("new.held")),
    h("p", { class: "help" }, t("new.held.help")),
    h(
      "div",
      { class: "stack", role: "radiogroup", "aria-labelledby": `${group}-title` },
      ways.map((way) => [h("label", { class: "check" }, radios[way], h("span", {}, t(`new.held.${way}`))), way === "share" ? shareRow : way === "file" ? fileRow : null]),
    ),
    problems,
  );
  update("recipe");
  return subscribe(update);
}
