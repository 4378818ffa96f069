// Markdown of a model, which nobody has checked, to elements.
//
// Three gates, each enough by itself: HTML in the text is shown as text but for a few tags without attributes; what
// marked makes goes through DOMPurify with short lists of tags and attributes; and the page's Content-Security-Policy
// lets no script or picture from elsewhere in.

import { copyButton, h } from './dom.js';
import { t } from './i18n.js';

const { Lexer, marked } = self.marked, purify = self.DOMPurify; // index.html loads them before the modules

// Debian 12's DOMPurify (2.4.1, +deb12u1) reads a variable that it declares in another function, and ends there. With
// this one its check of the outermost element passes, which is inert; its checks of every element inside are not touched.
self.shadowNode ??= Object.freeze({});
// Characters of code that get colours: when it is whole, and again and again while it grows.
const MOST_HIGHLIGHTED = 40000, MOST_HIGHLIGHTED_OPEN = 4000;
const tags = ['p', 'br', 'hr', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'em', 'strong', 'del', 'code', 'pre', 'blockquote', 'ul', 'ol',
  'li', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'a', 'img', 'input', 'span', 'sub', 'sup', 'kbd', 'u', 'mark', 'b', 'i', 's',
  'details', 'summary'];
const attributes = ['href', 'title', 'src', 'alt', 'class', 'start', 'align', 'type', 'checked', 'disabled'];
const bareTags = /^\s*(<\/?(br|sub|sup|kbd|u|mark|b|i|s|em|strong|details|summary)\s*\/?>\s*)+$/i;

purify.addHook('afterSanitizeAttributes', e => {
  if (e.tagName !== 'A') return;
  e.setAttribute('target', '_blank');
  e.setAttribute('rel', 'noopener noreferrer');
});

const sanitize = html => purify.sanitize(html, {
  RETURN_DOM_FRAGMENT: true, ALLOWED_TAGS: tags, ALLOWED_ATTR: attributes, ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false,
  ADD_URI_SAFE_ATTR: ['start', 'align', 'type', 'checked', 'disabled'],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|data:image\/(?:png|jpeg|gif|webp);base64,)/i });

