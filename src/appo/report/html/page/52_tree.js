// A task's tree: shared beginnings once, branches where they left, how each ended, and whether it mattered.

// Pairs of a branch and the rollout it left, both with rewards.
function pairsOf(run, tree) {
  const pairs = [];
  for (let i = tree.first; i < tree.last; i++) {
    const parent = run.parent(i);
    if (parent !== null && run.reward(i) !== null && run.reward(parent) !== null)
      pairs.push({branch: i, parent, difference: run.reward(i) - run.reward(parent)});
  }
  return pairs;
}

const LEAST_BRANCHES = 6; // of fewer, Student's t gives intervals that no reward can reach

function matterWords(pairs) {
  const changed = pairs.filter(({difference}) => Math.abs(difference) > 1e-9).length;
  const better = pairs.filter(({difference}) => difference > 1e-9).length;
  const differences = pairs.map(({difference}) => difference);
  const [low, high] = differences.length < LEAST_BRANCHES ? [null, null] : meanInterval(differences);
  return {
    changed,
    better,
    worse: changed - better,
    n: pairs.length,
    mean: mean(differences),
    low,
    high,
    share: wilson(changed, pairs.length),
  };
}

function matterCard(run, tree) {
  const pairs = pairsOf(run, tree);
  if (!pairs.length)
    return section(
      'Did it matter?',
      null,
      h(
        'p.soft',
        {style: {margin: 0}},
        'This task has no branch with a reward: its rollouts are all written from the prompt.',
      ),
    );
  const all = matterWords(pairs);
  const row = (name, {n, changed, better, worse, mean: middle}, reward = '') => [
    name,
    reward,
    String(n),
    `${changed} (${percent(changed / n, 0)})`,
    `${better} / ${worse}`,
    signedFixed(middle),
  ];
  const whole = row(h('b', {}, 'all'), all);
  whole[3] += ` ${interval(...all.share, (x) => String(Math.round(100 * x)))}`;
  whole[5] += ` ${interval(all.low, all.high, signedFixed)}`;
  const parents = [...new Set(pairs.map(({parent}) => parent))];
  const rows = parents.map((parent) =>
    row(
      h('a', {href: rolloutLink(run, parent)}, `rollout ${run.index.rollout[parent]}`),
      matterWords(pairs.filter((pair) => pair.parent === parent)),
      outcome(run, parent),
    ),
  );
  return section(
    'Did it matter?',
    'A branch differs from the rollout it left in what follows one token. If rewards differ, that token (or the luck after it) mattered. Intervals, for all branches together: 95 %, Wilson’s for the share, Student’s t for the mean of 6 or more; branches of one task are no independent sample.',
    table(
      ['branches of', 'its reward', 'n', 'ended otherwise', 'better / worse', 'reward, branch − parent'],
      [...rows, whole],
      {numeric: [2], label: 'did it matter'},
    ),
  );
}

// A branch point in words: the end of the shared text, then how either went on.
function twig(rollout, parent) {
  const {run, i} = rollout;
  const at = run.index.branch_position[i];
  const line = (who, kind) => {
    const own = who.n > at ? who.text(at) : '';
    return h(
      'div.tokens',
      {},
      outcome(run, who.i),
      ' ',
      h('a', {href: rolloutLink(run, who.i, {token: at})}, `rollout ${run.index.rollout[who.i]}`),
      h('span', {class: `chip ${kind}`}, visible(own)),
      ' ',
      oneLine(spanText(who, at + 1, Math.min(who.n, at + 60)), 400),
    );
  };
  const difference = run.reward(i) - run.reward(parent.i);
  return h(
    'div.twig',
    {},
    h(
      'div',
      {},
      h(
        'div.tokens.soft',
        {},
        at === 0
          ? 'from the first token on'
          : `${at > 14 ? '… ' : ''}${oneLine(spanText(rollout, Math.max(0, at - 14), at), 160)} │ ${plural(at, 'shared token')}`,
      ),
      line(parent, 'taken'),
      line(rollout, 'drawn'),
    ),
    h(
      'div',
      {},
      h(
        'b',
        {class: difference > 0 ? 'good' : difference < 0 ? 'bad' : 'soft'},
        Math.abs(difference) < 1e-9
          ? 'ended alike'
          : known(difference)
            ? `${difference > 0 ? 'better' : 'worse'} by ${number(Math.abs(difference))}`
            : 'no reward',
      ),
      h('div.soft', {}, `score ${fixed(run.index.branch_score[i])}, rank ${run.index.branch_rank[i]}`),
      h('div.soft', {}, `at ${percent(parent.n ? at / parent.n : null, 0)} of rollout ${run.index.rollout[parent.i]}`),
    ),
  );
}

