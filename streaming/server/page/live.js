// A live session that survives its connection. Sound is kept until the server has acknowledged it, and each line that
// the server writes has a number, so that after a break both sides go on where they were. A server that has forgotten
// the session is given the sound again from the last words that it wrote.
//
// Places in the sound are numbers of samples since the text began, which may be many sessions of the server ago. A camera's
// pictures (`camera.js`) go the same way, as pieces of frames.

import { Problem, socketAddress } from "./server.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;
const MOST_TRIES = 4;              // that fail at once, before there ever was a connection
const FIRST_CONNECTION_MS = 12000;
const CONNECT_MS = 15000;
const SILENT_MS = 30000;           // a server that says nothing for so long while it owes us something is away
const MOST_BUFFERED = 2 ** 20;
export const REACH_S = 60;         // acknowledged sound that is kept for a server that forgets
export const MOST_KEPT = 64 * 2 ** 20;

const TRACKS = {
  "conversation.item.input_audio_transcription": "source",
  "session.input_transcript": "source",
  "session.output_transcript": "translation",
};

export class Live extends EventTarget {
  // Events: "line" (detail: a line of text), "maybe" (text that may change, by track), "state" (connecting, live,
  // waiting, closed), "anew" (a new session of the server goes on from the place in detail), "full" (no more sound can
  // be kept), "failed" (detail: a Problem), "told" (an error that ends nothing), "points" (found in the last picture), "note" (words about what is heard and seen).
  //
  // Args: sound `pieces` from place `from` on that are to be heard first; the `link` to a session of the server to go
  // on with; `since`, which says from which place on nothing is written yet; `most` samples in one message; `wire`, what is
  // sent of samples that have a place in the server's session; seconds of sound that are kept after the server has them (`reach`);
  // what a new session asks for besides (`asks`); the `bytes` of a sample.
  constructor({
    rate, wish, key, from = 0, pieces = [], link = null, since = () => from, most = Infinity, wire = (samples) => samples, reach = REACH_S,
    asks = {}, bytes = 2,
  }) {
    super();
    Object.assign(this, { rate, wish, key, since, most, wire, reach, asks, bytes });
    this.pieces = [];
    this.first = this.captured = from;
    for (const samples of pieces) this.keep(samples);
    this.id = link?.id ?? null;
    this.seq = link?.seq ?? -1;
    this.base = link?.base ?? from;      // where the server's session begins
    this.acked = link?.acked ?? from;
    this.changes = [];                   // wishes from a place on
    this.ready = this.closing = this.over = this.everReady = this.finished = false;
    this.tries = 0;
    this.wait = FIRST_WAIT_MS;
    this.begun = Date.now();
    this.online = () => { if (this.timer) { clearTimeout(this.timer); this.connect(); } };
    this.offline = () => this.drop();
    addEventListener("online", this.online);
    addEventListener("offline", this.offline);
    queueMicrotask(() => this.connect());
  }

  get link() {
    return this.id && { id: this.id, seq: this.seq, base: this.base, acked: this.acked };
  }

  get unheard() {  // seconds that the server does not have
    return (this.captured - this.acked) / this.rate;
  }

  // -------------------- the connection

  connect() {
    this.timer = null;
    const rate = this.rate < 1000 ? {} : { rate: this.rate };  // that of pictures is the model's
    const query = { extras: 1, ...(this.id ? { session: this.id, after: this.seq } : { ...rate, ...this.asks }) };
    if (!this.id) for (const [name, value] of Object.entries(this.wish)) if (value) query[name] = value;
    this.told = { ...this.wish };
    const socket = new WebSocket(socketAddress("v1/realtime", query));
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.ready = false;
    this.tries += 1;
    this.state("connecting");
    const left_ms = this.everReady ? CONNECT_MS : Math.max(0, this.begun + FIRST_CONNECTION_MS - Date.now());
    this.patience = setTimeout(() => this.socket === socket && !this.ready && this.drop(), left_ms);
    socket.onopen = () => this.key && socket.send(JSON.stringify({ type: "session.authenticate", api_key: this.key }));
    socket.onmessage = ({ data }) => this.socket === socket && this.take(JSON.parse(data));
    socket.onclose = () => this.socket === socket && this.lost();
  }

  // Gives up the connection at hand at once; a socket's own close may take minutes where the network is gone.
  drop() {
    if (this.over || !this.socket || this.timer) return;
    const socket = this.socket;
    this.socket = null;
    socket.close();
    this.lost();
  }

  lost() {
    clearTimeout(this.patience);
    this.ready = false;
    if (this.over) return;
    const hopeless = this.tries >= MOST_TRIES || Date.now() - this.begun >= FIRST_CONNECTION_MS;
    if (!this.everReady && hopeless) {
      this.fail(new Problem("no_websocket"));
      return;
    }
    this.state("waiting");
    this.timer = setTimeout(() => this.connect(), this.wait);
    this.wait = Math.min(LONGEST_WAIT_MS, this.wait * 2);
  }

  // -------------------- what the server says

  take(message) {
    this.heardAt = Date.now();
    if ("seq" in message) this.seq = message.seq;
    const [kind, end] = [message.type.replace(/\.[a-z]+$/, ""), message.type.split(".").at(-1)];
    if (message.type === "session.created" || message.type === "session.resumed") this.greeted(message);
    else if (message.type === "input_audio_buffer.acknowledged") this.acknowledge(this.base + message.samples);
    else if (message.type === "tentative") this.emit("maybe", message.text);
    else if (message.type === "input_frames.points") this.emit("points", message.points);
    else if (message.type === "session.note") this.emit("note", message.text);
    else if (message.type === "session.closed") this.closed();
    else if (message.type === "error") this.refused(message.error);
    else if (Object.hasOwn(TRACKS, kind)) this.line(TRACKS[kind], end, message);
  }

