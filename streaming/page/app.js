import { Live } from "./live.js";

const RATE = 16000;
const $ = (id) => document.getElementById(id);
const INPUT = "conversation.item.input_audio_transcription.delta";
const OUTPUT = "session.output_transcript.delta";
const FORMATS = { srt: "Subtitles (.srt)", vtt: "Web subtitles (.vtt)", text: "Text (.txt)" };

let key = sessionStorage.getItem("mmx-key") ?? "";
let live = null;         // the session that listens
let microphone = null;   // what it listens with
let upload = null;       // the recording that is being transcribed, as an AbortController
let saved = {};          // finished texts to download: saved[track][format]
let names = {};          // language names by code
let lags = [];

// -------------------- text

class Track {
  // Text that only grows, with what may come next after it, which changes.
  constructor(box) {
    this.box = box;
    this.maybe = document.createElement("span");
    this.maybe.className = "maybe";
    this.maybe.setAttribute("aria-hidden", "true");
    this.clear();
  }

  clear() {
    this.box.replaceChildren();
    this.end = 0;
    this.paragraph = null;
    this.language("");
    this.guess("");
  }

  language(code) {
    this.box.closest("section").querySelector(".language").textContent = names[code] ?? code;
    this.box.lang = code;
  }

  add(text, start_ms, end_ms) {
    const below = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 80;
    const full = this.paragraph && this.paragraph.textContent.length > 400 && /[.!?。！？…]\s*$/.test(this.written);
    if (!this.paragraph || full || start_ms - this.end > 2500) {
      this.paragraph = document.createElement("p");
      this.written = "";
      this.box.append(this.paragraph);
      text = text.trimStart();
    }
    const word = document.createElement("span");
    word.className = "new";
    word.textContent = text;
    this.paragraph.append(word, this.maybe);
    this.written += text;
    this.end = end_ms ?? this.end;
    if (below) this.box.scrollTop = this.box.scrollHeight;
  }

  guess(text) {
    if (text && !this.paragraph) {
      this.paragraph = document.createElement("p");
      this.written = "";
      this.box.append(this.paragraph);
    }
    this.paragraph?.append(this.maybe);
    this.maybe.textContent = this.written ? text : text.trimStart();
  }
}

// -------------------- what the page says about itself

function state(name, text) {
  document.body.dataset.state = name;
  $("status").textContent = text;
  const on = ["live", "waiting", "busy"].includes(name);
  $("mic").setAttribute("aria-pressed", on);
  $("mic").querySelector(".words").textContent = on ? "Stop" : "Start listening";
}

function level(value) {
  document.documentElement.style.setProperty("--level", value.toFixed(3));
  $("meter").setAttribute("aria-valuenow", Math.round(value * 100));
}

