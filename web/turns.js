// A message as it is shown. A view is {element, update(), refresh()}: update takes over what the node has become, refresh
// what changed around it (its versions, whether an answer is being made).
import { copyButton, grow, h, icon, iconButton, onEnter } from './dom.js';
import { t } from './i18n.js';
import { MarkdownView } from './markdown.js';
import { answer } from './run.js';
import { app, save } from './state.js';
import { addNode, dropNode, siblings, splitThink } from './tree.js';

function versions(conv, node) {
  const all = siblings(conv, node), at = all.indexOf(node);
  if (all.length < 2) return null;
  const go = step => () => {
    conv.chosen[node.parent] = all[at + step].id;
    save(conv);
    app.show();
  };
  return h('span', { class: 'versions' },
    iconButton('left', t('previous'), go(-1), { disabled: at === 0 }), `${at + 1}/${all.length}`,
    iconButton('right', t('next'), go(1), { disabled: at === all.length - 1 }));
}

/* ---- what a person wrote ---- */

function userView(conv, node) {
  const actions = h('div', { class: 'actions' });
  const bubble = h('div', { class: 'bubble', dir: 'auto' }, node.content);
  const element = h('article', { class: 'turn user', 'aria-label': t('you'), 'data-id': node.id }, bubble, actions);
  const edit = () => {
    const area = onEnter(grow(h('textarea', { 'aria-label': t('edit'), value: node.content })), () => resend());
    const back = () => { form.replaceWith(bubble); actions.hidden = false; };
    const resend = () => {
      if (!area.value.trim() || app.runs.has(conv.id)) return;
      back();
      answer(conv, addNode(conv, conv.nodes[node.parent], { role: 'user', content: area.value }));
    };
    const form = h('div', { class: 'edit' }, area, h('div', { class: 'buttons' },
      h('button', { type: 'button', onclick: back }, t('cancel')),
      h('button', { type: 'button', class: 'primary', onclick: resend }, t('resend'))));
    form.addEventListener('keydown', e => { if (e.key === 'Escape') { e.stopPropagation(); back(); } });
    bubble.replaceWith(form);
    actions.hidden = true;
    area.focus();
  };
  const refresh = () => actions.replaceChildren(...[versions(conv, node), copyButton(t('copy'), () => node.content),
    iconButton('edit', t('edit'), edit, { disabled: app.runs.has(conv.id) })].filter(Boolean));
  return { element, update() {}, refresh };
}

/* ---- what the model wrote ---- */

function pretty(json) {
  try { return JSON.stringify(JSON.parse(json), null, 2); } catch { return json; }
}

const callView = call => h('details', { class: 'card call' },
  h('summary', {}, icon('tool'), h('span', {}, t('calls', { name: call.name }))), h('pre', { tabindex: '0' }, pretty(call.arguments)));

function tell(stats) {
  if (!stats) return null;
  const seconds = (stats.total - stats.first) / 1000, about = stats.rough ? '≈ ' : '';
  const parts = [about + t('tokens', { n: stats.tokens })];
  if (stats.tokens > 1 && seconds > 0) parts.push(about + t('speed', { n: ((stats.tokens - 1) / seconds).toFixed(1) }));
  parts.push(t('first', { n: (stats.first / 1000).toFixed(2) }));
  if (stats.prompt !== undefined) parts.push(t('ofPrompt', { n: stats.prompt }));
  return h('span', { class: 'stats' }, parts.join(' · '));
}

function noteOf(conv, node) {
  if (node.error) return h('div', { class: 'note error', role: 'alert' }, node.error,
    h('button', { type: 'button', class: 'link', onclick: () => retry(conv, node) }, t('retry')));
  if (node.finish === 'stopped') return h('div', { class: 'note' }, t('stopped'));
  if (node.finish === 'length') return h('div', { class: 'note' }, t('cut'));
  return null;
}

// Another try. One that failed before it said anything is not worth keeping.
function retry(conv, node) {
  if (app.runs.has(conv.id)) return;
  if (node.error && !node.content && !node.calls) dropNode(conv, node);
  answer(conv, conv.nodes[node.parent]);
}

function assistantView(conv, node) {
  const thought = h('div', { class: 'md' }), text = h('div', { class: 'md', dir: 'auto' });
  const summary = h('summary'), think = h('details', { class: 'think', hidden: true }, summary, thought);
  const calls = h('div', { class: 'calls' }), note = h('div'), actions = h('div', { class: 'actions' });
  const element = h('article', { class: 'turn assistant', 'aria-label': t('assistant'), 'data-id': node.id },
    think, text, calls, note, actions);
  const thoughtView = new MarkdownView(thought), textView = new MarkdownView(text);
  let shown = '';
  const showCalls = () => {
    const state = JSON.stringify(node.calls ?? []);
    if (state !== shown) calls.replaceChildren(...(node.calls ?? []).filter(Boolean).map(callView));
    shown = state;
  };
  const update = () => {
    const parts = splitThink(node.content);
    think.hidden = !parts.think.trim();
    summary.textContent = parts.open && node.live ? t('thinking') : t('thought');
    thoughtView.update(parts.think, !node.live);
    textView.update(parts.text, !node.live);
    showCalls();
    note.replaceChildren(...[noteOf(conv, node)].filter(Boolean));
    element.classList.toggle('live', Boolean(node.live));
    element.classList.toggle('empty', !node.content && !node.calls);
    element.setAttribute('aria-busy', String(Boolean(node.live)));
    if (node.live) refresh();
  };
  const refresh = () => {
    const busy = app.runs.has(conv.id);
    actions.replaceChildren(...(node.live ? [tell(node.stats)] : [versions(conv, node),
      node.content && copyButton(t('copy'), () => splitThink(node.content).text),
      iconButton('retry', t('retry'), () => retry(conv, node), { disabled: busy }), tell(node.stats)]).filter(Boolean));
  };
  update();
  return { element, update, refresh };
}

/* ---- what a tool gave back ---- */

function toolView(conv, node) {
  const element = h('article', { class: 'turn tool', 'aria-label': t('result', { name: node.name }), 'data-id': node.id },
    h('details', { class: 'card' }, h('summary', {}, icon('check'), h('span', {}, t('result', { name: node.name }))),
      h('pre', { tabindex: '0' }, pretty(node.content))));
  return { element, update() {}, refresh() {} };
}

// Where the person types what the calls of an answer give back.
export function resultForm(conv, node) {
  const areas = node.calls.map(call => grow(h('textarea', { class: 'mono', rows: 2, spellcheck: 'false',
    'aria-label': t('giveResult', { name: call.name }), placeholder: t('giveResult', { name: call.name }) })));
  const send = () => {
    if (app.runs.has(conv.id)) return;
    let last = node;
    node.calls.forEach((call, i) => {
      last = addNode(conv, last, { role: 'tool', call: call.id, name: call.name, content: areas[i].value });
    });
    answer(conv, last);
  };
  return h('div', { class: 'turn results' }, ...areas, h('div', { class: 'buttons' },
    h('button', { type: 'button', class: 'primary', onclick: send }, t('sendResults'))));
}

export function viewOf(conv, node) {
  const make = { user: userView, assistant: assistantView, tool: toolView }[node.role];
  if (!app.views.has(node.id)) app.views.set(node.id, make(conv, node));
  return app.views.get(node.id);
}
