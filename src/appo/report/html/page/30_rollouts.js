// All rollouts, or all tasks with their groups: a list of which only the visible rows exist.

const ROW = 26;
const TALLEST = 8e6; // pixels; browsers stop drawing somewhat beyond

// items: how many; draw(k): the row's element (an <a>); open(k): what Enter does.
class VirtualList {
  constructor({items, draw, chosen = 0}) {
    Object.assign(this, {items, draw, chosen});
    this.tall = Math.min(items * ROW, TALLEST);
    this.space = h('div', {style: {height: `${this.tall}px`}});
    this.window = h(
      'div.window',
      {tabindex: '0', role: 'listbox', 'aria-label': `${items} rows`, onscroll: () => this.paint()},
      this.space,
    );
    new ResizeObserver(() => this.paint()).observe(this.window);
  }

  // The first visible row; lists beyond TALLEST scroll in proportion.
  top() {
    const {scrollTop, clientHeight} = this.window;
    if (this.tall === this.items * ROW) return Math.floor(scrollTop / ROW);
    return Math.round((scrollTop / (this.tall - clientHeight)) * (this.items - Math.floor(clientHeight / ROW)));
  }

  paint() {
    const {scrollTop, clientHeight} = this.window;
    const top = this.top();
    const shift = this.tall === this.items * ROW ? top * ROW : scrollTop;
    const rows = [];
    for (let k = top; k < Math.min(this.items, top + Math.ceil(clientHeight / ROW) + 2); k++) {
      const row = this.draw(k);
      row.style.top = `${shift + (k - top) * ROW}px`;
      row.setAttribute('role', 'option');
      row.setAttribute('aria-selected', k === this.chosen);
      row.setAttribute('tabindex', '-1');
      if (k % 2) row.classList.add('odd');
      rows.push(row);
    }
    this.space.replaceChildren(...rows);
  }

  choose(k) {
    this.chosen = Math.max(0, Math.min(this.items - 1, k));
    const {clientHeight} = this.window;
    const visible = Math.floor(clientHeight / ROW);
    const top = this.top();
    if (this.chosen < top || this.chosen >= top + visible) {
      const first = Math.max(0, this.chosen - Math.floor(visible / 2));
      this.window.scrollTop =
        this.tall === this.items * ROW ? first * ROW : (first / (this.items - visible)) * (this.tall - clientHeight);
    }
    this.paint();
  }

  element() {
    return [...this.space.children].find((row) => row.getAttribute('aria-selected') === 'true');
  }
}

// [sort key, head, width, cell, classes]
const ROLLOUT_COLUMNS = [
  ['step', 'step', '64px', (run, i) => run.evaluation(i) ?? run.index.step[i]],
  [null, 'rollout', '190px', (run, i) => kindWords(run, i)],
  ['reward', 'reward', '88px', (run, i) => rewardCell(run, i)],
  ['tokens', 'tokens', '66px', (run, i) => count(run.index.n_tokens[i]), 'num'],
  ['calls', 'calls', '54px', (run, i) => run.index.n_calls[i], 'num'],
  ['errors', 'failed', '60px', (run, i) => run.index.n_errors[i] || '', 'num bad'],
  [
    'score',
    'branch score',
    '110px',
    (run, i) => (run.isBranch(i) ? fixed(run.index.branch_score[i]) : ''),
    'num hide-narrow',
  ],
  [null, 'ended by', '84px', (run, i) => FINISH[run.index.finish[i]] ?? '–', 'soft hide-narrow'],
  [null, 'task', 'minmax(0, 1fr)', (run, i) => oneLine(promptText(run.task(i)), 160), 'soft'],
];
const FINISH = ['stop', 'length limit', 'tool limit', 'agent failed'];

function kindWords(run, i) {
  const {rollout, parent, branch_position: position} = run.index;
  return run.isBranch(i) ? `${rollout[i]} ↳ of ${parent[i]} at token ${position[i]}` : String(rollout[i]);
}

