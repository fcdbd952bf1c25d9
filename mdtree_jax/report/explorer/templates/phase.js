// The phase plots: one panel per collection, with one scale of colours for all of them.
const panels = [];
let drawing = 0;

function domainOf(colour) {
  let values = COLLECTIONS.flatMap((c) => { const of = colour.of(c); return Array.from({ length: c.size }, (_, row) => of(row)); });
  values = values.filter((value) => value != null).sort((a, b) => a - b);
  if (!values.length) return [0, 1];
  const at = (share) => values[Math.round(share * (values.length - 1))];
  const low = at(0.01), high = at(0.99);
  return low < high ? [low, high] : [low - 0.5, low + 0.5];
}

function cellsOf(c, colour) {
  const plane = planeOf(c), of = colour.of(c);
  return rowsInPlane(c).map((row) => {
    const value = of(row);
    const cell = { row, v: value, letter: colour.letters && value != null ? colour.letters[value] : "", o: isKept(c, row) ? 1 : 0.12 };
    cell.x = place(plane.x, row, plane.points);
    cell.y = plane.y ? place(plane.y, row, plane.points) : 0;
    return cell;
  });
}

function place(axis, row, points) { return points && axis.continuous ? axis.values[axis.place[row]] : axis.place[row]; }

// Edges between adjacent cells that reach different leaves of the question's tree: the boundaries of its regimes.
function edgesOf(c, cells) {
  const question = c.questions.find((one) => one.name === state.question);
  if (!state.boundaries || !question || !question.tree || planeOf(c).points) return [];
  const leaf = question.tree.leaf, at = new Map(cells.map((cell) => [cell.x + "," + cell.y, leaf[cell.row]])), edges = [];
  for (const cell of cells) {
    const mine = leaf[cell.row];
    const right = at.get(cell.x + 1 + "," + cell.y), above = at.get(cell.x + "," + (cell.y + 1));
    if (right !== undefined && right !== mine) edges.push({ x: cell.x + 1, x2: cell.x + 1, y: cell.y, y2: cell.y + 1 });
    if (above !== undefined && above !== mine) edges.push({ x: cell.x, x2: cell.x + 1, y: cell.y + 1, y2: cell.y + 1 });
  }
  return edges;
}

function axisScale(name, range, axis, points) {
  if (!points || !axis || !axis.continuous) return { name, type: "linear", domain: [0, axis ? axis.values.length : 1], range, nice: false, zero: false };
  const low = axis.values[0], high = axis.values[axis.values.length - 1];
  return { name, type: low > 0 && high / low > 30 ? "log" : "linear", domain: [low, high], range, nice: true, zero: false };
}

function axisLines(scale, orient, axis, points) {
  if (!axis) return [];
  const common = { scale, orient, title: axisTitle(axis), domain: false };
  if (points && axis.continuous) return [{ ...common, tickCount: 6 }];
  const names = axis.values.map((_, i) => valueText(axis, i));
  return [{ ...common, ticks: false, values: names.map((_, i) => i + 0.5), labelOverlap: "greedy", labelAngle: orient === "bottom" && names.length > 8 ? -60 : 0,
    labelAlign: orient === "bottom" && names.length > 8 ? "right" : orient === "bottom" ? "center" : "right",
    encode: { labels: { update: { text: { signal: `${JSON.stringify(names)}[floor(datum.value)]` } } } } }];
}

