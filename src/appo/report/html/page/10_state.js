// Where the reader is: the address (`#/view/arguments?query`), the theme, the keys, the bar on top. Views put themselves
// into VIEWS: `{title, render(main, route)}`, and may give `route.keys = {j: action}` while they are shown.

const VIEWS = {};
const NAMES = [
  ['overview', 'Overview'],
  ['rollouts', 'Rollouts'],
  ['atlas', 'Decisions'],
  ['compare', 'Compare'],
];
const ALIASES = {decisions: 'atlas'}; // as the bar calls it
let ROUTE = null;
let shownRun = 0;

function readHash(hash = location.hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?');
  const [view, ...args] = path.split('/').filter(Boolean);
  return {view: ALIASES[view] ?? (view || 'overview'), args, query: Object.fromEntries(new URLSearchParams(query)), keys: {}};
}

function link(view, args = [], query = {}) {
  const text = new URLSearchParams(
    Object.entries(query).filter(([, value]) => known(value) && value !== ''),
  ).toString();
  return `#/${[view, ...args].join('/')}${text ? `?${text}` : ''}`;
}

function go(view, args, query) {
  location.hash = link(view, args, query);
}

// Another address for what is shown already: no new step for the back button.
function note(view, args, query) {
  history.replaceState(null, '', link(view, args, query));
}

const rolloutLink = (run, i, query) => link('rollout', [run.number, i], query);
const treeLink = (run, i) => link('tree', [run.number, i]);

async function show() {
  const route = readHash();
  ROUTE = route;
  if (['rollout', 'tree'].includes(route.view)) shownRun = Math.min(Number(route.args[0]) || 0, RUNS.length - 1);
  else if (route.view !== 'compare') shownRun = Math.min(Number(route.query.run) || 0, RUNS.length - 1);
  const view = VIEWS[route.view] ?? VIEWS.missing;
  closeHelp();
  drawBar();
  // What is ready at once is drawn off the page and swapped in, so that nothing flickers.
  const page = h('div', {});
  const drawing = view.render(page, route);
  const slow = setTimeout(
    () =>
      ROUTE === route && document.getElementById('main').replaceChildren(h('p.soft', {role: 'status'}, 'Reading …')),
    150,
  );
  try {
    await drawing;
  } catch (error) {
    page.replaceChildren(h('div.alert', {role: 'alert'}, `This view could not be drawn: ${error.message}`));
    console.error(error);
    route.failed = error;
  }
  clearTimeout(slow);
  if (ROUTE !== route) return route; // the reader went on meanwhile
  document.getElementById('main').replaceChildren(page);
  const title = typeof view.title === 'function' ? view.title(route) : view.title;
  document.title = `${title} · ${RUNS[shownRun]?.name ?? 'appo report'}`;
  route.shown?.();
  return route;
}

VIEWS.missing = {
  title: 'Not found',
  render(page, route) {
    page.append(nothingThere(`There is no view “${route.view}”.`));
  },
};

// What an address says that is not there, and the ways on.
function nothingThere(words) {
  return h(
    'p',
    {role: 'alert'},
    words,
    ' ',
    h('button', {onclick: () => history.back()}, 'Back'),
    ' or to the ',
    h('a', {href: link('overview', [], {run: shownRun || null})}, 'overview'),
    ' or the ',
    h('a', {href: link('rollouts', [], {run: shownRun || null})}, 'list of rollouts'),
    '.',
  );
}

function drawBar() {
  const current = {rollout: 'rollouts', tree: 'rollouts', task: 'rollouts'}[ROUTE.view] ?? ROUTE.view;
  const run = RUNS[shownRun];
  const views = NAMES.filter(([view]) => view !== 'compare' || RUNS.length > 1);
  document.getElementById('bar').replaceChildren(
    h('a.brand', {href: '#/overview'}, 'appo report'),
    RUNS.length > 1
      ? h(
          'select',
          {'aria-label': 'run', onchange: (event) => switchRun(Number(event.target.value))},
          RUNS.map((each, k) => h('option', {value: String(k), selected: k === shownRun}, `${'AB'[k]}: ${each.name}`)),
        )
      : h('span.soft', {title: run?.pack.directory}, run?.name),
    h(
      'nav',
      {'aria-label': 'views'},
      views.map(([view, name]) =>
        h(
          'a',
          {
            href: link(view, [], view === 'compare' ? {} : {run: shownRun || null}),
            'aria-current': view === current ? 'page' : null,
          },
          name,
        ),
      ),
    ),
    h(
      'span.right',
      {},
      h(
        'button',
        {onclick: switchTheme, 'aria-label': `theme: ${themeName()}; switch`, title: 'light or dark'},
        themeName() === 'dark' ? '☾ dark' : '☀ light',
      ),
      h('button', {onclick: openHelp, 'aria-label': 'help and keys', title: 'keys and words (?)'}, '?'),
    ),
  );
}

