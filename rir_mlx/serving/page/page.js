"use strict";

// Draws what /classify streams. Text of a user or of the model only ever becomes text, never markup.

const by = (id) => document.getElementById(id);
const SHOWN = 6;
let asking = null;

function headers() {
  const key = by("key").value.trim();
  const all = { "Content-Type": "application/json" };
  if (key) all.Authorization = `Bearer ${key}`;
  return all;
}

function showFault(message) {
  by("fault").textContent = message;
}

function askForKey() {
  for (const element of document.querySelectorAll(".key")) element.hidden = false;
  by("key").focus();
}

async function faultOf(response) {
  if (response.status === 401) askForKey();
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

async function showModel() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) {
    by("model").textContent = await faultOf(response);
    return;
  }
  const [model] = (await response.json()).models;
  by("model").textContent = `${model.name}: ${model.description}, trained on ${model.release_date}`;
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = /^event: (.*)\ndata: (.*)$/.exec(block);
      if (event) yield [event[1], JSON.parse(event[2])];
    }
  }
}

function addBars(table, pairs) {
  for (const [label, share] of pairs) {
    const row = table.tBodies[0].insertRow();
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = label;
    const bar = document.createElement("progress");
    bar.max = 1;
    bar.value = share;
    bar.setAttribute("aria-label", label);
    row.append(name);
    row.insertCell().append(bar);
    row.insertCell().textContent = `${(share * 100).toFixed(1)} %`;
  }
}

function addResult(text) {
  const article = by("result").content.firstElementChild.cloneNode(true);
  article.querySelector(".given").textContent = text;
  by("results").append(article);
  return article;
}

function showPrediction(article, found) {
  const pairs = Object.entries(found.probabilities).sort((one, other) => other[1] - one[1]);
  const reasoning = article.querySelector(".reasoning");
  reasoning.classList.remove("open");
  reasoning.textContent = found.reasoning ?? "";
  const verdict = article.querySelector(".verdict");
  verdict.textContent = found.abstained ? `No label: ${pairs[0][0]} is below the threshold.` : found.label;
  verdict.classList.toggle("doubt", found.abstained);
  const notes = [];
  if (found.trimmed) notes.push(`The last ${found.trimmed} tokens of the text were cut off.`);
  if (notes.length) {
    const note = document.createElement("p");
    note.className = "doubt";
    note.textContent = notes.join(" ");
    verdict.after(note);
  }
  const [first, rest] = article.querySelectorAll(".bars");
  addBars(first, pairs.slice(0, SHOWN));
  if (pairs.length > SHOWN) {
    const more = article.querySelector("details");
    more.hidden = false;
    more.querySelector("summary").textContent = `${pairs.length - SHOWN} more labels`;
    addBars(rest, pairs.slice(SHOWN));
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
  const articles = texts.map(addResult);
  try {
    const body = JSON.stringify({ texts, reason: by("reason").value, stream: true });
    const response = await fetch("classify", { method: "POST", headers: headers(), body, signal: asking.signal });
    if (!response.ok) throw new Error(await faultOf(response));
    for await (const [name, data] of eventsOf(response)) {
      if (name === "reasoning") {
        const reasoning = articles[data.index].querySelector(".reasoning");
        reasoning.classList.add("open");
        reasoning.textContent += data.text;
      } else if (name === "prediction") {
        showPrediction(articles[data.index], data);
      } else if (name === "error") {
        throw new Error(data.error.message);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") showFault(error.message);
  } finally {
    for (const open of document.querySelectorAll(".open")) open.classList.remove("open");
    asking = null;
    by("stop").hidden = true;
  }
}

by("ask").addEventListener("submit", classify);
by("stop").addEventListener("click", () => asking?.abort());
by("key").addEventListener("change", showModel);
by("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("ask").requestSubmit();
});
showModel();
