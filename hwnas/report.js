// Hover, zoom and pan of the figures; without it the page shows everything but values of single points.
// A plot's curves are stretched as a whole, its marks keep their size and are moved; the ticks are made anew for what is seen.
const numbers = text => text.split(" ").map(Number);

function ticks(low, high, from, to, apart) {
  const least = (high - low) * apart / Math.abs(to - from), power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(value => value >= least * (1 - 1e-9));
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), found = [];
  for (let k = Math.ceil(low / step); k <= Math.floor(high / step); k++)
    found.push([from + (k * step - low) / (high - low) * (to - from), (k * step).toFixed(decimals).replace("-", "\u2212")]);
  return found;
}

class Plot {
  constructor(svg) {
    this.svg = svg;
    this.axes = {x: numbers(svg.dataset.xAxis), y: numbers(svg.dataset.yAxis)};  // low, high, from, to
    this.stretched = svg.querySelector(".stretched");
    this.marks = [...svg.querySelectorAll("[data-x]")].map(element => {
      const title = element.querySelector("title");
      title.remove();
      return {element, x: Number(element.dataset.x), y: Number(element.dataset.y), text: title.textContent};
    });
    this.points = [...this.marks];
    for (const path of svg.querySelectorAll("path[data-texts]")) {
      const texts = path.dataset.texts.split("|"), places = [...path.getAttribute("d").matchAll(/M([-\d.]+) ([-\d.]+)/g)];
      places.forEach((place, i) => this.points.push({x: Number(place[1]), y: Number(place[2]), text: texts[i]}));
    }
    this.whole();
  }
  whole() { this.k = 1; this.move = {x: 0, y: 0}; this.draw(); }
  at(point) { return {x: this.k * point.x + this.move.x, y: this.k * point.y + this.move.y}; }
  zoom(factor, x, y) {
    const k = Math.min(Math.max(this.k * factor, 1), 64), [, , left, right] = this.axes.x, [, , bottom, top] = this.axes.y;
    const middle = {x: x ?? (left + right) / 2, y: y ?? (bottom + top) / 2};
    for (const axis of ["x", "y"]) this.move[axis] = middle[axis] - (middle[axis] - this.move[axis]) * k / this.k;
    this.k = k;
    this.draw();
  }
  pan(x, y) { this.move.x += x; this.move.y += y; this.draw(); }
  draw() {
    for (const axis of ["x", "y"]) {
      const [low, high, from, to] = this.axes[axis], ends = [from, to].sort((a, b) => a - b);
      this.move[axis] = Math.min(Math.max(this.move[axis], ends[1] * (1 - this.k)), ends[0] * (1 - this.k));
      if (this.k === 1 && !this.redrawn) continue;
      const value = px => low + ((px - this.move[axis]) / this.k - from) / (to - from) * (high - low);
      this.svg.querySelector(`.ticks-${axis}`).replaceChildren(...ticks(value(from), value(to), from, to, axis === "x" ? 80 : 44).flatMap(tick => this.tick(axis, ...tick)));
    }
    this.redrawn ||= this.k > 1;
    this.stretched.setAttribute("transform", `matrix(${this.k} 0 0 ${this.k} ${this.move.x} ${this.move.y})`);
    for (const mark of this.marks) {
      const {x, y} = this.at(mark);
      mark.element.setAttribute("transform", `translate(${x - mark.x} ${y - mark.y})`);
    }
    this.svg.classList.toggle("zoomed", this.k > 1);
    this.svg.dataset.zoom = this.k;
  }
  tick(axis, px, text) {
    const [, , left, right] = this.axes.x, [, , bottom, top] = this.axes.y;
    const make = (name, attributes) => {
      const made = document.createElementNS(this.svg.namespaceURI, name);
      for (const key in attributes) made.setAttribute(key, attributes[key]);
      return made;
    };
    const line = make("path", {class: "grid", d: axis === "x" ? `M${px} ${top}V${bottom}` : `M${left} ${px}H${right}`});
    const label = make("text", axis === "x" ? {x: px, y: bottom + 16, "text-anchor": "middle"} : {x: left - 7, y: px + 4, "text-anchor": "end"});
    label.textContent = text;
    return [line, label];
  }
  place(event) {
    const box = this.svg.getBoundingClientRect(), scale = box.width / this.svg.viewBox.baseVal.width;
    return {x: (event.clientX - box.left) / scale, y: (event.clientY - box.top) / scale, scale, box};
  }
  nearest(x, y) {
    let best = null, least = 24;
    for (const point of this.points) {
      const at = this.at(point), distance = Math.hypot(at.x - x, at.y - y) - (point.element ? 0.5 : 0);  // marks lie above points
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }
}

function showTip(figure, text, x, y) {
  const tip = figure.querySelector(".tip"), around = figure.getBoundingClientRect();
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = Math.max(0, Math.min(x - around.left - tip.offsetWidth / 2, around.width - tip.offsetWidth)) + "px";
  tip.style.top = y - around.top - tip.offsetHeight - 14 + "px";
}

function buttons(figure, actions) {
  const bar = document.createElement("div");
  bar.className = "zoom";
  for (const [text, label, act] of actions) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.setAttribute("aria-label", label);
    button.addEventListener("click", act);
    bar.append(button);
  }
  figure.prepend(bar);
}

