// Failures in plain words: what happened, and what to do.

const MICROPHONE = "To allow it, click the sign at the left of the address (a lock or sliders), set Microphone to Allow, and try again.";

const WORDS = {
  unreachable: () => "The server does not answer. See that it runs and that you are connected to its network, then try again.",
  server_closing: () => "The server was stopped. If it is started again, try again in a minute.",
  no_key: () => "This server asks for a key, and none was given. Whoever runs the server can give you one.",
  invalid_api_key: () => "The server did not accept the key. Ask whoever runs the server for a valid one.",
  no_websocket: () => "The server answers, but a live connection (WebSocket) does not come through: a proxy or firewall between "
    + "blocks it. Recordings still work: open a file. Whoever runs the proxy can let WebSockets pass.",
  too_many_sessions: () => "All places for live speech on this server are taken. Try again in a minute.",
  session_too_long: ({ limits }) => `This server listens for at most ${minutes(limits.audio_s)} in one go, and that is over. `
    + "All text is here: press Continue to go on.",
  storage_full: () => "The server's disk is full, so that it takes no more sound. Tell whoever runs it. What you say is kept in this browser.",
  invalid_audio: ({ name }) => `${name} could not be read as sound or video. Choose another file, or convert it to MP3, WAV or MP4 first.`,
  nothing_heard: ({ name }) => `No speech was recognised in ${name}. See that it has sound and that the spoken language is the chosen one.`,
  missing_file: ({ name }) => `${name} could not be read as sound or video. Choose another file.`,
  file_too_large: ({ name, limits }) => `${name} is larger than this server takes (${limits.upload_mb} MB). `
    + "Convert it to MP3, which leaves out the picture, or cut it into parts.",
  audio_too_long: ({ name, limits }) => `${name} is longer than this server takes (${minutes(limits.audio_s)}). Cut it into parts.`,
  no_voices: () => "This server has no voices. Whoever runs it can install some.",
  text_too_long: () => "The text is longer than this server speaks in one go. Speak it in parts.",
  server_busy: () => "The server has enough to do at the moment. Try again in a minute.",
  server_error: ({ name }) => `The server failed${name ? ` on ${name}` : ""}. Try again; if it fails again, tell whoever runs the server: its log has the reason.`,
  origin_not_allowed: () => "The server refuses this page's address. Whoever runs it can start it with --allow-origin and this address.",
  host_not_allowed: () => "The server answers only to its own machine's name. Whoever runs it can start it with --host.",
  NotAllowedError: () => `The browser does not let this page use the microphone. ${MICROPHONE}`,
  NotFoundError: () => "No microphone was found. Connect one, or open a recording instead.",
  NotReadableError: () => "The microphone is in use by another program, or switched off. Close that program and try again.",
  camera_NotAllowedError: () => `The browser does not let this page use the camera. ${MICROPHONE.replace("Microphone", "Camera")}`,
  camera_NotFoundError: () => "No camera was found. Connect one, or open a film instead.",
  camera_NotReadableError: () => "The camera is in use by another program, or switched off. Close that program and try again.",
  camera_insecure: () => "Browsers give the camera only to https pages and to localhost. Open this page by https, or open a film instead.",
  camera_gone: () => "The camera was taken away.",
  microphone_rate: () => "This browser does not give the sound at 16 kHz, which lips and sound together need. Use a newer one.",
  insecure: () => "Browsers give the microphone only to https pages and to localhost. Open this page by https, or open a recording instead.",
};

const minutes = (s) => (s >= 7200 ? `${Math.round(s / 3600)} hours` : s >= 120 ? `${Math.round(s / 60)} minutes` : `${s} seconds`);

// Args: a Problem or an Error; the name of the recording it is about, the server's limits (of /v1/capabilities).
export function plain(problem, { name = "", limits = {} } = {}) {
  const say = WORDS[problem.code] ?? WORDS[problem.name];
  if (say) return say({ name, limits });
  const about = name ? `${name}: ` : "";
  return `${about}that did not work. The server or browser says: ${problem.message || problem.code}`;
}
