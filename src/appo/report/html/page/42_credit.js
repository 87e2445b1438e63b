// Why a token got its credit: the equation with this token's numbers, what was measured on it, and what branched there.

// The lines of an equation: [operator, words, value, explanation].
function equationLines(rollout, t, credit) {
  const {run, i, details} = rollout;
  const {summary} = run;
  const reward = run.reward(i);
  const parts = Object.entries(details.rewards ?? {})
    .filter(([, value]) => known(value))
    .map(([name, value]) => `${name} ${number(value)}`)
    .join(', ');
  const lines = [['', 'reward R of this rollout', number(reward), parts]];
  const groups = (summary.base?.groups ?? []).map((group) => groupTerm(run, i, group, reward)).filter(Boolean);
  groups.forEach(({words, term, text}) => lines.push(['', words, signedFixed(term, 4), text]));
  const base = credit.factors.find(([name]) => name === 'base');
  if (base) {
    const terms = `(${groups
      .map(({term}) => fixed(term, 4))
      .join(' + ')
      .replace(/\+ −/g, '− ')}) / ${groups.length}`;
    lines.push([
      '=',
      'base advantage',
      signedFixed(base[1], 4),
      groups.length > 1 ? `${terms}: mean of both (Eq. 6)` : (summary.base?.label ?? summary.base?.text),
    ]);
  }
  for (const [name, value] of credit.factors) {
    if (name === 'base') continue;
    const help = summary.factor_help?.[name] ?? {};
    lines.push(['×', help.label ?? name.replace(/_/g, ' '), fixed(value, 4), help.equation || help.text]);
  }
  return lines;
}

// A group's part of the base: the reward against the group's mean, in its spreads.
function groupTerm(run, i, group, reward) {
  const middle = run.index[`${group}_mean`]?.[i];
  const std = run.index[`${group}_std`]?.[i];
  const words = group === 'branch' ? 'against the branches' : 'against the initial rollouts';
  if (!known(middle) || !known(reward))
    return group === 'branch' ? {words, term: 0, text: 'no branch has a reward: 0'} : null;
  const groups = groupsOf(run, run.tree(i));
  const n = (group === 'branch' ? groups.branches : groups.initial).rewards.length;
  const term = std > 1e-6 ? (reward - middle) / std : 0;
  const text =
    std > 1e-6
      ? `(R − mean) / spread = (${number(reward)} − ${fixed(middle, 4)}) / ${fixed(std, 4)}, n = ${n}`
      : `all ${n} rewards are ${number(middle)}: no spread, so 0`;
  return {words, term, text};
}

function whyNoCredit(rollout, t) {
  const {run, i} = rollout;
  if (!rollout.policy(t))
    return 'A tool wrote this token. It carries no loss: only what the policy wrote is trained on.';
  if (run.index.kind[i]) return 'An evaluation: nothing is trained on it.';
  if (run.isBranch(i) && t < run.index.branch_position[i])
    return 'This token is shared with the rollout that the branch left, and gets its credit there.';
  if (run.isBranch(i)) return 'A branch informs the credit of the rollout it left. It carries no loss itself.';
  return 'No loss was put on this token.';
}

function equation(rollout, t) {
  const credit = creditOf(rollout, t);
  if (!credit) return h('p.note', {style: {margin: '0'}}, whyNoCredit(rollout, t));
  const {advantage, product} = credit;
  const off = Math.abs(advantage - product);
  const verdict =
    advantage > 0
      ? 'The loss makes this token more likely.'
      : advantage < 0
        ? 'The loss makes this token less likely.'
        : 'The loss leaves this token alone.';
  return [
    h(
      'div.equation',
      {},
      equationLines(rollout, t, credit).map(([op, words, value, text]) => [
        h('span.op', {}, op),
        h('span', {}, words),
        h('span.val', {}, value),
        text && h('span.sub', {}, text),
      ]),
      h('span.sum'),
      h('span.op', {}, '='),
      h('b', {}, 'advantage'),
      h('b', {class: advantage < 0 ? 'val bad' : advantage > 0 ? 'val good' : 'val'}, signedFixed(advantage, 4)),
    ),
    off > 1e-4
      ? h(
          'p.alert',
          {},
          `The product is ${signedFixed(product, 4)}: the record disagrees with its factors by ${number(off)}.`,
        )
      : h('p.soft', {style: {margin: '4px 0 0'}}, verdict),
  ];
}

// What was measured on a token, one line each.
async function measures(rollout, t) {
  const names = heatNames(rollout).filter((name) => name !== 'advantage' && name !== 'weight');
  const read = await Promise.all(names.map((name) => rollout.shard.heat(name)));
  const pairs = names.map((name, k) => {
    const value = read[k].at(rollout.start + t);
    const [label, , unit] = heatWords(name);
    if (value === null) return [label, null];
    if (name === 'score') return [label, scoreWords(rollout, read[k], t, value)];
    if (name === 'logprob') return ['Probability', `${percent(Math.exp(value))} (log ${fixed(value)})`];
    if (name === 'ratio') return ['Probability ratio', `${fixed(Math.exp(value), 3)} present / old`];
    return [label, `${number(value)}${unit ? ` ${unit}` : ''}`];
  });
  return pairs.some(([, value]) => value !== null) ? definition(pairs) : null;
}

