// GGUF files: which types, how large, and what goes with them.
//
// What goes in: sizes known before anything is made. What comes out: an order for the types that are chosen.

import { h, icon, unique } from "../../lib/dom.js";
import { bytes } from "../../lib/format.js";
import { has, t } from "../../lib/i18n.js";

const USUAL = ["q4_k_m", "q5_k_m", "q8_0", "f16"];
const FIRST = "q4_k_m";

export function ggufForm(told, work, start) {
  const boxes = new Map();
  const ollama = h("input", { type: "checkbox" });
  const total = h("p", { class: "small", role: "status" });
  const button = h("button", { type: "submit", class: "button primary" }, t("export.gguf.write"));
  const chosen = () => told.gguf.filter((each) => boxes.get(each.type).checked);

  function count() {
    const size = chosen().reduce((sum, each) => sum + each.bytes, 0);
    button.disabled = !size;
    total.textContent = t("export.room", { size: bytes(size), free: bytes(told.free_bytes) });
    total.classList.toggle("bad", size > told.free_bytes);
  }

  function row(each) {
    const id = unique("type");
    const box = h("input", {
      type: "checkbox",
      id,
      checked: each.type === FIRST,
      disabled: each.needs_extra,
      onchange: count,
    });
    boxes.set(each.type, box);
    const help = each.needs_extra
      ? t("export.gguf.needs_extra")
      : has(`export.type.${each.type}`)
        ? t(`export.type.${each.type}`)
        : "";
    return h(
      "tr",
      {},
      h("td", {}, box),
      h("th", { scope: "row" }, h("label", { for: id }, h("code", {}, each.type))),
      h("td", { class: "number" }, bytes(each.bytes)),
      h("td", { class: "muted small" }, help),
    );
  }

  const table = (list) =>
    h(
      "div",
      { class: "table-scroll" },
      h(
        "table",
        { class: "table types" },
        h(
          "thead",
          { class: "sr" },
          h(
            "tr",
            {},
            ["export.gguf.choose", "export.gguf.type", "export.size", "export.gguf.about"].map((id) =>
              h("th", { scope: "col" }, t(id)),
            ),
          ),
        ),
        h("tbody", {}, list.map(row)),
      ),
    );
  const usual = USUAL.flatMap((name) => told.gguf.filter((each) => each.type === name));
  const others = told.gguf.filter((each) => !USUAL.includes(each.type)).sort((a, b) => a.bytes - b.bytes);

  function submit(event) {
    event.preventDefault();
    start(button, work, "export", {
      types: chosen().map((each) => each.type),
      ollama: ollama.checked,
      out: told.out.gguf,
    });
  }

  const form = h(
    "form",
    { class: "stack", onsubmit: submit },
    told.extras.gguf ? null : h("p", { class: "notice" }, icon("info"), h("span", {}, t("export.gguf.no_extra"))),
    table(usual),
    h("details", {}, h("summary", {}, t("export.gguf.others", { count: others.length })), table(others)),
    h(
      "label",
      { class: "check" },
      ollama,
      h("span", {}, t("export.ollama"), h("span", { class: "muted small block" }, t("export.ollama.help"))),
    ),
    total,
    h("div", { class: "actions" }, button),
    work.element,
  );
  count();
  return form;
}

// The adapter alone, for a llama.cpp that has the base.
export function loraForm(told, work, start) {
  const kind = h(
    "select",
    { "aria-label": t("export.lora.type") },
    told.lora_gguf.map((each) => h("option", { value: each.type }, `${each.type} · ${bytes(each.bytes)}`)),
  );
  const button = h("button", { type: "submit", class: "button" }, t("export.lora.write"));
  const submit = (event) => {
    event.preventDefault();
    start(button, work, "export", { lora_type: kind.value, out: told.out.gguf });
  };
  return h("form", { class: "stack", onsubmit: submit }, h("div", { class: "actions" }, kind, button), work.element);
}
