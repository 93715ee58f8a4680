// Curves of a run.
//
// What goes in: columns of numbers, x first, null where there is none; rows one by one as they come. What comes out: a
// figure with a picture, a legend that follows the pointer, a sentence for who cannot see it, and the same as a table.
// However many rows come at once, drawing takes at most DRAW_MS of a frame, and the rest of it waits for the next one.

import uPlot from "../vendor/uPlot.esm.js";
import { h, clear, svg } from "./dom.js";
import { t } from "./i18n.js";
import { count, number } from "./format.js";

const DRAW_MS = 8;
const BETWEEN_MS = 200;
// Five pictures a second look live, and leave a phone cool.
const TABLE_ROWS = 40;
const HEIGHT = 220;
const WHOLE = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();
// Between the ticks of an axis of steps.

// ------------------------------------------------------------------------------------------------ drawing in turns

const dirty = new Set();
let planned = false;

function later(draw) {
  dirty.add(draw);
  if (planned) return;
  planned = true;
  setTimeout(() => requestAnimationFrame(turn), BETWEEN_MS);
}

function turn() {
  const end = performance.now() + DRAW_MS;
  for (const draw of dirty) {
    dirty.delete(draw);
    draw();
    if (performance.now() > end) break;
  }
  planned = dirty.size > 0;
  if (planned) requestAnimationFrame(turn);
}

// ------------------------------------------------------------------------------------------------ colours

let colours = new Map();

// What the variable comes to: it says a colour for light and one for dark.
function colour(name) {
  if (!colours.has(name)) {
    const probe = h("i", { hidden: true, style: { color: `var(${name})` } });
    document.body.append(probe);
    colours.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return colours.get(name);
}

function recolour() {
  colours = new Map();
}

window.addEventListener("luthier:theme", recolour);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);

// The CSS variable of the nth curve's colour.
export const palette = (index) => `--series-${(index % 6) + 1}`;

// ------------------------------------------------------------------------------------------------ smoothing

