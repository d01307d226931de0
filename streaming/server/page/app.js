// The page: a session that listens, recordings, what is kept of both, and the controls.

import { openBoth } from "./both.js";
import { openCamera } from "./camera.js";
import { Files } from "./files.js";
import { choices, written } from "./formats.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { openMicrophone } from "./microphone.js";
import { Player, wav } from "./player.js";
import { Sight } from "./sight.js";
import { Speech } from "./speech.js";
import { Problem, ask, askKey, theKey } from "./server.js";
import { Draft, Store, hold } from "./store.js";
import { Text, newRecord } from "./text.js";
import { $, clockOf, copy, download, fail, isOn, menu, state, stateNow, tell, untell } from "./ui.js";
import { View } from "./view.js";
import { plain } from "./words.js";

const SILENT = ["session_not_found", "session_closed", "idle_timeout"];  // what a break of the connection brings by itself
const HEARD_S = 5;       // of sound without a word, after which it is told
const BEHIND_S = 0.6;    // of pictures that the server has not looked at, from which on others are left out

let text = null;         // on the page
let work = null;         // what listens: { text, live, draft, microphone }
let opening = null;      // a token while the browser asks for the microphone
let limits = {};
let pictures = null;     // what the server reads of a camera, in the place of sound or (`sound`) beside it
let sight = null;
let lags = [];

const store = new Store(() => tell(
  "This browser keeps nothing here (a private window, or its storage is full): save your text before you leave the page.", { kind: "note" },
));
const view = new View((ms) => listenTo(ms));
const player = new Player({
  source: () => soundOf(text),
  onTime: (ms) => view.mark(ms),
  onTrouble: (words) => tell(words, { kind: "note" }),
});
const files = new Files({
  store, show: showFile, wish: wishNow, limits: () => limits, free: () => !work && !opening, ended: () => controls(),
});
const speech = new Speech({ names: () => view.names, onListen: speakTrack });
const history = new History({ store, open: openText, removed, ofNow: () => work?.text.record.id ?? files.current?.text.record.id });

// -------------------- what the page shows

function wishNow() {
  return { from: $("from").value, to: $("to").value };
}

function put(shown) {
  if (text !== shown) player.forget();
  text = shown;
  lags = [];
  $("lag").textContent = "–";
  if (text) view.show(text); else view.clear();
  controls();
}

function controls() {
  view.columns(Boolean($("to").value) || Boolean(text?.has("translation")));
  const some = Boolean(text?.lines.length);
  $("save").disabled = !some;
  for (const button of document.querySelectorAll(".copy")) button.hidden = !text?.has(button.dataset.copy);
  for (const button of document.querySelectorAll(".listen")) button.hidden = isOn() || !speech.speaks(languageOf(button.dataset.listen));
  $("continue").hidden = isOn() || text?.record.kind !== "live";
  $("clock").textContent = clockOf(text ? text.record.captured / text.record.rate : 0);
}

function level(value) {
  document.documentElement.style.setProperty("--level", value.toFixed(3));
  $("meter").setAttribute("aria-valuenow", Math.round(value * 100));
}

function lag(seconds) {
  lags = [...lags.slice(-6), seconds];
  const middle = [...lags].sort((a, b) => a - b)[Math.floor(lags.length / 2)];
  $("lag").textContent = `${Math.max(0, middle).toFixed(1)} s`;
}

function showFile(shown, line = null) {
  if (line && text === shown) view.add(line); else put(shown);
  controls();
}

// -------------------- listening

async function listen(more = null) {
  if (isOn() || stateNow() === "loading") return;
  untell();
  player.forget();
  state("busy", pictures?.sound ? "Asking for microphone and camera…" : pictures ? "Asking for the camera…" : "Asking for the microphone…");
  controls();
  const token = opening = { early: [], work: null };
  let microphone = null;
  try {
    microphone = pictures ? await seeing(token) : await openMicrophone({
      onSound: (samples, peak) => (token.work ? heard(token.work, samples, peak) : token.early.push(samples)),
      onGone: () => gone(token, "microphone"),
    });
  } catch (problem) {
    if (opening !== token) return;
    opening = null;
    fail(plain(problem), { label: "Try again", run: () => listen(more) });
    controls();
    files.run();
    return;
  }
  if (opening !== token) {  // Stop was pressed while the browser asked
    microphone.close();
    return;
  }
  opening = null;
  await begin(token, microphone, more);
}

