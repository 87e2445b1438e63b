// A tree drawn: a lane for each rollout, branches where they leave, tool results as boxes, an end with its reward.

const LANE = 28;

// The branches that left a rollout; one that says it left beyond the end is left out, as the decisions leave it out.
function branchesOf(run, i) {
  const {branch_position: position, n_tokens: tokens} = run.index;
  return run.children(i).filter((j) => position[j] >= 0 && position[j] < tokens[i]);
}

// Rollouts of a tree in the order of drawing: a rollout, then what left it, from its end to its beginning, so that no two
// connections cross: [{i}, ..].
function lanesOf(run, tree) {
  const lanes = [];
  const add = (i) => {
    lanes.push({i});
    const {branch_position: position} = run.index;
    branchesOf(run, i)
      .sort((a, b) => position[b] - position[a] || a - b)
      .forEach((j) => add(j));
  };
  for (let i = tree.first; i < tree.last; i++) if (run.parent(i) === null) add(i);
  return lanes;
}

// The lane of an initial rollout: its tokens under the entropy map, in at most 160 cells.
function strip(rollout, heat, px, y) {
  const cells = Math.min(rollout.n, 160);
  const frame = svg('rect', {
    x: px(0),
    y: y - 5,
    width: px(rollout.n) - px(0),
    height: 10,
    fill: 'none',
    stroke: 'var(--line)',
  });
  return [
    frame,
    Array.from({length: cells}, (_, k) => {
      const [from, to] = [Math.floor((k * rollout.n) / cells), Math.floor(((k + 1) * rollout.n) / cells)];
      const values = heat ? heat.values.slice(from, to).filter(known) : [];
      return svg('rect', {
        x: px(from),
        y: y - 5,
        width: Math.max(0.6, px(to) - px(from) + 0.3),
        height: 10,
        fill: values.length ? heat.color(Math.max(...values))[0] : 'var(--line)',
      });
    }),
  ];
}

function laneOutcome(run, i, x, y) {
  const success = run.success(i);
  const color = success ? 'var(--good)' : 'var(--bad)';
  return [
    svg('circle', {
      cx: x,
      cy: y,
      r: 4.5,
      fill: success ? color : 'var(--paper)',
      stroke: success === null ? 'var(--soft)' : color,
      'stroke-width': 2,
    }),
    svg('text.strong', {x: x + 9, y: y + 4}, `${number(run.reward(i))}`),
  ];
}

function treeChart(run, tree, rollouts, heats, chosen) {
  const lanes = lanesOf(run, tree);
  const width = Math.max(560, document.getElementById('main').clientWidth - 62);
  const [left, right] = [96, 60];
  const longest = Math.max(...[...rollouts.values()].map((rollout) => rollout.n), 1);
  const px = (t) => left + (t / longest) * (width - left - right);
  const place = new Map(lanes.map(({i}, k) => [i, 20 + k * LANE]));
  const height = lanes.length * LANE + 34;
  const {branch_position: position} = run.index;
  const chart = svg(
    'svg',
    {
      viewBox: `0 0 ${width} ${height}`,
      role: 'group',
      'aria-label': `tree of ${lanes.length} rollouts over up to ${longest} tokens`,
    },
    niceTicks(0, longest, 8).map((t) => [
      svg('line.grid', {x1: px(t), x2: px(t), y1: 6, y2: height - 22}),
      svg('text', {x: px(t), y: height - 8, 'text-anchor': 'middle'}, t ? String(t) : 'token 0'),
    ]),
  );
  for (const {i} of lanes) {
    // connections first, below the lanes
    const parent = run.parent(i);
    if (parent !== null)
      chart.append(
        svg('path', {
          d: `M${px(position[i])},${place.get(parent)}V${place.get(i)}`,
          stroke: 'var(--mark)',
          fill: 'none',
          'stroke-width': 1,
          'stroke-opacity': 0.7,
        }),
      );
  }
  for (const {i} of lanes) chart.append(lane(run, i, {rollouts, heats, px, y: place.get(i), chosen, width}));
  const missing = tree.last - tree.first - lanes.length;
  if (missing > 0)
    chart.append(
      svg('text', {x: width, y: 14, 'text-anchor': 'end'}, `not drawn, as they leave beyond an end: ${missing}`),
    );
  return chart;
}

function lane(run, i, {rollouts, heats, px, y, chosen, width}) {
  const rollout = rollouts.get(i);
  const {branch_position: position, rollout: numbers} = run.index;
  const branch = run.parent(i) !== null;
  const start = branch ? position[i] : 0;
  const parent = branch ? rollouts.get(run.parent(i)) : null;
  const words = branch
    ? `rollout ${numbers[i]}: at token ${start} “${visible(parent.text(start))}” became “${visible(rollout.n > start ? rollout.text(start) : '')}”, reward ${number(run.reward(i))}`
    : `rollout ${numbers[i]}, reward ${number(run.reward(i))}`;
  const body = branch
    ? [
        svg('line.body', {
          x1: px(start),
          x2: px(rollout.n),
          y1: y,
          y2: y,
          stroke: run.success(i) ? 'var(--good)' : 'var(--bad)',
          'stroke-width': 3,
          'stroke-dasharray': run.success(i) ? null : '5 2.5',
        }),
        redrawn(rollout, parent, start, px, y),
      ]
    : strip(rollout, heats.get(i), px, y);
  const results = (rollout.details.calls ?? [])
    .filter((call) => call.result_start >= start)
    .map((call) => resultBox(call, px, y, branch ? 8 : 12));
  const forks = branchesOf(run, i).map((j) =>
    svg('path', {d: `M${px(position[j])},${y - 7}l4,7l-4,7l-4,-7z`, fill: 'var(--mark)', stroke: 'var(--paper)'}),
  );
  return svg(
    'a',
    {
      class: i === chosen ? 'lane chosen' : 'lane',
      href: rolloutLink(run, i, branch ? {token: start} : {}),
      'aria-label': words,
    },
    svg('title', {}, words),
    svg('rect.hit', {x: 0, y: y - LANE / 2, width, height: LANE}),
    svg(
      'text',
      {x: 84, y: y + 4, 'text-anchor': 'end', class: branch ? '' : 'strong'},
      branch ? `${numbers[i]} ↳` : `rollout ${numbers[i]}`,
    ),
    body,
    results,
    forks,
    laneOutcome(run, i, px(rollout.n) + 8, y),
  );
}

// A tool's result: a box, or a line where many share the lane.
function resultBox(call, px, y, height) {
  const [x, width] = [px(call.result_start), px(call.result_end) - px(call.result_start)];
  const stroke = call.error ? 'var(--bad)' : 'var(--soft)';
  const place = {x, y: y - height / 2, height};
  const look =
    width < 5 ? {width: 1, fill: stroke, 'fill-opacity': 0.6} : {width, rx: 2, fill: 'var(--paper)', stroke};
  return svg('rect', {...place, ...look}, svg('title', {}, `${call.name}: ${call.error ?? 'answered'}`));
}

// "father → boss" where a branch begins: before its lane where there is no room behind.
function redrawn(rollout, parent, start, px, y) {
  const text = `${oneLine(visible(parent.text(start)), 14)} → ${oneLine(visible(rollout.n > start ? rollout.text(start) : ''), 14)}`;
  return px(start) > 240
    ? svg('text', {x: px(start) - 6, y: y + 4, 'text-anchor': 'end'}, text)
    : svg('text', {x: px(start) + 4, y: y - 8}, text);
}
