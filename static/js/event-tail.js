// Keeps the newest events on top of the table while the page is open.
//
// The stream says which events arrived; their rows come from the server as the same HTML as the first paint.
// Where the stream cannot be reached, the page asks every few seconds instead, and only while it is looked at.

const POLL_EVERY_MS = 4000;
const LISTEN_AGAIN_MS = 15000;
const SETTLE_MS = 1000;
const GATHER_MS = 400; // a burst of events is one request
const MAX_KEYS = 20; // of a larger burst the newest: keys are long, addresses must not be
const MAX_ROWS = 200;

const body = document.querySelector("[data-tail]");
if (body) startTail(body);

function startTail(rows) {
  const live = document.querySelector("[data-live]");
  let arrivedKeys = [];
  let gathering = 0;
  let polling = 0;
  let lastSaid = ["off", "Connecting…"];

  function say(state, text) {
    if (state !== "off") lastSaid = [state, text];
    live.dataset.state = state;
    live.textContent = text;
  }

  // Fetch rows: those of the keys or, without keys, the newest.
  async function load(keys) {
    const url = new URL(rows.dataset.rowsUrl, location.href);
    for (const key of keys) url.searchParams.append("key", key);
    try {
      const answer = await fetch(url);
      if (answer.redirected || !answer.ok) throw new Error(`answered ${answer.status}`);
      showNew(rows, await answer.text());
      say(...lastSaid);
    } catch {
      say("off", "Not reachable, trying again");
    }
  }

  function gather(key) {
    arrivedKeys.push(key);
    gathering ||= setTimeout(() => {
      const keys = arrivedKeys.slice(-MAX_KEYS);
      arrivedKeys = [];
      gathering = 0;
      load(keys);
    }, GATHER_MS);
  }

  function poll() {
    if (polling) return;
    say("polling", "Live, every few seconds");
    polling = setInterval(() => {
      if (document.visibilityState === "visible") load([]);
    }, POLL_EVERY_MS);
  }

  function stopPolling() {
    clearInterval(polling);
    polling = 0;
  }

  function listen() {
    // The stream may answer from another port, by a redirect that carries its own permission.
    const stream = new EventSource(rows.dataset.streamUrl);
    let settling = 0;
    stream.addEventListener("open", () => {
      stopPolling();
      // The server may begin to watch a moment after it answers: only then is nothing missed any more, and what
      // arrived since the first paint is fetched.
      settling = setTimeout(() => {
        say("live", "Live");
        load([]);
      }, SETTLE_MS);
    });
    stream.addEventListener("message", (message) => {
      const told = JSON.parse(message.data);
      gather(told.idempotency_key ?? told.request_id); // an event's, or a request's
    });
    for (const name of ["skipped", "lagging"]) stream.addEventListener(name, () => load([]));
    stream.addEventListener("error", () => {
      clearTimeout(settling);
      poll();
      // A broken connection is renewed by the browser; a refused one is ours to ask for again.
      if (stream.readyState === EventSource.CLOSED) setTimeout(listen, LISTEN_AGAIN_MS);
    });
    addEventListener("pagehide", () => stream.close());
  }

  listen();
}

function showNew(rows, html) {
  const arrived = document.createElement("tbody");
  arrived.innerHTML = html; // our own server's escaped template
  const known = new Set([...rows.children].map((row) => row.dataset.key));
  const fresh = [...arrived.children].filter((row) => !known.has(row.dataset.key));
  for (const row of fresh) row.classList.add("is-new");
  rows.prepend(...fresh);
  while (rows.children.length > MAX_ROWS) rows.lastElementChild.remove();
  if (rows.children.length) document.querySelector("[data-empty]")?.remove();
}
