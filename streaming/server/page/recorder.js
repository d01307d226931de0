// Gathers the microphone's sound into pieces of a tenth of a second, as 16-bit samples with their loudest value.

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.peak = 0;
    this.port.onmessage = () => this.give(true);  // asked for the rest, at the end
  }

  give(rest = false) {
    const samples = this.piece.slice(0, this.filled);
    this.port.postMessage({ samples, peak: this.peak, rest }, [samples.buffer]);
    this.filled = 0;
    this.peak = 0;
  }

  process([input]) {
    for (const x of input[0] ?? []) {
      this.peak = Math.max(this.peak, Math.abs(x));
      this.piece[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(x * 32767)));
      if (this.filled === this.piece.length) this.give();
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
