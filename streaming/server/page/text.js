// The text of one session or recording: lines that are only appended to, in two tracks on one clock.
//
// A line is { track, text, start_ms, end_ms, language }, or { track, done: true } where a sentence ends.

export const TRACKS = ["source", "translation"];

const PAUSE_MS = 2500;
const LONG = 400;          // letters after which a paragraph ends with its sentence
const SEAM_MS = 60000;     // how far back a sentence without translation is heard again
const ENDS_SENTENCE = /[.!?。！？…]["'”’»)\]]*\s*$/;

export function newRecord(kind, { title = "", rate = 16000, from = "", to = "" } = {}) {
  const now = Date.now();
  const id = `${now.toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
  // open: not all that was said is written; link: the server's session that goes on with it (see `Live.link`)
  return { id, kind, title, created: now, rate, from, to, captured: 0, link: null, open: true, made: {}, bytes: 0, since_ms: 0 };
}

// Whether a line begins a paragraph after the one whose text, and end in time, are given.
export function begins(paragraph, line) {
  if (!paragraph || line.start_ms - paragraph.end_ms > PAUSE_MS) return true;
  return paragraph.text.length > LONG && ENDS_SENTENCE.test(paragraph.text);
}

export class Text {
  constructor(record, lines = []) {
    this.record = record;
    this.lines = [];
    this.ends = { source: 0, translation: 0 };    // ms up to which each track is written
    this.guard = { source: 0, translation: 0 };   // ms before which a new session of the server says what is there already
    for (const line of lines) this.add(line);
  }

  // Appends a line; false where it is there already, heard again after the server forgot the session.
  add(line) {
    if (line.text !== undefined) {
      if ((line.start_ms + line.end_ms) / 2 < this.guard[line.track]) return false;
      this.ends[line.track] = Math.max(this.ends[line.track], line.end_ms);
    }
    this.lines.push(line);
    return true;
  }

  has(track) {
    return this.lines.some((l) => l.track === track && l.text);
  }

  get title() {
    if (this.record.title) return this.record.title;
    const track = TRACKS.find((t) => this.has(t));
    const words = track ? this.of(track).slice(0, 12).map((l) => l.text).join("").trim() : "";
    return words.length > 60 ? `${words.slice(0, 57)}…` : words;
  }

  of(track) {
    return this.lines.filter((l) => l.track === track && l.text);
  }

  sentences(track) {
    const out = [];
    let open = null;
    for (const line of this.lines) {
      if (line.track !== track) continue;
      if (line.done) {
        if (open) open.done = true;
        open = null;
      } else if (line.text) {
        if (!open) out.push(open = { start_ms: line.start_ms, end_ms: line.end_ms, text: "", words: [], done: false });
        open.text += line.text;
        open.end_ms = Math.max(open.end_ms, line.end_ms);
        open.words.push(line);
      }
    }
    return out;
  }

  // From when on the text is not complete: the sentence that is not finished, or has no translation yet.
  get complete_ms() {
    const sentences = this.sentences("source");
    const last = sentences.at(-1);
    let at = last && !last.done ? last.start_ms : this.ends.source;
    if (this.record.to) {
      const after = Math.max(this.record.since_ms, this.ends.source - SEAM_MS, this.ends.translation + 100);
      at = Math.min(at, sentences.find((s) => s.end_ms > after && s.start_ms >= this.record.since_ms)?.start_ms ?? at);
    }
    return at;
  }

  // What is heard again from now on is not written again.
  again() {
    this.guard = { ...this.ends };
  }

  paragraphs(track) {
    const out = [];
    for (const line of this.of(track)) {
      if (begins(out.at(-1), line)) out.push({ text: "", start_ms: line.start_ms, end_ms: 0 });
      const paragraph = out.at(-1);
      paragraph.text += line.text;
      paragraph.end_ms = line.end_ms;
    }
    return out.map((p) => ({ ...p, text: p.text.trim() }));
  }
}
