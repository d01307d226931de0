// The camera's picture, as in a mirror, with the points that the server found in it drawn over, so that a person sees what is seen.

import { $ } from "./ui.js";

const SIZES = { FACE: 9, POSE_LANDMARKS: 33, LEFT_HAND_LANDMARKS: 21, RIGHT_HAND_LANDMARKS: 21 };
const FINGERS = [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16], [0, 17, 18, 19, 20], [5, 9, 13, 17]];
const MOUTH = [5, 7, 6, 8, 5];  // of the nine points of a face: corner, upper lip, corner, lower lip
const COLOURS = ["#ffd24a", "#4ad9ff", "#ff6ad5"];
const TOLD_MS = 1000;

export class Sight {
  constructor(groups) {
    this.groups = groups;
  }

  show(stream) {
    Object.assign(this, { pictures: 0, frames: 0, leftOut: 0, noted: "", since: performance.now() });
    $("picture").srcObject = stream;
    $("picture").play().catch(() => null);
    $("seen").textContent = "";
    $("sight").hidden = false;
  }

  hide() {
    $("sight").hidden = true;
    $("picture").srcObject = null;
  }

  // Counts a picture that was sent, and says now and then how many are.
  sent(picture) {
    this.pictures += 1;
    this.leftOut += picture.length - 1;
    const now = performance.now();
    if (now - this.since < TOLD_MS) return;
    const noted = this.noted ? `. ${this.noted}` : "";
    $("seen").textContent = `${Math.round((1000 * this.pictures) / (now - this.since))} pictures a second; ${this.leftOut} left out${noted}`;
    this.pictures = 0;
    this.since = now;
  }

  // Words under the picture until others come: what is lost of sound and lips.
  note(words) {
    this.noted = words;
    $("seen").textContent = words;
  }

  // Args: [x, y] in shares of the picture, or null, for each point of each group.
  draw(points) {
    const canvas = $("points");
    const [width, height] = [canvas.width = $("picture").videoWidth || 4, canvas.height = $("picture").videoHeight || 3];
    const context = canvas.getContext("2d");
    context.lineWidth = width / 200;
    let first = 0;
    this.groups.forEach((name, i) => {
      const group = points.slice(first, first += SIZES[name] ?? 0).map((p) => p && [p[0] * width, p[1] * height]);
      context.strokeStyle = context.fillStyle = COLOURS[i % COLOURS.length];
      if (name.endsWith("HAND_LANDMARKS")) for (const chain of FINGERS) line(context, chain.map((k) => group[k]));
      if (name === "FACE") line(context, MOUTH.map((k) => group[k]));
      for (const p of group) if (p) dot(context, p, width / 130);
    });
  }
}

function line(context, points) {
  if (!points.every(Boolean)) return;
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}

function dot(context, [x, y], radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fill();
}
