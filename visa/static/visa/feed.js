/* Keeps a page's machines true: the feed says that something changed, the page asks again for the fragment.
   The feed carries ids only and may be lossy, so the page also asks by itself; without a socket it asks oftener. */

const BUSY = 5000; // ms between two questions while something is on its way and there is no feed
const QUIET = 30000; // the same with an open feed
let open = false;
let wait = 1000;
let asked = Date.now();

/** Ask again for every live part that shows the machine `id`; for all of them where none is named. */
function ask(id) {
  asked = Date.now();
  for (const part of document.querySelectorAll("[data-feed]")) {
    const whole = !part.dataset.instance;
    if (whole || !id || part.dataset.instance === id) part.dispatchEvent(new Event("changed"));
  }
}

function connect() {
  const address = new URL("/ws/instances/", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.addEventListener("open", () => {
    open = true;
    wait = 1000;
    ask(); // what changed while nobody listened
  });
  socket.addEventListener("message", (event) => {
    const { instance } = JSON.parse(event.data);
    if (instance) ask(instance);
  });
  socket.addEventListener("close", (event) => {
    open = false;
    if (event.code === 4401) {
      location.reload(); // signed out elsewhere: the page says so itself
      return;
    }
    // Many pages lose one server at the same moment; they come back spread out.
    setTimeout(connect, wait * (0.5 + Math.random()));
    wait = Math.min(wait * 2, 30000);
  });
}

setInterval(() => {
  if (document.hidden) return;
  const busy = document.querySelector("[data-busy]") !== null;
  if (busy && Date.now() - asked > (open ? QUIET : BUSY)) ask();
}, 1000);

// With nothing on its way only a person makes the page ask: else an open tab would keep a session alive by itself.
for (const [sign, rest] of [["visibilitychange", 2000], ["click", QUIET], ["keyup", QUIET]]) {
  document.addEventListener(sign, () => {
    if (!document.hidden && Date.now() - asked > rest) ask();
  });
}

// A button must not be replaced between the press and the release of it: the click would be lost.
let pressed = false;

document.addEventListener("pointerdown", () => (pressed = true), true);
for (const sign of ["pointerup", "pointercancel"]) {
  document.addEventListener(sign, () => setTimeout(() => (pressed = false), 0), true); // the click comes after it
}
document.addEventListener("htmx:beforeSwap", (event) => {
  if (!pressed) return;
  event.detail.shouldSwap = false;
  setTimeout(() => ask(), 500);
});

/* Seconds that run on between two answers. */

let drawn = performance.now();

function count() {
  const passed = Math.floor((performance.now() - drawn) / 1000);
  for (const element of document.querySelectorAll("[data-seconds]")) {
    const seconds = Number(element.dataset.seconds) + passed;
    if (element instanceof HTMLProgressElement) element.value = Math.min(seconds, element.max * 0.98);
    else element.textContent = element.dataset.words.replace("%s", spoken(seconds));
  }
}

function spoken(seconds) {
  const minutes = Math.floor(seconds / 60);
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

setInterval(count, 1000);

/* What changed is said once to those who listen instead of looking. */

let said = document.querySelector("[data-say]")?.textContent;

document.addEventListener("htmx:afterSettle", () => {
  drawn = performance.now();
  const text = document.querySelector("[data-say]")?.textContent;
  const status = document.getElementById("said");
  if (status && text && text !== said) status.textContent = text;
  said = text;
});

connect();
