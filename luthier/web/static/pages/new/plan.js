// The step that shows what the run will need, before any weight is loaded.
//
// What goes in: the plan. What comes out: memory by part, time, what was chosen and why; where it does not fit, the
// least change that makes it fit, with a button that takes it.

import { clear, h, icon, refill } from "../../lib/dom.js";
import { NOTHING, bytes, count, duration, percent } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { kindName, memoryBar, partName, PARTS, showProblems } from "./parts.js";
import { change, everything, hasData, isStaged, state, subscribe } from "./state.js";
import { go } from "./steps.js";

export async function show(place) {
  const complaints = h("div", { class: "problems", role: "alert", hidden: true });
  const all = h("section", { class: "panel" });
  const verdict = h("section", { class: "panel" });
  const time = h("section", { class: "panel" });
  const why = h("section", { class: "panel" });
  const status = h("p", { class: "sr", role: "status", "aria-live": "polite" });
  clear(
    place,
    h("p", { class: "lead" }, t("new.plan.lead")),
    complaints,
    status,
    all,
    verdict,
    h("div", { class: "grid" }, time, why),
  );

  // Of several stages: the one whose plan is shown in full, at first the one that needs most.
  let picked = null;
  function pick(name) {
    picked = name;
    update("plan");
  }

  function update(what) {
    if (what !== "plan" && what !== "recipe") return;
    showProblems(complaints, everything(), { jump: true });
    const several = state.stagePlans;
    const own = several.find((each) => each.name === picked) ?? several.find((each) => each.plan === state.plan);
    const { plan, lines } = own ?? state;
    all.hidden = own === undefined;
    verdict.hidden = time.hidden = why.hidden = plan === null;
    if (plan === null) return;
    if (own)
      refill(
        all,
        stageTable(own.name, (name) => pick(name)),
      );
    if (verdict.contains(document.activeElement) && what !== "plan") return;
    const words = t(plan.memory.fits ? "new.plan.fits" : "new.plan.fits_not");
    if (status.textContent !== words) status.textContent = words;
    drawVerdict(verdict, plan, words);
    drawTime(time, plan);
    clear(
      why,
      h("h2", {}, t("new.plan.why")),
      h(
        "ul",
        { class: "plain-list why" },
        said(lines).map((line) => h("li", {}, line)),
      ),
    );
  }
  update("plan");
  return subscribe(update);
}

// What each stage needs.
function stageTable(shown, onPick) {
  const head = ["new.stages.stage", "new.method", "new.plan.bytes", "new.plan.time.run", "new.stages.fits"];
  const row = ({ name, plan }) =>
    h(
      "tr",
      { dataset: { stage: name } },
      h(
        "th",
        { scope: "row" },
        h(
          "button",
          {
            type: "button",
            class: "button small",
            "aria-pressed": String(name === shown),
            onclick: () => onPick(name),
          },
          name,
        ),
      ),
      h("td", {}, methodOf(name)),
      h("td", { class: "number" }, bytes(plan.memory.peak_bytes)),
      h("td", { class: "number" }, plan.speed?.run_s ? duration(plan.speed.run_s) : NOTHING),
      h(
        "td",
        { class: plan.memory.fits ? "good" : "bad" },
        t(plan.memory.fits ? "new.plan.fits" : "new.plan.fits_not"),
      ),
    );
  const title = t("new.stages.plans");
  return [
    h("h2", {}, title),
    h("p", { class: "help" }, t("new.stages.plans.help")),
    h(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": title },
      h(
        "table",
        { class: "table" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((id) => h("th", { scope: "col" }, t(id))),
          ),
        ),
        h("tbody", {}, state.stagePlans.map(row)),
      ),
    ),
  ];
}

function methodOf(stage) {
  const { method, tune } = state.stages.find((each) => each.name === stage)?.resolved ?? {};
  return method ? `${kindName("method", method.kind)}, ${kindName("tune", tune.kind)}` : "";
}

// The planner's own lines: what they say of the device and what was chosen. Its table of bytes is drawn above.
function said(lines) {
  const blank = lines.indexOf("");
  const end = lines.indexOf("", blank + 1);
  const rest = blank < 0 ? lines : [...lines.slice(0, blank), ...(end < 0 ? [] : lines.slice(end + 1))];
  return rest.filter((line) => line.trim() !== "" && (hasData() || !line.includes("data.json")));
}

