"use strict";

// explain.py hands over what the model computed: queries, keys, values, and what it would say next. Scores, weights and
// the weighted sum follow from them by the formulas that the page shows, and are computed here.

const DATA = JSON.parse(document.querySelector("script[type='application/json']").textContent);
const TIME = DATA.labels.length;
const SURE = 1 / 3; // a head is named for what gets more of its weight than this

const state = { position: TIME - 1, hovered: null, layer: 0, head: 0, stage: "weights", key: null, dimension: 0 };

// --- the numbers ---------------------------------------------------------------------------------------------------

// Float64Array of heads × time × d_k, from whole numbers of `nibbles` half bytes each, the high one first, in base64.
function unpack(packed, model) {
  const bytes = Uint8Array.from(atob(packed.numbers), (character) => character.charCodeAt(0));
  const perHead = TIME * model.d_k;
  const middle = 2 ** (4 * model.nibbles - 1);
  return Float64Array.from({ length: model.n_head * perHead }, (_, i) => {
    let whole = 0;
    for (let at = i * model.nibbles; at < (i + 1) * model.nibbles; at++) {
      whole = whole * 16 + (at % 2 ? bytes[at >> 1] & 15 : bytes[at >> 1] >> 4);
    }
    return (whole - middle) * packed.units[Math.floor(i / perHead)];
  });
}

// query, key or value of one character in one head.
function vector(model, name, layer, head, position) {
  const packed = model.layers[layer][name];
  packed.unpacked ??= unpack(packed, model);
  const start = (head * TIME + position) * model.d_k;
  return packed.unpacked.subarray(start, start + model.d_k);
}

const feature = (x) => (x > 0 ? x + 1 : Math.exp(x));
const TERMS = { dot: (q, k) => q * k, squared: (q, k) => q * k, linear: (q, k) => feature(q) * feature(k) };
const SUMMED = { dot: (sum) => sum, squared: (sum) => sum * sum, linear: (sum) => Math.log(Math.max(sum, 1e-6)) };

// All stages of one character in one head: of each key its raw and scaled score, its masked one and its weight; the output.
function attend(model, layer, head, position) {
  const query = vector(model, "query", layer, head, position);
  const [first, last] = model.rows[position];
  const raw = new Float64Array(TIME);
  for (let s = 0; s < TIME; s++) {
    const key = vector(model, "key", layer, head, s);
    let sum = 0;
    for (let i = 0; i < model.d_k; i++) sum += TERMS[model.score](query[i], key[i]);
    raw[s] = SUMMED[model.score](sum);
  }
  const scaled = raw.map((score) => score * model.scale);
  const masked = scaled.map((score, s) => (first <= s && s <= last ? score : -Infinity));
  const highest = masked.reduce((a, b) => Math.max(a, b));
  const powers = masked.map((score) => Math.exp(score - highest));
  const total = powers.reduce((a, b) => a + b);
  const weights = powers.map((power) => power / total);
  const output = new Float64Array(model.d_k);
  for (let s = first; s <= last; s++) {
    vector(model, "value", layer, head, s).forEach((number, i) => (output[i] += weights[s] * number));
  }
  return { raw, scaled, masked, weights, output };
}

// The rows of all characters in one head; the latest head is kept.
function attendAll(model, layer, head) {
  if (model.kept?.layer !== layer || model.kept.head !== head) {
    model.kept = { layer, head, rows: DATA.labels.map((_, position) => attend(model, layer, head, position)) };
  }
  return model.kept.rows;
}

// --- colours -------------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = {
  light: { nothing: [255, 255, 255], half: [66, 146, 198], all: [8, 36, 90], positive: [8, 69, 148], negative: [166, 74, 0] },
  dark: { nothing: [20, 23, 28], half: [40, 110, 185], all: [220, 238, 255], positive: [110, 180, 255], negative: [255, 166, 87] },
};

function mix(from, to, share) {
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * share));
}

// A weight from 0 to 1. Its square root is shown: small weights over many characters are seen, too.
function weightColour(weight) {
  const { nothing, half, all } = COLOURS[dark.matches ? "dark" : "light"];
  const share = Math.sqrt(weight);
  return share < 0.5 ? mix(nothing, half, 2 * share) : mix(half, all, 2 * share - 1);
}

