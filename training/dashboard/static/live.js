// Keeps a page up to date: one event stream; after an event the page is fetched again and what changed is put in.
//
// The server draws, this only replaces. Elements keep their identity, so focus, scrolling, selection, open <details> and what
// somebody typed stay. Without this file every page works: there is a link to reload it.

const AFTER_EVENT_MS = 200; // several events come together
const LEAST_GAP_MS = 500; // from the end of a fetch to the next
const SHARE = 3; // a page that takes long to fetch is fetched more rarely: at most a quarter of the time
const FETCH_MS = 30000; // an answer that takes longer will not come
const WATCH_MS = 60000; // with no event for so long the page is fetched all the same: a broken link may say nothing
const RETRY_MOST_MS = 30000; // between two tries to open the stream
const ANNOUNCE_MS = 10000; // at most so often a screen reader is told

const body = document.body;
const kinds = ["job", "host", "manifest", "fleet", "progress", "usage"];
const stream = document.getElementById("stream");
let source = null;
let timer = null;
let fetching = false;
let again = false;
let freshAt = Date.now();
let endedAt = 0;
let tookMs = 0;
let retryMs = 1000;
let reopening = null;
const ahead = Number(body.dataset.now) * 1000 - Date.now(); // the server's clock against this one

const now = () => Date.now() + ahead;

// -- putting in what changed

/** Make `from` like `to` with as few changes as possible. Rows find each other by `data-key` or `id`. */
function morph(from, to) {
  if (from.isEqualNode(to)) return;
  if (from.nodeType === Node.ELEMENT_NODE && from.hasAttribute("data-kept")) return; // another script fills it
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to);
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  attributes(from, to);
  if (from.matches("input, textarea, select") && from === document.activeElement) return;
  children(from, to);
}

