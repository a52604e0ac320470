"use strict";

/**
 * Draws the network as it was executed, where layout.js says.
 *
 * All text goes in through textContent and attributes, so that no name can become markup.
 *
 * @param {object} data `network` of the run's data: nodes, groups, edges, open, colourings.
 */
function drawNetwork(data) {
  const { select, zoom, zoomIdentity } = libraries;
  const { TOP, HEADER, isGroup, chains, children, inside, arrange } = layoutNetwork(data);
  const ROUND = 16;
  const find = (id) => document.getElementById(`network-${id}`);
  const svg = find("drawing");
  const panel = find("panel");
  const open = new Set([TOP, ...data.open.map((group) => `g${group}`)]);
  let places = new Map(); // where each box lies: by key, in the drawing's own units
  let size = { width: 0, height: 0 };
  let current = null; // key of the box that the keyboard is at
  let wheelZooms = false;

  const thing = (key) => (isGroup(key) ? data.groups : data.nodes)[Number(key.slice(1))];

  function element(name, attributes, parent, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);

  /** Draws a laid-out group into `parent`, its corner at (x, y) of the drawing. */
  function paint(parent, room, x, y) {
    const { graph, inner } = room;
    for (const edge of graph.edges()) {
      const { drawn, points } = graph.edge(edge);
      if (!drawn) continue;
      const leads = edge.w !== "out" && !inner.has(edge.w); // others end at a border, and go on
      const line = { class: leads ? "edge leads" : "edge", d: path(joined(room, edge, points)) };
      element("path", line, parent);
    }
    for (const key of graph.nodes()) {
      const { x: middle, y: centre, width, height } = graph.node(key);
      if (key === "in" || key === "out") {
        const end = key === "in" ? -HEADER : room.height;
        element("path", { class: "edge port", d: `M${middle},${centre}V${end}` }, parent);
        continue;
      }
      const [left, top] = [middle - width / 2, centre - height / 2];
      places.set(key, { x: x + left, y: y + top, width, height });
      const box = paintBox(parent, key, left, top, width, height);
      if (inner.has(key)) {
        const shift = { transform: `translate(${left},${top + HEADER})` };
        paint(element("g", shift, parent), inner.get(key), x + left, y + top + HEADER);
      } else {
        lines(box, key);
      }
    }
  }

  /** Leads an edge to the entry of the open group that it ends at, and from the exit. */
  function joined(room, edge, points) {
    const bent = points.map((point) => ({ ...point }));
    const last = bent.length - 1;
    const join = (key, port, end, next, side) => {
      const inner = room.inner.get(key)?.graph.node(port);
      if (!inner) return;
      const { x, y, width, height } = room.graph.node(key);
      const at = x - width / 2 + inner.x;
      // What runs straight to the border stays straight.
      if (last > 1 && bent[next].x === bent[end].x) bent[next].x = at;
      bent[end] = { x: at, y: y + side * height / 2 };
    };
    join(edge.v, "out", 0, 1, 1);
    join(edge.w, "in", last, last - 1, -1);
    return bent;
  }

  /** A line through points, with rounded corners. */
  function path(points) {
    const text = [`M${points[0].x},${points[0].y}`];
    for (let i = 1; i < points.length - 1; i += 1) {
      const { x, y } = points[i];
      const [before, after] = [points[i - 1], points[i + 1]].map((other) => {
        const length = Math.hypot(other.x - x, other.y - y) || 1;
        const share = Math.min(ROUND, length / 2) / length;
        return `${x + (other.x - x) * share},${y + (other.y - y) * share}`;
      });
      text.push(`L${before}Q${x},${y} ${after}`);
    }
    const end = points[points.length - 1];
    return `${text.join("")}L${end.x},${end.y}`;
  }

  function paintBox(parent, key, x, y, width, height) {
    const group = isGroup(key);
    const { band } = open.has(key) ? { band: null } : colourOf(key);
    const told = findingsOf(key);
    const classes = ["box", group ? (open.has(key) ? "open" : "closed") : thing(key).role];
    if (band !== null) classes.push(`band${band}`);
    if (told.length && !open.has(key)) classes.push(worstOf(key) > 1 ? "told grave" : "told");
    const attributes = {
      class: classes.join(" "), role: "button", tabindex: key === current ? 0 : -1,
      "data-key": key, "aria-label": spoken(key), transform: `translate(${x},${y})`,
    };
    if (group) attributes["aria-expanded"] = open.has(key);
    const box = element("g", attributes, parent);
    element("rect", { width, height, rx: 6 }, box);
    if (open.has(key)) {
      const text = `\u2212 ${thing(key).label}`;
      element("text", { x: 10, y: 17, class: "name" }, box, cut(text, Math.floor(width / 8)));
    }
    return box;
  }

  /** The three lines of text in a closed box. */
  function lines(box, key) {
    const each = thing(key);
    const said = colourOf(key).text;
    const told = findingsOf(key);
    const about = isGroup(key) ? `${each.inside} inside` : `${each.kind}  ${each.shape}`;
    const own = each.parameters ? `${each.parameters.toLocaleString("en")} parameters` : "";
    const many = told.length > 1 ? `${told.length} findings` : told[0];
    const label = isGroup(key) ? `+ ${each.label}` : each.label;
    element("text", { x: 10, y: 18, class: "name" }, box, cut(label, 27));
    element("text", { x: 10, y: 35 }, box, cut(about, 32));
    element("text", { x: 10, y: 52 }, box, cut(said || many || own, 32));
    element("title", {}, box, spoken(key));
  }

  const nodesIn = (key) => inside[Number(key.slice(1))];

  function findingsOf(key) {
    const further = isGroup(key) ? nodesIn(key).flatMap((node) => node.findings) : [];
    return [...new Set([...thing(key).findings, ...further])];
  }

  /** 1 to 3: a remark, a warning or an error names the box, or one in it. */
  const worstOf = (key) => Math.max(...(isGroup(key)
    ? [thing(key).band, ...nodesIn(key).map((node) => node.colours.findings[1])]
    : [thing(key).colours.findings[1]]));

  /** Band and text of a box in the chosen colouring; a closed group shows the worst in it. */
  function colourOf(key) {
    const chosen = find("colour").value;
    if (!isGroup(key)) {
      const [text, band] = thing(key).colours[chosen];
      return { text, band };
    }
    const bands = nodesIn(key).map((node) => node.colours[chosen][1]);
    if (chosen === "findings") bands.push(thing(key).band);
    const known = bands.filter((band) => band !== null);
    if (!known.length) return { text: null, band: null };
    const band = known.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
    const worst = known.filter((each) => each === band).length;
    const text = `${worst} of ${known.length}: ${meaning(chosen, band)}`;
    return { text: chosen === "findings" || !band ? null : text, band };
  }

  const colouring = (key) => data.colourings.find((each) => each.key === key);
  const meaning = (key, band) => colouring(key).words.find(([each]) => each === band)[1];

  /** What is known of a box, as pairs of a word and a text. */
  function facts(key) {
    const each = thing(key);
    if (isGroup(key)) {
      return [["holds", `${each.inside} boxes`], ["findings", findingsOf(key).join(", ")]];
    }
    const numbers = data.colourings
      .filter(({ key: name }) => name !== "findings" && each.colours[name][0] !== null)
      .map(({ key: name, label }) => {
        const [text, band] = each.colours[name];
        return [label, `${text} (${meaning(name, band)})`];
      });
    return [
      ["kind", each.kind], ["output", each.shape],
      ["parameters", each.parameters && `${each.parameters.toLocaleString("en")}, of these `
        + `${each.trainable.toLocaleString("en")} trained`],
      ["ran", each.calls > 1 && `${each.calls} times in a step`],
      ...numbers, ["findings", each.findings.join(", ")],
    ];
  }

  function spoken(key) {
    const known = facts(key).filter(([, text]) => text).map((fact) => fact.join(": "));
    return [thing(key).name || thing(key).label, ...known].join("; ");
  }

  function tell(key) {
    const title = document.createElement("h4");
    const list = document.createElement("dl");
    title.textContent = thing(key).name || thing(key).label;
    for (const [word, text] of facts(key)) {
      if (!text) continue;
      list.append(document.createElement("dt"), document.createElement("dd"));
      list.lastChild.previousSibling.textContent = word;
      list.lastChild.textContent = text;
    }
    panel.replaceChildren(title, list);
  }

  const arrow = element("marker", {
    id: "network-arrow", viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 6, markerHeight: 6,
    orient: "auto",
  }, svg);
  element("path", { d: "M0,0L8,4L0,8Z" }, arrow);
  const root = element("g", {}, svg);
  const zoomer = zoom()
    .scaleExtent([0.02, 4])
    .filter((event) => {
      if (event.type === "wheel") return event.ctrlKey || wheelZooms;
      if (event.type.startsWith("touch")) return wheelZooms || event.touches.length > 1;
      return !event.button;
    })
    .on("zoom", (event) => root.setAttribute("transform", event.transform));
  const view = select(svg).call(zoomer).on("dblclick.zoom", null);

  function draw() {
    const focused = svg.contains(document.activeElement);
    const arranged = arrange(TOP, open);
    places = new Map();
    size = arranged;
    if (!current || !isShown(current)) current = children.get(TOP)[0];
    root.replaceChildren();
    paint(root, arranged, 0, 0);
    if (focused) boxOf(current).focus({ preventScroll: true });
  }

  const boxOf = (key) => root.querySelector(`[data-key="${key}"]`);
  const parentOf = (key) => `g${thing(key).parent}`;
  const isShown = (key) => key === TOP || (open.has(parentOf(key)) && isShown(parentOf(key)));

  /** Shows all; what would be too small to read is shown from where it begins. */
  function fit(readable) {
    const { clientWidth, clientHeight } = svg;
    const all = Math.min(clientWidth / size.width, clientHeight / size.height, 1);
    const scale = readable && all < 0.6 ? 0.8 : all;
    const begin = places.get(firstModule());
    const centre = scale > all ? begin.x + begin.width / 2 : size.width / 2;
    const room = clientWidth - size.width * scale;
    // What is wider than the view begins at its edge, what is narrower stays inside.
    const left = Math.min(Math.max(clientWidth / 2 - centre * scale, Math.min(0, room)),
      Math.max(0, room));
    const top = Math.max(0, (clientHeight - size.height * scale) / 2);
    view.call(zoomer.transform, zoomIdentity.translate(left, top).scale(scale));
  }

  /** Key of the first box that is no input and not open. */
  function firstModule() {
    const keys = [...places.keys()].filter((key) => !open.has(key));
    return keys.find((key) => thing(key).role !== "input") || keys[0];
  }

  function toCentre(key) {
    const { x, y, width, height } = places.get(key);
    view.call(zoomer.translateTo, x + width / 2, y + Math.min(height, 200) / 2);
  }

  function choose(key) {
    boxOf(current)?.setAttribute("tabindex", -1);
    root.querySelector(".chosen")?.classList.remove("chosen");
    current = key;
    boxOf(key).setAttribute("tabindex", 0);
    boxOf(key).classList.add("chosen");
    tell(key);
  }

  function act(key) {
    if (isGroup(key)) {
      if (!open.delete(key)) open.add(key);
      const before = places.get(key);
      draw();
      // The box stays where the reader looks.
      const after = places.get(key);
      view.call(zoomer.translateBy, before.x - after.x, before.y - after.y);
    }
    choose(key);
  }

  function openAll(all) {
    open.clear();
    open.add(TOP);
    if (all) data.groups.forEach((_, index) => open.add(`g${index}`));
    draw();
    fit(true);
  }

  const buttons = {
    in: () => view.call(zoomer.scaleBy, 1.5),
    out: () => view.call(zoomer.scaleBy, 1 / 1.5),
    fit: () => fit(false),
    open: () => openAll(true),
    close: () => openAll(false),
  };

  function onKey(event) {
    const move = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const keys = [...root.querySelectorAll(".box")].map((box) => box.dataset.key);
    if (move) {
      const next = keys[keys.indexOf(current) + move];
      if (next) {
        choose(next);
        toCentre(next);
        boxOf(next).focus({ preventScroll: true });
      }
    } else if (event.key === "Enter" || event.key === " ") {
      act(current);
    } else if (event.key === "Escape") {
      wheelZooms = false;
      return;
    } else if (event.key === "+" || event.key === "-") {
      buttons[event.key === "+" ? "in" : "out"]();
    } else {
      return;
    }
    event.preventDefault();
  }

  let search = { text: "", at: -1 };
  /** Shows the first module whose name holds the text, or with the same text the next one. */
  function look() {
    const text = find("search").value.trim().toLowerCase();
    const found = data.nodes.flatMap((n, i) => (n.name.toLowerCase().includes(text) ? [i] : []));
    if (!text || !found.length) {
      panel.textContent = text ? "No module has this in its name." : "";
      return;
    }
    search = { text, at: text === search.text ? (search.at + 1) % found.length : 0 };
    const chain = chains[found[search.at]];
    chain.slice(0, -1).forEach((group) => open.add(group));
    draw();
    const key = chain[chain.length - 1];
    choose(key);
    toCentre(key);
    panel.prepend(`${search.at + 1} of ${found.length} found. Enter shows the next.`);
  }

  function recolour() {
    draw();
    const legend = colouring(find("colour").value).words.map(([band, word]) => {
      const item = document.createElement("li");
      item.className = `band${band}`;
      item.textContent = word;
      return item;
    });
    find("legend").replaceChildren(...legend);
  }

  svg.addEventListener("click", (event) => {
    const box = event.target.closest(".box");
    wheelZooms = true;
    if (box) act(box.dataset.key);
  });
  svg.addEventListener("keydown", onKey);
  svg.addEventListener("focusin", (event) => {
    const { key } = event.target.dataset;
    if (key && key !== panel.dataset.key) choose(key);
  });
  svg.addEventListener("focusout", (event) => {
    if (!svg.contains(event.relatedTarget)) wheelZooms = false;
  });
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", buttons[button.dataset.zoom]);
  }
  find("colour").addEventListener("change", recolour);
  find("search").addEventListener("input", look);
  find("search").addEventListener("keydown", (event) => event.key === "Enter" && look());

  recolour();
  fit(true);
}
