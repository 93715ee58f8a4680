// Checks of an export as a table: what was promised, whether it held, the bound and what was found.
//
// What goes in: checks as a receipt has them. What comes out: a table, or a word that there are none.

import { h, icon } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";

const PICTURES = { pass: "check", fail: "warn", "not run": "info" };
const STATES = { pass: "pass", fail: "fail", "not run": "none" };

export function checksTable(checks) {
  if (!checks.length) return null;
  const column = (id) => h("th", { scope: "col" }, t(id));
  return h(
    "div",
    { class: "table-scroll", tabindex: "0", role: "region", "aria-label": t("export.checks") },
    h(
      "table",
      { class: "table checks" },
      h("caption", { class: "sr" }, t("export.checks")),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          column("export.check.held"),
          column("export.check.promise"),
          column("export.check.found"),
          column("export.check.bound"),
        ),
      ),
      h("tbody", {}, checks.map(row)),
    ),
  );
}

function row(check) {
  return h(
    "tr",
    { dataset: { check: check.name, status: check.status } },
    h(
      "td",
      {},
      h(
        "span",
        { class: "state", dataset: { state: STATES[check.status] } },
        icon(PICTURES[check.status]),
        t(`export.check.${STATES[check.status]}`),
      ),
    ),
    h("th", { scope: "row" }, check.sentence || check.text || check.name),
    h("td", {}, check.evidence || "–"),
    h("td", {}, check.bound || "–"),
  );
}

// In a line, for what is folded away.
export function checksLine(checks) {
  const count = (status) => checks.filter((each) => each.status === status).length;
  return t("export.checks.line", { pass: count("pass"), fail: count("fail"), none: count("not run") });
}