for (const figure of document.querySelectorAll("figure.plotted")) {
  const plots = [...figure.querySelectorAll("svg.plot")].map(svg => new Plot(svg)), each = act => () => plots.forEach(act);
  buttons(figure, [["+", "zoom in", each(plot => plot.zoom(1.6))], ["\u2212", "zoom out", each(plot => plot.zoom(1 / 1.6))], ["whole", "the whole figure", each(plot => plot.whole())]]);
  for (const plot of plots) {
    let near = null, held = null;
    const point = found => {
      near?.element?.classList.remove("near");
      near = found;
      near?.element?.classList.add("near");
      const {box, scale} = plot.place({clientX: 0, clientY: 0}), at = near && plot.at(near);
      showTip(figure, near?.text, near && box.left + at.x * scale, near && box.top + at.y * scale);
    };
    plot.svg.addEventListener("pointermove", event => {
      const {x, y} = plot.place(event);
      if (held && plot.k > 1) plot.pan(x - held.x, y - held.y);
      if (held) held = {x, y};
      point(held && plot.k > 1 ? null : plot.nearest(x, y));
    });
    plot.svg.addEventListener("pointerdown", event => { held = plot.place(event); point(plot.nearest(held.x, held.y)); });
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) plot.svg.addEventListener(end, () => { held = null; });
    plot.svg.addEventListener("pointerleave", () => point(null));
    plot.svg.addEventListener("dblclick", event => { const {x, y} = plot.place(event); plot.zoom(2, x, y); });
    plot.svg.addEventListener("wheel", event => {
      if (!event.ctrlKey && !event.metaKey) return;  // a wheel alone moves the page
      event.preventDefault();
      const {x, y} = plot.place(event);
      plot.zoom(Math.exp(-event.deltaY / 200), x, y);
    }, {passive: false});
    plot.svg.addEventListener("keydown", event => {
      const act = {
        "+": () => plot.zoom(1.6), "=": () => plot.zoom(1.6), "-": () => plot.zoom(1 / 1.6), "0": () => plot.whole(), Escape: () => plot.whole(),
        ...(plot.k > 1 && {ArrowLeft: () => plot.pan(40, 0), ArrowRight: () => plot.pan(-40, 0), ArrowUp: () => plot.pan(0, 40), ArrowDown: () => plot.pan(0, -40)}),
      }[event.key];
      if (act && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); act(); }
    });
  }
}

for (const figure of document.querySelectorAll("figure.flame")) {
  const cells = [...figure.querySelectorAll("svg.cell")].map(element => {
    const title = element.querySelector("title"), text = title.textContent;
    title.remove();
    return {element, text, begin: parseFloat(element.getAttribute("x")), width: parseFloat(element.getAttribute("width"))};
  });
  const show = (begin, width) => {
    for (const cell of cells) {
      cell.element.setAttribute("x", 100 * (cell.begin - begin) / width + "%");
      cell.element.setAttribute("width", 100 * cell.width / width + "%");
    }
    figure.dataset.begin = begin;
    figure.dataset.width = width;
  };
  const of = event => cells.find(cell => cell.element === event.target.closest("svg.cell"));
  buttons(figure, [["whole", "the whole bar", () => show(0, 100)]]);
  figure.addEventListener("click", event => { const cell = of(event); if (cell) show(cell.begin, cell.width); });
  figure.addEventListener("pointermove", event => showTip(figure, of(event)?.text, event.clientX, event.clientY));
  figure.addEventListener("pointerleave", () => showTip(figure, ""));
}