function switchRun(k) {
  shownRun = k;
  const view = ['rollout', 'tree', 'compare'].includes(ROUTE.view) ? 'rollouts' : ROUTE.view;
  go(view, [], {run: k || null});
  if (readHash().view === ROUTE.view) show();
}

// Theme: what the system wants, until the button says otherwise. A file has no storage in some browsers: then for now.
function stored(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

const systemDark = matchMedia('(prefers-color-scheme: dark)');
let chosenTheme = stored('appo-report-theme');
const themeName = () => chosenTheme ?? (systemDark.matches ? 'dark' : 'light');

function applyTheme() {
  document.documentElement.dataset.theme = themeName();
}

function switchTheme() {
  chosenTheme = themeName() === 'dark' ? 'light' : 'dark';
  stored('appo-report-theme', chosenTheme);
  applyTheme();
  return show();
}

systemDark.addEventListener('change', () => {
  applyTheme();
  show();
});

const KEYS = [
  [['j', 'k'], 'next and previous rollout'],
  [['←', '→'], 'over the tokens of a rollout'],
  [['[', ']'], 'previous and next branch point'],
  [['h'], 'next heat map'],
  [['Enter'], 'open what is chosen'],
  [['b'], 'from a token to its tree'],
  [['Esc'], 'back'],
  [['/'], 'search in texts'],
  [['1', '…', '4'], 'the views'],
  [['d'], 'dark or light'],
  [['?'], 'this help'],
];

const WORDS = [
  ['rollout', 'one try at a task: thoughts, tool calls, their results, an answer'],
  ['branch', 'a rollout that shares another’s beginning and goes on by itself from one token, which was drawn anew'],
  ['entropy', 'how undecided the policy was before this token, in nats (Eq. 3)'],
  [
    'future value Ω',
    'how much more (above 1) or less likely the present policy makes what follows, against the one that wrote it (Eq. 4)',
  ],
  ['branching score', 'entropy and Ω as z-scores within the rollout, multiplied (Eq. 5): where branches start'],
  ['advantage', 'what the loss multiplies this token’s log-probability ratio with: above 0 more of it, below 0 less'],
  ['[low, high]', 'an interval of 95 %; n is the number it comes from'],
];

function openHelp() {
  const back = document.activeElement;
  const close = h('button', {onclick: closeHelp}, 'Close');
  const box = h(
    'div.card',
    {role: 'dialog', 'aria-modal': 'true', 'aria-label': 'help'},
    h('h1', {}, 'Keys and words'),
    h('h3', {}, 'Keys'),
    definition(KEYS.map(([keys, text]) => [keys.map((key) => [h('kbd', {}, key), ' ']), text])),
    h('h3', {}, 'Words'),
    definition(WORDS),
    h(
      'p.soft',
      {style: {'margin-top': '10px'}},
      `Made by ${PACK.made}. The address of this page is a permalink. Nothing is loaded from anywhere.`,
    ),
    close,
  );
  const overlay = document.getElementById('overlay');
  overlay.replaceChildren(box);
  overlay.onclick = (event) => event.target === overlay && closeHelp();
  overlay.back = back;
  close.focus();
}

function closeHelp() {
  const overlay = document.getElementById('overlay');
  if (!overlay.firstChild) return false;
  overlay.replaceChildren();
  overlay.back?.focus?.();
  return true;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.('input, select, textarea');
  if (event.key === 'Escape') {
    if (closeHelp()) return;
    if (typing) event.target.blur();
    else if (ROUTE.keys.Escape) ROUTE.keys.Escape();
    return;
  }
  if (typing || document.getElementById('overlay').firstChild) return;
  if (event.key === 'Enter' && event.target.closest?.('a, button, summary')) return;
  const action = ROUTE.keys[event.key] ?? GLOBAL_KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
}

const GLOBAL_KEYS = {
  '?': openHelp,
  d: switchTheme,
  '/': () => go('rollouts', [], {run: shownRun || null, focus: 'text'}),
  ...Object.fromEntries(NAMES.map(([view], k) => [String(k + 1), () => go(view, [], {run: shownRun || null})])),
};
