"""Headless Chromium through chromedriver, by the W3C WebDriver protocol. Python's standard library only."""
import base64
import http.client
import json
import re
import shutil
import subprocess
import tempfile
import time

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en-US"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"enter": "\ue007", "escape": "\ue00c", "shift": "\ue008"}


class Browser:
    def __init__(self, language="en-US"):
        self.profile = tempfile.mkdtemp(prefix="puyu-web-")
        self.process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            started = re.search(r"started successfully on port (\d+)", line)
            if started:
                break
        self.port = int(started[1])
        options = {"binary": shutil.which("chromium"), "args": FLAGS + ["--user-data-dir=" + self.profile],
                   "prefs": {"intl.accept_languages": language}}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.session = ""
        self.session = "/session/" + self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.problems = []  # what the console said at level SEVERE
        self.requests = []  # addresses that were asked for

    def call(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        c.request(method, self.session + path, json.dumps(body or {}) if method == "POST" else None)
        value = json.loads(c.getresponse().read())["value"]
        c.close()
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(value["error"] + ": " + value["message"].split("\n")[0])
        return value

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.communicate()
            shutil.rmtree(self.profile, ignore_errors=True)

    # ---- the page

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def reload(self):
        self.call("POST", "/refresh")

    def js(self, code, *args):
        return self.call("POST", "/execute/sync", {"script": code, "args": list(args)})

    def cdp(self, command, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def until(self, code, *args, seconds=30):
        """Waits until the expression is true, and gives its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.js("return " + code, *args)
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError("not within %g s: %s" % (seconds, code))

    def element(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.call("POST", "/element/%s/click" % self.element(css))

    def type(self, css, text):
        self.call("POST", "/element/%s/value" % self.element(css), {"text": text})

    def press(self, *keys):
        """Keys held together, on what has the focus."""
        down = [{"type": "keyDown", "value": KEYS.get(k, k)} for k in keys]
        up = [{"type": "keyUp", "value": KEYS.get(k, k)} for k in reversed(keys)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": down + up}]})

    def size(self, width, height, dark=False):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def screenshot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("GET", "/screenshot")))

    # ---- what it did

    def gather(self):
        """Takes over what the browser logged since the last call."""
        for entry in self.call("POST", "/se/log", {"type": "browser"}):
            if entry["level"] == "SEVERE":
                self.problems.append(entry["message"])
        for entry in self.call("POST", "/se/log", {"type": "performance"}):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