function gone(token, what) {
  if (!token.work) return;
  stop();
  tell(`The ${what} was taken away, so that listening stopped. Connect it and press Continue.`);
}

// A camera as what listens: a picture that comes while the server is behind, or away, is left out, and told.
function seeing(token) {
  const [rate, wanted] = [pictures.rate, () => token.work?.live.ready && !token.work.live.closing && token.work.live.unheard < BEHIND_S];
  if (!pictures.sound) {
    return openCamera({
      rate, wanted, onPicture: (picture) => { sight.sent(picture); heard(token.work, picture, 0); }, onGone: () => gone(token, "camera"),
    });
  }
  return openBoth({
    rate,
    wanted,
    onMoments: (moments, peak) => (token.work ? heard(token.work, moments, peak) : token.early.push(moments)),
    onPicture: (picture) => sight.sent(picture),
    onBlind: (problem) => { sight.hide(); tell(`${plain(problem)} The sound goes on alone.`, { kind: "note" }); },
    onGone: () => gone(token, "microphone"),
  });
}

async function begin(token, microphone, more) {
  const { from, to } = wishNow();
  const goesOn = more && more.record.rate === microphone.rate;
  const shown = goesOn ? more : new Text(newRecord("live", { rate: microphone.rate, from, to }));
  const { record } = shown;
  if (record.to !== to) record.since_ms = shown.ends.source;
  Object.assign(record, { from, to });
  if (shown !== text) put(shown);
  const rest = goesOn && record.open ? await restOf(shown) : { from: record.captured, pieces: [], link: null };
  record.open = true;
  hold(record.id);
  token.work = connect(shown, microphone, rest);
  for (const samples of token.early) heard(token.work, samples, 0);
}

function connect(shown, microphone, { from, pieces, link }) {
  const { record } = shown;
  const live = new Live({
    rate: record.rate, wish: { language: record.from, to: record.to }, key: theKey(), from, pieces, link,
    since: () => (shown.complete_ms / 1000) * record.rate, ...(pictures
      ? {
        wire: (piece, place) => piece.message(place, record.rate), reach: 0,
        ...(pictures.sound ? { asks: { modality: "av" }, bytes: 1280, most: record.rate } : {}),
      }
      : { most: limits.frame_kb * 512 || undefined }),
  });
  if (!link) shown.again();
  const now = { text: shown, live, microphone, draft: new Draft(store, shown, () => live.link, !pictures) };
  if (microphone?.stream) sight.show(microphone.stream);
  work = now;
  live.addEventListener("line", ({ detail }) => line(now, detail));
  live.addEventListener("maybe", ({ detail }) => view.maybe(detail));
  live.addEventListener("points", ({ detail }) => sight.draw(detail));
  live.addEventListener("note", ({ detail }) => noted(detail));
  live.addEventListener("anew", () => { shown.again(); view.maybe({}); });
  live.addEventListener("told", ({ detail }) => { if (!SILENT.includes(detail.code)) tell(plain(detail, { limits })); });
  live.addEventListener("full", () => full(now));
  live.addEventListener("state", ({ detail }) => followed(now, detail));
  return now;
}

function heard(now, samples, peak) {
  if (now.live.over || !samples.length) return;
  now.live.hear(samples);
  now.draft.hear(samples);
  level(Math.min(1, Math.sqrt(peak)));
  $("clock").textContent = clockOf(now.live.captured / now.live.rate);
  if (stateNow() === "waiting" && now.live.everReady) waiting(now);
}

function line(now, detail) {
  if (!now.text.add(detail)) return;
  now.draft.soon();
  if (!detail.text) return;
  if (now.text === text) view.add(detail);
  if ($("save").disabled || $("continue").hidden !== isOn()) controls();
  for (const button of document.querySelectorAll(".copy")) if (button.dataset.copy === detail.track) button.hidden = false;
  if (detail.track === "source" && now.microphone) lag(now.live.captured / now.live.rate - detail.end_ms / 1000);
}

