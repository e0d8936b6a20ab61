// A read-out for the charts of a page: the words come from the table under each chart, so pointer, arrow keys and screen
// reader get the same. Listens on the document, and puts its line back after live.js has swapped a region.

const SVG = "http://www.w3.org/2000/svg";
const shown = new Map(); // id of a figure -> number of the row that is shown

function rowsOf(figure) {
  return [...figure.querySelectorAll(".chart-data tr[data-x]")];
}

function pictureOf(node) {
  return node instanceof Element ? node.closest("svg[data-plot]") : null;
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function words(figure, row) {
  const heads = [...figure.querySelectorAll(".chart-data thead th")].map((cell) => cell.textContent);
  return [...row.cells]
    .map((cell, at) => (cell.textContent ? `${heads[at]} ${cell.textContent}` : ""))
    .filter(Boolean)
    .join(" · ");
}

function clear(figure) {
  shown.delete(figure.id);
  figure.querySelector(".readout-marks")?.remove();
  const text = figure.querySelector(".readout");
  if (text) text.textContent = "";
}

function show(figure, at) {
  const picture = figure.querySelector("svg[data-plot]");
  const rows = rowsOf(figure);
  if (!picture || !rows.length) return;
  const number = Math.min(Math.max(at, 0), rows.length - 1);
  const row = rows[number];
  const [, top, , height] = picture.dataset.plot.split(" ").map(Number);
  figure.querySelector(".readout-marks")?.remove();
  const marks = element("g", { class: "readout-marks", "aria-hidden": "true" });
  marks.append(element("path", { class: "readout-line", d: `M${row.dataset.x} ${top}v${height}` }));
  for (const cell of row.querySelectorAll("[data-y]")) {
    marks.append(element("circle", { class: "readout-dot", cx: row.dataset.x, cy: cell.dataset.y, r: 4 }));
  }
  picture.append(marks);
  const text = figure.querySelector(".readout");
  const said = words(figure, row);
  if (text.textContent !== said) text.textContent = said;
  shown.set(figure.id, number);
}

function nearest(picture, clientX) {
  const place = picture.getScreenCTM().inverse();
  const x = place.a * clientX + place.e;
  let best = 0;
  let least = Infinity;
  rowsOf(picture.closest("figure")).forEach((row, at) => {
    const away = Math.abs(Number(row.dataset.x) - x);
    if (away < least) [best, least] = [at, away];
  });
  return best;
}

document.addEventListener("pointermove", (event) => {
  const picture = pictureOf(event.target);
  if (picture) show(picture.closest("figure"), nearest(picture, event.clientX));
});

document.addEventListener("pointerout", (event) => {
  const picture = pictureOf(event.target);
  if (picture && pictureOf(event.relatedTarget) !== picture && document.activeElement !== picture) {
    clear(picture.closest("figure"));
  }
});

document.addEventListener("focusin", (event) => {
  const picture = pictureOf(event.target);
  if (!picture) return;
  const figure = picture.closest("figure");
  if (!shown.has(figure.id)) show(figure, rowsOf(figure).length - 1);
});

document.addEventListener("focusout", (event) => {
  const picture = pictureOf(event.target);
  if (picture && picture.isConnected) clear(picture.closest("figure"));
});

document.addEventListener("keydown", (event) => {
  const picture = pictureOf(event.target);
  if (!picture || event.altKey || event.ctrlKey || event.metaKey) return;
  const figure = picture.closest("figure");
  const last = rowsOf(figure).length - 1;
  const now = shown.get(figure.id) ?? last;
  const step = { ArrowLeft: now - 1, ArrowRight: now + 1, PageUp: now - 10, PageDown: now + 10, Home: 0, End: last };
  if (event.key === "Escape") clear(figure);
  else if (event.key in step) {
    show(figure, step[event.key]);
    event.preventDefault();
  }
});

new MutationObserver(() => {
  for (const [id, at] of shown) {
    const figure = document.getElementById(id);
    if (!figure) shown.delete(id);
    else if (!figure.querySelector(".readout-marks")) show(figure, at);
  }
}).observe(document.body, { childList: true, subtree: true });
