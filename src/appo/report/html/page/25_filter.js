// Which rollouts a query means, and in what order. Texts are decoded only when somebody searches in them.

const REWARDS = {success: 'successes', failure: 'failures', none: 'without a reward'};

// The query of the list that is walked through by j and k: {run, order, query}.
let LIST = null;

function stepRange(text) {
  const [low, high] = String(text ?? '')
    .split(/[-–]/)
    .map((part) => (part.trim() === '' ? null : Number(part)));
  if (low === null && high === undefined) return null;
  return [low ?? 0, high === undefined ? low : (high ?? Infinity)];
}

function kindTest(run, kind) {
  const {index} = run;
  if (kind === 'initial') return (i) => !index.kind[i] && index.parent[i] < 0;
  if (kind === 'branch') return (i) => index.parent[i] >= 0;
  if (kind === 'train') return (i) => !index.kind[i];
  if (kind) return (i) => run.evaluation(i) === kind;
  return () => true;
}

function rewardTest(run, {reward, low, high}) {
  const tests = [];
  if (reward === 'success') tests.push((i) => run.success(i) === true);
  if (reward === 'failure') tests.push((i) => run.success(i) === false);
  if (reward === 'none') tests.push((i) => run.reward(i) === null);
  if (known(low) && low !== '') tests.push((i) => run.index.reward[i] >= Number(low));
  if (known(high) && high !== '') tests.push((i) => run.index.reward[i] <= Number(high));
  return (i) => tests.every((test) => test(i));
}

// Rollouts (their numbers) that a query leaves, in its order; `found`: a Uint8Array of a search in texts, or null.
function filtered(run, query, found = null) {
  const {index, n} = run;
  const steps = stepRange(query.step);
  const ofKind = kindTest(run, query.kind);
  const ofReward = rewardTest(run, query);
  const left = [];
  for (let i = 0; i < n; i++) {
    if (steps && (index.kind[i] || index.step[i] < steps[0] || index.step[i] > steps[1])) continue;
    if (query.error && !index.n_errors[i]) continue;
    if (query.task && run.task(i).row_key !== query.task) continue;
    if (found && !found[i]) continue;
    if (ofKind(i) && ofReward(i)) left.push(i);
  }
  return sorted(run, left, query);
}

const SORTS = {
  step: 'step',
  reward: 'reward',
  tokens: 'n_tokens',
  calls: 'n_calls',
  errors: 'n_errors',
  score: 'branch_score',
};

function sorted(run, order, {sort, desc}) {
  const column = run.index[SORTS[sort]];
  if (!column || (sort === 'step' && !desc)) return order;
  const sign = desc ? -1 : 1;
  const last = sign * Infinity; // what has no value stands at the end
  const value = (i) => (Number.isNaN(column[i]) ? last : column[i]);
  return order.sort((i, j) => sign * (value(i) - value(j)) || i - j);
}

let lastSearch = {};

// Marks the rollouts whose prompt or tokens hold `text`. Parts of the run are decoded one after the other; `onprogress`
// is told (done, all) and may return false to stop.
async function searchTexts(run, text, onprogress = () => true) {
  if (lastSearch.run === run && lastSearch.text === text) return lastSearch.found;
  const wanted = text.toLowerCase();
  const found = new Uint8Array(run.n);
  await run.words();
  const inPrompt = run.tasks.map((task) => promptText(task).toLowerCase().includes(wanted));
  const {shards} = run.pack;
  for (let k = 0; k < shards.length; k++) {
    if (onprogress(k, shards.length) === false) return null;
    const shard = await run.shard(k);
    for (let i = shard.first; i < shard.first + shard.n; i++) {
      found[i] = inPrompt[run.index.task[i]] || rolloutText(run, shard, i).toLowerCase().includes(wanted) ? 1 : 0;
    }
    await new Promise((done) => setTimeout(done));
  }
  lastSearch = {run, text, found};
  return found;
}

function rolloutText(run, shard, i) {
  const start = run.index.offset[i];
  let text = '';
  for (let t = start; t < start + run.index.n_tokens[i]; t++) text += run.text(shard.ids[t]);
  return text;
}

// Trees that hold at least one rollout of `order`, in the order of their first one.
function treesOf(run, order) {
  const seen = new Set();
  for (const i of order) seen.add(run.trees.of[i]);
  return [...seen];
}

// A tree's two groups, with means and spreads of their rewards.
function groupsOf(run, tree) {
  const rollouts = Array.from({length: tree.last - tree.first}, (_, k) => tree.first + k);
  const group = (members) => {
    const rewards = members.map((i) => run.reward(i)).filter(known);
    return {
      members,
      rewards,
      mean: rewards.length ? mean(rewards) : null,
      spread: rewards.length ? spread(rewards) : null,
    };
  };
  return {
    initial: group(rollouts.filter((i) => !run.isBranch(i))),
    branches: group(rollouts.filter((i) => run.isBranch(i))),
  };
}
