// Charts in SVG: curves over steps, bars with intervals. Lines differ in dash as well as in colour.

function niceTicks(low, high, about = 4) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + 1e-9 * step; x += step)
    ticks.push(Number(x.toPrecision(10)));
  return ticks;
}

function range(values, {zero = false, unit = false} = {}) {
  const present = values.filter(known);
  let low = Infinity;
  let high = -Infinity;
  for (const x of present) {
    low = Math.min(low, x);
    high = Math.max(high, x);
  }
  if (unit && low >= 0 && high <= 1) return [0, 1];
  if (zero) low = Math.min(0, low);
  if (!(high > low)) [low, high] = [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
  const room = (high - low) * 0.05;
  return [zero && low === 0 ? 0 : low - room, high + room];
}

// series: [{name, x: [..], y: [..], color, dash}]; points: [{x, y, low, high, name, color}] with intervals.
// onstep(x): the address to which a click on a step leads.
function curveChart({
  title,
  unit = '',
  series,
  points = [],
  onstep = null,
  share = false,
  width = 380,
  height = 170,
  xname = 'optimizer step',
}) {
  const left = 44;
  const right = 12;
  const [top, bottom] = [10, 32];
  const xs = [...series.flatMap((s) => s.x), ...points.map((p) => p.x)];
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const ys = [...series.flatMap((s) => s.y), ...points.flatMap((p) => [p.y, p.low, p.high])];
  const [y0, y1] = range(ys, {unit: share});
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const py = (y) => height - bottom - ((y - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const show = share ? (y) => `${Math.round(100 * y)} %` : (y) => number(y);
  const path = (s) =>
    s.x
      .map((x, k) =>
        known(s.y[k]) ? `${k && known(s.y[k - 1]) ? 'L' : 'M'}${px(x).toFixed(1)},${py(s.y[k]).toFixed(1)}` : '',
      )
      .join('');
  const chart = svg(
    'svg',
    {
      viewBox: `0 0 ${width} ${height}`,
      role: 'img',
      'aria-label': `${title}: ${series.map((s) => describe(s, show)).join('; ')}`,
    },
    niceTicks(y0, y1).map((y) => [
      svg('line.grid', {x1: left, x2: width - right, y1: py(y), y2: py(y)}),
      svg('text', {x: left - 6, y: py(y) + 4, 'text-anchor': 'end'}, show(y)),
    ]),
    niceTicks(x0, x1, 6)
      .filter(Number.isInteger)
      .map((x) => svg('text', {x: px(x), y: height - bottom + 15, 'text-anchor': 'middle'}, count(x))),
    svg('line.axis', {x1: left, x2: width - right, y1: height - bottom, y2: height - bottom}),
    svg('text', {x: (left + width - right) / 2, y: height - 3, 'text-anchor': 'middle'}, xname),
    series.map((s) => svg('path.line', {d: path(s), stroke: s.color, 'stroke-dasharray': s.dash})),
    series.map((s) => s.x.length === 1 && svg('circle', {cx: px(s.x[0]), cy: py(s.y[0]), r: 3, fill: s.color})),
    points.map((p) =>
      svg(
        'g',
        {stroke: p.color, fill: p.color},
        svg('title', {}, p.name),
        known(p.low) &&
          svg('path', {
            d: `M${px(p.x)},${py(p.low)}V${py(p.high)}M${px(p.x) - 4},${py(p.low)}h8M${px(p.x) - 4},${py(p.high)}h8`,
            'stroke-width': 1.6,
            fill: 'none',
          }),
        svg('circle', {cx: px(p.x), cy: py(p.y), r: 4}),
      ),
    ),
  );
  if (onstep) chart.append(...stepTargets(series, px, height - bottom, top, onstep, show));
  return h('figure', {}, h('figcaption', {}, title, unit && h('small', {}, ` ${unit}`)), chart);
}

function describe(s, show) {
  const present = s.y.filter(known);
  return present.length
    ? `${s.name} from ${show(present[0])} to ${show(present[present.length - 1])}`
    : `${s.name}: none`;
}

// A link per step, as wide as the step; by Tab only the first is reached, then arrows go on.
function stepTargets(series, px, bottom, top, onstep, show) {
  const {x} = series[0];
  const half = x.length > 1 ? (px(x[1]) - px(x[0])) / 2 : 10;
  const links = x.map((step, k) =>
    svg(
      'a',
      {href: onstep(step), tabindex: k ? '-1' : '0', 'aria-label': `rollouts of step ${step}`},
      svg(
        'title',
        {},
        [`step ${step}`, ...series.map((s) => `${s.name} ${show(s.y[k])}`), 'click: its rollouts'].join('\n'),
      ),
      svg('rect.hit', {x: px(step) - half, y: top, width: Math.max(2, 2 * half), height: bottom - top}),
    ),
  );
  links.forEach((target, k) =>
    target.addEventListener('keydown', (event) => {
      const next = links[k + {ArrowRight: 1, ArrowLeft: -1}[event.key]];
      if (next) next.focus();
    }),
  );
  return links;
}

// Horizontal bars with intervals: rows: [{label, value, low, high, n, title, href}]; `show` writes a value.
function barChart({
  title,
  note: words = '',
  rows,
  show = percent,
  from = 0,
  to = null,
  reference = null,
  color = 'var(--accent)',
}) {
  const width = 380;
  const left = 100;
  const right = 152;
  const line = 22;
  const height = rows.length * line + 22;
  // An interval without width comes of a single task: it would claim a certainty that is not there.
  rows = rows.map((row) => (row.low === row.high ? {...row, low: null, high: null} : row));
  const highs = rows.flatMap((row) => [row.value, row.high]).filter(known);
  const lows = rows.flatMap((row) => [row.value, row.low]).filter(known);
  const start = Math.min(from, ...lows);
  const end = to ?? Math.max(...highs, reference ?? 0, start + 1e-9);
  const px = (x) => left + ((Math.min(Math.max(x, start), end) - start) / (end - start)) * (width - left - right);
  const chart = svg(
    'svg',
    {
      viewBox: `0 0 ${width} ${height}`,
      style: {'max-width': '440px'}, // letters are of one size, however wide the card
      role: 'img',
      'aria-label': `${title}: ${rows.map((row) => `${row.label} ${show(row.value)} of ${row.n}`).join('; ')}`,
    },
    niceTicks(start, end, 3).map((x) => [
      svg('line.grid', {x1: px(x), x2: px(x), y1: 2, y2: height - 18}),
      svg('text', {x: px(x), y: height - 5, 'text-anchor': 'middle'}, show(x, 0)),
    ]),
    reference !== null &&
      svg('line', {
        x1: px(reference),
        x2: px(reference),
        y1: 0,
        y2: height - 18,
        stroke: 'var(--soft)',
        'stroke-dasharray': '3 3',
      }),
    rows.map((row, k) => barOf(row, k * line + line / 2, {px, left, width, right, show, color, start})),
  );
  return h('figure', {}, h('figcaption', {}, title, words && h('small', {}, ` ${words}`)), chart);
}

function barOf(row, y, {px, left, width, right, show, color, start}) {
  const zero = px(Math.max(0, start));
  const end = px(row.value ?? 0);
  return svg(
    'g',
    {},
    row.title && svg('title', {}, row.title),
    svg('text.strong', {x: left - 8, y: y + 4, 'text-anchor': 'end'}, oneLine(row.label, 16)),
    known(row.value) &&
      svg('rect', {
        x: Math.min(zero, end),
        y: y - 6,
        width: Math.max(1, Math.abs(end - zero)),
        height: 12,
        rx: 2,
        fill: color,
        'fill-opacity': 0.55,
      }),
    known(row.low) &&
      svg('path', {
        d: `M${px(row.low)},${y}H${px(row.high)}M${px(row.low)},${y - 4}v8M${px(row.high)},${y - 4}v8`,
        stroke: 'var(--ink)',
        'stroke-width': 1.2,
      }),
    svg(
      'text',
      {x: width - right + 10, y: y + 4},
      svg('tspan.strong', {}, show(row.value)),
      known(row.low) ? ` ${interval(row.low, row.high, (x) => show(x, 0).replace(' %', ''))}` : '',
      ` n ${shortCount(row.n)}`,
    ),
  );
}

// A strip of rewards, one mark each: filled for a success, hollow for a failure, a dash for none.
function rewardMarks(run, rollouts) {
  return h(
    'span.mono',
    {'aria-label': rollouts.map((i) => number(run.reward(i))).join(', ')},
    rollouts.map((i) => {
      const success = run.success(i);
      return h(
        'span',
        {class: success ? 'good' : 'bad', title: `rollout ${run.index.rollout[i]}: reward ${number(run.reward(i))}`},
        success === null ? '–' : success ? '●' : '○',
      );
    }),
  );
}

// What the colours of a chart mean: a square of each, and its name.
function swatches(kinds) {
  return h(
    'div.legend',
    {},
    kinds.map(({name, fill, line}) =>
      h('span', {}, h('span.swatch', {style: {background: fill, 'border-color': line}}), name),
    ),
  );
}
