// What every view uses: elements, requests, events, bars. Text of a user or of the model only ever becomes text.

export const by = (id) => document.getElementById(id);

export function make(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

export const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)} %`;
export const count = (number) => number.toLocaleString("en");

export class Fault extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function showFault(message) {
  by("fault").textContent = message;
}

function authorization() {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** The response to a request; raises Fault unless it is good. */
export async function request(path, options = {}) {
  const headers = { ...authorization(), ...options.headers };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) {
    by("unlock").hidden = false;
    by("key").focus();
  }
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not in the form of this server's errors
  }
  throw new Fault(response.status, message);
}

export async function get(path, values = {}) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null);
  const query = new URLSearchParams(given).toString();
  return (await request(query ? `${path}?${query}` : path)).json();
}

export function post(path, values, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(values), signal });
}

/** The server-sent events of a response, as names and data. An `error` is raised, and a Fault if `done` is not the last. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let name = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        if (block.startsWith(":")) continue; // only shows that the server is alive
        // A dot would not match every character: texts may hold line separators such as U+2028.
        const event = /^event: ([^\n]*)\ndata: ([^\n]*)$/.exec(block);
        if (!event) throw new Fault(0, "The server's answer cannot be read.");
        name = event[1];
        const data = JSON.parse(event[2]);
        if (name === "error") throw new Fault(0, data.error.message);
        yield [name, data];
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // who stops reading hangs up, and the server stops working on it
  }
  if (name !== "done") throw new Fault(0, "The server's answer ended too early.");
}

export function addBars(table, pairs) {
  for (const [label, share] of pairs) {
    const row = table.tBodies[0].insertRow();
    row.append(make("th", label, { scope: "row" }));
    const bar = make("progress", undefined, { max: 1, "aria-label": label });
    bar.value = share;
    row.insertCell().append(bar);
    row.insertCell().textContent = percent(share);
  }
}

export const sorted = (probabilities) => Object.entries(probabilities).sort((one, other) => other[1] - one[1]);

export const clone = (id) => by(id).content.firstElementChild.cloneNode(true);
