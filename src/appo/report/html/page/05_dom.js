// Elements, numbers and words. All text goes through text nodes, so that nothing a policy or a tool wrote is read as HTML.

const SVG = 'http://www.w3.org/2000/svg';

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') Object.entries(value).forEach(([key, text]) => element.style.setProperty(key, text));
    else if (name === 'value' || name === 'checked') element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child); // text becomes a text node
  }
  return element;
}

// h('a.button', {href: '#/atlas'}, 'Atlas')
function h(tag, attributes, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(' ');
  return fill(element, attributes, children);
}

function svg(tag, attributes, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElementNS(SVG, name);
  if (classes.length) element.setAttribute('class', classes.join(' '));
  return fill(element, attributes, children);
}

const known = (x) => x !== null && x !== undefined && !Number.isNaN(x);
const sum = (values) => values.reduce((total, x) => total + x, 0);
const mean = (values) => sum(values) / values.length;

// Population standard deviation, as in Eq. 6.
function spread(values) {
  const middle = mean(values);
  return Math.sqrt(mean(values.map((x) => (x - middle) ** 2)));
}

const count = (n) => Math.round(n).toLocaleString('en-US');
const shortCount = (n) => (n >= 99950 ? `${number(n / 1000, 3)}k` : count(n));
const plural = (n, word, words = `${word}s`) => `${count(n)} ${n === 1 ? word : words}`;
const percent = (x, digits = 1) => (known(x) ? `${(100 * x).toFixed(digits)} %` : '–');

// A number with about three digits that mean something; "–" for none.
function number(x, digits = 3) {
  if (!known(x)) return '–';
  if (x === 0) return '0';
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) return x.toExponential(1).replace('-', '−').replace('e+', 'e');
  const places = Math.max(0, Math.min(digits, digits - 1 - Math.floor(Math.log10(size))));
  const text = x.toFixed(places).replace('-', '−');
  return text.includes('.') && !text.includes('e') ? text.replace(/\.?0+$/, '') : text;
}

const signed = (x, digits = 3) => (!known(x) ? '–' : x > 0 ? `+${number(x, digits)}` : number(x, digits));
const fixed = (x, digits = 2) =>
  known(x)
    ? x
        .toFixed(digits)
        .replace(/^-(?=0\.?0*$)/, '')
        .replace('-', '−')
    : '–';
const signedFixed = (x, digits = 2) => (known(x) && x > 0 ? `+${fixed(x, digits)}` : fixed(x, digits));

function seconds(s) {
  if (!known(s)) return null;
  return s < 1 ? `${Math.max(1, Math.round(1000 * s))} ms` : `${s.toFixed(s < 10 ? 1 : 0)} s`;
}

const interval = (low, high, show = percent) => (known(low) && known(high) ? `[${show(low)}, ${show(high)}]` : '');

// Wilson's 95 % interval of a share.
function wilson(k, n) {
  if (!n) return [null, null];
  const z = 1.959964;
  const p = k / n;
  const middle = (p + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

// Student's t for 95 %, by degrees of freedom.
const T_95 = [
  0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12,
  2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
];

// The 95 % interval of a mean by Student's t; of a single value, or of equal ones, it would say nothing.
function meanInterval(values) {
  const n = values.length;
  if (n < 2 || spread(values) < 1e-12) return [null, null];
  const error = (spread(values) * Math.sqrt(n / (n - 1))) / Math.sqrt(n);
  const half = (T_95[n - 1] ?? 1.96) * error;
  return [mean(values) - half, mean(values) + half];
}

// A text in one line, cut at `length` characters.
function oneLine(text, length = 120) {
  const line = String(text ?? '')
    .replace(/\s+/g, ' ')
    .trim();
  return line.length > length ? `${line.slice(0, length - 1)}…` : line;
}

// A token as it can be seen: spaces and line ends have signs.
function visible(text) {
  const shown = text.replace(/\n/g, '↵').replace(/\t/g, '⇥').replace(/\r/g, '␍');
  return shown.trim() === '' ? shown.replace(/ /g, '␣') || '∅' : shown.trim();
}

// What was asked, in one text.
function promptText(task) {
  const {prompt} = task ?? {};
  if (typeof prompt === 'string') return prompt;
  if (!Array.isArray(prompt)) return prompt === null || prompt === undefined ? '' : JSON.stringify(prompt);
  const last = [...prompt].reverse().find((message) => message.role === 'user') ?? prompt[prompt.length - 1];
  return typeof last?.content === 'string' ? last.content : JSON.stringify(last?.content ?? '');
}

const kbd = (...keys) => keys.map((key) => h('kbd', {}, key));

function section(title, note, ...children) {
  return h('section.card', {'aria-label': title}, h('h2', {}, title), note && h('p.note', {}, note), ...children);
}

// rows: [[cell, ..], ..]; `numeric`: which columns are numbers.
function table(heads, rows, {numeric = [], caption = null, label = null} = {}) {
  const cls = (k) => (numeric.includes(k) ? 'num' : null);
  return h(
    'div.scroll',
    {tabindex: '0', role: 'region', 'aria-label': label ?? caption ?? 'table'},
    h(
      'table',
      {},
      caption && h('caption', {}, caption),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          heads.map((head, k) => h('th', {scope: 'col', class: cls(k)}, head)),
        ),
      ),
      h(
        'tbody',
        {},
        rows.map((row) =>
          h(
            'tr',
            {},
            row.map((cell, k) => h('td', {class: cls(k)}, cell)),
          ),
        ),
      ),
    ),
  );
}

function definition(pairs) {
  return h(
    'dl.pairs',
    {},
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== '')
      .map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]),
  );
}