function followed(now, name) {
  if (name === "live") state(now.live.closing ? "busy" : "live", now.live.closing ? "Writing the rest…" : pictures?.sound ? "Listening and watching" : pictures ? "Watching" : "Listening");
  if (name === "waiting") waiting(now);
  if (name === "closed") ended(now);
}

// What is lost of sound and lips, or back: in the picture's line as long as it holds, and once across the page. Who has no camera knows it.
function noted(words) {
  if (work?.microphone && !work.microphone.stream) return;
  const shown = words[0].toUpperCase() + words.slice(1);
  sight?.note(shown);
  tell(shown, { kind: "note" });
}

function waiting(now) {
  const kept = clockOf(now.live.unheard);
  if (!now.live.everReady) state("waiting", "Connecting to the server…");
  else if (now.live.closing) state("waiting", "Connection away. The rest is written when it is back; Stop ends now");
  else if (pictures && !pictures.sound) state("waiting", "Connection away. What you sign is not seen; trying again…");
  else state("waiting", `Connection away. What you say is kept (${kept}); trying again…`);
}

function full(now) {
  if (now.live.over) return;
  now.live.end();
  tell("The connection has been away for so long that no more sound could be kept, so that listening stopped. All that was said until then "
    + "is here: write the rest when the server is back.", { act: { label: "Write the rest", run: () => rest(now.text) } });
}

function quiet(now) {
  now.microphone?.close();
  now.microphone = null;
  sight?.hide();
  level(0);
}

async function stop() {
  if (files.busy) {
    files.cancelAll();
    return;
  }
  if (opening) {
    opening = null;
    state("done", "Stopped");
    controls();
    files.run();
  }
  const now = work;
  if (!now) return;
  if (now.live.closing) {
    now.live.end();
    return;
  }
  state("busy", "Writing the rest…");
  await now.microphone?.rest();
  quiet(now);
  if (now.live.ready) now.live.close(); else now.live.end();
}

// Where a session has ended: in order, or because Stop was pressed without a connection, or since it could not go on.
async function ended(now) {
  if (work === now) work = null;
  quiet(now);
  const { live, draft } = now;
  const { record } = now.text;
  if (now.text === text) view.maybe({});
  record.captured = Math.max(record.captured, live.captured);
  record.open = !live.finished || live.unheard > 1;
  record.title ||= now.text.title;
  await draft.flush();
  if (live.finished) record.link = null;
  const empty = !now.text.lines.length;
  if (empty && !live.captured) await store.remove(record.id); else await store.put(record);
  if (now.text === text) view.show(now.text);
  await outcome(now, empty);
  controls();
  files.run();
}

async function outcome(now, empty) {
  const { live, text: shown } = now;
  const some = shown.record.captured > 0;
  const again = some ? { label: "Write the rest", run: () => rest(shown) } : { label: "Try again", run: () => listen() };
  if (live.problem) {
    const problem = await cause(live.problem);
    const key = ["invalid_api_key", "no_key"].includes(problem.code);
    const act = key ? { label: "Enter the key", run: async () => { if (await askKey(true)) again.run(); } } : again;
    fail(plain(problem, { limits }), act);
  } else if (!live.finished) {
    state("done", "Stopped");
    if ($("banner").hidden) tell(`Stopped while the connection was away. The last ${clockOf(live.captured / live.rate - shown.ends.source / 1000)} `
      + "of sound is kept in this browser and not written yet.", { kind: "note", act: again });
  } else {
    state("done", "Done");
    if (empty && live.captured / live.rate > HEARD_S) {
      tell(pictures && !pictures.sound ? "Nothing was recognised. See that your hands are in the picture and in the light, and that points are drawn on them."
        : "No speech was recognised. See that the right microphone is chosen and that the line above the buttons moves when you speak.", { kind: "note" });
    }
  }
}

// Why there never was a connection: the server is away, or only WebSockets do not come through.
async function cause(problem) {
  if (problem.code !== "no_websocket") return problem;
  return ask("health").then(() => problem, (e) => e);
}

// -------------------- what was not written

