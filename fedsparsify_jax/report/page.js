"use strict";
// What the page can do beyond being read: values under the pointer or the arrow keys,
// lines to switch off, tables to sort, data to save. Nothing is fetched.
const DATA = JSON.parse(document.getElementById("data").textContent);

function words(value, kind) {
  if (kind === "percent") return (100 * value).toFixed(2) + " %";
  if (kind === "megabytes") return (value / 1e6).toFixed(2) + " MB";
  if (kind === "count") return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle; else high = middle;
  }
  return x - xs[low] < xs[high] - x ? low : high;
}

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

class Plot {
  constructor(box) {
    this.box = box;
    this.chart = DATA.charts[box.dataset.chart];
    this.svg = box.querySelector("svg");
    this.width = this.svg.viewBox.baseVal.width;
    this.tip = element("div", null, box);
    this.tip.className = "tip";
    this.tip.setAttribute("role", "status");
    this.cross = element("div", null, box);
    this.cross.className = "cross";
    this.hide();
    box.tabIndex = 0;
    box.addEventListener("pointermove", event => this.point(event));
    box.addEventListener("pointerdown", event => this.point(event));
    box.addEventListener("pointerleave", () => this.hide());
    box.addEventListener("blur", () => this.hide());
    box.addEventListener("keydown", event => this.key(event));
  }

  xs(series) { return series.x || this.chart.xs; }

  hide() { this.tip.hidden = this.cross.hidden = true; }

  visible() {
    return this.chart.series.filter(series =>
      series.tone === null ||
      !this.svg.querySelector(`.t${series.tone}`)?.classList.contains("off"));
  }

  point(event) {
    const area = this.svg.getBoundingClientRect();
    const scale = this.width / area.width;
    const [low, high, start, stop] = this.chart.scale;
    const at = (event.clientX - area.left) * scale;
    const x = low + (at - start) / (stop - start) * (high - low);
    let shown = this.visible();
    if (this.chart.row) {
      const row = Math.floor(((event.clientY - area.top) * scale - 4) / this.chart.row);
      if (!shown[row]) return this.hide();
      shown = [shown[row]];
    }
    this.show(x, shown);
  }

  key(event) {
    const shown = this.visible().filter(series => this.xs(series).length);
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1}[event.key];
    if (event.key === "Escape") return this.hide();
    if (!step || !shown.length) return;
    event.preventDefault();
    if (this.chart.row) {  // of a heat map, up and down change the row
      const vertical = event.key === "ArrowUp" || event.key === "ArrowDown";
      this.row = Math.min(shown.length - 1, Math.max(0, (this.row || 0) + (vertical ? step : 0)));
      return this.walk(vertical ? 0 : step, [shown[this.row]]);
    }
    const longest = shown.reduce((a, b) => this.xs(b).length > this.xs(a).length ? b : a);
    this.walk(step, shown, longest);
  }

  walk(step, shown, by = shown[0]) {
    const xs = this.xs(by);
    const last = xs.length - 1;
    const from = this.at === undefined ? last + (step < 0 ? 1 : 0) : nearest(xs, this.at);
    this.show(xs[Math.min(last, Math.max(0, from + step))], shown);
  }

  show(x, shown) {
    const {chart, tip, cross} = this;
    shown = shown.filter(series => this.xs(series).length);
    if (!shown.length) return this.hide();
    const found = shown.map(series => [series, nearest(this.xs(series), x)]);
    const [first, n] = found[0];
    const together = found.every(([s, m]) => this.xs(s)[m] === this.xs(first)[n]);
    this.at = together ? this.xs(first)[n] : x;
    tip.replaceChildren();
    element("div", `${chart.label} ${words(this.at, chart.kinds[0])}`, tip);
    found.sort((a, b) => chart.row ? 0 : b[0].y[b[1]] - a[0].y[a[1]]);
    for (const [series, m] of found.slice(0, 12)) {
      const line = element("div", null, tip);
      element("span", series.label, line);
      const own = together || series.level ? "" : ` at ${words(this.xs(series)[m], chart.kinds[0])}`;
      element("b", words(series.y[m], chart.kinds[1]) + own, line);
    }
    tip.hidden = cross.hidden = false;
    const [low, high, start, stop] = chart.scale;
    const share = (start + (this.at - low) / (high - low) * (stop - start)) / this.width;
    const at = Math.min(1, Math.max(0, share)) * this.box.clientWidth;
    cross.style.left = `${at}px`;
    cross.style.top = "0";
    cross.style.height = `${this.svg.clientHeight * chart.depth}px`;
    const beside = at + 12 + tip.offsetWidth > this.box.clientWidth ? at - 12 - tip.offsetWidth : at + 12;
    tip.style.left = `${Math.max(0, beside)}px`;
  }
}

function legend(button) {
  const on = button.getAttribute("aria-pressed") === "false";
  const scope = button.closest("[data-legend]");
  for (const shape of scope.querySelectorAll(`.plot .t${button.dataset.tone}`)) {
    shape.classList.toggle("off", !on);
    shape.style.display = on ? "" : "none";
  }
  for (const other of scope.querySelectorAll(`button[data-tone="${button.dataset.tone}"]`)) {
    other.setAttribute("aria-pressed", on);
  }
}

function sort(button) {
  const head = button.closest("th"), table = head.closest("table");
  const column = [...head.parentNode.children].indexOf(head);
  const down = head.getAttribute("aria-sort") !== "descending" && head.classList.contains("numbers")
    || head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = row => row.children[column].dataset.v;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (left !== undefined && right !== undefined) return left - right;
    if (left !== undefined || right !== undefined) return left === undefined ? -1 : 1;
    return a.children[column].textContent.localeCompare(b.children[column].textContent);
  });
  table.tBodies[0].append(...(down ? rows.reverse() : rows));
}

function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  let text = typeof value === "string" ? value : JSON.stringify(value);
  if (/^[=+\-@\t\r]/.test(text)) text = "'" + text;  // no formula for a spreadsheet
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function save(button) {
  const {columns, rows} = DATA.tables[button.dataset.save];
  const csv = button.dataset.as === "csv";
  const text = csv
    ? [columns, ...rows].map(row => row.map(cell).join(",") + "\r\n").join("")
    : JSON.stringify(rows.map(row => Object.fromEntries(columns.map((c, n) => [c, row[n]]))), null, 1);
  const link = element("a", null, document.body);
  link.href = URL.createObjectURL(new Blob([text], {type: csv ? "text/csv" : "application/json"}));
  link.download = `${button.dataset.save}.${button.dataset.as}`;
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

for (const box of document.querySelectorAll(".plot")) new Plot(box);
document.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.tone) legend(button);
  else if (button.dataset.save) save(button);
  else if (button.closest("thead")) sort(button);
});
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", () => {
    const folded = document.querySelector(`${link.hash} details`);
    if (folded && !document.querySelector(`${link.hash} details[open]`)) folded.open = true;
  });
}
document.documentElement.dataset.ready = DATA.ready;
