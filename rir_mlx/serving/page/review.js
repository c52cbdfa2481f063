// Review: rows of the run, those first that are most worth a look, and decisions that are saved at once.

import { addBars, by, clone, count, Fault, get, make, percent, post, showFault } from "./page.js";
import { showPrediction } from "./try.js";

const PAGE = 50;
const NAMES = {
  all: "All",
  disagree: "Model disagrees",
  unsure: "Model unsure",
  rejected: "Rejected reasonings",
  duplicates: "Duplicates",
  conflicts: "Conflicting labels",
};
const SEEN = {
  train: "The model was trained on this row. Its answers to it say little, so none is shown.",
  validation: "The model was not trained on this row; its weights and thresholds were chosen with it.",
  test: "The model was not trained on this row. If you correct test rows only where it disagrees, its next score looks better than it is.",
};
const ACTIONS = { accept: "Accepted", edit: "Changed", skip: "Skipped" };

let overview = null;
let filter = "disagree";
let offset = 0;
let total = 0;
let rows = [];
let current = null;
let loading = 0;
let busy = false; // a decision is being saved, or the next row fetched: what is pressed now is not meant for it
const mine = [];
const drafts = new Map(JSON.parse(sessionStorage.getItem("drafts") ?? "[]"));

function say(text) {
  by("said").textContent = text;
}

function option(value, text = value) {
  const found = make("option", text);
  found.value = value;
  return found;
}

function showOverview() {
  const notes = [];
  if (overview.changed) notes.push("The table is no longer the one that the classifier was trained on.");
  if (overview.lost) notes.push(`${count(overview.lost)} decisions are about rows that the table no longer has as they were.`);
  if (overview.unreadable) notes.push(`${count(overview.unreadable)} lines of review.jsonl cannot be read.`);
  by("review-notes").textContent = notes.join(" ");
  by("filters").replaceChildren(
    ...Object.entries(NAMES).map(([name, text]) => {
      const button = make("button", `${text} (${count(overview.counts[name])})`, { type: "button", "aria-pressed": name === filter });
      button.addEventListener("click", () => choose(name));
      return button;
    }),
  );
}

function choose(name) {
  filter = name;
  showOverview();
  load(0);
}

function listItem(row) {
  const button = make("button", undefined, { type: "button" });
  const about = [row.part, row.decided ? `${ACTIONS[row.decided.action]}: ${row.decided.label}` : row.label];
  if (row.predicted) about.push(`model: ${row.predicted} ${percent(row.probability, 0)}`);
  about.push(...row.flags.filter((flag) => !["disagree", "unsure"].includes(flag)));
  button.append(make("span", row.text, { class: "text", dir: "auto" }), make("small", about.join(" · ")));
  button.classList.toggle("done", row.decided !== null);
  button.addEventListener("click", () => open(row.id));
  const item = make("li", undefined, { "data-id": row.id });
  item.append(button);
  return item;
}

