/* The allowance beside the sizes follows the choice. Without this it shows the proposed size. */

const form = document.getElementById("launch");

function follow() {
  const chosen = form.querySelector('input[name="flavour"]:checked')?.value;
  for (const part of form.querySelectorAll("[data-size]")) part.hidden = part.dataset.size !== chosen;
}

form?.addEventListener("change", follow);
// One press is one launch; the key in the form holds that too, should this not run.
form?.addEventListener("submit", () => {
  for (const button of form.querySelectorAll("button")) button.disabled = true;
});
addEventListener("pageshow", () => {
  for (const button of form?.querySelectorAll("button") ?? []) button.disabled = false;
  if (form) follow();
});
