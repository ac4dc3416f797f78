/**
 * What report.html does in a browser: bars, plots, and the viewer of logs. All text is set as text, never as markup.
 * One file, because report.html has it in it.
 */

/** Height of a line of the log in pixels; report.css has the same. */
const LINE = 18;
/** Browsers draw nothing further down than some 33 million pixels. */
const HEIGHT_MAX = 8e6;
const AROUND = 20;
/** Lines of a log whose parts are folded at first. */
const FOLDED_FROM = 200;
const PARTS_MAX = 500;

const ESCAPES = /\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)|\u001b./g;
const ERROR =
  /(^|[\s:])(fatal )?error( [A-Z]+\d+)?:|\*\*\* |^Traceback |^FAIL(ED)?\b|Segmentation fault/;
const PART = /^Executing\((%?\w+)\)/;

const find = (selector) => document.querySelector(selector);

for (const bar of document.querySelectorAll('.bar')) {
  bar.style.marginLeft = `${bar.dataset.start}%`;
  bar.style.width = `${bar.dataset.length}%`;
}

for (const time of document.querySelectorAll('time')) {
  const date = new Date(time.dateTime);
  const how = { dateStyle: 'medium', timeStyle: 'medium' };
  if (!Number.isNaN(date.getTime())) time.textContent = date.toLocaleString(undefined, how);
}

/** Says so where a part of what scrolls is not seen. */
for (const box of document.querySelectorAll('.graph')) {
  const note = document.querySelector('.scrolls');
  const look = () => {
    note.hidden = box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight;
  };
  new ResizeObserver(look).observe(box);
}

async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return await new Response(stream).text();
}

