"""Script of the page of the front, first half: scales, picture and details. No library, no network."""

PICTURE = r"""
'use strict';
(() => {
const D = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);
const NS = 'http://www.w3.org/2000/svg';
// Every text goes through textContent or setAttribute: names in the data are never read as markup.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) if (v !== null) node.setAttribute(k, v);
  node.append(...children.filter(c => c !== null));
  return node;
}
function draw(tag, attributes, text) {
  const node = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  svg.append(node);
  return node;
}
const percent = (v, digits = 2) => v == null ? '-' : (100 * v).toFixed(digits) + ' %';
function count(v) {
  if (v == null) return '-';
  for (const [scale, letter] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (v >= .9995 * scale) {
      const s = v / scale;
      return s.toFixed(s < 9.995 ? 2 : s < 99.95 ? 1 : 0) + ' ' + letter;
    }
  }
  return String(Math.round(v));
}
const keys = D.columns;
const rows = D.rows.map(values => Object.fromEntries(values.map((v, i) => [keys[i], v])));
rows.forEach((r, i) => { r.order = i + 1; });
const byId = new Map(rows.map(r => [r.id, r]));
const strategies = [...new Set(rows.map(r => r.proposed_by))];
const rungs = [...new Map(rows.map(r => [r.level, r.fidelity])).entries()].sort((a, b) => a[0] - b[0]);
const top = rungs.length ? rungs[rungs.length - 1][0] : 0;
const colour = r => `var(--c${strategies.indexOf(r.proposed_by) % 8})`;
const AXES = {
  retained_flops: {name: 'FLOPs', title: 'FLOPs kept of the dense network', share: true},
  retained_params: {name: 'Parameters', title: 'parameters kept of the dense network', share: true},
};
// A budget brings its axis along; that of a range is shown first, else that of the first budget.
for (const {noun, key} of D.budgets)
  if (!(key in AXES) && keys.includes(key))
    AXES[key] = {name: noun[0].toUpperCase() + noun.slice(1), title: noun + ' kept of the dense network', share: true};
AXES.order = {name: 'Order', title: 'candidates in the order of their proposal', share: false};
const range = D.budgets.find(b => b.low < b.high);
const state = {axis: range ? D.front : D.budgets.map(b => b.key).find(key => key in AXES) || D.front,
               frame: 'all', zoom: null, hidden: new Set(), hiddenRungs: new Set(),
               hover: null, chosen: null, brush: null};
const svg = $('svg'), tip = $('tip');
const shown = () => rows.filter(r => !state.hidden.has(r.proposed_by) && !state.hiddenRungs.has(r.level));
const front = rows.filter(r => r.front).sort((a, b) => a[D.front] - b[D.front] || a.id - b.id);

// A mark stands where its candidate was scored, so that it compares with the others; else at its own figures.
const marks = D.marks.map(m => {
  const row = m.id == null ? null : byId.get(m.id);
  const places = Object.keys(AXES).map(key => [key, row && row[key]]);
  return row ? {...m, row, accuracy: row.accuracy, ...Object.fromEntries(places)} : {...m, row: null};
}).filter(m => m.accuracy != null);
const dense = marks.find(m => m.name === 'dense');
const others = marks.filter(m => m !== dense);

// Ranges -----------------------------------------------------------------------------------------------------------
function padded(low, high, share, least) {
  const extra = Math.max((high - low) * share, least);
  return [low - extra, high + extra];
}
const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
function ranges() {
  if (state.zoom) return state.zoom;
  const points = [...shown(), ...others.filter(m => m[state.axis] != null)];
  if (!points.length) return {x: [0, 1], y: [0, 1]};
  const xs = points.map(p => p[state.axis]);
  const ys = points.flatMap(p => repeated(p) ? [p.accuracy, p.low, p.high] : [p.accuracy]).sort((a, b) => a - b);
  let x = [Math.min(...xs), Math.max(...xs)];
  const axis = AXES[state.axis];
  // All candidates of a single budget lie within a hair of it; dense at 100 % would squeeze them into a line.
  if (axis.share && x[1] - x[0] > .12 && dense) x[1] = 1;
  for (const b of D.budgets) if (b.key === state.axis) x = [Math.min(x[0], b.low), Math.max(x[1], b.high)];
  x = axis.share ? padded(x[0], x[1], .05, .0004) : padded(x[0], x[1], .03, 1);
  const low = state.frame === 'best' ? quantile(ys, .5) : ys[0];
  let high = ys[ys.length - 1];
  if (dense) high = Math.max(high, dense.accuracy);
  const y = padded(low, high, .06, .002);
  return {x, y: [Math.max(y[0], -.02), Math.min(y[1], 1.02)]};
}
function ticks([low, high], most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-12; i++) found.push(i * step);
  // Decimals of a percentage; a step of 2.5 needs one more than its size says.
  const decimals = -Math.floor(Math.log10(step * 100) + 1e-9) + (step / power === 2.5 ? 1 : 0);
  return {found, digits: Math.max(0, Math.min(4, decimals))};
}

// Picture ----------------------------------------------------------------------------------------------------------
let box, sx, sy, unx, uny, frameNow;
function render() {
  const W = svg.clientWidth || 600, H = svg.clientHeight || 400, phone = W < 480;
  svg.setAttribute('viewBox', `0 0 ${W} ${H}`);
  svg.replaceChildren();
  box = {l: phone ? 50 : 60, r: W - 14, t: 16, b: H - 46};
  frameNow = ranges();
  const {x, y} = frameNow;
  sx = v => box.l + (v - x[0]) / (x[1] - x[0]) * (box.r - box.l);
  sy = v => box.b - (v - y[0]) / (y[1] - y[0]) * (box.b - box.t);
  unx = p => x[0] + (p - box.l) / (box.r - box.l) * (x[1] - x[0]);
  uny = p => y[0] + (box.b - p) / (box.b - box.t) * (y[1] - y[0]);
  scales(x, y, phone);
  const defs = draw('clipPath', {id: 'clip'});
  const inside = document.createElementNS(NS, 'rect');
  for (const [k, v] of Object.entries({x: box.l, y: box.t - 8, width: box.r - box.l + 8, height: box.b - box.t + 8}))
    inside.setAttribute(k, v);
  defs.append(inside);
  references();
  frontLine();
  for (const r of [...shown()].sort((a, b) => a.front - b.front || a.level - b.level)) point(r);
  const placed = [];
  denseMark(phone, placed);
  for (const m of others) mark(m, placed);
  if (state.chosen && visible(state.chosen)) ring(state.chosen, 10, 'var(--accent)');
  if (state.hover) ring(state.hover, 9, 'var(--ink)');
  if (state.brush) {
    const [a, b] = state.brush;
    draw('rect', {class: 'brush', x: Math.min(a[0], b[0]), y: Math.min(a[1], b[1]),
                  width: Math.abs(a[0] - b[0]), height: Math.abs(a[1] - b[1])});
  }
  const below = shown().filter(r => r.accuracy < y[0]).length;
  if (below) draw('text', {x: box.l + 8, y: box.b - 8}, `${below} below this range`);
}
function scales(x, y, phone) {
  const tx = ticks(x, phone ? 4 : 8), ty = ticks(y, 7), axis = AXES[state.axis];
  for (const v of ty.found) {
    draw('line', {class: 'grid', x1: box.l, x2: box.r, y1: sy(v), y2: sy(v)});
    draw('text', {x: box.l - 8, y: sy(v) + 4, 'text-anchor': 'end'}, (100 * v).toFixed(ty.digits) + ' %');
  }
  for (const v of tx.found) {
    draw('line', {class: 'grid', x1: sx(v), x2: sx(v), y1: box.t, y2: box.b});
    draw('text', {x: sx(v), y: box.b + 18, 'text-anchor': 'middle'},
         axis.share ? (100 * v).toFixed(tx.digits) + ' %' : String(Math.round(v)));
  }
  draw('line', {class: 'axis', x1: box.l, x2: box.r, y1: box.b, y2: box.b});
  draw('text', {x: (box.l + box.r) / 2, y: box.b + 38, 'text-anchor': 'middle'}, axis.title);
  draw('text', {x: 4, y: 10}, `hold-out ${D.metric}`);
}
function references() {
  for (const b of D.budgets.filter(b => b.key === state.axis)) {
    if (b.low < b.high) {
      const l = Math.max(box.l, sx(b.low)), r = Math.min(box.r, sx(b.high));
      if (r > l) draw('rect', {class: 'band', x: l, width: r - l, y: box.t, height: box.b - box.t});
    }
    for (const v of new Set([b.low, b.high]))
      if (inRange(sx(v), box.l, box.r))
        draw('line', {class: 'budget-line', x1: sx(v), x2: sx(v), y1: box.t, y2: box.b});
    if (inRange(sx(b.high), box.l + 14, box.r))
      draw('text', {class: 'budget', transform: `translate(${sx(b.high) - 6} ${box.b - 10}) rotate(-90)`},
           'budget ' + b.text);
  }
  if (dense && inRange(sy(dense.accuracy), box.t - 2, box.b))
    draw('line', {class: 'dense-line', x1: box.l, x2: box.r, y1: sy(dense.accuracy), y2: sy(dense.accuracy)});
}
const budgetLines = () => D.budgets.filter(b => b.key === state.axis)
  .flatMap(b => [sx(b.high), sx(b.low)]).filter(v => inRange(v, box.l, box.r)).sort((a, b) => b - a);
function denseMark(phone, placed) {
  if (!dense || !inRange(sy(dense.accuracy), box.t - 2, box.b)) return;
  const at = sy(dense.accuracy), x = dense[state.axis];
  const here = x != null && inRange(sx(x), box.l, box.r);
  if (here) diamond(sx(x), at);
  const name = `dense ${percent(dense.accuracy)}${dense.source && !phone ? ' (' + dense.source + ')' : ''}`;
  let to = here ? sx(x) - 12 : box.r - 4;
  // Left of every budget line that it would cross, and of the text that stands along the line.
  for (const line of budgetLines()) if (to > line - 4 && to - 7.2 * name.length < line + 4) to = line - 22;
  placed.push({at: at + 16, from: to - 7.2 * name.length, to});
  draw('text', {class: 'label', x: to, y: at + 16, 'text-anchor': 'end'}, name);
}
const inRange = (v, low, high) => v >= low - .5 && v <= high + .5;
const visible = r => shown().includes(r);
function frontLine() {
  let steps = [];
  // By score a point may be on the front whose accuracy is below that of a cheaper one; the line never falls to it.
  if (state.axis === D.front)
    for (const r of front) if (!steps.length || r.accuracy > steps.at(-1).accuracy) steps.push(r);
  if (state.axis === 'order') {
    // The incumbent over time: a candidate that climbed higher ranks above all below it.
    let best = null;
    for (const r of rows) if (!best || r.level + r.score > best.level + best.score) { best = r; steps.push(r); }
  }
  if (!steps.length) return;
  let path = `M${sx(steps[0][state.axis])} ${sy(steps[0].accuracy)}`;
  for (const r of steps.slice(1)) path += `H${sx(r[state.axis])}V${sy(r.accuracy)}`;
  draw('path', {class: 'front', d: path + `H${box.r}`, 'clip-path': 'url(#clip)'});
}
const repeated = p => p.low != null;
function bar(p, stroke) {
  const x = sx(p[state.axis]), low = sy(p.low), high = sy(p.high);
  draw('path', {class: 'error', d: `M${x} ${low}V${high}M${x - 4} ${low}h8M${x - 4} ${high}h8`,
                style: `stroke:${stroke}`, 'clip-path': 'url(#clip)'});
}
function point(r) {
  const filled = r.level === top;
  if (repeated(r)) bar(r, colour(r));
  draw('circle', {cx: sx(r[state.axis]), cy: sy(r.accuracy), r: r.front ? 6 : filled ? 4.5 : 3.6,
    fill: filled ? colour(r) : 'var(--card)', stroke: r.front ? 'var(--card)' : colour(r),
    'stroke-width': r.front ? 1.2 : 1.4, opacity: r.front ? 1 : .78, 'clip-path': 'url(#clip)'});
}
function ring(r, radius, stroke) {
  if (!inRange(sx(r[state.axis]), box.l, box.r) || !inRange(sy(r.accuracy), box.t - 8, box.b)) return;
  draw('circle', {class: 'ring', cx: sx(r[state.axis]), cy: sy(r.accuracy), r: radius, style: `stroke:${stroke}`});
}
function diamond(x, y) { draw('path', {class: 'mark', d: `M${x} ${y - 7}l7 7l-7 7l-7 -7z`}); }
function mark(m, placed) {
  if (m[state.axis] == null) return;
  const x = sx(m[state.axis]), y = sy(m.accuracy);
  if (!inRange(x, box.l, box.r) || !inRange(y, box.t - 6, box.b)) return;
  if (repeated(m)) bar(m, 'var(--ink)');
  if (m.row) ring(m, 9.5, 'var(--ink)');
  else draw('rect', {class: 'mark', x: x - 5.5, y: y - 5.5, width: 11, height: 11});
  const text = `${m.name} ${percent(m.accuracy)}`, width = 7.2 * text.length;
  const left = x + 6 + width > box.r || budgetLines().some(v => v > x + 10 && v < x + 2 + width);
  // Above its point, off the front's line; two labels that would lie on one another are set apart.
  let at = y - 13 < box.t + 4 ? y + 22 : y - 13;
  const from = left ? x + 6 - width : x - 6;
  while (placed.some(p => Math.abs(p.at - at) < 15 && from < p.to && from + width > p.from)) at -= 15;
  placed.push({at, from, to: from + width});
  draw('text', {class: 'label', x: left ? x + 6 : x - 6, y: at, 'text-anchor': left ? 'end' : 'start'}, text);
}

// Details ----------------------------------------------------------------------------------------------------------
const dot = (fill, edge = 'transparent') =>
  el('span', {class: 'dot', style: `background:${fill};border-color:${edge}`});
function who(r) {
  const head = el('div', {class: 'who'}, dot(colour(r)), `#${r.id} ${r.proposed_by}`);
  for (const m of others) if (m.row === r) head.append(el('span', {class: 'tag'}, m.name));
  if (r.front) head.append(el('span', {class: 'tag'}, 'front'));
  return head;
}
function figures(r) {
  const list = el('dl', {class: 'figures'});
  const pairs = [[`hold-out ${D.metric}`, percent(r.accuracy)]];
  if (repeated(r)) pairs.push([`over ${r.times} seeds`, `${percent(r.low)} to ${percent(r.high)}`]);
  if (Math.abs(r.score - r.accuracy) > 1e-9) pairs.push(['score', r.score.toFixed(4)]);
  pairs.push(['FLOPs kept', `${percent(r.retained_flops, 1)}  (${count(r.macs)} MACs)`],
             ['parameters kept', `${percent(r.retained_params, 1)}  (${count(r.params)})`],
             ...Object.entries(AXES).filter(([k, a]) => a.share && !['retained_flops', 'retained_params'].includes(k))
               .map(([k, a]) => [a.name.toLowerCase() + ' kept', percent(r[k], 1)]),
             ['fidelity', r.fidelity], ['evaluated in', r.seconds.toFixed(r.seconds < 10 ? 2 : 0) + ' s']);
  for (const [k, v] of pairs) list.append(el('dt', {}, k), el('dd', {}, v));
  return list;
}
const widest = Math.max(1, ...D.groups.map(g => g[1]));
// The root keeps a stem of 16 channels visible beside a head of 512.
const share = width => Math.max(8, 100 * Math.sqrt(width / widest));
function strip(r) {
  const bars = D.groups.map((g, i) => el('i', {style: `height:${share(g[1])}%`},
    el('u', {style: `height:${100 * r.widths[i] / g[1]}%`})));
  return el('div', {class: 'strip'}, ...bars);
}
function caption(r) {
  const kept = r.widths.reduce((a, b) => a + b, 0), all = D.groups.reduce((a, g) => a + g[1], 0);
  return el('p', {class: 'caption'}, `${kept} of ${all} channels in ${D.groups.length} groups, first to last`);
}
const command = r => `autoprune pick ${D.run} --id ${r.id}`;
function panel() {
  const r = state.chosen;
  if (!r) {
    const nothing = el('p', {class: 'caption'}, 'Nothing has been evaluated.');
    $('panel').replaceChildren(el('h2', {}, 'No candidate'), nothing);
    return;
  }
  const list = el('div', {class: 'widths'});
  D.groups.forEach(([name, width], i) => list.append(
    el('span', {title: name}, name.length > 26 ? '…' + name.slice(-25) : name),
    el('div', {class: 'rail', style: `width:${share(width)}%`},
       el('u', {style: `width:${100 * r.widths[i] / width}%`})),
    el('span', {class: 'kept'}, `${r.widths[i]} of ${width}`)));
  const button = el('button', {type: 'button'}, 'Copy');
  button.onclick = () => copy(r);
  $('panel').replaceChildren(who(r), figures(r),
    el('div', {class: 'command'}, el('code', {}, command(r)), button),
    el('h2', {}, 'Channels kept'), list);
}
function showTip(r) {
  state.hover = r;
  if (!r) { tip.hidden = true; return; }
  tip.replaceChildren(who(r), figures(r), strip(r), caption(r));
  tip.hidden = false;
  const x = sx(r[state.axis]), y = sy(r.accuracy), w = tip.offsetWidth, h = tip.offsetHeight;
  const W = svg.clientWidth, H = svg.clientHeight;
  let left = x + 18 + w < W ? x + 18 : x - w - 18;
  left = Math.max(0, Math.min(left, W - w));
  // Where it fits on neither side it goes above or below, never over its own point.
  const covers = left < x + 12 && left + w > x - 12;
  const above = y - h - 16 > -80 ? y - h - 16 : y + 16;
  tip.style.transform = `translate(${left}px, ${covers ? above : Math.max(0, Math.min(y - h / 2, H - h))}px)`;
}
function choose(r, {copying = false} = {}) {
  state.chosen = r;
  panel(); render(); table();
  if (copying) copy(r);
}
async function copy(r) {
  const text = command(r);
  let done = false;
  try { await navigator.clipboard.writeText(text); done = true; } catch {
    // Frames without the permission still obey the older way.
    const area = el('textarea', {style: 'position:fixed;opacity:0'});
    area.value = text;
    document.body.append(area);
    area.select();
    try { done = document.execCommand('copy'); } catch { done = false; }
    area.remove();
  }
  $('toast').textContent = (done ? 'Copied: ' : 'Copy by hand: ') + text;
  $('toast').classList.add('on');
  clearTimeout(copy.timer);
  copy.timer = setTimeout(() => $('toast').classList.remove('on'), 2600);
}
"""
