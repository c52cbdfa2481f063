(function () {
  "use strict";
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));

  // One panel of the arms, controls and baselines at a time; a link to another one opens it.
  const chips = all("#entry-chips .chip");
  const panels = all(".panel");
  function open(id) {
    panels.forEach((panel) => panel.classList.toggle("on", panel.id === id));
    chips.forEach((chip) => chip.setAttribute("aria-current", chip.hash === "#" + id));
  }
  function followed() {
    const panel = panels.find((one) => "#" + one.id === location.hash);
    if (panel) {
      open(panel.id);
      panel.scrollIntoView();
    }
    return Boolean(panel);
  }
  chips.forEach((chip) => chip.addEventListener("click", (event) => {
    event.preventDefault();
    open(chip.hash.slice(1));
  }));
  // A link to the place where the page already is changes no address.
  all(".entries a").forEach((link) => link.addEventListener("click", () => setTimeout(followed)));
  window.addEventListener("hashchange", followed);
  if (panels.length && !followed()) {
    const first = chips.find((chip) => chip.dataset.name === chip.parentNode.dataset.first) || chips[0];
    open(first.hash.slice(1));
  }

  // Tables are sorted by a click on a heading; each group of rows in itself, what has no value last.
  function valueOf(row, column) {
    const cell = row.cells[column];
    const text = (cell.dataset.v || cell.textContent).trim().replace("−", "-").replace(/,/g, "");
    if (text === "" || text === "–") return null;
    // The hidden value is a bare number; what is read off the page may bear its unit.
    return /^[-+]?[\d.]/.test(text) ? parseFloat(text) : text.toLowerCase();
  }
  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }
  function sort(table, heading) {
    const column = heading.cellIndex;
    const known = heading.getAttribute("aria-sort");
    const values = all("tbody tr:not(.kind)", table).map((row) => valueOf(row, column));
    const numbers = values.some((value) => typeof value === "number");
    const down = known ? known === "ascending" : numbers;
    all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    all("tbody", table).forEach((body) => {
      const rows = all("tr:not(.kind)", body).map((row) => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        return down ? compare(b, a) : compare(a, b);
      });
      rows.forEach(([, row]) => body.appendChild(row));
    });
  }
  all("table.sortable").forEach((table) => all("thead th:not(.nosort)", table).forEach((heading) => {
    // No <button>: where a long table goes on on the next page of paper, its headings are drawn again, and those
    // would be missing.
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.tabIndex = 0;
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(table, heading);
    });
  }));

  // A cell of the confusion matrix in words.
  all(".confusion").forEach((table) => {
    const output = table.closest("figure").querySelector("output");
    const names = all("thead th", table).map((heading) => heading.textContent);
    function read(event) {
      const cell = event.target.closest("tbody td");
      if (!cell) return;
      const counts = all("td", cell.parentNode).map((one) => Number(one.textContent));
      const total = counts.reduce((sum, one) => sum + one, 0) || 1;
      const count = Number(cell.textContent);
      const truth = cell.parentNode.cells[0].textContent;
      output.textContent = `true ${truth}, said ${names[cell.cellIndex - 1]}: ${count} of ${total} rows ` +
        `(${(100 * count / total).toFixed(1)} %)`;
    }
    table.addEventListener("click", read);
    table.addEventListener("mouseover", read);
  });

  // Examples: of any two, by outcome, by words, a few at a time.
  const FEW = { "won": 3, "lost": 3, "both wrong": 1, "both right": 1 }, MANY = 25;
  const search = document.getElementById("search");
  const buttons = all("#outcomes .chip");
  const groups = all(".group").map((element) => ({
    element,
    outcome: element.dataset.outcome,
    list: element.querySelector("ol"),
    more: element.querySelector(".more"),
    rows: [],
    most: 0,
  }));
  const rows = all(".example").map((row) => ({
    row,
    answers: all(".answer", row),
    shown: all(".answer, .why", row),
    text: row.textContent.toLowerCase(),
  }));
  let outcome = "";
  function pairUp(first, second) {
    const section = document.getElementById("examples-section");
    const totals = JSON.parse(section.dataset.totals)[first + "," + second];
    const [a, b] = [first, second].map((place) => document.getElementById("first").options[place].textContent);
    const meanings = [`only ${b} is correct`, `only ${a} is correct`, `neither ${a} nor ${b} is correct`, `${a} and ${b} are correct`];
    section.querySelector(".first-name").textContent = a;
    section.querySelector(".second-name").textContent = b;
    rows.forEach((each) => {
      const [one, other] = [first, second].map((place) => each.answers[place].classList.contains("right"));
      each.outcome = one ? (other ? "both right" : "lost") : (other ? "won" : "both wrong");
      each.sure = Number(each.answers[second].dataset.p);
      each.shown.forEach((part) => part.classList.toggle("out", part.dataset.of !== first && part.dataset.of !== second));
    });
    groups.forEach((group, place) => {
      group.rows = rows.filter((each) => each.outcome === group.outcome).sort((x, y) => y.sure - x.sure);
      group.list.append(...group.rows.map((each) => each.row));
      group.element.querySelector(".total").textContent = totals[place].toLocaleString("en");
      group.element.querySelector(".meaning").textContent = meanings[place];
      buttons[place + 1].querySelector(".total").textContent = totals[place].toLocaleString("en");
    });
  }
  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let everywhere = 0;
    groups.forEach((group) => {
      let found = 0;
      group.rows.forEach(({ row, text }) => {
        const fits = words.every((word) => text.includes(word));
        found += fits;
        row.classList.toggle("off", !fits || found > group.most);
      });
      everywhere += found;
      group.element.classList.toggle("off", (outcome !== "" && outcome !== group.outcome) || (words.length > 0 && !found));
      const shown = Math.min(found, group.most);
      group.more.querySelector("span").textContent = found ? `${shown} of ${found} shown` : "none";
      group.more.querySelector("button").hidden = shown === found;
    });
    document.getElementById("found").textContent =
      words.length ? `${everywhere} of the ${rows.length} rows on this page hold these words.` : "";
  }
  function choose(wanted) {
    outcome = wanted;
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.outcome === outcome));
    groups.forEach((group) => { group.most = outcome || search.value.trim() ? MANY : FEW[group.outcome]; });
    show();
  }
  if (search) {
    const pickers = ["first", "second"].map((name) => document.getElementById(name));
    let waiting;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => choose(search.value.trim() ? "" : outcome), 100);
    });
    buttons.forEach((button) => button.addEventListener("click", () => choose(button.dataset.outcome)));
    groups.forEach((group) => group.more.querySelector("button").addEventListener("click", () => {
      group.most += MANY;
      show();
    }));
    pickers.forEach((picker, place) => picker.addEventListener("change", () => {
      const other = pickers[1 - place];
      if (other.value === picker.value) other.selectedIndex = (picker.selectedIndex + 1) % picker.options.length;
      pairUp(pickers[0].value, pickers[1].value);
      choose(outcome);
    }));
    pairUp(pickers[0].value, pickers[1].value);
    choose("");
  }

  // What is folded is unfolded on paper.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    folded.forEach((one) => { one.open = true; });
  });
  window.addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
})();
