// One rollout, token by token: what the policy thought, called, read and answered, under a heat map; on the chosen token
// its credit.

function blocksOf(rollout) {
  const blocks = [];
  const {calls = []} = rollout.details;
  for (let t = 0; t < rollout.n; t++) {
    const part = rollout.part(t);
    const call =
      part === 'call'
        ? calls.findIndex((c) => t >= c.start && t < c.end)
        : part === 'result'
          ? calls.findIndex((c) => t >= c.result_start && t < c.result_end)
          : -1;
    const last = blocks[blocks.length - 1];
    if (!last || last.part !== part || last.call !== call) blocks.push({part, call, first: t, end: t + 1});
    else last.end = t + 1;
  }
  return blocks;
}

function blockLabel(block, calls) {
  const call = calls[block.call];
  if (block.part === 'call') return [h('b', {}, 'call'), ` ${call?.name ?? ''}`];
  if (block.part === 'result')
    return [h('b', {}, call?.error ? '✗ failed' : 'result'), ` ${seconds(call?.seconds) ?? ''}`];
  return h('b', {}, block.part);
}

// A token's span. Line ends get a sign, so that every token can be seen and clicked.
function tokenSpan(rollout, t, heat, branches) {
  const span = h(
    'span.t',
    {id: `t${t}`, role: 'option', 'data-t': String(t)},
    rollout.text(t).replace(/\n/g, '↵\n').replace(/\t/g, '⇥\t'),
  );
  const value = heat?.values[t];
  if (known(value)) [span.style.background, span.style.color] = heat.color(value);
  if (branches) {
    span.classList.add('fork');
    span.dataset.branches = `◆${branches > 1 ? branches : ''}`;
  }
  if (rollout.credit?.differences.has(`${rollout.i - rollout.shard.first}/${t}`)) span.classList.add('off');
  const cut = rollout.run.isBranch(rollout.i) ? rollout.run.index.branch_position[rollout.i] : -1;
  if (t < cut) span.classList.add('shared');
  if (t === cut) span.classList.add('cut');
  return span;
}

function forksOf(run, i) {
  const forks = new Map();
  for (const j of run.children(i))
    forks.set(run.index.branch_position[j], (forks.get(run.index.branch_position[j]) ?? 0) + 1);
  return forks;
}

function tokenBlocks(rollout, heat, forks) {
  const {calls = []} = rollout.details;
  return blocksOf(rollout).map((block) => {
    const spans = [];
    for (let t = block.first; t < block.end; t++) spans.push(tokenSpan(rollout, t, heat, forks.get(t)));
    const failed = calls[block.call]?.error ? ' failed' : '';
    return h(
      'div',
      {class: `part ${block.part}${failed}`},
      h('div.label', {}, blockLabel(block, calls)),
      h('div.tokens', {}, spans),
    );
  });
}

// Where j and k lead: the list that the reader came from, or all rollouts.
function neighbour(run, i, by) {
  const order = LIST?.run === run && LIST.order.includes(i) ? LIST.order : null;
  if (!order) return i + by >= 0 && i + by < run.n ? i + by : null;
  return order[order.indexOf(i) + by] ?? null;
}

// The token to begin with: a branch's first own one, the best branch point, or the first of the loss.
function startToken(rollout, forks) {
  const {run, i, n} = rollout;
  if (run.isBranch(i)) return Math.min(n - 1, run.index.branch_position[i]);
  const best = run.children(i).sort((a, b) => run.index.branch_rank[a] - run.index.branch_rank[b])[0];
  if (best !== undefined) return run.index.branch_position[best];
  for (let t = 0; t < n; t++) if (rollout.loss(t)) return t;
  return forks.size ? [...forks.keys()][0] : 0;
}