// Sound that the server has not turned into text, from the browser's store, without gaps.
async function restOf(shown) {
  const { record } = shown;
  const complete = Math.floor((shown.complete_ms / 1000) * record.rate);
  const from = record.link ? Math.min(record.link.acked, complete) : complete;
  const pieces = [];
  let at = null;
  for (const row of await store.sound(record, from)) {
    const begins_at = at ?? Math.max(from, row.at);
    const end = row.at + row.samples.length;
    if (end <= begins_at) continue;
    at ??= begins_at;
    if (row.at > at) pieces.push(new Int16Array(row.at - at));
    pieces.push(row.samples.subarray(Math.max(0, at - row.at)));
    at = end;
  }
  const length = pieces.reduce((sum, p) => sum + p.length, 0);
  record.captured = Math.max(record.captured, at ?? 0);
  return { from: at === null ? record.captured : at - length, pieces, link: record.link };
}

async function rest(shown) {
  if (isOn()) return;
  untell();
  if (!(await hold(shown.record.id))) {
    tell("Another tab of this browser is at work on this text.", { kind: "note" });
    return;
  }
  if (text !== shown) put(shown);
  state("busy", "Writing the rest…");
  controls();
  const now = connect(shown, null, await restOf(shown));
  now.live.close();
}

// After a reload, or when a tab was closed: goes on with what was at work.
async function recover() {
  const open = (await store.all()).filter((r) => r.open);
  for (const record of open.filter((r) => r.kind === "file").reverse()) {
    if (!(await hold(record.id))) continue;
    const file = await store.file(record.id);
    if (file) files.add(file, record); else store.remove(record.id);
  }
  const record = open.find((r) => r.kind === "live");
  if (!record || work || text || !(await hold(record.id)) || isOn()) return;
  const shown = new Text(record, await store.lines(record.id));
  put(shown);
  await rest(shown);
  tell("The page was left or reloaded while it listened. What was said until then is here. Press Continue to go on.", { kind: "note" });
}

// -------------------- what was said before

async function openText(record) {
  if (isOn()) {
    tell("Press Stop before you open another text.", { kind: "note" });
    return;
  }
  untell();
  put(new Text(record, await store.lines(record.id)));
  state("done", "From this browser's history");
  controls();
  if (record.open && record.kind === "live") {
    tell("Not all of this was written when it ended.", { kind: "note", act: { label: "Write the rest", run: () => rest(text) } });
  }
}

function removed(id) {
  if (text?.record.id !== id) return;
  put(null);
  state("idle", "Ready");
  controls();
}

async function soundOf(shown) {
  const { record } = shown;
  if (record.kind === "file") return files.fileOf(record.id) ?? store.file(record.id);
  const pieces = await store.sound(record);
  return pieces.length ? wav(pieces, record.rate) : null;
}

function listenTo(ms) {
  if (work) tell("Press Stop before you listen to what was said.", { kind: "note" });
  else player.play(ms);
}

// -------------------- controls

