// The camera as pictures for a model that reads points of a body. None is kept: the server finds the points in each and forgets it.

import { Problem } from "./server.js";

const WIDTH = 480;         // pixels of a picture as it is sent
const QUALITY = 0.7;       // of its JPEG
const LONGEST_S = 1.5;     // that a picture stands for; what was missed before that is no time that passed

// A picture, and the frames of the model that it stands for: itself and those since the picture before.
export class Picture {
  constructor(jpeg, length) {
    Object.assign(this, { jpeg, length });
  }

  subarray(first, end = this.length) {  // as of samples
    return new Picture(this.jpeg, Math.min(end, this.length) - first);
  }

  // The message for a picture at a place of the session.
  message(place, rate) {
    return JSON.stringify({ type: "input_frames.append", images: [this.jpeg], times_ms: [(1000 * (place + this.length - 1)) / rate] });
  }
}

// Gives { rate, stream, rest(), close() }. `onPicture` is called with each picture for which `wanted()` is true when it comes; of others
// only the time is counted. `onGone` is called when the camera is taken away. Raises a Problem.
export async function openCamera({ rate, wanted, onPicture, onGone }) {
  if (!navigator.mediaDevices) throw new Problem("camera_insecure");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480, frameRate: { ideal: 30 }, facingMode: "user" } })
    .catch((e) => { throw new Problem(`camera_${e.name}`, e.message); });
  const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let [open, due, last] = [true, 1, null];
  const see = () => {
    if (!open) return;
    next();
    const now = performance.now();
    due = Math.min(due + ((now - (last ?? now)) * rate) / 1000, LONGEST_S * rate);
    last = now;
    if (due < 1 || !video.videoWidth || !wanted()) return;
    canvas.width = WIDTH;
    canvas.height = Math.round((WIDTH * video.videoHeight) / video.videoWidth);
    context.drawImage(video, 0, 0, canvas.width, canvas.height);
    const length = Math.floor(due);
    due -= length;
    onPicture(new Picture(canvas.toDataURL("image/jpeg", QUALITY).split(",")[1], length));
  };
  const next = () => (video.requestVideoFrameCallback ? video.requestVideoFrameCallback(see) : setTimeout(see, 1000 / rate));
  for (const track of stream.getTracks()) track.onended = onGone;
  await video.play();
  next();
  return {
    rate,
    stream,
    rest: async () => null,
    close() {
      open = false;
      for (const track of stream.getTracks()) { track.onended = null; track.stop(); }
    },
  };
}
