// `#selftest`: the page tries itself. It decodes everything, draws every view, clicks and types through them, and writes a
// line PASS or FAIL for each into the page; `chromium --headless --dump-dom FILE#selftest` prints them.

async function selftest() {
  const lines = [];
  const check = async (name, test) => {
    try {
      const said = await test();
      lines.push(['PASS', `${name}${said ? `: ${said}` : ''}`]);
    } catch (error) {
      lines.push(['FAIL', `${name}: ${error.message}`]);
    }
  };
  window.addEventListener('unhandledrejection', (event) =>
    lines.push(['FAIL', `unhandled: ${event.reason?.message}`]),
  );
  window.addEventListener('error', (event) => lines.push(['FAIL', `uncaught: ${event.message}`]));
  document.addEventListener('securitypolicyviolation', (event) =>
    lines.push(['FAIL', `the CSP stopped ${event.blockedURI || event.violatedDirective}`]),
  );
  for (const run of RUNS) await runChecks(run, check);
  for (const address of addresses()) await check(`view ${address}`, () => drawn(address));
  await check('keys', keysWork);
  await check('a policy’s text stays text', textStaysText);
  await check('dark and light', themesWork);
  location.hash = '#selftest';
  await settled();
  const failed = lines.filter(([verdict]) => verdict === 'FAIL').length;
  document.getElementById('main').replaceChildren(
    h('h1', {}, 'Self-test'),
    h(
      'pre',
      {id: 'selftest'},
      lines.map(([verdict, text]) => h('span', {class: verdict === 'PASS' ? 'pass' : 'fail'}, `${verdict} ${text}\n`)),
      `${failed ? 'FAILED' : 'PASSED'} ${lines.length - failed} of ${lines.length}`,
    ),
  );
  document.body.dataset.selftest = failed ? 'failed' : 'passed';
}

function expect(condition, words) {
  if (!condition) throw new Error(words);
}

async function runChecks(run, check) {
  await check(`${run.name}: index`, async () => {
    await run.open();
    expect(run.trees.of.length === run.n, 'a rollout without a tree');
    for (const [name, column] of Object.entries(run.index))
      expect(column.length === run.n, `column ${name} has ${column.length} of ${run.n}`);
    return `${plural(run.n, 'rollout')} in ${plural(run.trees.list.length, 'tree')}`;
  });
  await check(`${run.name}: tokens`, async () => {
    await run.words();
    const shards = run.pack.shards.slice(0, 8);
    for (let k = 0; k < shards.length; k++) {
      const shard = await run.shard(k);
      expect(
        shard.ids.length === shards[k].tokens && shard.flags.length === shards[k].tokens,
        `shard ${k} has ${shard.ids.length} tokens`,
      );
      expect(shard.details.length === shard.n, `shard ${k} has details of ${shard.details.length} of ${shard.n}`);
    }
    return `${plural(shards.length, 'shard')}, ${plural(run.vocabulary.size, 'word')}`;
  });
  await check(`${run.name}: base x factors = advantage`, async () => {
    const samples = run.summary.credit_check?.samples ?? [];
    let largest = 0;
    for (const [i, t, recorded] of samples) {
      const credit = creditOf(await readCreditOf(await readRollout(run, i)), t);
      expect(credit, `rollout ${i}, token ${t} carries loss and has no factors`);
      largest = Math.max(largest, Math.abs(credit.product - recorded));
    }
    expect(largest <= 1e-4 || run.summary.credit_check.disagree > 0, `the largest difference is ${largest}`);
    return `${plural(samples.length, 'token')}, largest difference ${largest.toExponential(1)}`;
  });
}

// One address of every kind, per run; a rollout with branches, one of an evaluation, one with a failed call.
function addresses() {
  const list = [];
  for (const run of RUNS) {
    const query = {run: run.number || null};
    list.push(
      link('overview', [], query),
      link('rollouts', [], query),
      link('rollouts', [], {...query, by: 'tasks'}),
      link('rollouts', [], {...query, sort: 'reward', desc: 1, error: 1}),
      link('atlas', [], query),
      link('decisions', [], query),
    );
    if (!run.n) continue;
    const every = Array.from({length: Math.min(run.n, 100000)}, (_, i) => i);
    const some = new Set(
      [
        0,
        run.n - 1,
        every.find((i) => run.isBranch(i)),
        every.find((i) => run.index.n_errors[i]),
        every.find((i) => run.index.kind[i]),
      ].filter(known),
    );
    for (const i of some) list.push(rolloutLink(run, i), treeLink(run, i));
    list.push(link('task', [encodeURIComponent(run.task(0).id)], query));
    const words = run.vocabulary.get(run.vocabulary.keys().next().value);
    list.push(link('rollouts', [], {...query, text: words?.trim() || 'a'}));
  }
  if (RUNS.length > 1) list.push(link('compare'));
  return list;
}

