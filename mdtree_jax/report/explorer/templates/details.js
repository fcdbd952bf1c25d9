// A chosen configuration: diagnosis, answers of the trees, neighbours, room for improvement, learning curve, numbers.
function choose(c, row, go) {
  state.chosen = { c, row };
  panels.forEach((panel) => panel.view && outline(panel));
  lightTree();
  history.replaceState(null, "", "#" + address(c, row));
  drawDetails(c, row);
  if (go) byId("details").scrollIntoView({ block: "nearest" });
}

function address(c, row) {
  const parts = c.axes.map((axis) => `${encodeURIComponent(axis.name)}=${encodeURIComponent(axis.values[axis.place[row]])}`);
  return [...(COLLECTIONS.length > 1 ? ["collection=" + COLLECTIONS.indexOf(c)] : []), ...parts].join("&");
}

// Opens the configuration that the address names, the nearest value of each axis: how reports lead to a cell.
function openAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1)), c = COLLECTIONS[Number(wanted.get("collection") || 0)];
  if (!c || !c.axes.some((axis) => wanted.has(axis.name))) return;
  const places = c.axes.map((axis) => {
    if (!wanted.has(axis.name)) return null;
    const place = nearestPlace(axis, axis.ordered ? Number(wanted.get(axis.name)) : wanted.get(axis.name));
    return place < 0 ? null : place;
  });
  let best = -1, least = Infinity;
  for (let row = 0; row < c.size; row++) {
    const far = c.axes.reduce((sum, axis, i) => sum + (places[i] == null ? 0 : Math.abs(axis.place[row] - places[i])), 0);
    if (far < least) [best, least] = [row, far];
  }
  toPlane(c, best);
  drawSliders();
  drawPhase();
  choose(c, best, true);
}

function toPlane(c, row) {
  for (const axis of slidersOf(c)) {
    if (axis.continuous) state.sliders[axis.name] = 0;
    else state.sliders[axis.name] = positions(axis.name).indexOf(axis.values[axis.place[row]]);
  }
}

function goTo(c, row) {
  return el("button", { type: "button", class: "go", "aria-label": `open ${nameOf(c, row)}`, onclick: () => {
    toPlane(c, row);
    drawSliders();
    drawPhase();
    choose(c, row, false);
    byId("details").focus();
  } }, "open");
}

function gain(c, row, other) { return other < 0 ? null : c.columns.test_error[row] - c.columns.test_error[other]; }

function table(caption, head, rows) {
  const cell = (tag, text, i, scope) => el(tag, { class: i ? "n" : null, scope }, text);
  return el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, head.map((text, i) => cell("th", text, i, "col")))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((text, i) => cell(i ? "td" : "th", text, i, i ? null : "row"))))));
}

function wouldGain(c, row, move) {
  const one = gain(c, row, move.next[row]), most = gain(c, row, move.best[row]);
  if (one == null && most == null) return `${move.way}: no such configuration in this collection`;
  const target = axisOf(c, move.knob);
  const at = (place) => withUnit(valueText(target, target.place[place]), target.unit);
  const next = one == null ? "" : `the next value, ${at(move.next[row])}: ${signed(one)} points; `;
  return `${move.way}: ${next}the best, ${at(move.best[row])}: ${signed(most)} points`;
}

function diagnosisPart(c, row) {
  const d = c.diagnosis;
  if (!d) return [];
  const text = (kind) => d.texts[kind][d[kind][row]];
  const out = [el("h3", {}, "Diagnosis"), el("p", { class: "answer" }, text("answer"), ` (${Math.round(100 * d.probability[row])} %)`)];
  if (text("reason")) out.push(el("p", { class: "soft" }, text("reason")));
  out.push(el("p", {}, "Advice: ", text("advice")));
  if (d.gain[row]) out.push(el("p", { class: "soft" }, `Expected gain ${signed(d.gain[row][0])} points, from ${signed(d.gain[row][1])} to ${signed(d.gain[row][2])}.`));
  const move = c.neighbours.find((one) => one.knob === text("knob") && one.sign === d.sign[row]);
  out.push(el("p", {}, "What the advice would have gained: ", move ? wouldGain(c, row, move) + "." : "no neighbour in this collection shows it."));
  out.push(el("p", { class: "soft" }, `By the reference ${d.reference}.`));
  return out;
}

function questionPart(c, row) {
  return c.questions.flatMap((question) => {
    const leaf = question.tree ? question.tree.leaf[row] : -1;
    const label = question.label[row] >= 0 ? question.classes[question.label[row]].words : "unknown";
    if (leaf < 0) return [el("li", {}, `${question.sentence} Label: ${label}.`)];
    const answer = question.classes[question.tree.leaves[leaf].class];
    const moves = c.neighbours.filter((move) => answer.causes.includes(move.cause));
    return [el("li", {}, `${question.sentence} Tree: ${answer.words}; label: ${label}.`,
      el("ul", {}, moves.map((move) => el("li", { class: "soft" }, wouldGain(c, row, move)))))];
  });
}