function phaseSpec(c, colour, width) {
  const plane = planeOf(c), cells = cellsOf(c, colour), isClass = colour.kind === "c";
  const at = (field) => ({ scale: field, field });
  const ordinalShift = (axis, name) => (plane.points && axis && !axis.continuous ? { signal: `scale('${name}', datum.${name} + 0.5)` } : { scale: name, field: name });
  const paint = [{ test: "datum.v == null", value: "#fff" }, { scale: "c", field: "v" }];
  const cellMark = plane.points
    ? { type: "symbol", encode: { update: { x: ordinalShift(plane.x, "x"), y: ordinalShift(plane.y, "y"), size: { value: c.size > 3000 ? 14 : 46 }, fill: paint, opacity: { field: "o" }, stroke: { value: "#0003" } } } }
    : { type: "rect", encode: { update: { x: at("x"), x2: { signal: "scale('x', datum.x + 1)" }, y: at("y"), y2: { signal: "scale('y', datum.y + 1)" },
      fill: paint, fillOpacity: { field: "o" }, stroke: { value: "#ffffff" }, strokeWidth: { value: 0.7 } } } };
  const legend = isClass ? { fill: "c", title: colour.title, orient: "bottom", columns: width < 420 ? 1 : 2, symbolType: "square", labelLimit: 340,
    encode: { labels: { update: { text: { signal: `${JSON.stringify(colour.letters)}[datum.label] + '  ' + datum.label` } } } } }
    : { fill: "c", title: withUnit(colour.title, colour.unit && `(${colour.unit})`), orient: "bottom", direction: "horizontal", gradientLength: Math.min(260, width), titleLimit: width, format: ".4~g" };
  return {
    width, height: Math.min(width, plane.y ? 400 : 60), padding: 4, background: "#fff", description: "",
    autosize: { type: "pad" },
    config: configuration(),
    data: [{ name: "cells", values: cells }, { name: "edges", values: edgesOf(c, cells) }, { name: "outlines", values: [] }],
    scales: [axisScale("x", "width", plane.x, plane.points), axisScale("y", "height", plane.y, plane.points),
      isClass ? { name: "c", type: "ordinal", domain: colour.names, range: colour.colours }
        : { name: "c", type: "linear", domain: domainOf(colour), range: { scheme: "viridis" }, clamp: true, zero: false, nice: false }],
    axes: [...axisLines("x", "bottom", plane.x, plane.points), ...axisLines("y", "left", plane.y, plane.points)],
    legends: [legend],
    marks: [
      { from: { data: "cells" }, ...cellMark },
      ...(isClass && !plane.points ? [{ type: "text", interactive: false, from: { data: "cells" }, encode: { update: {
        x: { signal: "scale('x', datum.x + 0.5)" }, y: { signal: "scale('y', datum.y + 0.5)" }, text: { field: "letter" }, align: { value: "center" },
        baseline: { value: "middle" }, fill: { value: "#fff" }, fontWeight: { value: 600 }, fontSize: { value: 11 }, opacity: { field: "o" } } } }] : []),
      { type: "rule", interactive: false, from: { data: "edges" }, encode: { update: { x: at("x"), x2: { scale: "x", field: "x2" }, y: at("y"), y2: { scale: "y", field: "y2" },
        stroke: { value: "#fff" }, strokeWidth: { value: 5 }, strokeCap: { value: "square" } } } },
      { type: "rule", interactive: false, from: { data: "edges" }, encode: { update: { x: at("x"), x2: { scale: "x", field: "x2" }, y: at("y"), y2: { scale: "y", field: "y2" },
        stroke: { value: "#000" }, strokeWidth: { value: 2.4 }, strokeCap: { value: "square" } } } },
      plane.points
        ? { type: "symbol", interactive: false, from: { data: "outlines" }, encode: { update: { x: ordinalShift(plane.x, "x"), y: ordinalShift(plane.y, "y"), size: { value: 170 },
          fill: { value: "transparent" }, stroke: { field: "stroke" }, strokeWidth: { value: 3 } } } }
        : { type: "rect", interactive: false, from: { data: "outlines" }, encode: { update: { x: at("x"), x2: { signal: "scale('x', datum.x + 1)" }, y: at("y"), y2: { signal: "scale('y', datum.y + 1)" },
          fill: { value: "transparent" }, stroke: { field: "stroke" }, strokeWidth: { value: 3.5 } } } },
    ],
  };
}

function configuration() {
  const text = { labelColor: INK, titleColor: INK, labelFont: FONT, titleFont: FONT, labelFontSize: 12, titleFontSize: 12.5, titleFontWeight: 500 };
  return { aria: false, axis: text, legend: text, view: { stroke: null }, font: FONT };
}

// Expressions are interpreted (`ast`), since the page allows no eval. The node has the description of its drawing.
async function embed(node, spec, mode, renderer) {
  const inner = el("div", {}), found = await vegaEmbed(inner, spec, { mode, ast: true, actions: false, renderer: renderer || "svg", tooltip: false, logLevel: 1 });
  for (const name of ["role", "aria-label", "aria-roledescription"]) inner.removeAttribute(name);
  inner.setAttribute("aria-hidden", "true");
  node.replaceChildren(inner);
  return found;
}

async function drawPhase() {
  const turn = ++drawing, colour = colouring();
  for (const panel of panels) {
    const width = Math.max(220, Math.min(560, panel.plot.clientWidth - 74));
    const found = await embed(panel.plot, phaseSpec(panel.c, colour, width), "vega", panel.c.size > 3000 && planeOf(panel.c).points ? "canvas" : "svg");
    if (turn !== drawing) return;
    if (panel.view) panel.view.finalize();
    panel.view = found.view;
    panel.colour = colour;
    panel.view.addEventListener("pointermove", (event, item) => point(panel, item && item.datum && item.datum.row));
    panel.view.addEventListener("pointerout", () => point(panel, undefined));
    panel.view.addEventListener("click", (event, item) => { if (item && item.datum && item.datum.row !== undefined) choose(panel.c, item.datum.row, true); });
    panel.plot.setAttribute("aria-label", `Phase plot of ${panel.c.name}: ${colour.title} over ${axesText(panel.c)}. Arrow keys move, Enter opens.`);
    outline(panel);
  }
  drawPlaneTable(colour);
  document.body.dataset.drawn = String(drawing);
}

