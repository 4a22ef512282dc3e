/* The desktop page: asks for a one-use ticket, opens the websocket, hands it to noVNC, adapts the picture to the line,
   and connects again by itself. What the machine sends is shown as pixels or as text, never as HTML. */

const say = document.body.dataset;
document.body.classList.add("running");
const part = (id) => document.getElementById(id);

/* A WebSocket as noVNC sees one. Text messages are the quality marks that come back; noVNC knows binary ones only. */
class Line {
  constructor(socket, hear) {
    this.socket = socket;
    this.hear = hear;
    this.bytes = 0;
    this.onopen = this.onmessage = this.onerror = this.onclose = null;
    socket.binaryType = "arraybuffer";
    socket.onopen = (event) => this.onopen?.(event);
    socket.onerror = (event) => this.onerror?.(event);
    socket.onclose = (event) => {
      this.code = event.code;
      this.onclose?.(event);
    };
    socket.onmessage = (event) => {
      if (typeof event.data === "string") {
        this.hear(event.data);
        return;
      }
      this.bytes += event.data.byteLength;
      this.onmessage?.(event);
    };
  }

  get binaryType() {
    return this.socket.binaryType;
  }

  set binaryType(kind) {
    this.socket.binaryType = kind;
  }

  get readyState() {
    return this.socket.readyState;
  }

  get protocol() {
    return this.socket.protocol;
  }

  send(data) {
    this.socket.send(data);
  }

  close() {
    this.socket.close();
  }

  /** Counts as closed from now on: the other side may never say so. */
  end() {
    this.onclose?.({ code: 1006, reason: "" });
  }
}

/* How sharp the picture is. A mark goes up every 250 ms and comes back behind the pictures already in line: what it takes
   over the best seen is the queue a key would stand in. */
class Quality {
  static EVERY = 250; // ms
  static OUT = 4; // marks that may be out at once; the platform takes 8 a second
  static LATE = 100;
  static VERY_LATE = 300;
  static CLEAR = 40;
  static QUIET = 2000;
  static PICTURE = 4096; // bytes in one tick; less is a cursor or a clock
  static BEST_FOR = 30000; // a best that was seen before the line changed must not count for ever

  constructor(shown) {
    this.shown = shown;
    this.choice = "auto";
    this.rfb = this.line = null;
  }

  get most() {
    return this.choice === "auto" ? 6 : Number(this.choice);
  }

  begin(rfb, line) {
    this.end();
    this.rfb = rfb;
    this.line = line;
    this.out = [];
    this.best = this.bestNow = Infinity;
    this.bestSince = this.clearSince = this.changed = this.busy = performance.now();
    this.bytes = 0;
    this.level = this.most;
    this.set(this.level);
    this.timer = setInterval(() => this.tick(), Quality.EVERY);
  }

  end() {
    clearInterval(this.timer);
    this.rfb = this.line = null;
    this.shown("");
  }

  choose(choice) {
    this.choice = choice;
    if (this.rfb) this.set(this.most);
  }

  set(level) {
    this.level = level;
    this.changed = performance.now();
    this.rfb.qualityLevel = level;
    this.rfb.compressionLevel = 2;
    this.shown(this.choice !== "auto" ? "pinned" : level < this.most ? "soft" : "full");
  }

  tick() {
    const now = performance.now();
    if (this.line.bytes - this.bytes > Quality.PICTURE) this.busy = now;
    this.bytes = this.line.bytes;
    if (this.out.length) this.judge(now - this.out[0]);
    // A line that is stopped up brings nothing either: then a mark is out that should be back.
    const stuck = this.out.length > 0 && now - this.out[0] - this.best > Quality.LATE;
    const quiet = !stuck && now - this.busy > Quality.QUIET;
    // Nothing moves, so nothing stands in line: a still picture gets its sharpness back step by step.
    if (quiet && this.choice === "auto" && this.level < this.most && now - this.changed > Quality.QUIET) {
      this.set(this.level + 1);
    }
    // Nothing moves and nothing is to be mended: an idle desktop costs nothing.
    if (quiet || document.hidden || this.out.length >= Quality.OUT || this.line.readyState !== WebSocket.OPEN) return;
    const mark = now.toFixed(1);
    this.out.push(Number(mark));
    this.line.send(`p${mark}`);
  }

  heard(mark) {
    const sent = Number(mark.slice(1));
    while (this.out.length && this.out[0] <= sent) this.out.shift();
    const now = performance.now();
    const took = now - sent;
    this.bestNow = Math.min(this.bestNow, took);
    this.best = Math.min(this.best, took);
    if (now - this.bestSince > Quality.BEST_FOR) {
      this.best = this.bestNow;
      this.bestNow = Infinity;
      this.bestSince = now;
    }
    this.judge(took);
  }

