// Speaks a text by the server's voices: sound as it comes, each word marked while it is heard.

import { wav } from "./player.js";
import { Problem, send } from "./server.js";
import { $, download, element } from "./ui.js";
import { plain } from "./words.js";

const RATE = 24000;
const AHEAD_S = 0.1;    // from the first sound to its being heard, so that the next has time to come
const WATCH_MS = 40;

// Samples that are played one after the other, whenever they come.
class Queue {
  constructor() {
    this.context = new AudioContext({ sampleRate: RATE });
    this.pieces = [];       // { from_s: of the speech, at_s: of the context, samples }
    this.made_s = this.free_s = 0;
  }

  add(samples) {
    if (!samples.length) return;
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(Float32Array.from(samples, (s) => s / 32768), 0);
    const node = new AudioBufferSourceNode(this.context, { buffer });
    const at_s = Math.max(this.free_s, this.context.currentTime + AHEAD_S);
    node.connect(this.context.destination);
    node.start(at_s);
    this.pieces.push({ from_s: this.made_s, at_s, samples });
    this.made_s += buffer.duration;
    this.free_s = at_s + buffer.duration;
  }

  // The time of the speech that is heard; null before it begins.
  get now_s() {
    const now = this.context.currentTime;
    const piece = this.pieces.findLast((p) => p.at_s <= now);
    return piece ? piece.from_s + Math.min(now - piece.at_s, piece.samples.length / RATE) : null;
  }

  get over() {
    return this.context.currentTime >= this.free_s;
  }
}

// The words of a text: those whose times are known are marked in turn, the rest waits.
class Words {
  constructor(box, text) {
    Object.assign(this, { box, rest: text, times: [], heard: null });
    this.tail = element("span", { className: "unsaid", textContent: text });
    box.replaceChildren(this.tail);
  }

  add({ word, start, end }) {
    const bare = word.trim();
    const at = this.rest.indexOf(bare);
    if (at < 0) return;
    const span = element("span", { textContent: bare });
    this.tail.before(this.rest.slice(0, at), span);
    this.rest = this.rest.slice(at + bare.length);
    this.tail.textContent = this.rest;
    this.times.push({ span, start, end });
  }

  mark(now_s) {
    const word = now_s === null ? undefined : this.times.findLast((w) => w.start <= now_s);
    const span = word && now_s <= word.end + 0.2 ? word.span : null;
    if (span === this.heard) return;
    this.heard?.classList.remove("heard");
    this.heard = span;
    span?.classList.add("heard");
    span?.scrollIntoView({ block: "nearest" });
  }
}

export class Speech {
  // `names` gives the languages' names, `onListen` is told the track whose text is to be heard.
  constructor({ names, onListen }) {
    Object.assign(this, { names, onListen, voices: [], now: null });
    $("open-speech").onclick = () => this.open();
    $("speech-close").onclick = () => $("speech").close();
    $("speech").addEventListener("close", () => this.stop());
    $("speech-form").onsubmit = (e) => { e.preventDefault(); if (this.now) this.pause(); else this.speak(); };
    $("speech-edit").onclick = () => this.stop();
    $("speech-save").onclick = () => this.save();
    for (const button of document.querySelectorAll(".listen")) button.onclick = () => this.onListen(button.dataset.listen);
  }

  // What the server speaks, and how much at once.
  offer(voices, most) {
    this.voices = voices;
    $("open-speech").hidden = !voices.length;
    $("speech-text").maxLength = most;
    const groups = new Map();
    for (const voice of voices) for (const tag of voice.languages) groups.set(tag, [...(groups.get(tag) ?? []), voice]);
    $("speech-voice").replaceChildren(...[...groups].map(([tag, some]) => {
      const group = element("optgroup", { label: this.nameOf(tag) });
      group.append(...some.map((v) => Object.assign(new Option(v.name, v.id), { lang: tag })));
      return group;
    }));
  }

