// Microphone and camera together, on one clock, for a model that reads lips and sound: moments, as long as one of its pictures (40 ms).
// A moment is its sound, and the picture that came in its time, if one did. Without a camera the sound goes on alone.

import { openCamera } from "./camera.js";
import { openMicrophone } from "./microphone.js";
import { Problem } from "./server.js";

const SOUND_RATE = 16000;

export class Moments {
  // Args: 16-bit samples, `size` of them a moment; pictures [{ at, jpeg }] by the number of their moment.
  constructor(samples, size, pictures) {
    Object.assign(this, { samples, size, pictures, length: samples.length / size });
  }

  subarray(first, end = this.length) {  // as of samples
    const last = Math.min(end, this.length);
    const mine = this.pictures.filter(({ at }) => at >= first && at < last).map(({ at, jpeg }) => ({ at: at - first, jpeg }));
    return new Moments(this.samples.subarray(first * this.size, last * this.size), this.size, mine);
  }

  // The message for moments at a place of the session.
  message(place, rate) {
    const bytes = new Uint8Array(this.samples.buffer, this.samples.byteOffset, this.samples.byteLength);
    return JSON.stringify({
      type: "input_frames.append",
      audio: btoa(String.fromCharCode(...bytes)),
      images: this.pictures.map(({ jpeg }) => jpeg),
      times_ms: this.pictures.map(({ at }) => (1000 * (place + at)) / rate),
    });
  }
}

// Gives { rate, stream, rest(), close() }; `stream` is the camera's, null without one. `onMoments` is called with Moments and the loudest
// value in them, `onPicture` with each picture that is sent, `onBlind` with a Problem where there is no camera, or none any more, and
// `onGone` when the microphone is taken away. Raises as `openMicrophone`.
export async function openBoth({ rate, wanted, onMoments, onPicture, onBlind, onGone }) {
  const size = SOUND_RATE / rate;
  let [held, given, since, pictures] = [new Int16Array(0), 0, performance.now(), []];
  const onSound = (samples, peak) => {
    const whole = new Int16Array(held.length + samples.length);
    whole.set(held);
    whole.set(samples, held.length);
    const count = Math.floor(whole.length / size);
    held = whole.slice(count * size);
    since = performance.now();
    if (!count) return;
    const mine = pictures.map(({ at, jpeg }) => ({ at: Math.max(0, at - given), jpeg }));
    pictures = mine.filter(({ at }) => at >= count).map(({ at, jpeg }) => ({ at: at + given, jpeg }));
    given += count;
    onMoments(new Moments(whole.slice(0, count * size), size, mine.filter(({ at }) => at < count)), peak);
  };
  const microphone = await openMicrophone({ onSound, onGone });
  if (microphone.rate !== SOUND_RATE) {
    microphone.close();
    throw new Problem("microphone_rate");
  }
  const camera = await openCamera({
    rate,
    wanted,
    onPicture: (picture) => {  // it is of now, when the sound since the last piece has not been given yet
      pictures.push({ at: Math.floor(given + (held.length + ((performance.now() - since) * SOUND_RATE) / 1000) / size), jpeg: picture.jpeg });
      onPicture(picture);
    },
    onGone: () => onBlind(new Problem("camera_gone")),
  }).catch((problem) => { onBlind(problem); return null; });
  return {
    rate,
    stream: camera?.stream ?? null,
    rest: () => microphone.rest(),
    close() { microphone.close(); camera?.close(); },
  };
}