// A number of either sign, as large as `most` at most.
function signedColour(number, most) {
  const { nothing, positive, negative } = COLOURS[dark.matches ? "dark" : "light"];
  return mix(nothing, number < 0 ? negative : positive, Math.min(1, Math.abs(number) / (most || 1)));
}

const css = (colour) => `rgb(${colour.join(" ")})`;
const readable = (colour) => (colour[0] * 3 + colour[1] * 6 + colour[2] > 1275 ? "#000" : "#fff");

// --- small parts of a page -----------------------------------------------------------------------------------------

// An element; texts are set as text, so that no character of theirs can be anything else.
function element(tag, options = {}, ...children) {
  const { data, ...properties } = options;
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

function select(item, selected) {
  item.setAttribute("aria-selected", selected);
  item.tabIndex = selected ? 0 : -1;
}

function shown(number) {
  if (!Number.isFinite(number)) return number < 0 ? "-∞" : String(number);
  return Math.abs(number) < 1e5 ? number.toFixed(5) : number.toExponential(4);
}

// The two signs around a label keep a letter written from right to left from moving what stands beside it.
const isolated = (label) => `\u2068${label}\u2069`;
const name = (position) => `“${isolated(DATA.labels[position])}” (${position})`;

// Arrow keys in a row or a grid of items, of which one is selected: the standard pattern for a list of options.
function arrows(container, columns, selected, choose) {
  container.addEventListener("keydown", (event) => {
    const back = container.dir === "rtl" ? 1 : -1;
    const moves = { ArrowLeft: back, ArrowRight: -back, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const last = container.children.length - 1;
    const target = selected() + moves[event.key];
    if (Number.isFinite(target) && (target < 0 || target > last)) return;
    choose(Math.max(0, Math.min(last, target)));
    container.children[selected()].focus();
  });
}

// One bar a dimension, up or down from the middle.
function bars(vectorName, numbers) {
  const most = Math.max(...numbers.map(Math.abs)) || 1;
  const made = element("div", { className: "bars", role: "group" });
  made.setAttribute("aria-label", vectorName);
  numbers.forEach((number, i) => {
    const height = `${(50 * Math.abs(number)) / most}%`;
    const bar = element("span", { className: number < 0 ? "negative" : "positive" });
    Object.assign(bar.style, { height }, number < 0 ? { top: "50%" } : { bottom: "50%" });
    const button = element("button", { title: `${vectorName}[${i}] = ${shown(number)}`, onclick: () => choose({ dimension: i }) }, bar);
    select(button, i === state.dimension);
    made.append(button);
  });
  return made;
}

// A bar to the right or, below zero, to the left, in units of `most`.
function gauge(number, most, least) {
  const span = most - Math.min(0, least) || 1;
  const zero = -Math.min(0, least) / span;
  const size = Number.isFinite(number) ? Math.abs(number) / span : 0;
  const bar = element("span", { className: number < 0 ? "negative" : "positive" });
  bar.style.left = `${100 * (number < 0 ? zero - size : zero)}%`;
  bar.style.width = `${100 * size}%`;
  return element("td", { className: "gauge" }, element("div", {}, bar));
}

function table(className, head, rows, foot) {
  const cells = (texts) => texts.map((text) => (text instanceof Node ? text : element("td", { textContent: text })));
  const made = element("table", { className });
  made.append(element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { textContent: text })))));
  made.append(element("tbody", {}, ...rows.map(({ texts, ...options }) => {
    const row = element("tr", options, ...cells(texts));
    if (options.selected) row.setAttribute("aria-selected", "true");
    return row;
  })));
  if (foot) made.append(element("tfoot", {}, element("tr", {}, ...cells(foot))));
  return element("div", { className: "long number" }, made);
}

// Draw time × time colours into a canvas, scaled to its size.
function drawMap(canvas, size, colourAt) {
  const pixels = new ImageData(TIME, TIME);
  for (let t = 0; t < TIME; t++) {
    for (let s = 0; s < TIME; s++) pixels.data.set([...colourAt(t, s), 255], 4 * (t * TIME + s));
  }
  const small = new OffscreenCanvas(TIME, TIME);
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = TIME > size;
  context.drawImage(small, 0, 0, size, size);
  return context;
}

