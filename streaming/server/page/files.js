// Recordings, one after the other: how far each is, how long it takes, what went wrong; each can be cancelled.

import { Problem, send } from "./server.js";
import { hold } from "./store.js";
import { Text, newRecord } from "./text.js";
import { $, clockOf, element, fail, state, tell } from "./ui.js";
import { plain } from "./words.js";

const TRIES = 3;             // where the server does not answer
const AGAIN_S = 3;
const AWAY = ["unreachable", "server_closing"];
const SURE_S = 2;            // of work, before it is said how long the rest takes

export class Files {
  // `show` puts a text on the page, `wish` says the languages, `limits` those of the server, `free` whether recordings may
  // be at work now, `ended` is called when the last is done.
  constructor({ store, show, wish, limits, free, ended }) {
    Object.assign(this, { store, show, wish, limits, free, ended });
    this.jobs = [];
    this.files = new Map();
    this.current = null;
  }

  get busy() {
    return this.current !== null;
  }

  // A recording of this page, also one that is too large for the browser's store.
  fileOf(id) {
    return this.files.get(id) ?? null;
  }

  get waiting() {
    return this.jobs.filter((job) => !job.failed).length;
  }

  async add(file, record = null) {
    const known = record !== null;
    const text = new Text(record ?? newRecord("file", { title: file.name }));
    const job = { file, text, name: file.name, stop: new AbortController(), failed: false, note: "", share: null };
    this.jobs.push(job);
    this.files.set(text.record.id, file);
    hold(text.record.id);
    this.row(job);
    this.draw(job, this.free() ? "waits" : "waits until you stop listening");
    if (!known) {
      await this.store.put(text.record);
      await this.store.addFile(text.record, file);
    }
    this.run();
  }

  async run() {
    if (this.busy || !this.free()) return;
    const job = this.jobs.find((j) => !j.failed);
    if (!job) return;
    this.current = job;
    await this.work(job);
    this.current = null;
    if (this.waiting) this.run(); else this.ended();
  }

  // -------------------- one recording

  async work(job) {
    const { record } = job.text;
    const { from, to } = this.wish();
    Object.assign(record, { from, to });
    job.steps = to ? 2 : 1;
    try {
      job.text = new Text(record);
      job.shown = false;
      await this.step(job, 1, "source", "transcriptions");
      if (to) await this.step(job, 2, "translation", "translations");
      if (!job.text.lines.length) throw new Problem("nothing_heard");
      await this.keep(job);
      this.drop(job);
      state("done", `Done: ${job.name}`);
    } catch (problem) {
      await this.gone(job, problem);
    }
  }

  // A recording that did not come to its end; the text that it has stays.
  async gone(job, problem) {
    const begun = job.text.lines.length > 0;
    if (begun) await this.keep(job);
    if (problem.code === "cancelled") {
      if (!begun) await this.store.remove(job.text.record.id);
      this.drop(job);
      state("done", "Stopped");
      return;
    }
    if (!begun) await this.store.remove(job.text.record.id);
    const words = plain(problem, { name: `“${job.name}”`, limits: this.limits() });
    job.failed = true;
    this.draw(job, words);
    fail(words);
  }

  async keep(job) {
    job.text.record.open = false;
    await this.store.replace(job.text.record, job.text.lines);
    if (job.shown) this.show(job.text);
  }

  async step(job, number, track, task) {
    for (let tries = 1; ; tries += 1) {
      try {
        await this.request(job, number, track, task);
        return;
      } catch (problem) {
        const away = AWAY.includes(problem.code) && tries < TRIES;
        const wait_s = problem.retry_s ?? (away ? AGAIN_S : null);
        if (wait_s === null) throw problem;
        await this.pause(job, AWAY.includes(problem.code) ? "the server does not answer" : "the server is busy", wait_s);
      }
    }
  }

  pause(job, why, seconds) {
    state("busy", `Waiting: ${why}…`);
    return new Promise((resolve, reject) => {
      const { signal } = job.stop;
      const end = () => { clearInterval(timer); reject(new Problem("cancelled")); };
      let left = Math.ceil(seconds);
      const tick = () => {
        this.draw(job, `${why}; tried again in ${left} s`, null);
        if (left <= 0) { clearInterval(timer); signal.removeEventListener("abort", end); resolve(); }
        left -= 1;
      };
      const timer = setInterval(tick, 1000);
      signal.addEventListener("abort", end, { once: true });
      if (signal.aborted) end(); else tick();
    });
  }

  async request(job, number, track, task) {
    const form = new FormData();
    form.set("stream", "true");
    for (const format of ["srt", "vtt", "verbose_json"]) form.append("response_format", format);
    form.set("timestamp_granularities[]", "segment");
    if (job.text.record.from) form.set("language", job.text.record.from);
    if (track === "translation") form.set("to", job.text.record.to);
    form.set("file", job.file);
    const verb = track === "source" ? "Transcribing" : "Translating";
    const kept = job.text.lines.filter((l) => l.track !== track);
    state("busy", `${verb} ${job.name}…`);
    const doing = { verb, number, track, kept, since: null, done: false, problem: null, fresh: true };
    await send(`v1/audio/${task}`, form, {
      signal: job.stop.signal,
      onSent: (share) => this.sent(job, share),
      onEvent: (event) => this.event(job, doing, event),
    });
    if (doing.problem) throw doing.problem;
    if (!doing.done) throw new Problem("unreachable");
  }