  nameOf(tag) {
    const [language, region] = tag.split("-");
    const name = this.names()[language] ?? language;
    return region ? `${name} (${region})` : name;
  }

  // Whether a voice speaks a language.
  speaks(language) {
    return this.voices.some((v) => v.languages.some((tag) => tag.split("-")[0] === language));
  }

  open(text = null, language = null) {
    this.stop();
    if (text !== null) $("speech-text").value = text.slice(0, $("speech-text").maxLength);
    const option = [...$("speech-voice").options].find((o) => o.lang.split("-")[0] === language);
    if (option) option.selected = true;
    this.tell("");
    $("speech").showModal();
    if (text !== null) this.speak();
  }

  async speak() {
    const text = $("speech-text").value.trim();
    if (!text) {
      $("speech-text").focus();
      return;
    }
    const option = $("speech-voice").selectedOptions[0];
    const now = this.now = { queue: new Queue(), words: new Words($("speech-words"), text), leave: new AbortController(), whole: false };
    this.last = now;
    $("speech-words").lang = option.lang;
    this.shown("wait", "Speaking…");
    now.watch = setInterval(() => this.tick(now), WATCH_MS);
    const body = JSON.stringify({
      input: text, voice: option.value, language: option.lang, speed: Number($("speech-speed").value), response_format: "pcm", stream_format: "sse",
    });
    try {
      await send("v1/audio/speech", body, { signal: now.leave.signal, onSent() {}, onEvent: (event) => this.take(now, event) });
      now.whole = true;
    } catch (problem) {
      if (problem.code !== "cancelled" && this.now === now) this.fail(problem);
    }
  }

  take(now, event) {
    if (event.type === "error") throw new Problem(event.error.code, event.error.message);
    if (event.type !== "speech.audio.delta" || this.now !== now) return;
    const bytes = Uint8Array.from(atob(event.audio), (c) => c.charCodeAt(0));
    now.queue.add(new Int16Array(bytes.buffer, 0, bytes.length >> 1));
    for (const word of event.words ?? []) now.words.add(word);
    if ($("speech").dataset.state === "wait") this.shown("play", "");
  }

  tick(now) {
    now.words.mark(now.queue.now_s);
    if (now.whole && now.queue.over) this.end();
  }

  pause() {
    const { context } = this.now.queue;
    const rests = $("speech").dataset.state === "pause";
    if (rests) context.resume(); else context.suspend();
    this.shown(rests ? "play" : "pause", "");
  }

  fail(problem) {
    this.end();
    this.tell(plain(problem));
  }

  // All was heard: it can be kept, or spoken again.
  end() {
    const { now } = this;
    this.now = null;
    clearInterval(now.watch);
    now.words.mark(null);
    now.leave.abort();
    now.queue.context.close();
    this.shown("done", "");
  }

  // Back to the text itself.
  stop() {
    if (this.now) this.end();
    this.shown("idle", "");
  }

  save() {
    const pieces = this.last.queue.pieces.map(({ from_s, samples }) => ({ at: Math.round(from_s * RATE), samples }));
    download(wav(pieces, RATE), "speech.wav");
  }

  tell(text) {
    $("speech-told").textContent = text;
    $("speech-told").hidden = !text;
  }

  shown(state, told) {
    const reads = state !== "idle";
    $("speech").dataset.state = state;
    $("speech-text").hidden = reads;
    $("speech-words").hidden = !reads;
    $("speech-edit").hidden = !reads;
    $("speech-save").hidden = state !== "done" || !this.last?.queue.made_s;
    $("speech-go").textContent = { idle: "Speak", wait: "Stop", play: "Pause", pause: "Go on", done: "Speak again" }[state];
    $("speech-go").disabled = state === "wait";
    $("speech-voice").disabled = $("speech-speed").disabled = ["wait", "play", "pause"].includes(state);
    this.tell(told);
  }
}
