"The explorer as people meet it: `serve` starts Voilà, a real browser opens the page, moves, clicks, reads."
import json
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from test_explore import HOSTILE, messy, talking

from rsr.data.store import Store
from rsr.explore.score_index import read_scores, read_texts
from rsr.explore.thresholds import preview_counts, with_thresholds
from rsr.formatters.writer import make_formatters

HIDDEN = '\u202e\u202c\x00\x07\u2028\ufeff'
CHROMIUM = Path('/usr/bin/chromium')
NEEDED = [m for m in ('playwright', 'voila', 'anywidget') if not find_spec(m)]
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not CHROMIUM.exists(), reason='no /usr/bin/chromium (apt-get install chromium)'),
              pytest.mark.skipif(bool(NEEDED), reason=f'not installed: {", ".join(NEEDED)}')]

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return messy(tmp_path_factory.mktemp('explore')/'run', 30, hostile=True)

@pytest.fixture(scope='module')
def url(run):
    code = f'from rsr.explore.serve import serve; serve({str(run.path)!r}, open_browser=False, annotator="anna")'
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    yield p.stdout.readline().split()[-1]
    p.send_signal(signal.SIGINT)
    assert p.wait(60)==0, 'Ctrl-C ends it'

@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=str(CHROMIUM), args=['--no-sandbox'])
        yield b
        b.close()

def new_page(browser, width=1280, height=1400, **kw):
    "Open an empty page that is patient: a busy machine may need a minute for what takes a second."
    page = browser.new_page(viewport=dict(width=width, height=height), **kw)
    page.set_default_timeout(90_000)
    return page

ROWS = '.rsr-window .rsr-row:not(.rsr-waiting)'

def open_row(page, i):
    "Open a row of the table, counted from the first one on screen."
    page.locator(ROWS).nth(i).click()

@pytest.fixture
def page(browser, url):
    page = new_page(browser)
    page.dialogs = []
    page.on('dialog', lambda d: (page.dialogs.append(d.message), d.dismiss()))
    page.goto(url)
    page.wait_for_selector('svg[role=img]')
    page.wait_for_selector(ROWS)
    yield page
    assert page.evaluate('typeof window.hacked')=='undefined' and not page.dialogs
    page.close()

@pytest.fixture(autouse=True)
def nothing_said(request):
    "Take back what anna said, so that no test depends on the labels of another."
    yield
    if 'run' not in request.fixturenames:
        return
    st = Store(request.getfixturevalue('run').path)
    for rollout, other in st.reviews(annotator='anna'):
        st.review(rollout, None, other, 'anna')
    st.close()

def rows_shown(page):
    lines = page.locator('table.rsr-t').first.locator('tbody tr').all_inner_texts()
    return {cells[0]:int(cells[1].replace(',', '')) for cells in (line.split('\t') for line in lines)}

def told(run, **at):
    st = Store(run.path, write=False)
    s = read_scores(st)
    read_texts(s, st)
    st.close()
    formatters = make_formatters(with_thresholds(run.recipe['formatter'], **at))
    return {w['file']:w['rows'] for w in preview_counts(s, formatters)}

def until(page, what, seconds=60):
    "Wait until something holds."
    for _ in range(seconds*20):
        if (x := what()):
            return x
        page.wait_for_timeout(50)
    assert what()

def shown_id(id_):
    "A prompt's id as the page shows it."
    return ''.join(f'U+{ord(c):04X}' if c in HIDDEN else c for c in id_)

@pytest.mark.parametrize('by', [signal.SIGINT, signal.SIGTERM], ids=['Ctrl-C', 'SIGTERM'])
def test_the_server_ends_with_its_command(run, by):
    "Also where SIGINT came as ignored, as in a background job of a shell; no Voilà is left behind."
    code = ('import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n'
            f'from rsr.explore.serve import serve; serve({str(run.path)!r}, open_browser=False)')
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    address = p.stdout.readline().split()[-1]
    p.send_signal(by)
    assert p.wait(60)==0
    with pytest.raises(OSError):
        urlopen(address, timeout=5)

def test_only_who_knows_the_token_may_look(url):
    assert url.startswith('http://127.0.0.1:') or url.startswith('http://localhost:')
    def status(u):
        try:
            r = urlopen(u, timeout=60)
            return r.status, 'login' in r.url
        except HTTPError as e:
            return e.code, True
    assert status(url)==(200, False)
    assert status(url.split('?')[0])[1] and status(re.sub('token=.{8}', 'token=00000000', url))[1]

