// What the browser keeps: conversations in IndexedDB, small settings in localStorage. Without either (a private window
// may have none) the page works, and forgets.

export function remembered(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`puyu.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`puyu.${name}`, JSON.stringify(value));
  } catch { /* for this visit only */ }
}

const asPromise = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

let db = null;
// Other tabs of this page: told which conversation was written.
const tabs = 'BroadcastChannel' in self ? new BroadcastChannel('puyu') : null;

async function open() {
  const request = indexedDB.open('puyu', 1);
  request.onupgradeneeded = () => request.result.createObjectStore('conversations', { keyPath: 'id' });
  db = await asPromise(request);
}

const table = mode => db.transaction('conversations', mode).objectStore('conversations');

// Throws where nothing can be kept.
export async function loadConversations() {
  await open();
  return asPromise(table('readonly').getAll());
}

export async function saveConversation(conv) {
  if (!db) return;
  await asPromise(table('readwrite').put(conv));
  tabs?.postMessage(conv.id);
}

export async function removeConversation(id) {
  if (!db) return;
  await asPromise(table('readwrite').delete(id));
  tabs?.postMessage(id);
}

// changed(id, conv): another tab wrote it; conv undefined: deleted it.
export function onOtherTab(changed) {
  tabs?.addEventListener('message', async e => changed(e.data, await asPromise(table('readonly').get(e.data))));
}
