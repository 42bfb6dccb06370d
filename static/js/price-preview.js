// Renews the preview of prices as the slider moves or a price is written. The server rates: this only asks it again.
//
// Without it the same form shows the preview by its button.

const AFTER_MS = 120;
const form = document.querySelector("form[data-price-preview]");
const results = document.querySelector("[data-price-preview-results]");
let timer = 0;
let newest = null; // the request under way

form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(renew, AFTER_MS);
});

async function renew() {
  newest?.abort();
  const request = (newest = new AbortController());
  const fields = new FormData(form);
  const url = new URL(location.href);
  const options = { signal: request.signal };
  if (form.method === "post") {
    fields.set("action", "preview");
    Object.assign(options, { method: "POST", body: fields });
  } else {
    url.search = new URLSearchParams(fields);
  }
  try {
    const answer = await fetch(url, options);
    if (answer.redirected || !answer.ok) return; // signed out: saving will say so
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("[data-price-preview-results]");
    if (fresh) results.replaceChildren(...fresh.childNodes);
  } catch (error) {
    if (error.name !== "AbortError") throw error; // a newer request is under way
  }
}