function axesText(c) {
  const plane = planeOf(c);
  return plane.y ? `${plane.x.label} and ${plane.y.label}` : plane.x.label;
}

function outline(panel) {
  const cells = new Map(panel.view.data("cells").map((cell) => [cell.row, cell])), outlines = [];
  const add = (row, stroke) => { const cell = cells.get(row); if (cell) outlines.push({ x: cell.x, y: cell.y, stroke }); };
  if (state.chosen && state.chosen.c === panel.c) add(state.chosen.row, MARK);
  if (state.pointed && state.pointed.c === panel.c) add(state.pointed.row, "#000");
  panel.view.data("outlines", outlines).run();
}

function point(panel, row) {
  const before = state.pointed;
  if (row === undefined) {
    if (!before || before.c !== panel.c) return;
    state.pointed = null;
  } else {
    if (before && before.c === panel.c && before.row === row) return;
    state.pointed = { c: panel.c, row };
    byId("reading").textContent = reading(panel, row);
  }
  panels.forEach((one) => one.view && outline(one));
  lightTree();
}

function reading(panel, row) {
  const c = panel.c, colour = panel.colour, parts = [`${COLLECTIONS.length > 1 ? c.name + ": " : ""}${nameOf(c, row)}`, `${colour.title} ${colour.text(c, row)}`];
  if (state.colour !== "m:test_error") parts.push(`test error ${measured(c, "test_error", row)}`);
  const question = c.questions.find((one) => one.name === state.question);
  if (question && question.tree && question.tree.leaf[row] >= 0) {
    const answer = question.classes[question.tree.leaves[question.tree.leaf[row]].class].words;
    const label = question.label[row] >= 0 ? question.classes[question.label[row]].words : "unknown";
    parts.push(`${question.title}: tree ${answer}, label ${label}`);
  }
  return parts.join(" · ");
}

function moveBy(panel, dx, dy) {
  const cells = panel.view.data("cells");
  if (!cells.length) return;
  const now = state.pointed && state.pointed.c === panel.c && cells.find((cell) => cell.row === state.pointed.row);
  if (!now) return point(panel, cells[0].row);
  const ahead = (cell) => (dx ? (cell.x - now.x) * dx : (cell.y - now.y) * dy);
  const aside = (cell) => Math.abs(dx ? cell.y - now.y : cell.x - now.x);
  const found = cells.filter((cell) => ahead(cell) > 0).sort((a, b) => aside(a) - aside(b) || ahead(a) - ahead(b))[0];
  if (found) point(panel, found.row);
}

function onKey(panel) {
  return (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (step) moveBy(panel, ...step);
    else if (event.key === "Enter" || event.key === " ") { if (state.pointed && state.pointed.c === panel.c) choose(panel.c, state.pointed.row, true); }
    else return;
    event.preventDefault();
  };
}

function makePanels() {
  for (const c of COLLECTIONS) {
    const panel = { c, plot: el("div", { class: "plot", tabindex: 0, role: "application", "aria-describedby": "keys", "aria-label": `Phase plot of ${c.name}` }) };
    panel.plot.addEventListener("keydown", onKey(panel));
    panels.push(panel);
    byId("phase").append(el("div", { class: "panel" }, el("h3", {}, c.name), panel.plot));
  }
}

function drawPlaneTable(colour) {
  if (!byId("as-table").open) return;
  fill(byId("plane-table"), COLLECTIONS.map((c) => {
    const plane = planeOf(c), cells = new Map(cellsOf(c, colour).map((cell) => [cell.x + "," + cell.y, cell.row]));
    if (plane.points || !plane.y) return el("p", {}, `${c.name}: this plane has no table.`);
    const caption = `${c.name}: ${colour.title}${colour.unit ? ", " + colour.unit : ""}; rows ${axisTitle(plane.y)}, columns ${axisTitle(plane.x)}`;
    const head = el("tr", {}, el("th", { scope: "col" }, plane.y.label), plane.x.values.map((_, i) => el("th", { scope: "col", class: "n" }, valueText(plane.x, i))));
    const of = colour.of(c);
    const rows = plane.y.values.map((_, j) => el("tr", {}, el("th", { scope: "row" }, valueText(plane.y, j)), plane.x.values.map((_, i) => {
      const row = cells.get(i + "," + j);
      return el("td", { class: "n" }, row === undefined ? "" : shown(of(row)));
    }))).reverse();
    return el("table", {}, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, rows));
  }));
}
