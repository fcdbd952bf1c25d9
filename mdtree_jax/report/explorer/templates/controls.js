// The form above the phase plot: knobs, colour, question, and one slider for every further knob.
function choice(id, label, groups, value, change) {
  const select = el("select", { id, onchange: (event) => change(event.target.value) });
  for (const [name, options] of groups) {
    const parent = name ? el("optgroup", { label: name }) : select;
    for (const [key, text] of options) parent.append(el("option", { value: key, selected: key === value }, text));
    if (name && options.length) select.append(parent);
  }
  return el("div", { class: "control" }, el("label", { for: id }, label), select);
}

function axisChoices() {
  const axes = new Map();
  COLLECTIONS.forEach((c) => c.axes.forEach((axis) => { if (!axes.has(axis.name)) axes.set(axis.name, axis.label); }));
  return [["", [...axes]]];
}

function grouped() {
  const groups = new Map(), known = new Set();
  COLLECTIONS.flatMap((c) => c.measures).forEach((one) => {
    if (known.has(one.name)) return;
    known.add(one.name);
    if (!groups.has(one.group)) groups.set(one.group, []);
    groups.get(one.group).push([one.name, one.unit ? `${one.label} (${one.unit})` : one.label]);
  });
  return groups;
}

function colourChoices() {
  const out = [...grouped()].map(([group, list]) => [group, list.map(([name, text]) => ["m:" + name, text])]);
  const questions = questionChoices()[0][1];
  const withTree = questions.filter(([name]) => COLLECTIONS.some((c) => c.questions.some((q) => q.name === name && q.tree)));
  out.push(["Labels of the questions", questions.map(([name, text]) => ["l:" + name, text])]);
  out.push(["Answers of the trees", withTree.map(([name, text]) => ["t:" + name, text])]);
  if (COLLECTIONS.some((c) => c.diagnosis)) out.push(["Diagnosis", [["d:cause", "cause that a diagnosis names"]]]);
  return out;
}

function questionChoices() {
  const found = new Map();
  COLLECTIONS.flatMap((c) => c.questions).forEach((q) => { if (!found.has(q.name)) found.set(q.name, q.title); });
  return [["", [...found]]];
}

function startState() {
  const names = axisChoices()[0][1].map(([name]) => name);
  const shared = names.filter((name) => COLLECTIONS.every((c) => axisOf(c, name) && axisOf(c, name).values.length > 1));
  const order = [...shared, ...names.filter((name) => !shared.includes(name))];
  state.y = order.includes("width") ? "width" : order[1] || "";
  state.x = order.includes("batch_size") ? "batch_size" : order.find((name) => name !== state.y);
  if (state.x === state.y) state.y = "";
  names.forEach((name) => { state.sliders[name] = startPosition(name); });
  const questions = questionChoices()[0][1];
  state.question = questions.length ? questions[0][0] : "";
  const measures = COLLECTIONS[0].measures.map((one) => one.name);
  state.filter.a = measures.includes("train_error") ? "train_error" : measures[0];
  state.filter.b = "test_error";
}

function startPosition(name) {
  const list = positions(name);
  return list[0] === "all" ? 0 : Math.floor((list.length - 1) / 2);
}

function drawControls() {
  const setAxis = (which, other) => (value) => {
    if (state[other] === value) state[other] = state[which];
    state[which] = value;
    drawControls();
    drawSliders();
    drawPhase();
    byId(which === "x" ? "knob-x" : "knob-y").focus();
  };
  const parts = [
    choice("knob-x", "Across", axisChoices(), state.x, setAxis("x", "y")),
    choice("knob-y", "Upwards", axisChoices(), state.y, setAxis("y", "x")),
    choice("colour", "Colour", colourChoices(), state.colour, (value) => { state.colour = value; drawPhase(); }),
  ];
  if (state.question) {
    parts.push(choice("question", "Question of the tree", questionChoices(), state.question, (value) => {
      state.question = value;
      drawPhase();
      drawTree();
    }));
    const box = el("input", { type: "checkbox", id: "boundaries", checked: state.boundaries,
      onchange: (event) => { state.boundaries = event.target.checked; drawPhase(); } });
    parts.push(el("div", { class: "control check" }, box, el("label", { for: "boundaries" }, "Boundaries of the tree's regimes")));
  }
  fill(byId("controls"), parts);
}

function drawSliders() {
  const names = new Set(COLLECTIONS.flatMap((c) => slidersOf(c).map((axis) => axis.name)));
  const labels = new Map(axisChoices()[0][1]);
  fill(byId("sliders"), [...names].map((name) => {
    const text = positionText(name, state.sliders[name]);
    const output = el("output", { for: "slider-" + name }, text);
    const slider = el("input", { type: "range", id: "slider-" + name, min: 0, max: positions(name).length - 1, step: 1,
      "aria-valuetext": text, oninput: (event) => {
        state.sliders[name] = Number(event.target.value);
        output.textContent = positionText(name, state.sliders[name]);
        event.target.setAttribute("aria-valuetext", output.textContent);
        drawPhase();
      } });
    slider.value = state.sliders[name];
    return el("div", { class: "control" }, el("label", { for: "slider-" + name }, labels.get(name) + ": ", output), slider);
  }));
}
