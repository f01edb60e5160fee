// Keys of the explorer. Each one clicks the button that names it, so a key does what the button on screen does.
(() => {
  if (window.rsrKeys) return;
  window.rsrKeys = true;
  const TEXT = 'textarea, [contenteditable=""], [contenteditable=true], ' +
    'input:not([type=button], [type=checkbox], [type=radio], [type=range])';

  // In a notebook, keys are the explorer's while the focus is in it; on a page of its own they always are.
  function explorer(target) {
    const inside = target.closest('.rsr-explorer');
    const notebook = document.querySelector('.jp-NotebookPanel, .notebook_app');
    return inside || (notebook ? null : document.querySelector('.rsr-explorer'));
  }

  // Keys 1 and 2 pass and fail the first response on screen, 3 and 4 the second, and so on.
  function label(root, key) {
    const side = root.querySelectorAll('.rsr-label')[Math.floor((key - 1) / 2)];
    return side && side.querySelectorAll('button')[1 + (key - 1) % 2];
  }

  function button(root, key) {
    const found = /^[1-8]$/.test(key) ? label(root, Number(key))
      : /^[a-z]$/.test(key) ? root.querySelector(`button.rsr-key-${key}`) : null;
    return found && found.offsetParent ? found : null;   // not while it is hidden
  }

  window.addEventListener('keydown', e => {
    const target = e.target instanceof Element ? e.target : document.body;
    if (e.ctrlKey || e.altKey || e.metaKey || e.isComposing || target.closest(TEXT)) return;
    const root = explorer(target), found = root && button(root, e.key);
    if (!found) return;
    e.preventDefault();
    e.stopImmediatePropagation();   // JupyterLab has commands on these keys
    if (!e.repeat) found.click();   // a disabled button does nothing
  }, true);

  // A click on a text takes the focus into the explorer, where JupyterLab would give it to the cell.
  window.addEventListener('click', e => {
    const root = e.target instanceof Element && e.target.closest('.rsr-explorer');
    if (!root || root.contains(document.activeElement)) return;
    root.tabIndex = -1;
    root.style.outline = 'none';
    root.focus({ preventScroll: true });
  });
})();