// A heat map rounds; of a token that was branched at, the score and the rank are known as they were.
function scoreWords(rollout, heat, t, value) {
  const {branch_position: position, branch_score: score, branch_rank: rank} = rollout.run.index;
  const branch = rollout.run.children(rollout.i).find((j) => position[j] === t);
  return branch === undefined
    ? `${number(value)}${rankOf(rollout, heat, t)}`
    : `${fixed(score[branch])}, rank ${rank[branch]} in this rollout`;
}

function rankOf(rollout, heat, t) {
  const own = heat.at(rollout.start + t);
  let above = 0;
  let all = 0;
  for (let s = 0; s < rollout.n; s++) {
    const value = heat.at(rollout.start + s);
    if (value === null) continue;
    all += 1;
    if (value > own) above += 1;
  }
  return `, about rank ${above + 1} of ${all} in this rollout`;
}

// What else could have stood here, where a branch wrote it down.
async function alternatives(rollout, t, branches) {
  const noted = branches.map((branch) => branch.details.alternatives).find((list) => list?.length);
  if (!noted) return null;
  const drawn = new Set(branches.map((branch) => branch.ids[t]));
  const found = [...noted];
  for (const each of [rollout, ...branches]) {
    // what was taken and redrawn need not be among the likeliest
    const logprob = (await each.shard.heat('logprob'))?.at(each.start + t);
    if (known(logprob) && !found.some(([token]) => token === each.ids[t])) found.push([each.ids[t], logprob]);
  }
  found.sort(([, a], [, b]) => b - a);
  const most = Math.max(...found.map(([, logprob]) => Math.exp(logprob)));
  return [
    h('h3', {}, 'What could have been written here'),
    h(
      'div.bars',
      {},
      found.map(([token, logprob]) => [
        h(
          'span.chip',
          {class: token === rollout.ids[t] ? 'chip taken' : drawn.has(token) ? 'chip drawn' : 'chip'},
          visible(rollout.run.text(token)),
        ),
        h('span.track', {}, h('i', {style: {width: `${(100 * Math.exp(logprob)) / most}%`}})),
        h(
          'span.num',
          {},
          percent(Math.exp(logprob)),
          token === rollout.ids[t] ? ' taken' : drawn.has(token) ? ' redrawn' : '',
        ),
      ]),
    ),
  ];
}

// The branches that left a rollout at token t, read.
async function branchesAt(rollout, t) {
  const {run, i} = rollout;
  return Promise.all(
    run
      .children(i)
      .filter((j) => run.index.branch_position[j] === t)
      .map((j) => readRollout(run, j)),
  );
}

function outcome(run, i) {
  const success = run.success(i);
  return h(
    'span',
    {class: `badge ${success ? 'good' : success === null ? '' : 'bad'}`},
    success === null ? 'no reward' : `${success ? '●' : '○'} reward ${number(run.reward(i))}`,
  );
}

// Which branches redrew this token, and how they ended.
async function branchPanel(rollout, t) {
  const {run, i} = rollout;
  const branches = await branchesAt(rollout, t);
  const {branch_position: position, branch_score: score, branch_rank: rank} = run.index;
  const parts = [];
  if (run.isBranch(i) && position[i] === t) {
    const parent = await readRollout(run, run.parent(i));
    parts.push(
      h('h3', {}, 'This token was redrawn'),
      h(
        'p',
        {},
        'Rollout ',
        h('a', {href: rolloutLink(run, parent.i, {token: t})}, String(run.index.rollout[parent.i])),
        ' wrote ',
        h('span.chip.taken', {}, visible(parent.text(t))),
        ' here, this branch ',
        h('span.chip.drawn', {}, visible(rollout.text(t))),
        `: score ${fixed(score[i])}, rank ${rank[i]}.`,
      ),
      await alternatives(parent, t, [rollout]),
    );
  }
  if (branches.length) {
    parts.push(
      h('h3', {}, `${plural(branches.length, 'branch', 'branches')} redrew this token`),
      branches.map((branch) =>
        h(
          'p',
          {style: {margin: '2px 0'}},
          h('span.chip.taken', {}, visible(rollout.text(t))),
          ' → ',
          h('span.chip.drawn', {}, visible(branch.n > t ? branch.text(t) : '')),
          ' ',
          outcome(run, branch.i),
          ' ',
          h('a', {href: rolloutLink(run, branch.i, {token: t})}, `rollout ${run.index.rollout[branch.i]}`),
          h('span.soft', {}, ` score ${fixed(score[branch.i])}, rank ${rank[branch.i]}`),
        ),
      ),
      await alternatives(rollout, t, branches),
    );
  }
  return parts;
}
