"use strict";

/**
 * Says where the boxes of the network lie: boxes in boxes, each level laid out by dagre from top to
 * bottom, and what is much longer than wide folded into columns. Within a group, what comes from
 * outside enters at a port at the top, and leaves at one at the bottom.
 *
 * A node is called by the key "n3", a group by "g3".
 *
 * @param {object} data `network` of the run's data: nodes, groups, edges.
 */
function layoutNetwork(data) {
  const { Graph, layout } = libraries;
  const TOP = "g-1";
  const HEADER = 24;
  const BOX = { width: 228, height: 62 };
  const [MARGIN, BETWEEN, LANE] = [14, 26, 40];
  const LONG = 1200; // what is shorter is not folded
  const WIDE = 1.3; // how much wider than high a folded group should be
  const children = new Map([[TOP, []]]);
  const inside = data.groups.map(() => []); // all nodes of each group, however deep
  const links = new Map(); // by group, the edges between the boxes in it
  const chains = data.nodes.map(chainOf);
  collectLinks();

  /** The keys from the outermost group to the node itself; notes who lies in whom on its way. */
  function chainOf(node, index) {
    const chain = [`n${index}`];
    for (let group = node.parent; group >= 0; group = data.groups[group].parent) {
      chain.unshift(`g${group}`);
      inside[group].push(node);
    }
    let parent = TOP;
    for (const key of chain) {
      if (!children.has(parent)) children.set(parent, []);
      if (!children.get(parent).includes(key)) children.get(parent).push(key);
      parent = key;
    }
    return chain;
  }

  /** Lifts every edge to the level at which its ends part; below, it leads to or from a port. */
  function collectLinks() {
    const link = (group, from, to) => {
      if (!links.has(group)) links.set(group, new Map());
      links.get(group).set(`${from} ${to}`, [from, to]);
    };
    for (const [from, to] of data.edges) {
      const [a, b] = [chains[from], chains[to]];
      let level = 0;
      while (a[level] === b[level] && level < a.length) level += 1;
      if (level >= a.length) continue; // a node that feeds itself
      link(level ? a[level - 1] : TOP, a[level], b[level]);
      for (let i = level + 1; i < a.length; i += 1) link(a[i - 1], a[i], "out");
      for (let i = level + 1; i < b.length; i += 1) link(b[i - 1], "in", b[i]);
    }
  }

  /**
   * Lays out a group and the open groups in it; coordinates are relative to its corner.
   *
   * @param {string} group Key of the group.
   * @param {Set<string>} open Keys of the groups that are open.
   * @returns {{graph: object, inner: Map, width: number, height: number}}
   */
  function arrange(group, open) {
    const graph = new Graph();
    const inner = new Map();
    const drawn = [...(links.get(group) || new Map()).values()];
    const keys = children.get(group);
    graph.setGraph({
      rankdir: "TB", nodesep: 20, ranksep: BETWEEN, marginx: MARGIN, marginy: MARGIN,
    });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const key of keys) {
      if (open.has(key)) inner.set(key, arrange(key, open));
      const room = inner.get(key);
      graph.setNode(key, room ? { width: room.width, height: room.height + HEADER } : { ...BOX });
    }
    const ports = ["in", "out"].filter((port) => drawn.some((link) => link.includes(port)));
    for (const port of ports) graph.setNode(port, { width: 1, height: 1 });
    for (const [from, to] of drawn) graph.setEdge(from, to, { drawn: true });
    if (!drawn.length) stack(graph, keys);
    pinPorts(graph, ports, keys);
    layout(graph);
    fold(graph);
    return { ...graph.graph(), graph, inner };
  }

  /** Puts boxes that nothing connects below each other, in the order in which they ran. */
  function stack(graph, keys) {
    for (let i = 1; i < keys.length; i += 1) graph.setEdge(keys[i - 1], keys[i], {});
  }

  /** Keeps the entry above and the exit below everything, with edges that are not drawn. */
  function pinPorts(graph, ports, keys) {
    for (const key of keys) {
      if (ports.includes("in") && !graph.inEdges(key).length) graph.setEdge("in", key, {});
      if (ports.includes("out") && !graph.outEdges(key).length) graph.setEdge(key, "out", {});
    }
  }

  const isPort = (key) => key === "in" || key === "out";
  const topOf = ({ y, height }) => y - height / 2;
  const bottomOf = ({ y, height }) => y + height / 2;

  /** Folds a group that is much longer than wide into columns beside each other. */
  function fold(graph) {
    const { width, height } = graph.graph();
    const wanted = Math.round(Math.sqrt((WIDE * height) / width));
    const tallest = Math.max(...graph.nodes().map((key) => graph.node(key).height));
    if (wanted < 2 || height < LONG || tallest > height / 2) return;
    const columns = columnsOf(graph, height / wanted);
    if (columns.length < 2) return;
    const at = new Map(columns.flatMap((column) => column.keys.map((key) => [key, column])));
    placeColumns(graph, columns, at);
    for (const key of graph.nodes()) {
      const node = graph.node(key);
      node.x += at.get(key).right;
      node.y += at.get(key).down;
    }
    for (const edge of graph.edges()) {
      const [from, to] = [at.get(edge.v), at.get(edge.w)];
      const label = graph.edge(edge);
      label.points = from === to
        ? label.points.map(({ x, y }) => ({ x: x + from.right, y: y + from.down }))
        : across(graph.node(edge.v), graph.node(edge.w), from);
    }
  }

  /** The boxes of each column, from top to bottom; a column is at most about so high. */
  function columnsOf(graph, most) {
    const columns = [];
    const keys = [...graph.nodes()].sort((a, b) => topOf(graph.node(a)) - topOf(graph.node(b)));
    for (const key of keys) {
      const node = graph.node(key);
      const last = columns[columns.length - 1];
      const fits = last && (bottomOf(node) - last.top <= most || last.keys.every(isPort));
      if (last && (isPort(key) || fits)) last.keys.push(key);
      else columns.push({ keys: [key], top: topOf(node) });
    }
    return columns;
  }

  /** How far each column moves to lie beside the one before, and how large all of it is. */
  function placeColumns(graph, columns, at) {
    let [left, lowest] = [0, 0];
    for (const column of columns) {
      const nodes = column.keys.map((key) => graph.node(key));
      const bends = graph.edges()
        .filter(({ v, w }) => at.get(v) === column && at.get(w) === column)
        .flatMap((edge) => graph.edge(edge).points.map(({ x }) => x));
      const start = Math.min(...nodes.map(({ x, width }) => x - width / 2), ...bends);
      const end = Math.max(...nodes.map(({ x, width }) => x + width / 2), ...bends);
      column.right = left + MARGIN - start;
      column.down = MARGIN + BETWEEN - column.top;
      column.lane = left + MARGIN + (end - start) + LANE / 2;
      left = column.lane + LANE / 2 - MARGIN;
      lowest = Math.max(lowest, ...nodes.map((node) => bottomOf(node) + column.down));
    }
    Object.assign(graph.graph(), { width: left + MARGIN, height: lowest + MARGIN });
  }

  /** The way of an edge into another column: up beside its own, and over to the other's top. */
  function across(from, to, { lane }) {
    const low = bottomOf(from) + BETWEEN / 3;
    const high = topOf(to) - BETWEEN / 2;
    return [
      { x: from.x, y: bottomOf(from) }, { x: from.x, y: low }, { x: lane, y: low },
      { x: lane, y: high }, { x: to.x, y: high }, { x: to.x, y: topOf(to) },
    ];
  }

  return { TOP, HEADER, isGroup: (key) => key[0] === "g", chains, children, inside, arrange };
}
