// Puts what the server has written in its place. A page whose server is gone keeps its last numbers, and says so.
"use strict";

const GIVE_UP = 15000; // milliseconds without a word
const note = document.getElementById("note");
const source = new EventSource("/events" + (location.pathname === "/" ? "" : location.pathname));
let waiting = 0;

function say(words) {
  note.textContent = words;
  note.hidden = !words;
}

source.addEventListener("parts", (event) => {
  clearTimeout(waiting);
  waiting = 0;
  say("");
  for (const [name, html] of Object.entries(JSON.parse(event.data))) {
    const place = document.getElementById(name);
    if (!place) continue;
    const before = [...place.querySelectorAll(".last")].map((list) => [list.scrollTop, list === document.activeElement]);
    // a parsed document runs no script, whatever is in it
    place.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
    // who reads a list goes on reading it
    place.querySelectorAll(".last").forEach((list, number) => {
      const [top, isFocused] = before[number] ?? [0, false];
      if (isFocused) list.focus({ preventScroll: true });
      list.scrollTop = top;
    });
  }
});

source.addEventListener("end", () => {
  source.close();
  say(note.dataset.end);
});

source.addEventListener("error", () => {
  say(note.dataset.lost);
  if (source.readyState !== EventSource.CLOSED && !waiting) {
    waiting = setTimeout(() => source.close(), GIVE_UP);
  }
});