class Viewer {
  constructor(section) {
    this.viewer = section.querySelector('.viewer');
    this.height = section.querySelector('.height');
    this.rows = section.querySelector('.rows');
    this.parts = section.querySelector('.parts');
    this.search = section.querySelector('input');
    this.matches = section.querySelector('.matches');
    this.tabs = [...section.querySelectorAll('[data-log]')];
    this.logs = new Map();
    this.found = [];
    this.at = -1;
    this.marked = -1;
    section.classList.add('live');
    this.viewer.addEventListener('scroll', () => this.draw());
    new ResizeObserver(() => this.draw()).observe(this.viewer);
    for (const tab of this.tabs) tab.addEventListener('click', () => this.show(tab.dataset.log));
    this.parts.addEventListener('change', () => this.goTo(Number(this.parts.value), false));
    let timer;
    this.search.addEventListener('input', () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.look(), 150);
    });
    this.search.addEventListener('keydown', (event) => {
      if (event.key === 'Enter') this.step(event.shiftKey ? -1 : 1);
    });
    section.querySelector('.next').addEventListener('click', () => this.step(1));
    section.querySelector('.previous').addEventListener('click', () => this.step(-1));
    this.folds = section.querySelector('.folds');
    this.folds.addEventListener('click', () => {
      this.folded = new Set(this.folded.size > 0 ? [] : this.partList.keys());
      this.fold();
    });
    this.rows.addEventListener('click', (event) => {
      const part = event.target.dataset.part;
      if (part !== undefined) this.toggle(Number(part));
      const number = event.target.dataset.line;
      if (number === undefined) return;
      history.replaceState(null, '', `#${this.name}:${number}`);
      this.goTo(Number(number) - 1, true);
    });
    window.addEventListener('hashchange', () => this.goToHash());
  }

  async read(name) {
    let lines = this.logs.get(name);
    if (lines !== undefined) return lines;
    const element = [...document.querySelectorAll('script.log')].find(
      (one) => one.dataset.name === name,
    );
    const text = await unpack(element.textContent);
    lines = text.split('\n');
    if (lines.at(-1) === '') lines.pop();
    this.logs.set(name, lines);
    return lines;
  }

  async show(name) {
    this.lines = await this.read(name);
    this.name = name;
    for (const tab of this.tabs) tab.setAttribute('aria-pressed', String(tab.dataset.log === name));
    this.marked = -1;
    this.listParts();
    this.fold();
    this.look();
    this.viewer.scrollTop = 0;
    this.draw();
  }

  /** A part goes from the line that names it to the next such line. Of a long log the last, which may have failed, is open. */
  listParts() {
    this.partList = [];
    this.lines.forEach((line, number) => {
      const part = PART.exec(line);
      if (part === null || this.partList.length >= PARTS_MAX) return;
      if (this.partList.length > 0) this.partList.at(-1).to = number;
      this.partList.push({ name: part[1], from: number, to: this.lines.length });
    });
    const isLong = this.lines.length > FOLDED_FROM;
    this.folded = new Set(isLong ? [...this.partList.keys()].slice(0, -1) : []);
    const options = this.partList.map(({ name, from }) => new Option(name, String(from)));
    const title = new Option('parts', '', true, true);
    title.disabled = true;
    this.parts.replaceChildren(title, ...options);
    this.parts.hidden = options.length === 0;
    this.folds.hidden = options.length === 0;
  }

  toggle(part) {
    if (!this.folded.delete(part)) this.folded.add(part);
    this.fold();
  }

  /** Numbers of the lines that are not folded away; undefined where all are there. */
  fold() {
    this.shown = undefined;
    if (this.folded.size > 0) {
      const hidden = [...this.folded].map((part) => this.partList[part]);
      const count = hidden.reduce((sum, { from, to }) => sum - (to - from - 1), this.lines.length);
      this.shown = new Int32Array(count);
      let row = 0;
      let next = 0;
      hidden.sort((a, b) => a.from - b.from);
      for (let number = 0; number < this.lines.length; number++) {
        this.shown[row++] = number;
        if (hidden[next]?.from === number) number = hidden[next++].to - 1;
      }
    }
    const whole = this.rowCount * LINE;
    this.scale = Math.max(1, whole / HEIGHT_MAX);
    this.height.style.height = `${whole / this.scale}px`;
    this.folds.textContent = this.folded.size > 0 ? 'unfold all' : 'fold all';
    this.draw();
  }

  get rowCount() {
    return this.shown === undefined ? this.lines.length : this.shown.length;
  }

  /** The row of a line; its part is unfolded for it. */
  rowOf(number) {
    const part = this.partList.findIndex(({ from, to }) => from < number && number < to);
    if (this.folded.delete(part)) this.fold();
    return this.shown?.findLastIndex((shown) => shown <= number) ?? number;
  }

  /** The first line that is seen. Where there are too many lines for pixels, scrolling is coarser. */
  get first() {
    return Math.floor((this.viewer.scrollTop * this.scale) / LINE);
  }

  draw() {
    if (this.lines === undefined) return;
    const seen = Math.ceil(this.viewer.clientHeight / LINE);
    const from = Math.max(0, this.first - AROUND);
    const to = Math.min(this.rowCount, this.first + seen + AROUND);
    const wanted = this.search.value.toLowerCase();
    const rows = [];
    for (let at = from; at < to; at++) {
      const number = this.shown === undefined ? at : this.shown[at];
      const row = document.createElement('li');
      const text = this.lines[number].replace(ESCAPES, '').replace(/^.*\r(?=.)/, '');
      const label = document.createElement('a');
      label.dataset.line = String(number + 1);
      label.textContent = String(number + 1);
      const content = document.createElement('span');
      content.textContent = text;
      row.append(label, content);
      // Not what a shell with -x is about to run.
      if (ERROR.test(text) && !/^\++ /.test(text)) row.classList.add('error');
      const part = this.partList.findIndex((one) => one.from === number);
      if (part !== -1) this.drawPart(row, content, part);
      if (wanted !== '' && text.toLowerCase().includes(wanted)) row.classList.add('match');
      if (number === this.marked) row.classList.add('marked');
      rows.push(row);
    }
    const top = this.viewer.scrollTop - (this.first - from) * LINE;
    this.rows.style.transform = `translateY(${Math.max(0, top)}px)`;
    this.rows.replaceChildren(...rows);
  }

  drawPart(row, content, part) {
    row.classList.add('part');
    const { name, from, to } = this.partList[part];
    const isFolded = this.folded.has(part);
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.part = String(part);
    button.textContent = isFolded ? '▸' : '▾';
    button.setAttribute('aria-expanded', String(!isFolded));
    button.setAttribute('aria-label', name);
    content.before(button);
    if (isFolded) content.textContent += `  (${(to - from - 1).toLocaleString('en')} lines)`;
  }

  look() {
    const wanted = this.search.value.toLowerCase();
    this.found = [];
    this.at = -1;
    if (wanted !== '') {
      this.lines.forEach((line, number) => {
        if (line.toLowerCase().includes(wanted)) this.found.push(number);
      });
    }
    this.matches.textContent = wanted === '' ? '' : `${this.found.length} lines`;
    if (this.found.length > 0) this.step(1);
    else this.draw();
  }

  step(by) {
    if (this.found.length === 0) return;
    this.at = (this.at + by + this.found.length) % this.found.length;
    this.matches.textContent = `${this.at + 1} of ${this.found.length} lines`;
    this.goTo(this.found[this.at], true);
  }

  goTo(number, mark) {
    if (mark) this.marked = number;
    const middle = mark ? this.viewer.clientHeight / 2 : 0;
    this.viewer.scrollTop = (this.rowOf(number) * LINE) / this.scale - middle;
    this.draw();
  }

  async goToHash() {
    const [, name, line] = /^#([^:]+):(\d+)$/.exec(decodeURIComponent(location.hash)) ?? [];
    if (name === undefined || !this.tabs.some((tab) => tab.dataset.log === name)) return false;
    if (name !== this.name) await this.show(name);
    this.goTo(Number(line) - 1, true);
    return true;
  }

  async linkCause() {
    for (const line of document.querySelectorAll('#cause .lines .error')) {
      const text = line.querySelector('code').textContent;
      const number = this.lines.findLastIndex((one) => one.replace(ESCAPES, '') === text);
      if (number === -1) continue;
      const link = document.createElement('a');
      link.href = `#${this.name}:${number + 1}`;
      link.textContent = `line ${number + 1}`;
      line.append(link);
    }
  }
}

