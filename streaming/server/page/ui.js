// What the page says about itself: its state, a banner for failures, menus.

export const $ = (id) => document.getElementById(id);

const ON = ["live", "waiting", "busy"];

export const isOn = () => ON.includes(document.body.dataset.state);
export const withCamera = () => document.body.dataset.input === "camera";
export const stateNow = () => document.body.dataset.state;

// States: idle, busy, live, waiting (for a connection), done, error.
export function state(name, text) {
  document.body.dataset.state = name;
  $("status").textContent = text;
  const on = ON.includes(name);
  $("mic").classList.toggle("on", on);
  $("mic").querySelector(".words").textContent = on ? "Stop" : withCamera() ? "Start camera" : "Start listening";
}

// A message across the page; `act` is { label, run } of the button that mends it.
export function tell(text, { kind = "error", act = null } = {}) {
  $("banner").dataset.kind = kind;
  $("banner-text").textContent = text;
  $("banner-act").hidden = !act;
  $("banner-act").textContent = act?.label ?? "";
  $("banner-act").onclick = act && (() => { untell(); act.run(); });
  $("banner").hidden = false;
}

export function untell() {
  $("banner").hidden = true;
  $("banner-text").textContent = "";
  if (stateNow() === "error") state("done", "Ready");
}

export function fail(text, act = null) {
  state("error", "Not done");
  tell(text, { act });
}

export function clockOf(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const [h, m, rest] = [Math.floor(s / 3600), Math.floor(s / 60) % 60, String(s % 60).padStart(2, "0")];
  return h ? `${h}:${String(m).padStart(2, "0")}:${rest}` : `${m}:${rest}`;
}

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// A button that opens a menu: arrow keys, Home, End and Escape, as the pattern of WAI-ARIA says.
export function menu(button, box, rows) {
  const items = () => [...box.children];
  const open = (yes) => {
    box.hidden = !yes;
    button.setAttribute("aria-expanded", yes);
    if (!yes) return;
    box.replaceChildren(...rows().map(({ label, note, name, run }) => {
      const item = element("button", { type: "button", tabIndex: -1 }, label, element("small", { textContent: note }));
      item.setAttribute("role", "menuitem");
      item.dataset.save = name;
      item.onclick = () => { open(false); button.focus(); run(); };
      return item;
    }));
    items()[0]?.focus();
  };
  button.onclick = () => open(box.hidden);
  button.onkeydown = (e) => { if (e.key === "ArrowDown" || e.key === "ArrowUp") { e.preventDefault(); open(true); } };
  box.onkeydown = (e) => {
    const all = items();
    const at = all.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[e.key];
    if (to !== undefined) { e.preventDefault(); all.at(to % all.length)?.focus(); }
    if (e.key === "Escape") { open(false); button.focus(); }
    if (e.key === "Tab") open(false);
  };
  addEventListener("click", (e) => { if (!box.contains(e.target) && !button.contains(e.target)) open(false); });
}

// Text into the clipboard, also on a page without https, where browsers offer only the older way.
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const box = element("textarea", { value: text, className: "away" });
  document.body.append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  if (!done) throw new Error("the browser did not copy");
}

export function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
