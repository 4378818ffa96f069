// What the page knows while it is open. app.show and app.follow are set by app.js, which owns the page's frame.
import { remember, remembered, removeConversation, saveConversation } from './store.js';
import { newConversation } from './tree.js';
import { toast } from './dom.js';
import { t } from './i18n.js';

export const app = {
  conversations: new Map(), // by id; those that have a message
  current: null,            // the one that is shown; a new one is not in the map until its first message
  models: [],               // as /v1/models says them
  runs: new Map(),          // by conversation: the answer that is being made
  views: new Map(),         // by node: its element, of the conversation that is shown
  show() {},                // brings the page up to date with the above
  follow() {},              // scrolls to the end, if the reader was there
};

const plain = { model: '', system: '', tools: '', toolChoice: 'auto', params: {} };

// A new conversation begins with the settings that were last changed.
export const lastSettings = () => ({ ...plain, ...remembered('settings', {}) });
export const keepSettings = settings => remember('settings', settings);

export const modelOf = conv =>
  app.models.find(m => m.id === conv.settings.model)?.id ?? app.models[0]?.id ?? conv.settings.model;

let told = false;
export async function save(conv) {
  app.conversations.set(conv.id, conv);
  try {
    await saveConversation(conv);
  } catch {
    if (!told) toast(t('noStorage'));
    told = true;
  }
}

// Makes it the one that is shown; without one, a new one.
export function open(conv = newConversation(lastSettings())) {
  if (app.current !== conv) app.views.clear();
  app.current = conv;
  history.replaceState(null, '', app.conversations.has(conv.id) ? `#${conv.id}` : location.pathname + location.search);
  app.show();
  app.follow(true);
}

export async function forget(conv) {
  app.runs.get(conv.id)?.stop.abort();
  app.conversations.delete(conv.id);
  if (app.current === conv) open();
  else app.show();
  await removeConversation(conv.id).catch(() => {});
}
