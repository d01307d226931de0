// What the browser keeps: texts line by line, and sound up to a bound. All of it stays on this machine.
//
// A browser may offer no storage (a private window, a full disk): then nothing is kept, `trouble` is told once, and the
// page works on.

const NAME = "mmx";
const HOLD_MS = 1500;                      // a page that is being left still holds its texts for a moment
export const MOST_SOUND = 500 * 2 ** 20;   // bytes over all texts; the oldest sound goes first
export const MOST_FILE = 200 * 2 ** 20;    // a recording that is larger is not kept beyond this page

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

const whole = (id) => IDBKeyRange.bound([id], [id, []]);

export class Store {
  constructor(trouble) {
    this.trouble = trouble;
    this.broken = false;
  }

  async open() {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("texts", { keyPath: "id" });
        request.result.createObjectStore("lines", { keyPath: ["id", "n"] });
        request.result.createObjectStore("sound", { keyPath: ["id", "at"] });
      };
      this.db = await done(request);
      this.db.onversionchange = () => this.db.close();
    } catch (e) {
      this.fails(e);
    }
    return this;
  }

  fails(error) {
    if (!this.broken) this.trouble(error);
    this.broken = true;
  }

  // One transaction over all that `act` does; what it asked for, or `otherwise` where there is no storage.
  async within(act, otherwise = null, mode = "readwrite") {
    if (!this.db) return otherwise;
    try {
      const transaction = this.db.transaction(["texts", "lines", "sound"], mode);
      const ended = new Promise((resolve, reject) => {
        transaction.oncomplete = resolve;
        transaction.onabort = () => reject(transaction.error ?? new Error("the browser took the transaction back"));
      });
      const result = act((name) => transaction.objectStore(name));
      const [value] = await Promise.all([result, ended]);
      return value;
    } catch (e) {
      this.fails(e);
      return otherwise;
    }
  }

  read(act, otherwise) {
    return this.within(act, otherwise, "readonly");
  }

  // -------------------- texts

  async all() {
    const records = await this.read((of) => done(of("texts").getAll()), []);
    return records.sort((a, b) => b.created - a.created);
  }

  async lines(id) {
    const rows = await this.read((of) => done(of("lines").getAll(whole(id))), []);
    return rows.map(({ line }) => line);
  }

  // Writes a record with lines that came since, of which the first has the number `from`: both or none.
  put(record, lines = [], from = 0) {
    return this.within((of) => {
      of("texts").put(structuredClone(record));
      lines.forEach((line, i) => of("lines").put({ id: record.id, n: from + i, line }));
    });
  }

  replace(record, lines) {
    return this.within((of) => {
      of("texts").put(structuredClone(record));
      of("lines").delete(whole(record.id));
      lines.forEach((line, n) => of("lines").put({ id: record.id, n, line }));
    });
  }

  remove(id) {
    return this.within((of) => {
      of("texts").delete(id);
      of("lines").delete(whole(id));
      of("sound").delete(whole(id));
    });
  }

  // -------------------- sound

  // Samples from a place on; `bytes` of the record counts what is kept of it.
  async addSound(record, at, samples) {
    if (!(await this.room(record, samples.byteLength))) return;
    await this.within((of) => { of("sound").put({ id: record.id, at, samples }); });
  }

  async addFile(record, file) {
    if (file.size > MOST_FILE || !(await this.room(record, file.size))) return;
    await this.within((of) => {
      of("sound").put({ id: record.id, at: 0, file });
      of("texts").put(structuredClone(record));
    });
  }

  // Makes room by letting the oldest sound of other texts go. False where there is none.
  async room(record, bytes) {
    if (!this.db) return false;
    const others = (await this.all()).filter((r) => r.id !== record.id);
    let used = record.bytes + bytes + others.reduce((sum, r) => sum + r.bytes, 0);
    while (used > MOST_SOUND && others.length) {
      const oldest = others.pop();
      used -= oldest.bytes;
      if (oldest.bytes) await this.dropSound(oldest);
    }
    if (used > MOST_SOUND) return false;
    record.bytes += bytes;
    return true;
  }

  dropSound(record) {
    return this.within((of) => {
      of("sound").delete(whole(record.id));
      of("texts").put({ ...structuredClone(record), bytes: 0 });
    });
  }

  // Pieces of sound [{ at, samples }] from a place on; the first may begin before it.
  async sound(record, from = 0) {
    const range = IDBKeyRange.bound([record.id, Math.max(0, from - 2 * record.rate)], [record.id, []]);
    return this.read((of) => done(of("sound").getAll(range)), []);
  }

  async file(id) {
    const row = await this.read((of) => done(of("sound").get([id, 0])), null);
    return row?.file ?? null;
  }
}

// What one text writes down while it grows: lines and sound, gathered for half a second.
export class Draft {
  // Args: whether it keeps the sound (`keeps`), or counts it only.
  constructor(store, text, link, keeps = true) {
    Object.assign(this, { store, text, link, keeps });
    this.saved = text.lines.length;
    this.pieces = [];
    this.at = text.record.captured;
    this.last = Promise.resolve();
  }

  hear(samples) {
    if (this.keeps) this.pieces.push(samples);
    this.text.record.captured += samples.length;
    const length = this.pieces.reduce((sum, p) => sum + p.length, 0);
    if (length >= this.text.record.rate) this.flush(); else this.soon();
  }

  soon() {
    this.timer ??= setTimeout(() => this.flush(), 500);
  }

  // Writes what there is; one after the other, so that an older state never replaces a newer.
  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    const { record, lines } = this.text;
    record.link = this.link();
    record.title ||= lines.length >= 12 ? this.text.title : "";
    const snapshot = structuredClone(record);  // as it belongs to these lines
    const [from, fresh] = [this.saved, lines.slice(this.saved)];
    this.saved = lines.length;
    const length = this.pieces.reduce((sum, p) => sum + p.length, 0);
    const samples = new Int16Array(length);
    let filled = 0;
    for (const piece of this.pieces) { samples.set(piece, filled); filled += piece.length; }
    const at = this.at;
    this.at += length;
    this.pieces = [];
    this.last = this.last
      .then(() => this.store.put(snapshot, fresh, from))
      .then(() => (length ? this.store.addSound(record, at, samples) : null));
    return this.last;
  }
}

// Whether this page is now the one that works on a text: of two tabs only one goes on with it. Held until the page is left.
const held = new Set();

export function hold(id) {
  if (!navigator.locks || held.has(id)) return Promise.resolve(true);
  return new Promise((resolve) => {
    const keep = () => { held.add(id); resolve(true); return new Promise(() => {}); };
    navigator.locks.request(`mmx-${id}`, { signal: AbortSignal.timeout(HOLD_MS) }, keep).catch(() => resolve(false));
  });
}
