// Bringing files: dropped or chosen here and uploaded, picked from a folder of the server's, or pasted as text.
//
// What goes in: a person's files. What comes out: their paths there, as a recipe names them.

import { get, part, post, put } from "../../lib/api.js";
import { clear, h, icon, toast, unique } from "../../lib/dom.js";
import { bytes } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";
import { showProblems } from "./parts.js";
import { note, state } from "./state.js";

// first: whether nothing has been brought yet. add(paths) takes what was.
export function adder(first, add) {
  const refused = h("div", { class: "problems", role: "alert", hidden: true });
  const progress = h("div", { class: "stack", role: "status", "aria-live": "polite" });
  const below = h("div", {});

  async function upload(list) {
    showProblems(refused, []);
    const paths = [];
    for (const file of list) {
      const bar = h("progress", { max: 1, value: 0, "aria-label": t("new.data.uploading", { name: file.name }) });
      clear(
        progress,
        h(
          "p",
          { class: "small" },
          t("new.data.uploading", { name: file.name }),
          " ",
          h("span", { class: "muted" }, bytes(file.size)),
        ),
        bar,
      );
      try {
        const made = await put(`files/${part(file.name)}`, file, (sent, all) => (bar.value = all ? sent / all : 0));
        paths.push(made.path);
      } catch (error) {
        if (!Array.isArray(error.problems)) throw error;
        showProblems(refused, error.problems);
      }
    }
    clear(progress);
    if (paths.length) await add(paths);
  }

  const input = h("input", {
    type: "file",
    multiple: true,
    class: "sr",
    id: unique("file"),
    onchange: () => upload([...input.files]),
  });
  const drop = h(
    "div",
    { class: `drop${first ? "" : " slim"}` },
    icon("export"),
    h("p", { class: "strong" }, t("new.data.drop")),
    h("p", { class: "muted small" }, t("new.data.kinds")),
    h(
      "div",
      { class: "actions" },
      input,
      h("label", { for: input.id, class: `button ${first ? "primary" : ""}` }, icon("file"), t("new.data.upload")),
      h("button", { type: "button", class: "button", onclick: () => browse() }, icon("folder"), t("new.data.browse")),
      h("button", { type: "button", class: "button", onclick: () => paste() }, icon("copy"), t("new.data.paste")),
    ),
  );
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    upload([...event.dataTransfer.files]);
  });

  async function browse(dir = state.browsed) {
    let listing;
    try {
      listing = await get("files", { dir: dir || null });
    } catch (error) {
      if (!Array.isArray(error.problems)) throw error;
      if (dir) return browse("");
      return showProblems(refused, error.problems);
    }
    note({ browsed: listing.dir });
    const open = (each) =>
      h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "button plain entry", onclick: () => browse(each.path) },
          icon("folder"),
          h("bdi", { class: "break" }, each.name),
        ),
      );
    const file = (each) =>
      h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "button plain entry", onclick: () => take(each.path) },
          icon("file"),
          h("bdi", { class: "break" }, each.name),
          h("span", { class: "muted small" }, bytes(each.bytes)),
        ),
      );
    const folders = listing.entries.filter((each) => each.folder);
    const data = listing.entries.filter((each) => !each.folder && each.data);
    const heading = h(
      "h3",
      { tabindex: "-1" },
      t("new.data.folder"),
      " ",
      h("bdi", { class: "break muted" }, listing.dir),
    );
    clear(
      below,
      h(
        "div",
        { class: "browser" },
        heading,
        h(
          "div",
          { class: "actions" },
          listing.parent === null
            ? null
            : h(
                "button",
                { type: "button", class: "button small", onclick: () => browse(listing.parent) },
                icon("up"),
                t("new.data.up"),
              ),
          data.length > 1
            ? h(
                "button",
                { type: "button", class: "button small", onclick: () => take(listing.dir) },
                t("new.data.whole_folder", { count: data.length }),
              )
            : null,
          closer(),
        ),
        folders.length || data.length
          ? h("ul", { class: "entries" }, folders.map(open), data.map(file))
          : h("p", { class: "muted" }, t("new.data.empty_folder")),
      ),
    );
    heading.focus();
    return undefined;
  }

  function take(path) {
    clear(below);
    add([path]);
  }

  function closer() {
    return h(
      "button",
      {
        type: "button",
        class: "button plain small",
        onclick: () => (clear(below), drop.querySelector("button").focus()),
      },
      t("new.close"),
    );
  }

  function paste() {
    const text = h("textarea", {
      id: unique("paste"),
      rows: 8,
      spellcheck: "false",
      dir: "auto",
      placeholder: '{"instruction": "…", "output": "…"}',
      class: "mono",
    });
    const name = h("input", { type: "text", id: unique("paste"), autocomplete: "off", value: "pasted" });
    const kind = h(
      "select",
      { id: unique("paste") },
      ["jsonl", "json", "csv", "txt"].map((each) => h("option", { value: each }, t(`new.data.kind.${each}`))),
    );
    let chosen = false;
    kind.addEventListener("change", () => (chosen = true));
    text.addEventListener("input", () => {
      if (!chosen) kind.value = guess(text.value);
    });
    const save = h("button", { type: "submit", class: "button primary" }, t("new.data.paste.save"));
    async function send(event) {
      event.preventDefault();
      if (!text.value.trim()) return text.focus();
      save.disabled = true;
      try {
        const made = await post("files/paste", {
          name: `${name.value.trim() || "pasted"}.${kind.value}`,
          text: text.value,
        });
        toast(t("new.data.saved", { path: made.path }), "good");
        take(made.path);
      } catch (error) {
        if (!Array.isArray(error.problems)) throw error;
        showProblems(refused, error.problems);
      } finally {
        save.disabled = false;
      }
    }
    clear(
      below,
      h(
        "form",
        { class: "paste stack", onsubmit: send },
        h("div", { class: "field" }, h("label", { for: text.id }, t("new.data.paste.text")), text),
        h(
          "div",
          { class: "row" },
          h("div", { class: "field" }, h("label", { for: name.id }, t("new.data.paste.name")), name),
          h("div", { class: "field" }, h("label", { for: kind.id }, t("new.data.paste.kind")), kind),
        ),
        h("div", { class: "actions" }, save, closer()),
      ),
    );
    text.focus();
  }

  return h("div", { class: "stack" }, drop, progress, refused, below);
}

// What kind of file a text most likely is.
function guess(text) {
  const start = text.trimStart();
  if (start.startsWith("[")) return "json";
  if (start.startsWith("{")) return "jsonl";
  const [first = "", second = ""] = start.split("\n");
  const commas = first.split(",").length;
  return commas > 1 && second.split(",").length >= commas ? "csv" : "txt";
}
