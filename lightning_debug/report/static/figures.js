"use strict";

/**
 * Draws all charts of the page from the data in #run-data, each when it is scrolled into view.
 *
 * Tooltips are drawn as text on the canvas ("richText"), never as HTML: names come from the run.
 */
(() => {
  const data = JSON.parse(document.getElementById("run-data").textContent);
  const find = (id) => document.getElementById(id);
  const charts = [...data.curves, ...data.evidence];
  const drawn = new Map(); // element -> its chart
  const makers = new Map(); // element -> what makes the options of its chart

  // Levels of the cells of a map, as they are written.
  const [MISSING, ZERO, LOWEST, HIGHEST, NOT_FINITE] = [0, 1, 2, 65534, 65535];
  const MAP_COLOURS = ["#0d2a63", "#31688e", "#35a38b", "#a5cf4b", "#fde725"];
  const NOT_FINITE_COLOUR = "#d1157f";

  /** A number as people read it: three digits that count. */
  function said(value) {
    if (typeof value !== "number") return String(value);
    const size = Math.abs(value);
    const short = Number(value.toPrecision(3));
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? short.toExponential() : String(short);
  }

  const cut = (text, most) => (text.length > most ? `\u2026${text.slice(1 - most)}` : text);

  /** The colours of the page as they are now: light, dark or printed. */
  function theme() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--figure-${name}`).trim();
    return {
      ink: colour("ink"), muted: colour("muted"), line: colour("line"), paper: colour("paper"),
      mark: colour("mark"),
      series: [1, 2, 3, 4, 5, 6, 7, 8].map((number) => colour(`series-${number}`)),
    };
  }

  /** What all charts share. */
  function base(text) {
    const { ink, muted, line, paper, series } = theme();
    const axis = {
      axisLine: { lineStyle: { color: muted } },
      axisTick: { lineStyle: { color: muted } },
      splitLine: { lineStyle: { color: line } },
      axisLabel: { color: muted, formatter: said, hideOverlap: true },
      nameTextStyle: { color: muted },
    };
    return {
      axis,
      option: {
        animation: false,
        aria: { enabled: true, label: { description: text } },
        color: series,
        textStyle: { color: ink },
        grid: {
          left: 4, right: 16, top: 24, bottom: 4, outerBoundsMode: "same", outerBoundsContain: "all",
        },
        tooltip: {
          trigger: "axis", renderMode: "richText", confine: true, valueFormatter: said,
          backgroundColor: paper, borderColor: line, textStyle: { color: ink },
          axisPointer: { lineStyle: { color: muted } },
        },
      },
    };
  }

  /** Whether the numbers of a chart call for a logarithmic axis, where nobody has chosen yet. */
  function isLog(chart) {
    if (typeof chart.log === "boolean") return chart.log;
    const known = chart.series.flatMap((each) => each.points.map(([, y]) => y)).filter(Number.isFinite);
    return known.length > 0 && Math.min(...known) > 0 && Math.max(...known) > 100 * Math.min(...known);
  }

  function legend(names) {
    const { ink } = theme();
    return {
      show: names.length > 1, bottom: 0, type: "plain", icon: "rect", itemWidth: 16, itemHeight: 4,
      formatter: (name) => cut(name, 34), textStyle: { color: ink },
    };
  }

  const named = (axis, name, more) => ({
    ...axis, ...more, name, nameLocation: "middle", nameGap: 28,
  });

  /** Ends of an axis that leave room for the limits too. */
  function reaching(limits) {
    const known = (limits || []).map(({ y }) => y).filter(Number.isFinite);
    if (!known.length) return {};
    return {
      min: ({ min }) => Math.min(min, ...known), max: ({ max }) => Math.max(max, ...known),
    };
  }

  /** Lines over numbers: curves of the run, of experiments, of a finding's evidence. */
  function lines(chart) {
    const { axis, option } = base(chart.text || chart.title);
    const names = chart.series.map((each) => each.name);
    const many = chart.series.some((each) => each.points.length > 60);
    option.legend = legend(names);
    option.grid.bottom = names.length > 1 ? 28 + 18 * Math.floor(names.length / 4) : 4;
    option.xAxis = named(axis, chart.x, {
      type: "value", min: "dataMin", max: "dataMax", splitLine: { show: false },
    });
    option.yAxis = named(axis, chart.y, {
      type: isLog(chart) ? "log" : "value", scale: true, ...reaching(chart.limits),
    });
    option.series = chart.series.map(({ name, points }, index) => ({
      name, type: "line", data: points, connectNulls: false, showSymbol: !many, symbolSize: 5,
      lineStyle: {
        width: names.length > 1 && many && index === 0 ? 1 : 2,
        type: many ? "solid" : ["solid", "dashed", "dotted"][index % 3],
      },
      markLine: index === 0 ? marks(chart) : undefined,
    }));
    return option;
  }

  /** Steps that findings and epochs mark, and the limits that a number is judged by. */
  function marks(chart, above = "end") {
    const { ink, muted, line, mark } = theme();
    const at = (place, label, color, position) => ({
      ...place, name: label || "", lineStyle: { color, type: label ? "dashed" : "solid", width: 1 },
      label: { show: Boolean(label), formatter: () => cut(label, 40), position, color: ink },
    });
    return {
      silent: true, symbol: "none", animation: false, z: 1,
      data: [
        ...(chart.epochs || []).map((x) => at({ xAxis: x }, "", line, "end")),
        ...(chart.marks || []).map(({ x, label }) => at({ xAxis: x }, label, mark, above)),
        ...(chart.limits || []).map(({ y, label }) => at({ yAxis: y }, label, muted,
          "insideStartTop")),
      ],
    };
  }

  /** A bar for each of a few things. */
  function bars(chart) {
    const { axis, option } = base(chart.text || chart.title);
    const labels = [...new Set(chart.series.flatMap((each) => each.points.map(([x]) => String(x))))];
    option.legend = legend(chart.series.map((each) => each.name));
    const log = isLog(chart);
    const ends = log || !chart.limits?.length ? chart.limits : [{ y: 0 }, ...chart.limits];
    option.xAxis = named(axis, chart.y, { type: log ? "log" : "value", ...reaching(ends) });
    option.yAxis = {
      ...axis, type: "category", data: labels, inverse: true, splitLine: { show: false },
      axisLabel: { ...axis.axisLabel, formatter: (name) => cut(name, 26) },
    };
    option.tooltip.axisPointer = { type: "shadow" };
    const limits = (chart.limits || []).map(({ y, label }) => ({ x: y, label }));
    option.series = chart.series.map(({ name, points }, index) => ({
      name, type: "bar", barMaxWidth: 26,
      data: labels.map((label) => points.find(([x]) => String(x) === label)?.[1] ?? null),
      label: { show: labels.length <= 20, position: "right", formatter: (bar) => said(bar.value) },
      markLine: index === 0 ? marks({ marks: limits }, "start") : undefined,
    }));
    option.grid.right = 64;
    return option;
  }

  /** The levels of a row of a map. */
  function levels(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Uint16Array(bytes.buffer);
  }

  /** The number that a level stands for. */
  function numberAt(map, level) {
    const share = (level - LOWEST) / (HIGHEST - LOWEST);
    if (level === ZERO) return 0;
    if (map.log) return map.low * (map.high / map.low) ** share;
    return map.low + share * (map.high - map.low);
  }

  /** Layers by steps, the number as a colour. */
  function heat(map, height) {
    const { axis, option } = base(`${map.title}. ${map.text}`);
    const { paper, muted, ink } = theme();
    const cells = map.rows.flatMap((row, y) => [...levels(row)].flatMap((level, x) => {
      if (level === MISSING) return [];
      if (level !== NOT_FINITE) return [[x, y, level]];
      const itemStyle = { color: NOT_FINITE_COLOUR };
      return [{ value: [x, y, level], visualMap: false, itemStyle }];
    }));
    const place = (value) => said(numberAt(map, value < LOWEST ? LOWEST : value));
    const every = Math.ceil((16 * map.layers.length) / height);
    const plain = { ...axis, splitLine: { show: false }, type: "category" };
    option.grid.top = 16;
    option.grid.bottom = 48;
    option.xAxis = named(plain, "step", { data: map.steps });
    option.yAxis = {
      ...plain, data: map.layers, inverse: true,
      axisLabel: {
        ...axis.axisLabel, interval: every - 1,
        formatter: (name) => cut(name, innerWidth < 700 ? 14 : 34),
      },
    };
    option.tooltip = {
      ...option.tooltip, trigger: "item",
      formatter: ({ value: [x, y, level] }) => {
        const value = level === NOT_FINITE ? "NaN or infinite" : said(numberAt(map, level));
        // A brace would begin a style.
        const layer = map.layers[y].replaceAll("{", "(");
        return `${layer}\nstep ${map.steps[x]}: ${value}`;
      },
    };
    option.visualMap = {
      type: "continuous", hoverLink: false, min: LOWEST, max: HIGHEST, calculable: true, orient: "horizontal",
      left: "center", bottom: 0, itemWidth: 12, itemHeight: 160, formatter: place,
      inRange: { color: MAP_COLOURS }, outOfRange: { color: paper },
      textStyle: { color: ink }, handleStyle: { borderColor: muted },
    };
    option.series = [{
      type: "heatmap", data: cells, progressive: 0, emphasis: { itemStyle: { borderColor: ink } },
    }];
    return option;
  }

  /** The share of values in each bin, at one step and at the first. */
  function histogram(tensor, at) {
    const { axis, option } = base(tensor.text);
    const line = (index) => {
      const counts = tensor.counts[index];
      const all = counts.reduce((sum, count) => sum + count, 0) || 1;
      const [low, high] = [tensor.low[index], tensor.high[index]];
      const width = (high - low) / counts.length;
      const steps = counts.map((count, bin) => [low + bin * width, count / all]);
      return [[low, 0], ...steps, [high, counts[counts.length - 1] / all], [high, 0]];
    };
    const names = [`step ${tensor.steps[at]}`, `step ${tensor.steps[0]}, the first`];
    option.legend = legend(at ? names : []);
    option.grid.bottom = 28;
    option.xAxis = named(axis, `value of ${cut(tensor.place, 40)}`, {
      type: "value", scale: true, splitLine: { show: false },
    });
    option.yAxis = named(axis, "share of the values", {
      type: "value", min: 0, axisLine: { ...axis.axisLine, onZero: false },
    });
    const common = { type: "line", step: "end", showSymbol: false };
    option.series = [{ ...common, name: names[0], data: line(at), areaStyle: { opacity: 0.35 } }];
    if (at) {
      option.series.push({ ...common, name: names[1], data: line(0), lineStyle: { type: "dashed" } });
    }
    return option;
  }

  /** Draws the chart of an element, or draws it anew. */
  function draw(element) {
    if (!drawn.has(element)) {
      // What is folded away has no size yet; it gets its own when it is unfolded.
      const { clientWidth: width, clientHeight: height } = element;
      element.setAttribute("role", "img");
      drawn.set(element, libraries.init(element, null, { width: width || 640, height: height || 240 }));
      new ResizeObserver(() => fill(element)).observe(element);
    }
    drawn.get(element).setOption(makers.get(element)(), { notMerge: true });
    fill(element);
  }

  function fill(element) {
    if (element.clientWidth) drawn.get(element).resize({ width: "auto", height: "auto" });
  }

  const drawAgain = () => [...drawn.keys()].forEach(draw);

  /** Calls back once, when an element comes near the part of the page that is seen. */
  const waiting = new Map();
  const watcher = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => begin(entry.target));
  }, { rootMargin: "300px" });

  function later(element, start) {
    waiting.set(element, start);
    watcher.observe(element);
  }

  function begin(element) {
    watcher.unobserve(element);
    waiting.get(element)?.();
    waiting.delete(element);
  }

  function register(element, make) {
    makers.set(element, make);
    later(element, () => draw(element));
  }

  function startCharts() {
    for (const element of document.querySelectorAll("[data-chart]")) {
      const chart = charts.find(({ id }) => id === element.dataset.chart);
      if (!chart) continue;
      if (chart.kind === "bars") {
        const most = Math.max(...chart.series.map((each) => each.points.length));
        element.style.height = `${80 + 26 * most * chart.series.length}px`;
      }
      register(element, () => (chart.kind === "bars" ? bars(chart) : lines(chart)));
    }
    for (const box of document.querySelectorAll("[data-log]")) {
      const chart = charts.find(({ id }) => id === box.dataset.log);
      const element = document.querySelector(`[data-chart="${box.dataset.log}"]`);
      box.addEventListener("change", () => {
        chart.log = box.checked;
        draw(element);
      });
    }
  }

  function startMaps() {
    const [choice, element] = [find("map-choice"), find("map")];
    if (!choice) return;
    const chosen = () => data.maps.find(({ id }) => id === choice.value);
    const make = () => {
      element.style.height = `${Math.min(680, Math.max(180, 110 + 15 * chosen().layers.length))}px`;
      return heat(chosen(), element.clientHeight);
    };
    choice.addEventListener("change", () => draw(element));
    register(element, make);
  }

  function startHistograms() {
    const [kind, place, slider] = ["kind", "place", "step"].map((id) => find(`histogram-${id}`));
    const element = find("histogram");
    if (!kind) return;
    const chosen = () => data.histograms[Number(place.value)];
    const listPlaces = () => {
      const before = place.selectedOptions[0]?.textContent;
      const options = data.histograms.flatMap((tensor, index) => (
        tensor.kind === kind.value ? [new Option(tensor.place, index)] : []));
      place.replaceChildren(...options);
      const same = options.find((option) => option.textContent === before);
      if (same) same.selected = true;
    };
    const toLast = () => {
      slider.max = chosen().steps.length - 1;
      slider.value = slider.max;
    };
    const show = () => {
      find("histogram-at").textContent = chosen().steps[Number(slider.value)];
      find("histogram-words").textContent = chosen().text;
      if (drawn.has(element)) draw(element);
    };
    kind.addEventListener("change", () => { listPlaces(); toLast(); show(); });
    place.addEventListener("change", () => { toLast(); show(); });
    slider.addEventListener("input", show);
    listPlaces();
    toLast();
    show();
    register(element, () => histogram(chosen(), Number(slider.value)));
  }

  function startNetwork() {
    if (!data.network) return;
    find("network").hidden = false;
    later(find("network"), () => drawNetwork(data.network));
  }

  startNetwork();
  startCharts();
  startMaps();
  startHistograms();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    [...waiting.keys()].forEach(begin);
    drawAgain();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    drawAgain();
  });
})();
