// A table dropped in, and the table that comes out.

import { by, count, eventsOf, make, percent, request, showFault } from "./page.js";
import { threshold } from "./try.js";

let working = null;
let link = null;

function say(text, kind = "") {
  by("table-said").append(make("p", text, kind ? { class: kind } : {}));
}

function showRows(rows) {
  by("table-rows").hidden = false;
  const limit = threshold();
  for (const row of rows) {
    const line = by("table-rows").tBodies[0].insertRow();
    const withheld = limit === null ? row.abstained : row.probability < limit;
    const label = withheld ? "" : row.labels.join(", ");
    for (const text of [row.text, label, percent(row.probability), row.reasoning ?? ""]) line.insertCell().textContent = text;
  }
}

function finish(pieces, done) {
  if (pieces.length !== done.pieces) throw new Error(`Only ${count(pieces.length)} of ${count(done.pieces)} pieces of the table arrived.`);
  if (link) URL.revokeObjectURL(link);
  link = URL.createObjectURL(new Blob(pieces, { type: "application/octet-stream" }));
  by("table-link").href = link;
  by("table-link").download = done.name;
  by("table-link").textContent = `Save ${done.name}`;
  by("table-link").hidden = false;
  say(`${count(done.classified)} of ${count(done.rows)} rows are classified; ${count(done.abstained)} of them are below the threshold and get no label.`);
}

function begin() {
  showFault("");
  by("table-said").replaceChildren();
  by("table-rows").tBodies[0].replaceChildren();
  by("table-rows").hidden = by("table-link").hidden = true;
  by("table-progress").hidden = by("stop-table").hidden = false;
  by("table-progress").removeAttribute("value");
}

async function classify(event) {
  event.preventDefault();
  const [file] = by("file").files;
  if (!file || working) return;
  working = new AbortController();
  begin();
  const values = { name: file.name, reason: by("reason").value, threshold: threshold() ?? "", text_column: by("column").value };
  const arms = by("arms").querySelectorAll("input:checked");
  if (arms.length) values.arm = arms[0].value;
  if (arms.length > 1) say(`${arms[0].value} labels the table, the first of the arms that are ticked.`);
  const pieces = [];
  try {
    const response = await request(`tables?${new URLSearchParams(values)}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
      signal: working.signal,
    });
    for await (const [name, data] of eventsOf(response)) {
      if (name === "note") say(data.text, "doubt");
      else if (name === "rows") showRows(data.rows);
      else if (name === "progress") by("table-progress").value = data.done / data.rows;
      else if (name === "table") pieces.push(data.text);
      else if (name === "done") finish(pieces, data);
    }
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else for (const line of error.message.split("\n")) say(line, "doubt");
  } finally {
    working = null;
    by("table-progress").hidden = by("stop-table").hidden = true;
  }
}

export function start() {
  const form = by("drop");
  form.addEventListener("submit", classify);
  by("stop-table").addEventListener("click", () => working?.abort());
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      form.classList.toggle("over", name === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    if (by("try").hidden || form.hidden || !event.dataTransfer.files.length) return;
    by("file").files = event.dataTransfer.files;
    form.requestSubmit();
  });
}
