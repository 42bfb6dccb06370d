// Small conveniences of every page. Each works on attributes, so templates opt in; nothing depends on them.

// data-copy="#id": copy the text of that element.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.querySelector(button.dataset.copy);
  if (!navigator.clipboard) {
    // Plain http beyond localhost has no clipboard: select the text, so that the keyboard can copy it.
    getSelection().selectAllChildren(source);
    return;
  }
  await navigator.clipboard.writeText(source.textContent.trim());
  const label = button.querySelector("[data-copy-label]") ?? button;
  const before = label.textContent;
  label.textContent = "Copied";
  setTimeout(() => (label.textContent = before), 1600);
});

// data-confirm="question": ask before the form is sent.
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// data-submits: a change of this control sends its form. A menu of check boxes sends it when it closes.
document.addEventListener("change", (event) => {
  const control = event.target;
  const menu = control.closest("details.menu");
  if (menu) menu.dataset.changed = "true";
  else if (control.matches("[data-submits]")) control.form.requestSubmit();
});

document.addEventListener(
  "toggle",
  (event) => {
    const menu = event.target;
    if (!menu.matches?.("details.menu")) return;
    if (!menu.open && menu.dataset.changed) menu.querySelector("input")?.form?.requestSubmit();
    if (menu.open) closeMenus(menu);
  },
  true, // toggle does not bubble
);

function closeMenus(except) {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (menu !== except) menu.open = false;
}

document.addEventListener("click", (event) => {
  closeMenus(event.target.closest("details.menu"));
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

// data-filters="#id": a search box that narrows the list beside it.
document.addEventListener("input", (event) => {
  const box = event.target.closest("[data-filters]");
  if (!box) return;
  const wanted = box.value.trim().toLowerCase();
  for (const item of document.querySelectorAll(`${box.dataset.filters} > *`)) {
    item.hidden = !item.textContent.toLowerCase().includes(wanted);
  }
});

// data-suggests="address": a search field's list is what that address knows of what is typed.
const SUGGEST_AFTER_MS = 150;
let suggesting = 0;
document.addEventListener("input", (event) => {
  const field = event.target.closest("[data-suggests]");
  if (!field) return;
  clearTimeout(suggesting);
  suggesting = setTimeout(async () => {
    const url = new URL(field.dataset.suggests, location.href);
    url.searchParams.set("typed", field.value);
    const answer = await fetch(url);
    if (answer.redirected || !answer.ok) return; // suggestions are a courtesy: the value can be typed out
    const { values } = await answer.json();
    field.list.replaceChildren(...values.map((value) => Object.assign(document.createElement("option"), { value })));
  }, SUGGEST_AFTER_MS);
});

// Enter in such a field within a menu takes the value: it closes the menu, which applies it.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches("details.menu [data-suggests]")) return;
  event.preventDefault();
  const menu = event.target.closest("details.menu");
  menu.querySelector("summary").focus(); // the field's change is told as it loses the focus
  menu.open = false;
});

// The menu button of narrow screens.
document.querySelector("[data-menu-toggle]")?.addEventListener("click", (event) => {
  const isOpen = document.body.classList.toggle("menu-is-open");
  event.currentTarget.setAttribute("aria-expanded", String(isOpen));
});
