// Rows filtered by two measurements: a brush over their scatter plot, or limits typed in.
let scatter = null;

function filterChoices() {
  return [...grouped()].map(([group, list]) => [group, list]);
}

function drawFilter() {
  const set = (which) => (value) => {
    delete state.filter.limits[state.filter[which]];
    state.filter[which] = value;
    drawFilter();
    refilter();
    byId("filter-" + which).focus();
  };
  const limit = (which, side, text) => {
    const id = `limit-${which}-${side}`;
    const input = el("input", { type: "number", step: "any", id, onchange: (event) => {
      const name = state.filter[which], limits = state.filter.limits[name] || [null, null];
      limits[side] = event.target.value === "" ? null : Number(event.target.value);
      state.filter.limits[name] = limits;
      refilter();
    } });
    return el("div", { class: "control" }, el("label", { for: id }, text), input);
  };
  fill(byId("filter-controls"),
    choice("filter-a", "Across", filterChoices(), state.filter.a, set("a")), limit("a", 0, "at least (across)"), limit("a", 1, "at most (across)"),
    choice("filter-b", "Upwards", filterChoices(), state.filter.b, set("b")), limit("b", 0, "at least (upwards)"), limit("b", 1, "at most (upwards)"),
    el("div", { class: "control check" }, el("button", { type: "button", id: "clear", onclick: clearFilter }, "Clear the filter")));
  showLimits();
  drawScatter();
}

function showLimits() {
  for (const which of ["a", "b"]) for (const side of [0, 1]) {
    const limits = state.filter.limits[state.filter[which]];
    byId(`limit-${which}-${side}`).value = limits && limits[side] != null ? limits[side] : "";
  }
}

function clearFilter() {
  state.filter.limits = {};
  showLimits();
  drawScatter();
  refilter();
}

async function drawScatter() {
  const { a, b } = state.filter, values = [];
  COLLECTIONS.forEach((c) => {
    if (!c.columns[a] || !c.columns[b]) return;
    for (let row = 0; row < c.size; row++) if (c.columns[a][row] != null && c.columns[b][row] != null) values.push({ a: c.columns[a][row], b: c.columns[b][row], c: c.name });
  });
  const about = (name) => COLLECTIONS.flatMap((c) => c.measures).find((one) => one.name === name);
  const axis = (name) => withUnit(about(name).label, about(name).unit && `(${about(name).unit})`);
  const names = [...new Set(COLLECTIONS.map((c) => c.name))];
  const node = byId("filter");
  const spec = {
    width: Math.max(220, Math.min(620, node.clientWidth - 80)), height: 260, background: "#fff", description: "", config: configuration(),
    data: { values },
    params: [{ name: "brush", select: { type: "interval", encodings: ["x", "y"] } }],
    mark: { type: "point", size: 22, filled: true, opacity: 0.6 },
    encoding: {
      x: { field: "a", type: "quantitative", title: axis(a), scale: { zero: false } },
      y: { field: "b", type: "quantitative", title: axis(b), scale: { zero: false } },
      color: { field: "c", type: "nominal", scale: { domain: names, range: CATEGORIES.slice(0, names.length) }, legend: names.length > 1 ? { title: null, orient: "top", labelLimit: 400 } : null },
    },
  };
  const found = await embed(node, spec, "vega-lite", "canvas");
  if (scatter) scatter.finalize();
  scatter = found.view;
  scatter.addSignalListener("brush", (_, box) => {
    const sorted = (ends) => (ends ? [Number(Math.min(...ends).toPrecision(4)), Number(Math.max(...ends).toPrecision(4))] : [null, null]);
    state.filter.limits = { [a]: sorted(box && box.a) };
    if (a !== b) state.filter.limits[b] = sorted(box && box.b);
    showLimits();
    refilter();
  });
}

let waiting = 0;
function refilter() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    byId("kept").textContent = COLLECTIONS.map((c) => {
      let kept = 0;
      for (let row = 0; row < c.size; row++) kept += isKept(c, row);
      return `${c.name}: ${kept} of ${c.size} configurations`;
    }).join("; ") + ".";
    for (const panel of panels) {
      if (!panel.view) continue;
      const cells = panel.view.data("cells").map((cell) => ({ row: cell.row, v: cell.v, letter: cell.letter, x: cell.x, y: cell.y, o: isKept(panel.c, cell.row) ? 1 : 0.12 }));
      panel.view.data("cells", cells).run();
    }
  }, 30);
}
