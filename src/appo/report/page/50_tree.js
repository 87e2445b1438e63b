// A task's tree: shared beginnings once, branches where they left, how each ended, and whether it mattered.

const LANE = 28;

// Rollouts of a tree in the order of drawing: a rollout, then what left it, from its end to its beginning, so that no two
// connections cross: [{i}, ..].
function lanesOf(run, tree) {
  const lanes = [];
  const add = (i) => {
    lanes.push({i});
    const {branch_position: position} = run.index;
    run.children(i).sort((a, b) => position[b] - position[a] || a - b).forEach((j) => add(j));
  };
  for (let i = tree.first; i < tree.last; i++) if (run.parent(i) === null) add(i);
  return lanes;
}

// The lane of an initial rollout: its tokens under the entropy map, in at most 160 cells.
function strip(rollout, heat, px, y) {
  const cells = Math.min(rollout.n, 160);
  const frame = svg('rect', {x: px(0), y: y - 5, width: px(rollout.n) - px(0), height: 10, fill: 'none', stroke: 'var(--line)'});
  return [frame, Array.from({length: cells}, (_, k) => {
    const [from, to] = [Math.floor((k * rollout.n) / cells), Math.floor(((k + 1) * rollout.n) / cells)];
    const values = heat ? heat.values.slice(from, to).filter(known) : [];
    return svg('rect', {x: px(from), y: y - 5, width: Math.max(0.6, px(to) - px(from) + 0.3), height: 10,
      fill: values.length ? heat.color(Math.max(...values))[0] : 'var(--line)'});
  })];
}

