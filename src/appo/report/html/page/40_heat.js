// Heat maps of tokens: what a colour means. Sequential scales run from the paper's colour to its opposite in lightness;
// diverging ones from orange through the paper's colour to blue. Both can be told apart without seeing red or green.

const RAMPS = {
  light: {
    sequential: ['#ffffff', '#e8f1c4', '#a3d6bd', '#4aadc0', '#2372b0', '#25408f', '#0c1f5c'],
    diverging: ['#a34700', '#e08214', '#fdd9a8', '#ffffff', '#bcd9f2', '#4393d6', '#0b4a91'],
  },
  dark: {
    sequential: ['#191d24', '#1d3a5c', '#1f6180', '#2f8f95', '#63bb88', '#c2df6a', '#fdec5c'],
    diverging: ['#ffb055', '#c8721a', '#6b4420', '#191d24', '#234a73', '#3487cf', '#8ccbff'],
  },
};

const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));

// The colour at u in [0, 1] as [background, ink].
function rampColor(kind, u) {
  const stops = RAMPS[themeName()][kind];
  const place = Math.max(0, Math.min(1, u)) * (stops.length - 1);
  const k = Math.min(stops.length - 2, Math.floor(place));
  const [from, to] = [rgb(stops[k]), rgb(stops[k + 1])];
  const mixed = from.map((channel, c) => Math.round(channel + (to[c] - channel) * (place - k)));
  return [`rgb(${mixed.join(' ')})`, luminance(mixed) > 0.189 ? '#0b0e13' : '#ffffff'];
}

// As WCAG has it; at the limit above both inks have a contrast of 4.4.
function luminance(channels) {
  const [r, g, b] = channels.map((x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// name: [button, what it is, unit, centre of a diverging scale]
const HEATS = {
  entropy: ['Entropy', 'how undecided the policy was before the token (Eq. 3)', 'nats', null],
  omega: ['Future value Ω', 'how much more likely the present policy makes what follows (Eq. 4); 1: no change', '', 1],
  ratio: ['Ratio', 'log of the present over the old probability of the token; 0: no change', 'nats', 0],
  advantage: ['Advantage', 'what the loss multiplies the token’s ratio with: above 0 more of it, below 0 less', '', 0],
  weight: ['Weight', 'the token’s share of its rollout’s credit', '', null],
  score: ['Branching score', 'what chose the branch points (Eq. 5, or the method’s own)', '', 0],
  logprob: ['Log-probability', 'of the token under the present policy', 'nats', null],
};

const heatWords = (name) => HEATS[name] ?? [name.replace(/_/g, ' '), 'a measure of the method', '', null];

// The heat maps that a rollout's part of the run has.
function heatNames(rollout) {
  const columns = Object.keys(rollout.shard.content.heat ?? {});
  const {credit} = rollout.shard.content;
  const computed = credit ? ['advantage', ...('token_weight' in credit.factors ? ['weight'] : [])] : [];
  const all = new Set([...columns, ...computed]);
  return [...Object.keys(HEATS).filter((name) => all.has(name)), ...columns.filter((name) => !(name in HEATS))];
}

// The values of a heat map over a rollout's tokens (null: none), and its scale: {name, values, low, high, diverging, color}.
async function readHeat(rollout, name) {
  const values = new Array(rollout.n).fill(null);
  if (name === 'advantage' || name === 'weight') {
    for (let t = 0; t < rollout.n; t++) {
      const credit = creditOf(rollout, t);
      if (credit)
        values[t] =
          name === 'advantage'
            ? credit.advantage
            : ((credit.factors.find(([factor]) => factor === 'token_weight') ?? [])[1] ?? null);
    }
  } else {
    const heat = await rollout.shard.heat(name);
    for (let t = 0; heat && t < rollout.n; t++) values[t] = heat.at(rollout.start + t);
  }
  return {name, values, ...heatScale(rollout.run, name, values)};
}

// One scale for the whole run, from its first to its 99th hundredth, so that colours of two rollouts can be compared.
function heatScale(run, name, values) {
  const known_ = values.filter(known);
  const given = run.summary.scales?.[name];
  let low = given?.p1 ?? given?.low ?? (known_.length ? Math.min(...known_) : 0);
  let high = given?.p99 ?? given?.high ?? (known_.length ? Math.max(...known_) : 1);
  if (low > 0 && low < 0.02 * high) low = 0;
  const centre = heatWords(name)[3];
  const diverging = centre !== null;
  if (diverging) {
    const reach = Math.max(Math.abs(low - centre), Math.abs(high - centre), 1e-6);
    [low, high] = [centre - reach, centre + reach];
  }
  if (!(high > low)) high = low + 1;
  const kind = diverging ? 'diverging' : 'sequential';
  const flip = name === 'logprob'; // the unlikely token is what one looks for
  const color = (x) => {
    const u = (x - low) / (high - low);
    return rampColor(kind, flip ? 1 - u : u);
  };
  return {low, high, diverging, kind, color, any: known_.length > 0};
}

function heatLegend(heat) {
  const [, words, unit] = heatWords(heat.name);
  const stops = Array.from({length: 9}, (_, k) => heat.color(heat.low + (k / 8) * (heat.high - heat.low))[0]);
  const bounded = heat.name !== 'weight';
  return h(
    'div.legend',
    {},
    h('span', {}, words, ': '),
    h(
      'span',
      {style: {'white-space': 'nowrap'}},
      bounded && heat.low !== 0 ? '≤ ' : '',
      number(heat.low),
      h('span.ramp', {style: {background: `linear-gradient(to right, ${stops.join(', ')})`}}),
      bounded ? '≥ ' : '',
      number(heat.high),
      unit && ` ${unit}`,
    ),
  );
}
