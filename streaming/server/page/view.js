// The text on the page: source and translation beside each other, paragraph by paragraph, each with its time.

import { $, clockOf, element } from "./ui.js";
import { TRACKS, begins } from "./text.js";

const LONGEST = 800;   // letters of a translation after which it begins a paragraph without waiting for the source
const NEAR_PX = 80;    // so near to the end the text is followed as it grows

export class View {
  // `play` is called with a time in ms when a word or the time of a paragraph is chosen.
  constructor(play) {
    this.box = $("text");
    this.maybes = Object.fromEntries(TRACKS.map((t) => [t, element("span", { className: "maybe", ariaHidden: "true" })]));
    this.names = {};
    this.box.addEventListener("click", (e) => {
      const at = e.target.closest("[data-at]")?.dataset.at;
      if (at !== undefined && getSelection().isCollapsed) play(Number(at));
    });
    this.box.addEventListener("scroll", () => this.box.classList.toggle("scrolled", this.box.scrollTop > 4));
    this.clear();
  }

  clear() {
    for (const id of ["times", ...TRACKS]) $(id).replaceChildren();
    this.rows = [];
    this.words = { source: [], translation: [] };
    this.heard = [];
    for (const track of TRACKS) this.language(track, "");
    this.full();
  }

  full() {
    document.body.classList.toggle("full", this.rows.length > 0);
  }

  columns(two) {
    this.box.classList.toggle("two", two);
    for (const id of ["translation", "translation-title"]) $(id).hidden = !two;
  }

  language(track, code) {
    $(`${track}-title`).querySelector(".language").textContent = this.names[code] ?? code;
    $(track).lang = code;
  }

  // Shows a text anew: all of the source first, so that translations stand beside what they translate.
  show(text) {
    const top = this.box.scrollTop;
    this.clear();
    for (const track of TRACKS) for (const line of text.of(track)) this.add(line, false);
    this.box.scrollTop = top;
  }

  add(line, fresh = true) {
    const near = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < NEAR_PX;
    const cell = this.cell(line);
    const span = element("span", { className: fresh ? "new fade" : "new", textContent: cell.text ? line.text : line.text.trimStart() });
    span.dataset.at = line.start_ms;
    cell.paragraph.append(span, this.maybes[line.track]);
    cell.text += line.text;
    cell.end_ms = Math.max(cell.end_ms, line.end_ms);
    this.words[line.track].push({ span, start_ms: line.start_ms, end_ms: line.end_ms });
    if (line.language) this.language(line.track, line.language);
    if (near && fresh) this.box.scrollTop = this.box.scrollHeight;
  }

  cell(line) {
    const row = line.track === "source" ? this.sourceRow(line) : this.translationRow(line);
    return (row.cells[line.track] ??= this.paragraph(line.track, row));
  }

  sourceRow(line) {
    const last = this.rows.findLast((r) => r.cells.source);
    if (last && !begins(last.cells.source, line)) return last;
    const next = this.rows[last ? this.rows.indexOf(last) + 1 : 0];
    return next ?? this.row(line.start_ms);
  }

  translationRow(line) {
    const last = this.rows.at(-1);
    const alone = last?.cells.translation;
    if (!last || (alone && !last.cells.source && alone.text.length > LONGEST)) return this.row(line.start_ms);
    const middle = Math.min(line.start_ms + 500, (line.start_ms + line.end_ms) / 2 + 1);
    return this.rows.findLast((r) => r.start_ms <= middle) ?? this.rows[0];
  }

  row(start_ms) {
    const time = element("button", { type: "button", className: "time", textContent: clockOf(start_ms / 1000) });
    time.setAttribute("aria-label", `Play from ${clockOf(start_ms / 1000)}`);
    time.dataset.at = start_ms;
    const row = { start_ms, cells: {}, number: this.rows.length + 1 };
    time.style.setProperty("--row", row.number);
    $("times").append(time);
    this.rows.push(row);
    this.full();
    return row;
  }

  paragraph(track, row) {
    const paragraph = element("p");
    paragraph.style.setProperty("--row", row.number);
    const after = this.rows.find((r) => r.number > row.number && r.cells[track]);
    $(track).insertBefore(paragraph, after?.cells[track].paragraph ?? null);
    return { paragraph, text: "", end_ms: 0 };
  }

  // What may come next, by track; it changes.
  maybe(texts) {
    for (const track of TRACKS) {
      const text = texts[track] ?? "";
      const span = this.maybes[track];
      if (text && !span.isConnected) {
        const row = this.rows.at(-1) ?? this.row(0);
        (row.cells[track] ??= this.paragraph(track, row)).paragraph.append(span);
      }
      const begun = this.rows.some((r) => r.cells[track]?.text);
      const shown = begun ? text : text.trimStart();
      span.textContent = shown && !/[.…!?。！？]\s*$/.test(shown) ? `${shown}…` : shown;
    }
  }

  // Marks the words that are heard at a time; none for null.
  mark(ms) {
    for (const span of this.heard) span.classList.remove("heard");
    this.heard = [];
    if (ms === null) return;
    for (const track of TRACKS) {
      const words = this.words[track];
      let [low, high] = [0, words.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (words[middle].start_ms <= ms) low = middle + 1; else high = middle;
      }
      const word = words[low - 1];
      if (!word || ms > word.end_ms + 200) continue;
      word.span.classList.add("heard");
      this.heard.push(word.span);
    }
  }
}
