"The built site, without a browser: `make docs` ends with these"
import json, re
from html.parser import HTMLParser
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit
import pytest
from notebooks import notebooks, nothing, root

html = root/'build/docs/html'
pytestmark = pytest.mark.skipif(not (html/'index.html').exists(), reason='the site is not built: make docs')

class Page(HTMLParser):
    "Links and anchors of a page"
    def __init__(self, path):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ('id','name') if attrs.get(k)}
        for key in ('href','src'):
            if attrs.get(key) and not attrs[key].startswith('data:'): self.links.append(attrs[key])

@pytest.fixture(scope='module')
def pages(): return {p.relative_to(html).as_posix(): Page(p) for p in html.rglob('*.html') if '_static' not in p.parts}

def dead(page, links, pages):
    "The links of a page that lead nowhere on this site"
    for link in links:
        url = urlsplit(link)
        if url.scheme or url.netloc or link=='#': continue
        goal = normpath(join(dirname(page), unquote(url.path))) if url.path else page
        anchors = pages[goal].ids if goal in pages else {unquote(url.fragment)}
        if not (html/goal).exists() or url.fragment and unquote(url.fragment) not in anchors: yield f'{page}: {link}'

def test_no_dead_link(pages):
    assert len(pages)>60
    found = [d for page,p in pages.items() for d in dead(page, p.links, pages)]
    nothing(found, 'links of the site lead somewhere')

def test_search_index_finds_growwidth():
    text = (html/'searchindex.js').read_text(encoding='utf-8')
    index = json.loads(text[text.index('{'):text.rindex('}')+1])
    hits = [index[where].get('growwidth', []) for where in ('terms','titleterms')] # of one page: its number alone
    names = {index['docnames'][i] for found in hits for i in ([found] if isinstance(found, int) else found)}
    assert {'api/grow','methods'}<=names

def test_every_notebook_is_a_page(pages):
    books = {f'nbs/{nb.name}'.replace('.ipynb', '.html') for nb in notebooks if nb.name!='index.ipynb'}
    nothing(books-{*pages}, 'each notebook is a page')

def test_nothing_of_the_machinery_shows(pages):
    def shown(page):
        text = (html/page).read_text(encoding='utf-8')
        text = re.sub(r'<(script|style)\b.*?</\1>', '', text, flags=re.S)
        return [w for w in ('#| ', 'show_doc(', '{target=', 'FutureWarning: ') if w in re.sub(r'<[^>]*>', '', text)]
    found = [f'{page}: {w}' for page in pages if page.startswith(('nbs/','api/')) for w in shown(page)]
    nothing(found, 'directives, warnings and attributes are not shown')

def test_pages_without_a_network(pages):
    "Nothing is loaded from elsewhere, but for the typesetting of formulas"
    links = [l for p in pages.values() for l in p.links if re.match(r'https?:.*\.(js|css|woff2?)', l)]
    assert {urlsplit(l).netloc for l in links}<={'cdn.jsdelivr.net'}, links

def test_llms_txt_names_every_module():
    text = (html/'llms.txt').read_text(encoding='utf-8')
    names = [nb.module for nb in notebooks if nb.module]
    nothing([n for n in names if f'elastic_nets.{n}]' not in text], 'llms.txt has every module')
