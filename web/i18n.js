// The page's words, in English and Chinese.
const words = {
  newChat: ['New chat', '新对话'],
  chats: ['Chats', '对话'],
  search: ['Search chats', '搜索对话'],
  noChats: ['Your chats are kept in this browser.', '对话保存在此浏览器中。'],
  today: ['Today', '今天'],
  earlier: ['Earlier', '更早'],
  rename: ['Rename', '重命名'],
  remove: ['Delete', '删除'],
  removed: ['Chat deleted.', '对话已删除。'],
  undo: ['Undo', '撤销'],
  exportOne: ['Export', '导出'],
  exportAll: ['Export all', '全部导出'],
  importFile: ['Import', '导入'],
  imported: ['{n} chats imported.', '已导入 {n} 个对话。'],
  importFailed: ['{file}, line {n}: {why}', '{file} 第 {n} 行：{why}'],
  noMessages: ['no object with "messages"', '不是带有 "messages" 的对象'],
  tooLarge: ['{file} is larger than 64 MiB', '{file} 超过 64 MiB'],
  menu: ['Show or hide chats', '显示或隐藏对话列表'],
  more: ['More', '更多'],
  model: ['Model', '模型'],
  settings: ['Settings', '设置'],
  close: ['Close', '关闭'],
  hello: ['What is on your mind?', '想聊点什么？'],
  helloHint: ['Enter sends, Shift+Enter starts a new line, Esc stops an answer.', 'Enter 发送，Shift+Enter 换行，Esc 停止回答。'],
  ask: ['Message', '输入消息'],
  send: ['Send', '发送'],
  stop: ['Stop', '停止'],
  copy: ['Copy', '复制'],
  edit: ['Edit', '编辑'],
  resend: ['Send', '发送'],
  cancel: ['Cancel', '取消'],
  retry: ['Try again', '重试'],
  previous: ['Previous version', '上一版本'],
  next: ['Next version', '下一版本'],
  toBottom: ['To the newest', '回到底部'],
  you: ['You', '你'],
  assistant: ['Answer', '回答'],
  done: ['The answer is finished.', '回答已完成。'],
  thinking: ['Thinking…', '思考中…'],
  thought: ['Thoughts', '思考过程'],
  calls: ['Calls {name}', '调用 {name}'],
  result: ['Result of {name}', '{name} 的结果'],
  giveResult: ['What {name} gives back', '{name} 返回的内容'],
  sendResults: ['Send results', '发送结果'],
  stopped: ['Stopped', '已停止'],
  cut: ['Cut off: the limit of tokens was reached', '已截断：达到 token 上限'],
  speed: ['{n} tokens/s', '{n} token/秒'],
  first: ['first after {n} s', '首 token {n} 秒'],
  tokens: ['{n} tokens', '{n} token'],
  ofPrompt: ['prompt {n}', '提示 {n}'],
  system: ['System prompt', '系统提示词'],
  systemHint: ['How the model should answer', '告诉模型如何回答'],
  parameters: ['Parameters', '参数'],
  parametersHint: ['Empty: what the server takes by itself.', '留空则使用服务端默认值。'],
  temperature: ['Temperature', '温度'],
  top_p: ['Top-p', 'Top-p'],
  top_k: ['Top-k', 'Top-k'],
  min_p: ['Min-p', 'Min-p'],
  max_tokens: ['Max tokens', '最大 token 数'],
  presence_penalty: ['Presence penalty', '存在惩罚'],
  frequency_penalty: ['Frequency penalty', '频率惩罚'],
  repetition_penalty: ['Repetition penalty', '重复惩罚'],
  seed: ['Seed', '随机种子'],
  stopStrings: ['Stop strings, one a line', '停止字符串，每行一个'],
  tools: ['Tools', '工具'],
  toolsHint: ['A JSON array, as the API has it. Calls are shown in the answer, and you type what they give back.',
    'JSON 数组，格式同 API。调用会显示在回答中，结果由你填写。'],
  toolChoice: ['Use of tools', '工具使用'],
  choiceAuto: ['as the model likes', '由模型决定'],
  choiceNone: ['none', '不使用'],
  choiceRequired: ['always', '必须使用'],
  notJson: ['No JSON: {why}', '不是 JSON：{why}'],
  notArray: ['Not an array', '不是数组'],
  reset: ['Reset', '恢复默认'],
  theme: ['Appearance', '外观'],
  themeAuto: ['automatic', '自动'],
  themeLight: ['light', '浅色'],
  themeDark: ['dark', '深色'],
  language: ['Language', '语言'],
  about: ['puyu, with marked (MIT), DOMPurify (Apache-2.0 or MPL-2.0), KaTeX (MIT; fonts OFL-1.1), highlight.js (BSD-3-Clause).',
    'puyu，使用 marked (MIT)、DOMPurify (Apache-2.0 或 MPL-2.0)、KaTeX (MIT；字体 OFL-1.1)、highlight.js (BSD-3-Clause)。'],
  keyTitle: ['This server asks for a key', '此服务器需要密钥'],
  keyLabel: ['API key', 'API 密钥'],
  keyRemember: ['Remember it in this browser', '在此浏览器中记住'],
  keyHint: ['Otherwise it is forgotten when this tab is closed.', '否则关闭此标签页后即被遗忘。'],
  keyRefused: ['The server refused this key.', '服务器拒绝了此密钥。'],
  keySend: ['Continue', '继续'],
  keyForget: ['Forget the key', '忘记密钥'],
  noServer: ['The server cannot be reached.', '无法连接服务器。'],
  brokenOff: ['The answer broke off.', '回答中断。'],
  noStorage: ['This browser keeps nothing here: chats are lost when the page is closed.', '此浏览器无法保存数据：关闭页面后对话将丢失。'],
  code: ['code', '代码'],
};

const store = {
  get: () => { try { return localStorage.getItem('puyu.language'); } catch { return null; } },
  set: v => { try { localStorage.setItem('puyu.language', v); } catch { /* for this visit only */ } },
};
let column = 0;

export const languages = { en: 'English', 'zh-CN': '中文' };

export function setLanguage(name) {
  column = name === 'zh-CN' ? 1 : 0;
  document.documentElement.lang = name;
  store.set(name);
}

export function startLanguage() {
  const wanted = store.get() ?? (navigator.languages ?? [navigator.language]).find(l => /^(zh|en)/.test(l)) ?? 'en';
  column = wanted.startsWith('zh') ? 1 : 0;
  document.documentElement.lang = column ? 'zh-CN' : 'en';
}

// t('imported', {n: 3})
export function t(key, values = {}) {
  return words[key][column].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
