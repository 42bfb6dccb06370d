// Puts new alerts on top of the history while the page is open.
//
// The stream says that the log grew; the rows come from the server as the same HTML as the first paint, always from
// the last offset that is shown here, so that nothing is missed or shown twice. Where the stream cannot be reached,
// the page asks every few seconds instead, and only while it is looked at.

const POLL_EVERY_MS = 4000;
const LISTEN_AGAIN_MS = 15000;
const GATHER_MS = 300; // a burst of alerts is one request
const MAX_ROWS = 200;

const body = document.querySelector("[data-feed]");
if (body) startFeed(body);

function startFeed(rows) {
  const live = document.querySelector("[data-live]");
  // The end of the log as far as this page knows: of all alerts, also of those that the filters leave out.
  let since = Number(rows.dataset.since);
  let gathering = 0;
  let isLoading = false;
  let isBehind = false;
  let polling = 0;
  let lastSaid = ["off", "Connecting…"];

  function say(state, text) {
    if (state !== "off") lastSaid = [state, text];
    live.dataset.state = state;
    live.textContent = text;
  }

  // One request at a time: two would fetch the same rows.
  async function load() {
    if (isLoading) {
      isBehind = true;
      return;
    }
    isLoading = true;
    try {
      do {
        isBehind = false;
        const url = new URL(rows.dataset.rowsUrl, location.href);
        url.searchParams.set("since", since);
        const answer = await fetch(url);
        if (answer.redirected || !answer.ok) throw new Error(`answered ${answer.status}`);
        since = Math.max(since, showNew(rows, await answer.text()));
      } while (isBehind);
      say(...lastSaid);
    } catch {
      say("off", "Not reachable, trying again");
    } finally {
      isLoading = false;
    }
  }

  function gather() {
    gathering ||= setTimeout(() => {
      gathering = 0;
      load();
    }, GATHER_MS);
  }

  function poll() {
    if (polling) return;
    say("polling", "Live, every few seconds");
    polling = setInterval(() => {
      if (document.visibilityState === "visible") load();
    }, POLL_EVERY_MS);
  }

  function stopPolling() {
    clearInterval(polling);
    polling = 0;
  }

  function listen() {
    const url = new URL(rows.dataset.streamUrl, location.href);
    url.searchParams.set("since", since);
    // The stream may answer from another port, by a redirect that carries its own permission.
    const stream = new EventSource(url);
    stream.addEventListener("open", () => {
      stopPolling();
      say("live", "Live");
      load(); // what the stream does not tell again because it told it before it broke
    });
    stream.addEventListener("message", gather);
    // Too far behind: the server closes, the browser comes back, and the rows are fetched meanwhile.
    stream.addEventListener("resume", gather);
    stream.addEventListener("error", () => {
      poll();
      // A broken connection is renewed by the browser; a refused one is ours to ask for again.
      if (stream.readyState === EventSource.CLOSED) setTimeout(listen, LISTEN_AGAIN_MS);
    });
    addEventListener("pagehide", () => stream.close());
  }

  say("off", "Connecting…");
  listen();
}

// Show what is not shown yet; return the greatest offset that came.
function showNew(rows, html) {
  const arrived = document.createElement("tbody");
  arrived.innerHTML = html; // our own server's escaped template
  const known = new Set([...rows.children].map((row) => row.dataset.offset));
  const fresh = [...arrived.children].filter((row) => !known.has(row.dataset.offset));
  for (const row of fresh) row.classList.add("is-new");
  rows.prepend(...fresh);
  while (rows.children.length > MAX_ROWS) rows.lastElementChild.remove();
  if (rows.children.length) document.querySelector("[data-empty]")?.remove();
  return Math.max(0, ...[...arrived.children].map((row) => Number(row.dataset.offset)));
}
