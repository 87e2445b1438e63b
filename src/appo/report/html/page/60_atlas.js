// Decisions pooled over the run: where branches left, what was redrawn, and what came of it. The numbers and their
// intervals are computed when the report is made (over tasks, by bootstrap); here they are drawn.

function shareRows(rows, label) {
  return (rows ?? [])
    .filter((row) => row.n > 0)
    .map((row) => ({
      label: label(row),
      value: row.changed,
      low: row.low,
      high: row.high,
      n: row.n,
      title: [
        `n = ${row.n}`,
        known(row.better) && `better ${percent(row.better)}, worse ${percent(row.worse)}`,
        known(row.mean_difference) &&
          `reward, branch − parent: ${signedFixed(row.mean_difference)} ${interval(row.mean_low, row.mean_high, signedFixed)}`,
      ]
        .filter(Boolean)
        .join('\n'),
    }));
}

function shareCard(title, words, rows, label, {limit = 40, reference = null} = {}) {
  const drawn = shareRows(rows, label).slice(0, limit);
  return (
    drawn.length > 0 &&
    h(
      'section.card',
      {'aria-label': title},
      barChart({title, note: words, rows: drawn, reference, show: (x) => percent(x, 0)}),
    )
  );
}

// Mean reward of branches by bins of a score: the paper's pilot figures.
function rewardCard(title, words, rows) {
  const drawn = (rows ?? [])
    .filter((row) => row.n > 0)
    .map((row) => ({
      label: `${number(row.low_edge)} to ${number(row.high_edge)}`,
      value: row.reward,
      low: row.reward_low,
      high: row.reward_high,
      n: row.n,
      title: known(row.changed) ? `ended otherwise: ${percent(row.changed)} ${interval(row.low, row.high)}` : null,
    }));
  return (
    drawn.length > 0 &&
    h(
      'section.card',
      {'aria-label': title},
      barChart({title, note: words, rows: drawn, show: (x) => fixed(x), color: 'var(--two)'}),
    )
  );
}

function meansCard(atlas) {
  const places = Object.entries(atlas.entropy_inside ?? {}).filter(([, value]) => value?.n);
  return (
    places.length > 0 &&
    h(
      'section.card',
      {'aria-label': 'entropy inside and outside of calls'},
      barChart({
        title: 'Entropy inside and outside of tool calls',
        note: 'mean over policy tokens, nats',
        rows: places.map(([name, value]) => ({
          label: name.replace(/_/g, ' '),
          value: value.mean,
          low: value.low,
          high: value.high,
          n: value.n,
        })),
        show: (x) => fixed(x),
      }),
      places.every(([, value]) => value.shares) &&
        histogram(places.map(([name, value]) => [name.replace(/_/g, ' '), value])),
    )
  );
}

// Shares of tokens by entropy, a pair of bars for each bin: filled inside of calls, hollow outside.
function histogram(places) {
  const width = 380;
  const [left, top, bottom, height] = [36, 6, 34, 150];
  const {edges} = places[0][1];
  const most = Math.max(...places.flatMap(([, value]) => value.shares));
  const wide = (width - left) / edges.length;
  const py = (share) => height - bottom - (share / most) * (height - bottom - top);
  const bars = places.map(([name, {shares}], k) =>
    shares.map((share, bin) =>
      svg(
        'rect',
        {
          x: left + bin * wide + 2 + k * (wide / 2 - 2),
          y: py(share),
          width: wide / 2 - 3,
          height: height - bottom - py(share),
          fill: k ? 'var(--paper)' : 'var(--one)',
          stroke: k ? 'var(--two)' : 'var(--one)',
          'stroke-width': 1.2,
        },
        svg('title', {}, `${name}, from ${number(edges[bin])} nats: ${percent(share)}`),
      ),
    ),
  );
  return h(
    'figure',
    {style: {'margin-top': '8px'}},
    svg(
      'svg',
      {
        viewBox: `0 0 ${width} ${height}`,
        style: {'max-width': '440px'},
        role: 'img',
        'aria-label': 'share of tokens by entropy, inside and outside of calls',
      },
      niceTicks(0, most, 3).map((share) => [
        svg('line.grid', {x1: left, x2: width, y1: py(share), y2: py(share)}),
        svg('text', {x: left - 5, y: py(share) + 4, 'text-anchor': 'end'}, percent(share, 0)),
      ]),
      bars,
      edges.map((edge, bin) =>
        svg('text', {x: left + bin * wide, y: height - bottom + 14, 'text-anchor': 'middle'}, number(edge)),
      ),
      svg(
        'text',
        {x: (left + width) / 2, y: height - 4, 'text-anchor': 'middle'},
        'entropy from, nats (the last bin is open)',
      ),
    ),
    swatches(
      places.map(([name], k) => ({
        name: `share of tokens ${name}`,
        fill: k ? 'var(--paper)' : 'var(--one)',
        line: k ? 'var(--two)' : 'var(--one)',
      })),
    ),
  );
}

