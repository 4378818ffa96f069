"""The chat page in headless Chromium: what a person does there, and what a hostile text must not do.

  python3 chat.py PUYU [NAME…]     (tests/web/run looks first whether all is there)

The page comes from `puyu serve`; most answers from a server with fixed texts (fake.py), some from a small random model."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from browser import Browser
from fake import Fake

PROGRAM = sys.argv[1]
FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures")
INPUT = ".composer textarea"
LAST = "[...document.querySelectorAll('.assistant')].at(-1)"
IDLE = "document.querySelector('.composer .icon-send')"


def serve(model, **environment):
    """Starts puyu serve; (process, address)."""
    p = subprocess.Popen([PROGRAM, "serve", model, "--port", "0", "--threads", "1", "--memory", "1", "--quiet"],
                         stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    return p, p.stdout.readline().strip() + "/"


def make_model(folder):
    """A small random model that has a tokenizer, so that it can chat."""
    text = os.path.join(folder, "text.txt")
    with open(text, "w") as f:
        f.write("the quick brown fox jumps over the lazy dog and the dog sleeps, 你好\n" * 20)
    model = os.path.join(folder, "model")
    for words in (["tokenizer", "train", "--out", model, "--vocab-size", "300", text],
                  ["init", "--shape", "puyu-2m", "--out", model, "--vocab-size", "300", "--force"]):
        subprocess.run([PROGRAM, *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return model


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.page, url = serve(os.path.join(FIXTURES, "hf-mini/internlm2-tiny"))
        cls.fake = Fake(int(re.search(r":(\d+)/", url)[1]))
        cls.b = Browser()

    @classmethod
    def tearDownClass(cls):
        cls.b.close()
        cls.page.terminate()
        cls.page.communicate()

    def setUp(self):
        b = self.b
        b.size(1280, 800)
        b.open("about:blank")
        b.cdp("Storage.clearDataForOrigin", origin=self.fake.url, storageTypes="all")
        b.gather()
        b.problems.clear()
        b.requests.clear()
        self.fake.asked.clear()
        self.fake.failures, self.fake.pause = 1, 0
        self.fake.gone.clear()
        self.expected = []  # what the console may say
        b.open(self.fake.url)
        b.until("document.querySelector('.models option')")

    def tearDown(self):
        """Nothing went wrong in the console, no policy was broken, nobody else was asked for anything."""
        self.b.gather()
        problems = [p for p in self.b.problems if not any(e in p for e in self.expected)]
        elsewhere = [r for r in self.b.requests if not r.startswith((self.fake.url, "data:", "blob:", "about:", "chrome"))]
        self.assertEqual(problems, [])
        self.assertEqual(elsewhere, [])

    def ask(self, text, wait=True):
        self.b.type(INPUT, text)
        self.b.press("enter")
        if wait:
            self.b.until(IDLE + " && " + LAST)

    def texts(self, css):
        return self.b.js("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())", css)

    def hover_click(self, css):
        self.b.js("document.querySelector(arguments[0]).click()", css)

    # ---- answers

    def test_streams_and_measures(self):
        b = self.b
        self.fake.pause = 0.15
        self.ask("hello there, this is a longer question", wait=False)
        b.until("document.querySelector('.composer .icon-stop') && document.querySelector('.stats')?.innerText.startsWith('≈ ') && "
                + LAST + ".querySelector(':scope > .md').innerText.startsWith('answer')")
        b.until(IDLE)
        self.assertEqual(self.texts(".assistant > .md"), ["answer 1 to: hello there, this is a longer question"])
        self.assertRegex(self.texts(".stats")[0], r"^8 tokens · \d+\.\d tokens/s · first after \d+\.\d\d s · prompt 11$")
        body = self.fake.asked[0]
        self.assertEqual(body["stream_options"], {"include_usage": True})
        self.assertEqual(body["messages"], [{"role": "user", "content": "hello there, this is a longer question"}])
        self.assertEqual(body["model"], "fake")

    def test_markdown(self):
        b = self.b
        self.ask("rich")
        b.until(LAST + ".querySelector('.hljs-keyword') && document.querySelectorAll('.math .katex-html').length === 3")
        count = b.js("const c = s => document.querySelectorAll('.assistant .md ' + s).length;"
                     "return {h2: c('h2'), strong: c('strong'), li: c('li'), td: c('td'), code: c('pre code'), img: c('img')}")
        self.assertEqual(count, {"h2": 1, "strong": 2, "li": 3, "td": 4, "code": 2, "img": 0})
        self.assertIn("It costs $5 or $6. 注意：这里的 code 很短。", self.texts(".assistant .md p"))
        self.assertEqual(b.js("return document.querySelector('.language-make').textContent"), "all:\n\tcc main.c\n".rstrip())
        self.assertEqual(b.js("return getComputedStyle(document.querySelector('td[align=right]')).textAlign"), "right")
        # The large brace's svg has its width from a style attribute, which only the page's script may set.
        self.assertTrue(b.js("return [...document.querySelectorAll('.katex [style]')].length > 10 && !document.querySelector('[data-style]')"))
        links = b.js("return [...document.querySelectorAll('.md a')].map(a => [a.href, a.target, a.rel])")
        self.assertEqual(links, [[u, "_blank", "noopener noreferrer"] for u in
                                 ("https://example.com/", "https://example.com/p.png", "https://example.org/there")])

    def test_pieces_make_the_whole(self):
        """Blocks that were left in place while the text grew are what the whole text gives."""
        self.ask("long")
        same = self.b.js("""
          const done = arguments[arguments.length - 1], shown = document.querySelector('.assistant > .md');
          return import('/web/markdown.js').then(({ MarkdownView }) => {
            const text = 'a\\n\\n1. x\\n2. y\\n\\n   z\\n\\n3. w\\n\\n| a | b |\\n|---|---|\\n| 1 | 2 |\\n\\n```c\\n\\nint x;\\n\\n```\\n\\n$$\\nx\\n\\n$$\\n> q\\n\\nTitle\\n===\\n\\n- p\\n-';
            const whole = document.createElement('div'), grown = document.createElement('div');
            new MarkdownView(whole).update(text, true);
            const view = new MarkdownView(grown);
            for (let i = 1; i < text.length; i++) view.update(text.slice(0, i), false);
            view.update(text, true);
            return [whole.innerHTML, grown.innerHTML];
          });""")
        self.assertEqual(same[0], same[1])

    def test_hostile_text(self):
        b = self.b
        self.ask("attack")
        b.until(LAST + ".innerText.includes('after')")
        b.js("document.querySelectorAll('.md *:not(a[href])').forEach(e => {"
             " e.click?.(); e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})); })")
        found = b.js("""return [...document.querySelectorAll('.assistant .md *')].filter(e =>
          ['SCRIPT', 'IFRAME', 'IMG', 'OBJECT', 'STYLE', 'FORM'].includes(e.tagName) ||
          [...e.attributes].some(a => a.name.startsWith('on') || /^\\s*javascript:/i.test(a.value)) ||
          e.tagName === 'A' && e.hasAttribute('href') && !/^https?:/.test(e.getAttribute('href'))).map(e => e.outerHTML)""")
        self.assertEqual(found, [])
        self.assertIsNone(b.js("return window.hacked ?? null"))
        shown = self.texts(".assistant > .md")[0]
        for text in ('<img src=x onerror="window.hacked=1">', "<div style=", "<iframe src=", "H2O"):
            self.assertIn(text, shown.replace("\n2\n", "2"))
        # DOMPurify alone, with HTML that the gate before it would not have let through.
        b.gather()
        self.assertEqual(b.problems, [])
        self.expected = ["Executing inline event handler"]
        clean = b.js("""const f = DOMPurify.sanitize('<a href="javascript:x">a</a><img src=x onerror=y><svg><script>z</script></svg><b>k</b>',
          {RETURN_DOM_FRAGMENT: true, FORBID_TAGS: ['svg']}); const d = document.createElement('div'); d.append(f); return d.innerHTML""")
        self.assertEqual(clean, '<a target="_blank" rel="noopener noreferrer">a</a><img><b>k</b>')

    def test_policy_stops_what_gets_through(self):
        b = self.b
        self.expected = ["Content Security Policy"]
        b.js("""const d = document.createElement('div'); document.body.append(d);
          d.innerHTML = '<img src="data:,x" onerror="window.hacked=1"><img src="https://evil.example/p.png"><p style="color:red">t</p>';
          const s = document.createElement('script'); s.textContent = 'window.hacked=2'; d.append(s);""")
        b.until("true")
        b.js("return fetch('https://evil.example/').catch(() => 0)")
        self.assertIsNone(b.js("return window.hacked ?? null"))
        b.gather()
        self.assertGreaterEqual(len([p for p in b.problems if "Content Security Policy" in p]), 4)
        b.requests[:] = [r for r in b.requests if "evil.example" not in r]  # asked for, and stopped before they left

    def test_thoughts_are_folded(self):
        self.ask("think")
        self.assertEqual(self.texts(".assistant > .md"), ["The answer."])
        self.assertFalse(self.b.js("return document.querySelector('.think').open"))
        self.b.click(".think summary")
        self.assertEqual(self.texts(".think > .md"), ["Let me see."])
        self.ask("next")
        self.assertEqual(self.fake.asked[1]["messages"][1], {"role": "assistant", "content": "The answer."})

    # ---- stop, retry, edit

    def test_stop(self):
        b = self.b
        self.ask("slow", wait=False)
        b.until(LAST + "?.innerText.includes('word30')")
        b.press("escape")
        b.until(IDLE)
        self.assertTrue(self.fake.gone.wait(5), "the server was not told")
        self.assertEqual(self.texts(".note"), ["Stopped"])
        self.assertRegex(self.texts(".stats")[0], r"^≈ \d+ tokens")
        self.fake.gone.clear()
        self.ask("slow", wait=False)
        b.until(LAST + ".innerText.includes('word30')")
        b.click(".send")
        b.until(IDLE)
        self.assertTrue(self.fake.gone.wait(5))

    def test_follows_until_the_reader_scrolls(self):
        b = self.b
        at = "(s => s.scrollHeight - s.clientHeight - s.scrollTop)(document.querySelector('.scroller'))"
        self.ask("slow", wait=False)
        b.until(LAST + "?.innerText.includes('word400')")
        self.assertLess(b.js("return " + at), 60)
        b.js("document.querySelector('.scroller').scrollTop -= 150")
        before = b.until("document.querySelector('.scroller').scrollTop")
        seen = len(self.texts(".assistant")[0])
        b.until(LAST + ".innerText.length > %d" % (seen + 1500))
        self.assertEqual(b.js("return document.querySelector('.scroller').scrollTop"), before)
        b.click(".jump")
        b.until(at + " < 5")
        b.press("escape")
        b.until(IDLE)

    def test_versions_of_answers_and_questions(self):
        b = self.b
        self.ask("one")
        self.hover_click(".assistant .icon-button[title='Try again']")
        b.until("document.querySelector('.assistant .versions')?.innerText === '2/2' && " + IDLE)
        self.assertEqual(self.texts(".assistant > .md"), ["answer 2 to: one"])
        b.click(".assistant .icon-button[title='Previous version']")
        self.assertEqual(self.texts(".assistant > .md"), ["answer 1 to: one"])
        self.ask("two")
        self.assertEqual([m["content"] for m in self.fake.asked[-1]["messages"]], ["one", "answer 1 to: one", "two"])
        self.hover_click(".user .icon-button[title='Edit']")
        b.js("document.querySelector('.edit textarea').value = ''")
        b.type(".edit textarea", "uno")
        b.press("enter")
        b.until("document.querySelectorAll('.turn').length === 2 && " + IDLE)
        self.assertEqual(self.texts(".bubble") + self.texts(".assistant > .md"), ["uno", "answer 4 to: uno"])
        b.js("document.querySelector('.user .icon-button[title=\"Previous version\"]').click()")
        self.assertEqual(self.texts(".bubble"), ["one", "two"])

    def test_errors(self):
        b = self.b
        self.expected = ["500 (Internal Server Error)", "ERR_INCOMPLETE_CHUNKED_ENCODING"]
        self.ask("fail")
        self.assertEqual(self.texts(".note.error")[0].split("\n")[0], "the engine <b>stumbled</b>")
        self.assertEqual(self.texts("[role=status]"), [""])
        b.click(".note.error button")
        b.until(LAST + ".innerText.includes('answer 2 to: fail') && " + IDLE)
        self.assertEqual(b.js("return document.querySelectorAll('.versions, .note').length"), 0)
        self.assertEqual(self.texts("[role=status]"), ["The answer is finished."])
        self.ask("break")
        self.assertIn("The answer broke off.", self.texts(".note.error")[0])
        self.assertIn("half an ans", self.texts(".assistant")[1])

    # ---- tools, parameters

    def test_tools(self):
        b = self.b
        tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
        b.click(".icon-button[title='Settings']")
        b.type("textarea[name=tools]", "[{")
        self.assertIn("No JSON", self.texts(".field .error")[0])
        b.js("const a = document.querySelector('textarea[name=tools]'); a.value = arguments[0]; a.dispatchEvent(new Event('input'))",
             json.dumps(tools))
        b.press("escape")
        self.ask("tools")
        self.assertEqual(self.fake.asked[0]["tools"], tools)
        b.click(".call summary")
        self.assertEqual(self.texts(".call")[0].split("\n"), ["Calls weather", "{", '  "town": "Paris"', "}"])
        b.type(".results textarea", '{"sky": "clear"}')
        b.click(".results .primary")
        b.until("document.querySelectorAll('.assistant').length === 2 && " + IDLE)
        self.assertEqual(self.fake.asked[1]["messages"][1:], [
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Paris"}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": '{"sky": "clear"}'}])

    def test_parameters(self):
        b = self.b
        b.click(".icon-button[title='Settings']")
        b.type("textarea[name=system]", "Be brief.")
        for name, value in (("temperature", "0.5"), ("top_k", "40"), ("max_tokens", "64"), ("seed", "7"), ("top_p", "9")):
            b.type("input[name=%s]" % name, value)
        b.type("textarea[name=stop]", "END")
        self.assertEqual(b.js("return document.querySelector('input[name=top_p]').getAttribute('aria-invalid')"), "true")
        b.press("escape")
        b.js("const s = document.querySelector('.models select'); s.value = 'fake-adapter'; s.dispatchEvent(new Event('change'))")
        self.ask("hi")
        body = {k: v for k, v in self.fake.asked[0].items() if k not in ("stream", "stream_options")}
        self.assertEqual(body, {"model": "fake-adapter", "temperature": 0.5, "top_k": 40, "max_tokens": 64, "seed": 7, "stop": ["END"],
                                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]})

    # ---- what is kept

    def test_history(self):
        b = self.b
        self.ask("first question")
        b.click(".new")
        self.ask("second question")
        self.assertEqual(self.texts(".row .title"), ["second question", "first question"])
        b.reload()
        b.until("document.querySelector('.assistant > .md')?.innerText === 'answer 2 to: second question'")
        b.click(".row:nth-child(2) .title")
        self.assertEqual(self.texts(".bubble"), ["first question"])
        self.hover_click(".row.current .icon-button")
        b.click(".menu button")
        b.js("document.querySelector('.row input').value = ''")
        b.type(".row input", "Renamed")
        b.press("enter")
        b.until("document.querySelector('.row.current .title')?.innerText === 'Renamed'")
        self.hover_click(".row.current .icon-button")
        b.click(".menu button:last-child")
        self.assertEqual(self.texts(".row .title"), ["second question"])
        b.click(".toast button")
        self.assertEqual(sorted(self.texts(".row .title")), ["Renamed", "second question"])
        b.type("input[type=search]", "answer 1")
        self.assertEqual(self.texts(".row .title"), ["Renamed"])

    def test_export_and_import(self):
        b = self.b
        self.ask("think")
        line = b.js("""return import('/web/tree.js').then(({ exportLine }) => import('/web/state.js').then(({ app }) => exportLine(app.current)))""")
        self.assertEqual(json.loads(line), {"title": "think", "messages": [
            {"role": "user", "content": "think"}, {"role": "assistant", "content": "The answer."}]})
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            f.write(line + '\n{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "U"}]}]}\n')
            f.flush()
            b.js("document.querySelector('input[type=file]').hidden = false")
            b.type("input[type=file]", f.name)
            b.until("document.querySelector('.toast')?.innerText === '2 chats imported.'")
        self.assertEqual(self.texts(".row .title").count("think"), 2)
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            f.write('{"messages": []}\n{"text": 1}\n')
            f.flush()
            b.js("document.querySelector('input[type=file]').hidden = false")
            b.type("input[type=file]", f.name)
            b.until("document.querySelector('.toast')?.innerText.includes('line 2')")

    # ---- hands and eyes

    def test_composition_does_not_send(self):
        b = self.b
        b.js("document.querySelector(arguments[0]).focus()", INPUT)
        b.cdp("Input.imeSetComposition", text="ni", selectionStart=2, selectionEnd=2)
        b.js("""document.querySelector(arguments[0]).dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}));
          document.querySelector(arguments[0]).dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', keyCode: 229, bubbles: true}))""", INPUT)
        b.cdp("Input.insertText", text="你好")
        self.assertEqual(self.fake.asked, [])
        b.press("shift", "enter")
        b.cdp("Input.insertText", text="世界")
        b.press("enter")
        b.until(IDLE + " && " + LAST)
        self.assertEqual(self.fake.asked[0]["messages"][0]["content"], "你好\n世界")

    def test_phone(self):
        b = self.b
        for width in (390, 360):
            b.size(width, 844)
            self.ask("rich")
            b.until(LAST + ".querySelector('.katex')")
            wide = b.js("""return [document.documentElement, document.body, document.querySelector('.scroller')]
              .filter(e => e.scrollWidth > e.clientWidth || e.scrollLeft).length""")
            self.assertEqual(wide, 0)
            out = b.js("""return [...document.querySelectorAll('button, textarea, .bubble')].filter(e => {
              const r = e.getBoundingClientRect(); return e.checkVisibility({visibilityProperty: true}) && (r.right > innerWidth + 1 || r.left < -1); })
              .map(e => e.outerHTML)""")
            self.assertEqual(out, [])
        b.click(".top .icon-button")
        b.until("document.querySelector('.side').getBoundingClientRect().left === 0")
        b.click(".row .title")
        b.until("document.querySelector('.side').getBoundingClientRect().right <= 0")

    def test_dark(self):
        b = self.b
        light = "getComputedStyle(document.documentElement).backgroundColor === 'rgb(252, 251, 249)'"
        self.assertTrue(b.js("return " + light))
        b.size(1280, 800, dark=True)
        self.assertFalse(b.js("return " + light))
        b.click(".icon-button[title='Settings']")
        b.js("const s = [...document.querySelectorAll('dialog select')].at(-2); s.value = 'light'; s.dispatchEvent(new Event('change'))")
        self.assertTrue(b.js("return " + light))
        b.reload()
        b.until(light)

    def test_chinese(self):
        b = self.b
        self.ask("hi")
        b.click(".icon-button[title='Settings']")
        b.js("const s = [...document.querySelectorAll('dialog select')].at(-1); s.value = 'zh-CN'; s.dispatchEvent(new Event('change'))")
        self.assertEqual(self.texts("dialog h2"), ["设置"])
        b.press("escape")
        self.assertEqual(self.texts(".new"), ["新对话"])
        self.assertIn("首 token", self.texts(".stats")[0])
        b.reload()
        b.until("document.querySelector('.new')?.innerText === '新对话' && document.documentElement.lang === 'zh-CN'")

    def test_every_word_has_both_languages(self):
        wrong = self.b.js("""return fetch('/web/i18n.js').then(r => r.text()).then(async text => {
          const { t } = await import('/web/i18n.js');
          const keys = [...text.matchAll(/^  (\\w+): \\[/gm)].map(m => m[1]);
          const files = await Promise.all(['app', 'dialogs', 'dom', 'markdown', 'run', 'sidebar', 'state', 'turns'].map(
            n => fetch(`/web/${n}.js`).then(r => r.text())));
          const used = new Set(files.flatMap(f => [...f.matchAll(/\\bt\\('(\\w+)'/g)].map(m => m[1])));
          const params = ['temperature', 'max_tokens', 'top_p', 'top_k', 'min_p', 'seed', 'presence_penalty', 'frequency_penalty', 'repetition_penalty'];
          for (const p of params) used.add(p);
          return [[...used].filter(k => !keys.includes(k)), keys.filter(k => !used.has(k))];
        })""")
        self.assertEqual(wrong, [[], []])

    def test_names_for_everything(self):
        """Each control has a name that a screen reader can say."""
        b = self.b
        self.ask("rich")
        b.click(".icon-button[title='Settings']")
        nameless = b.js("""return [...document.querySelectorAll('button, input:not([type=file]), select, textarea')].filter(e =>
          !e.getAttribute('aria-label') && !e.innerText?.trim() && !e.labels?.length && !e.placeholder && !e.hidden)
          .map(e => e.outerHTML)""")
        self.assertEqual(nameless, [])


