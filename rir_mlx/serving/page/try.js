// Try: what /classify streams, by one arm or by several side by side, and the threshold below which none answers.

import { addBars, by, clone, count, eventsOf, Fault, get, make, percent, post, showFault, sorted } from "./page.js";

const SHOWN = 6;
const STEPS = 200;
let asking = null;
let run = null;
let curve = null;
let moved = false;

/** The threshold that the user chose with the slider; null while the run's own ones hold. */
export const threshold = () => (moved ? Number(by("threshold").value) / STEPS : null);

function chosenArms() {
  const chosen = [...by("arms").querySelectorAll("input:checked")].map((box) => box.value);
  return chosen.length ? chosen : [null];
}

/** An arm's place in the article of a text. */
function addAnswer(article, arm) {
  const answer = clone("answer");
  answer.querySelector("h2").textContent = arm ?? "";
  answer.querySelector("h2").hidden = !arm || chosenArms().length < 2;
  article.querySelector(".arms").append(answer);
  return answer;
}

/** The label, or where a text may have several those that are given; the threshold is about the likeliest combination. */
function showVerdict(answer, found) {
  const limit = threshold();
  const withheld = limit === null ? found.abstained : found.probability < limit;
  const verdict = answer.querySelector(".verdict");
  verdict.classList.toggle("doubt", withheld);
  const [[likeliest]] = sorted(found.probabilities);
  if (found.labels === null) verdict.textContent = withheld ? `No label: ${likeliest} is below the threshold.` : likeliest;
  else if (withheld) verdict.textContent = `No label: the likeliest answer has ${percent(found.probability)}, below the threshold.`;
  else verdict.textContent = found.labels.join(", ") || "Classify it again to see its labels: they were withheld.";
}

export function showPrediction(answer, found) {
  const pairs = sorted(found.probabilities);
  const reasoning = answer.querySelector(".reasoning");
  reasoning.classList.remove("open");
  reasoning.textContent = found.reasoning ?? "";
  answer.found = found;
  showVerdict(answer, found);
  const notes = [];
  if (found.labels?.length) notes.push(`Likeliest together: ${found.label}, ${percent(found.probability)}.`);
  if (found.first) notes.push(`Before the reasoning: ${found.first.label}, ${percent(found.first.probability)}.`);
  if (found.mass < 0.5) notes.push("This text may fit no label: the model would rather write something else.");
  if (found.trimmed) notes.push(`The last ${count(found.trimmed)} tokens of the text were cut off.`);
  answer.querySelector(".notes").textContent = notes.join(" ");
  const [first, rest] = answer.querySelectorAll(".bars");
  addBars(first, pairs.slice(0, SHOWN));
  if (pairs.length > SHOWN) {
    const more = answer.querySelector("details");
    more.hidden = false;
    more.querySelector("summary").textContent = `${pairs.length - SHOWN} more labels`;
    addBars(rest, pairs.slice(SHOWN));
  }
}

/** Classify texts by an arm, and show in each answer's place what comes. */
async function streamInto(answers, texts, arm, signal) {
  const asked = { texts, reason: by("reason").value, stream: true, arm, threshold: moved ? 0 : null };
  const response = await post("classify", asked, signal);
  for await (const [name, data] of eventsOf(response)) {
    const answer = answers[data.index];
    if (name === "reasoning") {
      const reasoning = answer.querySelector(".reasoning");
      reasoning.classList.add("open");
      reasoning.textContent += data.text;
    } else if (name === "prediction") {
      showPrediction(answer, data);
    }
  }
}

