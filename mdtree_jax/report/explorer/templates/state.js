// Data, state, and what is derived from both. Texts reach the page as text nodes only.
const DATA = JSON.parse(document.getElementById("data").textContent);
const COLLECTIONS = DATA.collections;
const INK = "#18212b", SOFT = "#52606f", MARK = "#d5006d", FONT = "system-ui, sans-serif";
const CATEGORIES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a94a0", "#f0e442", "#000000"];
const BINS = 8;
const state = {
  x: "", y: "", colour: "m:test_error", question: "", boundaries: true,
  sliders: {}, filter: { a: "", b: "", limits: {} }, chosen: null, pointed: null, cursor: null,
};

function byId(id) { return document.getElementById(id); }

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child != null) node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

function fill(node, ...children) { node.replaceChildren(...children.flat().filter((c) => c != null)); }

function shown(value) {
  if (value == null) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

function signed(value) { return value == null ? "–" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2); }

function withUnit(text, unit) { return unit ? `${text} ${unit}` : text; }

function measured(c, name, row) {
  const about = c.measures.find((one) => one.name === name);
  const error = about.has_error ? c.columns[name + "_se"][row] : null;
  const value = shown(c.columns[name][row]);
  return withUnit(error == null ? value : `${value} ± ${shown(error)}`, about.unit);
}

function axisOf(c, name) { return c.axes.find((axis) => axis.name === name); }

function axisTitle(axis) { return axis.unit ? `${axis.label}, ${axis.unit}` : axis.label; }

function valueText(axis, place) {
  const value = axis.values[place];
  return axis.name === "data_fraction" ? `${shown(100 * value)} %` : shown(value);
}

function coordinate(axis, row) {
  const value = valueText(axis, axis.place[row]);
  return axis.name === "data_fraction" ? `${value} of the data` : `${axis.label} ${withUnit(value, axis.unit)}`;
}

function nameOf(c, row) { return c.axes.map((axis) => coordinate(axis, row)).join(", "); }

// The two axes that a collection is drawn over: the chosen ones where it has them, or else others of its own.
function planeOf(c) {
  const x = axisOf(c, state.x) || c.axes.find((axis) => axis.name !== state.y);
  const y = axisOf(c, state.y) || c.axes.find((axis) => axis !== x) || null;
  return { x, y: y === x ? null : y, points: x.continuous || Boolean(y && y.continuous) };
}

function slidersOf(c) {
  const plane = planeOf(c);
  return c.axes.filter((axis) => axis !== plane.x && axis !== plane.y && axis.values.length > 1);
}

// Positions of a slider: the values of the axis in all collections, or shares of a continuous axis' range of places.
function positions(name) {
  const axes = COLLECTIONS.map((c) => axisOf(c, name)).filter(Boolean);
  if (axes.some((axis) => axis.continuous)) return ["all", ...Array(BINS).keys()];
  const values = [...new Set(axes.flatMap((axis) => axis.values))];
  return axes[0].ordered ? values.sort((a, b) => a - b) : values;
}

function positionText(name, at) {
  const axis = COLLECTIONS.map((c) => axisOf(c, name)).find(Boolean), value = positions(name)[at];
  if (value === "all") return "all";
  if (axis.continuous) {
    const [low, high] = ends(axis, value);
    return `${shown(axis.values[low])} to ${shown(axis.values[high])}`;
  }
  return withUnit(name === "data_fraction" ? `${shown(100 * value)} %` : shown(value), axis.unit);
}

function ends(axis, bin) {
  const n = axis.values.length;
  return [Math.floor((bin * n) / BINS), Math.floor(((bin + 1) * n) / BINS) - 1];
}

function isInPlane(axis, row) {
  const value = positions(axis.name)[state.sliders[axis.name]];
  if (value === "all") return true;
  if (axis.continuous) {
    const [low, high] = ends(axis, value);
    return axis.place[row] >= low && axis.place[row] <= high;
  }
  return axis.place[row] === nearestPlace(axis, value);
}

function nearestPlace(axis, value) {
  if (!axis.ordered) return axis.values.indexOf(value);
  let best = 0;
  axis.values.forEach((one, place) => { if (Math.abs(one - value) < Math.abs(axis.values[best] - value)) best = place; });
  return best;
}

function rowsInPlane(c) {
  const rest = slidersOf(c), rows = [];
  for (let row = 0; row < c.size; row++) if (rest.every((axis) => isInPlane(axis, row))) rows.push(row);
  return rows;
}

function isKept(c, row) {
  return Object.entries(state.filter.limits).every(([name, [low, high]]) => {
    if (low == null && high == null) return true;
    const value = c.columns[name] ? c.columns[name][row] : null;
    return value != null && (low == null || value >= low) && (high == null || value <= high);
  });
}

// What colours a cell: {kind, title, unit, of(c) -> row -> value or class name, classes}.
function colouring() {
  const kind = state.colour[0], name = state.colour.slice(2);
  if (kind === "m") {
    const about = COLLECTIONS.flatMap((c) => c.measures).find((one) => one.name === name);
    return { kind, title: about.label, unit: about.unit, of: (c) => (row) => (c.columns[name] ? c.columns[name][row] : null),
      text: (c, row) => (c.columns[name] ? measured(c, name, row) : "not in this table") };
  }
  if (kind === "d") {
    const names = [...new Set(COLLECTIONS.flatMap((c) => (c.diagnosis ? c.diagnosis.texts.cause : [])))];
    const of = (c) => (row) => (c.diagnosis ? c.diagnosis.texts.cause[c.diagnosis.cause[row]] : null);
    return classes("diagnosis", names.map((one, i) => ({ words: one, colour: one === "cannot tell" ? "#c3cad1" : CATEGORIES[i % CATEGORIES.length] })), of);
  }
  const question = COLLECTIONS.flatMap((c) => c.questions).find((one) => one.name === name);
  const mine = (c) => c.questions.find((one) => one.name === name);
  if (kind === "l") {
    const of = (c) => (row) => { const q = mine(c); return q && q.label[row] >= 0 ? q.classes[q.label[row]].words : null; };
    return classes(`label: ${question.title}`, question.classes, of);
  }
  const of = (c) => (row) => {
    const q = mine(c), leaf = q && q.tree ? q.tree.leaf[row] : -1;
    return leaf < 0 ? null : q.classes[q.tree.leaves[leaf].class].words;
  };
  return classes(`answer of the tree: ${question.title}`, question.classes.slice(0, 2), of);
}

function classes(title, list, of) {
  const letters = {};
  list.forEach((one) => { letters[one.words] = (one.words.match(/[a-z]/gi) || ["?"]).map((l) => l.toUpperCase()).find((l) => !Object.values(letters).includes(l)) || "?"; });
  return { kind: "c", title, unit: "", of, names: list.map((one) => one.words), colours: list.map((one) => one.colour), letters,
    text: (c, row) => of(c)(row) || "unknown" };
}
