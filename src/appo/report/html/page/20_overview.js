// The whole run at a glance: what it was, how it went, whether its credit adds up. It needs the summary alone, so that
// it is there before any column is decoded.

// Curves of which we know what they are; what else was logged stands below, under its own name.
const CURVES = [
  {
    title: 'Success',
    unit: 'share of rollouts in training',
    share: true,
    lines: [['success', 'training rollouts']],
    evaluated: true,
  },
  {
    title: 'Reward',
    unit: 'mean per update',
    lines: [
      ['reward', 'initial rollouts'],
      ['branch_reward', 'branches'],
    ],
  },
  {title: 'Entropy', unit: 'nats per policy token', lines: [['entropy', 'entropy']]},
  {
    title: 'Where branches start',
    unit: '0: first token of the rollout, 1: last',
    lines: [['branch_position', 'mean position']],
  },
  {title: 'Length', unit: 'tokens per rollout', lines: [['tokens', 'tokens']]},
  {
    title: 'Tool calls',
    unit: 'per rollout',
    lines: [
      ['calls', 'calls'],
      ['errors', 'failed calls'],
    ],
  },
];
const COLORS = ['var(--one)', 'var(--two)', 'var(--mark)'];
const DASHES = [null, '5 3', '2 2'];

function lineOf(run, key, name, k = 0) {
  const {series} = run.summary;
  return {name, x: series.step, y: series[key], color: COLORS[k], dash: DASHES[k]};
}

const hasSeries = (run, key) => (run.summary.series?.[key] ?? []).some?.(known);

function legend(lines) {
  return (
    lines.length > 1 &&
    h(
      'div.legend',
      {'aria-hidden': 'true'},
      lines.map((line) =>
        h('span', {}, h(line.dash ? 'i.dashed' : 'i', {style: {'border-color': line.color}}), line.name),
      ),
    )
  );
}

// Evaluations as points at the step where they were made.
function evaluationPoints(run, color = 'var(--mark)') {
  const {evaluations = [], series} = run.summary;
  const steps = series?.step ?? [];
  const last = steps.length ? steps[steps.length - 1] : 0;
  return evaluations
    .filter((e) => known(e.success))
    .map((e) => ({
      x: e.step ?? (/before|start/.test(e.name) ? 0 : last),
      y: e.success,
      low: e.low,
      high: e.high,
      color,
      name: `evaluation “${e.name}”: success ${percent(e.success)} ${interval(e.low, e.high)} of ${plural(e.questions, 'question')}`,
    }));
}

function curves(run) {
  const onstep = (step) => link('rollouts', [], {run: run.number || null, step});
  const charts = CURVES.map((curve) => {
    const lines = curve.lines
      .filter(([key]) => hasSeries(run, key))
      .map(([key, name], k) => lineOf(run, key, name, k));
    if (!lines.length) return null;
    const points = curve.evaluated ? evaluationPoints(run) : [];
    return h(
      'section.card',
      {'aria-label': curve.title},
      curveChart({...curve, series: lines, points, onstep}),
      legend(lines),
      points.length > 0 && h('div.legend', {}, h('span', {}, '● with a bar: an evaluation, its 95 % interval')),
    );
  }).filter(Boolean);
  return charts.length ? h('div.columns', {}, charts) : h('p.note', {}, 'No update has been recorded.');
}

function otherCurves(run) {
  const named = new Set(['step', ...CURVES.flatMap((curve) => curve.lines.map(([key]) => key))]);
  const keys = Object.keys(run.summary.series ?? {}).filter((key) => !named.has(key) && hasSeries(run, key));
  if (!keys.length) return null;
  const box = h('details.card', {}, h('summary', {}, `${plural(keys.length, 'more curve')} that the trainer logged`));
  box.addEventListener('toggle', () => {
    if (box.open && box.children.length === 1) {
      box.append(
        h(
          'div.columns',
          {style: {'margin-top': '10px'}},
          keys.map((key) => curveChart({title: key, series: [lineOf(run, key, key)], height: 140})),
        ),
      );
    }
  });
  return box;
}

function tile(value, words, extra = null) {
  return h('div.tile', {}, h('b', {}, value), h('span', {}, words), extra && h('span', {}, extra));
}

// The difference of two shares with the interval that Wilson's two make (Newcombe), as if of different questions: where the
// records cannot pair them.
function gain(before, after) {
  const difference = after.success - before.success;
  if (![before.low, before.high, after.low, after.high].every(known)) return [difference, null, null];
  return [
    difference,
    difference - Math.hypot(after.success - after.low, before.high - before.success),
    difference + Math.hypot(after.high - after.success, before.success - before.low),
  ];
}

function evaluationTiles(run) {
  const evaluations = (run.summary.evaluations ?? []).filter((e) => known(e.success));
  const tiles = evaluations.map((e) =>
    tile(
      percent(e.success),
      `success ${e.name}: ${interval(e.low, e.high)} of ${plural(e.questions, 'question')}`,
      [
        known(e.tool_calls) && `${fixed(e.tool_calls, 1)} tool calls`,
        known(e.tokens) && `${fixed(e.tokens, 1)} tokens`,
      ]
        .filter(Boolean)
        .map((words) => `${words} per question`)
        .join(', ')
        .replace(' per question, ', ', '),
    ),
  );
  if (run.summary.gain) tiles.push(gainTile(run.summary.gain, evaluations));
  return tiles;
}

