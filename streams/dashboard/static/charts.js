// Line charts in SVG. A chart is a figure whose caption has the values at the pointer, or the latest ones.

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { left: 54, right: 10, top: 8, bottom: 20 };
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "UTC" });

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The range of the values, widened to at most four round ticks.
function ticksOf(values, fromZero) {
  let low = Math.min(...values), high = Math.max(...values);
  if (fromZero) low = Math.min(0, low);
  if (low === high) { const by = Math.abs(low) * 0.1 || 1; low = fromZero ? low : low - by; high += by; }
  const rough = (high - low) / 3, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((one) => one >= rough);
  const ticks = [];
  for (let tick = Math.floor(low / step) * step; tick < high + step * 0.999; tick += step) ticks.push(Number(tick.toPrecision(10)));
  return ticks;
}

export class Chart {
  // series: [{key, label}], at most three; format: a value as text; fromZero: whether 0 is in the range.
  constructor(parent, { title, series, format, fromZero = true, points = false }) {
    Object.assign(this, { title, series, format, fromZero, points, times: [], columns: {}, at: null });
    const figure = document.createElement("figure");
    this.caption = document.createElement("figcaption");
    this.svg = element("svg", { role: "img", tabindex: "0" });
    figure.append(this.caption, this.svg);
    parent.append(figure);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.move(null));
    this.svg.addEventListener("blur", () => this.move(null));
    this.svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.move(Math.max(0, Math.min(this.times.length - 1, (this.at ?? this.times.length - 1) + step)));
    });
  }

  draw(times, columns) {
    Object.assign(this, { times, columns });
    if (this.at !== null && this.at >= times.length) this.at = null;
    this.redraw();
  }

  move(at) { this.at = at; this.redraw(); }

  point(event) {
    if (!this.scale) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    let nearest = 0;
    this.times.forEach((time, index) => {
      if (Math.abs(this.scale.x(time) - x) < Math.abs(this.scale.x(this.times[nearest]) - x)) nearest = index;
    });
    this.move(nearest);
  }

  column(key) { return this.columns[key] ?? []; }

  redraw() {
    const known = this.series.filter(({ key }) => this.column(key).some((value) => value !== null && value !== undefined));
    this.describe(known);
    this.svg.replaceChildren();
    const values = known.flatMap(({ key }) => this.column(key).filter((value) => value !== null && value !== undefined));
    this.scale = null;
    if (!values.length) return;
    const width = this.svg.clientWidth || 400, height = this.svg.clientHeight || 144;
    const ticks = ticksOf(values, this.fromZero), [low, high] = [ticks[0], ticks.at(-1)];
    const [begin, end] = [this.times[0], this.times.at(-1)], span = Math.max(1, end - begin);
    const x = (time) => EDGE.left + ((time - begin) / span) * (width - EDGE.left - EDGE.right);
    const y = (value) => height - EDGE.bottom - ((value - low) / (high - low)) * (height - EDGE.top - EDGE.bottom);
    this.scale = { x, y };
    for (const tick of ticks) {
      this.svg.append(
        element("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick) }),
        element("text", { x: EDGE.left - 5, y: y(tick) + 4, "text-anchor": "end" }, this.format(tick)),
      );
    }
    this.svg.append(element("text", { x: EDGE.left, y: height - 5 }, clock.format(begin)));
    if (end > begin) this.svg.append(element("text", { x: width - EDGE.right, y: height - 5, "text-anchor": "end" }, clock.format(end)));
    this.series.forEach(({ key }, index) => this.drawSeries(this.column(key), index));
    if (this.at !== null) {
      const at = x(this.times[this.at]);
      this.svg.append(element("line", { class: "cursor", x1: at, x2: at, y1: EDGE.top, y2: height - EDGE.bottom }));
    }
  }

  drawSeries(column, index) {
    const { x, y } = this.scale;
    let path = "", isOpen = false;
    this.times.forEach((time, position) => {
      const value = column[position];
      if (value === null || value === undefined) { isOpen = false; return; }
      path += `${isOpen ? "L" : "M"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
      isOpen = true;
      if (this.points) this.svg.append(element("circle", { class: `series${index}`, cx: x(time), cy: y(value), r: 3 }));
    });
    this.svg.append(element("path", { class: `series${index}`, d: path }));
  }

  describe(known) {
    const at = this.at ?? this.times.length - 1, title = document.createElement("b");
    title.textContent = this.at === null ? this.title : `${this.title}, ${clock.format(this.times[at])}`;
    const parts = known.map(({ key, label }) => {
      const part = document.createElement("span"), value = this.column(key)[at];
      part.className = `series${this.series.findIndex((one) => one.key === key)}`;
      part.textContent = `${label} ${value === null || value === undefined ? "-" : this.format(value)}`;
      return part;
    });
    const texts = parts.map((part) => part.textContent);
    if (!parts.length) {
      const none = document.createElement("i");
      none.textContent = "nothing reported yet";
      parts.push(none);
    }
    this.caption.replaceChildren(title, ...parts);
    this.svg.setAttribute("aria-label", `Chart: ${title.textContent}; ${texts.join(", ") || "nothing reported yet"}`);
  }
}
