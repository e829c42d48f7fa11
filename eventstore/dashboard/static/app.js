// The dashboard's only script: it keeps the page live, draws charts, and adds comforts. Without it every page is readable
// and every form works. The server renders; this puts what it sends in place of what is there.

/* global uPlot, Idiomorph */

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const MOST_POINTS = 900;
const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400,
  172800, 432000, 864000, 2592000]; // seconds between two lines of a chart
const WHOLE = STEPS.filter((step) => step >= 1);

// -- times: the server writes them absolutely, here they are told as ago; the title keeps the absolute one

function ago(seconds) {
  const s = Math.round(Math.abs(seconds));
  const [n, unit] = s < 60 ? [s, "s"] : s < 3600 ? [Math.floor(s / 60), "min"]
    : s < 172800 ? [Math.floor(s / 3600), "h"] : s < 63072000 ? [Math.floor(s / 86400), "d"] : [Math.floor(s / 31557600), "y"];
  if (s === 0) return "now";
  return seconds >= 0 ? `${n} ${unit} ago` : `in ${n} ${unit}`;
}

function tellTimes(root) {
  for (const time of $$("time[data-ago]", root)) {
    const at = Date.parse(time.dateTime);
    if (Number.isNaN(at)) continue;
    const text = ago((Date.now() - at) / 1000);
    if (!time.title) time.title = `${time.textContent.trim()} UTC`;
    if (time.textContent !== text) time.textContent = text;
  }
}

// -- charts

const charts = new Map(); // element → {plot, times, values}

function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);
const short = (value) => value == null ? "–" : Math.abs(value) >= 10000
  ? Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value)
  : Intl.NumberFormat("en", { maximumFractionDigits: Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0 }).format(value);

// Seconds as the largest unit that leaves a readable number; other quantities as they are.
const told = (value, unit) => {
  if (!value || unit !== "s") return `${short(value)}${unit ? ` ${unit}` : ""}`;
  const [part, name] = value < 1 ? [value * 1000, "ms"] : value < 60 ? [value, "s"] : value < 7200 ? [value / 60, "min"]
    : value < 172800 ? [value / 3600, "h"] : [value / 86400, "d"];
  return `${short(part)} ${name}`;
};

function draw(element) {
  const chart = charts.get(element);
  chart.plot?.destroy();
  const line = colour(element.dataset.colour || "c1"), muted = colour("muted"), grid = colour("line");
  const { unit } = element.dataset;
  const axis = { stroke: muted, font: `11px ${getComputedStyle(document.body).fontFamily}`, ticks: { show: false } };
  chart.plot = new uPlot({
    width: element.clientWidth || 300,
    height: element.clientHeight,
    padding: [8, 28, 0, 0], // half of a time stands right of the last point
    legend: { show: false },
    cursor: { y: false, points: { size: 7, fill: line } },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: { y: { range: (_, low, high) => [0, Math.max(high || 0, Number(element.dataset.least || 1)) * 1.12] } },
    axes: [
      { ...axis, grid: { show: false }, space: 78, size: 28, incrs: WHOLE, values: (_, at) => at.map(clock) },
      { ...axis, grid: { stroke: grid, width: 1 }, size: 52, space: 34, ...(unit === "s" && { incrs: STEPS }), values: (_, at) => at.map((value) => unit === "s" ? value === 0 ? "0" : told(value, unit) : short(value)) },
    ],
    series: [{}, { stroke: line, width: 1.75, fill: line.replace("rgb(", "rgba(").replace(")", ", 0.10)"), points: { show: false } }],
    hooks: { setCursor: [(plot) => readOut(element, plot.cursor.idx)] },
  }, [chart.times, chart.values], element);
  describe(element);
}

function readOut(element, index) {
  const { times, values } = charts.get(element);
  const at = index ?? times.length - 1, out = document.getElementById(`${element.id}-readout`);
  if (!out || at < 0) return;
  const gaps = index == null && values.includes(null) ? "gaps: nobody looked · " : "";
  out.textContent = `${gaps}${clock(times[at])} UTC: ${told(values[at], element.dataset.unit)}`;
}

