// What is held out to test on: by itself, a share, a file, or nothing.
//
// What goes in: a choice. What comes out: `data.validation` in the recipe; where nothing is held out there is nothing to
// show answers to.

import { clear, h, unique } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { showProblems } from "./parts.js";
import { change, subscribe, wrong, written } from "./state.js";

const SHARE = { first: 0.05, least: 0.01, most: 0.5 };

export function validation(place) {
  const group = unique("held");
  const ways = ["auto", "share", "none", "file"];
  const radios = Object.fromEntries(
    ways.map((way) => [way, h("input", { type: "radio", name: group, value: way, onchange: () => choose(way) })]),
  );
  const share = h("input", { type: "range", min: 1, max: 50, step: 1, id: unique("share"), oninput: shareMoved });
  const shareText = h("output", { for: share.id, class: "strong" });
  const file = h("input", {
    type: "text",
    id: unique("file"),
    autocomplete: "off",
    spellcheck: "false",
    dir: "auto",
    placeholder: "data/held-out.jsonl",
    onchange: () => file.value.trim() && change({ "data.validation": file.value.trim() }),
  });
  const shareRow = h(
    "div",
    { class: "row sub" },
    h("label", { for: share.id }, t("new.held.share.label")),
    share,
    shareText,
  );
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
    else if (way === "none") change({ "data.validation": 0, "run.samples": null });
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
    if (wayOf(value) === "file" && document.activeElement !== file)
      file.value = typeof value === "string" ? value : (value[0]?.path ?? value.path ?? value[0] ?? "");
    showProblems(problems, wrong("data.validation"));
  }

  clear(
    place,
    h("h2", { id: `${group}-title` }, t("new.held")),
    h("p", { class: "help" }, t("new.held.help")),
    h(
      "div",
      { class: "stack", role: "radiogroup", "aria-labelledby": `${group}-title` },
      ways.map((way) => [
        h("label", { class: "check" }, radios[way], h("span", {}, t(`new.held.${way}`))),
        way === "share" ? shareRow : way === "file" ? fileRow : null,
      ]),
    ),
    problems,
  );
  update("recipe");
  return subscribe(update);
}