function mark() {
  for (const item of by("rows").children) {
    const button = item.firstElementChild;
    if (item.dataset.id === current?.id) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

async function load(from) {
  const mineNow = ++loading;
  const asked = { filter, state: by("state").value, part: by("part").value, label: by("label").value, search: by("search").value };
  try {
    const found = await get("review/rows", { ...asked, offset: from, limit: PAGE });
    if (mineNow !== loading) return;
    [offset, total, rows] = [from, found.total, found.rows];
  } catch (error) {
    showFault(error.message);
    return;
  }
  current = null;
  by("row").replaceChildren();
  by("rows").replaceChildren(...rows.map(listItem));
  by("shown").textContent = total ? `${count(offset + 1)}–${count(offset + rows.length)} of ${count(total)} rows` : "No rows.";
  by("before").disabled = offset === 0;
  by("after").disabled = offset + rows.length >= total;
  if (rows.length) await open(rows[0].id, false);
}

async function open(id, focus = true) {
  try {
    draw(await get("review/row", { id }));
  } catch (error) {
    showFault(error.message);
    return;
  }
  if (!focus) return;
  by("row").focus({ preventScroll: true });
  by("row").scrollIntoView({ block: "nearest" });
}

/** What a row's fields hold when it is opened: what was decided, or what it has. */
function saved(row) {
  const decided = row.decided && row.decided.action !== "skip" ? row.decided : row;
  return { label: decided.label, reasoning: ((row.part === "test" ? null : decided.reasoning) ?? "").trim() };
}

const written = () => ({ label: by("new-label").value, reasoning: by("new-reasoning").value.trim() });
const ofTable = (row) => ({ label: row.label, reasoning: ((row.part === "test" ? null : row.reasoning) ?? "").trim() });
const same = (one, other) => one.label === other.label && one.reasoning === other.reasoning;

/** Keep what is typed about a row until it is saved, also while other rows are looked at. */
function keepDraft() {
  const fields = written();
  if (same(fields, saved(current))) drafts.delete(current.id);
  else drafts.set(current.id, fields);
  sessionStorage.setItem("drafts", JSON.stringify([...drafts]));
  showDraft();
}

function dropDraft(id) {
  drafts.delete(id);
  sessionStorage.setItem("drafts", JSON.stringify([...drafts]));
}

function showDraft() {
  const row = by("row");
  const changed = !same(written(), ofTable(current));
  row.querySelector(".save").textContent = changed ? "Save" : "Accept";
  const state = drafts.has(current.id) ? "Not saved yet." : current.decided ? `${ACTIONS[current.decided.action]}. Saved.` : "";
  row.querySelector(".decided").textContent = state;
}

function drawReasoning(form, row) {
  form.querySelector(".own").hidden = row.part === "test";
  form.querySelector(".origin").textContent = row.own ? "(your own)" : row.reasoning ? "(R-Gen's)" : "(none was kept)";
  form.querySelector(".rejected").replaceChildren(
    ...row.rejected.map((rejected) => {
      const item = make("li", `rejected (${rejected.why}): `);
      item.append(make("q", rejected.reasoning, { dir: "auto" }));
      return item;
    }),
  );
}

function draw(row) {
  current = row;
  const form = clone("detail");
  form.querySelector(".where").textContent = `${row.place} · ${row.part} · ${row.id}`;
  form.querySelector(".whole").textContent = row.text;
  form.querySelector(".seen").textContent = SEEN[row.part];
  addBars(form.querySelector(".bars"), row.best);
  form.querySelector(".thought").textContent = row.thought ?? "";
  const fields = drafts.get(row.id) ?? saved(row);
  const select = form.querySelector("#new-label");
  select.append(...overview.labels.map((label) => option(label)));
  select.value = fields.label;
  form.querySelector("#new-reasoning").value = fields.reasoning;
  form.querySelector(".was").textContent = `in the table: ${row.label}`;
  drawReasoning(form, row);
  form.querySelector(".undo").disabled = !row.decided && !mine.length;
  drawSame(form.querySelector(".same"), row.same);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    decide();
  });
  form.addEventListener("input", keepDraft);
  form.querySelector(".skip").addEventListener("click", () => skip());
  form.querySelector(".undo").addEventListener("click", undo);
  form.querySelector(".live").addEventListener("click", askModel);
  by("row").replaceChildren(form);
  showDraft();
  mark();
}

function drawSame(place, same) {
  place.hidden = !same.length;
  place.querySelector("h3").textContent = "Rows with the same text";
  place.querySelector("ol").replaceChildren(
    ...same.map((row) => {
      const link = make("button", `${row.decided ? row.decided.label : row.label} · ${row.part} · ${row.id}`, { type: "button" });
      link.addEventListener("click", () => open(row.id));
      const item = make("li");
      item.append(link);
      return item;
    }),
  );
}

async function askModel() {
  const place = by("row").querySelector(".asked");
  const row = current;
  place.replaceChildren(make("p", "…"));
  try {
    const { predictions } = await (await post("classify", { texts: [row.text], reason: "always" })).json();
    const answer = clone("answer");
    showPrediction(answer, predictions[0]);
    answer.querySelector("h2").textContent = row.part === "train" ? "The model, which was trained on this row" : "The model now";
    if (current === row) place.replaceChildren(answer);
  } catch (error) {
    place.replaceChildren(make("p", error.message, { class: "doubt" }));
  }
}