function attributes(from, to) {
  const kept = from.hasAttribute("data-js") ? from.getAttribute("data-js").split(" ") : [];
  for (const { name } of [...from.attributes]) {
    const own = name === "open" || name === "data-js" || kept.includes(name); // set here, not by the server
    if (!own && !to.hasAttribute(name)) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (name !== "open" && !kept.includes(name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
}

const key = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") || node.id || null : null);

function children(from, to) {
  const known = new Map();
  for (const node of from.childNodes) if (key(node)) known.set(key(node), node);
  let at = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const word = key(wanted);
    let match = word ? known.get(word) : null;
    if (!match && at && !word && !key(at) && at.nodeName === wanted.nodeName) match = at;
    if (!match) {
      from.insertBefore(wanted, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else from.insertBefore(match, at);
    morph(match, wanted);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function put(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const main = document.querySelector("main");
  const wanted = [...fresh.querySelectorAll("[data-live][id]")];
  const same = (list) => list.map((one) => one.id).join();
  if (same(wanted) !== same([...document.querySelectorAll("[data-live][id]")])) {
    sections(main, fresh.querySelector("main"));
  } else {
    for (const one of wanted) region(document.getElementById(one.id), one);
  }
  tick();
  const events = fresh.body.dataset.events; // a job that starts wants to hear of its own progress only
  if (events && events !== body.dataset.events) {
    body.dataset.events = events;
    if (source !== null) {
      source.close();
      open();
    }
  }
  document.dispatchEvent(new CustomEvent("page:updated"));
}

/** A section came or went: the children of <main> are matched by their ids; what is not live stays as it is. */
function sections(main, fresh) {
  if (!main || !fresh) return;
  let last = null;
  const keep = new Set([...fresh.children].map((one) => one.id).filter(Boolean));
  for (const one of [...main.querySelectorAll(":scope > [data-live][id]")]) if (!keep.has(one.id)) one.remove();
  for (const one of [...fresh.children]) {
    const here = one.id ? document.getElementById(one.id) : null;
    if (here) {
      if (one.hasAttribute("data-live")) region(here, one);
      last = here;
    } else if (one.hasAttribute("data-live")) {
      if (last) last.after(one);
      else main.append(one);
      last = one;
    }
  }
}

let announcedAt = 0;

function region(here, fresh) {
  const before = here.hasAttribute("data-announce") ? spoken(here) : null;
  morph(here, fresh);
  if (before === null || spoken(here) === before || Date.now() - announcedAt < ANNOUNCE_MS) return;
  announcedAt = Date.now();
  document.getElementById("announce").textContent = spoken(here);
}

/** What a screen reader is told of a region: its words without the times, which change all the while. */
function spoken(region) {
  const copy = (region.querySelector(".sentence") || region).cloneNode(true);
  for (const one of copy.querySelectorAll("time, .mark")) one.remove();
  return copy.textContent.replace(/\s+/g, " ").trim();
}

// -- when

function soon(delay = AFTER_EVENT_MS) {
  if (fetching) {
    again = true;
    return;
  }
  if (timer !== null) return;
  const gap = Math.max(LEAST_GAP_MS, SHARE * tookMs) - (Date.now() - endedAt);
  timer = setTimeout(refresh, Math.max(delay, gap));
}

async function refresh() {
  timer = null;
  if (document.hidden) return; // whoever comes back gets it then
  fetching = true;
  again = false;
  const from = Date.now();
  try {
    const headers = { "X-Refresh": "1", Accept: "text/html" };
    const answer = await fetch(location.href, { headers, redirect: "error", signal: AbortSignal.timeout(FETCH_MS) });
    if (answer.ok) {
      put(await answer.text());
      freshAt = Date.now();
      if (source?.readyState === EventSource.OPEN) live();
    } else if (answer.status >= 500) {
      down();
    }
  } catch {
    cut();
  }
  fetching = false;
  endedAt = Date.now();
  tookMs = endedAt - from;
  if (again) soon();
}

// -- the stream

const isDown = () => document.documentElement.dataset.stream === "down";

function live() {
  freshAt = Date.now();
  document.documentElement.dataset.stream = "live";
  stream.hidden = true;
  stream.querySelector("[role=status]").textContent = "";
}

function down() {
  if (isDown()) return;
  document.documentElement.dataset.stream = "down";
  stream.hidden = false;
  stream.querySelector("[role=status]").textContent = stream.dataset.text; // said once; the age beside it counts on
  tick();
}

/** Nothing comes through: the stream may be as dead without saying so. */
function cut() {
  down();
  if (source === null) return;
  source.close();
  later();
}

function later() {
  clearTimeout(reopening);
  reopening = setTimeout(open, retryMs);
  retryMs = Math.min(retryMs * 2, RETRY_MOST_MS);
}

function open() {
  source = new EventSource(`/v1/events?${body.dataset.events}`);
  let greeted = false;
  source.addEventListener("hello", () => {
    if (isDown() || greeted) soon(0); // what happened meanwhile
    greeted = true;
    retryMs = 1000;
    live();
  });
  for (const kind of kinds) source.addEventListener(kind, () => soon());
  source.addEventListener("log", (event) => document.dispatchEvent(new CustomEvent("stream:log", { detail: event.data })));
  source.addEventListener("reset", () => soon(0));
  source.addEventListener("error", () => {
    if (source === null) return; // closed by ourselves
    down();
    if (source.readyState !== EventSource.CLOSED) return;
    later(); // the browser gave up: an answer other than 200, such as 429 where there are too many streams
    soon(0); // without a stream the page is fetched as often as one is asked for
  });
}

// -- times, in the words of words.py

function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function ago(at) {
  const seconds = (now() - at) / 1000;
  return seconds < -1 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
}

function tick() {
  for (const one of document.querySelectorAll("time[data-ago]")) {
    const text = ago(Date.parse(one.dateTime));
    if (one.textContent !== text) one.textContent = text;
  }
  if (isDown()) stream.querySelector("[data-age]").textContent = span((Date.now() - freshAt) / 1000);
}

if (body.dataset.events) {
  if (!document.hidden) open();
  // A browser keeps six connections to a receiver over HTTP/1.1, for all its tabs together: only tabs that are seen keep one.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(reopening);
      source?.close();
      source = null;
    } else if (source === null) {
      open();
      soon(0);
    }
  });
  setInterval(() => {
    if (source !== null && Date.now() - freshAt > WATCH_MS) soon(0);
  }, WATCH_MS / 4);
}
setInterval(tick, 1000);
tick();
