/** Talks to the server: facts in JSON, answers as a stream, errors in words. */

const TOKEN = "living-memory-token";

/** What the server refused, with what it said about it. */
export class Refused extends Error {
  constructor(status, message, after) {
    super(message);
    this.status = status;
    this.after = after;
  }
}

/** Thrown where the user gave no token. */
export class Cancelled extends Error {}

/** Return what went wrong, in words that say what to do next. */
export function explained(error) {
  if (!(error instanceof Refused)) return "The server can't be reached. Is it still running?";
  const { status, message, after } = error;
  if (status === 401 || status === 403) return `The server didn't take the write token. ${message}`;
  if (status === 409)
    return `This can't be done beside another change that is under way. Try again. ${message}`;
  if (status === 412)
    return "Someone else changed this in the meantime. What it says now is shown; look, and try again.";
  if (status === 429) return `The server is busy. Try again${after ? ` in ${after} s` : " in a moment"}.`;
  if (status === 503) return "The server is shutting down.";
  return message;
}

/** Return the problem that a response tells of. */
export async function refusedBy(response) {
  let message = `The server answered ${response.status} ${response.statusText}.`.replace(" .", ".");
  try {
    message = (await response.json()).error.message;
  } catch {
    // not the server's own form of an error: the status has to do
  }
  return new Refused(response.status, message, response.headers.get("Retry-After"));
}

/** Return the JSON of a place to read from, and its ETag. */
export async function read(place, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "");
  const search = new URLSearchParams(given).toString();
  const response = await fetch(search ? `${place}?${search}` : place, {
    headers: { Accept: "application/json" },
  });
  if (!response.ok) throw await refusedBy(response);
  return { body: await response.json(), etag: response.headers.get("ETag") };
}

/**
 * Change the memory; return what the server said, and the `milliseconds` that it took.
 *
 * @param {string} method - POST or DELETE.
 * @param {string} place - its path.
 * @param {{body?: object, etag?: string, token: (wrong: boolean) => Promise<string|null>}} options -
 *   `etag`: change only what is still in this state; `token`: asks the user for the write token.
 */
export async function write(method, place, { body, etag, token }) {
  const headers = { Accept: "application/json" };
  if (etag) headers["If-Match"] = etag;
  if (body) {
    headers["Content-Type"] = "application/json";
    headers["Idempotency-Key"] = key();
  }
  for (let wrong = false; ; wrong = true) {
    const known = sessionStorage.getItem(TOKEN) ?? (await token(wrong));
    if (!known) throw new Cancelled();
    headers.Authorization = `Bearer ${known}`;
    const began = performance.now();
    const response = await fetch(place, { method, headers, body: body && JSON.stringify(body) });
    if (response.ok) {
      sessionStorage.setItem(TOKEN, known);
      return { ...(await response.json()), milliseconds: performance.now() - began };
    }
    if (response.status !== 401) throw await refusedBy(response);
    sessionStorage.removeItem(TOKEN);
  }
}

/** Return a random name; crypto.randomUUID does it only over TLS and on the machine itself. */
function key() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Yield the messages of a stream of server-sent events, up to `[DONE]`.
 *
 * @param {AsyncIterable<string>} texts - its pieces, cut anywhere.
 */
export async function* events(texts) {
  let rest = "";
  for await (const text of texts) {
    rest += text.replaceAll("\r", "");
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const lines = event.split("\n").filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

async function* pieces(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

let name = ""; // what the server calls the model

async function model() {
  name ||= (await read("v1/models")).body.data[0].id;
  return name;
}

/**
 * Ask; yield {text} for what is said and {knowledge} for what it was read from.
 *
 * @param {string} question
 * @param {{asOf: string, signal: AbortSignal}} options
 */
export async function* ask(question, { asOf, signal }) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      model: await model(),
      stream: true,
      messages: [{ role: "user", content: question }],
      ...(asOf && { knowledge: { as_of: asOf } }),
    }),
    signal,
  });
  if (!response.ok) throw await refusedBy(response);
  for await (const event of events(pieces(response.body))) {
    if (event.error) throw new Refused(500, event.error.message, null);
    if (event.knowledge) yield { knowledge: event.knowledge };
    const text = event.choices?.[0]?.delta?.content;
    if (text) yield { text };
  }
}
