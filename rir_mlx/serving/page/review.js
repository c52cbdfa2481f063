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
let opening = 0;
let busy = false; // a decision is being saved, or the next row fetched: what is pressed now is not meant for it
const mine = []; // what was decided on this page: the row, its version before and after
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

/** Show a page of rows: those behind the row `after`, else those from a place on. */
async function load(from, after = "") {
  const mineNow = ++loading;
  const asked = { filter, state: by("state").value, part: by("part").value, label: by("label").value, search: by("search").value };
  try {
    const found = await get("review/rows", { ...asked, offset: from, after, limit: PAGE });
    if (mineNow !== loading) return;
    [offset, total, rows] = [found.offset, found.total, found.rows];
  } catch (error) {
    showFault(error.message);
    return;
  }
  current = null;
  opening++;
  by("row").replaceChildren();
  by("rows").replaceChildren(...rows.map(listItem));
  by("shown").textContent = total ? `${count(offset + 1)}–${count(offset + rows.length)} of ${count(total)} rows` : "No rows.";
  by("before").disabled = offset === 0;
  by("after").disabled = offset + rows.length >= total;
  if (rows.length) await open(rows[0].id, false);
}

async function open(id, focus = true) {
  const mineNow = ++opening;
  try {
    const row = await get("review/row", { id });
    if (mineNow !== opening) return;
    draw(row);
  } catch (error) {
    if (mineNow === opening) showFault(error.message);
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

/** Which text a draft is about: another run, or a changed table, may have another one in that row. */
const draftKey = (row) => `${overview.run} ${row.id} ${row.digest}`;

/** Keep what is typed about a row until it is saved, also while other rows are looked at. */
function keepDraft() {
  const fields = written();
  if (same(fields, saved(current))) drafts.delete(draftKey(current));
  else drafts.set(draftKey(current), fields);
  sessionStorage.setItem("drafts", JSON.stringify([...drafts]));
  showDraft();
}

function dropDraft(key) {
  drafts.delete(key);
  sessionStorage.setItem("drafts", JSON.stringify([...drafts]));
}

/** A reasoning that was written for another label is no reason for this one. */
function fitReasoning() {
  const { label, reasoning } = saved(current);
  const field = by("new-reasoning");
  const note = by("row").querySelector(".unfit");
  const other = by("new-label").value !== label;
  if (other && reasoning && field.value.trim() === reasoning) {
    field.value = "";
    note.textContent = `The reasoning was written for ${label}, so it is left out. Write one for the new label, or none.`;
  } else if (!other && note.textContent) {
    if (!field.value.trim()) field.value = reasoning;
    note.textContent = "";
  }
}

function showDraft() {
  const row = by("row");
  const changed = !same(written(), ofTable(current));
  row.querySelector(".save").textContent = changed ? "Save" : "Accept";
  const state = drafts.has(draftKey(current)) ? "Not saved yet." : current.decided ? `${ACTIONS[current.decided.action]}. Saved.` : "";
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
  opening++; // a row that was asked for before is no longer wanted
  current = row;
  const form = clone("detail");
  form.querySelector(".where").textContent = `${row.place} · ${row.part} · ${row.id}`;
  form.querySelector(".whole").textContent = row.text;
  form.querySelector(".seen").textContent = SEEN[row.part];
  addBars(form.querySelector(".bars"), row.best);
  form.querySelector(".thought").textContent = row.thought ?? "";
  const fields = drafts.get(draftKey(row)) ?? saved(row);
  const select = form.querySelector("#new-label");
  select.append(...overview.labels.map((label) => option(label)));
  select.value = fields.label;
  form.querySelector("#new-reasoning").value = fields.reasoning;
  form.querySelector(".was").textContent = `in the table: ${row.label}`;
  drawReasoning(form, row);
  form.querySelector(".undo").disabled = !row.decided;
  drawSame(form.querySelector(".same"), row.same);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    decide();
  });
  form.querySelector("#new-label").addEventListener("input", fitReasoning);
  form.addEventListener("input", keepDraft);
  form.querySelector(".skip").addEventListener("click", () => skip());
  form.querySelector(".undo").addEventListener("click", () => takeBack(row, row.version));
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

/** The rows behind these. Those that were decided may have left the list, so places in it do not count. */
function nextPage() {
  return load(offset + rows.length, rows.at(-1)?.id);
}

function step(move) {
  const place = rows.findIndex((row) => row.id === current?.id) + move;
  if (place >= 0 && place < rows.length) return open(rows[place].id);
  return move > 0 && offset + rows.length < total ? nextPage() : null;
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

function setBusy(now) {
  busy = now;
  by("row").setAttribute("aria-busy", String(now));
}

async function save(row, decision) {
  if (busy) return;
  setBusy(true);
  const draft = drafts.get(draftKey(row));
  try {
    const asked = { row: row.id, seen: row.version, digest: row.digest, ...decision };
    const now = await (await post("review/decide", asked)).json();
    mine.push({ id: row.id, digest: row.digest, before: row.version, version: now.version });
    // What was typed meanwhile is another draft, and stays.
    if (decision.action !== "skip" && drafts.get(draftKey(row)) === draft) dropDraft(draftKey(row));
    showFault("");
    say(`${ACTIONS[decision.action]}: ${decision.label}. Saved.`);
    take(now);
    const last = rows.findIndex((known) => known.id === row.id) === rows.length - 1 && offset + rows.length >= total;
    if (current?.id !== row.id) return; // another row was opened meanwhile
    if (last) draw(now);
    else await step(1);
  } catch (error) {
    showFault(error.message);
    if (error instanceof Fault && error.status === 409) {
      if (current?.id === row.id) keepDraft();
      await open(row.id); // with what was decided elsewhere; what was typed here is a draft
      take(current);
    }
  } finally {
    setBusy(false);
  }
}

/** Take back the latest decision of this page; without one, that about the open row. */
function undo() {
  const latest = mine.at(-1);
  if (latest) return takeBack(latest, latest.version);
  return current?.decided ? takeBack(current, current.version) : null;
}

/** Take back the decision that led to a version of a row. The server refuses if there is a later one. */
async function takeBack({ id, digest }, seen) {
  if (busy) return;
  setBusy(true);
  const place = mine.findIndex((made) => made.id === id && made.version === seen);
  try {
    const back = await (await post("review/undo", { row: id, seen, digest })).json();
    if (place >= 0) {
      const [{ before }] = mine.splice(place, 1);
      const earlier = mine.find((made) => made.id === id && made.version === before);
      if (earlier) earlier.version = back.version;
    }
    showFault("");
    say("Taken back.");
    draw(back);
    take(back);
  } catch (error) {
    showFault(error.message);
    if (error instanceof Fault && error.status === 409) {
      if (place >= 0) mine.splice(place, 1); // a later decision stays as it is
      await open(id);
    }
  } finally {
    setBusy(false);
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
  if (event.repeat && !["j", "k"].includes(event.key)) return; // a key that is held decides one row
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && by("row").contains(document.activeElement)) {
    event.preventDefault();
    decide();
  } else if (!inField && !event.ctrlKey && !event.metaKey && !event.altKey && KEYS[event.key]) {
    event.preventDefault();
    if (!busy) KEYS[event.key]();
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
  by("after").addEventListener("click", nextPage);
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
