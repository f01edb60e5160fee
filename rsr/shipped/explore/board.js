// The board of the explorer: linked distributions, filter, and a table that holds only the rows on screen.
// Everything that a model or a file said is set as textContent, never as HTML.

const COLOURS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'];   // Okabe & Ito 2008
const ROW = 25, MOST_PIXELS = 6e6, AHEAD = 30;   // a browser cuts elements off beyond some million pixels
const SVG = 'http://www.w3.org/2000/svg';

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'class') node.className = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== 'string') node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const count = n => Number(n).toLocaleString('en');
const short = x => Math.abs(x) >= 1000 ? count(Math.round(x)) : String(Number(Number(x).toPrecision(3)));
const title = (node, text) => { node.append(svg('title', {}, text)); return node; };


// ---- one distribution

class Distribution {
  constructor(send) {
    this.send = send;
    this.node = el('figure', { class: 'rsr-dist', tabindex: '0' });
    this.name = el('figcaption', { class: 'rsr-dist-name' });
    this.head = el('div', { class: 'rsr-dist-head' }, this.name);
    this.clear = el('button', { class: 'rsr-chip rsr-clear', type: 'button', title: 'remove this range',
      onclick: () => this.brush(null) });
    this.head.append(this.clear);
    this.svg = svg('svg', { role: 'img', preserveAspectRatio: 'none' });
    this.notes = el('div', { class: 'rsr-notes' });
    this.node.append(this.head, this.svg, this.notes);
    this.svg.addEventListener('pointerdown', e => this.start(e));
    this.svg.addEventListener('pointermove', e => this.move(e));
    for (const name of ['pointerup', 'pointercancel']) this.svg.addEventListener(name, e => this.end(e));
    this.node.addEventListener('keydown', e => this.key(e));
  }

  size(large) {
    this.large = large;
    this.W = large ? 560 : 250;
    this.H = large ? 170 : 86;
    this.left = 6; this.right = this.W - 6; this.top = large ? 20 : 8; this.base = this.H - (large ? 22 : 16);
    this.node.classList.toggle('rsr-large', large);
    this.svg.setAttribute('viewBox', `0 0 ${this.W} ${this.H}`);
  }

  get n() { return this.data.all[0].length; }
  x(bin) { return this.left + (this.right - this.left) * bin / this.n; }

  text(bin) {   // what a bin holds, in words
    const { kind, labels, clipped } = this.data;
    if (kind === 'word') return labels[bin];
    if (kind === 'rate') return `${Math.round(100 * labels[bin])} to ${Math.round(100 * labels[bin + 1])}%`;
    return clipped && bin === this.n - 1 ? `${short(labels[bin])} or more` : `${short(labels[bin])} to ${short(labels[bin + 1])}`;
  }

  rangeText([a, b]) {
    const { kind, labels, clipped } = this.data;
    if (kind === 'word') return labels.slice(a, b + 1).join(', ');
    if (kind === 'rate') return `${Math.round(100 * labels[a])} to ${Math.round(100 * labels[b + 1])}%`;
    return `${short(labels[a])} to ${clipped && b === this.n - 1 ? '…' : short(labels[b + 1])}`;
  }

  draw(data, large, runs) {
    this.data = data;
    this.runs = runs;
    if (this.large !== large) this.size(large);
    this.name.textContent = data.label;
    this.paint();
  }

  // Of several runs, shares: runs of different sizes lie over one another.
  heights(counts) {
    if (this.runs.length < 2) return counts;
    return counts.map((c, i) => {
      const sum = this.data.all[i].reduce((a, b) => a + b, 0) || 1;
      return c.map(x => x / sum);
    });
  }