  greeted(message) {
    clearTimeout(this.patience);
    this.id = message.session.id;
    this.wait = FIRST_WAIT_MS;
    this.everReady = this.ready = true;
    this.acknowledge(this.base + message.acknowledged.samples);
    this.sent = this.acked;
    const audio = message.session.audio;
    if (message.type === "session.resumed") {
      this.told = { language: audio?.input?.transcription?.language ?? "", to: audio?.output?.language ?? "" };
    }
    this.closeSaid = false;
    this.state("live");
    this.pump();
  }

  line(track, end, message) {
    const offset_ms = (this.base / this.rate) * 1000;
    if (end === "completed" || end === "done") this.emit("line", { track, done: true });
    if (end !== "delta") return;
    const { start_ms, end_ms, language } = message;
    this.emit("line", { track, text: message.delta, start_ms: start_ms + offset_ms, end_ms: end_ms + offset_ms, language });
  }

  refused(error) {
    const lost = error.code === "session_not_found" || (this.id && error.code === "invalid_value");
    if (this.ready) this.emit("told", new Problem(error.code, error.message));
    else if (lost) this.forgotten();
    else if (!this.everReady || error.code === "invalid_api_key") this.fail(new Problem(error.code, error.message));
    // else: no place for the moment; the server closes, and we come again
  }

  closed() {
    if (this.closing && this.unheard > 0.1 && this.acked > this.base) {
      this.forgotten();  // it ended before it had all, as when the page was left: a new session takes the rest
      this.drop();
      return;
    }
    this.finished = true;
    this.end();
  }

  // The server knows the session no longer: the next one hears all that is not written yet, as far as it is kept.
  forgotten() {
    this.id = null;
    this.seq = -1;
    this.base = this.acked = Math.min(this.captured, Math.max(this.first, Math.floor(this.since())));
    this.changes = [];
    this.emit("anew", this.base);
  }

  acknowledge(place) {
    this.acked = Math.max(this.acked, place);
    this.captured = Math.max(this.captured, place);  // of a page that was left, the last moments may be with the server only
    const needless = this.acked - this.reach * this.rate;
    while (this.pieces.length && this.pieces[0].at + this.pieces[0].samples.length <= needless) {
      const { samples } = this.pieces.shift();
      this.first += samples.length;
    }
  }

  // -------------------- what we say

  keep(samples) {
    for (let i = 0; i < samples.length; i += this.most) {
      const piece = samples.subarray(i, i + this.most);
      this.pieces.push({ at: this.captured, samples: piece });
      this.captured += piece.length;
    }
  }

  hear(samples) {
    if (!samples.length || this.closing || this.over) return;
    this.keep(samples);
    if (this.ready && this.unheard > 20 && Date.now() - this.heardAt > SILENT_MS) this.drop();
    if ((this.captured - this.acked) * this.bytes > MOST_KEPT) this.emit("full");
    this.pump();
  }

  // Sends what is not sent, in its order, and no more at once than the network takes.
  pump() {
    if (!this.ready || this.closeSaid) return;
    clearTimeout(this.later);
    let i = this.pieces.length;
    while (i > 0 && this.pieces[i - 1].at + this.pieces[i - 1].samples.length > this.sent) i -= 1;
    for (; i < this.pieces.length; i += 1) {
      const { at, samples } = this.pieces[i];
      this.change(at);
      if (this.socket.bufferedAmount > MOST_BUFFERED) {
        this.later = setTimeout(() => this.pump(), 50);
        return;
      }
      this.give(at, samples);
      this.sent = at + samples.length;
    }
    this.change(Infinity);
    if (this.closing) this.sayClose();
  }

  // Sends a piece, without what the server has of it.
  give(at, samples) {
    const had = Math.max(0, this.sent - at);
    this.socket.send(this.wire(had ? samples.subarray(had) : samples, at + had - this.base));
  }

  // Says the wish that is due at a place in the sound, where the server does not know it yet.
  change(place) {
    let due = this.changes.length || place < Infinity ? null : this.wish;
    while (this.changes.length && this.changes[0].at <= place) due = this.changes.shift().wish;
    if (!due || JSON.stringify(due) === JSON.stringify(this.told)) return;
    this.told = { ...due };
    const audio = { input: { transcription: { language: due.language || null } }, output: { language: due.to || null } };
    this.say({ type: "session.update", session: { audio } });
  }

  update(wish) {
    this.wish = { ...wish };
    this.changes.push({ at: this.captured, wish: this.wish });
    this.pump();
  }

  close() {
    this.closing = true;
    this.pump();
  }

  // The page is left: the server need not wait for it. What it has by then it writes, and keeps for a while.
  leave() {
    if (!this.ready || this.closeSaid) return;
    for (const { at, samples } of this.pieces) {
      if (at + samples.length > this.sent) this.give(at, samples);
    }
    this.sayClose();
  }

  sayClose() {
    this.closeSaid = true;
    this.say({ type: "session.close" });
  }

  // Ends now, whatever is written; the link and the place up to which the server has the sound stay.
  end() {
    if (this.over) return;
    this.over = true;
    this.ready = false;
    for (const timer of [this.timer, this.patience, this.later]) clearTimeout(timer);
    removeEventListener("online", this.online);
    removeEventListener("offline", this.offline);
    this.socket?.close();
    this.state("closed");
  }

  fail(problem) {
    this.problem = problem;
    this.end();
  }

  say(message) {
    this.socket.send(JSON.stringify(message));
  }

  state(name) {
    this.emit("state", name);
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