  judge(took) {
    if (this.choice !== "auto" || this.best === Infinity) return;
    const now = performance.now();
    const queue = took - this.best;
    if (queue >= Quality.CLEAR) this.clearSince = now;
    if (queue > Quality.LATE && this.level > 0 && now - this.changed > 750) {
      this.set(Math.max(0, this.level - (queue > Quality.VERY_LATE ? 3 : 1)));
    } else if (this.level < this.most && now - this.clearSince > 4000) {
      this.clearSince = now;
      this.set(this.level + 1);
    }
  }
}

const quality = new Quality((state) => {
  const shown = part("quality-state");
  shown.textContent = { full: say.sayFull, soft: say.saySoft, pinned: say.sayPinned }[state] ?? "";
  shown.classList.toggle("soft", state === "soft");
});

/* The connection */

const WAITS = [500, 1000, 2000, 4000, 8000, 15000]; // ms; each spread out, since many pages lose one server at once
const ANSWER = 10000; // ms for an answer of the platform, whole
const OPEN = 12000; // ms from the ticket to pixels: the gateway gives the machine 10 s of them
let RFB = null;
let rfb = null;
let tries = 0;
let badTickets = 0;
let timer = 0;

function veil(sentence, { wayOut = "", retry = false, signIn = false } = {}) {
  part("said").textContent = sentence;
  part("way-out").textContent = wayOut;
  part("retry").hidden = !retry;
  part("sign-in").hidden = !signIn;
  part("veil").hidden = false;
}

/** Not again by itself: says why, and what can be done. */
function stop(sentence, ways = {}) {
  clearTimeout(timer);
  veil(sentence, ways);
}

function again(sentence, next = connect) {
  veil(navigator.onLine ? sentence : say.sayOffline, { retry: true });
  const wait = WAITS[Math.min(tries, WAITS.length - 1)];
  tries += 1;
  clearTimeout(timer);
  timer = setTimeout(next, wait * (0.5 + Math.random()));
}

/** noVNC's modules are many files. Whether they are here; where one does not come, the page has said so. */
async function parts() {
  if (RFB) return true;
  try {
    const late = new Promise((_, fail) => setTimeout(fail, ANSWER));
    RFB = (await Promise.race([import("../novnc/core/rfb.js"), late])).default;
    return true;
  } catch {
    tries = Math.max(tries, 2); // a page that is loaded anew begins to count anew
    again(say.sayBusy, anew);
    return false;
  }
}

/** Loads the page again, which asks for its parts again, as soon as there is somebody to answer. */
async function anew() {
  if (await record()) location.reload();
  else again(say.sayBusy, anew);
}

/** A one-use ticket for this desktop; null where the page has said why there is none. */
async function ticket() {
  let answer;
  try {
    answer = await fetch(say.ticketsUrl, {
      method: "POST",
      credentials: "same-origin",
      headers: {
        Accept: "application/json",
        "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]").value,
      },
      signal: AbortSignal.timeout(ANSWER),
    });
    if (answer.ok) return await answer.json();
  } catch {
    again(say.sayBusy);
    return null;
  }
  const refusal = await answer.json().catch(() => ({}));
  if (answer.status === 401 || answer.status === 403) {
    stop(say.saySignedOut, { signIn: true, wayOut: answer.status === 403 ? refusal.message : "" });
  } else if (answer.status === 404) {
    stop(say.sayGone);
  } else if (answer.status === 409) {
    absent(refusal.message, refusal.way_out);
  } else if (answer.status >= 500 || answer.status === 429) {
    again(say.sayBusy);
  } else {
    stop(refusal.message || say.sayFailed, { wayOut: refusal.way_out, retry: true });
  }
  return null;
}

async function connect() {
  clearTimeout(timer);
  if (rfb) return;
  veil(tries ? say.sayAgain : say.sayConnecting);
  if (!(await parts())) return;
  const pass = await ticket();
  if (!pass || rfb) return;
  const address = new URL(pass.path, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address, ["visa.desktop", `ticket.${pass.ticket}`]);
  const line = new Line(socket, (mark) => quality.heard(mark));
  part("screen").replaceChildren();
  const mine = (rfb = new RFB(part("screen"), line, { shared: true }));
  // A gateway that takes the connection and says nothing would be waited for without end: noVNC has no time limit.
  const late = setTimeout(() => {
    rfb = null;
    mine.disconnect();
    line.end();
    again(say.saySilent);
  }, OPEN);
  rfb.background = "transparent";
  rfb.resizeSession = false;
  fit(part("fit").getAttribute("aria-pressed") === "true");
  rfb.addEventListener("connect", () => {
    if (rfb !== mine) return;
    clearTimeout(late);
    tries = badTickets = 0;
    part("veil").hidden = true;
    part("said").textContent = say.sayConnected;
    quality.begin(rfb, line);
    if (!part("bar").contains(document.activeElement) && part("clipboard").hidden) rfb.focus();
  });
  rfb.addEventListener("disconnect", () => {
    clearTimeout(late);
    if (rfb !== mine) return;
    rfb = null;
    quality.end();
    ended(line.code);
  });
  rfb.addEventListener("clipboard", (event) => {
    part("incoming").value = event.detail.text;
    part("clip-news").hidden = !part("clipboard").hidden;
    part("clip-said").textContent = say.sayArrived;
  });
}