  paint() {
    const d = this.data, all = this.heights(d.all), now = this.heights(d.now), several = this.runs.length > 1;
    const dots = several ? [] : d.dots;
    const range = this.drawn !== undefined ? this.drawn : d.range;
    const tallest = Math.max(...all.flat(), ...(dots[0] || []), several ? 1e-9 : 1);
    const y = v => this.base - (this.base - this.top) * v / tallest;
    const parts = [];
    if (range) {
      parts.push(svg('rect', { class: 'rsr-range', x: this.x(range[0]), y: this.top - 4,
        width: this.x(range[1] + 1) - this.x(range[0]), height: this.base - this.top + 4 }));
    }
    for (let bin = 0; bin < this.n; bin++) {
      const wide = this.x(bin + 1) - this.x(bin) - 1, group = svg('g');
      all.forEach((counts, run) => {
        const at = this.x(bin) + .5 + wide * run / all.length, width = wide / all.length;
        for (const [values, kind] of [[counts, 'all'], [now[run], 'now']]) {
          if (!values[bin]) continue;
          const top = Math.min(y(values[bin]), this.base - 1.5);
          group.append(svg('rect', { class: `rsr-${kind}`, x: at.toFixed(1), y: top.toFixed(1),
            width: Math.max(.6, width).toFixed(1), height: (this.base - top).toFixed(1), fill: COLOURS[run % COLOURS.length] }));
        }
      });
      const what = d.kind === 'rate' ? 'prompts' : 'responses';
      const lines = d.all.map((counts, run) => `${several ? this.runs[run] + ': ' : ''}${count(d.now[run][bin])}` +
        ` of ${count(counts[bin])} ${what}`);
      group.append(svg('rect', { x: this.x(bin), y: this.top - 4, width: wide + 1, height: this.base - this.top + 4, fill: 'transparent' }));
      parts.push(title(group, `${this.text(bin)}\n${lines.join('\n')}`));
    }
    (dots[0] || []).forEach((v, bin) => parts.push(title(svg('circle', { class: 'rsr-dot', r: this.large ? 3.5 : 2,
      cx: (this.x(bin) + this.x(bin + 1)) / 2, cy: y(v).toFixed(1) }),
      `${this.text(bin)}: about ${count(Math.round(v))} prompts, as a Beta distribution fitted to all responses expects`)));
    parts.push(svg('path', { d: `M${this.left} ${this.base}H${this.right}`, class: 'rsr-axis' }));
    parts.push(...this.ticks());
    if (this.large) parts.push(svg('text', { x: this.left, y: 12, class: 'rsr-tick' }, several ?
      `highest bar: ${(100 * tallest).toFixed(0)}% of a run` : `highest bar: ${count(Math.max(...all.flat()))} ${d.kind === 'rate' ? 'prompts' : 'responses'}`));
    this.svg.replaceChildren(...parts);
    this.svg.setAttribute('aria-label', this.words());
    this.clear.hidden = !range;
    if (range) this.clear.textContent = `${this.rangeText(range)} ×`;
    this.notes.replaceChildren(...(this.large || d.kind === 'rate' ? d.notes : []).map(t => el('div', {}, t)));
    if (this.large && d.kind === 'rate' && !several) {
      this.notes.append(el('div', {}, 'bars: as seen; dots: what a Beta distribution fitted to all responses expects'));
    }
  }

  words() {
    const sums = this.data.now.map((c, i) => `${this.runs.length > 1 ? this.runs[i] + ' ' : ''}${count(c.reduce((a, b) => a + b, 0))}`);
    return `Distribution of ${this.data.label}: ${sums.join(', ')} ${this.data.kind === 'rate' ? 'prompts' : 'responses'}`;
  }

  ticks() {
    const { kind, labels } = this.data, put = (x, text, anchor) =>
      svg('text', { x, y: this.H - (this.large ? 7 : 4), 'text-anchor': anchor, class: 'rsr-tick' }, text);
    if (kind === 'word') {
      const room = Math.max(2, Math.floor((this.right - this.left) / this.n / 6.2));
      return labels.map((t, i) => put((this.x(i) + this.x(i + 1)) / 2, t.length > room ? t.slice(0, room - 1) + '…' : t, 'middle'));
    }
    const shown = v => kind === 'rate' ? `${Math.round(100 * v)}%` : short(v);
    const ends = [[this.left, labels[0], 'start'], [this.right, labels[this.n], 'end']];
    if (this.large || kind === 'rate') ends.push([(this.left + this.right) / 2, labels[this.n / 2], 'middle']);
    return ends.map(([x, v, anchor]) => put(x, shown(v) + (anchor === 'end' && this.data.clipped ? '+' : ''), anchor));
  }

  bin(e) {
    const box = this.svg.getBoundingClientRect();
    const x = (e.clientX - box.left) / box.width * this.W;
    return Math.max(0, Math.min(this.n - 1, Math.floor((x - this.left) / (this.right - this.left) * this.n)));
  }

