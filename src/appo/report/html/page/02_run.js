// A run: its rollouts, trees and tasks, and what is known of single tokens and of their credit.

class Run {
  constructor(pack, number) {
    Object.assign(this, {pack, number, name: pack.name, summary: pack.summary, atlas: pack.atlas});
    this.n = pack.index.n;
    this.shards = new Map();
    this.lastShards = [];
  }

  // Everything about rollouts that is not about single tokens.
  open() {
    this.opening ??= Promise.all([readColumns(this.pack.index.columns), readJson(this.pack.tasks)]).then(
      ([index, tasks]) => {
        this.index = {...index, offset: offsetsOf(index, this.n)};
        this.tasks = tasks;
        this.trees = findTrees(index, this.n);
        return this;
      },
    );
    return this.opening;
  }

  words() {
    this.reading ??= readJson(this.pack.vocabulary).then((pairs) => (this.vocabulary = new Map(pairs)));
    return this.reading;
  }

  text(id) {
    return this.vocabulary.get(id) ?? `[token ${id}]`;
  }

  // Shards are kept while they are few: a large run does not fit into memory.
  async shard(k) {
    if (!this.shards.has(k)) {
      const {src, element} = this.pack.shards[k];
      const read = (src ? loadScript(this.number, k, src) : readElement(element)).then(Shard.read);
      this.shards.set(k, read);
      read.catch(() => this.shards.delete(k));
    }
    this.lastShards = [k, ...this.lastShards.filter((other) => other !== k)];
    for (const old of this.lastShards.splice(6)) this.shards.delete(old);
    return this.shards.get(k);
  }

  isBranch(i) {
    return this.index.parent[i] >= 0;
  }

  // Rollouts that the loss knows: initial ones of training (and whatever else has a reward but no parent).
  reward(i) {
    const reward = this.index.reward[i];
    return Number.isNaN(reward) ? null : reward;
  }

  success(i) {
    const reward = this.reward(i);
    return reward === null ? null : reward >= (this.summary.success_reward ?? 1);
  }

  tree(i) {
    return this.trees.list[this.trees.of[i]];
  }

  // The rollout that i has left, or null.
  parent(i) {
    if (!this.isBranch(i)) return null;
    const {first, last} = this.tree(i);
    for (let j = first; j < last; j++) if (this.index.rollout[j] === this.index.parent[i]) return j;
    return null;
  }

  children(i) {
    const {first, last} = this.tree(i);
    const found = [];
    for (let j = first; j < last; j++) if (this.index.parent[j] === this.index.rollout[i]) found.push(j);
    return found;
  }

  task(i) {
    return this.tasks[this.index.task[i]];
  }

  // "after", or null for a rollout of training.
  evaluation(i) {
    const {kind, evaluation} = this.index;
    if (!kind[i]) return null;
    const entry = evaluation && this.summary.evaluations?.[evaluation[i]];
    return entry ? entry.name : 'evaluation';
  }
}

// Where each rollout's tokens begin within its shard.
function offsetsOf({shard, n_tokens: tokens}, n) {
  const offset = new Uint32Array(n);
  for (let i = 1; i < n; i++) offset[i] = shard[i] === shard[i - 1] ? offset[i - 1] + tokens[i - 1] : 0;
  return offset;
}

// Trees lie together: [{first, last}, ..], and the place there of each rollout's tree.
function findTrees(index, n) {
  const of = new Uint32Array(n);
  const list = [];
  for (let i = 0; i < n; i++) {
    if (i === 0 || index.tree[i] !== index.tree[i - 1]) list.push({first: i, last: i + 1});
    list[list.length - 1].last = i + 1;
    of[i] = list.length - 1;
  }
  return {list, of};
}

const PARTS = ['thought', 'call', 'result', 'answer'];

// A rollout with its tokens: what the views of single tokens show.
async function readRollout(run, i) {
  await Promise.all([run.open(), run.words()]);
  const shard = await run.shard(run.index.shard[i]);
  const start = run.index.offset[i];
  const n = run.index.n_tokens[i];
  const ids = shard.ids.subarray(start, start + n);
  const flags = shard.flags.subarray(start, start + n);
  const details = openDetails(shard.details[i - shard.first], shard.content.reward_names);
  return {
    run,
    i,
    shard,
    start,
    n,
    ids,
    flags,
    details,
    text: (t) => run.text(ids[t]),
    part: (t) => PARTS[(flags[t] >> 2) & 3],
    policy: (t) => (flags[t] & 1) === 1,
    loss: (t) => (flags[t] & 2) === 2,
  };
}

// Opens a rollout's credit: afterwards `creditOf(rollout, t)` answers at once.
async function readCreditOf(rollout) {
  rollout.credit = await rollout.shard.credit();
  return rollout;
}

// The factors of token t's advantage as {factors: [[name, value], ..], product, advantage}, or null without loss.
// `advantage` is what the loss was given; it is not the product where a record disagrees with itself.
function creditOf(rollout, t) {
  const {credit, shard, run, i, start} = rollout;
  if (!credit || !rollout.loss(t)) return null;
  const value = ({per, values, palette}) => {
    const code = values[per === 'rollout' ? shard.rolloutPlace(i - shard.first, run.index) : credit.before[start + t]];
    return palette ? palette[code] : code;
  };
  const factors = Object.entries(credit.factors).map(([name, column]) => [name, value(column)]);
  const product = factors.reduce((all, [, factor]) => all * factor, 1);
  const recorded = credit.advantage ? value(credit.advantage) : credit.differences.get(`${i - shard.first}/${t}`);
  return {factors, product, advantage: recorded ?? product};
}

const RUNS = PACK.runs.map((pack, number) => new Run(pack, number));
