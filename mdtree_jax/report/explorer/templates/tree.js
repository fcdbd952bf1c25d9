// The fitted tree of the chosen question, one drawing per collection; the path of the pointed or chosen cell lights up.
const SVG = "http://www.w3.org/2000/svg";
const trees = [];

function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawTree() {
  trees.length = 0;
  const drawn = [];
  for (const c of COLLECTIONS) {
    const question = c.questions.find((one) => one.name === state.question);
    if (!question || !question.tree) continue;
    const tree = treeDrawing(c, question);
    trees.push(tree);
    const text = `Fitted on ${question.tree.rows} configurations, and right on ${question.tree.accuracy} % of them.`;
    drawn.push(el("div", { tabindex: 0, role: "group", "aria-label": `Tree of ${c.name}` }, el("h3", {}, COLLECTIONS.length > 1 ? c.name : question.title), el("p", { class: "soft" }, text), tree.node));
  }
  const question = COLLECTIONS.flatMap((c) => c.questions).find((one) => one.name === state.question);
  byId("tree-about").textContent = drawn.length
    ? `${question.sentence} The way of the cell under the pointer, or else of the chosen one, is marked.`
    : "These collections have no label, or lack the metrics, for a tree.";
  fill(byId("tree"), drawn);
  lightTree();
}

function treeDrawing(c, question) {
  const tree = question.tree, STEP = 168, ROW = 92, depth = [0], parent = {}, xs = [];
  tree.nodes.forEach((node, place) => node.children.forEach((child, side) => {
    if (typeof child === "number") { depth[child] = depth[place] + 1; parent[child] = [place, side]; }
  }));
  const height = Math.max(...depth) + 1;
  const leafX = tree.leaves.map((_, i) => (i + 0.5) * STEP);
  const leafOf = (node, side) => tree.leaves.findIndex((leaf) => leaf.node === node && leaf.side === side);
  for (let place = tree.nodes.length - 1; place >= 0; place--) {
    const ends = tree.nodes[place].children.map((child, side) => (typeof child === "number" ? xs[child] : leafX[leafOf(place, side)]));
    xs[place] = (ends[0] + ends[1]) / 2;
  }
  const width = tree.leaves.length * STEP, total = (height + 1) * ROW;
  const node = svg("svg", { viewBox: `0 0 ${width} ${total}`, style: `width:100%;max-width:${width}px;min-width:${0.68 * width}px`, role: "img", "aria-label": treeText(question) });
  const parts = { nodes: [], leaves: [], edges: {} };
  tree.nodes.forEach((_, place) => tree.nodes[place].children.forEach((child, side) => {
    const isNode = typeof child === "number", leaf = isNode ? -1 : leafOf(place, side);
    const x = isNode ? xs[child] : leafX[leaf], y = (isNode ? depth[child] : depth[place] + 1) * ROW + 16;
    const edge = svg("path", { class: "edge", d: `M${xs[place]} ${depth[place] * ROW + 58}L${x} ${y}` });
    parts.edges[place + "," + side] = edge;
    node.append(edge, svg("text", { class: "small", x: (xs[place] + x) / 2 + (side ? 6 : -6), y: (depth[place] * ROW + 58 + y) / 2 + 4, "text-anchor": side ? "start" : "end" }, side ? ">" : "≤"));
  }));
  tree.nodes.forEach((one, place) => {
    const group = svg("g", {}), y = depth[place] * ROW + 16;
    group.append(svg("rect", { class: "box", x: xs[place] - 78, y, width: 156, height: 42, rx: 6 }),
      svg("text", { x: xs[place], y: y + 17, "text-anchor": "middle" }, one.label.length > 24 ? one.label.slice(0, 23) + "…" : one.label),
      svg("text", { class: "small", x: xs[place], y: y + 34, "text-anchor": "middle" }, withUnit(shown(one.threshold), one.unit === "1" ? "" : one.unit)));
    parts.nodes.push(group);
    node.append(group);
  });
  tree.leaves.forEach((leaf, number) => {
    const group = svg("g", {}), y = (depth[leaf.node] + 1) * ROW + 16, answer = question.classes[leaf.class];
    group.append(svg("rect", { class: "box", x: leafX[number] - 78, y, width: 156, height: 42, rx: 18 }),
      svg("rect", { x: leafX[number] - 66, y: y + 8, width: 12, height: 12, fill: answer.colour }),
      svg("text", { x: leafX[number] - 48, y: y + 18 }, answer.words),
      svg("text", { class: "small", x: leafX[number] - 66, y: y + 35 }, `${leaf.counts[leaf.class]} of ${leaf.counts[0] + leaf.counts[1]} right`));
    parts.leaves.push(group);
    node.append(group);
  });
  return { c, question, node, parts, parent };
}

function treeText(question) {
  const steps = question.tree.nodes.map((one, i) => `${i}: ${one.label} at most ${shown(one.threshold)}?`);
  return `Tree of the question ${question.sentence} ${steps.join(" ")}`;
}

// Nodes and sides from the root to a leaf.
function wayTo(question, parent, leaf) {
  const way = [];
  let step = [question.tree.leaves[leaf].node, question.tree.leaves[leaf].side];
  while (step) { way.unshift(step); step = parent[step[0]]; }
  return way;
}

function lightTree() {
  for (const tree of trees) {
    const at = [state.pointed, state.chosen].find((one) => one && one.c === tree.c);
    const leaf = at ? tree.question.tree.leaf[at.row] : -1;
    const way = leaf >= 0 ? wayTo(tree.question, tree.parent, leaf) : [];
    tree.parts.nodes.forEach((group, place) => group.classList.toggle("lit", way.some(([node]) => node === place)));
    tree.parts.leaves.forEach((group, number) => group.classList.toggle("lit", number === leaf));
    Object.entries(tree.parts.edges).forEach(([key, edge]) => edge.classList.toggle("lit", way.some((step) => step.join() === key)));
  }
}
