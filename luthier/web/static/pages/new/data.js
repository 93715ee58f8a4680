// The step in which the examples are brought: uploaded, picked from a folder or pasted; looked at, checked and mended.
//
// What goes in: files. What comes out: `data.train`, `data.validation` and how rows are read, in the recipe.

import { get } from "../../lib/api.js";
import { clear, h, icon, refill } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { adder } from "./adding.js";
import { columns, formatName } from "./columns.js";
import { controls } from "./controls.js";
import { validation } from "./held.js";
import { mask } from "./mask.js";
import { kindName, showProblems } from "./parts.js";
import { report } from "./report.js";
import { stagePicker } from "./stages.js";
import { changeMethod, hasData, isEditing, isStaged, remake, settled, sources, subscribe, wrong } from "./state.js";

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
  const which = h("div");
  clear(place, h("p", { class: "lead" }, t("new.data.lead")), files, which, checked, masked, held, rules);
  const stops = [stagePicker(which)];
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
    const adding = adder(list.length === 0, add);
    clear(
      files,
      h("h2", {}, t("new.data.files")),
      list.length ? h("ul", { class: "sources" }, list.map(source)) : null,
      complaints,
      list.length ? h("details", { class: "fold-small" }, h("summary", {}, t("new.data.another")), adding) : adding,
    );
    list.forEach((_, index) => look(index));
  }

  function source(each, index) {
    const away = h(
      "button",
      {
        type: "button",
        class: "button plain small",
        "aria-label": t("new.data.remove", { name: each.path }),
        onclick: () => remove(each.path, index),
      },
      icon("trash"),
      t("new.remove"),
    );
    return h(
      "li",
      { class: "source", dataset: { field: `data.train.${index}` } },
      h(
        "div",
        { class: "row source-head" },
        icon("file"),
        h("bdi", { class: "strong break" }, each.path),
        h("span", { class: "spring" }),
        away,
      ),
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
    const asked = {
      path,
      format: format ?? settled("data.format"),
      columns: JSON.stringify(named),
      roles: JSON.stringify(roles),
      first: 1,
      rows: ROWS_SHOWN,
    };
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
    const stale = JSON.stringify(sources()[index]) !== JSON.stringify(each);
    // What is chosen beside a file and still on its way would be lost with what it was chosen in. The answer looks again.
    if (gone || !item || stale || isEditing() || item.dataset.shown === now) return;
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
    clear(
      read,
      h(
        "p",
        { class: peek.format ? "small muted" : "small bad" },
        peek.format ? t("new.data.read_as", { format: formatName(peek.format) }) : t("new.data.read_not"),
      ),
      suits(peek),
    );
    if (first)
      clear(
        raw,
        h(
          "details",
          { class: "fold-small" },
          h("summary", {}, t("new.data.raw")),
          h("pre", { class: "text", dir: "auto", tabindex: "0" }, peek.lines.join("\n")),
        ),
      );
    // A list that somebody has open is not closed where it would say the same again.
    const asked = JSON.stringify([peek.fields, peek.speakers, peek.proposal]);
    if (mend.dataset.asked === asked && mend.contains(document.activeElement)) return;
    mend.dataset.asked = asked;
    const open = mend.querySelector("details")?.open ?? false;
    const { path } = sources()[index];
    const node = columns(sources()[index], peek, (names) => mended(path, index, names));
    node.open ||= open;
    refill(mend, node);
  }

  // Rows may be of a kind that another method learns from.
  function suits(peek) {
    const method = settled("method.kind");
    if (isStaged() || !peek.methods.length || peek.methods.includes(method)) return null;
    return h(
      "div",
      { class: "notice" },
      icon("info"),
      h(
        "div",
        { class: "stack" },
        h("p", {}, t("new.data.other_method", { method: kindName("method", method) })),
        h(
          "div",
          { class: "actions" },
          peek.methods
            .slice(0, METHODS_SHOWN)
            .map((kind) =>
              h(
                "button",
                { type: "button", class: "button small", onclick: () => changeMethod(kind) },
                t("new.data.use_method", { method: kindName("method", kind) }),
              ),
            ),
        ),
      ),
    );
  }

  // Where a file of the list is that was the index-th when somebody chose: others may have gone meanwhile.
  const placeOf = (list, path, index) =>
    list[index]?.path === path ? index : list.findIndex((each) => each.path === path);

  function mended(path, index, names) {
    return write((list) => {
      const at = placeOf(list, path, index);
      const { format, columns: given, roles, ...rest } = { ...list[at], ...names };
      const made = {
        ...rest,
        ...(format === "auto" ? {} : { format }),
        ...(Object.keys(given).length ? { columns: given } : {}),
        ...(Object.keys(roles).length ? { roles } : {}),
      };
      return list.map((each, number) => (number === at ? made : each));
    });
  }

  // make: the list of files -> the list as it shall be.
  function write(make) {
    return remake("data.train", () => {
      const short = make(sources()).map((each) => (Object.keys(each).length === 1 ? each.path : each));
      const only = short.length === 1 && typeof short[0] === "string";
      return short.length === 0 ? null : only ? short[0] : short;
    });
  }

  async function add(paths) {
    await write((list) => [
      ...list,
      ...paths.filter((path) => !list.some((each) => each.path === path)).map((path) => ({ path })),
    ]);
    files.querySelector("h2")?.scrollIntoView({ block: "nearest" });
  }

  async function remove(path, index) {
    await write((list) => {
      const at = placeOf(list, path, index);
      return list.filter((_, number) => number !== at);
    });
    (files.querySelector(".source button") ?? files.querySelector(".drop input"))?.focus();
  }

  // ---------------------------------------------------------------------------------------------- the rest

  const rows = mask(masked);
  stops.push(() => rows.stop());
  stops.push(report(checked, (result) => rows.setTotal(result ? result.train : null)));
  stops.push(validation(held));
  const list = h("div", { class: "settings" });
  clear(
    rules,
    h(
      "details",
      { class: "fold" },
      h("summary", {}, t("new.data.rules")),
      h("p", { class: "help" }, t("new.data.rules.help")),
      list,
    ),
  );
  stops.push(controls(list, FIELDS));

  function update(what) {
    if (what !== "recipe") return;
    draw();
    held.hidden = rules.hidden = !hasData();
    // That no data are there yet is what the step is about, and no fault.
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
  return (
    [...FIELDS, "data.validation"].some((field) => name === field || name.startsWith(`${field}.`)) ||
    (name.startsWith("data.") && !name.startsWith("data.train"))
  );
}