function rolloutHead(run, i, query) {
  const {index} = run;
  const at = (by, words, key) => {
    const j = neighbour(run, i, by);
    return h(
      'a',
      {href: j === null ? null : rolloutLink(run, j, {heat: query.heat}), 'aria-disabled': j === null},
      h('button', {tabindex: '-1', disabled: j === null, title: `${words} (${key})`}, words),
    );
  };
  const when = run.evaluation(i)
    ? `evaluation ${run.evaluation(i)}`
    : [h('a', {href: link('rollouts', [], {run: run.number || null, step: index.step[i]})}, `step ${index.step[i]}`)];
  const parent = run.parent(i);
  const kind =
    parent === null
      ? `rollout ${index.rollout[i]}`
      : [
          `rollout ${index.rollout[i]}, a branch of `,
          h(
            'a',
            {href: rolloutLink(run, parent, {token: index.branch_position[i]})},
            `rollout ${index.rollout[parent]}`,
          ),
          ` from token ${index.branch_position[i]} on`,
        ];
  return h(
    'div.head',
    {},
    h('h1', {}, oneLine(promptText(run.task(i)), 110)),
    h('span.soft', {}, when, ' · ', kind),
    outcome(run, i),
    h(
      'span.right',
      {},
      at(-1, 'previous', 'k'),
      at(1, 'next', 'j'),
      h('a', {href: treeLink(run, i)}, h('button', {tabindex: '-1', title: 'the task’s tree (b)'}, 'Tree')),
    ),
  );
}

VIEWS.rollout = {
  title: (route) => `Rollout ${route.args[1]}`,
  async render(page, route) {
    const run = RUNS[shownRun];
    const i = Number(route.args[1]);
    await run.open();
    if (!(i >= 0 && i < run.n))
      return void page.append(nothingThere(`There is no rollout ${route.args[1]} in this run.`));
    const rollout = await readCreditOf(await readRollout(run, i));
    const names = heatNames(rollout);
    const heats = Object.fromEntries(
      await Promise.all(names.map(async (name) => [name, await readHeat(rollout, name)])),
    );
    const wanted = route.query.heat ?? stored('appo-report-heat');
    const first = names.find((name) => heats[name].any);
    const heat = heats[wanted]?.any ? heats[wanted] : (heats[first] ?? null);
    const forks = forksOf(run, i);
    const panel = h('section.card', {'aria-label': 'chosen token', 'aria-live': 'polite'});
    const tokens = h(
      'div',
      {role: 'listbox', tabindex: '0', 'aria-label': 'tokens; arrow keys move'},
      tokenBlocks(rollout, heat, forks),
    );
    page.append(
      rolloutHead(run, i, route.query),
      h(
        'div.split',
        {},
        h(
          'div.left',
          {},
          h(
            'section.card',
            {'aria-label': 'tokens'},
            heatBar(rollout, names, heats, heat, route),
            tokens,
            partLegend(forks),
          ),
          factsCard(rollout),
          callsCard(rollout),
        ),
        h('div.side', {}, panel),
      ),
    );
    await tokenChoice({route, rollout, tokens, panel, forks, heat, names, heats});
  },
};

function heatBar(rollout, names, heats, heat, route) {
  const button = (name) =>
    h(
      'button',
      {
        'aria-pressed': String(heat?.name === name),
        disabled: !heats[name].any,
        title: heats[name].any ? heatWords(name)[1] : 'not measured on this rollout',
        onclick: () => chooseHeat(rollout, name, route),
      },
      heatWords(name)[0],
    );
  return h(
    'div',
    {style: {'margin-bottom': '8px'}},
    h('div.seg', {role: 'group', 'aria-label': 'heat map'}, names.map(button)),
    heat
      ? h('div', {style: {'margin-top': '6px'}}, heatLegend(heat))
      : h('p.soft', {}, 'Nothing was measured on this rollout.'),
    rollout.run.vocabulary.size === 0 && h('p.soft', {}, 'This run has left no vocabulary: its tokens are numbers.'),
  );
}

function chooseHeat({run, i}, name, route) {
  stored('appo-report-heat', name);
  go('rollout', [run.number, i], {token: route.token, heat: name});
}

