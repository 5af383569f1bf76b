"The built site in a real browser: `make browser-site`"
import io
import pytest
from browser import a_browser, serving
from notebooks import root

html = root/'build/docs/html'

@pytest.fixture(scope='module')
def browser():
    with a_browser() as b: yield b

@pytest.fixture(scope='module')
def site():
    if not (html/'index.html').exists(): pytest.skip('the site is not built: make docs')
    with serving(html) as address: yield address

@pytest.fixture
def page(browser):
    page = browser.new_page(viewport=dict(width=1200, height=900))
    page.route('**/*', lambda route: route.continue_() if '127.0.0.1' in route.request.url else route.abort())
    yield page
    page.close()

def test_search_finds_growwidth(page, site):
    page.goto(f'{site}/search.html?q=GrowWidth')
    page.wait_for_selector('#search-results li a', timeout=20_000)
    page.wait_for_function('document.querySelector("#search-results").innerText.includes("found")', timeout=20_000)
    links = page.eval_on_selector_all('#search-results li a', 'as => as.map(a => a.href)')
    assert any('/api/grow.html' in link for link in links), links

def test_parameters_of_growwidth_are_shown(page, site):
    page.goto(f'{site}/api/grow.html#growwidth')
    table = page.locator('section#growwidth table').first
    assert table.is_visible()
    rows = table.locator('tbody tr').all_inner_texts()
    assert any(r.startswith('start') and 'Width of the first stage' in r for r in rows), rows

@pytest.mark.parametrize('which', range(3))
def test_a_player_plays(page, site, which):
    page.clock.install() # of the page; time passes when we say so, and nobody waits for it
    page.goto(f'{site}/nbs/look/51_explore.html')
    player = page.locator('.animation').nth(which)
    picture, slider = player.locator('img'), player.locator('input[type=range]')
    player.locator('button[title="First frame"]').click()
    before = picture.get_attribute('src'), slider.input_value()
    player.locator('button[title="Play"]').click()
    page.clock.run_for(1500)
    assert (picture.get_attribute('src'), slider.input_value())!=before
    player.locator('button[title="Pause"]').click()
    stopped = slider.input_value()
    page.clock.run_for(1500)
    assert slider.input_value()==stopped

def brightness(png):
    "Mean of the pixels, and how far the darkest are from the lightest, 0 to 255"
    from PIL import Image
    import numpy as np
    grey = np.asarray(Image.open(io.BytesIO(png)).convert('L')).astype(float)
    return grey.mean(), np.percentile(grey, 99.5)-np.percentile(grey, .5)

def test_pictures_are_legible_in_the_dark(browser, site):
    page = browser.new_page(viewport=dict(width=1200, height=900), color_scheme='dark')
    page.goto(f'{site}/nbs/look/50_plots.html')
    assert brightness(page.screenshot())[0]<90 # the page is dark
    pictures = page.locator('.cell_output img')
    assert pictures.count()>8
    for i in range(pictures.count()):
        mean, contrast = brightness(pictures.nth(i).screenshot())
        assert contrast>90, f'picture {i}: {contrast}'
    page.close()

def test_text_is_legible_in_the_dark(browser, site):
    "Of tables and of players, too, which bring a style of their own"
    page = browser.new_page(viewport=dict(width=1200, height=900), color_scheme='dark')
    for where, selector in [('nbs/course/01_ten_minutes.html', '.cell_output table'),
                            ('nbs/look/51_explore.html', '.animation'), ('api/grow.html', 'table')]:
        page.goto(f'{site}/{where}')
        assert brightness(page.locator(selector).first.screenshot())[1]>90, where
    page.close()
