"The explorers in a real browser, served by Voila: `make browser-notebooks`"
import os, re, signal, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest
from browser import a_browser
from notebooks import root

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='module')
def voila(tmp_path_factory):
    "The address of 51_explore, running"
    pytest.importorskip('voila', reason="Voila is not installed: pip install 'elastic_nets[browser]'")
    port, log = free_port(), tmp_path_factory.mktemp('voila')/'log'
    cmd = [sys.executable, '-m', 'voila', str(root/'nbs/look/51_explore.ipynb'), f'--port={port}', '--no-browser',
           '--Voila.ip=127.0.0.1', '--show_tracebacks=True']
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    with log.open('w') as out:
        process = subprocess.Popen(cmd, env=env, stdout=out, stderr=out, start_new_session=True)
    address = f'http://127.0.0.1:{port}/'
    try:
        for _ in range(600):
            try: urllib.request.urlopen(f'{address}voila/static/style.css', timeout=1)
            except urllib.error.HTTPError: break # it answers
            except OSError: time.sleep(.1) # not yet
            else: break
        yield address
    finally: os.killpg(process.pid, signal.SIGTERM)

@pytest.fixture(scope='module')
def page(voila):
    with a_browser() as browser:
        page = browser.new_page(viewport=dict(width=1100, height=1000))
        page.goto(voila, timeout=240_000)
        page.wait_for_function('document.querySelectorAll(".jupyter-widgets button").length > 0 && '
                               'document.querySelectorAll(".noUi-handle").length > 5', timeout=240_000)
        yield page

def box_with(page, label):
    "The explorer that has a slider of this name"
    boxes = page.locator('.widget-vbox').filter(has=page.locator('img')).filter(has_text=label)
    return boxes.first

def press(page, box, label, key):
    "Move the slider with a key, as a hand would"
    row = box.locator('.widget-inline-hbox').filter(has_text=label).first
    handle = row.locator('.noUi-handle').first
    handle.focus()
    handle.press(key)
    return row

@pytest.mark.parametrize('label,key,text', [
    ('width', 'ArrowRight', 'million MACs'), ('start 2', 'ArrowRight', 'by seconds'),
    ('angle (degrees)', 'ArrowRight', 'epsilon')])
def test_slider_moves_picture_and_line(page, label, key, text):
    box = box_with(page, label)
    picture, line = box.locator('img').first, box.locator('.widget-html').first
    before, said = picture.get_attribute('src'), line.inner_text()
    press(page, box, label, key)
    page.wait_for_function('([img, src]) => img.src !== src', arg=[picture.element_handle(), before], timeout=30_000)
    page.wait_for_function('([e, said]) => e.innerText !== said', arg=[line.element_handle(), said], timeout=30_000)
    assert text in line.inner_text()

def test_an_error_is_shown_in_the_widget(page):
    "The second stage is pushed behind the third"
    box = box_with(page, 'start 2')
    press(page, box, 'start 2', 'End')
    line = box.locator('.widget-html').first.element_handle()
    page.wait_for_function('e => e.innerText.includes("ValueError")', arg=line, timeout=30_000)

def test_extract_writes_a_file(page):
    box = box_with(page, 'width')
    box.get_by_role('button', name='extract').click()
    line = box.locator('.widget-html').first
    page.wait_for_function('e => e.innerText.includes("written")', arg=line.element_handle(), timeout=60_000)
    path = Path(re.search(r'written: (\S+\.safetensors)', line.inner_text())[1])
    assert path.exists() and path.stat().st_size>1000
