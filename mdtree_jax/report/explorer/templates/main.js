// Starts the page.
function drawNotes() {
  fill(byId("notes"), COLLECTIONS.flatMap((c) => [
    el("h3", {}, c.name),
    c.settings.length ? el("p", { class: "soft" }, "Same everywhere: ", c.settings.map(([name, value, unit]) => `${name} ${withUnit(shown(value), unit)}`).join(", "), ".") : null,
    c.notes.length ? el("ul", {}, c.notes.map((note) => el("li", {}, note))) : el("p", { class: "soft" }, "Nothing is missing."),
  ]));
}

function start() {
  byId("summary").textContent = COLLECTIONS.map((c) => `${c.name}: ${c.size} configurations over ${c.axes.map((axis) => axis.label).join(", ")}`).join("; ") + ".";
  startState();
  makePanels();
  drawControls();
  drawSliders();
  drawTree();
  drawNotes();
  byId("as-table").addEventListener("toggle", () => drawPlaneTable(colouring()));
  drawPhase().then(openAddress);
  // The scatter plot below the fold waits until the page stands.
  setTimeout(() => { drawFilter(); refilter(); }, 0);
  let resizing = 0;
  window.addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => { drawPhase(); drawScatter(); }, 200); });
  window.addEventListener("hashchange", openAddress);
}

start();