// An exponential mean that weighs what it has seen so far, so that it starts at the first value and not at zero.
function smoothed(column, keep) {
  let [sum, weight] = [0, 0];
  return column.map((value) => {
    if (value === null) return null;
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

// ------------------------------------------------------------------------------------------------ columns

// Tables [x, y...] of different x as one: the union of all x, with null where a table has no row.
export function join(tables) {
  const filled = tables.filter((table) => table[0].length);
  if (!filled.length) return tables.length ? [[], ...tables.flatMap((table) => table.slice(1).map(() => []))] : [[]];
  const xs = [...new Set(filled.flatMap((table) => Array.from(table[0])))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, index) => [x, index]));
  const columns = [xs];
  for (const [x, ...ys] of tables) {
    for (const y of ys) {
      const column = new Array(xs.length).fill(null);
      for (let index = 0; index < x.length; index += 1) column[place.get(x[index])] = y[index] ?? null;
      columns.push(column);
    }
  }
  return columns;
}

// ------------------------------------------------------------------------------------------------ a chart

// series: [{label, color: a CSS variable's name, points: true for single measurements, smooth: false where it has no
// noise}]. log: y in powers of ten. smooth: 0 to 0.99. format: of y values. x: what the x axis counts. sync: charts
// of one name share the pointer. onZoom(from, to): a stretch of x was chosen; (null, null) is all of it. Without it
// the chart zooms by itself.
export function chart(
  parent,
  {
    title,
    series,
    log = false,
    smooth = 0,
    height = HEIGHT,
    format = number,
    x = t("common.step"),
    sync = null,
    onZoom = null,
  },
) {
  let columns = [[], ...series.map(() => [])];
  let logarithmic = log;
  let keep = smooth;
  let range = null;
  let plot = null;
  let gone = false;

  const values = series.map(() => h("span", { class: "legend-value" }));
  const where = h("span", { class: "legend-x muted" });
  const legend = h(
    "div",
    { class: "legend", "aria-hidden": "true" },
    series.map((each, index) =>
      h(
        "span",
        { class: "legend-item" },
        series.length > 1
          ? [
              h("span", { class: "swatch", style: { background: `var(${each.color})` } }),
              h("span", { class: "legend-label" }, each.label),
            ]
          : null,
        values[index],
      ),
    ),
    where,
  );
  const drawing = { class: "chart-host", role: "img", "aria-label": title };
  const host = h("div", { ...drawing, style: { "min-height": `${height}px` } });
  const rows = h("div", {
    class: "table-scroll",
    tabindex: "0",
    role: "region",
    "aria-label": t("common.chart.table_of", { title }),
  });
  const details = h(
    "details",
    { class: "chart-table", ontoggle: fillTable },
    h("summary", {}, t("common.chart.table")),
    rows,
  );
  const figure = h("figure", { class: "chart" }, h("figcaption", {}, h("h3", {}, title), legend), host, details);
  parent.append(figure);

  const isSmooth = (each) => keep > 0 && each.smooth !== false && !each.points;

  // What uPlot sees: the values as they are, then the smoothed ones. A logarithm shows what is above zero.
  function data() {
    const ys = columns.slice(1);
    const raw = logarithmic ? ys.map((column) => column.map((y) => (y > 0 ? y : null))) : ys;
    return [
      columns[0],
      ...raw,
      ...series.map((each, index) =>
        isSmooth(each) ? smoothed(raw[index], keep) : new Array(columns[0].length).fill(null),
      ),
    ];
  }

  function build() {
    plot?.destroy();
    const width = Math.max(host.clientWidth, 50);
    plot = new uPlot(options(width), data(), host);
    narrow();
  }

  // To the stretch of x that is asked for, where one is.
  function narrow() {
    if (range) plot.setScale("x", { min: range[0] ?? columns[0][0], max: range[1] ?? columns[0].at(-1) });
  }

  function options(width) {
    const grid = { stroke: () => colour("--line"), width: 1 };
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: () => colour("--muted"), grid, ticks: { ...grid, size: 4 }, font };
    const line = (each, thick) => ({
      label: each.label,
      width: thick,
      spanGaps: true,
      points: { show: Boolean(each.points), size: 6, fill: () => colour(each.color), stroke: () => colour(each.color) },
    });
    return {
      width,
      height,
      legend: { show: false },
      cursor: {
        points: { size: 6 },
        drag: { x: true, y: false, setScale: !onZoom },
        ...(sync ? { sync: { key: sync, setSeries: false } } : {}),
      },
      scales: { x: { time: false }, y: logarithmic ? { distr: 3 } : {} },
      axes: [
        { ...axis, size: 30, incrs: WHOLE, values: (_, ticks) => ticks.map(count) },
        { ...axis, size: wide, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : format(tick))) },
      ],
      series: [
        {},
        ...series.map((each) => ({
          ...line(each, 1.5),
          stroke: () =>
            isSmooth(each) ? `color-mix(in srgb, ${colour(each.color)} 35%, transparent)` : colour(each.color),
        })),
        ...series.map((each) => ({ ...line(each, 2), points: { show: false }, stroke: () => colour(each.color) })),
      ],
      hooks: {
        setCursor: [() => tellLegend()],
        setSelect: [
          (self) => {
            if (!onZoom || self.select.width < 4) return;
            const [from, to] = [
              self.posToVal(self.select.left, "x"),
              self.posToVal(self.select.left + self.select.width, "x"),
            ];
            self.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
            onZoom(Math.floor(from), Math.ceil(to));
          },
        ],
        ready: [(self) => onZoom && self.over.addEventListener("dblclick", () => onZoom(null, null))],
      },
    };
  }

  // The y axis is as wide as its longest label.
  function wide(self, labels, index, cycle) {
    if (cycle > 1) return self.axes[index]._size;
    const longest = (labels ?? []).reduce((long, label) => (label.length > long.length ? label : long), "");
    if (!longest) return 40;
    self.ctx.font = self.axes[index].font[0];
    return Math.ceil(self.ctx.measureText(longest).width / devicePixelRatio) + 16;
  }

  // Under the pointer, else the last values.
  function tellLegend() {
    const under = plot?.cursor.idx;
    const pointed = under !== null && under !== undefined && plot.cursor.left >= 0;
    series.forEach((_, index) => {
      const shown = columns[index + 1];
      const value = pointed ? before(shown, under) : lastOf(shown)?.[0];
      values[index].textContent = value === null || value === undefined ? "" : format(value);
    });
    where.textContent = pointed ? `${x} ${count(columns[0][under])}` : "";
  }

  function before(column, index) {
    for (let at = index; at >= 0; at -= 1) if (column[at] !== null) return column[at];
    return null;
  }

  function lastOf(column) {
    for (let index = column.length - 1; index >= 0; index -= 1) {
      if (column[index] !== null && column[index] !== undefined) return [column[index], columns[0][index]];
    }
    return null;
  }

  // Where an x stands, or would; nearly always behind the last one.
  function at(x) {
    const xs = columns[0];
    let [low, high] = [xs.length && xs[xs.length - 1] < x ? xs.length : 0, xs.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function draw() {
    if (gone) return;
    if (plot) {
      plot.setData(data(), range === null);
      // uPlot does not fit y to what is in a range of x unless it is told the range again.
      narrow();
    } else if (columns[0].length) build();
    host.setAttribute("aria-label", inWords());
    host.classList.toggle("empty", !columns[0].length);
    host.dataset.empty = t("common.chart.empty");
    tellLegend();
    if (details.open) fillTable();
  }

  function inWords() {
    const parts = series.map((each, index) => {
      const last = lastOf(columns[index + 1]);
      if (!last) return t("common.chart.none", { label: each.label });
      let [least, most] = [Infinity, -Infinity];
      for (const y of columns[index + 1]) {
        if (y === null) continue;
        if (y < least) least = y;
        if (y > most) most = y;
      }
      return t("common.chart.last", {
        label: each.label,
        value: format(last[0]),
        x,
        at: count(last[1]),
        least: format(least),
        most: format(most),
      });
    });
    return `${title}. ${parts.join(" ")}`;
  }

  function fillTable() {
    if (!details.open) return;
    const all = columns[0].length;
    const step = Math.max(1, Math.ceil(all / TABLE_ROWS));
    const picked = [];
    for (let index = all - 1; index >= 0; index -= step) picked.push(index);
    for (const [number, each] of series.entries()) {
      if (each.points)
        for (let index = 0; index < all; index += 1)
          if (columns[number + 1][index] !== null && picked.length < 3 * TABLE_ROWS) picked.push(index);
    }
    const chosen = [...new Set(picked)].sort((a, b) => a - b);
    const table = h(
      "table",
      { class: "table numbers" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, x),
          series.map((each) => h("th", { scope: "col" }, each.label)),
        ),
      ),
      h(
        "tbody",
        {},
        chosen.map((index) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, count(columns[0][index])),
            columns.slice(1).map((column) => h("td", {}, column[index] === null ? "" : format(column[index]))),
          ),
        ),
      ),
    );
    clear(rows, table);
  }

  const watcher = new ResizeObserver(() => {
    if (plot && host.clientWidth && Math.abs(host.clientWidth - plot.width) > 1)
      plot.setSize({ width: host.clientWidth, height });
  });
  watcher.observe(host);
  const redraw = () => plot?.redraw(false, true);
  window.addEventListener("luthier:theme", redraw);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", redraw);

  later(draw);
  return {
    // All values anew.
    set(all) {
      columns = all.map((column) => Array.from(column, (value) => value ?? null));
      later(draw);
    },
    // One more row [x, y...], at its place; of an x that is there already, it fills in what is told.
    append(row) {
      const place = at(row[0]);
      if (columns[0][place] !== row[0])
        columns.forEach((column, index) => column.splice(place, 0, index === 0 ? row[0] : null));
      for (let index = 1; index < row.length; index += 1)
        if (row[index] !== null && row[index] !== undefined) columns[index][place] = row[index];
      later(draw);
    },
    // Takes back what the first `own` curves have behind an x: a resume goes on from there.
    cut(behind, own = series.length) {
      for (let index = 1; index <= own; index += 1)
        columns[index] = columns[index].map((y, place) => (columns[0][place] > behind ? null : y));
      const kept = columns[0].map((_, place) => columns.some((column, index) => index > 0 && column[place] !== null));
      columns = columns.map((column) => column.filter((_, place) => kept[place]));
      later(draw);
    },
    setSmooth(value) {
      keep = value;
      later(draw);
    },
    setLog(value) {
      logarithmic = value;
      if (plot) build();
    },
    // A stretch of x; null for an end that is open.
    setRange(from, to) {
      range = from === null && to === null ? null : [from, to];
      later(draw);
    },
    get rows() {
      return columns[0].length;
    },
    element: figure,
    destroy() {
      gone = true;
      watcher.disconnect();
      window.removeEventListener("luthier:theme", redraw);
      scheme.removeEventListener("change", redraw);
      plot?.destroy();
      figure.remove();
    },
  };
}

// A curve as small as a word; decoration beside the numbers, so screen readers pass over it.
export function spark(values, { width = 96, height = 24 } = {}) {
  const known = values.filter((value) => Number.isFinite(value));
  const node = svg("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  if (known.length < 2) return node;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const across = (index) => 1 + (index * (width - 2)) / (known.length - 1);
  const up = (value) => (high === low ? height / 2 : 2 + ((high - value) * (height - 4)) / (high - low));
  const points = known.map((value, index) => `${across(index).toFixed(1)},${up(value).toFixed(1)}`).join(" ");
  node.append(svg("polyline", { points, fill: "none" }));
  return node;
}
