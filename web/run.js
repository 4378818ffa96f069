// An answer while it is made: asks the server, takes the pieces, measures, paints.
import { ApiError, key, streamChat, takeDelta } from './api.js';
import { askKey } from './dialogs.js';
import { t } from './i18n.js';
import { app, modelOf, save } from './state.js';
import { addNode, messagesOf, titleOf } from './tree.js';

const SAVE_EVERY = 3000; // ms, while an answer is made

export function bodyOf(conv, last) {
  const s = conv.settings;
  const body = { model: modelOf(conv), messages: messagesOf(conv, last), ...s.params };
  if (s.tools) {
    body.tools = JSON.parse(s.tools);
    if (s.toolChoice !== 'auto') body.tool_choice = s.toolChoice;
  }
  return body;
}

// Asks for the key as often as the server refuses, until the person gives up.
export async function withKey(work) {
  for (;;) {
    try {
      return await work();
    } catch (e) {
      if (e.status !== 401 || !await askKey(key.get() !== null)) throw e;
    }
  }
}

function take(run, chunk) {
  const { node } = run, choice = chunk.choices?.[0];
  if (chunk.usage) run.usage = chunk.usage;
  if (!choice) return;
  const delta = choice.delta ?? {};
  if (delta.content || delta.tool_calls) {
    run.first ||= performance.now();
    run.pieces++;
    takeDelta(node, delta);
  }
  if (choice.finish_reason) node.finish = choice.finish_reason;
  paint(run);
}

// Painting takes at most a fifth of the time, however long the text has become.
function paint(run) {
  if (run.painting) return;
  run.painting = true;
  setTimeout(() => requestAnimationFrame(() => {
    const before = performance.now();
    run.painting = false;
    if (!run.node.live) return;
    run.node.stats = measure(run);
    app.views.get(run.node.id)?.update();
    run.cost = performance.now() - before;
    if (before - run.saved < SAVE_EVERY) return;
    run.saved = before;
    save(run.conv);
  }), Math.min(4 * run.cost, 1000));
}

// Without the server's count (a stopped answer has none), pieces stand for tokens: each is one, or a few.
function measure(run) {
  if (!run.first) return undefined;
  return { first: run.first - run.began, total: performance.now() - run.began,
    tokens: run.usage?.completion_tokens ?? run.pieces, prompt: run.usage?.prompt_tokens, rough: !run.usage };
}

function end(run, error) {
  const { node, conv } = run;
  if (error?.name === 'AbortError') node.finish = 'stopped';
  else if (error) node.error = error instanceof ApiError ? error.message || t('brokenOff') : t('noServer');
  node.calls = node.calls?.filter(Boolean);
  node.stats = measure(run);
  delete node.live;
  app.runs.delete(conv.id);
  if (app.conversations.has(conv.id)) save(conv);
  app.views.get(node.id)?.update();
  app.show();
}

// The answer to a conversation up to `parent`, as its newest child.
export async function answer(conv, parent) {
  if (app.runs.has(conv.id)) return;
  const node = addNode(conv, parent, { role: 'assistant', live: true });
  const run = { conv, node, stop: new AbortController(), began: performance.now(), saved: performance.now(), first: 0, pieces: 0, cost: 0 };
  app.runs.set(conv.id, run);
  conv.title ||= titleOf(conv);
  save(conv);
  history.replaceState(null, '', `#${conv.id}`);
  app.show();
  app.follow(true);
  try {
    await withKey(() => {
      run.began = performance.now();
      return streamChat(bodyOf(conv, parent), run.stop.signal, chunk => take(run, chunk));
    });
    end(run);
  } catch (e) {
    end(run, e);
  }
}

export const stop = conv => app.runs.get(conv.id)?.stop.abort();