/** What a package needs, and what needs it, stands out while it is pointed at. */
function lightGraph(graph) {
  const light = (key) => {
    for (const edge of graph.querySelectorAll('.edge')) {
      const { from, to } = edge.dataset;
      edge.classList.toggle('lit', key !== undefined && (from === key || to === key));
    }
  };
  for (const node of graph.querySelectorAll('.node')) {
    for (const event of ['mouseenter', 'focusin'])
      node.addEventListener(event, () => light(node.dataset.node));
    for (const event of ['mouseleave', 'focusout']) node.addEventListener(event, () => light());
  }
}

function plot(samples) {
  const place = find('#plots');
  if (place === null || samples === null || samples.length < 2) return;
  const times = samples.map(({ ms }) => ms / 1000);
  const rate = (field) =>
    samples.map((sample, at) => {
      if (at === 0) return 0;
      const before = samples[at - 1];
      return Math.max(0, sample[field] - before[field]) / Math.max(1, sample.ms - before.ms);
    });
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour('--text'), grid: { stroke: colour('--line') }, size: 64 };
  const draw = (title, series) => {
    const options = {
      title,
      width: Math.min(900, place.clientWidth),
      height: 160,
      scales: { x: { time: false } },
      axes: [axis, axis],
      series: [
        { label: 's' },
        ...series.map(([label, , name]) => ({ label, stroke: colour(name), width: 1.5 })),
      ],
    };
    new uPlot(options, [times, ...series.map(([, values]) => values)], place);
  };
  draw('processors', [['processors', rate('cpuMs'), '--blue']]);
  draw('memory, MiB', [['memory', samples.map(({ memory }) => memory / 2 ** 20), '--green']]);
  const megabytes = (field) => rate(field).map((perMs) => (perMs * 1000) / 2 ** 20);
  draw('disks, MiB/s', [
    ['read', megabytes('read'), '--blue'],
    ['written', megabytes('written'), '--red'],
  ]);
}

async function start() {
  plot(JSON.parse(find('#samples').textContent));
  for (const graph of document.querySelectorAll('.graph')) lightGraph(graph);
  const section = find('#log');
  if (section === null) return;
  const viewer = new Viewer(section);
  await viewer.show(viewer.tabs[0].dataset.log);
  await viewer.linkCause();
  if (!(await viewer.goToHash()) && find('header.bad') !== null) {
    viewer.viewer.scrollTop = viewer.viewer.scrollHeight;
  }
  document.body.dataset.ready = String(viewer.lines.length);
}

start().catch((error) => {
  const said = document.createElement('p');
  said.textContent = `The log cannot be shown: ${error.message}. It lies beside result.json.`;
  find('#log')?.append(said);
});
