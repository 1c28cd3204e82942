// Talks to the daemon that this page came from, and to nobody else.

const TOKEN = "smdaemon-token";
// The daemon says every 15 s that it is there: a stream that is silent for longer is dead, whatever the network believes.
const SILENCE_MS = 40_000;
// Of JSON: a text in quotes, or a number.
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;

/** What the daemon refused, or that it does not answer. */
export class ApiError extends Error {
  constructor(status, answer) {
    super(answer.message || `the daemon answered with status ${status}`);
    this.status = status;
    this.code = answer.code || "";
    this.remedy = answer.remedy || "";
  }
}

/** Show this token from now on, as long as the tab is open; an empty one is forgotten. */
export function setToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/**
 * The value of a JSON text. A whole number that no number of JavaScript holds, as a version may be, comes as text.
 *
 * The daemon takes it back as text, too.
 */
export function fromJson(text) {
  const isLarge = (token) => /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token));
  return JSON.parse(text.replace(TOKENS, (token) => (isLarge(token) ? `"${token}"` : token)));
}

function headers(more = {}) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function answered(response) {
  if (response.ok) return fromJson(await response.text());
  let answer = {};
  try {
    answer = fromJson(await response.text());
  } catch {
    // a proxy's page, not the daemon's answer
  }
  throw new ApiError(response.status, answer);
}

/** The JSON answer of a GET; parameters that are undefined are left out. */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  const search = new URLSearchParams(given).toString();
  return answered(await fetch(search ? `${path}?${search}` : path, { headers: headers({ Accept: "application/json" }) }));
}

/** The JSON answer of a POST. */
export async function post(path, body) {
  const asked = { method: "POST", headers: headers({ Accept: "application/json" }) };
  if (body !== undefined) {
    asked.headers["Content-Type"] = "application/json";
    asked.body = JSON.stringify(body);
  }
  return answered(await fetch(path, asked));
}

/**
 * The server-sent events of a path, as {type, id, data}, until the stream ends.
 *
 * EventSource could not show a token, so the stream is read here.
 */
export async function* events(path, signal, opened) {
  const response = await fetch(path, { headers: headers({ Accept: "text/event-stream" }), signal, cache: "no-store" });
  if (!response.ok) await answered(response);
  opened();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await spoken(reader);
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event) yield event;
    }
  }
}

/** What a stream says next; its end, where it is silent for too long. */
async function spoken(reader) {
  const silence = setTimeout(() => reader.cancel(), SILENCE_MS);
  try {
    return await reader.read();
  } finally {
    clearTimeout(silence);
  }
}

function parsed(block) {
  const event = { type: "message", id: 0, data: null };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 1) continue; // a comment keeps the connection alive
    const [name, value] = [line.slice(0, colon), line.slice(colon + 1).trimStart()];
    if (name === "event") event.type = value;
    else if (name === "id") event.id = Number(value);
    else if (name === "data") event.data = fromJson(value);
  }
  return event.data === null ? null : event;
}
