// The list of conversations, and what can be done with them.
import { download, h, icon, iconButton, toast } from './dom.js';
import { t } from './i18n.js';
import { app, forget, lastSettings, open, save } from './state.js';
import { exportLine, importLine } from './tree.js';

const MOST_IMPORTED = 64 << 20; // bytes
const isPhone = () => matchMedia('(max-width: 760px)').matches;

export function toggleSide(on) {
  const name = isPhone() ? 'side-over' : 'side-away';
  document.body.classList.toggle(name, isPhone() ? on : on === undefined ? undefined : !on);
}

// On to the conversation. A phone's keyboard would hide half of it, so that there it waits for a touch.
function leaveSide() {
  if (isPhone()) toggleSide(false);
  else document.querySelector('.composer textarea').focus();
}

const jsonLines = convs => convs.map(c => exportLine(c) + '\n').join('');
const fileName = text => text.replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').slice(0, 40) || 'chat';

async function importFile(file) {
  if (file.size > MOST_IMPORTED) return toast(t('tooLarge', { file: file.name }));
  const made = [];
  for (const [i, line] of (await file.text()).split('\n').entries()) {
    if (!line.trim()) continue;
    try {
      const conv = importLine(line, lastSettings());
      if (!conv) throw new Error(t('noMessages'));
      made.push(conv);
    } catch (e) {
      return toast(t('importFailed', { file: file.name, n: i + 1, why: e.message }));
    }
  }
  for (const conv of made) await save(conv);
  if (made.length) open(made[0]);
  return toast(t('imported', { n: made.length }));
}

function rename(conv, row) {
  const input = h('input', { type: 'text', value: conv.title, 'aria-label': t('rename'), maxlength: 200 });
  let over = false;
  const done = keep => {
    if (over) return;
    over = true;
    if (keep && input.value.trim()) {
      conv.title = input.value.trim();
      save(conv);
    }
    app.show();
  };
  input.addEventListener('keydown', e => {
    if (e.key === 'Enter' && !e.isComposing) done(true);
    if (e.key === 'Escape') { e.stopPropagation(); done(false); }
  });
  input.addEventListener('blur', () => done(true));
  row.replaceChildren(input);
  input.select();
}

function removeWithUndo(conv) {
  forget(conv);
  toast(t('removed'), t('undo'), () => { save(conv); open(conv); });
}

function openMenu(conv, row, button) {
  const item = (name, label, work) => h('button', { type: 'button', onclick: () => { menu.hidePopover(); work(); } },
    icon(name), label);
  const menu = h('div', { class: 'menu', popover: 'auto' },
    item('edit', t('rename'), () => rename(conv, row)),
    item('download', t('exportOne'), () => download(`${fileName(conv.title)}.jsonl`, 'application/jsonl', jsonLines([conv]))),
    item('trash', t('remove'), () => removeWithUndo(conv)));
  menu.addEventListener('toggle', e => { if (e.newState === 'closed') menu.remove(); });
  document.body.append(menu);
  menu.showPopover();
  const at = button.getBoundingClientRect();
  menu.style.left = `${Math.min(at.left, innerWidth - menu.offsetWidth - 8)}px`;
  menu.style.top = `${Math.min(at.bottom + 4, innerHeight - menu.offsetHeight - 8)}px`;
  menu.firstElementChild.focus();
}

function rowOf(conv) {
  const row = h('li', { class: conv === app.current ? 'row current' : 'row' });
  const more = iconButton('more', t('more'), () => openMenu(conv, row, more));
  const go = () => { open(conv); leaveSide(); };
  row.append(h('button', { type: 'button', class: 'title', onclick: go, 'aria-current': conv === app.current ? 'page' : null,
    title: conv.title }, app.runs.has(conv.id) && h('span', { class: 'dot' }), conv.title || t('newChat')), more);
  return row;
}

const holds = (conv, words) => conv.title.toLowerCase().includes(words) ||
  Object.values(conv.nodes).some(n => n.content.toLowerCase().includes(words));

function listOf(words) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const all = [...app.conversations.values()].filter(c => !words || holds(c, words)).sort((a, b) => b.used - a.used);
  const parts = [[t('today'), all.filter(c => c.used >= midnight)], [t('earlier'), all.filter(c => c.used < midnight)]];
  if (!all.length) return [h('p', { class: 'hint' }, t('noChats'))];
  return parts.filter(([, convs]) => convs.length)
    .map(([name, convs]) => h('section', {}, h('h2', {}, name), h('ul', {}, ...convs.map(rowOf))));
}

// {element, show()}
export function makeSidebar() {
  const list = h('div', { class: 'list' });
  const search = h('input', { type: 'search', placeholder: t('search'), 'aria-label': t('search'), oninput: () => show() });
  const file = h('input', { type: 'file', accept: '.jsonl,.json,application/jsonl', hidden: true,
    onchange: async () => { await importFile(file.files[0]); file.value = ''; } });
  const begin = () => { open(); leaveSide(); };
  const show = () => list.replaceChildren(...listOf(search.value.trim().toLowerCase()));
  const element = h('nav', { class: 'side', 'aria-label': t('chats') },
    h('button', { type: 'button', class: 'new', onclick: begin }, icon('plus'), t('newChat')), search, list,
    h('div', { class: 'side-foot' }, file,
      h('button', { type: 'button', onclick: () => file.click() }, icon('upload'), t('importFile')),
      h('button', { type: 'button', onclick: () => download('chats.jsonl', 'application/jsonl', jsonLines([...app.conversations.values()])) },
        icon('download'), t('exportAll'))));
  return { element, show };
}
