// The recipe's text beside the form: each follows the other.
//
// What goes in: what is typed. What comes out: the recipe in `state`; what is wrong with it by line. While the text
// cannot be read, the form stands still.

import { clear, h, icon, toast, unique } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { problem } from "./parts.js";
import { note, replace, state, subscribe, typed } from "./state.js";

export function editor(place) {
  const id = unique("recipe");
  const gutter = h("pre", { class: "gutter", "aria-hidden": "true" });
  const text = h("textarea", {
    id,
    spellcheck: "false",
    autocapitalize: "off",
    autocomplete: "off",
    wrap: "off",
    class: "mono",
    "aria-describedby": `${id}-state ${id}-problems`,
    oninput: () => typed(text.value),
    onscroll: () => (gutter.scrollTop = text.scrollTop),
  });
  const verdict = h("p", { class: "small", id: `${id}-state`, role: "status", "aria-live": "polite" });
  const problems = h("div", { class: "problems", id: `${id}-problems` });
  const lost = h(
    "div",
    { class: "notice", hidden: true },
    icon("info"),
    h(
      "div",
      { class: "stack" },
      h("p", { class: "small" }, t("new.recipe.lost")),
      h(
        "div",
        { class: "actions" },
        h("button", { type: "button", class: "button small", onclick: () => bring() }, t("new.recipe.bring")),
        h("button", { type: "button", class: "button plain small", onclick: () => note({ lost: "" }) }, t("new.close")),
      ),
    ),
  );
  const copy = h(
    "button",
    { type: "button", class: "button small", onclick: () => copied() },
    icon("copy"),
    t("new.recipe.copy"),
  );

  async function copied() {
    try {
      await navigator.clipboard.writeText(state.text);
      toast(t("new.recipe.copied"), "good");
    } catch (error) {
      // Pages without a secure line may not write there; the text is selected instead.
      if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
      text.select();
    }
  }

  function bring() {
    const before = state.lost;
    note({ lost: "" });
    replace(before);
    text.focus();
  }

  function jump(line) {
    const lines = text.value.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    text.focus();
    text.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
  }

  function draw() {
    if (text.value !== state.text) {
      const at = text.selectionStart;
      const active = document.activeElement === text;
      text.value = state.text;
      if (active) text.setSelectionRange(at, at);
    }
    const list = state.problems;
    const wrong = new Set(list.map((each) => each.line));
    const lines = state.text.split("\n");
    text.rows = Math.min(Math.max(lines.length + 1, 12), 28);
    clear(
      gutter,
      lines.map((_, index) => h("span", { class: wrong.has(index + 1) ? "wrong" : null }, `${index + 1}\n`)),
    );
    lost.hidden = state.lost === "";
    verdict.textContent = t(
      !state.readable ? "new.recipe.unreadable" : list.length ? "new.recipe.wrong" : "new.recipe.right",
    );
    verdict.className = `small ${list.length ? "bad" : "good"}`;
    if (list.length) text.setAttribute("aria-invalid", "true");
    else text.removeAttribute("aria-invalid");
    clear(
      problems,
      list.map((each) => {
        const box = problem(each);
        const { line } = each;
        if (line)
          box.lastChild.append(
            h(
              "div",
              { class: "actions" },
              h(
                "button",
                { type: "button", class: "button small", onclick: () => jump(line) },
                t("new.recipe.line", { line }),
              ),
            ),
          );
        return box;
      }),
    );
  }

  clear(
    place,
    h("div", { class: "panel-head" }, h("h2", {}, h("label", { for: id }, t("new.recipe"))), copy),
    h("p", { class: "help" }, t("new.recipe.help")),
    h("div", { class: "editor", dataset: { field: "recipe" } }, gutter, text),
    verdict,
    lost,
    problems,
  );
  draw();
  return subscribe((what) => what !== "plan" && draw());
}
