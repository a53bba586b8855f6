// Numbers as text, and tables whose cells are changed only where they differ, so that focus and scroll position stay.
// Names come from topics: they reach the page as text only (textContent), never as markup.

const UNITS = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];

export function number(value) {
  if (value === null || value === undefined) return "-";
  for (const [size, unit] of UNITS) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
  }
  return String(Number(Number(value).toPrecision(3)));
}

export const whole = (value) => (value === null || value === undefined ? "-" : value.toLocaleString("en"));
export const percent = (value) => (value === null || value === undefined ? "-" : `${(100 * value).toFixed(1)}\u00a0%`);
export const time = (timeMs) => new Date(timeMs).toISOString().replace("T", " ").slice(0, 19);
export const milliseconds = (value) =>
  value === null || value === undefined ? "-" : value < 1000 ? `${Math.round(value)} ms` : `${number(value / 1000)} s`;

export function age(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "m"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)}${unit}`;
  }
  return `${Math.floor(seconds)}s`;
}

export const find = (id) => document.getElementById(id);

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// The share of a field, drawn beside that of the field with most.
export function share(field, { fields, hot }) {
  const part = (one) => one.hot / Math.max(1, hot);
  return { share: part(field), of: Math.max(...fields.map(part)) || 1, name: field.field };
}

// A cell is a text, {number: text}, {feature: name} (a button that opens its story), {tier: name} or {share, of, name}.
export function fill(table, rows) {
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, index) => {
    const row = body.rows[index] ?? body.insertRow();
    cells.forEach((cell, column) => fillCell(row.cells[column] ?? row.insertCell(), cell));
  });
}

function fillCell(td, cell) {
  if (typeof cell === "string") {
    td.className = "";
    put(td, cell);
  } else if ("number" in cell) {
    td.className = "number";
    put(td, cell.number);
  } else if ("tier" in cell) {
    td.className = cell.tier === "hot" ? "hot" : "cold";
    put(td, cell.tier);
  } else if ("feature" in cell) {
    put(child(td, "button"), cell.feature);
    td.firstChild.type = "button";
    td.firstChild.dataset.feature = cell.feature;
  } else {
    const meter = child(td, "meter");
    meter.max = cell.of;
    meter.value = cell.share;
    meter.setAttribute("aria-label", `share of ${cell.name}`);
    meter.title = percent(cell.share);
  }
}

function child(td, name) {
  if (td.firstElementChild === null) td.append(document.createElement(name));
  return td.firstElementChild;
}