function clock(seconds) {
  const s = Math.floor(seconds);
  $("clock").textContent = `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
}

function lag(seconds) {
  lags = [...lags.slice(-6), seconds];
  const middle = [...lags].sort((a, b) => a - b)[Math.floor(lags.length / 2)];
  $("lag").textContent = `${Math.max(0, middle).toFixed(1)} s`;
}

function fresh() {
  for (const track of Object.values(tracks)) track.clear();
  saved = {};
  lags = [];
  clock(0);
  $("lag").textContent = "–";
  $("save").disabled = true;
}

// -------------------- the server

async function ask(path, options = {}) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    await askKey();
    return ask(path, options);
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.error?.message ?? `the server answered ${response.status}`);
  }
  return response;
}

function askKey() {
  return new Promise((resolve) => {
    $("key").addEventListener("close", () => {
      key = $("key-value").value;
      sessionStorage.setItem("mmx-key", key);
      resolve();
    }, { once: true });
    $("key").showModal();
  });
}

// -------------------- the microphone

async function open() {
  if (!navigator.mediaDevices) {
    throw new Error("browsers give the microphone to https pages and to localhost only: open this page there");
  }
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  });
  let context = new AudioContext({ sampleRate: RATE });
  let source;
  try {
    source = context.createMediaStreamSource(stream);
  } catch {  // some browsers do not resample a microphone; then the server does
    await context.close();
    context = new AudioContext();
    source = context.createMediaStreamSource(stream);
  }
  await context.audioWorklet.addModule("/page/recorder.js");
  const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
  source.connect(node);
  await context.resume();
  return { stream, context, node };
}

async function start() {
  state("busy", "Asking for the microphone…");
  fresh();
  try {
    microphone = await open();
  } catch (e) {
    const denied = e.name === "NotAllowedError";
    state("error", denied ? "The microphone is not allowed: allow it beside the address" : `No microphone: ${e.message}`);
    return;
  }
  live = new Live({ language: $("from").value, to: $("to").value, rate: microphone.context.sampleRate, key });
  const session = live;
  microphone.node.port.onmessage = ({ data }) => {
    session.hear(data.samples);
    level(Math.min(1, Math.sqrt(data.peak)));
    clock(session.captured / session.rate);
  };
  session.addEventListener("message", ({ detail }) => show(detail, session));
  session.addEventListener("state", ({ detail }) => followed(detail, session));
  session.addEventListener("failed", ({ detail }) => { quiet(); state("error", detail.message); });
}

function followed(name, session) {
  const stopping = session.closing;
  if (name === "live") state(stopping ? "busy" : "live", stopping ? "Writing the rest…" : "Listening");
  if (name === "waiting") state("waiting", "Connection lost. What you say is kept; trying again…");
  if (name === "closed") finish(session);
}

function show(message, session) {
  const track = { [INPUT]: tracks.source, [OUTPUT]: tracks.translation }[message.type];
  if (track) {
    track.add(message.delta, message.start_ms, message.end_ms);
    track.language(message.language);
    $("save").disabled = false;
    if (message.type === INPUT) lag(session.captured / session.rate - message.end_ms / 1000);
  } else if (message.type === "tentative") {
    for (const [name, t] of Object.entries(tracks)) t.guess(message.text[name] ?? "");
  } else if (message.type === "error" && message.error.code !== "session_not_found") {
    $("status").textContent = message.error.message;
  }
}

function quiet() {
  microphone?.stream.getTracks().forEach((t) => t.stop());
  microphone?.context.close();
  microphone = null;
  level(0);
}

function stop() {
  upload?.abort();
  if (!live || live.closing || live.over) return;
  state("busy", "Writing the rest…");
  const session = live;
  microphone?.node.port.postMessage("rest");
  setTimeout(() => { quiet(); session.close(); }, 150);  // the rest comes as a message before that
}

async function finish(session) {
  quiet();
  if (document.body.dataset.state !== "error") state("done", "Done");
  for (const track of Object.values(tracks)) track.guess("");
  for (const track of shown()) {  // the server forgets a session; the page keeps its text
    for (const format of Object.keys(FORMATS)) {
      const answer = await ask(transcript(session, track, format)).catch(() => null);
      if (answer) (saved[track] ??= {})[format] = await answer.text();
    }
  }
}

const transcript = (session, track, format) =>
  `/v1/realtime/sessions/${session.id}/transcript?track=${track}&response_format=${format}`;
const shown = () => ($("to").value ? ["source", "translation"] : ["source"]);

// -------------------- recordings

async function transcribe(file) {
  if (upload || (live && !live.over)) return;
  fresh();
  live = null;
  upload = new AbortController();
  try {
    await recording(file, "source", "transcriptions");
    if ($("to").value) await recording(file, "translation", "translations");
    state("done", `Done: ${file.name}`);
  } catch (e) {
    state(e.name === "AbortError" ? "done" : "error", e.name === "AbortError" ? "Stopped" : e.message);
  }
  upload = null;
}

async function recording(file, track, task) {
  const verb = track === "source" ? "Transcribing" : "Translating";
  state("busy", `${verb} ${file.name}…`);
  const form = new FormData();
  form.set("stream", "true");
  for (const format of Object.keys(FORMATS)) form.append("response_format", format);
  if ($("from").value) form.set("language", $("from").value);
  if (track === "translation") form.set("to", $("to").value);
  form.set("file", file);
  const response = await ask(`/v1/audio/${task}`, { method: "POST", body: form, signal: upload.signal });
  for await (const event of events(response)) {
    if (event.type === "transcript.text.delta") tracks[track].add(event.delta, 0);
    if (event.type === "error") throw new Error(event.error.message);
    if (event.type === "transcript.text.done") {
      tracks[track].language(event.language);
      saved[track] = event;  // has the formats by their names
      clock(event.usage.seconds);
      $("save").disabled = false;
    }
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
  }
}

// -------------------- saving

async function save(track, format) {
  const text = saved[track]?.[format] ?? (live && await (await ask(transcript(live, track, format))).text());
  if (!text) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = `mmx-${track}.${format === "text" ? "txt" : format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function offer(open) {
  $("saves").hidden = !open;
  $("save").setAttribute("aria-expanded", open);
  if (!open) return;
  const rows = shown().flatMap((track) => Object.entries(FORMATS).map(([format, label]) => {
    const row = document.createElement("button");
    row.type = "button";
    row.dataset.save = `${track}.${format}`;
    row.append(label, Object.assign(document.createElement("small"), { textContent: track === "source" ? "said" : "translated" }));
    row.onclick = () => { offer(false); $("save").focus(); save(track, format); };
    return row;
  }));
  $("saves").replaceChildren(...rows);
  rows[0].focus();
}

// -------------------- the beginning

function choose() {
  $("translation-track").hidden = !$("to").value;
  localStorage.setItem("mmx-choice", JSON.stringify({ from: $("from").value, to: $("to").value }));
  if (live && !live.over) live.update({ language: $("from").value, to: $("to").value });
}

async function begin() {
  const facts = await (await ask("/v1/capabilities")).json();
  names = { ...facts.targets, ...facts.languages };
  $("model").textContent = [facts.models[0], facts.text_model].filter(Boolean).join(" + ");
  for (const [id, table] of [["from", facts.languages], ["to", facts.targets]]) {
    for (const [code, name] of Object.entries(table)) $(id).add(new Option(name, code));
  }
  const choice = JSON.parse(localStorage.getItem("mmx-choice") ?? "{}");
  for (const id of ["from", "to"]) if ([...$(id).options].some((o) => o.value === choice[id])) $(id).value = choice[id];
  choose();
  state("idle", "Ready");
}

const tracks = { source: new Track($("source")), translation: new Track($("translation")) };
$("mic").onclick = () => (["live", "waiting", "busy"].includes(document.body.dataset.state) ? stop() : start());
$("from").onchange = $("to").onchange = choose;
$("choices").onsubmit = (e) => e.preventDefault();
$("file").onchange = () => { const [file] = $("file").files; $("file").value = ""; if (file) transcribe(file); };
$("save").onclick = () => offer($("saves").hidden);
addEventListener("keydown", (e) => {
  if (e.key === "Escape" && !$("saves").hidden) { offer(false); $("save").focus(); }
  if (e.key !== " " || e.repeat || e.target.closest("button, select, input, label, dialog")) return;
  e.preventDefault();
  $("mic").click();
});
addEventListener("click", (e) => { if (!e.target.closest(".actions")) offer(false); });
addEventListener("dragover", (e) => { e.preventDefault(); document.body.classList.add("dragging"); });
addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("dragging"); });
addEventListener("drop", (e) => {
  e.preventDefault();
  document.body.classList.remove("dragging");
  const [file] = e.dataTransfer.files;
  if (file) transcribe(file);
});
begin().catch((e) => state("error", `The server does not answer: ${e.message}`));