  start(e) {
    if (e.button) return;
    this.from = this.bin(e);
    this.moved = false;
    this.svg.setPointerCapture(e.pointerId);
    e.preventDefault();
    this.node.focus({ preventScroll: true });
  }

  move(e) {
    if (this.from === undefined) return;
    const to = this.bin(e);
    if (to === this.from && !this.moved) return;
    this.moved = true;
    this.brush([Math.min(this.from, to), Math.max(this.from, to)]);
  }

  end(e) {   // a click picks one bar, or gives up the range that is only that bar
    if (this.from === undefined) return;
    const at = this.from, r = this.data.range;
    this.from = undefined;
    if (!this.moved) this.brush(r && r[0] === at && r[1] === at ? null : [at, at]);
  }

  // The range is drawn at once; what it does to the others comes from Python.
  brush(range) {
    if (JSON.stringify(range) === JSON.stringify(this.drawn !== undefined ? this.drawn : this.data.range)) return;
    this.drawn = range;
    this.paint();
    this.send(this.data.name, range);
  }

  key(e) {
    if (e.target !== this.node) return;
    if (e.key === 'Escape') { this.brush(null); e.stopPropagation(); return; }
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!by) return;
    const [a, b] = (this.drawn !== undefined ? this.drawn : this.data.range) || [by > 0 ? -1 : this.n, by > 0 ? -1 : this.n];
    const fit = i => Math.max(0, Math.min(this.n - 1, i));
    this.brush(e.shiftKey ? [fit(a), fit(Math.max(a, b + by))] : [fit(a + by), fit(b + by)]);
    e.preventDefault();
    e.stopPropagation();
  }
}


// ---- the table

const WIDTHS = { prompt: 'minmax(160px, 1fr)', response: 'minmax(160px, 1fr)', id: 'minmax(60px, .2fr)', spread: '108px',
  outcome: '108px', run: 'minmax(78px, .15fr)', model: 'minmax(78px, .15fr)' };

// Head and rows are grids of their own, so no width may depend on what a cell holds. Names of runs get more room than numbers.
function widthOf(name, order) {
  return order === '-difference' ? 'minmax(78px, .2fr)' : WIDTHS[name] || '78px';
}

class Table {
  constructor(ask, open, sort) {
    Object.assign(this, { ask, open, sort, cache: new Map(), version: -1, rows: 0, waiting: null });
    this.head = el('div', { class: 'rsr-row rsr-head', role: 'row' });
    this.body = el('div', { class: 'rsr-window' });
    this.spacer = el('div', { class: 'rsr-spacer' }, this.body);
    this.scroll = el('div', { class: 'rsr-scroll', tabindex: '0', role: 'grid' }, this.head, this.spacer);
    this.node = el('div', { class: 'rsr-table' }, this.scroll);
    this.scroll.addEventListener('scroll', () => this.later());
    new ResizeObserver(() => this.later()).observe(this.scroll);
  }

  draw(view, opened) {
    const key = JSON.stringify([view.by, view.head]);
    if (key !== this.key) this.drawHead(view);
    this.key = key;
    for (const cell of this.head.children) cell.classList.toggle('rsr-sorted', cell.dataset.sort === view.sort && view.sort !== 'input');
    this.columns = view.head.length;
    if (view.version !== this.version) {
      this.cache.clear();
      this.version = view.version;
      this.waiting = null;
      if (this.rows !== view.rows) this.scroll.scrollTop = 0;
      this.rows = view.rows;
    }
    this.scroll.setAttribute('aria-rowcount', String(view.rows));
    this.opened = opened;
    this.spacer.style.height = `${Math.min(view.rows * ROW, MOST_PIXELS)}px`;
    this.paint();
  }

  drawHead(view) {
    this.node.style.setProperty('--rsr-columns', view.head.map(([name, order]) => widthOf(name, order)).join(' '));
    this.head.replaceChildren(...view.head.map(([name, sort, tip]) => {
      const cell = el('div', { class: 'rsr-cell', role: 'columnheader', title: tip || name }, name);
      if (sort) {
        cell.classList.add('rsr-sortable');
        cell.dataset.sort = sort;
        cell.addEventListener('click', () => this.sort(sort));
      }
      return cell;
    }));
  }

  get seen() { return Math.max(1, Math.ceil((this.scroll.clientHeight - ROW) / ROW)); }