function neighbourPart(c, row) {
  const rows = c.neighbours.filter((move) => move.next[row] >= 0).map((move) => {
    const other = move.next[row], axis = axisOf(c, move.knob);
    return [`${move.way}: ${valueText(axis, axis.place[other])}`, measured(c, "test_error", other), signed(gain(c, row, other)), goTo(c, other)];
  });
  return rows.length ? [table("Neighbours", ["step", "test error there", "gain, points", "open it"], rows)] : [];
}

function roomPart(c, row) {
  const rows = c.neighbours.filter((move) => move.cause && move.best[row] >= 0).map((move) => {
    const other = move.best[row], axis = axisOf(c, move.knob), room = Math.max(0, gain(c, row, other));
    return [move.way, room ? valueText(axis, axis.place[other]) : "none better", room.toFixed(2), room ? goTo(c, other) : ""];
  });
  return rows.length ? [table("Room for improvement", ["towards", "best at", "points", "open it"], rows)] : [];
}

function numberPart(c, row) {
  const known = c.measures.filter((one) => one.group !== "Room for improvement" && c.columns[one.name][row] != null);
  const rows = known.map((one) => [one.label, measured(c, one.name, row)]);
  const first = table("Numbers, ± standard error over the seeds", ["measurement", "value"], rows.slice(0, 14));
  if (rows.length <= 14) return [first];
  return [first, el("details", {}, el("summary", {}, `${rows.length - 14} more numbers`), table("More numbers", ["measurement", "value"], rows.slice(14)))];
}

async function drawCurve(node, c, row) {
  const values = [];
  for (const curve of c.curves[row]) for (const name of ["train_loss", "validation_loss", "validation_error"]) {
    (curve[name] || []).forEach((value, i) => { if (value != null) values.push({ epoch: curve.epoch[i], value, seed: curve.seed, name: name.replace("_", " ") }); });
  }
  const width = Math.max(200, Math.min(420, node.clientWidth - 90));
  const legend = { title: null, orient: "top", labelLimit: 200 };
  const part = (names, title) => ({ width, height: 140, transform: [{ filter: { field: "name", oneOf: names } }], mark: { type: "line", point: { size: 14 } }, encoding: {
    x: { field: "epoch", type: "quantitative" }, y: { field: "value", type: "quantitative", title, scale: { zero: false } }, detail: { field: "seed" },
    color: { field: "name", type: "nominal", scale: { domain: ["train loss", "validation loss", "validation error"], range: CATEGORIES.slice(0, 3) }, legend },
    strokeDash: { field: "name", type: "nominal", scale: { domain: ["train loss", "validation loss", "validation error"], range: [[1, 0], [6, 3], [2, 2]] }, legend } } });
  const has = (name) => values.some((one) => one.name === name);
  const rows = [];
  if (has("train loss") || has("validation loss")) rows.push(part(["train loss", "validation loss"], "loss (nats)"));
  if (has("validation error")) rows.push(part(["validation error"], "validation error (%)"));
  if (rows.length) await embed(node, { data: { values }, config: configuration(), description: "", background: "#fff", vconcat: rows }, "vega-lite");
}

function curveText(c, row) {
  const last = (name) => c.curves[row].map((curve) => (curve[name] ? curve[name][curve[name].length - 1] : null)).filter((value) => value != null);
  const mean = (list) => (list.length ? shown(list.reduce((a, b) => a + b) / list.length) : "–");
  return `${c.curves[row].length} networks; at the end training loss ${mean(last("train_loss"))}, validation loss ${mean(last("validation_loss"))}.`;
}

function drawDetails(c, row) {
  const curve = el("div", { class: "plot", tabindex: 0, role: "group", "aria-label": "Learning curve" });
  const hasCurve = c.curves && c.curves[row];
  const questions = questionPart(c, row);
  fill(byId("chosen"),
    el("p", {}, el("strong", {}, `${COLLECTIONS.length > 1 ? c.name + ": " : ""}${nameOf(c, row)}`), `: test error ${measured(c, "test_error", row)}`),
    el("div", { class: "columns" },
      el("div", {}, diagnosisPart(c, row), questions.length ? [el("h3", {}, "Questions, and what following the tree would have gained"), el("ul", {}, questions)] : null),
      el("div", {}, neighbourPart(c, row), roomPart(c, row), hasCurve ? [el("h3", {}, "Learning curve"), el("p", { class: "soft" }, curveText(c, row)), curve] : null),
      el("div", {}, numberPart(c, row))));
  if (hasCurve) drawCurve(curve, c, row);
}
