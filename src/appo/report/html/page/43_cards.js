// What stands beside a rollout's tokens: its tool calls, its reward, the reference answer, the prompt.

const spanText = (rollout, first, end) =>
  Array.from({length: Math.max(0, end - first)}, (_, k) => rollout.text(first + k)).join('');

function callsCard(rollout) {
  const {calls = []} = rollout.details;
  if (!calls.length) return section('Tool calls', null, h('p.soft', {style: {margin: '0'}}, 'None.'));
  const failed = calls.filter((call) => call.error).length;
  return section(
    `Tool calls: ${calls.length}${failed ? `, ${failed} failed` : ''}`,
    null,
    table(
      ['', 'tool', 'arguments', 'what came back', 'time'],
      calls.map((call, k) => [
        String(k + 1),
        call.name,
        h(
          'pre',
          {},
          call.arguments === null ? spanText(rollout, call.start, call.end).trim() : oneOrMany(call.arguments),
        ),
        [
          call.error && h('div.bad', {}, `✗ ${call.error}`),
          h('pre', {}, call.result ?? spanText(rollout, call.result_start, call.result_end).trim()),
        ],
        seconds(call.seconds) ?? (call.ran === false ? 'not run' : '–'),
      ]),
      {numeric: [4], label: 'tool calls'},
    ),
  );
}

// Arguments are JSON: a text is shown as it is, a mapping as "name: value" lines.
function oneOrMany(json) {
  try {
    const value = typeof json === 'string' ? JSON.parse(json) : json;
    if (typeof value === 'string') return value;
    return Object.entries(value)
      .map(([key, entry]) => `${key}: ${asText(entry)}`)
      .join('\n');
  } catch {
    return String(json);
  }
}

function factsCard(rollout) {
  const {run, i, details} = rollout;
  const task = run.task(i);
  const {index} = run;
  const parts = Object.entries(details.rewards ?? {});
  const answers = task.answers ?? [];
  return section(
    'Rollout',
    null,
    definition([
      [
        'reward',
        [
          outcome(run, i),
          parts.length > 1 || (parts.length && parts[0][1] !== run.reward(i))
            ? ` ${parts.map(([name, value]) => `${name} ${number(value)}`).join(', ')}`
            : parts.length
              ? ` by ${parts[0][0]}`
              : '',
        ],
      ],
      ['reference answer', answers.length ? answers.map((answer) => h('div.mono', {}, asText(answer))) : null],
      ['ended by', FINISH[index.finish[i]]],
      [
        'tokens',
        `${count(rollout.n)}, of these ${count(index.n_policy?.[i] ?? rollout.flags.filter((f) => f & 1).length)} by the policy`,
      ],
      ['true decisions', details.decisions?.length ? `at tokens ${details.decisions.join(', ')}` : null],
      ['task', task.id],
    ]),
    h(
      'details',
      {style: {'margin-top': '8px'}},
      h('summary', {}, 'Prompt and data row'),
      promptBox(task),
      task.row &&
        definition(
          Object.entries(task.row)
            .filter(([key]) => key !== 'prompt')
            .map(([key, value]) => [key, h('span.mono', {}, asText(value))]),
        ),
    ),
  );
}

function promptBox(task) {
  if (Array.isArray(task.prompt)) {
    return task.prompt.map((message) => [
      h('h3', {}, message.role),
      h('pre.box', {}, typeof message.content === 'string' ? message.content : asText(message.content ?? message)),
    ]);
  }
  return h('pre.box', {}, promptText(task));
}
