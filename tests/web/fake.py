"""A server whose answers are known: the page comes from a real puyu, the model is a script.

What the last message says chooses the answer; each request's body is kept in `asked`."""
import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RICH = """## Two ways to see it

The **golden ratio** $\\varphi$ solves \\(x^2 = x + 1\\), so that

$$
\\varphi = \\frac{1 + \\sqrt{5}}{2}, \\qquad \\left(\\begin{matrix} 1 & 1 \\\\ 1 & 0 \\\\ 0 & 0 \\\\ 0 & 0 \\\\ 0 & 1 \\end{matrix}\\right)
$$

It costs $5 or $6. **注意：**这里的 `code` 很短。

1. First
2. Second
   - inner

| name | value |
|:-----|------:|
| φ    | 1.618 |
| 1/φ  | 0.618 |

```python
def fib(n: int) -> int:
    \"\"\"The n-th number.\"\"\"
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b  # one step
    return a
```

```make
all:
\tcc main.c
```

> A quotation, with a [link](https://example.com/) and a ![picture](https://example.com/p.png).

See [there][1].

[1]: https://example.org/there
"""

ATTACK = """before <img src=x onerror="window.hacked=1"> <script>window.hacked=2</script>

<div style="position:fixed" onclick="window.hacked=3">block</div>

<iframe src="https://evil.example/"></iframe>

[click](javascript:window.hacked=4) [data](data:text/html,<script>window.hacked=5</script>)
![p](https://evil.example/pixel.png) <svg onload=window.hacked=6> <a href="javascript:window.hacked=7">x</a>

$\\href{javascript:window.hacked=8}{x}$ $\\htmlStyle{color:red}{y}$ $\\includegraphics{https://evil.example/i.png}$

```html
<script>window.hacked=9</script>
```

```x"onmouseover="window.hacked=10
y
```

H<sub>2</sub>O<br>after
"""

CALL = [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"town": '}}, {"index": 0, "function": {"arguments": '"Paris"}'}}]


def pieces_of(text, size=7):
    return [text[i:i + size] for i in range(0, len(text), size)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def json(self, status, value):
        self.reply(status, [("Content-Type", "application/json")], json.dumps(value).encode())

    def do_GET(self):
        if self.path == "/v1/models":
            self.json(200, {"object": "list", "data": [{"id": "fake"}, {"id": "fake-adapter"}]})
            return
        c = http.client.HTTPConnection("127.0.0.1", self.server.page_port)
        c.request("GET", self.path, headers={"Accept-Encoding": self.headers.get("Accept-Encoding", "")})
        r = c.getresponse()
        self.reply(r.status, [(k, v) for k, v in r.getheaders() if k not in ("Content-Length", "Connection", "Date")], r.read())
        c.close()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        last = body["messages"][-1]["content"]
        if last == "fail" and self.server.failures > 0:
            self.server.failures -= 1
            self.json(500, {"error": {"message": "the engine <b>stumbled</b>", "type": "server_error"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.stream(body, last)
        except (BrokenPipeError, ConnectionResetError):
            self.server.gone.set()
            self.close_connection = True

    def event(self, value):
        data = ("data: %s\n\n" % (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))).encode()
        for part in (data[:len(data) // 2], data[len(data) // 2:]):  # cut anywhere, in a character too
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()

    def delta(self, delta, finish=None):
        self.event({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def stream(self, body, last):
        self.delta({"role": "assistant", "content": ""})
        finish, n = "stop", 0
        if last == "slow":
            while n < 3000:
                n += 1
                self.delta({"content": "word%d " % n if n % 20 else "word%d\n\n" % n})
                time.sleep(0.004)
        elif last == "break":
            self.delta({"content": "half an ans"})
            time.sleep(0.2)
            self.close_connection = True
            return
        elif last == "tools" and body.get("tools"):
            for piece in CALL:
                self.delta({"tool_calls": [piece]})
            finish = "tool_calls"
        else:
            text = {"rich": RICH, "attack": ATTACK, "think": "<think>Let me *see*.</think>\n\nThe answer.", "long": RICH * 8}.get(last)
            for piece in pieces_of(text if text else "answer %d to: %s" % (len(self.server.asked), last)):
                n += 1
                self.delta({"content": piece})
                time.sleep(self.server.pause)
        self.delta({}, finish)
        self.event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": n, "total_tokens": 11 + n}})
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")


class Fake(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, page_port):
        super().__init__(("127.0.0.1", 0), Handler)
        self.page_port, self.asked, self.failures, self.pause = page_port, [], 1, 0
        self.gone = threading.Event()  # a client left in the middle of an answer
        self.url = "http://127.0.0.1:%d/" % self.server_port
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Browsers drop connections that they do not need."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
