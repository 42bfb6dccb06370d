// Shows the numbers under the pointer (or under the arrow keys) of a chart.
// The server drew the chart and wrote its numbers beside it as JSON; nothing is computed here but a position.

followCharts(document);

// Also for what is put on the page later.
export function followCharts(root) {
  for (const figure of root.querySelectorAll("[data-chart]")) followPointer(figure);
}

function followPointer(figure) {
  const plot = figure.querySelector("[data-plot]");
  const band = figure.querySelector("[data-band]");
  const tip = figure.querySelector("[data-tip]");
  const chart = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  const count = chart.buckets.length;
  let shown = -1;

  function show(place) {
    if (place === shown) return;
    shown = place;
    band.setAttribute("x", `${(100 / count) * place}%`);
    band.setAttribute("width", `${100 / count}%`);
    tip.replaceChildren(...tipRows(chart, place));
    tip.hidden = false;
    const plotBox = plot.getBoundingClientRect();
    const figureBox = figure.getBoundingClientRect();
    const centre = plotBox.left - figureBox.left + (plotBox.width / count) * (place + 0.5);
    const isRightHalf = place >= count / 2;
    const left = isRightHalf ? centre - tip.offsetWidth - 14 : centre + 14;
    tip.style.left = `${Math.max(0, Math.min(left, figureBox.width - tip.offsetWidth))}px`;
  }

  function hide() {
    shown = -1;
    tip.hidden = true;
    band.setAttribute("width", "0");
  }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    show(Math.max(0, Math.min(count - 1, Math.floor(((event.clientX - box.left) / box.width) * count))));
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const from = shown < 0 ? (step > 0 ? -1 : count) : shown;
    show(Math.max(0, Math.min(count - 1, from + step)));
  });
}

function tipRows(chart, place) {
  const title = element("div", "chart-tip-title", chart.buckets[place]);
  const rows = chart.lines.map((line) => tipRow(line.label, line.values[place], line.colour));
  if (chart.totals) rows.push(tipRow("Total", chart.totals[place]));
  return [title, ...rows];
}

function tipRow(label, value, colour) {
  const row = element("div", "chart-tip-row");
  if (colour) {
    row.classList.add(`series-${colour}`);
    row.append(element("i", "swatch"));
  }
  row.append(element("span", "", label), element("b", "", value));
  return row;
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text; // never as HTML: labels are customers' data
  return made;
}