function rewardCell(run, i) {
  const reward = run.reward(i);
  if (reward === null) return '–';
  const part = Math.max(0, Math.min(1, reward / (run.summary.success_reward || 1)));
  return [h('span.meter', {style: {'--part': `${100 * part}%`}}), number(reward)];
}

function cells(columns, ...args) {
  return columns.map(([, , , cell, classes]) => h('span', {class: classes}, cell(...args)));
}

// A head that sorts: first the most, then the least.
function heads(columns, query, change) {
  return h(
    'div.row.heads',
    {style: {'--grid': gridOf(columns)}},
    columns.map(([key, name, , , classes]) =>
      h(
        'span',
        {class: classes?.replace(/bad|soft/g, '')},
        key
          ? h(
              'button',
              {
                'aria-pressed': String(query.sort === key),
                title: `sort by ${name}`,
                onclick: () =>
                  change(query.sort === key && query.desc ? {sort: key, desc: ''} : {sort: key, desc: '1'}),
              },
              name,
              query.sort === key ? (query.desc ? ' ↓' : ' ↑') : '',
            )
          : name,
      ),
    ),
  );
}

const narrow = matchMedia('(max-width: 860px)');
const gridOf = (columns) =>
  columns
    .filter(([, , , , classes]) => !narrow.matches || !/hide-narrow/.test(classes ?? ''))
    .map(([, , width]) => (narrow.matches && width === '190px' ? '148px' : width))
    .join(' ');

const TASK_COLUMNS = [
  ['step', 'step', '64px', (run, tree) => run.evaluation(tree.first) ?? run.index.step[tree.first]],
  [
    null,
    'initial rollouts',
    '150px',
    (run, tree, groups) => [
      rewardMarks(run, groups.initial.members.slice(0, 12)),
      ' ',
      h('span.soft', {}, fixed(groups.initial.mean)),
    ],
  ],
  [
    null,
    'branches',
    '200px',
    (run, tree, groups) =>
      groups.branches.members.length > 0 && [
        rewardMarks(run, groups.branches.members.slice(0, 16)),
        ' ',
        h('span.soft', {}, fixed(groups.branches.mean)),
      ],
  ],
  [null, 'spread', '56px', (run, tree, groups) => fixed(groups.initial.spread), 'num'],
  [
    null,
    'branches − initial',
    '126px',
    (run, tree, groups) =>
      known(groups.branches.mean) && known(groups.initial.mean)
        ? signedFixed(groups.branches.mean - groups.initial.mean)
        : '',
    'num hide-narrow',
  ],
  [null, 'task', 'minmax(0, 1fr)', (run, tree) => oneLine(promptText(run.task(tree.first)), 160), 'soft'],
];

function filterBar(run, query, change, status) {
  const choice = (name, value, options) =>
    h(
      'label',
      {},
      name,
      h(
        'select',
        {'aria-label': name, onchange: (event) => change({[value]: event.target.value})},
        options.map(([key, words]) => h('option', {value: key, selected: (query[value] ?? '') === key}, words)),
      ),
    );
  const field = (name, value, attributes) =>
    h(
      'label',
      {},
      name,
      h('input', {
        ...attributes,
        'aria-label': name,
        value: query[value] ?? '',
        onchange: (event) => change({[value]: event.target.value.trim()}),
      }),
    );
  const evaluations = [...new Set((run.summary.evaluations ?? []).map((e) => e.name))].map((name) => [
    name,
    `evaluation ${name}`,
  ]);
  return h(
    'div.filters',
    {role: 'search'},
    h(
      'span.seg',
      {},
      [
        ['', 'Rollouts'],
        ['tasks', 'Tasks'],
      ].map(([key, name]) =>
        h('button', {'aria-pressed': String((query.by ?? '') === key), onclick: () => change({by: key})}, name),
      ),
    ),
    choice('show', 'kind', [['', 'all'], ['initial', 'initial'], ['branch', 'branches'], ...evaluations]),
    choice('reward', 'reward', [['', 'any'], ...Object.entries(REWARDS)]),
    field('step', 'step', {type: 'text', size: '6', placeholder: '5 or 5-9'}),
    h(
      'label',
      {},
      h('input', {
        type: 'checkbox',
        checked: Boolean(query.error),
        onchange: (event) => change({error: event.target.checked ? '1' : ''}),
      }),
      'a call failed',
    ),
    field('text', 'text', {type: 'search', placeholder: 'in prompts and rollouts ( / )'}),
    h('span.soft', {role: 'status'}, status),
  );
}