async function save({ track, format, ending }) {
  const name = text.title.replace(/[\\/:*?"<>|\p{C}]+/gu, " ").trim().slice(0, 60) || "mmx";
  if (track === "sound") {
    const blob = await soundOf(text);
    if (blob) download(blob, `${name}.wav`); else tell("The sound of this text is not kept in this browser any more.", { kind: "note" });
    return;
  }
  download(new Blob([written(text, track, format)], { type: "text/plain" }), `${name}-${track}.${ending}`);
}

function saveRows() {
  const rows = choices(text);
  if (text.record.kind === "live" && !pictures) rows.push({ name: "sound.wav", track: "sound", label: "Sound (.wav)", note: "as heard" });
  return rows.map((row) => ({ ...row, run: () => save(row) }));
}

async function copied(button) {
  const words = text.paragraphs(button.dataset.copy).map((p) => p.text).join("\n\n");
  try {
    await copy(words);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  } catch {
    tell("The browser did not let the page copy. Select the text and copy it, or use Save.", { kind: "note" });
  }
}

// The language that a track is written in; none where there is no text.
function languageOf(track) {
  return text?.of(track).at(-1)?.language || null;
}

function speakTrack(track) {
  player.forget();
  speech.open(text.paragraphs(track).map((p) => p.text).join("\n\n"), languageOf(track));
}

function choose() {
  try { localStorage.setItem("mmx-choice", JSON.stringify(wishNow())); } catch { /* it is chosen again next time */ }
  if (work && !work.live.over) {
    const { record, ends } = work.text;
    const { from, to } = wishNow();
    if (to && to !== record.to) record.since_ms = ends.source;
    Object.assign(record, { from, to });
    work.live.update({ language: from, to });
  }
  controls();
}

function choiceBefore() {
  try { return JSON.parse(localStorage.getItem("mmx-choice") ?? "{}"); } catch { return {}; }
}

function opened(list) {
  const chosen = [...list];
  for (const file of chosen) files.add(file);
  if (chosen.length && (work || opening)) {
    tell(`${chosen.length === 1 ? `“${chosen[0].name}”` : `${chosen.length} recordings`} will be transcribed when you stop listening.`, { kind: "note" });
  }
}

function connectControls() {
  $("mic").onclick = () => (isOn() ? stop() : listen());
  $("continue").onclick = () => listen(text);
  $("from").onchange = $("to").onchange = choose;
  $("choices").onsubmit = (e) => e.preventDefault();
  $("file").onchange = () => { opened($("file").files); $("file").value = ""; };
  $("banner-close").onclick = untell;
  menu($("save"), $("saves"), saveRows);
  for (const button of document.querySelectorAll(".copy")) button.onclick = () => copied(button);
  addEventListener("keydown", (e) => {
    const elsewhere = e.target.closest("button, select, input, label, dialog, audio, #text");
    if (e.key !== " " || e.repeat || elsewhere) return;
    e.preventDefault();
    $("mic").click();
  });
  addEventListener("dragover", (e) => { e.preventDefault(); document.body.classList.add("dragging"); });
  addEventListener("dragleave", (e) => { if (!e.relatedTarget) document.body.classList.remove("dragging"); });
  addEventListener("drop", (e) => {
    e.preventDefault();
    document.body.classList.remove("dragging");
    opened(e.dataTransfer.files);
  });
  addEventListener("beforeunload", (e) => { if (work?.microphone || files.busy) e.preventDefault(); });
  addEventListener("pagehide", () => { work?.live.leave(); work?.draft.flush(); });
}

// -------------------- the beginning

async function meet() {
  state("loading", "Loading…");
  let facts = null;
  try {
    facts = await (await ask("v1/capabilities")).json();
  } catch (problem) {
    const key = problem.code === "no_key";
    fail(plain(problem), { label: key ? "Enter the key" : "Try again", run: meet });
    return;
  }
  limits = facts.limits;
  view.names = { ...facts.targets, ...facts.languages };
  $("model").textContent = [facts.models[0], facts.text_model].filter(Boolean).join(" + ");
  speech.offer(facts.voices, limits.speech_chars);
  if (facts.pictures) watchInstead(facts.pictures);
  const choice = choiceBefore();
  for (const [id, table] of [["from", facts.languages], ["to", facts.targets]]) {
    for (const [code, name] of Object.entries(table)) $(id).add(new Option(name, code));
    if ([...$(id).options].some((o) => o.value === choice[id])) $(id).value = choice[id];
  }
  state("idle", "Ready");
  controls();
  await recover();
}

// Of a server whose model reads signing: a camera takes the microphone's place, and the words are others. Of one that reads lips with
// the sound, it stands beside it.
function watchInstead(what) {
  pictures = what;
  sight = new Sight(what.points);
  if (what.sound) {
    $("hint-act").textContent = "speak to the camera";
    return;
  }
  document.body.dataset.input = "camera";
  if (!what.detects) $("from").options[0].remove();
  const words = { "hint-start": "Start camera", "hint-act": "spell with your hand", "clock-of": "seen" };
  for (const [id, word] of Object.entries(words)) $(id).textContent = word;
  document.querySelector("label[for=from]").textContent = "Signed";
  document.querySelector("#source-title span").textContent = "Signed";
}

connectControls();
controls();
store.open().then(meet);
