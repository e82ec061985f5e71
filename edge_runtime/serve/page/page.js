// The page of a running vehicle loop: asks /status twice a second and draws what it says. No libraries.
"use strict";

const POLL_MS = 500;
const HIDDEN_POLL_MS = 5000; // nobody looks
const RETRY_MS = 1500;
const TIMEOUT_MS = 4000;
const EVENTS_SHOWN = 50;
const METHODS = { vg: "Vanilla Gradient", ig: "Integrated Gradients", sg: "SmoothGrad" };
const MEASURES = { gini: "Gini", road: "ROAD", confidence: "Confidence" };
const SMOOTHED = 8; // values in the mean that is drawn over a noisy line
const STATES = { running: "running", starting: "starting", waiting: "waiting", stopped: "stopped" };

const byId = (id) => document.getElementById(id);
let tag = null; // of the status that is shown
let shown = null; // {fresh, obstacle, pictures, status}
let lostSince = null;
let stage = null; // whose latency is shown; null: the first

// --- small helpers --------------------------------------------------------------------------------------------------

/** Make an element; children are nodes or text, null ones are left out. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  return fill(element, attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A reading that is missing is a dash, and says so to those who listen. */
function dash() {
  return make("span", { class: "missing", title: "no reading" },
    make("span", { "aria-hidden": "true" }, "–"), make("span", { class: "hidden" }, "no reading"));
}

const known = (value) => value !== null && value !== undefined;
const fixed = (value, digits, unit = "") => (known(value) ? value.toFixed(digits) + unit : null);
const whole = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : null);
const percent = (value) => (known(value) ? (100 * value).toFixed(value > 0.9995 && value < 1 ? 2 : 1) + " %" : null);
const orDash = (text) => (known(text) ? text : dash());

/** Milliseconds with three significant digits. */
function duration(milliseconds) {
  if (!known(milliseconds)) return null;
  const digits = milliseconds >= 100 ? 0 : milliseconds >= 10 ? 1 : 2;
  return milliseconds.toFixed(digits) + " ms";
}

/** Seconds as people say them: 12 s, 3 min, 2 h 5 min, 4 d 3 h. */
function span(seconds) {
  if (seconds < 90) return Math.max(0, Math.round(seconds)) + " s";
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return minutes + " min";
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const clock = (wall) => new Date(wall * 1000).toLocaleTimeString("en-GB");

/** Replace an element's children only where their text changed, so that selections and scrolling survive. */
function update(id, children, signature) {
  const element = byId(id);
  const mark = signature ?? children.map((child) => child.textContent ?? child).join("\u0000");
  if (element.dataset.mark === mark) return;
  element.dataset.mark = mark;
  element.replaceChildren(...children);
}

function pair(name, value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, orDash(value)));
}

// --- charts ---------------------------------------------------------------------------------------------------------

const CHART = { height: 150, left: 34, right: 8, top: 10, bottom: 20 };

