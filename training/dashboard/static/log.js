// The log of a job's page: what is printed from now on is added, by offset, when the stream says that there is more.
// Follow keeps the end in sight; search marks every place and steps through them. log_text.py makes the first part
// harmless, `clean` below does the same with the rest.

const section = document.getElementById("log");
const MOST_CHARS = 2_000_000; // of the text on the page; older text goes
const PIECE_BYTES = 256 * 1024;
const LEAST_GAP_MS = 250;

const SEQUENCE = /\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?|[ -/]*[0-~])?/g;
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

export function clean(text) {
  return text
    .replaceAll("\r\n", "\n")
    .replace(SEQUENCE, "")
    .split("\n")
    .map((line) => line.replace(/\r+$/, ""))
    .map((line) => line.slice(line.lastIndexOf("\r") + 1).replace(CONTROL, "\ufffd"))
    .join("\n");
}

if (section) start();

function start() {
  const box = section.querySelector(".log-text");
  const follow = section.querySelector(".log-follow");
  const search = section.querySelector(".log-search");
  const count = section.querySelector(".log-count");
  const empty = section.querySelector(".log-empty");
  const job = section.dataset.job;
  let epoch = Number(section.dataset.epoch ?? -1);
  let next = Number(section.dataset.next ?? 0);
  let done = box.textContent.slice(0, box.textContent.lastIndexOf("\n") + 1); // whole lines, harmless
  let begun = box.textContent.slice(done.length); // a line that is not at its end yet, as it came
  let busy = false;
  let again = false;
  let fetchedAt = 0;

  const text = document.createTextNode(box.textContent);
  box.replaceChildren(text);
  section.querySelector(".log-tools").hidden = false;

  function draw() {
    if (done.length > MOST_CHARS) done = done.slice(done.indexOf("\n", done.length - MOST_CHARS) + 1);
    text.data = done + clean(begun);
    empty.hidden = text.data !== "";
    const to = section.querySelector(".log-to");
    if (to) to.textContent = String(next);
    if (follow.checked) toEnd();
    find(false);
  }

  function toEnd() {
    box.scrollTop = box.scrollHeight;
  }

  const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < 24;

  async function more() {
    if (!("end" in section.dataset)) return; // an earlier part is shown: it stays
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    do {
      again = false;
      try {
        const query = epoch < 0 ? "" : `&epoch=${epoch}&offset=${next}`;
        const answer = await fetch(`/v1/job/${job}/log?limit=${PIECE_BYTES}${query}`);
        if (!answer.ok) break;
        const found = await answer.json();
        if (found.epoch === null) break;
        if (epoch < 0) begin(found.epoch);
        if (found.offset > next && next > 0) done += clean(begun) + "\n… what stood here was dropped …\n";
        if (found.offset > next) begun = "";
        const piece = begun + found.text;
        const cut = piece.lastIndexOf("\n") + 1;
        done += clean(piece.slice(0, cut));
        begun = piece.slice(cut);
        next = found.next_offset;
        draw();
        if (next < (found.end_offset ?? next) && found.text) again = true;
      } catch {
        break; // the stream says so when it is down; the next word of it asks again
      }
      fetchedAt = Date.now();
      await new Promise((wake) => setTimeout(wake, LEAST_GAP_MS));
    } while (again);
    busy = false;
  }

  /** Another attempt prints now. */
  function begin(number) {
    epoch = number;
    next = 0;
    done = begun = "";
    const shown = section.querySelector(".log-epoch");
    if (shown) shown.textContent = String(number);
  }

  document.addEventListener("stream:log", (event) => {
    const news = JSON.parse(event.detail);
    if (news.job_id !== job || news.epoch < epoch) return;
    if (news.epoch > epoch && "end" in section.dataset) {
      begin(news.epoch);
      follow.checked = true;
    }
    if (news.next_offset > next) more();
  });
  document.addEventListener("page:updated", () => {
    if (Date.now() - fetchedAt > 5000) more(); // after a broken stream too
  });

  // -- follow

  follow.addEventListener("change", () => follow.checked && toEnd());
  box.addEventListener("wheel", () => setTimeout(() => (follow.checked &&= atEnd())), { passive: true });
  box.addEventListener("keydown", (event) => {
    if (["ArrowUp", "PageUp", "Home"].includes(event.key)) follow.checked = false;
    if (event.key === "End") follow.checked = true;
  });
  if (follow.checked || "end" in section.dataset) toEnd();

  // -- search

  let places = [];
  let current = -1;

  function find(moves) {
    const word = search.value.toLowerCase();
    places = [];
    if (word) {
      const all = text.data.toLowerCase();
      for (let at = all.indexOf(word); at >= 0 && places.length < 10000; at = all.indexOf(word, at + word.length)) {
        places.push(at);
      }
    }
    current = Math.min(current, places.length - 1);
    if (moves) current = places.length ? places.length - 1 : -1; // the latest is what somebody looks for
    mark(moves);
  }

  function range(at) {
    const made = document.createRange();
    made.setStart(text, at);
    made.setEnd(text, Math.min(at + search.value.length, text.length));
    return made;
  }

  function mark(moves) {
    const ranges = places.map(range);
    if (globalThis.CSS?.highlights) {
      CSS.highlights.set("log-found", new Highlight(...ranges));
      CSS.highlights.set("log-current", new Highlight(...(current >= 0 ? [ranges[current]] : [])));
    }
    if (!search.value) count.textContent = "";
    else if (!places.length) count.textContent = "nothing found";
    else count.textContent = `${current + 1} of ${places.length}`;
    if (!moves || current < 0) return;
    follow.checked = false;
    const place = ranges[current].getBoundingClientRect();
    const frame = box.getBoundingClientRect();
    box.scrollTop += place.top - frame.top - box.clientHeight / 2;
  }

  function step(by) {
    if (!places.length) return;
    current = (current + by + places.length) % places.length;
    mark(true);
  }

  search.addEventListener("input", () => find(true));
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      step(event.shiftKey ? -1 : 1);
    }
    if (event.key === "Escape") {
      search.value = "";
      find(true);
    }
  });
  section.querySelector(".log-next").addEventListener("click", () => step(1));
  section.querySelector(".log-previous").addEventListener("click", () => step(-1));
}
