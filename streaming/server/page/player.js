// Plays what was said: the recording itself, or the samples that the browser kept.

import { $, clockOf } from "./ui.js";

const HEADER = 44;

// 16-bit mono samples as a WAV file; what is missing between the pieces is silence.
export function wav(pieces, rate) {
  const end = pieces.reduce((most, { at, samples }) => Math.max(most, at + samples.length), 0);
  const head = new DataView(new ArrayBuffer(HEADER));
  const text = (at, s) => [...s].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); text(8, "WAVEfmt "); text(36, "data");
  head.setUint32(4, HEADER - 8 + end * 2, true);
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, rate, true);
  head.setUint32(28, rate * 2, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  head.setUint32(40, end * 2, true);
  const parts = [head];
  let reached = 0;
  for (const { at, samples } of pieces) {
    if (at > reached) parts.push(new Int16Array(at - reached));
    const part = at < reached ? samples.subarray(reached - at) : samples;
    if (part.length) parts.push(part);
    reached = Math.max(reached, at + samples.length);
  }
  return new Blob(parts, { type: "audio/wav" });
}

export class Player {
  // `source` gives the sound of the text on the page as a Blob, null where none is kept; `onTime` is told the time in ms,
  // null at the end; `onTrouble` is told in words why nothing is heard.
  constructor({ source, onTime, onTrouble }) {
    Object.assign(this, { source, onTime, onTrouble });
    this.audio = $("audio");
    this.audio.ontimeupdate = () => this.tick();
    this.audio.onplay = this.audio.onpause = () => this.tick();
    this.audio.onerror = () => this.url && this.onTrouble("This browser cannot play this kind of recording. Its text is not affected.");
    $("play").onclick = () => (this.audio.paused ? this.audio.play() : this.audio.pause());
    $("seek").oninput = () => { this.audio.currentTime = Number($("seek").value); };
    $("player-close").onclick = () => this.forget();
  }

  tick() {
    if (!this.url) return;
    const { currentTime, duration, paused } = this.audio;
    $("play").textContent = paused ? "Play" : "Pause";
    $("seek").max = Number.isFinite(duration) ? duration : 0;
    $("seek").value = currentTime;
    $("seek").setAttribute("aria-valuetext", clockOf(currentTime));
    $("place").textContent = `${clockOf(currentTime)} / ${clockOf(Number.isFinite(duration) ? duration : 0)}`;
    this.onTime(currentTime * 1000);
  }

  async play(ms) {
    if (!this.url) {
      const blob = await this.source();
      if (!blob) {
        this.onTrouble("The sound of this text is not kept in this browser any more. The text is.");
        return;
      }
      this.url = URL.createObjectURL(blob);
      this.audio.src = this.url;
    }
    $("player").hidden = false;
    this.audio.currentTime = ms / 1000;
    await this.audio.play().catch((e) => { if (e.name === "NotAllowedError") this.tick(); });  // the button is there
  }

  // Another text is shown, or the player is closed.
  forget() {
    $("player").hidden = true;
    if (!this.url) return;
    URL.revokeObjectURL(this.url);
    this.url = null;
    this.audio.removeAttribute("src");
    this.audio.load();
    this.onTime(null);
  }
}
