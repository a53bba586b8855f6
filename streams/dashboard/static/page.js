// The live part: one EventSource, tiles, tables and the charts of the history.

import { Chart } from "./charts.js";
import { age, fill, find, milliseconds, number, percent, put, share, whole } from "./tables.js";

const MOST_SAMPLES = 2400;
const state = { view: null, isPaused: false, times: [], columns: {}, loads: 0 };

const charts = {
  hot: { title: "Hot-set size", series: [["hot", "hot"], ["capacity", "capacity"]], format: number },
  churn: { title: "Changes in the last minute", series: [["churn", "changes"]], format: number },
  auc: { title: "AUC of the latest window", series: [], prefix: "auc ", format: (value) => value.toFixed(4), fromZero: false },
  loss: { title: "Log loss of all rows", series: [], prefix: "loss ", format: (value) => value.toFixed(4), fromZero: false },
  change: { title: "Latency, click to change, last minute", series: [["change_p50", "p50"], ["change_p99", "p99"]], format: milliseconds },
  trainer: { title: "Latency, change to trainer, whole run", series: [["trainer_p50", "p50"], ["trainer_p99", "p99"]], format: milliseconds },
  lag: { title: "Records behind", series: [["importance_lag", "agents"], ["click_lag", "trainer"]], format: number },
  served: { title: "Lookups served by unique rows, recall", series: [["unique_share", "lookups"], ["recall", "recall, estimated"]], format: percent },
  rates: { title: "Rates a second", series: [["events_per_s", "agents, events"], ["rows_per_s", "trainer, rows"]], format: number },
};
for (const one of Object.values(charts)) {
  const series = one.series.map(([key, label]) => ({ key, label }));
  one.chart = new Chart(find("charts"), { ...one, series });
}

function drawCharts() {
  for (const one of Object.values(charts)) {
    if (one.prefix) { // the learners, the adaptive embedding first
      const keys = Object.keys(state.columns).filter((key) => key.startsWith(one.prefix)).sort().slice(0, 3);
      one.chart.series = keys.map((key) => ({ key, label: key.slice(one.prefix.length) }));
    }
    one.chart.draw(state.times, state.columns);
  }
}

async function loadHistory() {
  const load = ++state.loads, answer = await fetch("api/history");
  if (!answer.ok || load !== state.loads) return;
  const { time_ms: times = [], ...columns } = await answer.json();
  Object.assign(state, { times, columns });
  if (!state.isPaused) drawCharts();
}

function addSample(view) {
  if (view.sample === null) return; // only a part of the topic was read
  if (state.times.length && view.time_ms <= state.times.at(-1)) return; // the history has it already
  for (const key of Object.keys(view.sample)) state.columns[key] ??= Array(state.times.length).fill(null);
  state.times.push(view.time_ms);
  for (const [key, column] of Object.entries(state.columns)) column.push(view.sample[key] ?? null);
  if (state.times.length > MOST_SAMPLES) loadHistory();
}

function isFound(name) { return name.toLowerCase().includes(find("filter").value.trim().toLowerCase()); }

function drawTiles(view) {
  put(find("hot"), whole(view.hot));
  const verdict = { true: "equal to the agents' table", false: "DIFFERS from the agents' table" }[view.verified] ?? "not compared yet";
  const recall = view.recall === null ? "" : `recall about ${percent(view.recall)}; `;
  put(find("hot-note"), (view.capacity === null ? "" : `of ${whole(view.capacity)} rows; `) + recall + verdict);
  find("hot-note").classList.toggle("bad", view.verified === false);
  put(find("churn"), whole(view.churn_per_min));
  put(find("churn-note"), `${whole(view.promotions)} promoted, ${whole(view.demotions)} demoted since the start`);
  const silent = view.shards.filter((shard) => shard.silent_s !== null).length;
  const lag = view.shards.reduce((sum, shard) => sum + shard.lag, 0);
  put(find("events"), view.shards.length ? number(view.shards.reduce((sum, shard) => sum + (shard.events_per_s ?? 0), 0)) : "-");
  const shards = `${view.shards.length} shard${view.shards.length === 1 ? "" : "s"}, ${whole(lag)} behind`;
  put(find("events-note"), view.shards.length ? shards + (silent ? `, ${silent} silent` : "") : "no report yet: start hotstream agent");
  find("events-note").classList.toggle("bad", silent > 0);
  drawTrainer(view.trainer);
  put(find("latency"), view.latency_ms === null ? "-" : milliseconds(view.latency_ms[0]));
  put(find("latency-note"), view.latency_ms === null ? "no change in the last minute" : `p50; p99 ${milliseconds(view.latency_ms[1])}, last minute`);
}

