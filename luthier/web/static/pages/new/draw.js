// Small charts of a data report.
//
// What goes in: numbers that the report has counted already. What comes out: an SVG histogram and rows of bars, each
// with the same numbers as text for those who do not see it.

import { h, svg } from "../../lib/dom.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/i18n.js";

const WIDEST = 720;
const HEIGHT = 180;
const LEFT = 48;
const TOP = 20;
const BOTTOM = 24;
const TICK = 100;
// Between the numbers below the bars.

// bins: [{low, high, rows}], of equal width; bound: a length beyond which rows are too long, drawn where it is near.
export function histogram(bins, { label, bound = null }) {
  // Drawn as wide as it is shown, so that its words are of the page's size.
  const width = Math.min(WIDEST, Math.max(window.innerWidth - 68, 240));
  const first = Math.max(
    bins.findIndex((bin) => bin.rows > 0),
    0,
  );
  const shown = bins.slice(first);
  const low = shown[0].low;
  const near = bound !== null && bound <= 2 * shown.at(-1).high;
  const high = near ? Math.max(shown.at(-1).high, bound * 1.04) : shown.at(-1).high;
  const most = Math.max(...shown.map((bin) => bin.rows), 1);
  const x = (value) => LEFT + ((value - low) / (high - low)) * (width - LEFT - 8);
  const y = (rows) => HEIGHT - BOTTOM - (rows / most) * (HEIGHT - BOTTOM - TOP);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    class: "histogram",
    "aria-hidden": "true",
    focusable: "false",
  });
  for (const rows of [most, most / 2]) {
    picture.append(svg("line", { class: "guide", x1: LEFT, x2: width - 8, y1: y(rows), y2: y(rows) }));
    picture.append(svg("text", { x: LEFT - 8, y: y(rows) + 4, "text-anchor": "end" }, count(rows)));
  }
  for (const bin of shown) {
    if (!bin.rows) continue;
    const left = x(bin.low);
    const bar = svg("rect", {
      class: near && bin.low >= bound ? "bin over" : "bin",
      x: left + 0.5,
      width: Math.max(x(bin.high) - left - 1, 1),
      y: y(bin.rows),
      height: Math.max(HEIGHT - BOTTOM - y(bin.rows), 1),
    });
    bar.append(
      svg("title", {}, t("new.chart.bin", { low: count(bin.low), high: count(bin.high), rows: count(bin.rows) })),
    );
    picture.append(bar);
  }
  picture.append(svg("line", { class: "axis", x1: LEFT, x2: width - 8, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  const every = Math.max(Math.ceil((shown.length * TICK) / (width - LEFT)), 1);
  for (let index = 0; index <= shown.length; index += every) {
    const value = index < shown.length ? shown[index].low : shown.at(-1).high;
    picture.append(
      svg(
        "text",
        {
          x: x(value),
          y: HEIGHT - 6,
          "text-anchor": index === 0 ? "start" : index === shown.length ? "end" : "middle",
        },
        count(value),
      ),
    );
  }
  if (near) {
    picture.append(svg("line", { class: "bound", x1: x(bound), x2: x(bound), y1: TOP - 6, y2: HEIGHT - BOTTOM }));
    picture.append(
      svg(
        "text",
        { class: "bound-word", x: x(bound) - 6, y: TOP - 6, "text-anchor": "end" },
        t("new.chart.bound", { bound: count(bound) }),
      ),
    );
  }
  return h("figure", { class: "drawing" }, h("figcaption", { class: "muted small" }, label), picture, asTable(shown));
}

function asTable(bins) {
  const rows = bins
    .filter((bin) => bin.rows > 0)
    .map((bin) =>
      h("tr", {}, h("th", { scope: "row" }, `${count(bin.low)} – ${count(bin.high)}`), h("td", {}, count(bin.rows))),
    );
  return h(
    "details",
    {},
    h("summary", {}, t("new.chart.numbers")),
    h(
      "div",
      { class: "table-scroll short", tabindex: "0", role: "region", "aria-label": t("new.chart.numbers") },
      h(
        "table",
        { class: "table numbers" },
        h(
          "thead",
          {},
          h("tr", {}, h("th", { scope: "col" }, t("new.chart.length")), h("th", { scope: "col" }, t("new.chart.rows"))),
        ),
        h("tbody", {}, rows),
      ),
    ),
  );
}

// rows: [[text, number]], as bars of lengths in proportion.
export function bars(rows, label) {
  const most = Math.max(...rows.map(([, number]) => number), 1);
  return h(
    "table",
    { class: "table bars" },
    h("caption", { class: "sr" }, label),
    h(
      "tbody",
      {},
      rows.map(([text, number]) => {
        const bar = h("span", { class: "bar-piece" });
        bar.style.width = `${(100 * number) / most}%`;
        return h(
          "tr",
          {},
          h("th", { scope: "row" }, h("bdi", { class: "break" }, text)),
          h("td", { class: "bar-cell" }, bar),
          h("td", { class: "number" }, count(number)),
        );
      }),
    ),
  );
}

// Two parts of a whole, with their shares in words.
export function shares(parts) {
  const whole = Math.max(
    parts.reduce((sum, part) => sum + part.number, 0),
    1,
  );
  return h(
    "div",
    { class: "shares" },
    h(
      "div",
      { class: "share-bar", "aria-hidden": "true" },
      parts.map((part) => {
        const piece = h("span", { class: `share-piece ${part.class}` });
        piece.style.width = `${(100 * part.number) / whole}%`;
        return piece;
      }),
    ),
    h(
      "ul",
      { class: "legend" },
      parts.map((part) =>
        h(
          "li",
          { class: "legend-item" },
          h("span", { class: `dot ${part.class}`, "aria-hidden": "true" }),
          `${part.label} ${count(part.number)} (${((100 * part.number) / whole).toFixed(1)} %)`,
        ),
      ),
    ),
  );
}
