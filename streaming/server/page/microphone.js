// The microphone as 16-bit samples.

import { Problem } from "./server.js";

const RATE = 16000;

// Gives { rate, rest(), close() }. `onSound` is called with samples and their loudest value, `onGone` when the
// microphone is taken away. Raises a Problem or what the browser says.
export async function openMicrophone({ onSound, onGone }) {
  if (!navigator.mediaDevices) throw new Problem("insecure");
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  });
  let context = null;
  try {
    context = new AudioContext({ sampleRate: RATE });
    let source;
    try {
      source = context.createMediaStreamSource(stream);
    } catch {  // some browsers do not resample a microphone; then the server does
      await context.close();
      context = new AudioContext();
      source = context.createMediaStreamSource(stream);
    }
    await context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    let given = null;
    node.port.onmessage = ({ data }) => {
      onSound(data.samples, data.peak);
      if (data.rest) given?.();
    };
    for (const track of stream.getTracks()) track.onended = onGone;
    source.connect(node);
    await context.resume();
    return {
      rate: context.sampleRate,
      // Resolves when all that was heard has been given.
      rest: () => new Promise((resolve) => {
        given = resolve;
        node.port.postMessage("rest");
        setTimeout(resolve, 500);  // a context that the system has stopped answers nothing
      }),
      close() {
        for (const track of stream.getTracks()) { track.onended = null; track.stop(); }
        context.close();
      },
    };
  } catch (e) {
    for (const track of stream.getTracks()) track.stop();
    context?.close().catch(() => null);
    throw e;
  }
}
