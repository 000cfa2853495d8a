"""The page of a comparison: complete in itself, and in a browser (where there is one) it does what it says."""

import os
import re
import shutil
import subprocess

import pytest
from comparing import Methods, compare, noise, option_file, page_data, write_images

from kernelfusion_plugin.bench.compare.page import fill, spread

BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
NAMES = ('a <b>&"\'|$y$_k1', 'ünï 中_k2', 'im[1]<!--<script>alert(1)_k1')
METHODS = ('a <script>', 'b', 'c')
in_browser = pytest.mark.skipif(BROWSER is None, reason='there is no Chromium')


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """A page of two methods and one that failed, on images of odd names."""
    root = tmp_path_factory.mktemp('page')
    data = write_images(root / 'data', NAMES)
    with pytest.MonkeyPatch.context() as patch:
        Methods(patch, **dict(zip(METHODS, (noise(3), noise(12), 'it fell over'))))
        files = [option_file(root / f'{number}.yml', data, name) for number, name in enumerate(METHODS)]
        assert compare('-opt', *files, '--out', root / 'out').exit_code == 1
    return root / 'out' / 'comparison.html'


def test_page_needs_nothing_but_itself_and_names_are_text(page):
    text = page.read_text(encoding='utf-8')
    data = page_data(page.parent)
    assert [view['name'] for view in data['views']] == [NAMES[0], NAMES[2], NAMES[1]]
    assert not re.search(r'(?:src|href|url)\s*[=(]|@import|https?://', text.partition('<script type')[0])
    assert "default-src 'none'" in text and text.count('</script>') == 2
    pictures = [picture['src'] for view in data['views'] for picture in view['pictures']]
    assert len(pictures) == 3 * 4 and all(src.startswith('data:image/webp;base64,') for src in pictures)
    assert data['kernels'] is None and data['boxes'].startswith('data:image/png;base64,')
    assert data['faults'] == ['c, all images: failed with status 1: it fell over']


def test_data_cannot_leave_its_element():
    text = fill({'title': '</script><script>alert(1)</script><!--\u2028'})
    assert text.count('</script>') == 2 and '\\u003c/script>' in text


def test_pictures_in_the_page_are_spread_over_the_images():
    keys = [('d', str(number)) for number in range(10)]
    assert spread(keys, 10) == keys and spread(keys, 0) == []
    assert spread(keys, 4) == [('d', '0'), ('d', '3'), ('d', '6'), ('d', '9')]


@in_browser
def test_browser_draws_all_parts(page, tmp_path):
    command = [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}',
               '--window-size=1200,900', '--virtual-time-budget=3000', '--enable-logging=stderr', '--dump-dom',
               page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120,
                         env={**os.environ, 'HOME': str(tmp_path)})
    assert 'data-ready="yes"' in ran.stdout, ran.stderr[-2000:]
    assert 'CONSOLE' not in ran.stderr, ran.stderr
    body = ran.stdout.partition('<script type')[0]
    assert body.count('<canvas') == 4 and 'alert(1)' in body and '<b>' not in body
    assert len(re.findall('<tr>', body)) == 3 + 1 + 3 + 1 + 3 + 1 + 3 + 1  # means, groups, images, methods
    assert 'it fell over' in body and 'lacks' not in body


@in_browser
def test_slider_and_sorting_by_keyboard(page):
    """Needs playwright beside Chromium."""
    sync_api = pytest.importorskip('playwright.sync_api')
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
        tab = browser.new_page()
        asked = []
        tab.on('request', lambda request: asked.append(request.url))
        tab.goto(page.as_uri())
        tab.focus('#slider')
        tab.keyboard.press('Home')
        for _ in range(4):
            tab.keyboard.press('ArrowRight')
        assert tab.evaluate('document.getElementById("stage").style.getPropertyValue("--at")') == '2%'
        assert tab.get_attribute('#slider', 'aria-valuetext') == '2 %'
        assert tab.inner_text('.tag.left') == METHODS[0] and tab.inner_text('.tag.right') == 'b'
        before = tab.get_attribute('.stage .before', 'src')
        tab.focus('#swap')
        tab.keyboard.press('Enter')
        assert tab.get_attribute('.stage .after', 'src') == before
        tab.focus('#next')
        tab.keyboard.press('Space')
        assert NAMES[2] in tab.inner_text('#where')
        tab.focus('#means th:nth-child(2) button')
        first = []
        for _ in range(2):
            tab.keyboard.press('Enter')
            first.append(tab.inner_text('#means tbody tr:first-child td:first-child'))
        assert first == [METHODS[0], 'b'] and tab.inner_text('#means tbody tr:last-child td') == 'c: failed'
        assert tab.get_attribute('#means th:nth-child(2)', 'aria-sort') == 'ascending'
        assert [url for url in asked if not url.startswith('data:')] == [page.as_uri()]
        browser.close()
