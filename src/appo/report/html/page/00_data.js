'use strict';
// The pack: what `appo report` has put into this file, and how its columns are read. Nothing here touches the page's
// elements. Columns are little-endian typed arrays, gzipped and base64; they are decoded when they are first asked for.

const PACK = JSON.parse(document.getElementById('appo-pack').textContent);

const ARRAYS = {
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  i16: Int16Array,
  i32: Int32Array,
  f32: Float32Array,
};

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
  const opened = (calls ?? []).map(
    ([
      name,
      gap,
      length,
      resultGap = null,
      resultLength = 0,
      error = null,
      seconds = null,
      ran = true,
      args = null,
      result = null,
    ]) => {
      const call = {
        name,
        start: end + gap,
        end: end + gap + length,
        result_start: -1,
        result_end: -1,
        error,
        seconds,
        ran,
        arguments: args,
        result,
      };
      end = call.end;
      if (resultGap !== null) {
        call.result_start = end + resultGap;
        end = call.result_end = call.result_start + resultLength;
      }
      return call;
    },
  );
  let position = 0;
  return {
    calls: opened,
    rewards: Object.fromEntries((names ?? []).map((name, k) => [name, rewards?.[k] ?? null])),
    alternatives,
    decisions: decisions?.map((gap) => (position += gap)) ?? null,
  };
}

const waitingShards = new Map(); // shards of a report in a folder: 'run/shard' -> what to do with it

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
  if (document.readyState === 'loading')
    await new Promise((done) => document.addEventListener('DOMContentLoaded', done));
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
    const [ids, flags, details] = await Promise.all([
      readColumn(content.ids),
      readColumn(content.flags),
      readJson(content.details),
    ]);
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
