'use strict';
// The pack: what `appo report` has put into this file, and how its columns are read. Nothing here touches the page's
// elements. Columns are little-endian typed arrays, gzipped and base64; they are decoded when they are first asked for.

const PACK = JSON.parse(document.getElementById('appo-pack').textContent);

const ARRAYS = {u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, i16: Int16Array, i32: Int32Array, f32: Float32Array};

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

function gunzip(text) {
  const stream = new Blob([fromBase64(text)]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).arrayBuffer();
}

async function readColumn(column) {
  return new ARRAYS[column.type](await gunzip(column.gz));
}

async function readJson(part) {
  return JSON.parse(new TextDecoder().decode(await gunzip(part.gz)));
}

async function readColumns(columns) {
  const names = Object.keys(columns);
  const read = await Promise.all(names.map((name) => readColumn(columns[name])));
  return Object.fromEntries(names.map((name, k) => [name, read[k]]));
}

// A heat-map column: a value per policy token, in `steps` shades (255: none). `square` and `symmetric` are fine where
// most values lie.
function heatValue({low, high, scale, steps}, q) {
  if (q === 255) return null;
  const u = q / steps;
  if (scale === 'log') return low * (high / low) ** u;
  if (scale === 'square') return low + (high - low) * u ** 2;
  if (scale === 'symmetric') return high * (2 * u - 1) * Math.abs(2 * u - 1);
  return low + (high - low) * u;
}

// A rollout's details as they are packed: [calls, rewards, alternatives, decisions]. Positions are gaps, what is at the
// end of a call is left out where it is usual, and arguments and results are null where they stand in the tokens.
function openDetails([calls, rewards, alternatives, decisions], names) {
  let end = 0;
  const opened = (calls ?? []).map(([name, gap, length, resultGap = null, resultLength = 0, error = null, seconds = null, ran = true, args = null, result = null]) => {
    const call = {name, start: end + gap, end: end + gap + length, result_start: -1, result_end: -1, error, seconds, ran, arguments: args, result};
    end = call.end;
    if (resultGap !== null) {
      call.result_start = end + resultGap;
      end = call.result_end = call.result_start + resultLength;
    }
    return call;
  });
  let position = 0;
  return {calls: opened, rewards: Object.fromEntries((names ?? []).map((name, k) => [name, rewards?.[k] ?? null])), alternatives,
    decisions: decisions?.map((gap) => (position += gap)) ?? null};
}

const waitingShards = new Map();  // shards of a report in a folder: 'run/shard' -> what to do with it

// What the scripts of a report's folder call.
function APPO_SHARD(run, shard, content) {
  const key = `${run}/${shard}`;
  if (waitingShards.has(key)) waitingShards.get(key)(content);
}

function loadScript(run, shard, source) {
  return new Promise((resolve, reject) => {
    waitingShards.set(`${run}/${shard}`, resolve);
    const script = document.createElement('script');
    script.src = source;
    script.onerror = () => reject(new Error(`${source} could not be read. It has to lie beside this file.`));
    script.onload = () => script.remove();
    document.head.append(script);
  });
}

// A shard inside this file: an element behind the script, which may not have been parsed yet.
async function readElement(id) {
  if (document.readyState === 'loading') await new Promise((done) => document.addEventListener('DOMContentLoaded', done));
  return JSON.parse(document.getElementById(id).textContent);
}

// One part of a run's tokens, decoded.
class Shard {
  constructor(content, ids, flags, details) {
    Object.assign(this, {content, ids, flags, details, first: content.first, n: content.n});
    this.heatColumns = {};
    this.creditColumns = null;
  }

  static async read(content) {
    const [ids, flags, details] = await Promise.all(
      [readColumn(content.ids), readColumn(content.flags), readJson(content.details)]);
    return new Shard(content, ids, flags, details);
  }

  // The heat-map column `name` as {at: token of the shard -> value or null}, or null where the run has none.
  async heat(name) {
    const column = this.content.heat[name];
    if (!column) return null;
    this.heatColumns[name] ??= await readColumn(column);
    const values = this.heatColumns[name];
    this.policyBefore ??= countsOf(this.flags, 0);
    return {at: (t) => (this.flags[t] & 1 ? heatValue(column, values[this.policyBefore[t]]) : null)};
  }

  // Credit columns are sparse: they have an entry per token (or rollout) that carries loss. `before` counts those.
  // Values are the recorded ones, exactly: a float, or a code into a palette of floats.
  async credit() {
    const {credit} = this.content;
    if (!credit || this.creditColumns) return this.creditColumns;
    const before = countsOf(this.flags, 1);
    const factors = {};
    for (const [name, column] of Object.entries(credit.factors)) factors[name] = await readCredit(column);
    const advantage = credit.advantage ? await readCredit(credit.advantage) : null;
    const differences = new Map((credit.differences ?? []).map(([i, t, recorded]) => [`${i}/${t}`, recorded]));
    this.creditColumns = {before, factors, advantage, differences};
    return this.creditColumns;
  }

  // How many rollouts before the i-th of the shard carry loss: the place of its entry in a column per rollout.
  rolloutPlace(i, index) {
    const {before} = this.creditColumns;
    this.places ??= (() => {
      const places = new Uint32Array(this.n + 1);
      for (let j = 0; j < this.n; j++) {
        const start = index.offset[this.first + j];
        places[j + 1] = places[j] + (before[start + index.n_tokens[this.first + j]] > before[start] ? 1 : 0);
      }
      return places;
    })();
    return this.places[i];
  }
}

// How many of the tokens before each have this bit.
function countsOf(flags, bit) {
  const before = new Uint32Array(flags.length + 1);
  for (let t = 0; t < flags.length; t++) before[t + 1] = before[t] + ((flags[t] >> bit) & 1);
  return before;
}

async function readCredit(column) {
  const palette = column.palette ? await readColumn(column.palette) : null;
  return {per: column.per, values: await readColumn(column), palette};
}

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
      });
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
  return {run, i, shard, start, n, ids, flags, details, text: (t) => run.text(ids[t]),
    part: (t) => PARTS[(flags[t] >> 2) & 3], policy: (t) => (flags[t] & 1) === 1, loss: (t) => (flags[t] & 2) === 2};
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
