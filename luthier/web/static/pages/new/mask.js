// Rows as the model will see them, with what it learns marked: a job `show`, a few rows at a time.
//
// What goes in: the recipe. What comes out: one row after the other. What is learned is coloured, and underlined
// between brackets, so that it is told apart without colour too; control tokens have a frame.

import { job } from "../../lib/api.js";
import { clear, h, icon, unique } from "../../lib/dom.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { showProblems } from "./parts.js";
import { hasData, stageShown, state, subscribe } from "./state.js";

const AT_ONCE = 10;
// Rows of one job: a process starts for each.

export function mask(place) {
  const id = unique("row");
  const at = h("input", {
    type: "number",
    min: 1,
    step: 1,
    value: 1,
    id,
    class: "amount",
    onchange: () => go(Number(at.value)),
  });
  const back = h(
    "button",
    { type: "button", class: "button small", onclick: () => go(row - 1) },
    icon("back"),
    t("new.mask.back"),
  );
  const next = h(
    "button",
    { type: "button", class: "button small", onclick: () => go(row + 1) },
    t("new.mask.next"),
    icon("next"),
  );
  const of = h("span", { class: "muted" });
  const state_ = h("p", { class: "muted small", role: "status", "aria-live": "polite" });
  const wrong = h("div", { class: "problems", role: "alert", hidden: true });
  const shown = h("div", { class: "mask", tabindex: "0", role: "region", "aria-label": t("new.mask") });
  const begin = h("button", { type: "button", class: "button", onclick: () => go(1) }, t("new.mask.show"));
  const bar = h(
    "div",
    { class: "row mask-bar", hidden: true },
    back,
    h("label", { for: id }, t("new.mask.row")),
    at,
    of,
    next,
  );
  clear(
    place,
    h("h2", {}, t("new.mask")),
    h("p", { class: "help" }, t("new.mask.help")),
    h("div", { class: "actions" }, begin),
    bar,
    legend(),
    state_,
    wrong,
    shown,
  );
  const keyed = place.querySelector(".mask-legend");
  keyed.hidden = true;

  let row = 0;
  let total = null;
  let known = new Map();
  let of_ = "";
  let turn = 0;

  // What the rows shown depend on.
  function asked() {
    return JSON.stringify([stageShown()?.name, state.text]);
  }

  async function go(number) {
    if (!Number.isInteger(number) || number < 1 || (total !== null && number > total)) {
      at.value = row || 1;
      return;
    }
    if (of_ !== asked()) forget();
    turn += 1;
    const own = turn;
    row = number;
    at.value = row;
    begin.parentNode.hidden = true;
    bar.hidden = keyed.hidden = false;
    if (!known.has(row)) {
      state_.textContent = t("new.mask.asked");
      await fetchRows(row);
      if (own !== turn) return;
      state_.textContent = "";
    }
    draw();
  }

  async function fetchRows(first) {
    of_ = asked();
    const order = { recipe: state.text, stage: stageShown()?.name };
    // A row that cannot be shown takes those beside it along, so it is asked for alone then.
    for (const rows of [AT_ONCE, 1]) {
      try {
        const done = await job("show", { ...order, first, rows });
        if (done.result?.rows) return keep(done.result.rows, first, rows);
        if (rows === 1) known.set(first, { problems: done.problems });
      } catch (error) {
        if (!Array.isArray(error.problems)) throw error;
        known.set(first, { problems: error.problems });
        return undefined;
      }
    }
    return undefined;
  }

  // A row that the template rewrites makes several sequences.
  function keep(rows, first, asked) {
    let number = first - 1;
    for (const each of rows) {
      if (each.sequence === 1) number += 1;
      known.set(number, [...(each.sequence === 1 ? [] : known.get(number)), each]);
    }
    if (number < first + asked - 1 && total === null) total = number;
  }

  function draw() {
    const found = known.get(row);
    back.disabled = row === 1;
    next.disabled = total !== null && row >= total;
    of.textContent = total === null ? "" : t("new.mask.of", { total: count(total) });
    showProblems(wrong, found?.problems ?? [], { jump: true });
    clear(shown, Array.isArray(found) ? found.map(sequence) : null);
    shown.hidden = !Array.isArray(found);
  }

  function forget() {
    known = new Map();
    turn += 1;
  }

  function update() {
    place.hidden = !hasData();
    if (of_ && of_ !== asked() && !bar.hidden) {
      forget();
      of_ = "";
      clear(shown);
      showProblems(wrong, []);
      bar.hidden = keyed.hidden = true;
      begin.parentNode.hidden = false;
      state_.textContent = t("new.mask.stale");
    }
  }

  const stop = subscribe((what) => what === "recipe" && update());
  update();
  return {
    // How many rows there are, once the check has counted them.
    setTotal(number) {
      total = number;
      if (!bar.hidden && row) draw();
    },
    stop() {
      turn += 1;
      stop();
    },
  };
}

function legend() {
  return h(
    "p",
    { class: "mask-legend small" },
    h("mark", { class: "trained" }, t("new.mask.trained")),
    " ",
    h("span", { class: "context" }, t("new.mask.context")),
    " ",
    h("span", { class: "special" }, t("new.mask.special")),
  );
}

function sequence(each) {
  return h(
    "div",
    { class: "sequence" },
    h(
      "p",
      { class: "muted small" },
      h("code", { dir: "auto" }, each.where),
      " ",
      t("new.mask.tokens", { tokens: count(each.tokens), learned: count(each.learned) }),
      each.sequences > 1 ? ` ${t("new.mask.part", { part: each.sequence, parts: each.sequences })}` : "",
    ),
    h("p", { class: "mask-text" }, each.pieces.map(piece)),
  );
}

// Each piece stands for itself, so that letters written from right to left do not turn the pieces around them.
function piece({ text, kind, weight }) {
  const attributes = {
    class: kind,
    dir: "auto",
    title: kind === "trained" && weight !== 1 ? t("new.mask.weight", { weight }) : null,
  };
  const shown = visible(text);
  if (kind !== "trained") return h("bdi", attributes, shown);
  return h(
    "mark",
    attributes,
    h("span", { class: "sr" }, t("new.mask.begins")),
    h("bdi", {}, shown),
    h("span", { class: "sr" }, t("new.mask.ends")),
  );
}

// Control characters as signs; a line's end as a sign and a line's end.
function visible(text) {
  return text
    .replace(
      /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
      (char) => `⟨${char.codePointAt(0).toString(16).padStart(4, "0")}⟩`,
    )
    .replaceAll("\n", "↵\n");
}
