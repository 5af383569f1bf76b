"A real browser for the tests that want one; they are skipped, and say why, where there is none"
import functools, http.server, shutil, threading
from contextlib import contextmanager
import pytest

def find_chromium():
    names = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
    return next((path for n in names if (path := shutil.which(n))), None)

@contextmanager
def a_browser():
    "Chromium without a window, driven by playwright"
    try: from playwright.sync_api import sync_playwright
    except ImportError: pytest.skip("playwright is not installed: pip install 'elastic_nets[browser]'")
    if not (path := find_chromium()): pytest.skip('no chromium is there: apt-get install chromium')
    with sync_playwright() as p:
        found = p.chromium.launch(executable_path=path, args=['--no-sandbox', '--disable-gpu'])
        yield found
        found.close()

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@contextmanager
def serving(folder):
    "The address of a server for the files of `folder`, on this machine"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