def test_a_threshold_is_moved_and_the_counts_follow(page, run):
    before = rows_shown(page)
    assert before==told(run)
    handle = page.locator('.noUi-handle:visible').nth(1)
    assert 'pass ≥ 0.80' in page.locator('svg[role=img]').first.inner_html()
    handle.focus()
    for _ in range(20):
        page.keyboard.press('ArrowLeft')
    until(page, lambda: 'pass ≥ 0.60' in page.locator('svg[role=img]').first.inner_html())
    after = until(page, lambda: rows_shown(page)!=before and rows_shown(page))
    assert after==told(run, pass_threshold=.6) and after['sft.jsonl']>before['sft.jsonl']

def test_dragging_does_it_too(page, run):
    handle = page.locator('.noUi-handle:visible').nth(0)
    box = handle.bounding_box()
    x, y = box['x']+box['width']/2, box['y']+box['height']/2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x-108.4, y, steps=12)
    page.mouse.up()
    until(page, lambda: 'fail ≤ 0.20' in page.locator('svg[role=img]').first.inner_html())
    until(page, lambda: rows_shown(page)==told(run, fail_threshold=.2))

def test_a_threshold_is_typed_and_not_rounded(page, run):
    field = page.locator('input[type=number]:visible')
    field.nth(1).fill('0.625')
    field.nth(1).press('Enter')
    until(page, lambda: 'pass ≥ 0.625' in page.locator('svg[role=img]').first.inner_html())
    field.nth(0).fill('0.333')
    field.nth(0).press('Enter')
    until(page, lambda: rows_shown(page)==told(run, pass_threshold=.625, fail_threshold=.333))
    page.wait_for_timeout(1000)   # long enough for the sliders to answer
    assert [field.nth(i).input_value() for i in (0, 1)]==['0.333', '0.625']
    assert 'fail ≤ 0.333' in page.locator('svg[role=img]').first.inner_html()

def test_prompts_open_and_their_texts_stay_texts(page):
    lists, seen = page.locator('.rsr-list select'), ''
    assert 12<=page.locator(ROWS).count()<=14
    for i in range(1, 6):
        open_row(page, i)
        page.wait_for_function(f"document.querySelector('.rsr-id')?.innerText.startsWith('q{i}')")
        for j in range(lists.nth(0).locator('option').count()):
            lists.nth(0).select_option(index=j)
            page.wait_for_function(f"[...document.querySelectorAll('.rsr')].some(e => e.innerText.startsWith('#{j} '))")
        seen += page.locator('body').inner_text()
    for t in ('<script>window.hacked=1</script>', '<img src=x onerror="window.hacked=1">', '</pre></div><style>',
              '<svg/onload=hacked=1>', '$x^2$ **b** [l](javascript:alert(1))',
              'U+202E'):
        assert t in seen, t
    assert '\u202e' not in seen
    found = page.evaluate("""() => ({
        script: [...document.scripts].filter(e => e.text.startsWith('window.hacked')).length,
        img: document.querySelectorAll('img[src=x]').length,
        on: document.querySelectorAll('[onerror],[onclick],[onmouseover],[onload]').length,
        js: document.querySelectorAll('a[href^=javascript]').length,
        maths: document.querySelectorAll('.rsr mjx-container, .rsr .MathJax, .rsr .katex').length})""")
    assert not any(found.values()), found

def test_files_are_written_and_the_command_that_reproduces_them_is_shown(page, run):
    for p in (run.path/'train').glob('*'):
        p.unlink()
    want = rows_shown(page)
    page.get_by_role('button', name='Write the files').click()
    page.wait_for_selector('text=command to reproduce')
    assert {p.name:p.read_bytes().count(b'\n')
            for p in (run.path/'train').glob('*.jsonl')}=={k:n for k, n in want.items() if n}
    text = page.locator('body').inner_text()
    assert 'formatter:\n- ' in text and 'type: multi_sft' in text and 'rsr format' in text
    assert json.loads((run.path/'train'/'sft.jsonl').read_bytes().split(b'\n')[0])

def test_labels_and_pairs_reach_the_ledger(page, run):
    def reviews():
        st = Store(run.path, write=False)
        try:
            return st.reviews()
        finally:
            st.close()
    open_row(page, 3)
    page.wait_for_selector('text=Next pair to review')
    page.get_by_role('button', name='Next pair to review').click()
    page.wait_for_selector('text=Pair:')
    page.locator('button:has-text("Reject")').click()
    until(page, lambda: 'reject' in reviews().values())
    page.locator('button:text-is("pass (1)")').first.click()
    until(page, lambda: 'pass' in reviews().values())
    page.wait_for_selector('text=labelled pass')

def said(run):
    "What anna has said in the ledger."
    st = Store(run.path, write=False)
    try:
        return st.reviews(annotator='anna')
    finally:
        st.close()

def press(page, key):
    "Press a key once the button that it clicks can be clicked."
    page.wait_for_function(f"""[...document.querySelectorAll('button.rsr-key-{key}')]
        .some(b => b.offsetParent && !b.disabled)""")
    page.keyboard.press(key)

