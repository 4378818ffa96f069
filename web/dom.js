// Small helpers over the DOM. Nothing here takes HTML: text stays text.

// h('button', {class: 'x', onclick: f, 'aria-label': 'y'}, child, …); children are nodes, strings, or null.
export function h(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) e.addEventListener(key.slice(2), value);
    else if (key === 'value') e.value = value;
    else e.setAttribute(key, value === true ? '' : value);
  }
  e.append(...children.flat().filter(c => c !== null && c !== undefined && c !== false));
  return e;
}

// Strokes in a square of 24.
const strokes = {
  menu: 'M4 7h16M4 12h16M4 17h16',
  plus: 'M12 5v14M5 12h14',
  sliders: 'M4 8h9M19 8h1M4 16h3M13 16h7M16 5.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5zM10 13.5a2.5 2.5 0 1 1 0 5 2.5 2.5 0 0 1 0-5z',
  send: 'M12 19V5M6 11l6-6 6 6',
  stop: 'M7 7h10v10H7z',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  edit: 'M4 20l1-4L16.5 4.5l3 3L8 19zM14 7l3 3',
  retry: 'M19 12a7 7 0 1 1-2-4.9M19 4v4h-4',
  left: 'M14.5 6l-6 6 6 6',
  right: 'M9.5 6l6 6-6 6',
  down: 'M12 5v14M6 13l6 6 6-6',
  more: 'M6 12h.01M12 12h.01M18 12h.01',
  trash: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13',
  download: 'M12 4v11M7 10.5l5 5 5-5M5 20h14',
  upload: 'M12 16V5M7 9.5l5-5 5 5M5 20h14',
  tool: 'M14.5 6.5a4 4 0 0 1 5-1l-2.5 3 1.5 1.5 2.6-2.6a4.2 4.2 0 0 1-5.8 5.1L8 20l-3.5-3.5 7.4-7.3a4 4 0 0 1 2.6-2.7z',
  theme: 'M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16',
  close: 'M6 6l12 12M18 6L6 18',
};

export function icon(name) {
  const ns = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(ns, 'svg'), path = document.createElementNS(ns, 'path');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', `icon icon-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  path.setAttribute('d', strokes[name]);
  svg.append(path);
  return svg;
}

// A button that shows an icon and is called by its label.
export function iconButton(name, label, onclick, props = {}) {
  return h('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick, ...props }, icon(name));
}

// Pages that did not come over HTTPS or from this machine itself have no clipboard; the old way works there.
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h('textarea', { class: 'unseen', value: text });
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

// A button that copies what text() gives, and says that it did.
export function copyButton(label, text, props) {
  const b = iconButton('copy', label, async () => {
    await copyText(text());
    b.replaceChildren(icon('check'));
    setTimeout(() => b.replaceChildren(icon('copy')), 1200);
  }, props);
  return b;
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// One line at the bottom for a while; with an action, a button in it.
export function toast(text, action, onclick) {
  document.querySelector('.toast')?.remove();
  const e = h('div', { class: 'toast', role: 'status' }, text,
    action && h('button', { type: 'button', class: 'link', onclick: () => { e.remove(); onclick(); } }, action));
  document.body.append(e);
  setTimeout(() => e.remove(), 7000);
}

// A textarea as high as its text, up to what CSS allows.
export function grow(area) {
  const fit = () => { 
    area.style.height = 'auto';
    area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
  };
  area.addEventListener('input', fit);
  requestAnimationFrame(fit);
  return area;
}

// Enter sends, Shift+Enter breaks the line. The Enter that ends an input method's composition does neither: browsers
// say so by isComposing, Safari by the key code 229.
export function onEnter(area, send) {
  area.addEventListener('keydown', e => {
    if (e.key !== 'Enter' || e.shiftKey || e.altKey || e.isComposing || e.keyCode === 229) return;
    e.preventDefault();
    send();
  });
  return area;
}