// --- the stages ----------------------------------------------------------------------------------------------------

const STAGES = {
  vectors: {
    title: "query, key, value",
    what: "Three vectors of d_k numbers, each a product of the character's place in the residual stream with a learned matrix.",
  },
  raw: {
    title: "raw scores",
    what: "The score of a pair: query times key, number by number, summed up. Choose a row of the list to see its sum.",
  },
  scaled: {
    title: "scaled",
    what: "Scores times the scale. Sums of d_k products of random numbers vary like d_k; times 1/√d_k they vary like 1 again, " +
      "and softmax neither takes just one character nor all alike.",
  },
  masked: {
    title: "masked",
    what: "What the mask forbids becomes −∞, and e to that power is 0. A causal mask forbids all that comes later.",
  },
  weights: {
    title: "weights",
    what: "Softmax makes shares of the scores: e to their power, over the sum of all these. Each row of the map adds up to 1.",
  },
  output: {
    title: "weighted sum",
    what: "The head's answer: the values of all characters, each times its weight, summed up. Choose a bar to see its sum.",
  },
};
const SCORE_FORMULAS = { dot: "Q Kᵀ", squared: "(Q Kᵀ)²", linear: "log φ(Q) φ(K)ᵀ" };

// The formula of a model, in parts with the stages that they stand for.
function formulaOf(model) {
  return [
    ["softmax(", "weights"], [SCORE_FORMULAS[model.score], "raw"], [` · ${model.scale_text}`, "scaled"], [" + mask", "masked"],
    [")", "weights"], [" V", "output"],
  ];
}

// What the tab of a stage holds, for one character in one head.
function detail(model, layer, head, position) {
  const stages = attend(model, layer, head, position);
  const of = (vectorName, at = position) => vector(model, vectorName, layer, head, at);
  if (state.stage === "vectors") {
    const rows = Array.from({ length: model.d_k }, (_, i) => ({
      texts: [String(i), ...["query", "key", "value"].map((each) => shown(of(each)[i]))],
      className: "pick", selected: i === state.dimension, onclick: () => choose({ dimension: i }),
    }));
    return [
      ...["query", "key", "value"].flatMap((each) => [element("p", { className: "quiet", textContent: each }), bars(each, of(each))]),
      table("vectors", ["dimension", "query", "key", "value"], rows),
    ];
  }
  if (state.stage === "output") {
    const i = state.dimension;
    const rows = DATA.labels.map((_, s) => s).filter((s) => stages.weights[s] > 0).map((s) => ({
      texts: [name(s), shown(stages.weights[s]), shown(of("value", s)[i]), shown(stages.weights[s] * of("value", s)[i])],
    }));
    return [
      element("p", { className: "quiet", textContent: `the head's answer; number ${i} of it is this sum` }),
      bars("output", stages.output),
      table("sum", ["character", "weight", `value[${i}]`, "product"], rows, ["sum", "", "", shown(stages.output[i])]),
    ];
  }
  const numbers = stages[state.stage];
  const finite = numbers.filter(Number.isFinite);
  const [least, most] = [Math.min(...finite), Math.max(0, ...finite)];
  const [first, last] = model.rows[position];
  const key = state.key ?? stages.weights.indexOf(Math.max(...stages.weights));
  const rows = DATA.labels.map((_, s) => ({
    texts: [name(s), gauge(numbers[s], most, least), shown(numbers[s])],
    className: `pick${s < first || s > last ? " forbidden" : ""}`, selected: state.stage === "raw" && s === key,
    onclick: () => choose({ key: s, stage: "raw" }),
  }));
  const list = table(state.stage, ["character", "", state.stage], rows);
  if (state.stage !== "raw") return [list];
  const [query, other] = [of("query"), of("key", key)];
  const terms = Array.from(query, (number, i) => ({
    texts: [String(i), shown(number), shown(other[i]), shown(TERMS[model.score](number, other[i]))],
  }));
  const product = model.score === "linear" ? "φ · φ" : "product";
  const sum = query.reduce((total, number, i) => total + TERMS[model.score](number, other[i]), 0);
  return [
    list,
    element("p", { className: "quiet", textContent: `query of ${name(position)}, key of ${name(key)}: score ${shown(numbers[key])}` }),
    table("product", ["dimension", "query", "key", product], terms, ["sum", "", "", shown(sum)]),
  ];
}