  get first() {
    const height = Math.min(this.rows * ROW, MOST_PIXELS), hidden = this.scroll.scrollHeight - this.scroll.clientHeight;
    if (this.rows * ROW <= MOST_PIXELS) return Math.floor(this.scroll.scrollTop / ROW);
    return hidden > 0 ? Math.round(this.scroll.scrollTop / hidden * Math.max(0, this.rows - this.seen + 1)) : 0;
  }

  later() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
  }

  paint() {
    const first = Math.max(0, Math.min(this.first, this.rows - 1)), last = Math.min(this.rows, first + this.seen);
    const lines = [];
    for (let i = first; i < last; i++) lines.push(this.line(i, this.cache.get(i)));
    if (!this.rows) lines.push(el('div', { class: 'rsr-none' }, 'nothing is left: change the filter, or remove a range'));
    this.body.replaceChildren(...lines);
    this.fetch(first, last);
  }

  line(i, row) {
    const line = el('div', { class: 'rsr-row', role: 'row', 'aria-rowindex': String(i + 1) });
    const cells = row ? row.cells : Array(this.columns).fill('');
    for (const text of cells) line.append(el('div', { class: 'rsr-cell', role: 'gridcell', title: text.length > 12 ? text : '' }, text));
    if (row) {
      const o = this.opened || {};
      const same = row.key === undefined ? o.place === row.place : o.key === row.key && o.run === row.run;
      line.classList.toggle('rsr-open', same);
      if (same) line.setAttribute('aria-selected', 'true');
      line.addEventListener('click', () => this.open(row));
    } else {
      line.classList.add('rsr-waiting');
    }
    return line;
  }

  fetch(first, last) {
    let missing = -1;
    for (let i = first; i < last && missing < 0; i++) if (!this.cache.has(i)) missing = i;
    if (missing < 0 || this.waiting !== null) return;
    this.waiting = this.version;
    this.ask(Math.max(0, first - 5), last - first + AHEAD, this.version);
  }

  take({ first, rows, version }) {
    if (version !== this.version) return;
    this.waiting = null;
    if (this.cache.size > 2000) this.cache.clear();
    rows.forEach((row, i) => this.cache.set(first + i, row));
    this.paint();
  }

  show(i) {   // bring a row into sight
    if (i < 0) return;
    const first = this.first;
    if (i >= first && i < first + this.seen - 1) return;
    const hidden = this.scroll.scrollHeight - this.scroll.clientHeight;
    this.scroll.scrollTop = this.rows * ROW <= MOST_PIXELS ? Math.max(0, (i - 2) * ROW) : hidden * i / this.rows;
  }
}


// ---- the board