def shown(page):
    "The numbers of the two rollouts on screen."
    heads = page.locator('.rsr > div:has(> .rsr-b)').all_inner_texts()
    return [int(re.match(r'#(\d+)', text)[1]) for text in heads]

def test_keys_do_what_the_buttons_do(page, run):
    before = said(run)
    page.keyboard.press('j')   # nothing has been clicked yet
    page.wait_for_function("document.querySelector('.rsr-id')?.innerText.startsWith('q0')")
    press(page, 'n')
    page.wait_for_selector('text=Pair:')
    opened = page.locator('.rsr-id').inner_text()
    press(page, 'a')
    until(page, lambda: len(said(run))>len(before))
    assert {v for pair, v in said(run).items() if pair not in before}=={'accept'}
    page.wait_for_selector('text=accepted by anna')
    press(page, 's')
    page.wait_for_selector('text=swapped by anna')
    press(page, 'u')
    until(page, lambda: said(run)==before)
    page.keyboard.press('1')
    page.wait_for_selector('text=labelled pass by anna')
    page.keyboard.press('2')
    page.wait_for_selector('text=labelled fail by anna')
    page.keyboard.press('j')
    until(page, lambda: page.locator('.rsr-id').inner_text()!=opened)
    press(page, 'k')
    until(page, lambda: page.locator('.rsr-id').inner_text()==opened)

def test_keys_are_letters_in_a_text_field(page, run):
    before = said(run)
    press(page, 'n')
    page.wait_for_selector('text=Pair:')
    box = page.locator('input[placeholder*="text in the prompt"]')
    box.click()
    page.keyboard.type('jars 12')
    assert box.input_value()=='jars 12' and said(run)==before
    page.locator('input[type=number]:visible').first.click()
    page.keyboard.press('1')
    page.keyboard.press('Control+a')
    page.wait_for_timeout(300)
    assert said(run)==before

def test_in_a_notebook_keys_belong_to_what_has_the_focus(page, run):
    before = said(run)
    press(page, 'n')
    page.wait_for_selector('text=Pair:')
    page.evaluate("""() => { const cell = document.createElement('div'); cell.className = 'jp-NotebookPanel';
        cell.tabIndex = 0; cell.id = 'cell'; document.body.append(cell); cell.focus();
        document.addEventListener('keydown', e => { window.lab = (window.lab || '')+e.key }) }""")
    page.keyboard.press('r')
    page.wait_for_function("window.lab=='r'")
    assert said(run)==before
    page.locator('.rsr-text').first.click()   # a text takes no focus by itself
    press(page, 'r')
    until(page, lambda: said(run)!=before)
    assert page.evaluate('window.lab')=='r'   # the notebook's own commands stay out of it
    press(page, 'u')
    until(page, lambda: said(run)==before)

def test_after_a_label_nothing_is_judged_that_is_not_on_screen(page, run):
    press(page, 'n')
    page.wait_for_selector('text=Pair:')
    before, two = said(run), shown(page)
    page.keyboard.press('2')
    page.wait_for_selector('text=labelled fail by anna')
    labelled = until(page, lambda: said(run)!=before and said(run))
    for key in 'asr':
        page.wait_for_function(f"[...document.querySelectorAll('button.rsr-key-{key}')]"
                               ".every(b => b.disabled || !b.offsetParent)")
        page.keyboard.press(key)
    assert said(run)==labelled
    def take_back():
        page.locator('.rsr-label button').first.click()   # no label
        page.wait_for_timeout(500)
        return said(run)==before
    until(page, take_back)
    assert shown(page)==two

def test_two_annotators_at_once(page, run):
    press(page, 'n')
    page.wait_for_selector('text=Pair:')
    id_ = page.locator('.rsr-id').inner_text()
    st = Store(run.path)
    p = next(p for p, *_ in st.walk() if shown_id(p.id)==id_)
    left = shown(page)[0]
    key = next(r.key for _, _, rs in st.walk(keys=[p.key]) for r in rs if r.idx==left)
    st.review(key, 'fail', annotator='ben')
    st.close()
    before = said(run)
    press(page, 'a')
    page.wait_for_selector('text=is not a pair any more')
    assert said(run)==before
    st = Store(run.path)
    st.review(key, None, annotator='ben')
    st.close()

def shown_rows(page):
    "The texts of the rows on screen."
    return page.locator(ROWS).all_inner_texts()

def status(page):
    return page.locator('.rsr-status').inner_text()