/** An empty chart as wide as its place, so that its text keeps its size; null while the place has no width. */
function canvas(id, description) {
  const width = byId(id).clientWidth;
  if (!width) return null;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${CHART.height}`, role: "img", "aria-label": description });
  return { svg, width, right: width - CHART.right, bottom: CHART.height - CHART.bottom };
}

function write(x, y, text, anchor, name = "") {
  return drawn("text", { x, y, "text-anchor": anchor, class: name }, text);
}

function nothingYet(id, text) {
  const chart = canvas(id, text);
  if (!chart) return;
  chart.svg.append(write(chart.width / 2, CHART.height / 2, text, "middle", "empty"));
  update(id, [chart.svg], `${text} ${chart.width}`);
}

/** Round numbers that span the values, within the bounds that the measure has. */
function ticks(low, high, [lowest, highest]) {
  const rough = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let at = Math.floor(low / step + 1e-9); at <= Math.ceil(high / step - 1e-9); at++) found.push(at * step);
  return found.filter((at) => at >= lowest - 1e-9 && at <= highest + 1e-9);
}

/** The mean of each value and those before it, at most SMOOTHED; gaps stay gaps. */
function smoothed(values) {
  const recent = [];
  return values.map((value) => {
    if (!known(value)) return null;
    recent.push(value);
    if (recent.length > SMOOTHED) recent.shift();
    return recent.reduce((sum, each) => sum + each, 0) / recent.length;
  });
}

/** Draw measures over time, faint, with their rolling means and dashed the desktop's mean; null values are gaps. */
function drawSeries(id, measures, name, bounds) {
  const values = measures.flatMap(({ series }) => series.values.filter(known));
  if (!values.length) return nothingYet(id, `No ${name} yet`);
  const walls = measures.flatMap(({ series }) => series.wall);
  const [start, end] = [Math.min(...walls), Math.max(...walls)];
  const levels = [...values, ...measures.map(({ series }) => series.baseline).filter(known)];
  const [least, most] = [Math.min(...levels), Math.max(...levels)];
  const margin = Math.max((most - least) * 0.08, 0.005);
  const grid = ticks(least - margin, most + margin, bounds);
  const [low, high] = [grid[0], grid[grid.length - 1]];
  const chart = canvas(id, `${name} over ${span(end - start)}, between ${fixed(least, 2)} and ${fixed(most, 2)}`);
  if (!chart) return;
  const x = (wall) => CHART.left + ((wall - start) / (end - start || 1)) * (chart.right - CHART.left);
  const y = (value) => chart.bottom - ((value - low) / (high - low)) * (chart.bottom - CHART.top);
  const digits = Math.min(3, Math.max(0, Math.ceil(-Math.log10(grid[1] - grid[0]) - 1e-9)));
  for (const level of grid) {
    chart.svg.append(drawn("line", { class: "grid", x1: CHART.left, x2: chart.right, y1: y(level), y2: y(level) }));
    chart.svg.append(write(CHART.left - 6, y(level) + 4, level.toFixed(digits), "end"));
  }
  chart.svg.append(write(CHART.left, CHART.height - 4, `${span(end - start)} ago`, "start"));
  chart.svg.append(write(chart.right, CHART.height - 4, clock(end), "end"));
  for (const { method, series } of measures) {
    if (known(series.baseline)) {
      const at = y(series.baseline);
      chart.svg.append(drawn("line", { class: `baseline ${method}`, x1: CHART.left, x2: chart.right, y1: at, y2: at }));
    }
    const place = (value, index) => (known(value) ? [x(series.wall[index]), y(value)] : null);
    const points = smoothed(series.values).map(place);
    chart.svg.append(drawn("path", { class: `line faint ${method}`, d: polyline(series.values.map(place)) }));
    chart.svg.append(drawn("path", { class: `line ${method}`, d: polyline(points) }));
    const last = points[points.length - 1];
    if (last) chart.svg.append(drawn("circle", { class: `dot ${method}`, cx: last[0], cy: last[1], r: 3 }));
  }
  update(id, [chart.svg], `${chart.width} ${start} ${end} ${values.length} ${values[values.length - 1]} ${low} ${high}`);
}

function polyline(points) {
  let path = "";
  let pen = "M";
  for (const point of points) {
    if (point) path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = point ? "L" : "M";
  }
  return path;
}

/** What the lines are, where their rolling means stand, and where the desktop's mean lies. */
function drawLegend(id, measures) {
  const rows = measures.map(({ method, title, series }) => {
    const last = smoothed(series.values).filter(known).pop();
    const swatch = drawn("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" },
      drawn("line", { class: method, x1: 0, x2: 18, y1: 4, y2: 4, "stroke-width": 2.5 }));
    const baseline = known(series.baseline) ? ` desktop ${series.baseline.toFixed(3)}` : "";
    return make("li", {}, swatch, make("span", { class: "name" }, title),
      make("b", {}, orDash(fixed(last, 3))), make("span", { class: "muted" }, baseline));
  });
  update(id, rows);
}

function measuresOf(found) {
  return Object.entries(found).map(([key, series]) => {
    const method = Object.keys(METHODS).find((name) => key.split(" ").includes(name));
    return { method: method ?? "vg", title: key.replace(method, METHODS[method]), series };
  });
}

/** Draw the latency histogram of one stage with its percentiles. */
function drawHistogram(histogram, summary) {
  const total = histogram ? histogram.counts.reduce((sum, count) => sum + count, 0) : 0;
  if (!total) return nothingYet("histogram", "No latency yet");
  const { edges, counts } = histogram;
  const first = Math.max(0, counts.findIndex((count) => count > 0) - 1);
  const last = Math.min(counts.length - 1, counts.length - [...counts].reverse().findIndex((count) => count > 0));
  const chart = canvas("histogram", `Latency of ${total} frames; percentiles follow as text`);
  if (!chart) return;
  const left = 8;
  const step = (chart.right - left) / (last - first + 1);
  const top = Math.max(...counts);
  const bars = drawn("g", { class: "bars" });
  for (let index = first; index <= last; index++) {
    const height = (counts[index] / top) * (chart.bottom - CHART.top - 16);
    const shownHeight = counts[index] ? Math.max(1.5, height) : 0;
    const bar = { x: left + (index - first) * step + 0.5, width: Math.max(1, step - 1), y: chart.bottom - shownHeight };
    const range = index < edges.length ? `up to ${duration(edges[index])}` : `over ${duration(edges[index - 1])}`;
    bars.append(drawn("rect", { ...bar, height: shownHeight, rx: 1.5 }, drawn("title", {}, `${range}: ${counts[index]}`)));
  }
  chart.svg.append(bars, drawn("line", { class: "grid", x1: left, x2: chart.right, y1: chart.bottom, y2: chart.bottom }));
  const every = Math.ceil((last - first + 1) / Math.max(2, Math.floor(chart.width / 62)));
  for (let index = first; index < Math.min(last, edges.length); index += every) {
    chart.svg.append(write(left + (index - first + 1) * step, CHART.height - 4, duration(edges[index]), "middle"));
  }
  const place = (value) => left + (bucketPosition(edges, value) - first) * step;
  for (const [row, name] of summary ? ["p50", "p99"].entries() : []) {
    const at = Math.min(place(summary[name]), chart.right);
    const anchor = at > chart.width - 40 ? "end" : "start";
    chart.svg.append(drawn("line", { class: "mark", x1: at, x2: at, y1: CHART.top - 6, y2: chart.bottom }));
    chart.svg.append(write(at + (anchor === "end" ? -4 : 4), CHART.top + 3 + 13 * row, name, anchor, "mark-name"));
  }
  update("histogram", [chart.svg], `${chart.width} ${stage} ${counts.join()} ${summary?.p50} ${summary?.p99}`);
}

/** Where a value lies on the axis of buckets, whose widths are drawn alike. */
function bucketPosition(edges, value) {
  const index = edges.findIndex((edge) => value <= edge);
  if (index < 0) return edges.length + 0.5;
  const below = index ? edges[index - 1] : 0;
  return index + (value - below) / (edges[index] - below);
}

// --- the parts of the page ------------------------------------------------------------------------------------------

function drawHead(status) {
  byId("bundle").textContent = status.bundle;
  byId("origin").textContent = `${status.source} · ${status.provider} · manifest ${status.digest.slice(0, 12)}`;
  document.title = `${status.bundle} · roadworthy`;
  byId("loop").textContent = `Loop started ${new Date(status.started_wall * 1000).toLocaleString("en-GB")}, ` +
    `process ${status.process}`;
}

function drawPrediction({ shown: frame, saliency_method: method }) {
  update("label", [frame ? orDash(frame.label) : dash()]);
  update("probability", [frame ? orDash(percent(frame.probability)) : dash()]);
  byId("meter").value = frame?.probability ?? 0;
  const box = frame?.box ? `, box ${frame.box.join(" ")}` : "";
  byId("frame-id").textContent = frame ? `${frame.frame_id}${box}` : "";
  byId("overlay-name").textContent = method ? METHODS[method] ?? method : "Saliency";
}

function tile(name, value, { unit = "", mood = "", wide = false } = {}) {
  const words = wide ? "words" : "";
  const number = make("dd", { class: `${mood} ${words}` }, orDash(value), unit ? make("small", {}, unit) : null);
  return make("div", { class: wide ? "wide" : "" }, make("dt", {}, name), number);
}

function drawTiles(status) {
  const { counts, latency, drift } = status;
  const moved = Object.entries(drift).filter(([, state]) => state.drifted).map(([name]) => measureTitle(name));
  const classify = latency.classify ?? Object.values(latency)[0];
  const away = moved.length ? moved.join("; ") : Object.keys(drift).length ? "none" : null;
  update("tiles", [
    tile("frames a second", fixed(status.frames_per_second, 1)),
    tile("median latency", fixed(classify?.p50, classify?.p50 < 10 ? 2 : 1), { unit: classify ? "ms" : "" }),
    tile("99th percentile", fixed(classify?.p99, classify?.p99 < 10 ? 2 : 1), { unit: classify ? "ms" : "" }),
    tile("processed", whole(counts.processed)),
    tile("dropped", whole(counts.dropped), { mood: counts.dropped ? "poor" : "" }),
    tile("failed", whole(counts.failed), { mood: counts.failed ? "ill" : "" }),
    tile("waiting", whole(counts.waiting)),
    tile("produced", whole(counts.produced)),
    tile(`degradation step ${status.step}`, status.step_name, { mood: status.step ? "poor" : "good", wide: true }),
    tile("drift", away, { mood: moved.length ? "ill" : away ? "good" : "", wide: true }),
  ]);
}

function drawLatency(status) {
  const stages = Object.keys({ ...status.histograms, ...status.latency });
  if (!stages.includes(stage)) stage = stages.includes("classify") ? "classify" : stages[0] ?? null;
  const select = byId("stage");
  if (select.dataset.mark !== stages.join()) {
    select.dataset.mark = stages.join();
    select.replaceChildren(...stages.map((name) => make("option", { value: name }, METHODS[name] ?? name)));
  }
  select.hidden = !stages.length;
  if (stage) select.value = stage;
  const summary = status.latency[stage];
  drawHistogram(status.histograms[stage], summary);
  const names = { p50: "p50", p95: "p95", p99: "p99", max: "longest" };
  const rows = Object.entries(names).map(([key, name]) => pair(name, duration(summary?.[key])));
  update("percentiles", [...rows, pair("frames", whole(summary?.count))]);
}

/** "gini vg" as people say it. */
function measureTitle(name) {
  const words = name.split(" ").map((word) => MEASURES[word] ?? METHODS[word] ?? word);
  return words.join(", ");
}

function drawDrift(drift) {
  const rows = Object.entries(drift).map(([name, state]) => {
    const p = known(state.p_value) ? `p ${state.p_value < 0.001 ? "< 0.001" : state.p_value.toFixed(3)}` : "window not full";
    const since = known(state.since_wall) ? ` since ${clock(state.since_wall)}` : "";
    const pill = state.drifted ? make("span", { class: "pill bad" }, "drifted") : make("span", { class: "pill ok" }, "no drift");
    const waits = !known(state.p_value) && !state.drifted;
    return make("li", {}, make("span", {}, measureTitle(name),
      make("br"), make("span", { class: "muted" }, `${p}, window ${state.window}${since}`)),
      waits ? make("span", { class: "pill" }, "collecting") : pill);
  });
  update("drift", rows.length ? rows : [make("li", { class: "muted" }, "Nothing is watched: the bundle has no baselines.")]);
}

function drawDevice(device) {
  const d = device ?? {};
  const hertz = (now, most) => (known(now) ? `${(now / 1e9).toFixed(2)}${known(most) ? ` of ${(most / 1e9).toFixed(2)}` : ""} GHz` : null);
  const throttled = known(d.throttled) ? (d.throttled ? `yes: ${(d.throttle_reasons ?? []).join(", ") || "reason unknown"}` : "no") : null;
  const rows = [
    pair("hottest sensor", fixed(d.hottest_celsius, 1, " °C")),
    pair("CPU", fixed(d.cpu_temperature_celsius, 1, " °C")),
    pair("GPU", fixed(d.gpu_temperature_celsius, 1, " °C")),
    pair("power", fixed(d.power_watts, 2, " W")),
    pair("energy since start", fixed(d.energy_joules, 0, " J")),
    pair("CPU clock", hertz(d.cpu_frequency_hertz, d.cpu_frequency_max_hertz)),
    pair("GPU clock", hertz(d.gpu_frequency_hertz, d.gpu_frequency_max_hertz)),
    pair("GPU load", percent(d.gpu_load)),
    pair("power mode", d.power_mode ?? d.cpu_governor),
    pair("throttled", throttled),
  ];
  update("device", rows);
}

function drawLog(log) {
  const rows = [
    pair("file", log.path),
    pair("last durable record", whole(log.acknowledged)),
    pair("waiting", whole(log.pending)),
    pair("lost", whole(log.lost)),
    pair("state", log.error ?? (Object.keys(log).length ? "writes" : null)),
  ];
  update("log", rows);
}

function drawEvents(events) {
  const rows = events.slice(-EVENTS_SHOWN).reverse().map(([wall, name, message]) =>
    make("li", {}, make("time", { datetime: new Date(wall * 1000).toISOString() }, clock(wall)),
      make("b", {}, name), message ? `: ${message}` : ""));
  update("events", rows.length ? rows : [make("li", { class: "muted" }, "None so far.")]);
}

// --- pictures -------------------------------------------------------------------------------------------------------

const loading = new Set();

/** Show a picture's newest version; the old one stays until the new one is there. */
function loadPicture(id, version) {
  const image = byId(id);
  if (!version || image.dataset.version === version || loading.has(id)) return;
  loading.add(id);
  const next = new Image();
  const settle = (found) => {
    loading.delete(id);
    image.dataset.version = version;
    if (found) image.src = next.src;
    image.dataset.there = found ? "yes" : "";
    arrangePictures();
  };
  next.onload = () => settle(true);
  next.onerror = () => settle(false);
  next.src = `/${id}.jpg?${version}`;
}

function arrangePictures() {
  const wantsOverlay = byId("overlay-on").checked;
  const there = (id) => byId(id).dataset.there === "yes";
  const picture = wantsOverlay && there("overlay") ? "overlay" : there("frame") ? "frame" : null;
  for (const id of ["frame", "overlay"]) byId(id).hidden = id !== picture;
  byId("no-picture").hidden = picture !== null;
}

function drawPictures({ pictures }) {
  loadPicture("frame", pictures["frame.jpg"]);
  if (byId("overlay-on").checked) loadPicture("overlay", pictures["overlay.jpg"]);
}

// --- state and connection -------------------------------------------------------------------------------------------

function draw() {
  const status = shown?.status;
  if (!status) return;
  drawHead(status);
  drawPictures(shown);
  drawPrediction(status);
  drawTiles(status);
  drawLatency(status);
  for (const name of ["gini", "road"]) {
    drawSeries(name, measuresOf(status[name]), MEASURES[name], name === "gini" ? [0, 1] : [-1, 1]);
    drawLegend(`${name}-legend`, measuresOf(status[name]));
  }
  const confidence = [{ method: "vg", title: `mean of the last ${SMOOTHED}`, series: status.confidence }];
  drawSeries("confidence", confidence, "confidence", [0, 1]);
  drawLegend("confidence-legend", confidence);
  drawDrift(status.drift);
  drawLog(status.log);
  drawDevice(status.device);
  drawEvents(status.events);
}

/** Say plainly whether what is shown is the present. */
function drawState() {
  const [text, mood, notice] = situation();
  const pill = byId("state");
  pill.textContent = text;
  pill.className = `pill ${mood}`;
  const place = byId("notice");
  if (place.textContent !== notice) place.textContent = notice; // once for each change: screen readers read it out
  place.className = `notice ${mood}`;
  place.hidden = !notice;
  document.body.classList.toggle("old", lostSince !== null || !shown?.fresh);
}

function situation() {
  if (lostSince !== null) {
    return ["connection lost", "bad", `The server has not answered since ${clock(lostSince)}. What you see is from then; trying again.`];
  }
  if (!shown) return ["connecting", "", ""];
  const { status, obstacle, fresh } = shown;
  if (!status) return ["no loop", "bad", sentence(obstacle)];
  if (!obstacle) return [STATES[status.state], "ok", ""];
  if (!fresh && status.state !== "stopped") return ["stale", "bad", sentence(obstacle)];
  return [STATES[status.state] ?? status.state, status.state === "stopped" ? "bad" : "warn", sentence(obstacle)];
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");

/** Ask for the status; draw it where it changed. Throws where there is no answer. */
async function ask() {
  const headers = tag ? { "If-None-Match": tag } : {};
  const answer = await fetch("/status", { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (answer.status === 401) location.assign("/login");
  if (answer.status === 304) return;
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  shown = await answer.json();
  tag = answer.headers.get("ETag");
  try {
    draw();
  } catch (error) {
    reportError(error); // a fault of this page, not of the connection
  }
}

let timer = null; // of the next question; null while one is under way

async function watch() {
  timer = null;
  let wait = document.hidden ? HIDDEN_POLL_MS : POLL_MS;
  try {
    await ask();
    lostSince = null;
  } catch {
    lostSince ??= Date.now() / 1000;
    wait = RETRY_MS;
  }
  drawState();
  timer = setTimeout(watch, wait);
}

byId("overlay-on").addEventListener("change", () => {
  if (shown?.status) drawPictures(shown);
  arrangePictures();
});
byId("stage").addEventListener("change", (event) => {
  stage = event.target.value;
  draw();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || timer === null) return;
  clearTimeout(timer);
  watch();
});
new ResizeObserver(draw).observe(byId("main"));
watch();