const FIGURES = {
  entropy: ["entropy", "how widely it looks, in nats: 0 at one character, log(n) at n alike"],
  distance: ["distance", "characters looked back, mean"],
  saturated: ["saturated", "share of the rows with nearly all weight (over 0.9) on one character"],
  raw_variance: ["var. raw", "variance of the scores before scaling: about d_k for random queries and keys"],
  scaled_variance: ["var. scaled", "the same after scaling: about 1 if the scale is 1/√d_k"],
  previous: ["previous", "weight on the character before, in a text that the model wrote itself"],
  line_start: ["line start", "weight on the beginning of the line, in the same text"],
  induction: ["induction", "weight on what followed the same character last time, in a random text that is repeated (Olsson et al. 2022)"],
};
const BADGES = { previous: "previous", line_start: "line start", induction: "induction" };

// --- a viewer of one model -----------------------------------------------------------------------------------------

function viewer(model) {
  const root = document.querySelector("template").content.firstElementChild.cloneNode(true);
  const find = (selector) => root.querySelector(selector);
  const here = () => ({ layer: Math.min(state.layer, model.n_layer - 1), head: Math.min(state.head, model.n_head - 1) });
  const asking = () => state.hovered ?? state.position;

  find(".title").textContent = model.title;
  find(".caption").textContent = model.caption;
  find(".weights-code").textContent = DATA.code.weights;
  find(".next-code").textContent = DATA.code.next;

  // the text
  const strip = find(".strip");
  strip.dir = DATA.direction;
  DATA.labels.forEach((label, position) => {
    const [guess, chance] = model.predictions[model.n_layer][position][0];
    const next = element("span", { className: "next", textContent: guess, title: `next: ${guess} ${chance}` });
    next.style.opacity = 0.25 + 0.75 * chance;
    const kind = label.startsWith("U+") ? "code-point" : "";
    strip.append(element("button", {
      data: { position }, title: name(position), role: "option",
      onclick: () => choose({ position, key: null }),
      onpointerenter: (event) => event.pointerType === "mouse" && choose({ hovered: position }),
    }, element("span", { className: kind, textContent: label }), next));
  });
  strip.addEventListener("pointerleave", () => choose({ hovered: null }));
  arrows(strip, TIME, () => state.position, (position) => choose({ position, hovered: null, key: null }));

  // the heads
  const heads = find(".heads");
  heads.style.gridTemplateColumns = `repeat(${model.n_head}, minmax(2.75rem, ${model.n_head < 9 ? "8rem" : "1fr"}))`;
  for (let layer = 0; layer < model.n_layer; layer++) {
    for (let head = 0; head < model.n_head; head++) {
      const label = `layer ${layer}, head ${head}`;
      const button = element("button", { title: label, role: "option", data: { layer, head }, onclick: () => choose({ layer, head, key: null }) },
        element("canvas"), element("span", { className: "name", textContent: `${layer}.${head}` }));
      button.setAttribute("aria-label", label);
      heads.append(button);
    }
  }
  const headIndex = () => here().layer * model.n_head + here().head;
  arrows(heads, model.n_head, headIndex, (i) => choose({ layer: Math.floor(i / model.n_head), head: i % model.n_head, key: null }));

  function drawHeads() {
    // one after another, so that the page answers while it draws hundreds of them
    const buttons = [...heads.children];
    const next = () => {
      const button = buttons.shift();
      if (!button) return;
      const [layer, head] = [Number(button.dataset.layer), Number(button.dataset.head)];
      const rows = DATA.labels.map((_, position) => attend(model, layer, head, position).weights);
      drawMap(button.firstElementChild, 96, (t, s) => weightColour(rows[t][s]));
      setTimeout(next);
    };
    next();
  }

  // the formula and its stages
  const formula = find(".formula");
  for (const [text, stage] of formulaOf(model)) formula.append(element("span", { className: "part", textContent: text, data: { stage } }));
  const tabs = find("[role='tablist']");
  for (const [stage, { title }] of Object.entries(STAGES)) {
    tabs.append(element("button", { textContent: title, role: "tab", data: { stage }, onclick: () => choose({ stage }) }));
  }
  const names = Object.keys(STAGES);
  arrows(tabs, names.length, () => names.indexOf(state.stage), (i) => choose({ stage: names[i] }));

  // the large map
  const map = find(".map");
  map.addEventListener("pointermove", point);
  map.addEventListener("pointerdown", (event) => choose({ position: point(event), key: null }));
  map.addEventListener("pointerleave", () => choose({ hovered: null }));
  map.addEventListener("keydown", (event) => {
    const step = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose({ position: Math.max(0, Math.min(TIME - 1, state.position + step)), key: null });
  });

  function point(event) {
    const box = map.getBoundingClientRect();
    const place = (at, size) => Math.max(0, Math.min(TIME - 1, Math.floor((at / size) * (TIME + 1)) - 1));
    const [t, s] = [place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width)];
    if (event.pointerType === "mouse" && state.hovered !== t) choose({ hovered: t });
    const { layer, head } = here();
    const row = attendAll(model, layer, head)[t];
    find(".readout").textContent = `${name(t)} asks ${name(s)}: score ${shown(row.scaled[s])}, weight ${shown(row.weights[s])}`;
    return t;
  }

  // What the map shows is scores before the mask, scores after it, or weights.
  function drawLarge() {
    const { layer, head } = here();
    const rows = attendAll(model, layer, head);
    const shownStage = state.stage in rows[0] && state.stage !== "output" ? state.stage : "weights";
    const scores = shownStage !== "weights";
    const most = scores ? Math.max(...rows.map((row) => Math.max(...row[shownStage].filter(Number.isFinite).map(Math.abs)))) : 1;
    const { nothing } = COLOURS[dark.matches ? "dark" : "light"];
    const colourAt = (t, s) => {
      const number = rows[t][shownStage][s];
      return !scores ? weightColour(number) : Number.isFinite(number) ? signedColour(number, most) : mix(nothing, [128, 128, 128], 0.5);
    };
    const size = Math.round(Math.min(640, map.clientWidth || 480) * Math.min(devicePixelRatio, 2));
    const cell = size / (TIME + 1); // a row and a column for the characters
    const inner = new OffscreenCanvas(1, 1);
    drawMap(inner, Math.max(1, Math.round(cell * TIME)), colourAt);
    map.width = map.height = size;
    const context = map.getContext("2d");
    context.drawImage(inner, cell, cell);
    const style = getComputedStyle(root);
    context.fillStyle = style.color;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.font = `${Math.min(cell * 0.8, 18 * devicePixelRatio)}px ui-monospace, monospace`;
    if (cell > 6) {
      DATA.labels.forEach((label, i) => {
        const at = (i + 1.5) * cell;
        context.fillText(label, at, cell / 2, cell);
        context.fillText(label, cell / 2, at, cell);
      });
    }
    context.strokeStyle = style.getPropertyValue("--negative");
    context.lineWidth = Math.max(1, Math.min(3, cell / 6));
    context.strokeRect(cell, (asking() + 1) * cell, cell * TIME, cell);
    map.setAttribute("aria-label", `${shownStage} of layer ${layer}, head ${head}: rows ask, columns are asked`);
    find(".least").textContent = scores ? shown(-most) : "0";
    find(".most").textContent = scores ? shown(most) : "1";
    const legend = find(".legend").getContext("2d");
    for (let x = 0; x < 128; x++) {
      legend.fillStyle = css(scores ? signedColour(x / 63.5 - 1, 1) : weightColour(x / 127));
      legend.fillRect(x, 0, 1, 1);
    }
  }

  // the figures of all heads
  const figures = find(".figures");
  const sorted = { key: null, descending: true };
  for (const [title, meaning] of Object.values(FIGURES)) {
    find(".meanings").append(element("dt", { textContent: title }), element("dd", { textContent: meaning }));
  }

  function fillFigures() {
    const order = model.heads.slice();
    if (sorted.key) order.sort((a, b) => (sorted.descending ? b[sorted.key] - a[sorted.key] : a[sorted.key] - b[sorted.key]));
    const head = element("tr", {}, element("th", { textContent: "head" }));
    for (const [key, [title, meaning]] of Object.entries(FIGURES)) {
      const sort = () => {
        sorted.descending = sorted.key === key ? !sorted.descending : true;
        sorted.key = key;
        fillFigures();
        figures.querySelector(`[data-key='${key}']`).focus();
      };
      const cell = element("th", {}, element("button", { textContent: title, title: meaning, data: { key }, onclick: sort }));
      if (sorted.key === key) cell.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
      head.append(cell);
    }
    const body = order.map((figure) => {
      const first = element("td", { textContent: `${figure.layer}.${figure.head} ` });
      for (const [key, text] of Object.entries(BADGES)) {
        if (figure[key] > SURE) first.append(element("span", { className: "badge", textContent: text }), " ");
      }
      const numbers = Object.keys(FIGURES).map((key) => element("td", { textContent: figure[key].toFixed(figure[key] < 100 ? 2 : 0), data: { key } }));
      const choice = { layer: figure.layer, head: figure.head, key: null };
      return element("tr", { data: { layer: figure.layer, head: figure.head }, onclick: () => choose(choice) }, first, ...numbers);
    });
    figures.replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
    markFigures();
  }

  function markFigures() {
    const { layer, head } = here();
    for (const row of figures.tBodies[0].rows) {
      row.setAttribute("aria-selected", Number(row.dataset.layer) === layer && Number(row.dataset.head) === head);
    }
  }

  // what it would say after each layer
  function fillSaid() {
    const position = asking();
    const following = DATA.labels[position + 1];
    const rows = model.predictions.map((places, depth) => {
      const guesses = places[position].map(([label, chance]) => {
        const colour = weightColour(chance);
        const guess = element("span", { className: `guess${label === following ? " right" : ""}`, textContent: `${isolated(label)} ${chance.toFixed(3)}` });
        Object.assign(guess.style, { background: css(colour), color: readable(colour) });
        return guess;
      });
      const after = depth ? `layer ${depth - 1}` : "embedding";
      return element("tr", { data: { depth } }, element("td", { textContent: after }), element("td", {}, ...guesses));
    });
    find(".said").replaceChildren(element("tbody", {}, ...rows));
  }

  function render() {
    const { layer, head } = here();
    const position = asking();
    const { weights } = attendAll(model, layer, head)[position];
    [...strip.children].forEach((button, s) => {
      const colour = weightColour(weights[s]);
      button.style.background = weights[s] > 0 ? css(colour) : "";
      button.firstElementChild.style.color = weights[s] > 0 ? readable(colour) : "";
      button.lastElementChild.style.color = weights[s] > 0 ? readable(colour) : "";
      select(button, s === position);
    });
    [...heads.children].forEach((button, i) => select(button, i === headIndex()));
    [...tabs.children].forEach((button) => select(button, button.dataset.stage === state.stage));
    for (const part of formula.querySelectorAll(".part")) part.classList.toggle("now", part.dataset.stage === state.stage);
    find(".head-name").textContent = `Layer ${layer}, head ${head}: ${name(position)} asks`;
    find(".what").textContent = STAGES[state.stage].what;
    find(".code").textContent = DATA.code[state.stage];
    state.dimension = Math.min(state.dimension, model.d_k - 1);
    find(".detail").replaceChildren(...detail(model, layer, head, position));
    drawLarge();
    markFigures();
    fillSaid();
  }

  fillFigures();
  return { root, render, drawHeads };
}

const viewers = DATA.models.map(viewer);

function choose(change) {
  Object.assign(state, change);
  for (const each of viewers) each.render();
}

function redraw() {
  for (const each of viewers) each.drawHeads();
  choose({});
}

document.querySelector("main").append(...viewers.map((each) => each.root));
Object.assign(state, DATA.start);
redraw();
dark.addEventListener("change", redraw);
addEventListener("resize", () => choose({}));
