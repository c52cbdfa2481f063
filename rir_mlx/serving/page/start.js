// The page: which view is shown, and what is served.

import { by, Fault, get, make, showFault } from "./page.js";
import * as review from "./review.js";
import * as table from "./table.js";
import * as trying from "./try.js";

const VIEWS = ["try", "review", "report"];
let run = null;

function showReport() {
  if (!run?.report || by("report").childElementCount) return;
  const frame = make("iframe", undefined, { title: `Report of ${run.name}`, sandbox: "allow-scripts", src: run.report });
  by("report").append(frame);
}

async function show() {
  const wanted = location.hash.slice(1).split("/")[0];
  const view = VIEWS.includes(wanted) && run ? wanted : "try";
  for (const name of VIEWS) by(name).hidden = name !== view;
  for (const link of by("views").querySelectorAll("a")) {
    if (link.getAttribute("href") === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "report") showReport();
  if (view === "review") await review.show();
}

/** Asks what is served. A server without a run behind its classifier answers 404, and has the first view alone. */
async function connect() {
  showFault("");
  try {
    const [model] = (await get("v1/models")).models;
    by("model").textContent = `${model.name}: ${model.description}, trained on ${model.release_date}`;
    by("model").title = by("model").textContent;
    by("unlock").hidden = true;
    try {
      run = await get("run");
    } catch (error) {
      if (!(error instanceof Fault) || error.status !== 404) throw error;
    }
    if (run) by("model").textContent = `${run.name}: ${run.arm}, ${run.labels.length} labels, trained on ${run.trained_on}`;
    for (const link of by("views").querySelectorAll("[hidden]")) link.hidden = !run || (link.hash === "#report" && !run.report);
    by("drop").hidden = !run;
    await trying.showRun(run);
    await show();
  } catch (error) {
    showFault(error.message);
  }
}

trying.start();
table.start();
review.start();
by("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", by("key").value.trim());
  connect();
});
window.addEventListener("hashchange", () => show().catch((error) => showFault(error.message)));
connect();