async function classify(event) {
  event.preventDefault();
  if (asking) return;
  const given = by("text").value;
  const texts = (by("lines").checked ? given.split("\n") : [given]).filter((text) => text.trim());
  if (!texts.length) return;
  asking = new AbortController();
  by("stop").hidden = false;
  showFault("");
  by("results").replaceChildren();
  const articles = texts.map((text) => {
    const article = clone("result");
    article.querySelector(".given").textContent = text;
    by("results").append(article);
    return article;
  });
  const arms = chosenArms();
  const columns = arms.map((arm) => articles.map((article) => addAnswer(article, arm)));
  try {
    for (const [place, arm] of arms.entries()) {
      const loaded = !arm || run?.arms.find((known) => known.name === arm)?.loaded;
      const notes = columns[place].map((answer) => answer.querySelector(".notes"));
      for (const note of notes) note.textContent = loaded ? "" : `Loading ${arm} …`;
      await streamInto(columns[place], texts, arm, asking.signal);
      if (!loaded) await showArms();
    }
  } catch (error) {
    for (const note of by("results").querySelectorAll(".notes")) if (note.textContent.startsWith("Loading")) note.textContent = "";
    if (error.name !== "AbortError") showFault(error.message);
  } finally {
    for (const open of document.querySelectorAll(".open")) open.classList.remove("open");
    asking = null;
    by("stop").hidden = true;
  }
}

/** The run's thresholds in words: they may differ with and without a reasoning. */
function ownThresholds() {
  const ways = Object.entries(run.thresholds).map(([way, limit]) => [way, limit > 1 ? "100 % (no answer)" : percent(limit)]);
  if (new Set(ways.map(([, shown]) => shown)).size < 2) return ways[0]?.[1] ?? percent(0);
  return ways.map(([way, shown]) => `${shown} (${way})`).join(", ");
}

function showCurve() {
  const limit = Number(by("threshold").value);
  by("threshold-shown").textContent = moved || !run ? percent(limit / STEPS) : ownThresholds();
  for (const answer of document.querySelectorAll(".answer")) if (answer.found) showVerdict(answer, answer.found);
  if (!curve) return;
  const [kept, right, low, high] = curve.points[limit];
  const left = curve.rows - kept;
  const way = curve.reasoned ? ", with a reasoning," : "";
  const rest = kept
    ? `Of the other ${count(kept)}, ${count(right)} are right (${percent(right / kept)}; with 95 % certainty ${percent(low)} to ${percent(high)}).`
    : "No row is answered.";
  by("curve").textContent =
    `Of ${count(curve.rows)} test rows that ${curve.arm} answered${way} ${count(left)} (${percent(left / curve.rows)}) get no label. ` +
    `${rest} A threshold that is chosen by these rows looks a little better on them than on new texts.`;
}

async function showArms() {
  run = await get("run");
  const before = new Set(chosenArms());
  for (const box of by("arms").querySelectorAll("label")) box.remove();
  for (const arm of run.arms) {
    const box = make("input", undefined, { type: "checkbox", value: arm.name });
    box.checked = before.has(null) ? arm.name === run.arm : before.has(arm.name);
    const label = make("label");
    const accuracy = arm.accuracy === null ? "" : `, ${percent(arm.accuracy)} right`;
    label.append(box, ` ${arm.name}`);
    label.title = `${arm.description}${accuracy}${arm.loaded ? "" : "; is loaded when it is first asked, beside the first one"}`;
    by("arms").append(label);
  }
  by("arms").hidden = run.arms.length < 2;
}

export async function start() {
  by("ask").addEventListener("submit", classify);
  by("stop").addEventListener("click", () => asking?.abort());
  by("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("ask").requestSubmit();
  });
  by("threshold").addEventListener("input", () => {
    moved = true;
    showCurve();
  });
}

/** The run that is served, once it is known; null if there is none behind the classifier. */
export async function showRun(found) {
  if (!found) return;
  await showArms();
  const limits = Object.values(found.thresholds);
  by("threshold").value = limits.length ? Math.round(Math.max(...limits) * STEPS) : 0;
  by("abstain").hidden = false;
  try {
    curve = await get("threshold");
  } catch (error) {
    if (!(error instanceof Fault) || error.status !== 404) throw error;
    by("curve").textContent = error.message;
  }
  showCurve();
}
