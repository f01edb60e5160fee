"The explorer in JupyterLab and Notebook 7, in a real browser: a cell is run, a range is drawn, keys open and label."
import json
import os
import re
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec

import pytest
from test_browser import CHROMIUM, ROWS, browser, new_page, until  # noqa: F401 (browser is a fixture)
from test_explore import messy

from rsr.data.store import Store

NEEDED = [m for m in ('playwright', 'anywidget', 'notebook', 'ipykernel') if not find_spec(m)]
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not CHROMIUM.exists(), reason='no /usr/bin/chromium (apt-get install chromium)'),
              pytest.mark.skipif(bool(NEEDED), reason=f'not installed: {", ".join(NEEDED)}')]
OPTIONS = '--no-browser', '--ServerApp.token=t', '--ServerApp.allow_root=True', '--ServerApp.port=0'
APPS = {'jupyterlab':'lab/tree', 'notebook':'notebooks'}   # module: path of a notebook

@pytest.fixture(scope='module', params=[*APPS])
def notebook(request, tmp_path_factory):
    "The address of a notebook that explores two runs, and their folder."
    folder = tmp_path_factory.mktemp('hosts')
    for name, seed in ('one', 1), ('two', 2):
        messy(folder/name, 20, seed=seed, hostile=True)
    code = 'import rsr\nrsr.explore(["one", "two"], annotator="anna")'
    cell = dict(cell_type='code', id='a', execution_count=None, metadata={}, outputs=[], source=code)
    kernel = dict(name='python3', display_name='Python 3', language='python')
    note = dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
    (folder/'x.ipynb').write_text(json.dumps(note))
    p = subprocess.Popen([sys.executable, '-m', request.param, *OPTIONS], cwd=folder, stderr=subprocess.PIPE, text=True,
                         env={**os.environ, 'HOME':str(folder)})
    address = next(m[0] for line in p.stderr if (m := re.search(r'http://(127\.0\.0\.1|localhost):\d+', line)))
    drain = threading.Thread(target=p.stderr.read, daemon=True)
    drain.start()
    yield f'{address}/{APPS[request.param]}/x.ipynb?token=t', folder
    p.send_signal(signal.SIGTERM)
    p.wait(60)
    drain.join(5)

def run_cell(page, address):
    "Open the notebook and run its cell."
    page.goto(address)
    page.locator('.jp-Cell .cm-content').first.click()
    page.keyboard.press('Control+Enter')   # waits for the kernel
    page.wait_for_selector(ROWS)

def test_a_cell_shows_two_runs_whose_ranges_are_linked(browser, notebook):  # noqa: F811
    page, asked = new_page(browser), []
    page.on('request', lambda r: asked.append(r.url))
    run_cell(page, notebook[0])
    page.wait_for_selector('text=Click a row above, or press j')
    assert not page.locator('.rsr-explorer select:visible').nth(1).count(), 'nothing empty is shown'
    chart = page.locator('.rsr-dist', has=page.locator('figcaption:text-is("score")'))
    status = page.locator('.rsr-status')
    before = status.inner_text()
    box = chart.locator('svg').bounding_box()
    page.mouse.move(box['x']+10, box['y']+60)
    page.mouse.down()
    page.mouse.move(box['x']+box['width']/3, box['y']+60, steps=6)
    page.mouse.up()
    until(page, lambda: status.inner_text()!=before)
    page.locator(ROWS).first.click()
    page.wait_for_selector('.rsr-id')
    opened = page.locator('.rsr-row.rsr-open').inner_text()
    page.keyboard.press('j')
    until(page, lambda: page.locator('.rsr-row.rsr-open').inner_text()!=opened)
    assert page.evaluate('typeof window.hacked')=='undefined'
    assert all(re.match(r'(https?|wss?)://(localhost|127\.0\.0\.1)[:/]|data:|blob:', u) for u in asked), asked
    page.close()

def labels(run):
    "What anna has said in a ledger, by the running number of the rollout."
    st = Store(run, write=False)
    try:
        number = dict(st.db.execute('SELECT key, idx FROM rollouts'))
        return {number[rollout]:verdict for (rollout, _), verdict in st.reviews(annotator='anna').items()}
    finally:
        st.close()

def numbers_shown(page):
    "The running numbers of the responses on screen, of the first run and the second."
    heads = page.locator('.rsr > div:has(> .rsr-b)').all_inner_texts()
    return [int(re.match(r'#(\d+)', text)[1]) for text in heads]

def test_keys_label_the_response_of_the_run_that_it_belongs_to(browser, notebook):  # noqa: F811
    page, (address, folder) = new_page(browser), notebook
    run_cell(page, address)
    page.locator('.rsr-chip:text-is("responses")').click()
    page.locator('.rsr-filter').fill('run == "two"')
    page.keyboard.press('Enter')
    page.locator(ROWS, has=page.locator('.rsr-cell:text-is("two")')).first.click()
    page.wait_for_selector('.rsr-id')
    first, second = until(page, lambda: len(found := numbers_shown(page))==2 and found)
    page.keyboard.press('4')
    until(page, lambda: labels(folder/'two')=={second:'fail'})
    page.keyboard.press('1')
    until(page, lambda: labels(folder/'one')=={first:'pass'})
    page.wait_for_selector('text=labelled pass by anna')
    page.wait_for_selector('text=labelled fail by anna')
    page.keyboard.press('2')
    until(page, lambda: labels(folder/'one')=={first:'fail'})
    assert labels(folder/'two')=={second:'fail'} and numbers_shown(page)==[first, second]
    page.close()
