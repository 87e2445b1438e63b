// Branches on the paper's map; a click leads to one. Clusters are told by a number where their middle is.
function clusterCard(run, clusters) {
  if (!clusters?.points?.length) return null;
  const {points} = clusters;
  const width = 640;
  const height = 420;
  const scale = (k, size) => {
    const [low, high] = range(points.map((point) => point[k]));
    return (x) => 10 + ((x - low) / (high - low)) * (size - 20);
  };
  const [px, py] = [scale(0, width), scale(1, height)];
  const kinds = [
    ['better than the rollout they left', 'var(--good)', 'var(--good)'],
    ['worse', 'var(--paper)', 'var(--bad)'],
    ['alike', 'var(--line)', 'var(--line)'],
  ];
  const kindOf = (outcome) => kinds[outcome > 1e-9 ? 0 : outcome < -1e-9 ? 1 : 2];
  const dot = ([x, y, result, i]) =>
    svg(
      'a',
      {href: rolloutLink(run, i), tabindex: '-1'},
      svg('title', {}, `reward, branch − parent: ${signedFixed(result)}`),
      svg('circle', {cx: px(x), cy: py(y), r: 3, fill: kindOf(result)[1], stroke: kindOf(result)[2]}),
    );
  const ordered = [...points].sort((p, q) => Math.abs(p[2]) - Math.abs(q[2])); // what changed lies on top
  const named = [...new Set(points.map((point) => point[4]))]
    .filter((label) => label >= 0)
    .map((label) => {
      const own = points.filter((point) => point[4] === label);
      return svg(
        'text.strong',
        {
          x: px(mean(own.map((point) => point[0]))),
          y: py(mean(own.map((point) => point[1]))),
          'text-anchor': 'middle',
        },
        String(label + 1),
        svg('title', {}, `cluster ${label + 1}, n = ${own.length}`),
      );
    });
  return section(
    'Branches by what they wrote',
    `Each point is a branch; near each other are those that wrote the same tokens (UMAP; numbers: clusters by DBSCAN). n = ${count(points.length)}.`,
    swatches(kinds.map(([name, fill, line]) => ({name, fill, line}))),
    svg(
      'svg',
      {
        viewBox: `0 0 ${width} ${height}`,
        style: {'max-width': '900px'},
        role: 'img',
        'aria-label': `map of ${points.length} branches`,
      },
      ordered.map(dot),
      named,
    ),
  );
}