function partLegend(forks) {
  return h(
    'div.legend',
    {style: {'margin-top': '8px'}},
    h('span', {}, 'plain: thought'),
    h('span', {}, h('b', {}, 'bold: call')),
    h('span', {}, h('em', {style: {'font-style': 'italic'}}, 'italic: what a tool answered')),
    h('span', {style: {'text-decoration': 'underline', 'text-decoration-style': 'double'}}, 'double line: answer'),
    forks.size > 0 && h('span', {style: {color: 'var(--mark)'}}, '◆ a branch begins here'),
  );
}

// Choosing a token, by the mouse and by the keys.
async function tokenChoice({route, rollout, tokens, panel, forks, heat, names, heats}) {
  const {run, i, n} = rollout;
  const spans = [...tokens.querySelectorAll('.t')];
  const choose = async (t, {scroll = true} = {}) => {
    route.token = Math.max(0, Math.min(n - 1, t));
    const span = spans[route.token];
    tokens.querySelector('.chosen')?.setAttribute('aria-selected', 'false');
    tokens.querySelector('.chosen')?.classList.remove('chosen');
    span?.classList.add('chosen');
    span?.setAttribute('aria-selected', 'true');
    tokens.setAttribute('aria-activedescendant', `t${route.token}`);
    note('rollout', [run.number, i], {token: route.token, heat: heat?.name});
    if (scroll) span?.scrollIntoView({block: 'nearest'});
    await drawToken(rollout, route, panel, forks);
  };
  tokens.addEventListener('click', (event) => {
    const span = event.target.closest('.t');
    if (span) choose(Number(span.dataset.t), {scroll: false});
  });
  const places = [...forks.keys()].sort((a, b) => a - b);
  const usable = names.filter((name) => heats[name].any);
  const jump = (by) => () => {
    const j = neighbour(run, i, by);
    if (j !== null) go('rollout', [run.number, j], {heat: route.query.heat});
  };
  Object.assign(route.keys, {
    j: jump(1),
    k: jump(-1),
    ArrowRight: () => choose(route.token + 1),
    ArrowLeft: () => choose(route.token - 1),
    Home: () => choose(0),
    End: () => choose(n - 1),
    ']': () => choose(places.find((t) => t > route.token) ?? places[0] ?? route.token),
    '[': () => choose(places.findLast((t) => t < route.token) ?? places[places.length - 1] ?? route.token),
    h: () => usable.length && chooseHeat(rollout, usable[(usable.indexOf(heat?.name) + 1) % usable.length], route),
    b: () => go('tree', [run.number, i]),
    Enter: () => go('tree', [run.number, i]),
    Escape: () => go('rollouts', [], LIST?.run === run ? {...LIST.query, focus: null} : {run: run.number || null}),
  });
  if (n) {
    const asked = Number(route.query.token);
    await choose(known(route.query.token) && asked >= 0 ? asked : startToken(rollout, forks), {scroll: false});
    route.shown = () => known(route.query.token) && spans[route.token]?.scrollIntoView({block: 'nearest'});
  } else panel.append(h('p', {}, 'This rollout has no token.'));
}

async function drawToken(rollout, route, panel, forks) {
  const t = route.token;
  const [measured, branched] = await Promise.all([measures(rollout, t), branchPanel(rollout, t)]);
  if (route.token !== t) return;
  panel.replaceChildren(
    h(
      'h2',
      {},
      `Token ${t} `,
      h('span.chip', {}, visible(rollout.text(t))),
      h('span.soft', {}, ` ${rollout.part(t)}, ${t + 1} of ${rollout.n}`),
    ),
    h('h3', {}, 'Its credit'),
    ...[equation(rollout, t)].flat(),
    ...branched.flat(Infinity).filter(Boolean),
    measured ? h('h3', {}, 'Measured', h('span.soft', {style: {'font-weight': '400'}}, ', rounded')) : '',
    measured ?? '',
    h(
      'p',
      {style: {margin: '8px 0 0'}},
      h(
        'a',
        {href: treeLink(rollout.run, rollout.i)},
        forks.size || rollout.run.isBranch(rollout.i) ? 'The task’s tree: did it matter?' : 'The task’s rollouts',
      ),
    ),
  );
}
