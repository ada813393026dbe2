"use strict";

// The script of explain.py's page. explain.py provides what the model computed: queries, keys,
// values, and the predictions after each layer. Scores, weights and outputs are computed here, by
// the formulas that the page shows.
//
// DATA has one entry in `models` for each model on the page. One `state` is shared by all of them,
// so that models side by side show the same character, head and stage.

const DATA = JSON.parse(document.querySelector("script[type='application/json']").textContent);
const TEXTS = DATA.texts; // `text`, which the model reads or writes; `source`, if it translates one

const state = {
  kind: null, // of attention: encoder, decoder or cross; null for the one that is shown first
  position: Infinity, // of the selected character, whose query is shown; beyond the end: the last
  hovered: null, // position under the mouse, shown in place of the selected one
  layer: 0,
  head: 0,
  stage: "weights", // a key of STAGES
  key: null, // position of the key whose score is written out; null for the one of most weight
  dimension: 0, // of the head's vectors, whose weighted sum is written out
};

// --- attention -----------------------------------------------------------------------------------

// The kinds of attention of a model, each with all that the formulas below need: its own numbers,
// those of the model, and which of TEXTS its queries and its keys are of. A decoder or an encoder
// alone has one kind.
function partsOf(model) {
  const translates = model.parts.length > 1;
  return model.parts.map((part) => {
    const queries = translates && part.kind === "encoder" ? "source" : "text";
    const keys = part.kind === "cross" ? "source" : queries;
    const [time, seen] = [TEXTS[queries].labels.length, TEXTS[keys].labels.length];
    return { ...model, ...part, translates, queries, keys, time, seen };
  });
}

// Unpacks one of a layer's tensors: a Float64Array of heads × time × d_k. The numbers are unsigned
// integers of `nibbles` half bytes each, high one first, in base64: see `pack` in
// kqv/inside/page.py.
function unpack(packed, part, time) {
  const bytes = Uint8Array.from(atob(packed.numbers), (character) => character.charCodeAt(0));
  const perHead = time * part.d_k;
  const zero = 2 ** (4 * part.nibbles - 1);
  return Float64Array.from({ length: part.n_head * perHead }, (_, i) => {
    let integer = 0;
    for (let at = i * part.nibbles; at < (i + 1) * part.nibbles; at++) {
      integer = integer * 16 + (at % 2 ? bytes[at >> 1] & 15 : bytes[at >> 1] >> 4);
    }
    return (integer - zero) * packed.units[Math.floor(i / perHead)];
  });
}

// The query, key or value of one character in one head, d_k numbers.
function vector(part, which, layer, head, position) {
  const packed = part.layers[layer][which];
  const time = which === "query" ? part.time : part.seen;
  packed.unpacked ??= unpack(packed, part, time);
  const start = (head * time + position) * part.d_k;
  return packed.unpacked.subarray(start, start + part.d_k);
}

// A score is a sum of terms, one for each dimension, and a function of that sum.
const featureMap = (x) => (x > 0 ? x + 1 : Math.exp(x)); // φ of linear attention: elu(x) + 1
const TERMS = {
  dot: (q, k) => q * k,
  squared: (q, k) => q * k,
  linear: (q, k) => featureMap(q) * featureMap(k),
};
const FROM_SUM = {
  dot: (sum) => sum,
  squared: (sum) => sum * sum,
  linear: (sum) => Math.log(Math.max(sum, 1e-6)),
};

function rawScore(part, query, key) {
  const term = TERMS[part.score];
  let sum = 0;
  for (let i = 0; i < part.d_k; i++) sum += term(query[i], key[i]);
  return FROM_SUM[part.score](sum);
}

function softmax(scores) {
  const highest = scores.reduce((a, b) => Math.max(a, b));
  const powers = scores.map((score) => Math.exp(score - highest));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}

// All stages of attention for the query of one character in one head. raw, scaled, masked and
// weights have a number for each key; output has d_k.
function attend(part, layer, head, position) {
  const query = vector(part, "query", layer, head, position);
  const [first, last] = part.rows[position]; // the positions that the mask allows
  const raw = new Float64Array(part.seen);
  for (let s = 0; s < part.seen; s++) {
    raw[s] = rawScore(part, query, vector(part, "key", layer, head, s));
  }
  const scaled = raw.map((score) => score * part.scale);
  // Relative positions add a number for each distance, from -(seen - 1) on.
  const bias = (s) => part.bias?.[head][position - s + part.seen - 1] ?? 0;
  const masked = scaled.map((score, s) => (first <= s && s <= last ? score + bias(s) : -Infinity));
  const weights = softmax(masked);
  const output = new Float64Array(part.d_k);
  for (let s = first; s <= last; s++) {
    const value = vector(part, "value", layer, head, s);
    value.forEach((number, i) => (output[i] += weights[s] * number));
  }
  return { raw, scaled, masked, weights, output };
}