def test_filter_search_and_groups(page):
    page.locator('.rsr-chip:has-text("never passed")').click()
    n = int(re.search(r'never passed \((\d+)\)', page.locator('body').inner_text())[1])
    until(page, lambda: f'{n} of 30 prompts' in status(page))
    page.locator('.rsr-chip:has-text("all (")').click()
    box = page.locator('.rsr-search')
    box.fill(HOSTILE[0])
    box.press('Enter')
    until(page, lambda: '30 of 30' not in status(page) and all('<script>' in t for t in shown_rows(page)))
    page.get_by_role('button', name='show all').click()
    until(page, lambda: '30 of 30 prompts' in status(page))
    box = page.locator('.rsr-filter')
    box.fill('score < 0.5 and verdict == "failed"')
    box.press('Enter')
    until(page, lambda: '30 of 30 prompts' not in status(page))
    page.get_by_role('button', name='responses', exact=True).click()
    until(page, lambda: page.locator('.rsr-head').inner_text().startswith('score'))
    until(page, lambda: (rows := shown_rows(page)) and all(float(t.split('\n')[0])<.5 for t in rows))
    box.fill('scor < 1')
    box.press('Enter')
    page.wait_for_selector("text='scor' at character 1 is no column")
    assert "Did you mean 'score'?" in page.locator('.rsr-error').inner_text()

def test_a_range_drawn_in_one_distribution_shows_in_all(page):
    "With the pointer and with the keys; a click on the range's button takes it back."
    chart = page.locator('.rsr-dist', has=page.locator('figcaption:text-is("score")'))
    other = page.locator('.rsr-dist', has=page.locator('figcaption:text-is("pass rate of a prompt")'))
    before = other.locator('svg').get_attribute('aria-label')
    box = chart.locator('svg').bounding_box()
    y = box['y']+box['height']/2
    page.mouse.move(box['x']+box['width']*.03, y)
    page.mouse.down()
    page.mouse.move(box['x']+box['width']*.3, y, steps=8)
    page.mouse.up()
    until(page, lambda: '0 to 0.3 ×' in chart.inner_text())
    until(page, lambda: other.locator('svg').get_attribute('aria-label')!=before)
    drawn = status(page)
    chart.focus()
    page.keyboard.press('Shift+ArrowRight')
    until(page, lambda: '0 to 0.35 ×' in chart.inner_text() and status(page)!=drawn)
    chart.locator('.rsr-clear').click()
    until(page, lambda: other.locator('svg').get_attribute('aria-label')==before)

def test_the_request_is_shown_without_secrets(page):
    open_row(page, 2)
    page.wait_for_selector('.rsr-request')
    page.evaluate("document.querySelectorAll('.rsr-request').forEach(e => { e.open = true })")
    text = page.locator('.rsr-request').first.inner_text()
    assert '"messages"' in text and '"max_tokens": 64' in text


# ---- conversations

@pytest.fixture(scope='module')
def talk(tmp_path_factory):
    "A run with tools, calls, results and images, all of them hostile, and its page."
    run = talking(tmp_path_factory.mktemp('talk')/'run')
    code = f'from rsr.explore.serve import serve; serve({str(run.path)!r}, open_browser=False, annotator="anna")'
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    yield run, p.stdout.readline().split()[-1]
    p.send_signal(signal.SIGINT)
    p.wait(60)

HARM = """() => ({
    scripts: [...document.scripts].filter(e => e.text.startsWith('window.hacked')).length,
    images: [...document.images].filter(e => !e.src.startsWith('data:image/')).length,
    on: document.querySelectorAll('[onerror],[onclick],[onmouseover],[onload]').length,
    js: document.querySelectorAll('a[href^=javascript]').length, hacked: typeof window.hacked!='undefined'})"""

def test_hostile_calls_results_tools_and_images_stay_texts(browser, talk):
    run, url = talk
    page, asked = new_page(browser), []
    page.on('request', lambda r: asked.append(r.url))
    page.goto(url)
    page.wait_for_selector(ROWS)
    for i in range(len(HOSTILE)):
        open_row(page, i)
        page.wait_for_function(f"document.querySelector('.rsr-id')?.innerText=='q{i}'")
        page.evaluate("document.querySelectorAll('.rsr details').forEach(e => { e.open = true })")
        seen = page.locator('body').inner_text()
        assert 'developer' in seen and 'result of' in seen and 'calls' in seen and '\u202e' not in seen
        assert not any(page.evaluate(HARM).values())
    assert all(re.match(r'https?://(localhost|127\.0\.0\.1)[:/]|data:|blob:', u) for u in asked), asked
    page.close()

def test_the_report_shows_conversations_and_fetches_nothing(browser, talk):
    run, _ = talk
    for width, scheme in (1200, 'light'), (420, 'dark'):
        page, asked = new_page(browser, width, 900, color_scheme=scheme), []
        page.on('request', lambda r, asked=asked: asked.append(r.url))
        page.goto(Path(run.report()).resolve().as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
        assert 'result of' in page.locator('body').inner_text() and not any(page.evaluate(HARM).values())
        assert all(u.startswith(('file:', 'data:')) for u in asked)
        assert page.evaluate('document.documentElement.scrollWidth')<=width
        page.close()
