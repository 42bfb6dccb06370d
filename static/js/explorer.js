// Renews the explorer in place: a choice fetches the part of the page that it changes, and the address follows.
//
// Everything here is links and forms that work by themselves; the server draws all of it. The controls are changed
// node by node, so that focus, open menus and what is being typed stay; the results are replaced.

import { followCharts } from "./chart.js";

const SLOW_AFTER_MS = 2000; // then it is said that the page is busy
const root = document.querySelector("[data-explorer]");
const controls = root.querySelector("[data-explorer-controls]");
const results = root.querySelector("[data-explorer-results]");
const errorNotice = root.querySelector("[data-explorer-error]");
const status = document.querySelector("[data-explorer-status]");
let newest = null; // the request under way
let wantedUrl = location.href;

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || !root.contains(form)) return;
  event.preventDefault();
  for (const menu of root.querySelectorAll("details.menu")) delete menu.dataset.changed;
  const url = new URL(form.action);
  const choices = [...new FormData(form, event.submitter)].filter(([, value]) => value !== "");
  url.search = new URLSearchParams(choices);
  go(url.href);
});

root.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  const isPlain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
  if (!link || !isPlain || link.hasAttribute("download")) return;
  if (link.origin !== location.origin || link.pathname !== location.pathname) return;
  event.preventDefault();
  go(link.href, { movesFocus: results.contains(link) });
});

addEventListener("popstate", () => {
  wantedUrl = location.href;
  load();
});

function go(url, options) {
  if (url === wantedUrl && errorNotice.hidden) return;
  wantedUrl = url;
  history.pushState(null, "", url);
  load(options);
}

async function load({ movesFocus = false } = {}) {
  newest?.abort();
  const request = (newest = new AbortController());
  const url = new URL(root.dataset.panelUrl, location.href);
  url.search = new URL(wantedUrl).search;
  root.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => (status.textContent = "Still loading"), SLOW_AFTER_MS);
  try {
    const answer = await fetch(url, { signal: request.signal });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("[data-explorer]");
    if (answer.redirected || (!fresh && answer.status < 500)) {
      // Signed out, or no longer allowed: the server says so best, on a page of its own.
      location.reload();
      return;
    }
    if (!fresh) throw new Error(`answered ${answer.status}`);
    show(fresh, movesFocus);
  } catch (error) {
    if (error.name === "AbortError") return; // a newer choice is under way
    showError();
  } finally {
    clearTimeout(slow);
    if (newest === request) root.removeAttribute("aria-busy");
  }
}

function show(fresh, movesFocus) {
  errorNotice.hidden = true;
  document.title = fresh.dataset.title;
  if (controls) morph(controls, fresh.querySelector("[data-explorer-controls]"));
  results.replaceChildren(...fresh.querySelector("[data-explorer-results]").childNodes);
  followCharts(results);
  status.textContent = fresh.dataset.announcement;
  // What was clicked in the results is gone: go on from their head.
  if (movesFocus) results.querySelector("[data-results-head]")?.focus();
}

function showError() {
  const retry = document.createElement("button");
  retry.type = "button";
  retry.className = "button is-small";
  retry.textContent = "Try again";
  retry.addEventListener("click", () => load());
  errorNotice.replaceChildren("What you chose could not be loaded; below is still what was shown before.", retry);
  errorNotice.hidden = false;
}

// Make `old` like `fresh` by changing as little as possible.
function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  // A menu in which somebody has just chosen something is theirs until it closes.
  if (old.matches("details.menu[open]") && old.dataset.changed) return;
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.matches("details"))) old.removeAttribute(name);
  }
  const oldNodes = [...old.childNodes];
  const freshNodes = [...fresh.childNodes];
  freshNodes.forEach((node, place) => (place < oldNodes.length ? morph(oldNodes[place], node) : old.append(node)));
  for (const node of oldNodes.slice(freshNodes.length)) node.remove();
  takeState(old, fresh);
}

// What a person changed is not in the attributes.
function takeState(old, fresh) {
  if (old instanceof HTMLOptionElement) old.selected = fresh.defaultSelected;
  else if (old instanceof HTMLInputElement && old.type === "checkbox") old.checked = fresh.defaultChecked;
  else if (old instanceof HTMLInputElement && old !== document.activeElement) old.value = fresh.defaultValue;
}