function laneOutcome(run, i, x, y) {
  const success = run.success(i);
  const color = success ? 'var(--good)' : 'var(--bad)';
  return [svg('circle', {cx: x, cy: y, r: 4.5, fill: success ? color : 'var(--paper)', stroke: success === null ? 'var(--soft)' : color, 'stroke-width': 2}),
    svg('text.strong', {x: x + 9, y: y + 4}, `${number(run.reward(i))}`)];
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
  const chart = svg('svg', {viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': `tree of ${lanes.length} rollouts over up to ${longest} tokens`},
    niceTicks(0, longest, 8).map((t) => [svg('line.grid', {x1: px(t), x2: px(t), y1: 6, y2: height - 22}), svg('text', {x: px(t), y: height - 8, 'text-anchor': 'middle'}, t ? String(t) : 'token 0')]));
  for (const {i} of lanes) {  // connections first, below the lanes
    const parent = run.parent(i);
    if (parent !== null) chart.append(svg('path', {d: `M${px(position[i])},${place.get(parent)}V${place.get(i)}`, stroke: 'var(--mark)', fill: 'none', 'stroke-width': 1, 'stroke-opacity': .7}));
  }
  for (const {i} of lanes) chart.append(lane(run, i, {rollouts, heats, px, y: place.get(i), chosen, width}));
  return chart;
}

function lane(run, i, {rollouts, heats, px, y, chosen, width}) {
  const rollout = rollouts.get(i);
  const {branch_position: position, rollout: numbers} = run.index;
  const branch = run.isBranch(i);
  const start = branch ? position[i] : 0;
  const parent = branch ? rollouts.get(run.parent(i)) : null;
  const words = branch ? `rollout ${numbers[i]}: at token ${start} “${visible(parent.text(start))}” became “${visible(rollout.n > start ? rollout.text(start) : '')}”, reward ${number(run.reward(i))}` : `rollout ${numbers[i]}, reward ${number(run.reward(i))}`;
  const body = branch
    ? [svg('line.body', {x1: px(start), x2: px(rollout.n), y1: y, y2: y, stroke: run.success(i) ? 'var(--good)' : 'var(--bad)', 'stroke-width': 3, 'stroke-dasharray': run.success(i) ? null : '5 2.5'}), redrawn(rollout, parent, start, px, y)]
    : strip(rollout, heats.get(i), px, y);
  const results = (rollout.details.calls ?? []).filter((call) => call.result_start >= start).map((call) =>
    svg('rect', {x: px(call.result_start), y: y - (branch ? 4 : 6), width: Math.max(2, px(call.result_end) - px(call.result_start)), height: branch ? 8 : 12, rx: 2, fill: 'var(--paper)', stroke: call.error ? 'var(--bad)' : 'var(--soft)'},
      svg('title', {}, `${call.name}: ${call.error ?? 'answered'}`)));
  const forks = run.children(i).map((j) => svg('path', {d: `M${px(position[j])},${y - 7}l4,7l-4,7l-4,-7z`, fill: 'var(--mark)', stroke: 'var(--paper)'}));
  return svg('a', {class: i === chosen ? 'lane chosen' : 'lane', href: rolloutLink(run, i, branch ? {token: start} : {}), 'aria-label': words}, svg('title', {}, words),
    svg('rect.hit', {x: 0, y: y - LANE / 2, width, height: LANE}),
    svg('text', {x: 84, y: y + 4, 'text-anchor': 'end', class: branch ? '' : 'strong'}, branch ? `${numbers[i]} ↳` : `rollout ${numbers[i]}`),
    body, results, forks, laneOutcome(run, i, px(rollout.n) + 8, y));
}

// "father → boss" where a branch begins: before its lane where there is no room behind.
function redrawn(rollout, parent, start, px, y) {
  const text = `${oneLine(visible(parent.text(start)), 14)} → ${oneLine(visible(rollout.n > start ? rollout.text(start) : ''), 14)}`;
  return px(start) > 240
    ? svg('text', {x: px(start) - 6, y: y + 4, 'text-anchor': 'end'}, text)
    : svg('text', {x: px(start) + 4, y: y - 8}, text);
}

// Pairs of a branch and the rollout it left, both with rewards.
function pairsOf(run, tree) {
  const pairs = [];
  for (let i = tree.first; i < tree.last; i++) {
    const parent = run.parent(i);
    if (parent !== null && run.reward(i) !== null && run.reward(parent) !== null) pairs.push({branch: i, parent, difference: run.reward(i) - run.reward(parent)});
  }
  return pairs;
}

function matterWords(pairs) {
  const changed = pairs.filter(({difference}) => Math.abs(difference) > 1e-9).length;
  const better = pairs.filter(({difference}) => difference > 1e-9).length;
  const differences = pairs.map(({difference}) => difference);
  const [low, high] = meanInterval(differences);
  return {changed, better, worse: changed - better, n: pairs.length, mean: mean(differences), low, high, share: wilson(changed, pairs.length)};
}

function matterCard(run, tree) {
  const pairs = pairsOf(run, tree);
  if (!pairs.length) return section('Did it matter?', null, h('p.soft', {style: {margin: 0}}, 'This task has no branch with a reward: its rollouts are all written from the prompt.'));
  const all = matterWords(pairs);
  const row = (name, {n, changed, better, worse, share, mean: middle, low, high}, reward = '') => [name, reward, String(n),
    `${changed} (${percent(changed / n, 0)}) ${interval(...share, (x) => String(Math.round(100 * x)))}`, `${better} / ${worse}`, `${signedFixed(middle)} ${interval(low, high, signedFixed)}`];
  const parents = [...new Set(pairs.map(({parent}) => parent))];
  const rows = parents.map((parent) => row(h('a', {href: rolloutLink(run, parent)}, `rollout ${run.index.rollout[parent]}`), matterWords(pairs.filter((pair) => pair.parent === parent)), outcome(run, parent)));
  return section('Did it matter?', 'A branch differs from the rollout it left in what follows one token. If rewards differ, that token (or the luck after it) mattered. Intervals: 95 %, Wilson’s for shares, Student’s t for means; branches of one task are no independent sample.',
    table(['branches of', 'its reward', 'n', 'ended otherwise', 'better / worse', 'reward, branch − parent'], [...rows, row(h('b', {}, 'all'), all)], {numeric: [2], label: 'did it matter'}));
}

// A branch point in words: the end of the shared text, then how either went on.
function twig(rollout, parent) {
  const {run, i} = rollout;
  const at = run.index.branch_position[i];
  const line = (who, kind) => {
    const own = who.n > at ? who.text(at) : '';
    return h('div.tokens', {}, outcome(run, who.i), ' ', h('a', {href: rolloutLink(run, who.i, {token: at})}, `rollout ${run.index.rollout[who.i]}`), h('span', {class: `chip ${kind}`}, visible(own)), ' ',
      oneLine(spanText(who, at + 1, Math.min(who.n, at + 60)), 400));
  };
  const difference = run.reward(i) - run.reward(parent.i);
  return h('div.twig', {}, h('div', {}, h('div.tokens.soft', {}, at === 0 ? 'from the first token on' : `${at > 14 ? '… ' : ''}${oneLine(spanText(rollout, Math.max(0, at - 14), at), 160)} │ ${plural(at, 'shared token')}`), line(parent, 'taken'), line(rollout, 'drawn')),
    h('div', {}, h('b', {class: difference > 0 ? 'good' : difference < 0 ? 'bad' : 'soft'}, Math.abs(difference) < 1e-9 ? 'ended alike' : known(difference) ? `${difference > 0 ? 'better' : 'worse'} by ${number(Math.abs(difference))}` : 'no reward'),
      h('div.soft', {}, `score ${fixed(run.index.branch_score[i])}, rank ${run.index.branch_rank[i]}`), h('div.soft', {}, `at ${percent(parent.n ? at / parent.n : null, 0)} of rollout ${run.index.rollout[parent.i]}`)));
}

function treeHead(run, tree, chosen) {
  const {index} = run;
  const by = (step) => run.trees.list[run.trees.of[chosen] + step];
  const button = (step, words, key) => {
    const other = by(step);
    return h('a', {href: other ? treeLink(run, other.first) : null}, h('button', {tabindex: '-1', disabled: !other, title: `${words} (${key})`}, words));
  };
  const answers = run.task(tree.first).answers ?? [];
  return h('div.head', {}, h('h1', {}, oneLine(promptText(run.task(tree.first)), 120)), h('span.soft', {}, run.evaluation(tree.first) ?? `step ${index.step[tree.first]}`, answers.length ? ` · answer ${oneLine(answers.map(asText).join(' or '), 60)}` : ''),
    h('span.right', {}, button(-1, 'previous task', 'k'), button(1, 'next task', 'j')));
}

function groupWords(run, tree) {
  const {initial, branches} = groupsOf(run, tree);
  const words = (name, group) => group.members.length > 0 && h('span', {}, `${name} `, rewardMarks(run, group.members), ` mean ${fixed(group.mean)}, spread ${fixed(group.spread)}, n = ${group.rewards.length}`);
  return h('div.legend', {style: {'margin-bottom': '8px'}}, words('initial', initial), words('branches', branches), h('span', {}, '● success ○ failure ◆ branch point ▭ tool result'));
}

VIEWS.tree = {
  title: (route) => `Tree of rollout ${route.args[1]}`,
  async render(page, route) {
    const run = RUNS[shownRun];
    await run.open();
    const chosen = Number(route.args[1]);
    if (!(chosen >= 0 && chosen < run.n)) return void page.append(h('p', {}, `There is no rollout ${route.args[1]} in this run.`));
    const tree = run.tree(chosen);
    const rollouts = new Map();
    const heats = new Map();
    for (let i = tree.first; i < tree.last; i++) {
      rollouts.set(i, await readCreditOf(await readRollout(run, i)));
      if (!run.isBranch(i) && rollouts.get(i).shard.content.heat.entropy) heats.set(i, await readHeat(rollouts.get(i), 'entropy'));
    }
    const apart = ({i}) => Math.abs(run.reward(i) - run.reward(run.parent(i)));  // what mattered comes first
    const branches = [...rollouts.values()].filter(({i}) => run.isBranch(i)).sort((a, b) => apart(b) - apart(a) || a.i - b.i);
    const someHeat = [...heats.values()].find((heat) => heat.any);
    page.append(treeHead(run, tree, chosen),
      h('section.card', {'aria-label': 'tree'}, groupWords(run, tree), treeChart(run, tree, rollouts, heats, chosen), someHeat ? heatLegend(someHeat) : ''),
      matterCard(run, tree),
      branches.length ? section('Branch points', 'The end of what both share, then the token that was taken and how its rollout went on, and the token that was redrawn and how the branch went on. Those that ended otherwise come first.', branches.map((rollout) => twig(rollout, rollouts.get(run.parent(rollout.i))))) : '');
    const step = (by) => () => {
      const other = run.trees.list[run.trees.of[chosen] + by];
      if (other) go('tree', [run.number, other.first]);
    };
    Object.assign(route.keys, {j: step(1), k: step(-1), b: () => go('rollout', [run.number, chosen]), Enter: () => go('rollout', [run.number, chosen]),
      Escape: () => go('rollouts', [], LIST?.run === run ? {...LIST.query, focus: null} : {run: run.number || null})});
  },
};
