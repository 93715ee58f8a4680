// Numbers, sizes and times as people read them.
//
// What goes in: plain numbers in SI units, bytes, seconds. What comes out: short texts in the page's language; a dash
// where there is nothing to tell.

import { language, t } from "./i18n.js";

export const NOTHING = "–";
const BYTES = ["B", "kB", "MB", "GB", "TB", "PB"];

function locale() {
  return language() === "zh" ? "zh-CN" : "en";
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// In decimal units, as the command line says them.
export function bytes(value) {
  if (!isNumber(value)) return NOTHING;
  let unit = 0;
  let left = value;
  while (Math.abs(left) >= 999.5 && unit < BYTES.length - 1) {
    left /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(left) >= 99.5 ? 0 : 1;
  return `${left.toFixed(digits)} ${BYTES[unit]}`;
}

// A whole number with its thousands apart.
export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString(locale()) : NOTHING;
}

// A measured number with so many digits that count; very large and very small ones in powers of ten.
export function number(value, digits = 4) {
  if (!isNumber(value)) return NOTHING;
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e7 || size < 1e-3))
    return value.toExponential(Math.max(digits - 2, 0)).replace(/\.?0*e\+?/, "e");
  return value.toLocaleString(locale(), { maximumSignificantDigits: digits });
}

export function percent(share, digits = 0) {
  return isNumber(share) ? `${(100 * share).toFixed(digits)} %` : NOTHING;
}

// The two largest units: `1 h 4 min`.
export function duration(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  const whole = Math.max(Math.round(seconds), 0);
  if (whole < 60)
    return t("common.duration.s", { s: seconds < 10 && seconds > 0 ? Math.max(seconds, 0.1).toFixed(1) : whole });
  if (whole < 3600) return t("common.duration.min", { min: Math.floor(whole / 60), s: whole % 60 });
  if (whole < 86400)
    return t("common.duration.h", { h: Math.floor(whole / 3600), min: Math.floor((whole % 3600) / 60) });
  return t("common.duration.d", { d: Math.floor(whole / 86400), h: Math.floor((whole % 86400) / 3600) });
}

const AGO = [
  [60, 1, "second"],
  [3600, 60, "minute"],
  [86400, 3600, "hour"],
  [Infinity, 86400, "day"],
];

export function ago(time_s) {
  if (!isNumber(time_s)) return NOTHING;
  const passed = Math.max(Date.now() / 1000 - time_s, 0);
  const [, unit, name] = AGO.find(([below]) => passed < below);
  return new Intl.RelativeTimeFormat(locale(), { numeric: "auto" }).format(-Math.floor(passed / unit), name);
}

export function date(time_s) {
  if (!isNumber(time_s)) return NOTHING;
  return new Date(time_s * 1000).toLocaleString(locale(), { dateStyle: "medium", timeStyle: "short" });
}

export function clock(time_s) {
  return isNumber(time_s) ? new Date(time_s * 1000).toLocaleTimeString(locale()) : NOTHING;
}
