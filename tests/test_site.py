"What the site is made of, without making it: an entry for each public name, cards from rows, links that work"
import re, runpy, sys
import pytest
import elastic_nets.all as elastic
from notebooks import nothing, root

sys.path.insert(0, str(root/'scripts'))
import api_pages # noqa: E402
import cards # noqa: E402
import make_site # noqa: E402

@pytest.fixture(scope='module')
def api(): return '\n'.join(api_pages.pages().values())

def test_every_public_name_has_an_entry(api):
    names = [n for n in vars(elastic) if n[0]!='_']
    nothing([n for n in names if f'\n### {n}\n' not in api], 'each public name is in the API')

WORDS = {'ax','sn','test','DataLoaders','TorchFunctionMode','FlopCounterMode','AveragedModel','ModelEmaV3','to_bf16',
         'after_grow','replace','dataclasses','print','space','safetensors'} # of other libraries, or of Python

@pytest.mark.parametrize('name', api_pages.modules())
def test_module_says_what_it_has(name):
    "In more than a line, with names that are there"
    module = api_pages.module_of(name)
    first, empty, *more = module.__doc__.strip().splitlines()
    assert first and not empty and 2<=len(more)<=5
    known = {*dir(module), *vars(elastic), *(n for cls in api_pages.classes() for n in dir(cls)), *WORDS}
    known |= {part for m in api_pages.modules() for part in m.split('.')} | {'elastic_nets','onion','dark'}
    code = [c for c in re.findall(r'`([^`]+)`', module.__doc__) if not re.match(r'pip |make |elastic-nets ', c)]
    said = [n for c in code for n in re.findall(r'(?<![\w\'])([A-Za-z_]\w*)(?=[\s\w.]*(?:$|\())', c.split('(')[0])]
    nothing(sorted({*said}-known-{'with'}), 'a module names what is there')

def test_package_lists_its_modules():
    import elastic_nets
    lines = elastic_nets.__doc__.splitlines()
    nothing([m for m in api_pages.modules() if not any(l.startswith(f'- `elastic_nets.{m}`: ') for l in lines)],
            'help(elastic_nets) has each module')

def test_llms_txt():
    "The site's has what a module says of itself and all names, nbdev's the promises"
    text, short = api_pages.llms_txt(), (root/'nbs/llms.txt').read_text(encoding='utf-8')
    for name in api_pages.modules():
        promise, more = api_pages.module_of(name).__doc__.strip().split('\n\n')
        assert promise in text and f' {" ".join(more.split())}\n' in text
        assert f'- `elastic_nets.{name}`: {promise}' in short

def test_methods_of_learners_have_entries(api):
    assert [n for n in ('to_supernet','subnet','search_subnet') if f'### Learner.{n}\n' not in api]==[]

def test_parameters_have_their_comments(api):
    entry = api[api.index('### GrowWidth\n'):]
    assert '| `start` | float | `None` | Width of the first stage, in (0, 1); default .5 |' in entry
    assert 'Seen at work in [33_growing](../nbs/grow/33_growing.ipynb)' in entry

def test_a_card_per_method():
    page = cards.page()
    import verdicts_report # where the cards look
    for name in cards.METHODS:
        card = page[page.index(f'## {name}\n'):].split('\n## ')[0]
        assert [w for w in ('What it is', 'When it pays', 'What we measured', 'More') if f'**{w}.**' not in card]==[]
    told = [c for c in verdicts_report.CLAIMS if c.text in page]
    assert len(told)>.8*len(verdicts_report.CLAIMS)
    assert all(c.found.verdict in page for c in told)

def test_cards_name_what_is_there():
    nothing([n for n in cards.METHODS if not hasattr(elastic, n)], 'a card is about a public name')
    nothing([b for b,*_ in cards.METHODS.values() if not (root/f'nbs/{b}.ipynb').exists()], 'a card has a lesson')

@pytest.fixture
def links(): return make_site.Links({'nbs/grow/30_widen.ipynb','docs/onion.md','nbs/grow/index.md','index.md'},
                                    {'GrowWidth':'api/grow.md', 'Space.sample':'api/subnets.md'})

@pytest.mark.parametrize('text,want', [
    ('[`GrowWidth`](/grow/growing.html#growwidth)', '[`GrowWidth`](../../api/grow.md#growwidth)'),
    ('[`Space.sample`](/subnets/subnet.html#space.sample)', '[`Space.sample`](../../api/subnets.md#spacesample)'),
    ('[`_inner`](/grow/growing.html#_inner)', '`_inner`'),
    ('[widen](../grow/30_widen.ipynb#two)', '[widen](../grow/30_widen.ipynb#two)'),
    ('[o](../../docs/onion.md)', '[o](../../docs/onion.md)'), ('[tests](../../tests)', 'tests'),
    ('[grow](../grow)', '[grow](../grow/index.md)'), ('[home](../index.ipynb)', '[home](../../index.md)'),
    ('[p](https://arxiv.org)', '[p](https://arxiv.org)'), ('`[a](b)` and `c`', '`[a](b)` and `c`'),
    ('| [`GrowWidth`](/g.html#x) | [`GrowWidth`](/g.html#x) |',
     '| [`GrowWidth`](../../api/grow.md#growwidth) | [`GrowWidth`](../../api/grow.md#growwidth) |')])
def test_links(links, text, want): assert links('nbs/shrink/21_recipe.ipynb', text)==want

def test_cells_of_a_page():
    def cell(kind, src, **kw): return dict(cell_type=kind, source=src, id='x', metadata={}, **kw)
    def page_cell(c): return make_site.page_cell(c, 'nbs/grow/33_growing.ipynb')
    title = page_cell(cell('raw', '---\ntitle: x\n---'))['source']
    assert title.startswith('# Growing in the middle of a fit\n\n> One callback') and 'You meet this in' in title
    assert page_cell(cell('markdown', '<!-- WARNING: x -->')) is None
    widget = dict(output_type='display_data', data={'application/vnd.jupyter.widget-view+json': {}})
    shown = page_cell(cell('code', '#| slow\nf()', outputs=[widget]))
    assert (shown['source'], shown['outputs'], shown['metadata'])==('f()', [], dict(tags=[]))
    solution = page_cell(cell('code', '#| code-fold: true\n# Solution\nf()', outputs=[]))
    assert (solution['source'], solution['metadata'])==('# Solution\nf()', dict(tags=['hide-input']))
    said = dict(data={'text/markdown': '---\n\n[source](/blob/x){target="_blank"}\n\n### f\n'})
    doc = page_cell(cell('code', '#| echo: false\n#| output: asis\nshow_doc(f)', outputs=[said]))
    assert (doc['cell_type'], doc['source'])==('markdown', '### f')

def test_configuration(): assert runpy.run_path(str(root/'site/conf.py'))['nb_execution_mode']=='off'
