"""Script of the page of the front, second half: table, filters, and the answers to pointer, touch and keyboard."""

from autoprune.report.pages.front_picture import PICTURE

_CONTROLS = r"""
// Table ------------------------------------------------------------------------------------------------------------
function table() {
  const head = el('tr', {});
  // What the front trades, where that is another thing than FLOPs or parameters.
  const own = ['retained_flops', 'retained_params'].includes(D.front) ? [] : [D.front];
  const names = [['candidate', 'left'], [`hold-out ${D.metric}`, ''],
                 ...own.map(key => [AXES[key].name.toLowerCase() + ' kept', '']), ['FLOPs kept', ''],
                 ['MACs', 'hide-phone'], ['parameters kept', 'hide-phone'], ['fidelity', 'left hide-phone'], ['', '']];
  for (const [name, kind] of names) head.append(el('th', {class: kind, scope: 'col'}, name));
  const body = el('tbody', {});
  for (const r of front.filter(visible)) {
    const pick = el('button', {type: 'button', 'aria-label': `Copy the command that picks candidate ${r.id}`}, 'Pick');
    pick.onclick = event => { event.stopPropagation(); choose(r, {copying: true}); };
    const line = el('tr', {'aria-selected': String(r === state.chosen)},
      el('td', {class: 'left name'}, dot(colour(r)), `#${r.id} ${r.proposed_by}`),
      el('td', {}, percent(r.accuracy)), ...own.map(key => el('td', {}, percent(r[key], 1))),
      el('td', {}, percent(r.retained_flops, 1)),
      el('td', {class: 'hide-phone'}, count(r.macs)), el('td', {class: 'hide-phone'}, percent(r.retained_params, 1)),
      el('td', {class: 'left hide-phone'}, r.fidelity), el('td', {}, pick));
    line.onclick = () => choose(r);
    body.append(line);
  }
  $('table').replaceChildren(el('thead', {}, head), body);
}

// Controls ---------------------------------------------------------------------------------------------------------
function segments(id, choices, key) {
  $(id).replaceChildren(...choices.map(([value, name]) => {
    const pressed = state[key] === value && !(key === 'frame' && state.zoom);
    const button = el('button', {type: 'button', 'aria-pressed': String(pressed)}, name);
    button.onclick = () => { state[key] = value; state.zoom = null; showTip(null); controls(); render(); };
    return button;
  }));
}
function chip(name, amount, hidden, value, sign) {
  const node = el('button', {type: 'button', class: 'chip', 'aria-pressed': String(!hidden.has(value))},
    sign, el('b', {title: name}, name), el('small', {}, String(amount)));
  node.onclick = () => {
    if (!hidden.delete(value)) hidden.add(value);
    showTip(null); controls(); render(); table();
  };
  return node;
}
function controls() {
  segments('axis', Object.entries(AXES).map(([k, a]) => [k, a.name]), 'axis');
  segments('frame', [['all', 'All'], ['best', 'Better half']], 'frame');
  const label = text => el('span', {class: 'name'}, text);
  $('strategies').replaceChildren(label('Strategy'), ...strategies.map((name, i) =>
    chip(name, rows.filter(r => r.proposed_by === name).length, state.hidden, name, dot(`var(--c${i % 8})`))));
  $('rungs').replaceChildren(label('Fidelity'), ...rungs.map(([level, name]) =>
    chip(name, rows.filter(r => r.level === level).length, state.hiddenRungs, level,
         dot(level === top ? 'var(--soft)' : 'none', 'var(--soft)'))));
  $('rungs').hidden = rungs.length < 2;
}
function at(event) {
  const r = svg.getBoundingClientRect();
  return [event.clientX - r.left, event.clientY - r.top];
}
function nearest([px, py], reach) {
  let found = null, least = reach * reach;
  for (const r of shown()) {
    const d = (sx(r[state.axis]) - px) ** 2 + (sy(r.accuracy) - py) ** 2;
    if (d < least && inRange(sy(r.accuracy), box.t - 8, box.b) && inRange(sx(r[state.axis]), box.l - 8, box.r + 8)) {
      least = d; found = r;
    }
  }
  return found;
}
let pressed = null;
svg.addEventListener('pointerdown', event => {
  if (event.button !== 0) return;
  pressed = at(event);
  if (event.pointerType === 'mouse') svg.setPointerCapture(event.pointerId);
});
svg.addEventListener('pointermove', event => {
  const p = at(event);
  if (pressed && event.pointerType === 'mouse' && Math.hypot(p[0] - pressed[0], p[1] - pressed[1]) > 8) {
    state.brush = [pressed, p];
    showTip(null); render();
    return;
  }
  if (event.pointerType !== 'mouse') return;
  const r = nearest(p, 26);
  if (r !== state.hover) { showTip(r); render(); }
});
svg.addEventListener('pointerup', event => {
  if (!pressed) return;
  const brush = state.brush;
  pressed = null; state.brush = null;
  if (brush) {
    const [a, b] = brush, ascending = (m, n) => m - n;
    if (Math.abs(a[0] - b[0]) > 8 && Math.abs(a[1] - b[1]) > 8)
      state.zoom = {x: [unx(a[0]), unx(b[0])].sort(ascending), y: [uny(a[1]), uny(b[1])].sort(ascending)};
    controls(); render();
    return;
  }
  const r = nearest(at(event), event.pointerType === 'mouse' ? 26 : 34);
  if (event.pointerType !== 'mouse') showTip(r);
  if (r) choose(r, {copying: true}); else render();
});
svg.addEventListener('pointercancel', () => { pressed = null; state.brush = null; render(); });
svg.addEventListener('pointerleave', event => {
  if (event.pointerType === 'mouse' && state.hover) { showTip(null); render(); }
});
svg.addEventListener('dblclick', () => { state.zoom = null; controls(); render(); });
svg.addEventListener('keydown', event => {
  const line = [...shown()].sort((a, b) => a[state.axis] - b[state.axis] || a.id - b.id);
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (event.key === 'Escape') { state.zoom = null; showTip(null); controls(); render(); return; }
  if (event.key === 'Enter' && state.chosen) { copy(state.chosen); return; }
  if (!step || !line.length) return;
  event.preventDefault();
  const next = Math.min(line.length - 1, Math.max(0, line.indexOf(state.chosen) + step));
  choose(line[next]); showTip(line[next]); render();
});
new ResizeObserver(() => { showTip(null); render(); }).observe($('plot'));

$('title').textContent = D.title;
$('subtitle').textContent = D.subtitle;
$('hint').textContent = (matchMedia('(hover: hover)').matches
  ? 'Hover for widths, click to copy the command that picks a candidate, drag to zoom, double-click to zoom out.'
  : 'Tap a point for its widths and the command that picks it.')
  + (rungs.length < 2 ? ''
    : ' Filled points reached the highest fidelity; accuracies of different fidelities do not compare.')
  + ' The line follows the candidates that no other beats in both score and cost; a point above it does better on'
  + ' the hold-out, but scores lower.';
// Many poor candidates would press the good ones into a line at the top.
const sorted = rows.map(r => r.accuracy).sort((a, b) => a - b);
if (sorted.length > 8) {
  const middle = quantile(sorted, .5), best = sorted[sorted.length - 1];
  if (middle - sorted[0] > 3 * (best - middle) && D.budgets.every(b => b.low === b.high)) state.frame = 'best';
}
const incumbent = marks.find(m => m.name === 'incumbent' && m.row);
state.chosen = incumbent ? incumbent.row : front[front.length - 1] || rows[0] || null;
controls(); panel(); table(); render();
})();
"""

#: The whole script.
SCRIPT = PICTURE + _CONTROLS
