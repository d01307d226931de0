// Requests to the server that this page came from, under whatever path it stands, and the key that it may ask for.

import { $ } from "./ui.js";

export const ROOT = new URL("../", import.meta.url);

const RETRY_S = 5;

// What went wrong, with the code that the server gave it (or one of ours); `words.js` says it to the user.
export class Problem extends Error {
  constructor(code, message = "", retry_s = null) {
    super(message);
    this.code = code;
    this.retry_s = retry_s;
  }
}

export function socketAddress(path, query) {
  const url = new URL(path, ROOT);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = new URLSearchParams(query);
  return url;
}

// -------------------- the key

let key = load();
let asking = null;

function load() {
  try { return sessionStorage.getItem("mmx-key") ?? ""; } catch { return ""; }
}

export const theKey = () => key;

// Asks for the key in a dialog that can be left; says whether one was given. Several that ask share one dialog.
export function askKey(wrong) {
  asking ??= new Promise((resolve) => {
    $("key-wrong").hidden = !wrong;
    $("key").returnValue = "";
    $("key-later").onclick = () => $("key").close();
    $("key").addEventListener("close", () => {
      const given = $("key").returnValue === "ok";
      if (given) key = $("key-value").value;
      try { if (given) sessionStorage.setItem("mmx-key", key); } catch { /* it is asked for again after a reload */ }
      asking = null;
      resolve(given);
    }, { once: true });
    $("key").showModal();
    $("key-value").select();
  });
  return asking;
}

// -------------------- requests

export async function ask(path) {
  for (;;) {
    const response = await fetch(new URL(path, ROOT), { headers: key ? { authorization: `Bearer ${key}` } : {} })
      .catch(() => { throw new Problem("unreachable"); });
    if (response.ok) return response;
    const problem = problemOf(response.status, await response.text(), response.headers.get("retry-after"));
    await orKey(problem);
  }
}

async function orKey(problem) {
  if (problem.code !== "invalid_api_key") throw problem;
  if (!(await askKey(Boolean(key)))) throw new Problem("no_key");
}

function problemOf(status, text, retryAfter) {
  let error = {};
  try { error = JSON.parse(text).error ?? {}; } catch { /* a proxy's own page */ }
  const code = status === 401 ? "invalid_api_key" : error.code ?? { 413: "file_too_large" }[status] ?? `http_${status}`;
  const retry_s = [429, 502, 503, 504].includes(status) ? Number(retryAfter) || RETRY_S : null;
  return new Problem(code, error.message ?? `the server answered ${status}`, retry_s);
}

// Sends a form, or JSON as text, and gives each event of the answer's stream to `onEvent`; tells in `onSent` which share (0 to 1) of the
// form has been sent. (XMLHttpRequest, since only it tells how far an upload is.)
export async function send(path, form, { signal, onSent, onEvent }) {
  for (;;) {
    try {
      await sendOnce(path, form, { signal, onSent, onEvent });
      return;
    } catch (problem) {
      await orKey(problem);
    }
  }
}

function sendOnce(path, form, { signal, onSent, onEvent }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let read = 0;
    const leave = () => request.abort();
    const take = () => {
      if (request.status !== 200) return;
      const end = request.responseText.lastIndexOf("\n\n");
      if (end < read) return;
      const blocks = request.responseText.slice(read, end).split("\n\n");
      read = end + 2;
      for (const block of blocks) {
        if (block.startsWith("data: ")) onEvent(JSON.parse(block.slice(6)));
        if (block.startsWith(": {")) onEvent({ type: "progress", ...JSON.parse(block.slice(2)) });  // a comment: how far it is
      }
    };
    const settle = (act) => { signal.removeEventListener("abort", leave); act(); };
    request.open("POST", new URL(path, ROOT));
    if (key) request.setRequestHeader("authorization", `Bearer ${key}`);
    if (typeof form === "string") request.setRequestHeader("content-type", "application/json");
    request.upload.onprogress = (e) => e.lengthComputable && onSent(e.loaded / e.total);
    request.upload.onload = () => onSent(1);
    const taken = () => { try { take(); return true; } catch (problem) { settle(() => reject(problem)); return false; } };
    request.onprogress = () => { if (!taken()) request.abort(); };
    request.onload = () => settle(() => {
      if (request.status === 200) { if (taken()) resolve(); return; }
      reject(problemOf(request.status, request.responseText, request.getResponseHeader("retry-after")));
    });
    request.onerror = () => settle(() => reject(new Problem("unreachable")));
    request.onabort = () => settle(() => reject(new Problem("cancelled")));
    signal.addEventListener("abort", leave);
    if (signal.aborted) { settle(() => reject(new Problem("cancelled"))); return; }
    request.send(form);
  });
}
