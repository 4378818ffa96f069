// Not a module, so that it runs before anything is painted: the wrong theme never flashes.
try {
  const theme = JSON.parse(localStorage.getItem('puyu.theme'));
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* no storage: the system's theme */ }
