// The server: OpenAI's API below this page's own address.

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// The key lies in the tab's own storage, or in the browser's if it is to be remembered.
const places = () => [sessionStorage, localStorage];
export const key = {
  get() {
    try { return places().map(p => p.getItem('puyu.key')).find(Boolean) ?? null; } catch { return null; }
  },
  set(value, keep) {
    try {
      key.forget();
      (keep ? localStorage : sessionStorage).setItem('puyu.key', value);
    } catch { /* asked for again */ }
  },
  forget() {
    try { for (const p of places()) p.removeItem('puyu.key'); } catch { /* there is none */ }
  },
};

async function failure(response) {
  const body = await response.text();
  let message = `${response.status} ${response.statusText}`;
  try { message = JSON.parse(body).error.message; } catch { /* not in the API's words */ }
  return new ApiError(message, response.status);
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) throw await failure(response);
  return response;
}

// [{id, max_model_len, …}]
export async function listModels() {
  return (await (await ask('v1/models')).json()).data;
}

// The data of each event. Lines may be cut anywhere between two reads, and so may characters.
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data:')) yield line.slice(5).trim();
  }
}

// Calls take(chunk) for each piece of the answer.
export async function streamChat(body, signal, take) {
  const response = await ask('v1/chat/completions', {
    method: 'POST', signal, headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }) });
  try {
    for await (const data of events(response.body)) {
      if (data === '[DONE]') return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 500);
      take(chunk);
    }
  } catch (e) {
    if (e instanceof ApiError || e.name === 'AbortError') throw e;
  }
  throw new ApiError('', 0); // the connection broke, or the end came without its mark
}

// Puts a piece into an answer. Tool calls may come in pieces too: the first has the name, all have an index.
export function takeDelta(node, delta) {
  if (delta.content) node.content += delta.content;
  for (const piece of delta.tool_calls ?? []) {
    node.calls ??= [];
    const call = node.calls[piece.index ?? 0] ??= { id: '', name: '', arguments: '' };
    if (piece.id) call.id = piece.id;
    call.name += piece.function?.name ?? '';
    call.arguments += piece.function?.arguments ?? '';
  }
}