class RealServer(unittest.TestCase):
    """The page and the model both from puyu serve, with a key."""

    def call_a_tool(self, b):
        """A random model has to call it: the call comes in pieces, and its result is taken back."""
        tool = {"name": "forecast", "parameters": {"type": "object", "additionalProperties": False, "required": ["days"],
                                                   "properties": {"days": {"enum": [1, 2, 3]}}}}
        b.click(".icon-button[title='设置']")
        b.js("const [tools, choice] = document.querySelectorAll('textarea[name=tools], dialog .body > .field select');"
             "tools.value = arguments[0]; tools.dispatchEvent(new Event('input'));"
             "choice.value = 'required'; choice.dispatchEvent(new Event('change'))", json.dumps([{"type": "function", "function": tool}]))
        b.press("escape")
        b.click(".new")
        b.type(INPUT, "the forecast")
        b.press("enter")
        b.until(IDLE + " && document.querySelector('.results textarea')")
        shown = b.js("return [document.querySelector('.call summary').innerText, document.querySelector('.call pre').textContent]")
        self.assertEqual(shown[0].strip(), "调用 forecast")
        self.assertIn(json.loads(shown[1]), [{"days": n} for n in (1, 2, 3)])
        b.type(".results textarea", "rain")
        b.click(".results .primary")
        b.until(IDLE + " && document.querySelectorAll('.call').length === 2")
        self.assertEqual(b.js("return document.querySelectorAll('.note.error').length"), 0)

    def test_key_chat_and_stop(self):
        folder = tempfile.mkdtemp(prefix="puyu-web-")
        process, url = serve(make_model(folder), PUYU_API_KEYS="right")
        b = Browser("zh-CN,zh")
        try:
            b.size(1280, 800)
            b.open(url)
            for key, refused in (("wrong", 0), ("right", 1)):
                b.until("document.querySelectorAll('dialog .error').length === %d && document.querySelector('dialog input')" % refused)
                b.type("dialog input[type=password]", key)
                b.click("dialog .primary")
            b.until("document.querySelector('.models select').value === 'model'")
            self.assertEqual(b.js("return document.querySelector('.new').innerText"), "新对话")
            self.assertEqual(b.js("return [sessionStorage['puyu.key'], localStorage['puyu.key'] ?? null]"), ["right", None])
            b.type(INPUT, "the quick fox")
            b.press("enter")
            b.until(LAST + "?.innerText.length > 3")
            b.press("escape")
            b.until(IDLE)
            self.call_a_tool(b)
            b.gather()
            self.assertEqual([p for p in b.problems if "401" not in p], [])
            self.assertEqual([r for r in b.requests if not r.startswith((url, "data:", "chrome"))], [])
        finally:
            b.close()
            process.terminate()
            process.communicate()
            self.assertEqual(process.returncode, 0)
            shutil.rmtree(folder)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
