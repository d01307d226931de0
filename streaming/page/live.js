// A live session that survives its connection: sound is kept until the server acknowledges it, and every line that the
// server writes has a number, so that after a break both sides go on where they were.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;

export class Live extends EventTarget {
  // Events: "message" (detail: what the server wrote), "state" (detail: connecting, live, waiting, closed), "failed".
  constructor({ language, to, rate, key }) {
    super();
    this.wish = { language, to };
    this.rate = rate;
    this.key = key;
    this.id = null;
    this.seq = -1;
    this.kept = [];          // pieces that are not acknowledged
    this.first = 0;          // number of the first sample that is kept
    this.captured = 0;
    this.closing = false;
    this.over = false;
    this.wait = FIRST_WAIT_MS;
    this.again = () => { if (this.timer) { clearTimeout(this.timer); this.connect(); } };
    addEventListener("online", this.again);
    this.connect();
  }

  connect() {
    this.timer = null;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const query = new URLSearchParams(this.id ? { session: this.id, after: this.seq } : { rate: this.rate });
    query.set("extras", "1");  // messages beside OpenAI's: what is acknowledged, tentative text, the end
    if (!this.id) for (const [name, value] of Object.entries(this.wish)) if (value) query.set(name, value);
    const socket = new WebSocket(`${scheme}://${location.host}/v1/realtime?${query}`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.ready = false;
    this.state("connecting");
    socket.onopen = () => this.key && socket.send(JSON.stringify({ type: "session.authenticate", api_key: this.key }));
    socket.onmessage = ({ data }) => this.socket === socket && this.take(JSON.parse(data));
    socket.onclose = () => this.socket === socket && this.lost();
  }

  lost() {
    this.ready = false;
    if (this.over) return;
    this.state("waiting");
    this.timer = setTimeout(() => this.connect(), this.wait);
    this.wait = Math.min(LONGEST_WAIT_MS, this.wait * 2);
  }

  take(message) {
    if ("seq" in message) this.seq = message.seq;
    if (message.type === "session.created" || message.type === "session.resumed") {
      this.id = message.session.id;
      this.wait = FIRST_WAIT_MS;
      this.acknowledge(message.acknowledged.samples);
      this.ready = true;
      for (const piece of this.kept) this.socket.send(piece);
      if (this.closing) this.say({ type: "session.close" });
      this.state("live");
    } else if (message.type === "input_audio_buffer.acknowledged") {
      this.acknowledge(message.samples);
    } else if (message.type === "error" && message.error.code === "session_not_found") {
      this.id = null;        // the server has forgotten it: begin anew with all that is kept
      this.seq = -1;
      this.captured -= this.first;
      this.first = 0;
    } else if (message.type === "error" && !this.ready) {
      this.end();
      this.dispatchEvent(new CustomEvent("failed", { detail: message.error }));
    } else if (message.type === "session.closed") {
      this.end();
    }
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }

  acknowledge(samples) {
    while (this.kept.length && this.first + this.kept[0].length <= samples) this.first += this.kept.shift().length;
    if (this.kept.length && this.first < samples) {
      this.kept[0] = this.kept[0].subarray(samples - this.first);
      this.first = samples;
    }
  }

  hear(samples) {
    if (!samples.length || this.closing) return;
    this.kept.push(samples);
    this.captured += samples.length;
    if (this.ready) this.socket.send(samples);
  }

  update(wish) {
    this.wish = { ...this.wish, ...wish };
    const audio = { input: { transcription: { language: this.wish.language || null } },
                    output: { language: this.wish.to || null } };
    this.say({ type: "session.update", session: { audio } });
  }

  close() {
    this.closing = true;
    this.say({ type: "session.close" });
  }

  end() {
    this.over = true;
    clearTimeout(this.timer);
    removeEventListener("online", this.again);
    this.socket.close();
    this.state("closed");
  }

  say(message) {
    if (this.ready) this.socket.send(JSON.stringify(message));
  }

  state(name) {
    this.dispatchEvent(new CustomEvent("state", { detail: name }));
  }
}