// `attend` for every query. The latest head is cached.
function attendAll(part, layer, head) {
  if (part.cached?.layer !== layer || part.cached.head !== head) {
    const rows = part.rows.map((_, position) => attend(part, layer, head, position));
    part.cached = { layer, head, rows };
  }
  return part.cached.rows;
}

// --- colours -------------------------------------------------------------------------------------

const darkMode = matchMedia("(prefers-color-scheme: dark)");
const LIGHT = {
  nothing: [255, 255, 255],
  half: [66, 146, 198],
  all: [8, 36, 90],
  positive: [8, 69, 148],
  negative: [166, 74, 0],
};
const DARK = {
  nothing: [20, 23, 28],
  half: [40, 110, 185],
  all: [220, 238, 255],
  positive: [110, 180, 255],
  negative: [255, 166, 87],
};
const palette = () => (darkMode.matches ? DARK : LIGHT);

function mix(from, to, fraction) {
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * fraction));
}

// For a weight from 0 to 1. Its square root is drawn, so that small weights are visible too.
function weightColour(weight) {
  const { nothing, half, all } = palette();
  const fraction = Math.sqrt(weight);
  return fraction < 0.5 ? mix(nothing, half, 2 * fraction) : mix(half, all, 2 * fraction - 1);
}

// For a number of either sign, of at most the size `most`.
function signedColour(number, most) {
  const { nothing, positive, negative } = palette();
  const fraction = Math.min(1, Math.abs(number) / (most || 1));
  return mix(nothing, number < 0 ? negative : positive, fraction);
}

const maskedColour = () => mix(palette().nothing, [128, 128, 128], 0.5);
const css = (colour) => `rgb(${colour.join(" ")})`;
// Black or white text, whichever is legible on a colour.
const legible = ([red, green, blue]) => (red * 3 + green * 6 + blue > 1275 ? "#000" : "#fff");

// --- building blocks of the page -----------------------------------------------------------------

