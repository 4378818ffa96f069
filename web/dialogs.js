// The key, and the settings of a conversation.
import { key } from './api.js';
import { grow, h, iconButton } from './dom.js';
import { languages, setLanguage, t } from './i18n.js';
import { app, keepSettings, save } from './state.js';
import { remember, remembered } from './store.js';

let serial = 0;

// A label and its control.
function field(label, control, hint) {
  control.id = `f${++serial}`;
  const hintId = `${control.id}-hint`;
  if (hint) control.setAttribute('aria-describedby', hintId);
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control,
    hint && h('p', { class: 'hint', id: hintId }, hint));
}

function dialog(props, ...children) {
  const d = h('dialog', props, ...children);
  d.addEventListener('pointerdown', e => { if (e.target === d) d.close(); }); // beside it
  d.addEventListener('close', () => {
    d.remove();
    // The focus is back where it was, but in Chromium the caret went with the dialog, and keys would go nowhere.
    const back = document.activeElement;
    back?.blur();
    back?.focus();
  });
  document.body.append(d);
  d.showModal();
  return d;
}

/* ---- the key ---- */

let asking = null;

// True: there is a new key to try. Asked once, however many requests were refused.
export function askKey(refused) {
  asking ??= new Promise(resolve => {
    const input = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true });
    const keep = h('input', { type: 'checkbox' });
    let given = false;
    const give = () => {
      if (!input.value.trim()) return;
      key.set(input.value.trim(), keep.checked);
      given = true;
      d.close();
    };
    input.addEventListener('keydown', e => { if (e.key === 'Enter') give(); });
    const d = dialog({ class: 'small', 'aria-label': t('keyTitle') },
      h('h2', {}, t('keyTitle')), refused && h('p', { class: 'error' }, t('keyRefused')), field(t('keyLabel'), input),
      h('label', { class: 'check' }, keep, h('span', {}, t('keyRemember'), h('small', {}, t('keyHint')))),
      h('div', { class: 'buttons' }, h('button', { type: 'button', onclick: () => d.close() }, t('cancel')),
        h('button', { type: 'button', class: 'primary', onclick: give }, t('keySend'))));
    input.focus();
    d.addEventListener('close', () => { asking = null; resolve(given); });
  });
  return asking;
}

/* ---- settings ---- */

// As the server's bounds are (docs/serving.md).
const numbers = [
  ['temperature', 0, 2, 0.1, '1'], ['max_tokens', 1, 1e7, 1, ''], ['top_p', 0.01, 1, 0.05, '1'], ['top_k', 0, 1e6, 1, '0'],
  ['min_p', 0, 1, 0.01, '0'], ['seed', 0, 2 ** 53 - 1, 1, ''], ['presence_penalty', -2, 2, 0.1, '0'],
  ['frequency_penalty', -2, 2, 0.1, '0'], ['repetition_penalty', 0.01, 100, 0.05, '1']];

function put(params, name, value) {
  if (value === undefined || value === '') delete params[name];
  else params[name] = value;
}

function numberField(params, [name, min, max, step, usual], changed) {
  const input = h('input', { type: 'number', inputmode: 'decimal', min, max, step: 'any', placeholder: usual, name,
    value: params[name] ?? '', 'data-step': step });
  input.addEventListener('input', () => {
    const n = input.value === '' ? undefined : Number(input.value);
    const good = n === undefined ? !input.validity.badInput : n >= min && n <= max && (step !== 1 || Number.isInteger(n));
    input.setCustomValidity(good ? '' : `${min} – ${max}`);
    input.setAttribute('aria-invalid', String(!good));
    if (!good) return;
    put(params, name, n);
    changed();
  });
  return field(t(name), input);
}

function stopField(params, changed) {
  const area = h('textarea', { rows: 2, name: 'stop', value: (params.stop ?? []).join('\n') });
  area.addEventListener('input', () => {
    const list = area.value.split('\n').filter(Boolean);
    put(params, 'stop', list.length ? list : undefined);
    changed();
  });
  return field(t('stopStrings'), area);
}

function wrongTools(text) {
  if (!text.trim()) return '';
  try {
    return Array.isArray(JSON.parse(text)) ? '' : t('notArray');
  } catch (e) {
    return t('notJson', { why: e.message });
  }
}

function toolsField(settings, changed) {
  const area = h('textarea', { rows: 5, class: 'mono', name: 'tools', spellcheck: 'false', value: settings.tools,
    placeholder: '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]' });
  const says = h('p', { class: 'error', role: 'alert' });
  area.addEventListener('input', () => {
    says.textContent = wrongTools(area.value);
    area.setAttribute('aria-invalid', String(says.textContent !== ''));
    if (says.textContent) return;
    settings.tools = area.value.trim();
    changed();
  });
  const f = field(t('tools'), grow(area), t('toolsHint'));
  area.after(says);
  return f;
}

function select(options, value, changed) {
  const s = h('select', { onchange: () => changed(s.value) },
    ...Object.entries(options).map(([v, label]) => h('option', { value: v }, label)));
  s.value = value;
  return s;
}

function pageFields(again) {
  const setTheme = value => {
    remember('theme', value);
    if (value) document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
  };
  const themes = { '': t('themeAuto'), light: t('themeLight'), dark: t('themeDark') };
  return h('div', { class: 'pair' },
    field(t('theme'), select(themes, remembered('theme', ''), setTheme)),
    field(t('language'), select(languages, document.documentElement.lang, name => { setLanguage(name); again(); })));
}

// Changes count at once, for this conversation and for new ones.
export function openSettings() {
  const conv = app.current, s = conv.settings;
  const changed = () => {
    keepSettings(s);
    if (app.conversations.has(conv.id)) save(conv);
  };
  const again = () => { d.close(); app.relabel(); openSettings(); };
  const reset = () => {
    Object.assign(s, { system: '', tools: '', toolChoice: 'auto', params: {} });
    changed();
    again();
  };
  const system = h('textarea', { rows: 3, name: 'system', placeholder: t('systemHint'), value: s.system });
  system.addEventListener('input', () => { s.system = system.value; changed(); });
  const choices = { auto: t('choiceAuto'), none: t('choiceNone'), required: t('choiceRequired') };
  const d = dialog({ class: 'drawer', 'aria-label': t('settings') },
    h('header', {}, h('h2', {}, t('settings')), iconButton('close', t('close'), () => d.close())),
    h('div', { class: 'body' },
      field(t('system'), grow(system)),
      h('h3', {}, t('parameters')), h('p', { class: 'hint' }, t('parametersHint')),
      h('div', { class: 'pair' }, ...numbers.map(row => numberField(s.params, row, changed))),
      stopField(s.params, changed), toolsField(s, changed),
      field(t('toolChoice'), select(choices, s.toolChoice, value => { s.toolChoice = value; changed(); })),
      h('hr'), pageFields(again),
      h('div', { class: 'buttons start' }, h('button', { type: 'button', onclick: reset }, t('reset')),
        key.get() && h('button', { type: 'button', onclick: () => { key.forget(); again(); } }, t('keyForget'))),
      h('p', { class: 'about' }, t('about'))));
}
