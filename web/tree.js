// A conversation is a tree of messages: an edited question or another try at an answer is a sibling of the first one, so
// nothing is lost. conv.chosen says at each message (or at '', the root) which child is shown.
//
//   conv: {id, title, made, used, settings: {model, system, tools, params}, nodes: {id: node}, chosen: {parent: child}}
//   node: {id, parent, role: 'user' | 'assistant' | 'tool', content, made}
//     assistant: calls [{id, name, arguments}], finish, error, stats {first, total, tokens, prompt, rough}, live
//     tool: call (the id it answers), name

// Unlike crypto.randomUUID this is there without HTTPS too.
export const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 10);

export function newConversation(settings) {
  const now = Date.now();
  return { id: newId(), title: '', made: now, used: now, settings: structuredClone(settings), nodes: {}, chosen: {} };
}

export function addNode(conv, parent, fields) {
  const node = { id: newId(), parent: parent?.id ?? '', content: '', made: Date.now(), ...fields };
  conv.nodes[node.id] = node;
  conv.chosen[node.parent] = node.id;
  conv.used = node.made;
  return node;
}

// Only for one without children.
export function dropNode(conv, node) {
  delete conv.nodes[node.id];
  if (conv.chosen[node.parent] !== node.id) return;
  const left = siblings(conv, node);
  if (left.length) conv.chosen[node.parent] = left.at(-1).id;
  else delete conv.chosen[node.parent];
}

export function siblings(conv, node) {
  return Object.values(conv.nodes).filter(n => n.parent === node.parent && n.role === node.role)
    .sort((a, b) => a.made - b.made || (a.id < b.id ? -1 : 1));
}

// The messages that are shown, from the first; up to (and with) one of them if it is given.
export function pathOf(conv, last) {
  const path = [];
  if (last) {
    for (let n = last; n; n = conv.nodes[n.parent]) path.unshift(n);
    return path;
  }
  for (let n = conv.nodes[conv.chosen['']]; n; n = conv.nodes[conv.chosen[n.id]]) path.push(n);
  return path;
}

// Reasoning that a model writes into its answer. Some templates open the tag in the prompt, so that only its end comes.
export function splitThink(content) {
  const start = /^\s*<think>/.exec(content), end = content.indexOf('</think>');
  if (!start && end < 0) return { think: '', text: content, open: false };
  const from = start ? start[0].length : 0;
  if (end < 0) return { think: content.slice(from), text: '', open: true };
  return { think: content.slice(from, end), text: content.slice(end + 8).replace(/^\s+/, ''), open: false };
}

function messageOf(node) {
  if (node.role === 'tool') return { role: 'tool', tool_call_id: node.call, name: node.name, content: node.content };
  if (node.role === 'user') return { role: 'user', content: node.content };
  const m = { role: 'assistant', content: splitThink(node.content).text };
  if (node.calls?.length)
    m.tool_calls = node.calls.map(c => ({ id: c.id, type: 'function', function: { name: c.name, arguments: c.arguments } }));
  return m;
}

// As the API and training files have it. Answers that never began are left out.
export function messagesOf(conv, last) {
  const messages = pathOf(conv, last)
    .filter(n => n.role !== 'assistant' || n.content || n.calls?.length).map(messageOf);
  const system = conv.settings.system;
  return system ? [{ role: 'system', content: system }, ...messages] : messages;
}

export function exportLine(conv) {
  const line = { messages: messagesOf(conv) };
  if (conv.settings.tools) line.tools = JSON.parse(conv.settings.tools);
  if (conv.title) line.title = conv.title;
  return JSON.stringify(line);
}

const textOf = content => typeof content === 'string' ? content
  : Array.isArray(content) ? content.filter(p => p?.type === 'text').map(p => String(p.text)).join('') : '';

const asText = value => typeof value === 'string' ? value : JSON.stringify(value);

function nodeOf(m) {
  const content = textOf(m.content);
  if (m.role === 'tool') return { role: 'tool', call: String(m.tool_call_id ?? ''), name: String(m.name ?? 'tool'), content };
  if (m.role !== 'assistant') return { role: 'user', content };
  const calls = (Array.isArray(m.tool_calls) ? m.tool_calls : []).map(c => ({
    id: String(c?.id ?? newId()), name: String(c?.function?.name ?? ''), arguments: asText(c?.function?.arguments ?? '{}') }));
  return calls.length ? { role: 'assistant', content, calls } : { role: 'assistant', content };
}

// The way back; null where the line has no messages.
export function importLine(line, settings) {
  const value = JSON.parse(line);
  if (!Array.isArray(value?.messages)) return null;
  const conv = newConversation({ ...settings, system: '', tools: Array.isArray(value.tools) ? JSON.stringify(value.tools, null, 2) : '' });
  let parent = null;
  for (const m of value.messages) {
    if (m?.role === 'system' || m?.role === 'developer') conv.settings.system = textOf(m.content);
    else if (m) parent = addNode(conv, parent, nodeOf(m));
  }
  conv.title = typeof value.title === 'string' ? value.title : titleOf(conv);
  return conv;
}

export function titleOf(conv) {
  const first = pathOf(conv).find(n => n.role === 'user');
  return first ? [...first.content.trim().replace(/\s+/g, ' ')].slice(0, 60).join('') : '';
}
