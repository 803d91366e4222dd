"""A headless Chromium, and a server of a folder on loopback."""

import contextlib
import functools
import http.server
import shutil
import threading

import pytest

# A camera that shows a moving drawing, which is allowed without a question.
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve(folder):
    """Yields the address of a folder on loopback."""
    handler = functools.partial(_Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextlib.contextmanager
def open_browser(*options):
    """Yields a Selenium driver of a headless Chromium; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    binary = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        missing = "Chromium" if binary is None else "its driver, chromedriver"
        pytest.skip(f"the page is tested in a browser: {missing} is not installed")
    chosen = webdriver.ChromeOptions()
    chosen.binary_location = binary
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", *options):
        chosen.add_argument(option)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(chosen, webdriver.ChromeService(driver))
    try:
        browser.set_script_timeout(120)
        yield browser
    finally:
        browser.quit()


def wait_for(browser, script, seconds=60):
    """Waits until a JavaScript expression is true; returns its value."""
    from selenium.webdriver.support.wait import WebDriverWait

    run = functools.partial(browser.execute_script, f"return {script}")
    return WebDriverWait(browser, seconds, 0.05).until(lambda browser: run())


# Drops or pastes a file of the folder that is served, or text.
GIVE = """
const [type, name, text, done] = arguments;
(async () => {
  const data = new DataTransfer();
  if (text) data.setData("text/plain", text);
  else data.items.add(new File([await (await fetch(`given/${name}`)).blob()], name));
  const options = { bubbles: true, cancelable: true };
  const event = type === "drop"
    ? new DragEvent("drop", { ...options, dataTransfer: data })
    : new ClipboardEvent("paste", { ...options, clipboardData: data });
  document.querySelector("#drop").dispatchEvent(event);
})().then(() => done(""), (error) => done(String(error)));
"""


def give(browser, type, name="", text=""):
    """Drops or pastes, by `type`, a file in the folder `given`, or text."""
    assert browser.execute_async_script(GIVE, type, name, text) == ""


# Scores of the pictures that are named, from the page's own classifier.
SCORES = """
const [names, done] = arguments;
(async () => {
  const { Classifier } = await import("./classifier.js");
  window.classifier ??= new Classifier();
  const results = [];
  for (const name of names) {
    const picture = await (await fetch(name)).blob();
    const { scores, milliseconds } = await window.classifier.classify(picture);
    results.push({ scores, milliseconds });
  }
  return results;
})().then(done, (error) => done(String(error)));
"""


def classify(browser, names):
    """Returns `scores` and `milliseconds` for pictures in the folder that is served."""
    results = browser.execute_async_script(SCORES, list(names))
    assert isinstance(results, list), results
    return results
