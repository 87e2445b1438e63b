// Two runs side by side: curves over each other, and tasks matched by their data row.

// Mean reward and success of a run's rollouts by data row: {row_key: {rewards, rollouts}}.
function rowsOf(run, kind) {
  const ofKind = kindTest(run, kind);
  const rows = new Map();
  for (let i = 0; i < run.n; i++) {
    const reward = run.reward(i);
    if (reward === null || !ofKind(i)) continue;
    const key = run.task(i).row_key;
    if (!key) continue;
    if (!rows.has(key)) rows.set(key, {rewards: [], rollouts: []});
    rows.get(key).rewards.push(reward);
    rows.get(key).rollouts.push(i);
  }
  return rows;
}

// Rows that both runs have: [{key, a, b, difference}, ..].
function matched(kind) {
  const [first, second] = RUNS.map((run) => rowsOf(run, kind));
  const pairs = [];
  for (const [key, a] of first) {
    const b = second.get(key);
    if (b) pairs.push({key, a, b, difference: mean(b.rewards) - mean(a.rewards)});
  }
  return {pairs, alone: [first.size - pairs.length, second.size - pairs.length]};
}

// What can be compared: kinds of which both runs have rollouts.
function commonKinds() {
  const kindsOf = (run) => {
    const kinds = new Set();
    for (let i = 0; i < run.n; i++) kinds.add(run.evaluation(i) ?? (run.isBranch(i) ? 'branch' : 'initial'));
    return kinds;
  };
  const [first, second] = RUNS.map(kindsOf);
  const order = ['after', 'before', 'initial', 'branch'];
  return [...first]
    .filter((kind) => second.has(kind))
    .sort((a, b) => ((order.indexOf(a) + 9) % 9) - ((order.indexOf(b) + 9) % 9));
}

const kindName = (kind) => ({initial: 'training, initial rollouts', branch: 'branches'})[kind] ?? `evaluation ${kind}`;

function compareSettings() {
  const [a, b] = RUNS.map((run) => ({
    method: run.summary.method,
    task: run.summary.task,
    seed: run.summary.seed,
    ...run.summary.settings,
  }));
  const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])].filter(
    (key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]) && !/_dir$|^run_name$/.test(key),
  );
  const text = (value) => h('div.mono', {}, value === undefined ? '–' : asLines(value ?? 'none'));
  return section(
    'Settings that differ',
    null,
    keys.length
      ? table(
          ['', `A: ${RUNS[0].name}`, `B: ${RUNS[1].name}`],
          keys.map((key) => [key, text(a[key]), text(b[key])]),
          {label: 'settings that differ'},
        )
      : h('p.soft', {style: {margin: 0}}, 'None of those that tell.'),
  );
}

function compareEvaluations() {
  const names = [...new Set(RUNS.flatMap((run) => (run.summary.evaluations ?? []).map((e) => e.name)))];
  const cell = (run, name) => {
    const e = (run.summary.evaluations ?? []).find((each) => each.name === name);
    return e && known(e.success) ? `${percent(e.success)} ${interval(e.low, e.high)} of ${count(e.questions)}` : '–';
  };
  const paired = (name) => {
    const pair = PACK.compare?.evaluations?.find(({key}) => key === name);
    const points = (x) => signedFixed(100 * x, 1);
    return pair?.rows
      ? `${points(pair.difference)} points ${interval(pair.low, pair.high, points)}, n = ${count(pair.rows)}`
      : '–';
  };
  return section(
    'Success',
    'With 95 % intervals: Wilson’s for each, by bootstrap over the questions that both were asked for the difference.',
    table(
      ['evaluation', `A: ${RUNS[0].name}`, `B: ${RUNS[1].name}`, 'B − A, question by question'],
      names.map((name) => [name, ...RUNS.map((run) => cell(run, name)), paired(name)]),
      {label: 'success of both'},
    ),
  );
}

function compareCurves() {
  const charts = CURVES.map((curve) => {
    const [key] = curve.lines[0];
    const runs = RUNS.filter((run) => hasSeries(run, key));
    if (!runs.length) return null;
    const lines = runs.map((run) => ({...lineOf(run, key, `${'AB'[run.number]}: ${run.name}`, run.number)}));
    const points = curve.evaluated ? runs.flatMap((run) => evaluationPoints(run, COLORS[run.number])) : [];
    return h(
      'section.card',
      {'aria-label': curve.title},
      curveChart({
        ...curve,
        unit: curve.lines.length > 1 ? `${curve.unit}, ${curve.lines[0][1]}` : curve.unit,
        series: lines,
        points,
      }),
      legend(lines),
    );
  }).filter(Boolean);
  return h('div.columns', {}, charts);
}

function verdict({pairs, alone}) {
  const differences = pairs.map(({difference}) => difference);
  const [low, high] = meanInterval(differences);
  const better = differences.filter((x) => x > 1e-9).length;
  const worse = differences.filter((x) => x < -1e-9).length;
  return h(
    'div.tiles',
    {},
    tile(
      count(pairs.length),
      'tasks that both runs saw (the same data row)',
      `${count(alone[0])} only in A, ${count(alone[1])} only in B`,
    ),
    pairs.length
      ? tile(
          signedFixed(mean(differences), 3),
          `reward, B − A ${interval(low, high, (x) => signedFixed(x, 3))}`,
          `mean over n = ${count(pairs.length)} tasks, Student’s t`,
        )
      : '',
    pairs.length
      ? tile(`${better} / ${worse}`, `tasks on which B is better / worse; ${pairs.length - better - worse} alike`)
      : '',
  );
}