function render({ model, el: root }) {
  const send = (what, more = {}) => model.send({ do: what, ...more });
  const charts = new Map();
  let sent = 0, done = 0, queued = null;   // one change at a time: a drag sends its last state

  function choose(values) {
    if (sent > done) { queued = { ...queued, ...values }; return; }
    sent += 1;
    send('choose', { values, number: sent });
  }
  function brush(name, range) {
    const ranges = { ...((queued && queued.ranges) || current) };
    if (range) ranges[name] = range; else delete ranges[name];
    current = ranges;
    choose({ ranges });
  }
  let current = {};

  const filter = el('input', { class: 'rsr-filter', type: 'text', spellcheck: 'false', 'aria-label': 'filter',
    placeholder: 'filter, e.g. score < 0.5 and tokens > 400 and model == "small"',
    onchange: () => choose({ filter: filter.value }), onkeydown: e => { if (e.key === 'Enter') choose({ filter: filter.value }); } });
  const search = el('input', { class: 'rsr-search', type: 'text', spellcheck: 'false', 'aria-label': 'search',
    placeholder: 'text in the prompt or its id', onchange: () => choose({ search: search.value }),
    onkeydown: e => { if (e.key === 'Enter') choose({ search: search.value }); } });
  const names = el('div', { class: 'rsr-names' });
  const error = el('div', { class: 'rsr-error', role: 'alert' });
  const groups = el('div', { class: 'rsr-chips', role: 'group', 'aria-label': 'prompts' });
  const by = el('div', { class: 'rsr-chips', role: 'group', 'aria-label': 'rows' });
  const sort = el('select', { class: 'rsr-sort', 'aria-label': 'order', onchange: () => choose({ sort: sort.value }) });
  const status = el('div', { class: 'rsr-status', role: 'status' });
  const reset = el('button', { class: 'rsr-chip', type: 'button', title: 'remove the filter, the search and all ranges',
    onclick: () => { current = {}; choose({ filter: '', search: '', group: 'all', ranges: {} }); } }, 'show all');
  const legend = el('div', { class: 'rsr-legend' });
  const first = el('div', { class: 'rsr-firsts' }), rest = el('div', { class: 'rsr-rest' });
  const table = new Table((first, n, version) => send('rows', { first, n, version }), row => send('open', { row: { place: row.place,
    ...(row.key === undefined ? {} : { run: row.run, key: row.key }) } }), s => choose({ sort: s }));
  filter.addEventListener('focus', () => { names.hidden = false; });
  filter.addEventListener('blur', () => { names.hidden = true; });
  names.hidden = true;
  root.classList.add('rsr-board');
  root.replaceChildren(legend, first, rest, el('div', { class: 'rsr-line' }, el('div', { class: 'rsr-with-names' }, filter, names), search, reset), error,
    el('div', { class: 'rsr-line' }, groups), el('div', { class: 'rsr-line' }, by, sort, status), table.node);

  function chip(text, on, act, tip) {
    return el('button', { class: `rsr-chip${on ? ' rsr-on' : ''}`, type: 'button', 'aria-pressed': String(on), title: tip || '',
      onclick: act }, text);
  }

  function draw() {
    const view = model.get('view'), opened = model.get('opened');
    if (!view.runs) return;
    current = queued && queued.ranges ? queued.ranges : Object.fromEntries(view.distributions.filter(d => d.range).map(d => [d.name, d.range]));
    legend.hidden = view.runs.length < 2;
    legend.replaceChildren(...view.runs.map((name, i) => {
      const mark = el('span', { class: 'rsr-mark' }, '■');
      mark.style.color = COLOURS[i % COLOURS.length];
      return el('span', {}, mark, ` ${name}`);
    }));
    view.distributions.forEach((d, i) => {
      if (!charts.has(d.name)) charts.set(d.name, new Distribution(brush));
      const chart = charts.get(d.name), place = i < 2 ? first : rest;
      if (!queued && sent === done) chart.drawn = undefined;
      chart.draw(d, i < 2, view.runs);
      if (place.children[i < 2 ? i : i - 2] !== chart.node) place.insertBefore(chart.node, place.children[i < 2 ? i : i - 2] || null);
    });
    for (const [name, chart] of charts) if (!view.distributions.some(d => d.name === name)) { chart.node.remove(); charts.delete(name); }
    if (document.activeElement !== filter) filter.value = view.filter;
    if (document.activeElement !== search) search.value = view.search;
    error.textContent = view.error;
    error.hidden = !view.error;
    names.textContent = `columns: ${view.names.join(', ')}${view.reading ? ' … (more are being read)' : ''}`;
    groups.replaceChildren(...view.groups.map(([key, label, n]) => chip(`${label} (${count(n)})`, key === view.group, () => choose({ group: key }))));
    by.replaceChildren(...['prompts', 'responses'].map(x => chip(x, view.by === x, () => choose({ by: x }))));
    sort.replaceChildren(...view.sorts.map(([key, label]) => el('option', { value: key }, label)));
    sort.value = view.sort;
    const t = view.total;
    status.textContent = `${count(t.left)} of ${count(t.responses)} responses, ${count(t.prompts_left)} of ${count(t.prompts)} prompts` +
      (view.reading ? '; components and tokens are still being read' : '');
    table.draw(view, opened);
  }

  function taken(number) {
    done = Math.max(done, number);
    if (queued && done >= sent) { const values = queued; queued = null; choose(values); }
    else if (done >= sent) draw();
  }

  const onMessage = message => {
    if (message.do === 'rows') table.take(message);
    if (message.do === 'done') taken(message.number);
    if (message.do === 'show') table.show(message.row);
  };
  model.on('msg:custom', onMessage);
  model.on('change:view', draw);
  model.on('change:opened', draw);
  draw();
  return () => { model.off('msg:custom', onMessage); model.off('change:view', draw); model.off('change:opened', draw); };
}

export default { render };
