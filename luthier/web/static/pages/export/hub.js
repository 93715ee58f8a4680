// To a hub: first what would be sent, then, once that was seen, the sending.
//
// What goes in: a repository's name and what of the run is to go there. What comes out: what would change there; then
// one commit, or none.

import { clear, field, h, icon } from "../../lib/dom.js";
import { bytes } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";

export function hubForm(told, work, start) {
  const repo = h("input", {
    type: "text",
    required: true,
    placeholder: t("export.hub.placeholder"),
    autocomplete: "off",
    spellcheck: "false",
    pattern: "[^\\s\\/]+\\/[^\\s\\/]+",
    oninput: anew,
  });
  const results = [
    ...new Set(
      told.made.map(
        (each) => ({ adapter: "adapter", model: "model", merged: "model", gguf: "gguf", lora_gguf: "gguf" })[each.what],
      ),
    ),
  ];
  const what = h(
    "select",
    { onchange: anew },
    results.map((name) => h("option", { value: name }, t(`export.hub.what.${name}`))),
  );
  const isPublic = h("input", { type: "checkbox", onchange: anew });
  const adds = h("input", { type: "checkbox", onchange: anew });
  const look = h("button", { type: "submit", class: "button" }, t("export.hub.look"));
  const send = h(
    "button",
    { type: "button", class: "button primary", hidden: true, onclick: () => push(send, false) },
    icon("export"),
    t("export.hub.send"),
  );
  const seen = h("div");
  const fields = () => ({ repo: repo.value.trim(), what: what.value, public: isPublic.checked, add: adds.checked });

  // What was looked at is no longer what would be sent.
  function anew() {
    send.hidden = true;
    clear(seen);
  }

  async function push(button, dry_run) {
    clear(seen);
    const done = await start(button, work, "push", { ...fields(), dry_run });
    if (done?.state !== "done") return;
    clear(work.element);
    clear(seen, shown(done.result));
    send.hidden = !dry_run;
  }

  function submit(event) {
    event.preventDefault();
    send.hidden = true;
    push(look, true);
  }

  return h(
    "form",
    { class: "stack", onsubmit: submit },
    h(
      "div",
      { class: "grid" },
      field({ label: t("export.hub.repo"), help: t("export.hub.repo.help"), input: repo }),
      field({ label: t("export.hub.what"), input: what }),
    ),
    h("label", { class: "check" }, isPublic, t("export.hub.public")),
    h("label", { class: "check" }, adds, t("export.hub.add")),
    h("div", { class: "actions" }, look, send),
    work.element,
    seen,
  );
}

function shown(result) {
  const column = (id, look = "") => h("th", { scope: "col", class: look }, t(id));
  const sent = result.commit !== null;
  return h(
    "div",
    { class: "stack", role: "status" },
    h(
      "p",
      { class: sent ? "good" : "" },
      t(sent ? "export.hub.sent" : result.dry_run ? "export.hub.dry" : "export.hub.nothing_new"),
      " ",
      h("span", { class: "break" }, result.url),
      " ",
      h("span", { class: "muted" }, t(result.public ? "export.hub.is_public" : "export.hub.is_private")),
    ),
    h(
      "div",
      { class: "table-scroll" },
      h(
        "table",
        { class: "table" },
        h("thead", {}, h("tr", {}, column("export.file"), column("export.size"), column("export.hub.change"))),
        h(
          "tbody",
          {},
          Object.entries(result.changes).map(([name, change]) =>
            h(
              "tr",
              {},
              h("th", { scope: "row", class: "break" }, name),
              h("td", { class: "number" }, bytes(result.bytes[name])),
              h("td", {}, t(`export.hub.change.${change}`)),
            ),
          ),
        ),
      ),
    ),
    result.left_out.length
      ? h("p", { class: "small muted break" }, t("export.hub.left_out", { files: result.left_out.join(", ") }))
      : null,
    result.others.length
      ? h("p", { class: "small muted break" }, t("export.hub.others", { files: result.others.join(", ") }))
      : null,
    result.notes.map((note) => h("p", { class: "notice" }, icon("info"), h("span", { class: "said" }, note))),
  );
}