function treeHead(run, tree, chosen) {
  const {index} = run;
  const by = (step) => run.trees.list[run.trees.of[chosen] + step];
  const button = (step, words, key) => {
    const other = by(step);
    return h(
      'a',
      {href: other ? treeLink(run, other.first) : null},
      h('button', {tabindex: '-1', disabled: !other, title: `${words} (${key})`}, words),
    );
  };
  const answers = run.task(tree.first).answers ?? [];
  return h(
    'div.head',
    {},
    h('h1', {}, oneLine(promptText(run.task(tree.first)), 120)),
    h(
      'span.soft',
      {},
      run.evaluation(tree.first) ?? `step ${index.step[tree.first]}`,
      answers.length ? ` · answer ${oneLine(answers.map(asText).join(' or '), 60)}` : '',
    ),
    h('span.right', {}, button(-1, 'previous task', 'k'), button(1, 'next task', 'j')),
  );
}

function groupWords(run, tree) {
  const {initial, branches} = groupsOf(run, tree);
  const words = (name, group) =>
    group.members.length > 0 &&
    h(
      'span',
      {},
      `${name} `,
      rewardMarks(run, group.members),
      ` mean ${fixed(group.mean)}, spread ${fixed(group.spread)}, n = ${group.rewards.length}`,
    );
  return h(
    'div.legend',
    {style: {'margin-bottom': '8px'}},
    words('initial', initial),
    words('branches', branches),
    h('span', {}, '● success ○ failure ◆ branch point ▭ tool result'),
  );
}

VIEWS.tree = {
  title: (route) => `Tree of rollout ${route.args[1]}`,
  async render(page, route) {
    const run = RUNS[shownRun];
    await run.open();
    const chosen = Number(route.args[1]);
    if (!(chosen >= 0 && chosen < run.n))
      return void page.append(nothingThere(`There is no rollout ${route.args[1]} in this run.`));
    const tree = run.tree(chosen);
    const rollouts = new Map();
    const heats = new Map();
    for (let i = tree.first; i < tree.last; i++) {
      rollouts.set(i, await readCreditOf(await readRollout(run, i)));
      if (!run.isBranch(i) && rollouts.get(i).shard.content.heat.entropy)
        heats.set(i, await readHeat(rollouts.get(i), 'entropy'));
    }
    const apart = ({i}) => Math.abs(run.reward(i) - run.reward(run.parent(i))); // what mattered comes first
    const branches = [...rollouts.values()]
      .filter(({i}) => run.isBranch(i))
      .sort((a, b) => apart(b) - apart(a) || a.i - b.i);
    const someHeat = [...heats.values()].find((heat) => heat.any);
    page.append(
      treeHead(run, tree, chosen),
      h(
        'section.card',
        {'aria-label': 'tree'},
        groupWords(run, tree),
        treeChart(run, tree, rollouts, heats, chosen),
        someHeat ? heatLegend(someHeat) : '',
      ),
      matterCard(run, tree),
      branches.length
        ? section(
            'Branch points',
            'The end of what both share, then the token that was taken and how its rollout went on, and the token that was redrawn and how the branch went on. Those that ended otherwise come first.',
            branches.map((rollout) => twig(rollout, rollouts.get(run.parent(rollout.i)))),
          )
        : '',
    );
    const step = (by) => () => {
      const other = run.trees.list[run.trees.of[chosen] + by];
      if (other) go('tree', [run.number, other.first]);
    };
    Object.assign(route.keys, {
      j: step(1),
      k: step(-1),
      b: () => go('rollout', [run.number, chosen]),
      Enter: () => go('rollout', [run.number, chosen]),
      Escape: () => go('rollouts', [], LIST?.run === run ? {...LIST.query, focus: null} : {run: run.number || null}),
    });
  },
};

// `#/task/ID`: the name that `appo show` prints; of several trees the last update's, as there.
VIEWS.task = {
  title: (route) => (route.view === 'tree' ? VIEWS.tree.title(route) : 'Not found'),
  async render(page, route) {
    const run = RUNS[shownRun];
    await run.open();
    const id = decodeURIComponent(route.args.join('/'));
    let last = null;
    for (const {first} of run.trees.list)
      if (run.task(first).id === id && (last === null || run.index.step[first] >= run.index.step[last])) last = first;
    if (last === null) {
      const words = known(run.summary.sampled) ? 'in this sample of the run' : 'in this run';
      return void page.append(nothingThere(`There is no task ${id} ${words}.`));
    }
    Object.assign(route, {view: 'tree', args: [String(run.number), String(last)]});
    if (ROUTE === route) note('tree', route.args);
    await VIEWS.tree.render(page, route);
  },
};
