// One layout's ranks, drawn when it is opened. Names are set as text and never as markup.
{
  const data = JSON.parse(document.getElementById("rank-data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const DASH = "\u2013";

  const make = (parent, name, attributes = {}, text = null) => {
    const space = parent.namespaceURI === SVG || name === "svg" ? SVG : parent.namespaceURI;
    const made = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    parent.append(made);
    return made;
  };

  const number = (value) => (value === null ? DASH : String(Number(value.toPrecision(3))));
  const modulesOf = (layout, rank) =>
    layout.modules.map((module, index) => ({ index, name: module.name, at: module.at[rank - module.first] })).filter((each) => each.at !== undefined);

  const drawMap = (place, layout) => {
    const figure = make(place, "figure", { class: "rank-map" });
    make(figure, "figcaption", {}, "Which rank holds what");
    const list = make(figure, "ol", { class: "ranks" });
    list.style.setProperty("--columns", Math.min(layout.ranks, 8));
    for (let rank = 0; rank < layout.ranks; rank += 1) {
      const cell = make(list, "li", { title: layout.devices[rank] || "" });
      make(cell, "b", {}, String(rank));
      for (const module of modulesOf(layout, rank)) {
        make(cell, "span", { class: `module module${module.index % 4}` }, `${module.name} ${module.at}`.trim());
      }
    }
  };

  const key = (place, parts) => {
    const line = make(place, "p", { class: "note" });
    parts.forEach((part, index) => {
      make(line, "span", { class: `key part${part.look}` });
      line.append(` ${part.name}${index < parts.length - 1 ? " " : ""}`);
    });
  };

  // One bar a rank, all on one scale that begins at zero.
  const drawBars = (place, layout, title, unit, parts, limit) => {
    const figure = make(place, "figure", { class: "rank-bars" });
    make(figure, "figcaption", {}, title);
    key(figure, parts);
    const total = (rank) => parts.reduce((sum, part) => sum + (part.values[rank] || 0), 0);
    const ranks = Array.from({ length: layout.ranks }, (_, rank) => rank);
    const most = Math.max(limit || 0, ...ranks.map(total)) * 1.02 || 1;
    const [left, width, high] = [30, 560, layout.ranks > 16 ? 9 : 18];
    const bottom = layout.ranks * high + 4;
    const x = (value) => left + (value / most) * (width - left - 6);
    const chart = make(figure, "svg", { class: "chart", viewBox: `0 0 ${width} ${bottom + 20}`, role: "img", "aria-label": title });
    for (const tick of ticks(most)) {
      make(chart, "path", { class: "grid", d: `M${x(tick)} 0V${bottom}` });
      make(chart, "text", { class: "tick x", x: x(tick), y: bottom + 15 }, `${tick}`);
    }
    make(chart, "text", { class: "tick x", x: width - 14, y: bottom + 15 }, unit);
    const every = layout.ranks > 16 ? 8 : 1;
    for (const rank of ranks) {
      const y = rank * high + 2;
      if (rank % every === 0) make(chart, "text", { class: "tick y", x: left - 6, y: y + high / 2 - 0.5 }, String(rank));
      let from = 0;
      for (const part of parts) {
        const value = part.values[rank];
        if (!value) continue;
        const bar = make(chart, "rect", { class: `part${part.look}`, x: x(from), y, width: x(from + value) - x(from), height: high - 2 });
        make(bar, "title", {}, `rank ${rank}, ${part.name}: ${number(value)} ${unit}`);
        from += value;
      }
      if (!from) make(chart, "text", { class: "tick", x: left + 2, y: y + high / 2 + 3 }, DASH);
    }
    if (limit) {
      make(chart, "path", { class: "bound", d: `M${x(limit)} 0V${bottom}` });
      make(chart, "text", { class: "bound", x: x(limit) - 4, y: 12 }, `device ${number(limit)} ${unit}`);
    }
    drawTable(figure, layout, parts, unit);
  };

  const ticks = (most) => {
    const raw = most / 6;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
    return Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => Number((index * step).toPrecision(6)));
  };

  const drawTable = (place, layout, parts, unit) => {
    const details = make(place, "details", { class: "numbers" });
    make(details, "summary", {}, "as a table");
    const table = make(make(details, "div", { class: "scroll" }), "table");
    const head = make(make(table, "thead"), "tr");
    for (const said of ["rank", ...parts.map((part) => `${part.name}, ${unit}`)]) make(head, "th", { class: "number", scope: "col" }, said);
    const body = make(table, "tbody");
    for (let rank = 0; rank < layout.ranks; rank += 1) {
      const row = make(body, "tr");
      make(row, "th", { class: "number", scope: "row" }, String(rank));
      for (const part of parts) make(row, "td", { class: "number" }, number(part.values[rank]));
    }
  };

  const draw = (details) => {
    const place = details.querySelector(".drawn");
    if (!place || place.childElementCount) return;
    const layout = data.layouts[Number(place.dataset.layout)];
    drawMap(place, layout);
    if (layout.time) drawBars(place, layout, "Where a step goes, by rank", "ms", layout.time.parts, null);
    if (layout.memory) drawBars(place, layout, "Peak memory, by rank", "GiB", layout.memory.parts, layout.memory.limit);
  };

  const show = (hash) => {
    const wanted = document.getElementById(decodeURIComponent(hash.slice(1)));
    if (!(wanted instanceof HTMLDetailsElement)) return;
    wanted.open = true;
    wanted.querySelector("summary").focus();
  };

  // `toggle` does not bubble, but it can be caught on its way down.
  document.addEventListener("toggle", (event) => event.target.matches("details.layout[open]") && draw(event.target), true);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#layout-"]');
    if (link) show(link.getAttribute("href"));
  });
  window.addEventListener("hashchange", () => show(location.hash));
  show(location.hash);
}