  sent(job, share) {
    if (share < 1) this.draw(job, `sending, ${Math.floor(share * 100)} %`, share);
    else this.draw(job, "sent; waits for its turn", null);
  }

  event(job, doing, event) {
    if (event.type === "error") doing.problem = new Problem(event.error.code, event.error.message);
    else if (event.type === "transcript.text.delta") this.delta(job, doing, event);
    else if (event.type === "transcript.text.done") this.finished(job, doing, event);
    this.progress(job, doing, event);
  }

  // Text as it comes; its times come with the end, where the server does not say them before.
  delta(job, doing, event) {
    if (doing.fresh) this.clear(job, doing);
    const [start_ms, end_ms] = [event.start_ms ?? 0, event.end_ms ?? 0];
    const line = { track: doing.track, text: event.delta, start_ms, end_ms, language: "" };
    job.text.add(line);
    if (!job.shown) this.show(job.text);
    else this.show(job.text, line);
    job.shown = true;
  }

  clear(job, doing) {
    doing.fresh = false;
    const again = job.text.lines.length > doing.kept.length;
    job.text = new Text(job.text.record, doing.kept);
    if (again && job.shown) this.show(job.text);
  }

  finished(job, doing, event) {
    this.clear(job, doing);
    const segments = event.verbose_json?.segments ?? [{ text: event.text, start: 0, end: event.usage.seconds }];
    for (const { text, start, end } of segments) {
      const line = { track: doing.track, text: ` ${text.trim()}`, start_ms: start * 1000, end_ms: end * 1000, language: event.language };
      if (text.trim()) { job.text.add(line); job.text.add({ track: doing.track, done: true }); }
    }
    const { record } = job.text;
    record.made[doing.track] = { srt: event.srt, vtt: event.vtt };
    record.captured = event.usage.seconds * record.rate;
    doing.done = true;
    job.shown = job.shown || job.text.lines.length > 0;
    if (job.shown) this.show(job.text);
    this.notes(job, doing, event.verbose_json?.notes ?? []);
  }

  notes(job, doing, notes) {
    const lost = notes.filter((n) => ["skipped", "dropped", "warning"].includes(n.action));
    if (doing.track !== "source" || !lost.length) return;
    const said = lost.slice(0, 3).map((n) => `at ${clockOf(n.start)} ${n.reason}`);
    tell(`“${job.name}”, what the server notes: ${said.join("; ")}${lost.length > 3 ? `; and ${lost.length - 3} more` : ""}.`, { kind: "note" });
  }

  progress(job, doing, event) {
    if (event.state === "waiting") {
      this.draw(job, event.place ? `waits: ${event.place} before it` : "waits: it is next", null);
      return;
    }
    if (event.state === "working") doing.since ??= Date.now();
    const seconds = (Date.now() - doing.since) / 1000;
    const step = job.steps > 1 ? `${doing.verb.toLowerCase()}, ` : "";
    if (!event.total_s) {
      if (job.share === null) this.draw(job, `${step}at work`, null);
      return;
    }
    const share = Math.min(1, event.done_s / event.total_s);
    const left_s = share > 0 && seconds > SURE_S ? (seconds / share) * (1 - share) : null;
    const left = left_s === null ? "" : `, ${left_s < 60 ? `${Math.ceil(left_s)} s` : `${Math.ceil(left_s / 60)} min`} left`;
    this.draw(job, `${step}${Math.floor(share * 100)} %${left}`, (doing.number - 1 + share) / job.steps);
  }

  // -------------------- the list

  row(job) {
    const name = element("span", { className: "name", textContent: job.name });
    job.bar = element("progress", { max: 1 });
    job.bar.setAttribute("aria-label", `Progress of ${job.name}`);
    job.said = element("small");
    job.again = element("button", { type: "button", textContent: "Try again", hidden: true });
    job.again.onclick = () => { this.drop(job); this.add(job.file); };
    const cancel = element("button", { type: "button", className: "close", textContent: "×" });
    cancel.setAttribute("aria-label", `Cancel ${job.name}`);
    cancel.onclick = () => this.cancel(job);
    job.row = element("li", {}, name, job.said, job.bar, job.again, cancel);
    $("jobs").append(job.row);
    $("jobs").hidden = false;
  }

  draw(job, words, share = null) {
    job.share = share;
    job.said.textContent = words;
    if (share === null) job.bar.removeAttribute("value"); else job.bar.value = share;
    job.bar.hidden = job.failed || job !== this.current;
    job.again.hidden = !job.failed;
    job.row.classList.toggle("failed", job.failed);
  }

  drop(job) {
    this.jobs = this.jobs.filter((j) => j !== job);
    job.row.remove();
    $("jobs").hidden = !this.jobs.length;
  }

  cancel(job) {
    if (job === this.current) {
      job.stop.abort();
      return;
    }
    this.drop(job);
    this.store.remove(job.text.record.id);
  }

  cancelAll() {
    for (const job of [...this.jobs]) if (job !== this.current && !job.failed) this.cancel(job);
    if (this.current) this.cancel(this.current);
  }
}