// What the picture shows, in words and, when asked for, as a table.
function describe(element) {
  const { times, values } = charts.get(element), known = values.filter((value) => value != null);
  if (!known.length) return;
  const now = known[known.length - 1], { unit } = element.dataset;
  element.setAttribute("aria-label", `${element.dataset.label}: ${told(now, unit)} at ${clock(times[times.length - 1])} UTC; `
    + `least ${told(Math.min(...known), unit)}, most ${told(Math.max(...known), unit)} since ${clock(times[0])} UTC`);
  const table = document.getElementById(`${element.id}-table`);
  if (!table?.closest("details").open) return;
  const step = Math.max(1, Math.ceil(times.length / 20)), rows = [];
  for (let at = times.length - 1; at >= 0; at -= step) {
    const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
    head.scope = "row";
    head.textContent = clock(times[at]);
    cell.className = "num";
    cell.textContent = short(values[at]);
    row.append(head, cell);
    rows.push(row);
  }
  $("tbody", table).replaceChildren(...rows);
}

function feed({ reset, times, values }) {
  for (const element of $$("[data-chart]")) {
    const more = values[element.dataset.chart];
    if (!more) continue;
    const chart = charts.get(element) ?? { times: [], values: [] };
    chart.times = (reset ? times : [...chart.times, ...times]).slice(-MOST_POINTS);
    chart.values = (reset ? more : [...chart.values, ...more]).slice(-MOST_POINTS);
    charts.set(element, chart);
    if (!chart.plot || !element.contains(chart.plot.root)) draw(element);
    else {
      chart.plot.setData([chart.times, chart.values]);
      describe(element);
    }
    readOut(element, chart.plot.cursor.idx);
    element.classList.add("drawn");
  }
}

new ResizeObserver(() => {
  for (const [element, { plot }] of charts) {
    if (!document.contains(element)) charts.delete(element);
    else if (plot && plot.width !== element.clientWidth && element.clientWidth) {
      plot.setSize({ width: element.clientWidth, height: element.clientHeight });
    }
  }
}).observe(document.body);

// -- live: the server sends the part anew when it changed

const live = $("#live[data-live]"), link = $("#link"), pause = $("#pause");
let source = null, paused = false;

// What is shown is old when nothing new can be had: then it is greyed, and the state says since when.
function show(state, old = false, since = Date.now()) {
  if (link && link.dataset.state !== state) link.dataset.state = state;
  const stale = $("#stale");
  if (!stale || stale.hidden !== old) return;
  if (old) $("time", stale).textContent = clock(since / 1000);
  stale.hidden = !old;
  live.classList.toggle("old", old);
}

function morph(html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  tellTimes(fresh.content);
  Idiomorph.morph(live, fresh.content, {
    morphStyle: "innerHTML",
    ignoreActiveValue: true,
    callbacks: {
      // A chart draws itself; what a reader opened stays open, what was typed stays typed.
      beforeNodeMorphed: (old) => !(old.nodeType === 1 && (old.hasAttribute("data-keep") || old === document.activeElement && old.matches("input, select, textarea"))),
      beforeAttributeUpdated: (name, node) => !(name === "open" && node.nodeName === "DETAILS"),
      afterNodeAdded: (node) => { if (node.nodeType === 1 && node.hasAttribute("data-new")) node.classList.add("flash-row"); },
    },
  });
  document.dispatchEvent(new CustomEvent("eventstore:live"));
}

function problem({ error, message }) {
  const box = $("#problem");
  box.hidden = false;
  $("strong", box).textContent = error;
  $("span", box).textContent = message;
}

