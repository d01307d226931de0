// What was said before, as this browser keeps it: open, rename, delete.

import { $, clockOf, element } from "./ui.js";

export class History {
  // `open` is called with a record; `ofNow` says the id of the text that is being written, which is left alone.
  constructor({ store, open, removed, ofNow }) {
    Object.assign(this, { store, open, removed, ofNow });
    $("open-history").onclick = () => this.show();
    $("history-close").onclick = () => $("history").close();
    $("history-delete").onclick = (e) => this.sure(e.target, "Delete all?", () => this.removeAll());
  }

  async show() {
    await this.draw();
    $("history").showModal();
  }

  async draw() {
    this.records = await this.store.all();
    $("history-list").replaceChildren(...this.records.map((r) => this.row(r)));
    $("history-none").hidden = this.records.length > 0;
    $("history-delete").hidden = this.records.length < 2;
  }

  row(record) {
    const title = record.title || (record.kind === "file" ? "Recording" : "Speech");
    const length = clockOf(record.captured / record.rate);
    const when = new Date(record.created).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const now = record.id === this.ofNow();
    const about = [when, length, now ? "at work" : record.open ? "not all written" : ""].filter(Boolean).join(" · ");
    const open = element("button", { type: "button", className: "open", disabled: now },
      element("strong", { textContent: title }), element("small", { textContent: about }));
    open.onclick = () => { $("history").close(); this.open(record); };
    const rename = element("button", { type: "button", textContent: "Rename" });
    rename.setAttribute("aria-label", `Rename ${title}`);
    const remove = element("button", { type: "button", textContent: "Delete", disabled: now });
    remove.setAttribute("aria-label", `Delete ${title}`);
    const row = element("li", {}, open, rename, remove);
    rename.onclick = () => this.rename(record, row, title);
    remove.onclick = () => this.sure(remove, "Delete?", () => this.remove(record));
    return row;
  }

  rename(record, row, title) {
    const name = element("input", { value: title, maxLength: 120 });
    name.setAttribute("aria-label", "New name");
    const form = element("form", {}, name, element("button", { type: "submit", textContent: "Keep" }));
    form.onsubmit = async (e) => {
      e.preventDefault();
      record.title = name.value.trim() || title;
      await this.store.put(record);
      this.open.renamed?.(record);
      await this.draw();
    };
    name.onkeydown = (e) => { if (e.key === "Escape") { e.preventDefault(); e.stopPropagation(); this.draw(); } };
    row.replaceChildren(form);
    name.select();
  }

  // A button that is to be pressed twice.
  sure(button, words, act) {
    if (button.dataset.sure) {
      delete button.dataset.sure;
      act();
      return;
    }
    const was = button.textContent;
    button.dataset.sure = "asked";
    button.textContent = words;
    button.addEventListener("blur", () => { button.textContent = was; delete button.dataset.sure; }, { once: true });
  }

  async remove(record) {
    await this.store.remove(record.id);
    this.removed(record.id);
    await this.draw();
  }

  async removeAll() {
    for (const record of this.records) {
      if (record.id === this.ofNow()) continue;
      await this.store.remove(record.id);
      this.removed(record.id);
    }
    await this.draw();
    $("history-delete").textContent = "Delete all";
  }
}
