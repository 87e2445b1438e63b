// The page begins: the first view is drawn from the summary, everything else is decoded when it is asked for.

applyTheme();
document.addEventListener('keydown', onKey);

async function arrived() {
  if (location.hash === '#selftest') {
    if (!document.body.dataset.selftest) {
      document.body.dataset.selftest = 'running';
      await settled();
      await selftest();
    }
    return;
  }
  const route = await show();
  if (!document.body.dataset.firstView) {
    requestAnimationFrame(() =>
      setTimeout(() => {
        document.body.dataset.firstView = String(Math.round(performance.now())); // ms since the navigation began
        RUNS.forEach((run) => run.open().catch(console.error));
      }),
    );
  }
  document.dispatchEvent(new CustomEvent('appo-shown', {detail: route}));
}

// What is laid out by the window's width is drawn again when it changes.
let resizing = null;
let lastWidth = innerWidth;
window.addEventListener('resize', () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => {
    if (innerWidth === lastWidth || document.body.dataset.selftest === 'running') return;
    lastWidth = innerWidth;
    if (['rollouts', 'tree', 'compare'].includes(ROUTE?.view)) show();
  }, 200);
});

window.addEventListener('hashchange', arrived);
arrived();