function drawVerdict(place, plan, words) {
  const { memory, device } = plan;
  const parts = PARTS.filter((part) => memory[part] > 0);
  const onHost = memory.host + (memory.moved ?? 0);
  const row = (part, value, title) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, part ? h("span", { class: `dot part-${part}`, "aria-hidden": "true" }) : null, title),
      h("td", {}, bytes(value)),
      h("td", {}, percent(value / memory.peak_bytes, 1)),
    );
  clear(
    place,
    h(
      "div",
      { class: "panel-head" },
      h("h2", { class: memory.fits ? "good" : "bad" }, icon(memory.fits ? "check" : "warn"), words),
      h(
        "span",
        { class: "muted" },
        t("new.plan.device", {
          name: device.count > 1 ? `${device.count} × ${device.name}` : device.name,
          dtype: device.dtype,
        }),
      ),
    ),
    h("p", {}, t("new.memory", { need: bytes(memory.peak_bytes), free: bytes(memory.free_bytes) })),
    memory.fits ? memoryBar(plan, { small: true }) : null,
    memoryBar(plan, { parts: true }),
    memory.fits
      ? null
      : h(
          "p",
          { class: "small" },
          h("span", { class: "limit-mark", "aria-hidden": "true" }),
          t("new.plan.limit", { free: bytes(memory.free_bytes) }),
        ),
    memory.fits ? null : remedy(plan),
    h(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": t("new.plan.parts") },
      h(
        "table",
        { class: "table numbers" },
        h("caption", { class: "sr" }, t("new.plan.parts")),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, t("new.plan.part")),
            h("th", { scope: "col" }, t("new.plan.bytes")),
            h("th", { scope: "col" }, t("new.plan.share")),
          ),
        ),
        h(
          "tbody",
          {},
          parts.map((part) =>
            row(
              part,
              memory[part],
              part === "activations"
                ? t("new.part.activations_at", { tokens: count(memory.micro_tokens) })
                : partName(part),
            ),
          ),
        ),
        h("tfoot", {}, row(null, memory.peak_bytes, t("new.plan.peak"))),
      ),
    ),
    h(
      "p",
      { class: "muted small" },
      t("new.plan.runtime", { bytes: bytes(device.runtime_bytes) }),
      onHost ? ` ${t("new.plan.host", { bytes: bytes(onHost) })}` : "",
    ),
  );
}

function remedy(plan) {
  const found = plan.remedy;
  if (found === null) {
    return h(
      "div",
      { class: "notice" },
      icon("warn"),
      h(
        "div",
        { class: "stack" },
        h("p", {}, t("new.plan.no_remedy")),
        h(
          "div",
          { class: "actions" },
          h("button", { type: "button", class: "button", onclick: () => go("model") }, t("new.plan.other_model")),
        ),
      ),
    );
  }
  const take = h(
    "button",
    { type: "button", class: "button primary", id: "take-remedy", onclick: () => change(found.changes) },
    t("new.plan.take"),
  );
  return h(
    "div",
    { class: "notice" },
    icon("info"),
    h(
      "div",
      { class: "stack" },
      h(
        "p",
        {},
        t("new.plan.remedy"),
        " ",
        h("code", {}, found.changes.join(" ")),
        " ",
        h("span", { class: "muted" }, t("new.plan.then", { bytes: bytes(found.peak_bytes) })),
      ),
      found.only_proposed ? h("p", { class: "muted small" }, t("new.plan.proposed")) : null,
      h("div", { class: "actions" }, take),
    ),
  );
}

function drawTime(place, plan) {
  const { speed, rows, largest } = plan;
  const facts = [];
  const fact = (name, value) => facts.push(h("dt", {}, t(name)), h("dd", {}, value));
  if (speed) {
    if (speed.run_s !== null) fact("new.plan.time.run", duration(speed.run_s));
    fact("new.plan.time.step", duration(speed.step_s));
    if (speed.steps !== null) fact("new.plan.time.steps", count(speed.steps));
    fact("new.plan.time.rate", t("new.plan.time.rate_value", { rate: count(speed.tokens_per_s) }));
  }
  fact(
    "new.plan.rows",
    rows.rows === null
      ? t("new.plan.rows.unknown")
      : t("new.plan.rows.value", { rows: count(rows.rows), tokens: count(rows.tokens) }),
  );
  fact("new.plan.longest", t("new.tokens", { tokens: count(rows.longest) }));
  if (plan.memory.answer_texts) fact("new.plan.answers", count(plan.memory.answer_texts));
  fact("new.plan.context", t("new.tokens", { tokens: count(largest.context_tokens) }));
  fact(
    "new.plan.trainable",
    t("new.plan.trainable_value", {
      trainable: count(plan.trainable),
      parameters: count(plan.model.parameters),
      share: percent(plan.trainable / plan.model.parameters, 1),
    }),
  );
  clear(
    place,
    h("h2", {}, t("new.plan.time")),
    speed ? null : h("p", {}, t("new.time.unknown")),
    rows.assumed
      ? h(
          "div",
          { class: "notice" },
          icon("info"),
          h(
            "p",
            {},
            t("new.plan.assumed"),
            " ",
            isStaged()
              ? null
              : h(
                  "button",
                  { type: "button", class: "button small", onclick: () => go("data") },
                  t("new.plan.to_data"),
                ),
          ),
        )
      : null,
    h("dl", { class: "facts" }, facts),
  );
}
