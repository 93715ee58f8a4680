// What a run has come to, and what was exported from it.
//
// What goes in: folders with their files, sizes and checks. What comes out: one card for each, with its download.

import { search } from "../../lib/api.js";
import { h, icon } from "../../lib/dom.js";
import { ago, bytes } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { checksLine, checksTable } from "./checks.js";

const download = (path) => `api/files/download${search({ path })}`;

export function madeCard(each) {
  const failed = each.checks.some((check) => check.status === "fail");
  return h(
    "article",
    { class: "made", dataset: { what: each.what } },
    h(
      "div",
      { class: "row spread" },
      h(
        "div",
        {},
        h("h3", {}, t(`export.what.${each.what}`)),
        h("p", { class: "muted small break" }, `${each.name} · ${bytes(each.bytes)} · ${ago(each.made_s)}`),
      ),
      h(
        "a",
        {
          class: "button",
          href: download(each.path),
          download: "",
          "aria-label": t("export.download_one", { name: each.name }),
        },
        icon("download"),
        t("export.download"),
      ),
    ),
    each.forced ? h("p", { class: "notice" }, icon("warn"), h("span", {}, t("export.forced"))) : null,
    each.checks.length
      ? h("details", { open: failed }, h("summary", {}, checksLine(each.checks)), checksTable(each.checks))
      : null,
    h("details", {}, h("summary", {}, t("export.files", { count: each.files.length })), filesTable(each.files)),
  );
}

function filesTable(files) {
  return h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      { class: "table" },
      h("caption", { class: "sr" }, t("export.files", { count: files.length })),
      h(
        "thead",
        {},
        h("tr", {}, h("th", { scope: "col" }, t("export.file")), h("th", { scope: "col" }, t("export.size"))),
      ),
      h(
        "tbody",
        {},
        files.map((file) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, h("a", { class: "break", href: download(file.path), download: "" }, file.name)),
            h("td", { class: "number" }, bytes(file.bytes)),
          ),
        ),
      ),
    ),
  );
}