function drawTrainer(trainer) {
  const isSilent = trainer !== null && trainer.silent_s !== null;
  put(find("rows"), trainer === null ? "-" : number(isSilent ? 0 : trainer.rows_per_s));
  put(find("rows-note"), trainer === null ? "no report yet: start hotstream train"
    : isSilent ? `silent for ${age(trainer.silent_s)}` : `${whole(trainer.rows)} rows, ${whole(trainer.lag_records)} records behind`);
  find("rows-note").classList.toggle("bad", isSilent);
  put(find("served"), percent(trainer?.unique_share));
  const isWindow = Object.values(trainer?.window_auc ?? {}).some((value) => value !== null);
  drawScores("auc", isWindow ? trainer.window_auc : trainer?.auc);
  drawScores("loss", trainer?.log_loss);
}

// The adaptive embedding's figure, and under it those of the others.
function drawScores(id, figures) {
  const scores = Object.entries(figures ?? {}).filter(([, value]) => value !== null);
  put(find(id), scores.length ? scores[0][1].toFixed(4) : "-");
  const others = scores.slice(1).map(([name, value]) => `${name} ${value.toFixed(4)}`).join(", ");
  put(find(`${id}-note`), scores.length ? `${scores[0][0]}${others ? `; ${others}` : ""}` : "");
}

function drawTables(view) {
  const row = (value) => ({ number: value === null ? "-" : String(value) });
  fill(find("features"), view.features.filter((one) => isFound(one.feature)).map((one) => [
    { feature: one.feature }, { number: number(one.score) }, row(one.row), { number: age(one.age_s) }, row(one.shard)]));
  fill(find("changes"), view.changes.filter((one) => isFound(one.feature)).map((one) => [
    { number: age(one.age_s) }, { tier: one.tier }, { feature: one.feature }, row(one.row), { number: number(one.score) }]));
  fill(find("fields"), view.fields.map((one) => [
    one.field, { number: whole(one.hot) }, share(one, view),
    { number: whole(one.promotions) }, { number: whole(one.demotions) }]));
  fill(find("shards"), view.shards.map((one) => [
    row(one.shard), { number: whole(one.hot) }, { number: number(one.events_per_s) }, { number: whole(one.lag) },
    row(one.epoch), { number: whole(one.seq) },
    one.silent_s !== null ? `silent for ${age(one.silent_s)}` : one.is_verified ? "equal" : "not compared yet"]));
  const names = find("story-names"), options = view.features.slice(0, 30).map((one) => one.feature);
  if (document.activeElement?.id !== "story-name") names.replaceChildren(...options.map((name) => new Option(name, name)));
}

function draw() {
  if (state.view === null || state.isPaused) return;
  drawTiles(state.view);
  drawTables(state.view);
  drawCharts();
}

function show(text, isBad) {
  put(find("state"), state.isPaused ? "paused" : text);
  find("state").classList.toggle("bad", isBad && !state.isPaused);
}

function pause() {
  state.isPaused = !state.isPaused;
  find("pause").setAttribute("aria-pressed", String(state.isPaused));
  show(state.isPaused ? "paused" : "live", false);
  draw();
}

const source = new EventSource("events");
source.addEventListener("open", loadHistory);
source.addEventListener("view", (event) => {
  state.view = JSON.parse(event.data);
  addSample(state.view);
  show(state.view.sample === null ? "reading the topic ..." : "live", false);
  draw();
});
source.addEventListener("waits", (event) => show(JSON.parse(event.data).reason, true));
source.addEventListener("error", () => show("this page's server does not answer; trying again", true));

find("pause").addEventListener("click", pause);
find("filter").addEventListener("input", draw);
addEventListener("resize", drawCharts);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, button, svg")) return;
  if (event.key === " " && !event.target.closest(".scroll")) { event.preventDefault(); pause(); }
  if (event.key === "/") { event.preventDefault(); find("filter").focus(); }
});

const config = await (await fetch("api/config")).json();
put(find("where"), `${config.prefix} at ${config.servers}`);
document.title = `hotstream ${config.prefix}`;
if (config.shadow !== null) {
  put(find("shadow-name"), config.shadow);
  find("shadow").hidden = find("to-shadow").hidden = false;
}