const ROW_COLUMNS = [
  [
    null,
    'A',
    '190px',
    (pair) => [rewardMarks(RUNS[0], pair.a.rollouts.slice(0, 12)), ` ${fixed(mean(pair.a.rewards))}`],
  ],
  [
    null,
    'B',
    '190px',
    (pair) => [rewardMarks(RUNS[1], pair.b.rollouts.slice(0, 12)), ` ${fixed(mean(pair.b.rewards))}`],
  ],
  [
    null,
    'B − A',
    '64px',
    (pair) =>
      h(
        'span',
        {class: pair.difference > 0 ? 'good' : pair.difference < 0 ? 'bad' : 'soft'},
        signedFixed(pair.difference),
      ),
    'num',
  ],
  [null, 'task', 'minmax(0, 1fr)', (pair) => oneLine(promptText(RUNS[0].task(pair.a.rollouts[0])), 140), 'soft'],
];

// One task in both runs: a rollout of each, beside the other.
async function bothRollouts(pair, kind) {
  const columns = await Promise.all(
    [
      [RUNS[0], pair.a],
      [RUNS[1], pair.b],
    ].map(async ([run, {rollouts}]) => {
      const rollout = await readRollout(run, rollouts[0]);
      return h(
        'section.card',
        {'aria-label': `run ${'AB'[run.number]}`},
        h('h2', {}, `${'AB'[run.number]}: ${run.name} `, outcome(run, rollout.i)),
        h('div', {style: {'max-height': '300px', 'overflow-y': 'auto'}}, tokenBlocks(rollout, null, new Map())),
        h(
          'p',
          {style: {margin: '8px 0 0'}},
          h('a', {href: rolloutLink(run, rollout.i)}, 'token by token'),
          rollouts.length > 1 && [
            ' · ',
            h(
              'a',
              {href: link('rollouts', [], {run: run.number, task: pair.key, kind})},
              `all ${rollouts.length} rollouts`,
            ),
          ],
        ),
      );
    }),
  );
  return h('div.columns', {}, columns);
}

VIEWS.compare = {
  title: 'Compare',
  async render(page, route) {
    if (RUNS.length < 2)
      return void page.append(h('p', {}, 'This report holds one run. “appo report RUN RUN2” makes one of two.'));
    await Promise.all(RUNS.map((run) => run.open()));
    const kinds = commonKinds();
    const kind = kinds.includes(route.query.kind) ? route.query.kind : kinds[0];
    const match = kind ? matched(kind) : {pairs: [], alone: [0, 0]};
    match.pairs.sort((a, b) => Math.abs(b.difference) - Math.abs(a.difference));
    const beside = h('div', {});
    const open = async (k) => {
      list.choose(k);
      note('compare', [], {kind, at: k || null});
      beside.replaceChildren(await bothRollouts(match.pairs[k], kind));
    };
    const list = new VirtualList({
      items: match.pairs.length,
      chosen: Number(route.query.at) || 0,
      draw: (k) =>
        h(
          'a.row',
          {
            href: link('compare', [], {kind, at: k}),
            style: {'--grid': gridOf(ROW_COLUMNS)},
            onclick: (event) => {
              event.preventDefault();
              open(k);
            },
          },
          cells(ROW_COLUMNS, match.pairs[k]),
        ),
    });
    list.window.style.height = '320px';
    page.append(
      h(
        'div.head',
        {},
        h('h1', {}, 'Two runs'),
        h(
          'span.soft',
          {},
          h('a', {href: link('overview', [], {run: 0})}, `A: ${RUNS[0].name}`),
          ' against ',
          h('a', {href: link('overview', [], {run: 1})}, `B: ${RUNS[1].name}`),
        ),
      ),
      compareEvaluations(),
      compareCurves(),
      h(
        'div.filters',
        {},
        h(
          'label',
          {},
          'tasks of',
          h(
            'select',
            {'aria-label': 'tasks of', onchange: (event) => go('compare', [], {kind: event.target.value})},
            kinds.map((each) => h('option', {value: each, selected: each === kind}, kindName(each))),
          ),
        ),
      ),
      verdict(match),
      match.pairs.length
        ? h(
            'div.list',
            {},
            heads(ROW_COLUMNS, {}, () => {}),
            list.window,
          )
        : h('p.soft', {}, 'No data row was seen by both.'),
      h('div', {style: {height: '12px'}}),
      beside,
      compareSettings(),
    );
    const move = (by) => () =>
      match.pairs.length && open(Math.max(0, Math.min(match.pairs.length - 1, list.chosen + by)));
    Object.assign(route.keys, {j: move(1), k: move(-1), Enter: move(0), Escape: () => go('overview')});
    if (match.pairs.length)
      beside.replaceChildren(await bothRollouts(match.pairs[Math.min(list.chosen, match.pairs.length - 1)], kind));
    route.shown = () => list.choose(list.chosen);
  },
};