/** Put a row that the server has just sent into the list and, if it is open, into its place. */
function take(row) {
  const place = rows.findIndex((known) => known.id === row.id);
  if (place >= 0) {
    rows[place] = row;
    by("rows").children[place].replaceWith(listItem(row));
  }
  mark();
}

/** Where the next page begins: rows that were decided about here have left those that are not decided. */
function nextPage() {
  const state = by("state").value;
  return offset + rows.filter((row) => state === "all" || (state === "done") === (row.decided !== null)).length;
}

function step(move) {
  const place = rows.findIndex((row) => row.id === current?.id) + move;
  if (place >= 0 && place < rows.length) return open(rows[place].id);
  return move > 0 && offset + rows.length < total ? load(nextPage()) : null;
}

/** Save the fields, then go on to the next row: the row as it is was accepted, or it is changed. */
async function decide() {
  const row = current;
  if (!row) return;
  const { label, reasoning } = written();
  const action = same({ label, reasoning }, ofTable(row)) ? "accept" : "edit";
  await save(row, { action, label, reasoning: row.part === "test" ? null : reasoning || null });
}

async function skip() {
  if (current) await save(current, { action: "skip", label: current.label, reasoning: null });
}

async function save(row, decision) {
  if (busy) return;
  busy = true;
  try {
    const now = await (await post("review/decide", { row: row.id, seen: row.version, ...decision })).json();
    mine.push(row.id);
    if (decision.action !== "skip") dropDraft(row.id);
    showFault("");
    say(`${ACTIONS[decision.action]}: ${decision.label}. Saved.`);
    take(now);
    const last = rows.findIndex((known) => known.id === row.id) === rows.length - 1 && offset + rows.length >= total;
    if (last) draw(now);
    else await step(1);
  } catch (error) {
    showFault(error.message);
    if (error instanceof Fault && error.status === 409) {
      keepDraft();
      await open(row.id); // with what was decided elsewhere; what was typed here is a draft
      take(current);
    }
  } finally {
    busy = false;
  }
}

/** Take back the latest decision of this page; without one, that about the open row. */
async function undo() {
  const id = mine.at(-1) ?? current?.id;
  if (!id || busy) return;
  busy = true;
  try {
    const row = await get("review/row", { id });
    if (!row.decided) {
      mine.pop(); // it was taken back elsewhere
      draw(row);
      return;
    }
    const back = await (await post("review/undo", { row: id, seen: row.version })).json();
    mine.pop();
    showFault("");
    say("Taken back.");
    draw(back);
    take(back);
  } catch (error) {
    showFault(error.message);
  } finally {
    busy = false;
  }
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  a: decide,
  s: skip,
  u: undo,
  l: () => by("new-label")?.focus(),
  e: () => by("new-reasoning")?.focus(),
};

function pressed(event) {
  if (by("review").hidden || !current) return;
  if (event.key === "Escape") document.activeElement.blur();
  const inField = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && by("row").contains(document.activeElement)) {
    event.preventDefault();
    decide();
  } else if (!inField && !event.ctrlKey && !event.metaKey && !event.altKey && KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
}

export function start() {
  document.addEventListener("keydown", pressed);
  for (const id of ["part", "state", "label"]) by(id).addEventListener("change", () => load(0));
  let waiting = null;
  by("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => load(0), 250);
  });
  by("narrow").addEventListener("submit", (event) => event.preventDefault());
  by("before").addEventListener("click", () => load(Math.max(0, offset - PAGE)));
  by("after").addEventListener("click", () => load(nextPage()));
}

export async function show() {
  if (overview) return;
  say("Reading the rows …");
  overview = await get("review");
  say(`${count(overview.decided)} rows are decided.`);
  by("label").append(...overview.labels.map((label) => option(label)));
  filter = Object.keys(NAMES).find((name) => name !== "all" && overview.counts[name]) ?? "all";
  showOverview();
  await load(0);
}
