// What is read on demand: one feature's story, the table at an earlier moment, and the shadow.

import { Chart } from "./charts.js";
import { fill, find, number, percent, put, share, time, whole } from "./tables.js";

// The answer of the server, or an Error with its reason. A newer question to the same path makes an older one void.
const newest = {};
async function ask(path, parameters = {}) {
  newest[path]?.abort();
  const mine = (newest[path] = new AbortController());
  const answer = await fetch(`api/${path}?${new URLSearchParams(parameters)}`, { signal: mine.signal });
  const isJson = answer.headers.get("Content-Type")?.startsWith("application/json");
  if (!answer.ok) throw new Error(isJson ? (await answer.json()).error : await answer.text());
  return answer.json();
}

async function answered(status, work) {
  status.classList.remove("bad");
  put(status, "reading ...");
  try {
    put(status, await work());
  } catch (error) {
    if (error.name === "AbortError") return;
    put(status, error.message);
    status.classList.add("bad");
  }
}

// ---- one feature

const storyChart = new Chart(find("story-chart"), {
  title: "Score at each change to hot", series: [{ key: "score", label: "score" }], format: number, points: true });

export function tell(feature) {
  find("story-name").value = feature;
  find("story-found").hidden = true;
  return answered(find("story-answer"), async () => {
    const story = await ask("story", { feature });
    find("story-found").hidden = false;
    fill(find("story-events"), story.events.toReversed().map((one) => [
      time(one.time_ms), { tier: one.tier }, { number: one.row === null ? "-" : String(one.row) }, { number: number(one.score) },
      { number: String(one.epoch) }, { number: whole(one.seq) }, { number: whole(one.offset) }]));
    storyChart.draw(story.events.map((one) => one.time_ms), { score: story.events.map((one) => one.score) });
    const now = story.tier === "hot" ? `hot in row ${story.row}, with a score of ${number(story.score)} at its last change` : story.tier;
    const shown = story.events.length < story.num_events ? `, the last ${story.events.length} shown` : "";
    const counts = `${whole(story.num_events)} change${story.num_events === 1 ? "" : "s"}${shown}`;
    return `${story.feature} (key ${story.key}, shard ${story.shard}) is ${now}; ${counts}`;
  });
}

find("story-form").addEventListener("submit", (event) => {
  event.preventDefault();
  tell(find("story-name").value);
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("td button");
  if (button === null) return;
  find("story").scrollIntoView();
  find("story-name").focus({ preventScroll: true });
  tell(button.dataset.feature);
});

// ---- an earlier table

let span = null, due = 0;

function showMoment(at) {
  find("past-found").hidden = true;
  return answered(find("past-answer"), async () => {
    const then = await ask("moment", { at });
    find("past-found").hidden = false;
    fill(find("past-features"), then.features.map((one) => [
      { feature: one.feature }, { number: number(one.score) }, { number: String(one.row ?? "-") }, time(one.since_ms)]));
    fill(find("past-fields"), then.fields.map((one) => [
      one.field, { number: whole(one.hot) }, share(one, then)]));
    const offsets = Object.entries(then.offsets).map(([partition, offset]) => `${partition}:${offset}`).join(",");
    const name = /^\d+$/.test(at) ? `${time(Number(at))} UTC` : at;
    const verdict = then.verified ? ", equal to the agents' table then" : "";
    return `${name}: ${whole(then.hot)} hot features${verdict}; offsets ${offsets}`;
  });
}

async function slide() {
  try {
    span ??= await ask("span");
  } catch (error) {
    return answered(find("past-answer"), () => { throw error; });
  }
  if (span.times_ms === null) return put(find("past-answer"), "The topic has no change yet.");
  const [first, last] = span.times_ms;
  const moment = Math.round(first + ((last + 1 - first) * find("slider").value) / 1000);
  find("slider").setAttribute("aria-valuetext", `${time(moment)} UTC`);
  find("moment").value = time(moment).replace(" ", "T");
  clearTimeout(due);
  due = setTimeout(() => showMoment(String(moment)), 150); // while it moves, only its last stop is read
}

find("slider").addEventListener("pointerdown", () => { span = null; }); // the topic has grown meanwhile
find("slider").addEventListener("focus", () => { span = null; });
find("slider").addEventListener("input", slide);
find("past-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (find("moment").value.trim()) showMoment(find("moment").value.trim());
});

// ---- the shadow

find("compare").addEventListener("click", () => {
  find("compare-found").hidden = true;
  return answered(find("compare-answer"), async () => {
    const one = await ask("compare");
    find("compare-found").hidden = false;
    const pair = (name, values, format) => [name, ...values.map((value) => ({ number: format(value) }))];
    const both = (hot) => `${whole(one.in_both)} (${percent(hot ? one.in_both / hot : null)})`;
    fill(find("compared"), [
      pair("hot features", one.hot, whole),
      pair("of them in both", one.hot, both),
      pair("changes per million events", one.changes_per_million_events, number),
      pair("lookups served by hot features", one.lookups_served, percent),
    ]);
    const [running, shadow] = one.only_in_one;
    const none = [["none", { number: "-" }]];
    const rows = (features, name) => (features.length ? features.map((one) => [name(one), { number: number(one.score) }]) : none);
    fill(find("only-running"), rows(running, ({ feature }) => ({ feature })));
    fill(find("only-shadow"), rows(shadow, ({ feature }) => feature)); // of which this prefix has no story
    return `compared at ${time(Date.now())} UTC`;
  });
});