VIEWS.rollouts = {
  title: 'Rollouts',
  async render(page, route) {
    const run = RUNS[shownRun];
    await run.open();
    const {query} = route;
    const change = (changes) => go('rollouts', [], {...query, focus: null, at: null, ...changes});
    const status = h('span', {});
    const bar = filterBar(run, query, change, status);
    page.append(
      h(
        'div.head',
        {},
        h('h1', {}, query.by ? 'Tasks and their groups' : 'Rollouts'),
        h('span.soft.hide-narrow', {}, kbd('j', 'k'), ' choose ', kbd('Enter'), ' open ', kbd('/'), ' search'),
      ),
      bar,
    );
    const found = query.text
      ? await searchTexts(run, query.text, (done, all) => {
          status.textContent = `searching: part ${done + 1} of ${all}`;
          return ROUTE === route;
        })
      : null;
    const order = filtered(run, query, found);
    LIST = {run, order, query};
    const trees = query.by ? treesOf(run, order) : null;
    const items = trees ? trees.length : order.length;
    status.textContent = trees ? plural(items, 'task') : `${plural(items, 'rollout')} of ${count(run.n)}`;
    const columns = trees ? TASK_COLUMNS : ROLLOUT_COLUMNS;
    const draw = trees ? (k) => treeRow(run, run.trees.list[trees[k]]) : (k) => rolloutRow(run, order[k]);
    const list = new VirtualList({items, draw, chosen: Number(query.at) || 0});
    page.append(
      items
        ? h('div.list', {}, heads(columns, query, change), list.window)
        : h(
            'p',
            {},
            'No rollout is like that. ',
            h('button', {onclick: () => go('rollouts', [], {run: shownRun || null})}, 'Show all'),
          ),
    );
    listKeys(route, list, bar, change);
  },
};

const rolloutRow = (run, i) =>
  h(
    'a',
    {
      class: run.tree(i).first === i && !LIST.query.sort ? 'row begins' : 'row',
      href: rolloutLink(run, i),
      style: {'--grid': gridOf(ROLLOUT_COLUMNS)},
    },
    cells(ROLLOUT_COLUMNS, run, i),
  );
const treeRow = (run, tree) =>
  h(
    'a.row',
    {href: treeLink(run, tree.first), style: {'--grid': gridOf(TASK_COLUMNS)}},
    cells(TASK_COLUMNS, run, tree, groupsOf(run, tree)),
  );

function listKeys(route, list, bar, change) {
  const move = (by) => () => {
    list.choose(list.chosen + by);
    note('rollouts', [], {...route.query, focus: null, at: list.chosen || null});
  };
  const page = () => Math.floor(list.window.clientHeight / ROW);
  const search = () => bar.querySelector('[type=search]').focus();
  Object.assign(route.keys, {
    j: move(1),
    k: move(-1),
    ArrowDown: move(1),
    ArrowUp: move(-1),
    '/': search,
    PageDown: () => move(page())(),
    PageUp: () => move(-page())(),
    Home: () => move(-list.items)(),
    End: () => move(list.items)(),
    Enter: () => list.element()?.click(),
    Escape: () => go('overview', [], {run: shownRun || null}),
    t: () => change({by: route.query.by ? '' : 'tasks'}),
  });
  route.shown = () => {
    list.choose(list.chosen);
    if (route.query.focus === 'text') search();
  };
}
