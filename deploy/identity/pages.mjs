// The provider's own pages: one style, no parts from elsewhere, no script but the one that sends the sign-out form.

const STYLE = `
:root { color-scheme: light dark; --ink: #1b2530; --quiet: #55606c; --paper: #f6f7f9; --card: #fff; --line: #d5dae0; --accent: #0a5c8a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8edf2; --quiet: #a7b1bc; --paper: #12171c; --card: #1a2128; --line: #36414c; --accent: #7cc4ee; }
}
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main { max-width: 30rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .25rem; }
p { margin: 0 0 1.25rem; color: var(--quiet); }
form { margin: 0; }
button, input[type=text] { width: 100%; font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; margin: 0 0 .5rem; }
button { text-align: left; cursor: pointer; }
button:hover { border-color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
strong { display: block; }
small { color: var(--quiet); font-size: .875rem; }
code { font-size: 1.5rem; letter-spacing: .1em; }
`;

export const escape = (text) =>
  String(text).replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]);

export function page(title, body) {
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title><style>${STYLE}</style></head>
<body><main><h1>${escape(title)}</h1>
${body}
</main></body></html>`;
}

/** One button a person; the form posts back to the address it came from. */
export function choose(title, client, people) {
  const buttons = people.map(
    ({ sub, name, summary }) =>
      `<button type="submit" name="person" value="${escape(sub)}"><strong>${escape(name)}</strong><small>${escape(summary ?? "")}</small></button>`,
  );
  return page(
    title,
    `<p>Choose who you are for ${escape(client)}. These people are made up: there is no password.</p>
<form method="post">${buttons.join("\n")}
<button type="submit" name="person" value=""><small>Cancel and go back</small></button></form>`,
  );
}

/** Sign-out needs no second question: it was asked for by a client that showed the ID token it holds. */
export function signOut(form, nonce) {
  return page(
    "Signing out",
    `<p>One moment.</p>${form}<button type="submit" form="op.logoutForm" name="logout" value="yes">Sign out</button>
<script nonce="${nonce}">document.querySelector("button[name=logout]").click()</script>`,
  );
}