// A new element. Text is only ever set as text, so no character of it can become markup.
function element(tag, options = {}, ...children) {
  const { data, ...properties } = options;
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

function markSelected(item, selected) {
  item.setAttribute("aria-selected", selected);
  item.tabIndex = selected ? 0 : -1;
}

function format(number) {
  if (!Number.isFinite(number)) return number < 0 ? "-∞" : String(number);
  return Math.abs(number) < 1e5 ? number.toFixed(5) : number.toExponential(4);
}

// Isolates keep a right-to-left letter from reordering what stands beside it.
const isolated = (label) => `\u2068${label}\u2069`;
const name = (text, position) => `“${isolated(TEXTS[text].labels[position])}” (${position})`;
const queryName = (part, position) => name(part.queries, position);
const keyName = (part, position) => name(part.keys, position);
const quiet = (textContent) => element("p", { className: "quiet", textContent });

// Arrow keys, Home and End in a list or grid of items, one of which is selected (the listbox
// pattern of WAI-ARIA). `selected` returns the index of that item, `choose` selects another.
function navigateByKeys(container, columns, selected, choose) {
  container.addEventListener("keydown", (event) => {
    const back = container.dir === "rtl" ? 1 : -1;
    const moves = {
      ArrowLeft: back,
      ArrowRight: -back,
      ArrowUp: -columns,
      ArrowDown: columns,
      Home: -Infinity,
      End: Infinity,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const last = container.children.length - 1;
    const target = selected() + moves[event.key];
    if (Number.isFinite(target) && (target < 0 || target > last)) return;
    choose(Math.max(0, Math.min(last, target)));
    container.children[selected()].focus();
  });
}

// A bar chart of a vector: a button for each dimension, up or down from the middle.
function bars(title, numbers) {
  const most = Math.max(...numbers.map(Math.abs)) || 1;
  const chart = element("div", { className: "bars", role: "group" });
  chart.setAttribute("aria-label", title);
  numbers.forEach((number, i) => {
    const height = `${(50 * Math.abs(number)) / most}%`;
    const bar = element("span", { className: number < 0 ? "negative" : "positive" });
    Object.assign(bar.style, { height }, number < 0 ? { top: "50%" } : { bottom: "50%" });
    const tooltip = `${title}[${i}] = ${format(number)}`;
    const onclick = () => choose({ dimension: i });
    const button = element("button", { title: tooltip, onclick }, bar);
    markSelected(button, i === state.dimension);
    chart.append(button);
  });
  return chart;
}

// A table cell with a bar to the right or, below zero, to the left. All bars of a table share the
// range from `least` (or 0) to `most`.
function gauge(number, least, most) {
  const range = most - Math.min(0, least) || 1;
  const zero = -Math.min(0, least) / range;
  const size = Number.isFinite(number) ? Math.abs(number) / range : 0;
  const bar = element("span", { className: number < 0 ? "negative" : "positive" });
  bar.style.left = `${100 * (number < 0 ? zero - size : zero)}%`;
  bar.style.width = `${100 * size}%`;
  return element("td", { className: "gauge" }, element("div", {}, bar));
}

// A table that scrolls. Each of `rows` has `cells` (texts or elements) and options of the row.
function table(className, head, rows, foot) {
  const cell = (content) =>
    content instanceof Node ? content : element("td", { textContent: content });
  const titles = head.map((text) => element("th", { textContent: text }));
  const body = rows.map(({ cells, ...options }) => {
    const row = element("tr", options, ...cells.map(cell));
    if (options.selected) row.setAttribute("aria-selected", "true");
    return row;
  });
  const made = element("table", { className });
  made.append(element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...body));
  if (foot) made.append(element("tfoot", {}, element("tr", {}, ...foot.map(cell))));
  return element("div", { className: "long number" }, made);
}

// Draws a map: a cell for each query (a row) and key (a column), scaled up to the size in pixels.
function drawMap(canvas, width, height, part, colourAt) {
  const pixels = new ImageData(part.seen, part.time);
  for (let t = 0; t < part.time; t++) {
    for (let s = 0; s < part.seen; s++) {
      pixels.data.set([...colourAt(t, s), 255], 4 * (t * part.seen + s));
    }
  }
  const small = new OffscreenCanvas(part.seen, part.time);
  small.getContext("2d").putImageData(pixels, 0, 0);
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = part.seen > width || part.time > height;
  context.drawImage(small, 0, 0, width, height);
}

// --- the stages of attention ---------------------------------------------------------------------

const STAGES = {
  vectors: {
    title: "query, key, value",
    what:
      "Three vectors of d_k numbers: the character's row of the residual stream, normalised, " +
      "times a learned matrix for each.",
  },
  raw: {
    title: "raw scores",
    what:
      "The score of a query and a key: multiply them number by number, and add up. Choose a row " +
      "of the list to see its sum.",
  },
  scaled: {
    title: "scaled",
    what:
      "Scores times the scale. A sum of d_k products of random numbers has variance d_k; times " +
      "1/√d_k the variance is 1, and softmax neither picks one character nor treats all alike.",
  },
  masked: {
    title: "masked",
    what:
      "Where the mask forbids to look, the score becomes −∞, and e to that power is 0. A causal " +
      "mask hides all that comes later.",
  },
  weights: {
    title: "weights",
    what:
      "Softmax makes weights of a row of scores: e to the power of each, divided by the sum of " +
      "all these. Each row of the map adds up to 1.",
  },
  output: {
    title: "weighted sum",
    what:
      "The head's output: the sum of all values, each times its weight. Choose a bar to see its " +
      "sum.",
  },
};
const SCORE_FORMULAS = {
  dot: "Q Kᵀ",
  squared: "(Q Kᵀ)²",
  linear: "log φ(Q) φ(K)ᵀ",
};

// What is said of a stage where it is not the same in all models.
const CROSS_VECTORS =
  "The query is of a character of the target: its row of the decoder's residual stream, " +
  "normalised, times a learned matrix. Key and value are of a character of the source: its row of " +
  "the encoder's output, times a matrix for each.";
const NOTHING_MASKED = "Nothing is masked here: every character of the text may be seen.";
const BIAS =
  " Relative positions add a number for each distance, which all layers share (Raffel et al. " +
  "2020, T5).";

// An encoder and cross-attention have no mask, unless a window limits how far they look.
function isMasked(part) {
  const seesAll = ([first, last]) => first === 0 && last === part.seen - 1;
  return part.kind === "decoder" || !part.rows.every(seesAll);
}

function whatOf(part, stage) {
  const what = STAGES[stage].what;
  if (stage === "vectors") return part.kind === "cross" ? CROSS_VECTORS : what;
  if (stage !== "masked") return what;
  return (isMasked(part) ? what : NOTHING_MASKED) + (part.bias ? BIAS : "");
}

// The formula of attention, in pieces [text, stage].
function attentionFormula(part) {
  const added = (part.bias ? " + bias" : "") + (isMasked(part) ? " + mask" : "");
  return [
    ["softmax(", "weights"],
    [SCORE_FORMULAS[part.score], "raw"],
    [` · ${part.scale_text}`, "scaled"],
    [added, "masked"],
    [")", "weights"],
    [" V", "output"],
  ];
}

// What the tab of the open stage holds, for the query of one character in one head.
function stageDetail(part, layer, head, position, key) {
  const at = (which, where = position) => vector(part, which, layer, head, where);
  const stages = attendAll(part, layer, head)[position];
  if (state.stage === "vectors") return vectorDetail(part, at, position, key);
  if (state.stage === "output") return outputDetail(part, stages, at);
  const list = scoreList(part, stages[state.stage], position, key);
  if (state.stage !== "raw") return [list];
  return [list, ...scoreSum(part, at, position, key, stages.raw[key])];
}

const mostWeight = (weights) => weights.indexOf(Math.max(...weights));

// Query, key and value of one character; in cross-attention the query of one of the target, key and
// value of one of the source.
function vectorDetail(part, at, position, key) {
  const kinds = ["query", "key", "value"];
  const crosses = part.kind === "cross";
  const vectors = crosses ? [at("query"), at("key", key), at("value", key)] : kinds.map((k) => at(k));
  const owners = [queryName(part, position), keyName(part, key), keyName(part, key)];
  const rows = Array.from({ length: part.d_k }, (_, i) => ({
    cells: [String(i), ...vectors.map((numbers) => format(numbers[i]))],
    className: "pick",
    selected: i === state.dimension,
    onclick: () => choose({ dimension: i }),
  }));
  return [
    ...kinds.flatMap((kind, i) => [
      quiet(crosses ? `${kind} of ${owners[i]}` : kind),
      bars(kind, vectors[i]),
    ]),
    table("vectors", ["dimension", ...kinds], rows),
  ];
}

// The output vector, and one dimension of it written out as a sum over the characters.
function outputDetail(part, { weights, output }, at) {
  const i = state.dimension;
  const positions = Array.from(weights.keys()).filter((s) => weights[s] > 0);
  const rows = positions.map((s) => {
    const number = at("value", s)[i];
    const product = format(weights[s] * number);
    return { cells: [keyName(part, s), format(weights[s]), format(number), product] };
  });
  const titles = ["character", "weight", `value[${i}]`, "product"];
  return [
    quiet(`the head's output; its number ${i} is this sum`),
    bars("output", output),
    table("sum", titles, rows, ["sum", "", "", format(output[i])]),
  ];
}

// The numbers of one stage, a row for each key. In the raw stage one key is selected.
function scoreList(part, numbers, position, selectedKey) {
  const finite = numbers.filter(Number.isFinite);
  const [least, most] = [Math.min(...finite), Math.max(0, ...finite)];
  const [first, last] = part.rows[position];
  const rows = Array.from(numbers, (number, s) => ({
    cells: [keyName(part, s), gauge(number, least, most), format(number)],
    className: first <= s && s <= last ? "pick" : "pick forbidden",
    selected: state.stage === "raw" && s === selectedKey,
    onclick: () => choose({ key: s, stage: "raw" }),
  }));
  return table(state.stage, ["character", "", state.stage], rows);
}

// One score written out as a sum over the dimensions.
function scoreSum(part, at, position, key, score) {
  const [query, other] = [at("query"), at("key", key)];
  const products = query.map((number, i) => TERMS[part.score](number, other[i]));
  const rows = Array.from(products, (product, i) => ({
    cells: [String(i), format(query[i]), format(other[i]), format(product)],
  }));
  const sum = products.reduce((a, b) => a + b);
  const term = part.score === "linear" ? "φ · φ" : "product";
  const pair = `query of ${queryName(part, position)}, key of ${keyName(part, key)}`;
  return [
    quiet(`${pair}: score ${format(score)}`),
    table("product", ["dimension", "query", "key", term], rows, ["sum", "", "", format(sum)]),
  ];
}

const PART_TITLES = {
  encoder: "Encoder, layer",
  decoder: "Decoder, layer",
  cross: "Cross-attention, layer",
};

// The head and the character that are shown, as a title.
function headTitle(part, layer, head, position) {
  const start = part.translates ? PART_TITLES[part.kind] : "Layer";
  const title = `${start} ${layer}, head ${head}: query of ${queryName(part, position)}`;
  return part.kind === "cross" ? `${title} of the target, keys and values of the source` : title;
}

// One plain sentence about the query of a character, in a model that translates.
function sentence(part, position, weights) {
  if (!part.translates) return "";
  const key = mostWeight(weights);
  const [query, seen] = [queryName(part, position), keyName(part, key)];
  const weight = `weight ${weights[key].toFixed(2)}`;
  if (part.kind !== "cross") return `${query} looks most at ${seen}: ${weight}.`;
  return `To write what follows ${query}, the decoder looks most at ${seen} of the source: ${weight}.`;
}

// --- the figures of a head -----------------------------------------------------------------------

// Title and meaning of each of HeadFigures; MEANINGS in kqv/inside/figures.py has more words.
const FIGURES = {
  entropy: [
    "entropy",
    "of the weights, in nats: 0 if one character has all, log(n) if n share it evenly",
  ],
  distance: ["distance", "how many characters away it looks, mean"],
  saturated: ["saturated", "share of the rows with weight over 0.9 on one character"],
  raw_variance: ["var. raw", "variance of the scores before scaling: about d_k for random vectors"],
  scaled_variance: ["var. scaled", "the same after scaling: about 1 if the scale is 1/√d_k"],
  previous: [
    "previous",
    "weight on the previous character; of a decoder alone, in a text that it generated",
  ],
  line_start: ["line start", "weight on the start of the line, in the same text"],
  induction: [
    "induction",
    "weight on what followed the same character last time, in a random text that is repeated " +
      "(Olsson et al. 2022)",
  ],
  itself: ["itself", "weight on the character itself"],
  following: ["next", "weight on the next character"],
  first: ["first", "weight on the first character"],
  diagonal: ["off diagonal", "distance from the diagonal of the map, as a share of its side, mean"],
  alignment: [
    "alignment",
    "correlation of the places in target and source, by weight: 1 if it reads the source in step " +
      "with the target, 0 if in no order, -1 backwards",
  ],
};
// Labels for what a head does, by the figure that tells.
const BADGES = {
  previous: "previous",
  line_start: "line start",
  induction: "induction",
  itself: "itself",
  following: "next",
  first: "first",
  alignment: "aligned",
};
const BADGE_THRESHOLD = 1 / 3; // of a head's weight
const ALIGNED = 0.8; // a correlation

function badges(figures) {
  const least = (key) => (key === "alignment" ? ALIGNED : BADGE_THRESHOLD);
  const kinds = Object.keys(BADGES).filter((key) => figures[key] > least(key));
  const badge = (key) => element("span", { className: "badge", textContent: BADGES[key] });
  return kinds.flatMap((key) => [badge(key), " "]);
}

// --- a viewer: everything that the page shows of one model ---------------------------------------

class Viewer {
  constructor(model) {
    this.model = model;
    this.parts = partsOf(model);
    this.root = document.querySelector("template").content.firstElementChild.cloneNode(true);
    this.find(".title").textContent = model.title;
    this.find(".caption").textContent = model.caption;
    this.find(".weights-code").textContent = DATA.code.weights;
    this.find(".next-code").textContent = DATA.code.next;
    if (model.blanks) this.tellOfBlanks();
    this.buildText();
    this.buildKinds();
    this.buildHeads();
    this.buildStages();
    this.buildMap();
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  // The kind of attention that is shown: the chosen one, or the last that this model has.
  get part() {
    return this.parts.find((part) => part.kind === state.kind) ?? this.parts.at(-1);
  }

  // The head that is shown: the chosen one, or the nearest that this model has.
  get layer() {
    return Math.min(state.layer, this.part.layers.length - 1);
  }

  get head() {
    return Math.min(state.head, this.model.n_head - 1);
  }

  // The position whose query is shown, and the one that is selected.
  get position() {
    return state.hovered ?? this.selected;
  }

  get selected() {
    return Math.min(state.position, this.part.time - 1);
  }

  // --- what is built once ---

  // An encoder predicts the character at each place, not the next one.
  tellOfBlanks() {
    const below = this.model.blanks.length
      ? "Below each blank, □, is the character that the model fills in"
      : "Below each is the character that the model would fill in if it were a blank, □, for " +
        "which alone it has learned to; mark some with --blank";
    this.find(".of-next").textContent = `${below}; fainter where it is less sure.`;
    this.find(".guessed").textContent = "The likeliest characters at the selected place";
    this.find(".framed").textContent = "Framed: the character that stands there.";
  }

  // The text, below each character the likeliest next one; before it the source, if there is one.
  buildText() {
    this.strips = { text: this.find(".strip") };
    if (TEXTS.source) {
      const source = this.strips.text.cloneNode();
      source.classList.replace("characters", "source");
      source.setAttribute("aria-label", "the source: choose a character");
      this.strips.text.before(source);
      this.strips.source = source;
    }
    for (const [text, strip] of Object.entries(this.strips)) this.fillStrip(text, strip);
  }

  fillStrip(text, strip) {
    const { labels, direction } = TEXTS[text];
    strip.dir = direction;
    labels.forEach((label, position) => {
      const className = label.startsWith("U+") ? "code-point" : "";
      const options = {
        data: { position },
        title: name(text, position),
        role: "option",
        onclick: () => this.pick(text, position),
        onpointerenter: (event) =>
          event.pointerType === "mouse" &&
          text === this.part.queries &&
          choose({ hovered: position }),
      };
      const character = element("span", { className, textContent: label });
      const next = text === "text" ? [this.nextOf(position)] : [];
      strip.append(element("button", options, character, ...next));
    });
    strip.addEventListener("pointerleave", () => choose({ hovered: null }));
    const isKeys = () => text !== this.part.queries;
    const selected = () => (isKeys() ? this.key : this.selected);
    navigateByKeys(strip, labels.length, selected, (position) => this.pick(text, position));
  }

  // The likeliest character after a position of the text; of an encoder, in each blank.
  nextOf(position) {
    const { blanks, predictions } = this.model;
    if (blanks?.length && !blanks.includes(position)) return element("span", { className: "next" });
    const [guess, probability] = predictions.at(-1)[position][0];
    const title = `${blanks ? "here" : "next"}: ${guess} ${probability}`;
    const next = element("span", { className: "next", textContent: guess, title });
    next.style.opacity = 0.25 + 0.75 * probability;
    return next;
  }

  // Selects a character: its query or, if queries are of the other text, its key.
  pick(text, position) {
    if (text === this.part.queries) choose({ position, hovered: null, key: null });
    else choose({ key: position, stage: "raw" });
  }

  // The key whose score is written out.
  get key() {
    const { weights } = attendAll(this.part, this.layer, this.head)[this.position];
    return Math.min(state.key ?? mostWeight(weights), this.part.seen - 1);
  }

  // Tabs for the kinds of attention, if there are several.
  buildKinds() {
    if (this.parts.length === 1) return;
    const tabs = this.find(".kinds");
    const kinds = this.parts.map((part) => part.kind);
    const open = (kind) => choose({ kind, position: Infinity, hovered: null, key: null });
    for (const kind of kinds) {
      const options = { textContent: kind, role: "tab", data: { kind }, onclick: () => open(kind) };
      tabs.append(element("button", options));
    }
    const selected = () => kinds.indexOf(this.part.kind);
    navigateByKeys(tabs, kinds.length, selected, (i) => open(kinds[i]));
  }

  // A small map for each head. Kinds of attention may differ in their layers.
  buildHeads() {
    const { n_head } = this.model;
    const grid = this.find(".heads");
    const widest = n_head < 9 ? "8rem" : "1fr";
    grid.style.gridTemplateColumns = `repeat(${n_head}, minmax(2.75rem, ${widest}))`;
    const select = (i) =>
      choose({ layer: Math.floor(i / n_head), head: i % n_head, key: null });
    navigateByKeys(grid, n_head, () => this.layer * n_head + this.head, select);
  }

  fillHeads() {
    const buttons = this.part.layers.flatMap((_, layer) =>
      Array.from({ length: this.model.n_head }, (_, head) => this.headButton(layer, head)),
    );
    this.find(".heads").replaceChildren(...buttons);
  }

  headButton(layer, head) {
    const title = `layer ${layer}, head ${head}`;
    const onclick = () => choose({ layer, head, key: null });
    const caption = element("span", { className: "name", textContent: `${layer}.${head}` });
    const options = { title, role: "option", data: { layer, head }, onclick };
    const button = element("button", options, element("canvas"), caption);
    button.setAttribute("aria-label", title);
    return button;
  }

  // The tabs of the stages.
  buildStages() {
    const tabs = this.find(".stages");
    const stages = Object.keys(STAGES);
    for (const stage of stages) {
      const onclick = () => choose({ stage });
      const textContent = STAGES[stage].title;
      tabs.append(element("button", { textContent, role: "tab", data: { stage }, onclick }));
    }
    const selected = () => stages.indexOf(state.stage);
    navigateByKeys(tabs, stages.length, selected, (i) => choose({ stage: stages[i] }));
  }

  fillFormula() {
    const pieces = attentionFormula(this.part).map(([textContent, stage]) =>
      element("span", { className: "part", textContent, data: { stage } }),
    );
    this.find(".formula").replaceChildren(...pieces);
  }

  // The large map answers the mouse, a finger and arrow keys.
  buildMap() {
    const map = this.find(".map");
    map.addEventListener("pointermove", (event) => this.pointAt(event));
    map.addEventListener("pointerdown", (event) => {
      choose({ position: this.pointAt(event), key: null });
    });
    map.addEventListener("pointerleave", () => choose({ hovered: null }));
    map.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const position = Math.max(0, Math.min(this.part.time - 1, this.selected + step));
      choose({ position, key: null });
    });
  }

  // Describes the pair under the pointer below the map. Returns the position of its query.
  pointAt(event) {
    const { part } = this;
    const box = this.find(".map").getBoundingClientRect();
    // The first row and the first column of cells are the characters themselves.
    const cell = (offset, size, count) =>
      Math.max(0, Math.min(count - 1, Math.floor((offset / size) * (count + 1)) - 1));
    const t = cell(event.clientY - box.top, box.height, part.time);
    const s = cell(event.clientX - box.left, box.width, part.seen);
    if (event.pointerType === "mouse" && state.hovered !== t) choose({ hovered: t });
    const { scaled, weights } = attendAll(part, this.layer, this.head)[t];
    const numbers = `score ${format(scaled[s])}, weight ${format(weights[s])}`;
    const pair = `query of ${queryName(part, t)}, key of ${keyName(part, s)}`;
    this.find(".readout").textContent = `${pair}: ${numbers}`;
    return t;
  }

  // The figures that the heads of this kind of attention have.
  get figures() {
    return Object.keys(FIGURES).filter((key) => key in this.part.heads[0]);
  }

  // What the figures mean. The list of all heads is sorted by one of them.
  buildFigures() {
    this.sorting = { key: null, descending: true };
    const terms = this.figures.flatMap((key) => {
      const [title, meaning] = FIGURES[key];
      return [
        element("dt", { textContent: title }),
        element("dd", { textContent: meaning }),
      ];
    });
    this.find(".meanings").replaceChildren(...terms);
    this.fillFigures();
  }

  // --- what follows the state ---

  render() {
    const { part, layer, head, position } = this;
    if (this.shown !== part) this.showPart();
    this.markText();
    [...this.find(".heads").children].forEach((button, i) => {
      markSelected(button, i === layer * part.n_head + head);
    });
    for (const tab of this.root.querySelectorAll("[role='tab']")) {
      markSelected(tab, tab.dataset.stage === state.stage || tab.dataset.kind === part.kind);
    }
    for (const piece of this.root.querySelectorAll(".formula .part")) {
      piece.classList.toggle("now", piece.dataset.stage === state.stage);
    }
    this.find(".head-name").textContent = headTitle(part, layer, head, position);
    const { weights } = attendAll(part, layer, head)[position];
    this.find(".sentence").textContent = sentence(part, position, weights);
    this.find(".what").textContent = whatOf(part, state.stage);
    this.find(".code").textContent = DATA.code[state.stage];
    state.dimension = Math.min(state.dimension, part.d_k - 1);
    this.find(".detail").replaceChildren(...stageDetail(part, layer, head, position, this.key));
    this.drawLargeMap();
    this.markFigures();
    if (part.queries === "text") this.fillPredictions();
  }

  // Fills what depends on the kind of attention alone.
  showPart() {
    this.shown = this.part;
    const { queries, keys } = this.part;
    for (const [text, strip] of Object.entries(this.strips)) {
      strip.hidden = text !== queries && text !== keys;
      strip.classList.toggle("keys", text !== queries); // the frame is around the chosen key
    }
    this.find(".predictions").closest(".panel").hidden = queries !== "text";
    this.find(".of-next").hidden = queries !== "text";
    this.fillFormula();
    this.fillHeads();
    this.drawHeads();
    this.buildFigures();
  }

  // Colours the characters of the text by their weight.
  markText() {
    const { queries, keys } = this.part;
    const { weights } = attendAll(this.part, this.layer, this.head)[this.position];
    for (const [text, strip] of Object.entries(this.strips)) {
      const ofText = (s) => (text === keys ? weights[s] : 0);
      [...strip.children].forEach((button, s) => {
        const colour = weightColour(ofText(s));
        const seen = ofText(s) > 0;
        button.style.background = seen ? css(colour) : "";
        for (const span of button.children) span.style.color = seen ? legible(colour) : "";
        markSelected(button, text === queries ? s === this.position : s === this.key);
      });
    }
  }

  // Draws the small maps one after another, so that the page responds while there are hundreds.
  drawHeads() {
    const { part } = this;
    const buttons = [...this.find(".heads").children];
    const drawNext = () => {
      const button = buttons.shift();
      if (!button) return;
      const [layer, head] = [Number(button.dataset.layer), Number(button.dataset.head)];
      const rows = part.rows.map((_, t) => attend(part, layer, head, t).weights);
      drawMap(button.firstElementChild, 96, 96, part, (t, s) => weightColour(rows[t][s]));
      setTimeout(drawNext);
    };
    drawNext();
  }

  // The large map shows the scores of the open stage; weights where the stage has no map.
  drawLargeMap() {
    const rows = attendAll(this.part, this.layer, this.head);
    const stage = ["raw", "scaled", "masked"].includes(state.stage) ? state.stage : "weights";
    if (stage === "weights") {
      this.drawLabelledMap((t, s) => weightColour(rows[t].weights[s]));
      this.drawLegend("0", "1", weightColour);
    } else {
      const sizes = rows.map((row) => row[stage].filter(Number.isFinite).map(Math.abs));
      const most = Math.max(...sizes.map((row) => Math.max(...row)));
      this.drawLabelledMap((t, s) => {
        const score = rows[t][stage][s];
        return Number.isFinite(score) ? signedColour(score, most) : maskedColour();
      });
      this.drawLegend(format(-most), format(most), (x) => signedColour(2 * x - 1, 1));
    }
    const place = `layer ${this.layer}, head ${this.head}`;
    this.find(".map").setAttribute("aria-label", `${stage} of ${place}: a row for each query`);
  }

  // A map with the characters along two sides and a frame around the row of the query.
  drawLabelledMap(colourAt) {
    const { part, position } = this;
    const map = this.find(".map");
    const ratio = Math.min(devicePixelRatio, 2);
    const size = Math.round(Math.min(640, map.clientWidth || 480) * ratio);
    const [height, width] = [size / (part.time + 1), size / (part.seen + 1)]; // of a cell
    const cell = Math.min(height, width);
    const inner = new OffscreenCanvas(1, 1);
    const [across, down] = [Math.round(width * part.seen), Math.round(height * part.time)];
    drawMap(inner, Math.max(1, across), Math.max(1, down), part, colourAt);
    map.width = map.height = size;
    const context = map.getContext("2d");
    context.drawImage(inner, width, height);
    const style = getComputedStyle(this.root);
    if (cell > 6) {
      context.fillStyle = style.color;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.font = `${Math.min(cell * 0.8, 18 * ratio)}px ui-monospace, monospace`;
      TEXTS[part.keys].labels.forEach((label, s) => {
        context.fillText(label, (s + 1.5) * width, height / 2, width);
      });
      TEXTS[part.queries].labels.forEach((label, t) => {
        context.fillText(label, width / 2, (t + 1.5) * height, width);
      });
    }
    context.strokeStyle = style.getPropertyValue("--negative");
    context.lineWidth = Math.max(1, Math.min(3 * ratio, cell / 6));
    context.strokeRect(width, (position + 1) * height, size - width, height);
  }

  // The colour scale below the map; `colour` maps 0 (left) to 1 (right).
  drawLegend(least, most, colour) {
    this.find(".least").textContent = least;
    this.find(".most").textContent = most;
    const canvas = this.find(".legend");
    const context = canvas.getContext("2d");
    for (let x = 0; x < canvas.width; x++) {
      context.fillStyle = css(colour(x / (canvas.width - 1)));
      context.fillRect(x, 0, 1, 1);
    }
  }

  fillFigures() {
    const { key, descending } = this.sorting;
    const order = this.part.heads.slice();
    if (key) order.sort((a, b) => (descending ? b[key] - a[key] : a[key] - b[key]));
    const titles = this.figures.map((each) => this.figureTitle(each));
    const head = element("tr", {}, element("th", { textContent: "head" }), ...titles);
    const body = element("tbody", {}, ...order.map((figures) => this.figureRow(figures)));
    this.find(".figures").replaceChildren(element("thead", {}, head), body);
    this.markFigures();
  }

  // The title of a column sorts by it: first descending, then ascending.
  figureTitle(key) {
    const [title, meaning] = FIGURES[key];
    const onclick = () => {
      const again = this.sorting.key === key;
      this.sorting = { key, descending: again ? !this.sorting.descending : true };
      this.fillFigures();
      this.find(`.figures [data-key='${key}']`).focus();
    };
    const options = { textContent: title, title: meaning, data: { key }, onclick };
    const cell = element("th", {}, element("button", options));
    if (this.sorting.key === key) {
      cell.setAttribute("aria-sort", this.sorting.descending ? "descending" : "ascending");
    }
    return cell;
  }

  figureRow(figures) {
    const { layer, head } = figures;
    const first = element("td", { textContent: `${layer}.${head} ` });
    first.append(...badges(figures));
    const numbers = this.figures.map((key) => {
      const textContent = figures[key].toFixed(figures[key] < 100 ? 2 : 0);
      return element("td", { textContent, data: { key } });
    });
    const onclick = () => choose({ layer, head, key: null });
    return element("tr", { data: { layer, head }, onclick }, first, ...numbers);
  }

  markFigures() {
    for (const row of this.find(".figures").tBodies[0].rows) {
      const { layer, head } = row.dataset;
      const selected = Number(layer) === this.layer && Number(head) === this.head;
      row.setAttribute("aria-selected", selected);
    }
  }

  // The likeliest characters after the embedding and after each layer.
  fillPredictions() {
    const { blanks } = this.model;
    const known = !blanks?.includes(this.position);
    const expected = known ? TEXTS.text.labels[this.position + (blanks ? 0 : 1)] : null;
    const rows = this.model.predictions.map((positions, depth) => {
      const guesses = positions[this.position].map(([label, probability]) => {
        const colour = weightColour(probability);
        const className = label === expected ? "guess right" : "guess";
        const textContent = `${isolated(label)} ${probability.toFixed(3)}`;
        const guess = element("span", { className, textContent });
        Object.assign(guess.style, { background: css(colour), color: legible(colour) });
        return guess;
      });
      const after = element("td", { textContent: depth ? `layer ${depth - 1}` : "embedding" });
      return element("tr", { data: { depth } }, after, element("td", {}, ...guesses));
    });
    this.find(".predictions").replaceChildren(element("tbody", {}, ...rows));
  }
}

// --- the page ------------------------------------------------------------------------------------

const viewers = DATA.models.map((model) => new Viewer(model));

// Changes the state and shows it.
function choose(change) {
  Object.assign(state, change);
  for (const viewer of viewers) viewer.render();
}

function redrawAll() {
  for (const viewer of viewers) viewer.drawHeads();
  choose({});
}

document.querySelector("main").append(...viewers.map((viewer) => viewer.root));
Object.assign(state, DATA.start);
redrawAll();
darkMode.addEventListener("change", redrawAll);
addEventListener("resize", () => choose({}));
