/* Times as the reader counts them: relative in words, exact in the reader's own zone on hover.
   Without this the page has the server's words and UTC. */

const steps = [
  ["year", 31536000],
  ["month", 2592000],
  ["week", 604800],
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];
const language = document.documentElement.lang || "en";
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const exact = new Intl.DateTimeFormat(language, { dateStyle: "full", timeStyle: "medium", hourCycle: "h23" });
const stamp = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
const clock = new Intl.DateTimeFormat(language, { timeStyle: "medium", hourCycle: "h23" });

/** "3 minutes ago", "in 2 days"; under a minute "just now" in the reader's language. */
function words(date) {
  const seconds = (date - Date.now()) / 1000;
  for (const [unit, length] of steps) {
    if (Math.abs(seconds) >= length) return relative.format(Math.round(seconds / length), unit);
  }
  return relative.format(0, "second");
}

/** Writes every time below `root` anew; called again after each change of the page and each half minute. */
export function show(root = document) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const date = new Date(element.dateTime);
    if (Number.isNaN(date.valueOf()) || !element.dateTime.includes("T")) continue;
    element.title = exact.format(date);
    const how = element.dataset.time;
    const text = how === "clock" ? clock.format(date) : how === "stamp" ? stamp.format(date) : words(date);
    if (element.textContent !== text) element.textContent = text;
  }
}

show();
setInterval(show, 30000);
document.addEventListener("htmx:afterSettle", () => show());
