// data-live-check="address": what is typed into the form is sent there after a pause, and the answer, a piece of
// HTML, is shown in the element that data-live-check-into names. A courtesy: saving checks everything again.

const CHECK_AFTER_MS = 250;

for (const form of document.querySelectorAll("form[data-live-check]")) {
  const place = document.querySelector(form.dataset.liveCheckInto);
  let waiting = 0;
  let newest = null; // the check under way

  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(check, CHECK_AFTER_MS);
  });

  async function check() {
    newest?.abort();
    newest = new AbortController();
    try {
      const answer = await fetch(form.dataset.liveCheck, {
        method: "POST",
        body: new FormData(form),
        signal: newest.signal,
      });
      place.innerHTML = answer.ok && !answer.redirected ? await answer.text() : "";
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(); // offline: saving says so
    }
  }
}