/** What a close code means (instances/desktop/endpoint.py says when each is sent). */
function ended(code) {
  if (code === 4403) revoked();
  else if (code === 4404) absent(say.sayNoMachine);
  else if (code === 4429) stop(say.sayTooMany, { retry: true });
  else if (code === 4400) stop(say.sayBroken, { retry: true });
  else if (code === 4401 && ++badTickets > 3) stop(say.sayFailed, { retry: true });
  else if (code === 4502) again(say.saySilent);
  else if (code === 1013) again(say.sayBusy);
  else again(say.sayAgain);
}

/** The machine's own record: `{status, machine}`; null where the platform does not answer. */
async function record() {
  try {
    const answer = await fetch(new URL("../", new URL(say.ticketsUrl, location.href)), {
      headers: { Accept: "application/json" },
      signal: AbortSignal.timeout(ANSWER),
    });
    return { status: answer.status, machine: answer.ok ? await answer.json() : null };
  } catch {
    return null;
  }
}

/** The machine has no desktop now. One that is on its way has one soon; for any other its record says why. */
async function absent(sentence, wayOut = "") {
  const known = await record();
  if (!known) again(say.sayBusy);
  else if (known.machine?.starting || known.machine?.can_connect) again(say.saySilent);
  else if (known.machine) stop(say.sayStopped, { wayOut: known.machine.reason || wayOut, retry: true });
  else if (known.status === 404) stop(say.sayGone);
  else stop(sentence, { wayOut, retry: true });
}

/** The platform has ended our access; the machine's own record says why. */
async function revoked() {
  stop(say.sayRevoked);
  const known = await record();
  // Without an answer the sentence that is there is true as it is.
  if (!known) return;
  if (known.status === 401 || known.status === 403) stop(say.saySignedOut, { signIn: true });
  else if (known.status === 404) stop(say.sayGone);
  else if (known.machine?.can_connect) stop(say.sayRevoked, { retry: true });
  else if (known.machine) stop(say.sayStopped, { wayOut: known.machine.reason });
}

window.addEventListener("online", () => {
  if (!rfb) connect();
});
part("retry").addEventListener("click", () => {
  tries = badTickets = 0;
  connect();
});
part("sign-in").href = say.signInUrl;

/* The bar */

function fit(on) {
  part("fit").setAttribute("aria-pressed", String(on));
  if (rfb) rfb.scaleViewport = on;
}

function fold(on) {
  document.body.classList.toggle("folded", on);
  part("fold").setAttribute("aria-expanded", String(!on));
  if (on) showClipboard(false);
}

function showClipboard(on) {
  part("clipboard").hidden = !on;
  part("clip").setAttribute("aria-expanded", String(on));
  if (on) {
    part("clip-news").hidden = true;
    part("outgoing").focus();
  }
}

part("fold").addEventListener("click", () => fold(!document.body.classList.contains("folded")));
part("fit").addEventListener("click", () => fit(part("fit").getAttribute("aria-pressed") !== "true"));
part("full").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen().catch(() => {});
});
document.addEventListener("fullscreenchange", () => {
  part("full").setAttribute("aria-pressed", String(document.fullscreenElement !== null));
});
part("keys").addEventListener("click", () => {
  rfb?.sendCtrlAltDel();
  rfb?.focus();
});
part("clip").addEventListener("click", () => showClipboard(part("clipboard").hidden));
part("quality").addEventListener("change", (event) => quality.choose(event.target.value));

part("send").addEventListener("click", () => {
  const text = part("outgoing").value;
  const characters = [...text];
  if (characters.length > 256 * 1024) {
    part("clip-said").textContent = say.sayTooLong;
    return;
  }
  rfb?.clipboardPasteFrom(text);
  const lossy = characters.some((one) => one.codePointAt(0) > 0xff);
  part("clip-said").textContent = lossy ? say.saySentLossy : say.saySent;
});

part("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(part("incoming").value);
    part("clip-said").textContent = say.sayCopied;
  } catch {
    part("incoming").select();
    part("clip-said").textContent = say.sayCopyYourself;
  }
});

/* Keys go to the desktop, Tab too; this one combination always leads back to the bar. */
const HELD = [
  [0xffe3, "ControlLeft"],
  [0xffe9, "AltLeft"],
  [0xffe1, "ShiftLeft"],
];
window.addEventListener(
  "keydown",
  (event) => {
    if (event.key === "Escape" && !part("clipboard").hidden && part("clipboard").contains(document.activeElement)) {
      showClipboard(false);
      part("clip").focus();
      return;
    }
    if (!(event.ctrlKey && event.altKey && event.shiftKey && event.code === "KeyB")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    // Their release goes to the bar, not to the desktop, which would go on thinking that they are held.
    for (const [key, code] of HELD) rfb?.sendKey(key, code, false);
    rfb?.blur();
    fold(false);
    part("fold").focus();
  },
  { capture: true },
);

window.addEventListener("pagehide", () => rfb?.disconnect());

connect();
