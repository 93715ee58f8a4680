// Export: what a run has come to, and everything that can be made of it, with its size before and its checks after.
//
// What goes in: a run's name. What comes out: folders beside the run, complete or not at all, and downloads.

import { get, part } from "../lib/api.js";
import { clear, h, icon, problems } from "../lib/dom.js";
import { bytes } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { runLink } from "../lib/runs.js";
import { ggufForm, loraForm } from "./export/gguf.js";
import { hubForm } from "./export/hub.js";
import { madeCard } from "./export/made.js";
import { Work } from "./export/work.js";

const NO_MERGE = "export.disagrees";
// Why a merge was not written, which may be overruled.

export async function show(root, { path }) {
  if (!path.length) return choose(root);
  const name = path[0];
  const place = `runs/${part(name)}/exports`;
  let told = await get(place);
  const made = h("section", { class: "panel", "aria-labelledby": "made-title" });
  const work = {
    merge: new Work({ onDone: look }),
    gguf: new Work({ onDone: look }),
    lora: new Work({ onDone: look }),
    push: new Work({ onDone: () => {} }),
  };
  clear(
    root,
    h(
      "div",
      { class: "page-head" },
      h("h1", {}, t("export.title", { run: name })),
      h(
        "div",
        { class: "actions" },
        h("a", { class: "button", href: runLink(name) }, icon("back"), t("export.to_run")),
        h("a", { class: "button", href: `#/chat?target=${part(name)}` }, icon("chat"), t("export.to_chat")),
      ),
    ),
    made,
    told.merged ? panel("merge", t("export.merge"), t("export.merge.text"), mergeForm()) : null,
    told.gguf.length ? panel("gguf", t("export.gguf"), t("export.gguf.text"), ggufForm(told, work.gguf, start)) : null,
    told.lora_gguf.length
      ? panel("lora", t("export.lora"), t("export.lora.text"), loraForm(told, work.lora, start))
      : null,
    told.problems.length ? panel("cannot", t("export.cannot"), null, problems(told.problems)) : null,
    panel("push", t("export.hub"), t("export.hub.text"), hubForm(told, work.push, start)),
  );
  draw();
  join();

  function panel(id, title, text, body) {
    return h(
      "section",
      { class: "panel", "aria-labelledby": `${id}-title`, dataset: { make: id } },
      h("h2", { id: `${id}-title` }, title),
      text ? h("p", { class: "muted" }, text) : null,
      body,
    );
  }

  function draw() {
    clear(made, h("h2", { id: "made-title" }, t("export.made")), told.made.map(madeCard));
  }

  // What has been made is there now, and the next has another place.
  async function look() {
    const now = await get(place);
    Object.assign(told, now);
    draw();
  }

  function start(button, at, kind, fields) {
    return at.start(button, kind, { run: name, ...fields });
  }

  async function join() {
    const { jobs } = await get("jobs");
    for (const each of jobs.filter((job) => job.state === "running" && job.run === name)) {
      const at = each.kind === "export" ? (each.arguments.lora_type ? "lora" : "gguf") : each.kind;
      if (work[at]) work[at].join(await get(`jobs/${part(each.id)}`));
    }
  }

  function mergeForm() {
    const strength = h("input", { type: "number", min: 0, max: 1.5, step: 0.05, value: 1 });
    const button = h("button", { type: "submit", class: "button primary" }, t("export.merge.go"));
    const anyway = h(
      "button",
      { type: "button", class: "button danger", hidden: true, onclick: () => merge(anyway, true) },
      t("export.merge.force"),
    );

    async function merge(control, force) {
      anyway.hidden = true;
      const value = Number(strength.value);
      const done = await start(control, work.merge, "merge", {
        ...(value === 1 ? {} : { strength: value }),
        ...(force ? { force } : {}),
        out: told.out.merged,
      });
      anyway.hidden = !done?.problems.some((each) => each.id === NO_MERGE);
    }

    const submit = (event) => {
      event.preventDefault();
      merge(button, false);
    };
    const room = h(
      "p",
      { class: `small ${told.merged.bytes > told.free_bytes ? "bad" : ""}` },
      t("export.room", { size: bytes(told.merged.bytes), free: bytes(told.free_bytes) }),
    );
    return h(
      "form",
      { class: "stack", onsubmit: submit },
      room,
      h(
        "details",
        {},
        h("summary", {}, t("export.more")),
        h("label", { class: "check" }, t("export.strength"), strength),
      ),
      h("div", { class: "actions" }, button, anyway),
      work.merge.element,
    );
  }
}

// No run is named: which are there.
async function choose(root) {
  const { runs } = await get("runs");
  const finished = runs.filter((run) => run.state === "finished");
  root.append(
    h("h1", {}, t("export.choose")),
    h(
      "section",
      { class: "panel" },
      finished.length
        ? h(
            "ul",
            { class: "queue" },
            finished.map((run) =>
              h("li", {}, h("a", { class: "break", href: `#/export/${part(run.name)}` }, run.name)),
            ),
          )
        : h("p", { class: "muted" }, t("export.none")),
    ),
  );
}