const escape = text => text.replace(/[&<>"]/g, c => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);

/* ---- formulas: $…$, $$…$$, \(…\), \[…\] ---- */

// A dollar is money unless text stands close on its inner sides and no digit follows, as pandoc has it.
const inlineMath = /^(?:\\\(([\s\S]+?)\\\)|\\\[([\s\S]+?)\\\]|\$\$([^$]+?)\$\$|\$(?![\s$])((?:\\[\s\S]|[^\\$\n])*?(?:\\[\s\S]|[^\\$\s]))\$(?!\d))/;
const blockMath = /^ {0,3}(?:\\\[([\s\S]+?)\\\]|\$\$([\s\S]+?)\$\$)[ \t]*(?:\n+|$)/;

const math = {
  extensions: [{
    name: 'mathBlock', level: 'block',
    start: src => src.match(/^ {0,3}(?:\\\[|\$\$)/m)?.index,
    tokenizer(src) {
      const m = blockMath.exec(src);
      return m ? { type: 'mathBlock', raw: m[0], tex: m[1] ?? m[2] } : undefined;
    },
    renderer: token => `<p><span class="math display">${escape(token.tex)}</span></p>`,
  }, {
    name: 'math', level: 'inline',
    start: src => src.match(/\$|\\[([]/)?.index,
    tokenizer(src) {
      const m = inlineMath.exec(src);
      if (!m) return undefined;
      return { type: 'math', raw: m[0], tex: m[1] ?? m[2] ?? m[3] ?? m[4], display: (m[2] ?? m[3]) !== undefined };
    },
    renderer: token => `<span class="math${token.display ? ' display' : ''}">${escape(token.tex)}</span>`,
  }],
};

/* ---- marked ---- */

// Tabs that begin a line of code: marked makes four spaces of them, which breaks a Makefile that is copied.
const TAB = '\uE000';

const renderer = {
  html: html => bareTags.test(html) ? html : html.includes('\n') ? `<p>${escape(html)}</p>` : escape(html),
  code: (code, info) => {
    const language = /^[\w+#.-]+/.exec(info ?? '')?.[0] ?? '';
    return `<pre><code class="language-${escape(language)}">${escape(code.replaceAll(TAB, '\t'))}</code></pre>`;
  },
  // Fetching a picture would tell its server of the reader: a link asks first.
  image(href, title, text) {
    if (/^data:image\//i.test(href ?? '')) return `<img src="${escape(href)}" alt="${escape(text ?? '')}">`;
    return `<a href="${escape(href ?? '')}">${escape(text || href || '')}</a>`;
  },
};

marked.use({ ...math, renderer, gfm: true, breaks: true, headerIds: false, mangle: false });

const fenced = /^( {0,3})(`{3,}|~{3,})[^\n]*\n[\s\S]*?(?:^ {0,3}\2|(?![\s\S]))/gm;
const normalise = text => text.replace(/\r\n?/g, '\n')
  .replace(fenced, code => code.replace(/^\t+/gm, tabs => TAB.repeat(tabs.length)))
  .replace(/^( *)(\t+)/gm, (_, spaces, tabs) => spaces + '    '.repeat(tabs.length));

/* ---- the heavy libraries, when a text first needs them ---- */

const loading = {};
function load(name) {
  loading[name] ??= new Promise((resolve, reject) => {
    document.head.append(h('script', { src: `web/${name}.js`, onload: resolve, onerror: reject }));
    if (name === 'katex') document.head.append(h('link', { rel: 'stylesheet', href: 'web/katex.css' }));
  });
  return loading[name];
}

// KaTeX writes style attributes, which the policy of this page stops; set by script they are allowed.
function fragmentOfTex(tex, displayMode) {
  const html = self.katex.renderToString(tex, {
    displayMode, throwOnError: false, trust: false, strict: false, maxSize: 30, maxExpand: 300, errorColor: 'var(--bad)' });
  const template = h('template');
  template.innerHTML = html.replaceAll(' style="', ' data-style="');
  for (const e of template.content.querySelectorAll('[data-style]')) {
    e.style.cssText = e.dataset.style;
    e.removeAttribute('data-style');
  }
  return template.content;
}

function typeset(span) {
  span.dataset.tex = span.textContent;
  try {
    span.replaceChildren(fragmentOfTex(span.dataset.tex, span.classList.contains('display')));
  } catch {
    span.classList.add('raw'); // as it was written
  }
}

function highlight(code) {
  const name = code.className.replace('language-', '').toLowerCase();
  if (!self.hljs.getLanguage(name)) return;
  const html = self.hljs.highlight(name, code.textContent, true).value;
  code.replaceChildren(purify.sanitize(html, { RETURN_DOM_FRAGMENT: true, ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'] }));
}

// Now if the library is there; otherwise when it has come, where the element is still shown.
function whenLoaded(name, there, elements, work) {
  if (!elements.length) return;
  if (there) elements.forEach(work);
  else load(name).then(() => elements.filter(e => e.isConnected).forEach(work), () => {});
}

function frameCode(pre) {
  const code = pre.firstElementChild, name = code.className.replace('language-', '');
  const frame = h('div', { class: 'code' });
  const head = h('div', { class: 'code-head' }, h('span', {}, name || t('code')), copyButton(t('copy'), () => code.textContent));
  pre.tabIndex = 0; // so that a keyboard can scroll it
  pre.replaceWith(frame);
  frame.append(head, pre);
}

function frameTable(table) {
  const frame = h('div', { class: 'table', tabindex: '0' });
  table.replaceWith(frame);
  frame.append(table);
}

// What a text's elements get beyond Markdown. Formulas and colours come when the result is called, with the elements in
// the page.
function finish(fragment, open) {
  const all = selector => [...fragment.querySelectorAll(selector)];
  all('pre').forEach(frameCode);
  all('table').forEach(frameTable);
  const formulas = all('.math');
  const codes = all('pre > code').filter(c => c.className !== 'language-' && c.textContent.length < (open ? MOST_HIGHLIGHTED_OPEN : MOST_HIGHLIGHTED));
  return () => {
    whenLoaded('katex', self.katex, formulas, typeset);
    whenLoaded('highlight', self.hljs, codes, highlight);
  };
}

/* ---- a text that grows ---- */

// Shows text in root. Each update reads only what may still change: the last block, and what came since. The blocks
// before it stay as they are.
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.clear();
  }

  clear() {
    this.root.replaceChildren();
    this.seen = '';
    this.rest = '';
    this.links = Object.create(null);
    this.open = [];
  }

  update(text, final) {
    if (!text.startsWith(this.seen)) this.clear();
    this.rest = normalise(this.rest + text.slice(this.seen.length));
    this.seen = text;
    const tokens = this.lex(this.rest);
    const kept = final ? tokens.length : closedBlocks(tokens);
    for (const e of this.open) e.remove();
    this.open = [];
    this.append(tokens.slice(0, kept));
    this.rest = this.rest.slice(tokens.slice(0, kept).reduce((n, token) => n + token.raw.length, 0));
    if (!final) this.open = this.append(tokens.slice(kept), true);
    // A link may be used before the line that says where it leads.
    else if (Object.keys(this.links).length) this.again(text);
  }

  again(text) {
    this.root.replaceChildren();
    this.append(this.lex(normalise(text)));
  }

  lex(text) {
    const lexer = new Lexer(marked.defaults);
    lexer.tokens.links = this.links;
    return lexer.lex(text.endsWith('\n') ? text : text + '\n'); // without it, marked takes an open fence for words
  }

  append(tokens, open) {
    if (!tokens.length) return [];
    const fragment = sanitize(marked.parser(Object.assign(tokens, { links: this.links })));
    const colour = finish(fragment, open), nodes = [...fragment.childNodes];
    this.root.append(fragment);
    colour();
    return nodes;
  }
}

const openMath = /^ {0,3}(?:\$\$(?![\s\S]*\$\$)|\\\[(?![\s\S]*\\\]))/;

// How many blocks at the front no further text can change: all but the last. A formula may hold empty lines, so that
// what follows its beginning may all be part of it. A list goes on if the line after it turns out to begin with a mark,
// so it waits until that line has one or has not.
function closedBlocks(tokens) {
  const formula = tokens.findIndex(token => token.type === 'paragraph' && openMath.test(token.raw));
  if (formula >= 0) return formula;
  const solid = tokens.map((token, i) => token.type === 'space' ? -1 : i).filter(i => i >= 0);
  const last = solid.at(-1) ?? 0, before = solid.at(-2);
  if (before !== undefined && tokens[before].type === 'list' && tokens[last].raw.length < 6) return before;
  return last;
}
