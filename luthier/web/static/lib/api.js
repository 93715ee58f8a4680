// The way to the server.
//
// What goes in: paths below `api/` and plain values. What comes out: the server's JSON, events in their order without a
// gap and without one twice, or `Refused` with the problems that the server names.

import { language, t } from "./i18n.js";

export class Refused extends Error {
  // status: of HTTP; 0 where the server cannot be reached.
  constructor(status, problems) {
    super(problems.map((each) => each.rule).join("\n"));
    this.status = status;
    this.problems = problems;
  }
}

// ------------------------------------------------------------------------------------------------ asking

export const get = (path, params) => ask("GET", path + search(params));
export const post = (path, body = {}) => ask("POST", path, body);
export const del = (path) => ask("DELETE", path);

// Parameters: null and undefined are left out, a list is given once for each of its items.
export function search(params) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(params ?? {})) {
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== null && each !== undefined) pairs.append(name, each);
  }
  const text = pairs.toString();
  return text ? `?${text}` : "";
}

// One part of a path: a run's name may hold anything.
export const part = encodeURIComponent;

function headers(more = {}) {
  return { "X-Luthier": "1", "X-Language": language(), ...more };
}

async function ask(method, path, body) {
  const request = { method, headers: headers() };
  if (body !== undefined) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  const response = await reach(path, request);
  return read(response.status, await text(response));
}

async function reach(path, request) {
  try {
    return await fetch(`api/${path}`, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
}

async function text(response) {
  try {
    return await response.text();
  } catch {
    throw unreachable();
  }
}

export function unreachable() {
  return new Refused(0, [
    {
      id: "web.unreachable",
      where: "",
      field: "",
      value: "",
      rule: t("common.unreachable"),
      remedy: t("common.unreachable.remedy"),
    },
  ]);
}

function read(status, body) {
  let value = null;
  try {
    value = body === "" ? null : JSON.parse(body);
  } catch {
    // A proxy between here and there may answer with a page of its own.
  }
  if (status >= 200 && status < 300) return value;
  // A model's process tells what is wrong in OpenAI's way.
  const rule = value?.error?.message ?? t("common.status", { status });
  throw new Refused(
    status,
    value?.problems ?? [{ id: "web.status", where: "", field: "", value: "", rule, remedy: "" }],
  );
}

// The body of an answer as it comes, for what is written while it is read. Aborted through `signal`.
export async function open(path, body, signal) {
  const request = {
    method: "POST",
    signal,
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify(body),
  };
  const response = await reach(path, request);
  if (!response.ok) read(response.status, await text(response));
  return response;
}

// A file as the body, with (bytes sent, bytes in all) on the way; `fetch` does not tell these.
export function put(path, file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", `api/${path}`);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => onProgress?.(event.loaded, event.total));
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("load", () => {
      try {
        resolve(read(request.status, request.responseText));
      } catch (error) {
        reject(error);
      }
    });
    request.send(file);
  });
}

// ------------------------------------------------------------------------------------------------ jobs

// Made here, so that a question asked twice, by two clicks or over a torn line, starts one thing.
export function key() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const LOOK_MS = 500;

// Starts a job and sees it through; onChange is told each time something new is known.
export async function job(kind, fields, onChange) {
  const started = await post("jobs", { kind, key: key(), ...fields });
  onChange?.(started);
  return watch(started, onChange);
}

// Sees a job through that was started before.
export async function watch(started, onChange) {
  let now = started;
  while (now.state === "running") {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    try {
      now = await get(`jobs/${part(started.id)}`);
    } catch (error) {
      // It runs on while the server cannot be reached.
      if (error.status !== 0) throw error;
      continue;
    }
    onChange?.(now);
  }
  return now;
}

// ------------------------------------------------------------------------------------------------ events

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10000;
const SILENCE_MS = 40000;
// The server says something every 15 s; twice that and a bit is a line that is dead without having said so.

// Follows a stream of server-sent events, over torn lines and restarts of the server.
//
// after: the number of the last event that is known. onEvent(value, seq) gets each later one once. onReset: what was
// told counts no more, all follows from the beginning. onState gets `open`, `lost` (it tries again by itself),
// `ended` (all is told) or `refused`. A page that is hidden lets go of the line: browsers allow six to a server over
// all pages, and nobody looks. Returns a function that closes it.
export function stream(path, { after = 0, onEvent, onReset, onState }) {
  let last = after;
  let wait = FIRST_WAIT_MS;
  let closed = false;
  let state = null;
  let retry = null;
  let line = null;

  function tell(now, problems) {
    if (now === state) return;
    state = now;
    onState?.(now, problems);
  }

  async function connect() {
    const own = new AbortController();
    line = own;
    let watchdog = null;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => own.abort(), SILENCE_MS);
    };
    alive();
    try {
      const more = last ? { "Last-Event-ID": String(last) } : {};
      const response = await reach(path, {
        signal: own.signal,
        headers: headers({ Accept: "text/event-stream", ...more }),
      });
      if (!response.ok) read(response.status, await text(response));
      wait = FIRST_WAIT_MS;
      tell("open");
      for await (const event of events(response.body, alive)) {
        if (line !== own) return;
        if (event.type === "end") {
          line = null;
          return tell("ended");
        }
        if (event.type === "reset") {
          last = 0;
          onReset?.();
          continue;
        }
        const seq = event.id ? Number(event.id) : 0;
        if (seq && seq <= last) continue;
        if (seq) last = seq;
        onEvent(JSON.parse(event.data), seq);
      }
    } catch (error) {
      // Refused for good, unless it is the server that has a fault or is not there.
      if (error instanceof Refused && error.status >= 400 && error.status < 500) {
        line = null;
        return tell("refused", error.problems);
      }
      if (!(error instanceof Refused || error instanceof TypeError || error.name === "AbortError")) throw error;
    } finally {
      clearTimeout(watchdog);
    }
    if (line === own) again();
  }

  function again() {
    line = null;
    if (closed || document.hidden) return;
    tell("lost");
    clearTimeout(retry);
    retry = setTimeout(connect, wait);
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }

  function drop() {
    clearTimeout(retry);
    const own = line;
    line = null;
    own?.abort();
  }

  function look() {
    if (state === "ended" || state === "refused") return;
    if (document.hidden) drop();
    else if (!line) retryNow();
  }

  function retryNow() {
    if (document.hidden || state === "ended" || state === "refused") return;
    drop();
    wait = FIRST_WAIT_MS;
    connect();
  }

  function cut() {
    drop();
    tell("lost");
  }

  document.addEventListener("visibilitychange", look);
  window.addEventListener("online", retryNow);
  window.addEventListener("offline", cut);
  if (!document.hidden) connect();
  return function close() {
    closed = true;
    document.removeEventListener("visibilitychange", look);
    window.removeEventListener("online", retryNow);
    window.removeEventListener("offline", cut);
    drop();
  };
}

// The events in a stream of bytes. alive: called for whatever comes, comments too.
export async function* events(body, alive = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", id: "", data: [] };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length || event.type !== "message") yield { ...event, data: event.data.join("\n") };
        event = { type: "message", id: "", data: [] };
        continue;
      }
      const [, name, text] = /^([^:]*):? ?(.*)$/.exec(line);
      if (name === "data") event.data.push(text);
      else if (name === "event") event.type = text;
      else if (name === "id") event.id = text;
    }
  }
}