// From the first evaluation to the last: paired by data row where the records hold both.
function gainTile(gained, evaluations) {
  const points = (x) => signedFixed(100 * x, 1);
  const [first, last] = [gained.first, gained.last].map((key) => evaluations.find((e) => e.key === key));
  const paired = known(gained.n);
  const [difference, low, high] = paired ? [gained.difference, gained.low, gained.high] : gain(first, last);
  return tile(
    `${points(difference)} points`,
    `gained, ${first.name} to ${last.name} ${interval(low, high, points)}`,
    paired ? `paired by question, n = ${count(gained.n)}` : 'interval without pairing',
  );
}

// Does every recorded advantage equal the product of its factors?
function creditLine(run) {
  const check = run.summary.credit_check;
  if (!check || !check.tokens) return h('span.soft', {}, 'No token of this run has a recorded advantage.');
  if (!check.method_has_factors)
    return h('span.soft', {}, `${count(check.tokens)} tokens carry loss; their method records no factors.`);
  const text = `base × factors is what the loss was given, on ${plural(check.tokens, 'token')} (largest difference ${number(check.largest_difference)})`;
  return check.disagree
    ? h(
        'span.bad',
        {},
        `✗ ${plural(check.disagree, 'token')} of ${count(check.tokens)} disagree with their factors (largest difference ${number(check.largest_difference)}).`,
      )
    : h('span', {}, h('span.good', {}, '✓ '), `Credit adds up: ${text}.`);
}

function branchLine(run) {
  const changed = run.atlas?.changed;
  if (!changed || !changed.n) return null;
  return h(
    'span',
    {},
    `${percent(changed.share)} ${interval(changed.low, changed.high)} of ${plural(changed.n, 'branch', 'branches')} ended otherwise than the rollout they left. `,
    h('a', {href: link('atlas', [], {run: run.number || null})}, 'Which decisions?'),
  );
}

const KEY_SETTINGS = [
  'method',
  'method_args',
  'learning_rate',
  'max_steps',
  'num_generations',
  'num_iterations',
  'steps_per_generation',
  'per_device_train_batch_size',
  'temperature',
  'loss_type',
  'epsilon',
  'epsilon_high',
  'beta',
  'max_completion_length',
  'seed',
  'tool_protocol',
  'success_reward',
];
const asText = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

// A setting; one that is a mapping, such as a method's options, a line for each entry.
function asLines(value) {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return asText(value);
  return Object.entries(value)
    .filter(([, entry]) => known(entry))
    .map(([name, entry]) => h('div', {}, `${name}: ${asText(entry)}`));
}

function settings(run) {
  const all = run.summary.settings ?? {};
  const first = KEY_SETTINGS.filter((key) => known(all[key]));
  const every = {...all, ...run.summary.further_settings};
  const rest = Object.keys(every)
    .filter((key) => !first.includes(key) && known(every[key]))
    .sort();
  const pairs = (keys) => definition(keys.map((key) => [key, h('div.mono', {}, asLines(every[key]))]));
  return h(
    'div.columns',
    {},
    section(
      'Settings',
      null,
      pairs(first),
      rest.length > 0 &&
        h(
          'details',
          {style: {'margin-top': '8px'}},
          h('summary', {}, `${plural(rest.length, 'more setting')}`),
          pairs(rest),
        ),
    ),
    section(
      'Made with',
      null,
      definition([
        ...Object.entries(run.summary.versions ?? {}),
        ['directory', h('span.mono', {}, run.pack.directory)],
        ['report', PACK.made],
      ]),
    ),
  );
}

function runWords(run) {
  const {
    method,
    task,
    model,
    seed,
    num_steps: steps,
    num_rollouts: rollouts,
    num_tokens: tokens,
    protocol,
  } = run.summary;
  return [
    method && `method ${method}`,
    task && `task ${task}`,
    model && `model ${oneLine(model, 60)}`,
    protocol && `calls by ${protocol}`,
    known(seed) && `seed ${seed}`,
    plural(steps ?? 0, 'step'),
    plural(rollouts, 'rollout'),
    plural(tokens, 'token'),
  ]
    .filter(Boolean)
    .join(' · ');
}

VIEWS.overview = {
  title: 'Overview',
  render(page) {
    const run = RUNS[shownRun];
    const {sampled} = run.summary;
    page.append(
      h('div.head', {}, h('h1', {}, run.name), h('span.soft', {}, runWords(run))),
      (known(sampled) &&
        h(
          'div.alert',
          {},
          `A sample: ${plural(sampled, 'rollout')} of ${count(run.summary.num_rollouts)}, whole trees. Curves and evaluations are of the whole run.`,
        )) ||
        '',
      h('div.tiles', {}, evaluationTiles(run)),
      h('section.card', {'aria-label': 'checks'}, h('div', {}, creditLine(run)), h('div', {}, branchLine(run) ?? '')),
      curves(run),
      otherCurves(run) ?? '',
      settings(run),
    );
  },
};