function connect() {
  if (!live || paused || source) return;
  show("reconnecting");
  source = new EventSource(live.dataset.live);
  source.addEventListener("part", (event) => { $("#problem").hidden = true; show("live"); morph(event.data); });
  source.addEventListener("series", (event) => feed(JSON.parse(event.data)));
  source.addEventListener("problem", (event) => {
    const told = JSON.parse(event.data);
    show("stuck", true, Date.parse(told.since));
    problem(told);
  });
  source.addEventListener("gone", (event) => { disconnect(); show("still"); problem(JSON.parse(event.data)); });
  source.addEventListener("error", () => {
    show("reconnecting", true);
    // Refused: signed out, or the page is no more. The server says which.
    const refused = source;
    if (refused?.readyState === EventSource.CLOSED) setTimeout(() => { if (source === refused) location.reload(); }, 3000);
  });
}

function disconnect() {
  source?.close();
  source = null;
}

function setPaused(on) {
  paused = on;
  pause.setAttribute("aria-pressed", String(on));
  if (on) { disconnect(); show("paused"); } else connect();
}

if (live) {
  pause.hidden = false;
  pause.addEventListener("click", () => setPaused(!paused));
  connect();
  // A tab that nobody sees asks for nothing; browsers allow few connections to one server.
  document.addEventListener("visibilitychange", () => document.hidden ? disconnect() : connect());
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
}

// -- comforts

tellTimes(document);
setInterval(() => tellTimes(document), 1000);

const themes = $("#theme");
const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
function nameTheme() { themes.setAttribute("aria-label", dark() ? "Use light colours" : "Use dark colours"); }
if (themes) {
  themes.hidden = false;
  nameTheme();
  themes.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("eventstore-theme", document.documentElement.dataset.theme); } catch { /* not kept */ }
    nameTheme();
    for (const element of charts.keys()) draw(element);
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const element of charts.keys()) draw(element); });

const back = $("#back");
if (back && history.length > 1) {
  back.hidden = false;
  back.addEventListener("click", () => history.back());
}

const menu = $("#menu");
menu?.addEventListener("click", () => {
  const open = $("#nav").classList.toggle("open");
  menu.setAttribute("aria-expanded", String(open));
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const field = $("[data-search]");
    if (field) { event.preventDefault(); field.focus(); field.select(); }
  }
  if (event.key === "Escape" && $("#nav")?.classList.contains("open")) { menu.click(); menu.focus(); }
});

// A filter that changes is a question asked; without scripts the button asks it.
for (const field of $$("select[data-submit]")) field.addEventListener("change", () => field.form.requestSubmit());
// Empty fields do not belong into the address.
for (const form of $$("form[method=get]")) {
  form.addEventListener("formdata", (event) => { for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name); });
}
// A second click does not do it twice; forms come and go with the live part.
document.addEventListener("submit", ({ target: form }) => {
  if (form.method === "post") setTimeout(() => { for (const button of $$("button", form)) button.disabled = true; });
});
addEventListener("pageshow", () => { for (const button of $$("form[method=post] button")) button.disabled = false; });

for (const button of $$("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const from = document.getElementById(button.dataset.copy), label = $("span", button), before = label.textContent;
    try { await navigator.clipboard.writeText(from.textContent); label.textContent = "Copied"; } catch {
      // No permission, or no secure address: at least it is selected.
      from.closest("details")?.setAttribute("open", "");
      getSelection().selectAllChildren(from);
      label.textContent = "Selected";
    }
    setTimeout(() => { label.textContent = before; }, 1500);
  });
}
for (const button of $$("[data-unfold]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const all = $$("details", document.getElementById(button.dataset.unfold)), open = !all.every((one) => one.open);
    for (const one of all) one.open = open;
    $("span", button).textContent = open ? "Collapse all" : "Expand all";
  });
}
document.addEventListener("toggle", (event) => {
  const table = $("table[data-of]", event.target);
  const element = table && document.getElementById(table.dataset.of);
  if (element && charts.has(element)) describe(element);
}, true);