const settled = (ms = 0) => new Promise((done) => setTimeout(done, ms));

// Resolves when the next view has been drawn.
function shown(what) {
  return new Promise((resolve, reject) => {
    document.addEventListener('appo-shown', resolve, {once: true});
    setTimeout(() => reject(new Error(`${what} has drawn nothing in 20 seconds`)), 20000);
  });
}

// Goes to an address as a reader does, and waits until it is drawn.
async function visit(address) {
  if (location.hash === address) await show();
  else {
    const done = shown(address);
    location.hash = address;
    await done;
  }
  return ROUTE;
}

async function drawn(address) {
  const route = await visit(address);
  if (route.failed) throw route.failed;
  expect(document.getElementById('main').textContent.trim().length > 20, 'nothing was drawn');
  expect(
    !/\b(undefined|NaN|\[object)/.test(document.getElementById('main').innerText),
    `it says “${document.getElementById('main').innerText.match(/.{0,30}\b(undefined|NaN|\[object).{0,20}/)?.[0]}”`,
  );
  noWider();
}

// Nothing may be wider than the window: neither the page nor an element outside a region that scrolls by itself.
function noWider() {
  const {scrollWidth, clientWidth} = document.documentElement;
  expect(scrollWidth <= clientWidth, `the page is ${scrollWidth} px wide in a window of ${clientWidth}`);
  for (const element of document.querySelectorAll('main section, main .list, main .head, #bar')) {
    const {right} = element.getBoundingClientRect();
    expect(
      right <= clientWidth + 1,
      `${element.tagName}.${element.className} reaches to ${Math.round(right)} px of ${clientWidth}`,
    );
  }
  for (const region of document.querySelectorAll('main .scroll'))
    expect(
      region.scrollWidth <= region.clientWidth + 1,
      `the table “${region.getAttribute('aria-label')}” is ${region.scrollWidth} px wide in ${region.clientWidth}`,
    );
}

const press = (key) => document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));

async function pressed(key) {
  const done = shown(`the key ${key}`);
  press(key);
  await done;
}

async function keysWork() {
  const run = RUNS[0];
  if (run.n < 2) return 'too few rollouts';
  await visit(link('rollouts'));
  press('j');
  expect(
    document.querySelector('[aria-selected=true]')?.getAttribute('href') === rolloutLink(run, 1),
    'j does not choose the next row',
  );
  await pressed('Enter');
  expect(ROUTE.view === 'rollout' && ROUTE.args[1] === '1', 'Enter does not open the chosen rollout');
  await pressed('k');
  expect(ROUTE.args[1] === '0', 'k does not lead to the previous rollout');
  press('Home');
  press('ArrowRight');
  await settled(50);
  expect(
    run.index.n_tokens[0] < 2 || (ROUTE.token === 1 && document.querySelector('.t.chosen')?.dataset.t === '1'),
    'the arrow does not choose the next token',
  );
  expect(location.hash.includes('token='), 'the address does not name the token');
  await pressed('b');
  expect(ROUTE.view === 'tree', 'b does not lead to the tree');
  press('?');
  expect(document.querySelector('[role=dialog]'), '? does not open the help');
  press('Escape');
  expect(!document.querySelector('[role=dialog]'), 'Escape does not close the help');
  await pressed('Escape');
  expect(ROUTE.view === 'rollouts', 'Escape does not lead back');
  await pressed('1');
  expect(ROUTE.view === 'overview', '1 does not lead to the overview');
  return 'j, k, Enter, arrows, b, ?, Escape, 1';
}

// Whatever stands in the data, the page consists of its own kinds of elements.
async function textStaysText() {
  const strange = [...document.querySelectorAll('img, iframe, object, embed, video, audio, link, script[src], form')];
  expect(!strange.length, `there is a ${strange[0]?.tagName}`);
  const span = h('span', {}, '<img src=x onerror=alert(1)>');
  expect(!span.children.length && span.textContent.startsWith('<img'), 'text became an element');
}

async function themesWork() {
  const ground = () => getComputedStyle(document.body).backgroundColor;
  const first = ground();
  const kept = chosenTheme;
  await switchTheme();
  expect(ground() !== first, 'the colours stay what they were');
  await switchTheme();
  expect(ground() === first, 'the colours do not come back');
  chosenTheme = kept;
  stored('appo-report-theme', kept);
  applyTheme();
}
