// A text as a file: subtitles, plain text, both languages together.

import { TRACKS } from "./text.js";

const COLUMNS = 42;        // of a line of subtitles; wide letters take two
const LINES = 2;
const SHORTEST_MS = 700;
const LONGEST_MS = 7000;
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{1f300}-\u{1faff}]|[\u{20000}-\u{3fffd}]/u;
const UNSPACED = /[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uff60]/;

export const FORMATS = { srt: "Subtitles (.srt)", vtt: "Web subtitles (.vtt)", text: "Text (.txt)" };

export const columns = (text) => [...text].reduce((n, letter) => n + (WIDE.test(letter) ? 2 : 1), 0);

// Where a text may be cut: at spaces, and between the letters of scripts that are written without.
function atoms(text) {
  const out = [];
  for (const word of text.trim().split(/\s+/)) {
    if (UNSPACED.test(word)) out.push(...[...word].map((letter, i) => (i || !out.length ? letter : ` ${letter}`)));
    else out.push(out.length ? ` ${word}` : word);
  }
  return out;
}

// A text in lines of at most COLUMNS, of about the same length; a word that is longer stands alone.
export function wrapped(text) {
  const all = atoms(text);
  const most = Math.max(1, Math.ceil(columns(text.trim()) / COLUMNS));
  const fair = Math.min(COLUMNS, Math.ceil(columns(text.trim()) / most) + 6);
  const lines = [""];
  for (const atom of all) {
    const limit = lines.length < most ? fair : COLUMNS;
    if (lines.at(-1) && columns(lines.at(-1)) + columns(atom) > limit) lines.push("");
    lines[lines.length - 1] += lines.at(-1) ? atom : atom.trimStart();
  }
  return lines;
}

// -------------------- cues

// A sentence as words with times: those that it has, cut further where one is a whole sentence.
function timed(sentence) {
  return sentence.words.flatMap((word) => {
    const parts = atoms(word.text);
    const span = word.end_ms - word.start_ms;
    const total = Math.max(1, columns(word.text.trim()));
    let at = 0;
    return parts.map((part, i) => {
      const start_ms = word.start_ms + (span * at) / total;
      at += columns(part);
      const lead = i === 0 && /^\s/.test(word.text) ? " " : "";
      return { text: lead + part, start_ms, end_ms: Math.min(word.end_ms, word.start_ms + (span * at) / total) };
    });
  });
}

// A sentence in pieces that fit a cue, about equally long, cut after a comma where there is one nearby.
function pieces(sentence) {
  const words = timed(sentence);
  const count = Math.max(
    Math.ceil(columns(sentence.text.trim()) / (COLUMNS * LINES)),
    Math.ceil((sentence.end_ms - sentence.start_ms) / LONGEST_MS), 1,
  );
  const fair = columns(sentence.text) / count;
  const out = [];
  for (const word of words) {
    const last = out.at(-1);
    const full = last && columns(last.text) + columns(word.text) > COLUMNS * LINES;
    const long = last && word.end_ms - last.start_ms > LONGEST_MS;
    const good = last && columns(last.text) > fair * 0.7 && /[,;:，、；]$/.test(last.text) && count > 1;
    if (!last || full || long || good) out.push({ ...word });
    else Object.assign(last, { text: last.text + word.text, end_ms: word.end_ms });
  }
  return out;
}

// Cues of { start_ms, end_ms, lines }; each stays SHORTEST_MS where there is room before the next.
function settled(cues) {
  return cues.map((cue, i) => {
    const next = cues[i + 1]?.start_ms ?? Infinity;
    const end_ms = Math.min(Math.max(cue.end_ms, cue.start_ms + SHORTEST_MS), Math.max(next, cue.start_ms + 1));
    return { ...cue, end_ms: Math.max(cue.start_ms + 1, end_ms) };
  });
}

export function cuesOf(text, track) {
  const all = text.sentences(track).flatMap(pieces).sort((a, b) => a.start_ms - b.start_ms);
  return settled(all.map((p) => ({ ...p, lines: wrapped(p.text) })));
}

// Cues with what is said above what it means. A translated sentence goes to the one said at the same time.
export function bilingual(text) {
  const said = text.sentences("source").map((s) => ({ ...s, meant: [] }));
  for (const t of text.sentences("translation")) {
    const overlap = (s) => Math.min(s.end_ms, t.end_ms) - Math.max(s.start_ms, t.start_ms);
    const best = said.reduce((a, b) => (a && overlap(a) >= overlap(b) ? a : b), null);
    best?.meant.push(t.text.trim());
  }
  const cues = said.flatMap((sentence) => {
    const above = pieces(sentence);
    const meant = sentence.meant.join(" ");
    const below = meant ? shares(meant, above.map((p) => columns(p.text))) : [];
    return above.map((p, i) => ({ ...p, lines: [...wrapped(p.text), ...(below[i] ? wrapped(below[i]) : [])] }));
  });
  return settled(cues);
}

// A text cut into as many parts as there are weights, each about as long as its weight says.
function shares(text, weights) {
  const total = weights.reduce((a, b) => a + b, 0) || 1;
  const length = columns(text);
  const out = weights.map(() => "");
  let [part, used, due] = [0, 0, (length * weights[0]) / total];
  for (const atom of atoms(text)) {
    if (part < weights.length - 1 && used + columns(atom) / 2 > due) due += (length * weights[++part]) / total;
    out[part] += out[part] ? atom : atom.trimStart();
    used += columns(atom);
  }
  return out;
}

// -------------------- files

function stamp(ms, comma) {
  const t = Math.round(ms);
  const two = (n) => String(Math.floor(n)).padStart(2, "0");
  return `${two(t / 3600000)}:${two((t / 60000) % 60)}:${two((t / 1000) % 60)}${comma}${String(t % 1000).padStart(3, "0")}`;
}

const range = (cue, comma) => `${stamp(cue.start_ms, comma)} --> ${stamp(cue.end_ms, comma)}`;
const escaped = (line) => line.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const WRITERS = {
  srt: (cues) => cues.map((cue, i) => `${i + 1}\n${range(cue, ",")}\n${cue.lines.join("\n")}\n`).join("\n"),
  vtt: (cues) => `WEBVTT\n\n${cues.map((cue) => `${range(cue, ".")}\n${cue.lines.map(escaped).join("\n")}\n`).join("\n")}`,
};

// The text in a format of FORMATS; "both" as track has the two languages in each cue. What the server has written
// itself, as for a recording, is taken as it is.
export function written(text, track, format) {
  if (track === "both") return WRITERS[format](bilingual(text));
  if (text.record.made[track]?.[format]) return text.record.made[track][format];
  if (format === "text") return `${text.paragraphs(track).map((p) => p.text).join("\n\n")}\n`;
  return WRITERS[format](cuesOf(text, track));
}

// What there is to save: { name: "source.srt", label, note, ending }.
export function choices(text) {
  const notes = { source: "said", translation: "translated", both: "both languages" };
  const tracks = TRACKS.filter((t) => text.has(t));
  const rows = tracks.flatMap((t) => Object.keys(FORMATS).map((f) => [t, f]));
  if (tracks.length === 2) rows.push(["both", "srt"]);
  return rows.map(([track, format]) => ({
    name: `${track}.${format}`, track, format, label: FORMATS[format], note: notes[track], ending: format === "text" ? "txt" : format,
  }));
}
