// Parts of a run's page that are read, not watched: how a demonstration came out, results, receipt, recipe, log.
//
// What goes in: what the server says. What comes out: nodes.

import { h, clear, refill, icon, busy, toast } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { get, part, search } from "../../lib/api.js";
import { bytes, percent } from "../../lib/format.js";
import { runLink, stateChip } from "../../lib/runs.js";
import { card } from "./samples.js";

const LOG_BYTES = 65536;
const LOG_LOOK_MS = 3000;
const MARKS = { pass: "check", fail: "warn", "not run": "info" };

// Base against tuned, as the demonstration found it.
export function demoOutcome(panel, job) {
  panel.hidden = !job?.result;
  if (panel.hidden) return;
  const found = job.result;
  const [agreed, asked] = found.merged_agrees;
  const score = (label, value, look) =>
    h(
      "div",
      { class: `score ${look}` },
      h("span", { class: "score-value number" }, percent(value)),
      h("span", { class: "muted" }, label),
    );
  clear(
    panel,
    h("h2", {}, t("run.demo")),
    h("p", {}, t("run.demo.text")),
    h(
      "div",
      { class: "row scores" },
      score(t("run.demo.base"), found.base_score, ""),
      score(t("run.demo.tuned"), found.tuned_score, "good"),
    ),
    h("p", { class: "muted" }, t("run.demo.merged", { agreed, asked })),
    h(
      "div",
      { class: "stack" },
      found.examples.map((each) =>
        card({ prompt: each.question, reference: each.expected }, [
          { title: t("run.demo.base"), text: each.base },
          { title: t("run.demo.tuned"), text: each.tuned },
        ]),
      ),
    ),
    h(
      "div",
      { class: "actions" },
      h("a", { class: "button primary", href: `#/chat${search({ target: job.run })}` }, icon("chat"), t("run.chat")),
      h("a", { class: "button", href: `#/new${search({ from: job.run })}` }, icon("add"), t("run.demo.own")),
    ),
  );
}

// All stages of the run's recipe, [{name, state}], in order.
export function stages(nav, name, found) {
  nav.hidden = found.length === 0;
  const link = (each) =>
    each.state === "gone"
      ? each.name
      : h("a", { href: runLink(each.name), "aria-current": each.name === name ? "page" : null }, each.name);
  refill(
    nav,
    h("h2", {}, t("run.stages")),
    h(
      "ol",
      { class: "stage-list" },
      found.map((each) => h("li", {}, h("span", { class: "row break" }, link(each), stateChip(each.state)))),
    ),
  );
}

// found: [{what, path, bytes}].
export function outputs(panel, found) {
  panel.hidden = found.length === 0;
  clear(
    panel,
    h("h2", {}, t("run.outputs")),
    h(
      "ul",
      { class: "queue" },
      found.map((each) =>
        h(
          "li",
          {},
          h(
            "span",
            {},
            h("strong", {}, each.what),
            " ",
            h("span", { class: "muted number" }, bytes(each.bytes)),
            h("span", { class: "muted small block break mono" }, each.path),
          ),
          h(
            "a",
            {
              class: "button small",
              href: `api/files/download${search({ path: each.path })}`,
              download: true,
              "aria-label": t("run.download_one", { what: each.what }),
            },
            icon("download"),
            t("run.download"),
          ),
        ),
      ),
    ),
  );
}

// None before the run has ended.
export async function receiptOf(name) {
  try {
    return await get(`runs/${part(name)}/receipt`);
  } catch (error) {
    if (error.status !== 404) throw error;
    return null;
  }
}

// What was promised and whether it held.
export function receipt(panel, found) {
  panel.hidden = found === null;
  if (panel.hidden) return;
  const checks = found.receipt?.checks ?? [];
  const order = (check) => ["fail", "pass", "not run"].indexOf(check.status);
  clear(
    panel,
    h("h2", {}, t("run.receipt")),
    h(
      "div",
      { class: "table-scroll" },
      h(
        "table",
        { class: "table" },
        h("caption", { class: "sr" }, t("run.receipt")),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, t("run.receipt.status")),
            h("th", { scope: "col" }, t("run.receipt.promise")),
            h("th", { scope: "col" }, t("run.receipt.found")),
          ),
        ),
        h(
          "tbody",
          {},
          [...checks]
            .sort((a, b) => order(a) - order(b))
            .map((check) =>
              h(
                "tr",
                { dataset: { check: check.name } },
                h(
                  "td",
                  {},
                  h(
                    "span",
                    { class: "state mark", dataset: { state: check.status } },
                    icon(MARKS[check.status]),
                    t(`run.check.${check.status.replace(" ", "_")}`),
                  ),
                ),
                h("th", { scope: "row", class: "break" }, check.sentence || check.text || check.name),
                h("td", { class: "break muted" }, [check.evidence, check.bound].filter(Boolean).join(" — ")),
              ),
            ),
        ),
      ),
    ),
    found.markdown
      ? h(
          "details",
          {},
          h("summary", {}, t("run.receipt.whole")),
          h("pre", { class: "text", tabindex: "0" }, found.markdown),
        )
      : null,
  );
}

export function recipe(panel, { name, yaml }) {
  const copy = h(
    "button",
    { type: "button", class: "button small", onclick: () => copied(copy, yaml) },
    icon("copy"),
    t("common.copy"),
  );
  clear(
    panel,
    h(
      "details",
      { class: "fold" },
      h("summary", {}, t("run.recipe")),
      h(
        "div",
        { class: "stack" },
        h(
          "div",
          { class: "actions" },
          copy,
          h("a", { class: "button small", href: `#/new${search({ from: name })}` }, icon("add"), t("run.again_new")),
        ),
        h("pre", { class: "text", tabindex: "0" }, yaml),
      ),
    ),
  );
}

async function copied(button, text) {
  // Only pages that come over TLS or from this machine may write to the clipboard.
  if (!navigator.clipboard) return toast(t("run.copy_none"), "bad");
  await busy(button, navigator.clipboard.writeText(text));
  toast(t("common.copied"), "good");
}

// The end of the process's own output, looked at again while it is open and the run goes on. Returns what ends that.
export function log(panel, name, isActive) {
  const text = h("pre", { class: "text", tabindex: "0" });
  const box = h("details", { class: "fold", ontoggle: look }, h("summary", {}, t("run.log")), text);
  let planned = null;
  clear(panel, box);

  async function look() {
    clearTimeout(planned);
    if (!box.open || !box.isConnected) return;
    const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 8;
    try {
      const found = await get(`runs/${part(name)}/log`, { bytes: LOG_BYTES });
      text.textContent = found.text || t("run.log.empty");
      if (atEnd) text.scrollTop = text.scrollHeight;
    } catch (error) {
      if (error.status === undefined) throw error;
      if (error.status !== 0) text.textContent = error.problems.map((each) => each.rule).join("\n");
    }
    if (isActive()) planned = setTimeout(look, LOG_LOOK_MS);
  }

  return () => clearTimeout(planned);
}
