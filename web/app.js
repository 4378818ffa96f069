// The chat page: its frame, and how it starts.
import { listModels } from './api.js';
import { openSettings } from './dialogs.js';
import { grow, h, icon, iconButton, onEnter, toast } from './dom.js';
import { startLanguage, t } from './i18n.js';
import { answer, stop, withKey } from './run.js';
import { makeSidebar, toggleSide } from './sidebar.js';
import { app, keepSettings, modelOf, open, save } from './state.js';
import { loadConversations, onOtherTab } from './store.js';
import { addNode, pathOf } from './tree.js';
import { resultForm, viewOf } from './turns.js';

const NEAR = 60; // pixels from the end that count as being there
let frame;

/* ---- the list of models ---- */

function showModels() {
  const { models } = frame, names = app.models.map(m => m.id);
  models.replaceChildren(...names.map(name => h('option', { value: name }, name)));
  models.value = modelOf(app.current) ?? '';
  models.disabled = !names.length;
  models.parentElement.classList.toggle('single', names.length < 2);
}

async function fetchModels() {
  try {
    app.models = await withKey(listModels);
  } catch (e) {
    toast(e.status ? e.message : t('noServer'), t('retry'), fetchModels);
  }
  showModels();
}

/* ---- messages ---- */

function pendingForm(conv, last) {
  return last?.role === 'assistant' && last.calls?.length && !last.live && !app.runs.has(conv.id);
}

// The same elements stay in place, so that selections, folds and scrolled code survive.
function showTurns() {
  const conv = app.current, path = pathOf(conv), last = path.at(-1);
  const views = path.map(node => viewOf(conv, node)), elements = views.map(v => v.element);
  if (pendingForm(conv, last)) {
    if (frame.pending?.node !== last) frame.pending = { node: last, element: resultForm(conv, last) };
    elements.push(frame.pending.element);
  } else {
    frame.pending = null;
  }
  for (const view of views) view.refresh();
  const now = frame.turns.children;
  if (elements.length !== now.length || elements.some((e, i) => e !== now[i])) frame.turns.replaceChildren(...elements);
  document.body.classList.toggle('blank', !path.length);
}

function showComposer() {
  const busy = app.runs.has(app.current.id);
  frame.send.replaceChildren(icon(busy ? 'stop' : 'send'));
  frame.send.title = busy ? t('stop') : t('send');
  frame.send.setAttribute('aria-label', frame.send.title);
  frame.send.disabled = !busy && !frame.input.value.trim();
  // For those who hear the page: words that come piece by piece are not read out, their end is. An error says itself.
  const whole = frame.busy && !pathOf(app.current).at(-1)?.error;
  if (busy !== frame.busy) frame.status.textContent = whole ? t('done') : '';
  frame.busy = busy;
}

app.show = () => {
  showTurns();
  showComposer();
  showModels();
  frame.side.show();
  document.title = app.current.title ? `${app.current.title} – puyu` : 'puyu';
};

/* ---- following an answer ---- */

let following = true, last = { top: 0, height: 0 };

// now: wherever the reader is.
app.follow = now => {
  const s = frame.scroller;
  if (now) following = true;
  if (following) s.scrollTop = s.scrollHeight;
  last = { top: s.scrollTop, height: s.scrollHeight };
  showJump();
};

const away = () => frame.scroller.scrollHeight - frame.scroller.scrollTop - frame.scroller.clientHeight;

function showJump() {
  frame.jump.hidden = following || away() < NEAR;
}

// A move up is the reader's, unless the text became shorter: the browser moves up then, too.
function scrolled() {
  const { scrollTop: top, scrollHeight: height } = frame.scroller;
  if (top < last.top - 1 && height >= last.height) following = false;
  if (away() < 4) following = true;
  last = { top, height };
  showJump();
}

// Whatever makes the text longer or the window smaller: words, colours and formulas that come later, a phone's keyboard.
const watch = new ResizeObserver(() => app.follow());

/* ---- the frame ---- */

function send() {
  const conv = app.current, text = frame.input.value;
  if (app.runs.has(conv.id) || !text.trim()) return;
  frame.input.value = '';
  frame.input.dispatchEvent(new Event('input'));
  answer(conv, addNode(conv, pathOf(conv).at(-1), { role: 'user', content: text }));
}

function makeFrame(text) {
  const side = makeSidebar();
  const models = h('select', { 'aria-label': t('model'), onchange: () => {
    app.current.settings.model = models.value;
    keepSettings(app.current.settings);
    if (app.conversations.has(app.current.id)) save(app.current);
  } });
  const turns = h('div', { class: 'turns', role: 'log', 'aria-live': 'off' });
  const input = onEnter(grow(h('textarea', { rows: 1, placeholder: t('ask'), 'aria-label': t('ask'), enterkeyhint: 'send',
    value: text, dir: 'auto' })), send);
  input.addEventListener('input', showComposer);
  const button = h('button', { type: 'button', class: 'send', onclick: () => app.runs.has(app.current.id) ? stop(app.current) : send() });
  const scroller = h('div', { class: 'scroller', onscroll: scrolled }, turns);
  const status = h('div', { class: 'unseen', role: 'status' });
  const jump = iconButton('down', t('toBottom'), () => app.follow(true), { hidden: true });
  jump.classList.add('jump');
  const main = h('main', {},
    h('header', { class: 'top' }, iconButton('menu', t('menu'), () => toggleSide()), h('div', { class: 'models' }, models),
      iconButton('sliders', t('settings'), openSettings)),
    scroller, status,
    h('div', { class: 'foot' }, jump, h('div', { class: 'hello' }, h('h1', {}, t('hello'))),
      h('div', { class: 'composer' }, input, button), h('p', { class: 'hint keys' }, t('helloHint'))));
  document.body.replaceChildren(side.element, h('div', { class: 'scrim', onclick: () => toggleSide(false) }), main);
  watch.disconnect();
  watch.observe(turns);
  watch.observe(scroller);
  return { side, models, turns, input, send: button, scroller, jump, status, busy: false, pending: null };
}

// Again in another language: everything that was drawn has words in it.
app.relabel = () => {
  app.views.clear();
  frame = makeFrame(frame?.input.value ?? '');
  app.show();
  app.follow();
};

function takeOtherTab(id, conv) {
  if (app.runs.has(id)) return;
  const shown = app.current.id === id;
  if (conv) app.conversations.set(id, conv);
  else app.conversations.delete(id);
  if (shown) open(conv);
  else app.show();
}

// Answers whose page was closed while they were made.
function settle(conv) {
  for (const node of Object.values(conv.nodes)) {
    if (!node.live) continue;
    delete node.live;
    node.finish = 'stopped';
  }
  return conv;
}

async function start() {
  startLanguage();
  let kept = [];
  try {
    kept = await loadConversations();
    onOtherTab(takeOtherTab);
  } catch {
    toast(t('noStorage'));
  }
  for (const conv of kept) app.conversations.set(conv.id, settle(conv));
  frame = makeFrame('');
  open(app.conversations.get(location.hash.slice(1)));
  frame.input.focus();
  fetchModels();
}

document.addEventListener('keydown', e => {
  if (e.key === 'Escape' && !e.isComposing && !document.querySelector('dialog[open], [popover]:popover-open')) stop(app.current);
});
addEventListener('pagehide', () => { for (const { conv } of app.runs.values()) save(conv); });
start();