function wordsCard(atlas) {
  const {entropy = [], score = []} = atlas.words ?? {};
  if (!entropy.length && !score.length) return null;
  const list = (title, words, rows) =>
    h(
      'div',
      {},
      barChart({
        title,
        note: words,
        rows: rows
          .slice(0, 15)
          .map((row) => ({label: visible(row.text), value: row.mean, low: row.low, high: row.high, n: row.n})),
        show: (x) => fixed(x),
      }),
    );
  return section(
    'Undecided words, and words that branches start from',
    'A word can be undecided without being a decision: many rare words are. The branching score looks for those that also change what follows.',
    h(
      'div.columns',
      {style: {margin: 0}},
      entropy.length > 0 && list('Highest entropy', 'mean, nats', entropy),
      score.length > 0 && list('Highest branching score', 'mean', score),
    ),
  );
}

const shareInterval = (low, high) => interval(low, high, (x) => (100 * x).toFixed(0));

function changedTiles(atlas) {
  const {changed = {}} = atlas;
  const points = (x) => signedFixed(x, 3);
  return h(
    'div.tiles',
    {},
    tile(count(atlas.picks ?? changed.n ?? 0), 'branches, each from a token that was redrawn'),
    tile(
      percent(changed.share),
      `ended otherwise than the rollout they left ${interval(changed.low, changed.high)}`,
      `n = ${count(changed.n ?? 0)}`,
    ),
    known(changed.better)
      ? tile(
          `${percent(changed.better, 0)} / ${percent(changed.worse, 0)}`,
          'ended better / worse',
          `${shareInterval(changed.better_low, changed.better_high)} / ${shareInterval(changed.worse_low, changed.worse_high)}, n = ${count(changed.n)}`,
        )
      : '',
    known(changed.mean_difference)
      ? tile(
          points(changed.mean_difference),
          `reward, branch − parent ${interval(changed.mean_low, changed.mean_high, points)}`,
          `n = ${count(changed.n)}`,
        )
      : '',
  );
}

VIEWS.atlas = {
  title: 'Decisions',
  render(page, route) {
    const run = RUNS[shownRun];
    const {atlas} = run;
    page.append(
      h(
        'div.head',
        {},
        h('h1', {}, 'Decisions of the run'),
        h(
          'span.soft',
          {},
          'Branch points of all updates together. Thin bars: 95 % intervals by bootstrap over tasks; dashed: all branches.',
        ),
      ),
    );
    route.keys.Escape = () => go('overview', [], {run: shownRun || null});
    if (!atlas || !(atlas.picks ?? atlas.changed?.n))
      page.append(
        h(
          'p',
          {},
          `This run has no branches: method ${run.summary.method ?? 'unknown'} writes every rollout from its prompt.`,
        ),
      );
    if (!atlas) return;
    const reference = atlas.changed?.share ?? null;
    const edges = (row) => `${number(row.low_edge)} to ${number(row.high_edge)}`;
    const bin = (row) =>
      row.label ?? (typeof row.bin === 'number' ? `${10 * row.bin} to ${10 * (row.bin + 1)} %` : String(row.bin));
    const cards = [
      shareCard(
        'Which token was redrawn',
        'share of its branches that ended otherwise',
        atlas.by_token,
        (row) => visible(row.text),
        {limit: 25, reference},
      ),
      shareCard(
        'Where in the rollout',
        'share of branches that ended otherwise, by the place of the token',
        atlas.by_place,
        bin,
        {reference},
      ),
      shareCard('Inside what', 'share of branches that ended otherwise', atlas.by_part, (row) => row.part, {
        reference,
      }),
      meansCard(atlas),
      shareCard('By entropy of the token', 'nats; share that ended otherwise', atlas.by_entropy, edges, {reference}),
      shareCard('By branching score', 'share that ended otherwise', atlas.by_score, edges, {reference}),
      rewardCard('Reward by entropy', 'mean reward of branches, by the token’s entropy in nats', atlas.by_entropy),
      rewardCard('Reward by branching score', 'mean reward of branches', atlas.by_score),
    ];
    page.append(
      atlas.picks || atlas.changed?.n ? changedTiles(atlas) : '',
      h('div.flow', {}, cards.filter(Boolean)),
      wordsCard(atlas) ?? '',
      clusterCard(run, atlas.clusters) ?? '',
    );
  },
};
