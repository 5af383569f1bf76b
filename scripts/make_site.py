"""Sources of the site: notebooks with the documentation of what they export, pages, an API, cards, llms.txt

python scripts/make_site.py build/docs/source

The folders are those of the repository, so that links between pages stay as they are. `make docs` lets sphinx make
HTML of them; nothing here needs a network.
"""
import json, os, re, shutil, subprocess, sys, tempfile
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

root = Path(__file__).resolve().parent.parent
ROOMS = dict(
    course='The course', channels='Channels', subnets='Subnets', shrink='Shrink', grow='Grow', use='Use', look='Look',
    zoo='Zoo', app='The demo')
RESULTS = ('growing', 'shrinking', 'onion', 'speed', 'verdicts', 'using', 'trust', 'coverage')

# Notebooks, as nbdev prepares them

def processed(to):
    "Copies of all notebooks with the documentation of exported symbols in them, by nbdev"
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        shutil.copy(root/'pyproject.toml', tmp)
        for folder in ('nbs','elastic_nets'):
            shutil.copytree(root/folder, tmp/folder, ignore=shutil.ignore_patterns('.*', '__pycache__'))
        bin = tmp/'bin'
        bin.mkdir()
        (bin/'quarto').write_text('#!/bin/sh\n') # nbdev wants it to be there, and calls it only for HTML of its own
        (bin/'quarto').chmod(0o755)
        path = f'{bin}{os.pathsep}{os.environ["PATH"]}'
        env = dict(os.environ, PATH=path, PYTHONPATH=str(tmp), PYTHONWARNINGS='ignore')
        cmd = [sys.executable, '-c', 'from nbdev.quarto import nbdev_proc_nbs; nbdev_proc_nbs()']
        done = subprocess.run(cmd, cwd=tmp, env=env, capture_output=True, text=True)
        if done.returncode: sys.exit(done.stdout+done.stderr)
        shutil.copytree(tmp/'_proc', to, ignore=shutil.ignore_patterns('*.yml', '.*'))

def documented(cell):
    "What nbdev says of a symbol, without the link to a source that it does not know"
    text = ''.join(''.join(o.get('data', {}).get('text/markdown', '')) for o in cell['outputs'])
    text = re.sub(r'^\[source\]\(.*\n', '', text, flags=re.M)
    return re.sub(r'^---$', '', text, flags=re.M).strip()

def heading(page):
    "The cell with the title: nbdev keeps a title and a line of it, a chapter of the course says more there"
    cells = json.loads((root/page).read_text(encoding='utf-8'))['cells']
    texts = (''.join(c['source']) for c in cells if c['cell_type']=='markdown')
    return next((t for t in texts if t.startswith('# ')), '# '+Path(page).stem)

def markdown(cell, text): return dict(cell_type='markdown', id=cell.get('id', 'title'), metadata={}, source=text)

def page_cell(cell, page):
    "A cell as the site shows it; None where it shows nothing"
    src = ''.join(cell['source'])
    if cell['cell_type']=='raw': return markdown(cell, heading(page)) if src.startswith('---') else None
    if cell['cell_type']=='markdown': return None if src.startswith('<!-- WARNING') else markdown(cell, src)
    if 'show_doc(' in src and 'echo: false' in src: return markdown(cell, documented(cell))
    shown = re.sub(r'^#\|.*\n?', '', src, flags=re.M)
    tags = ['remove-input'] if 'echo: false' in src or not shown.strip() else []
    if re.match(r'#\| code-fold: true', src): tags.append('hide-input') # a solution, which a click unfolds
    outputs = [o for o in cell['outputs'] if not unseen(o)]
    return dict(cell, metadata=dict(tags=tags), source=shown, outputs=outputs, execution_count=None)

def unseen(output):
    "A widget needs a kernel: what stands beside it is for a page"
    return 'application/vnd.jupyter.widget-view+json' in output.get('data', {})

# Links

class Links:
    "Where a link of a page leads on the site"
    def __init__(self, there, names): self.there, self.names = there, names # pages; public name -> page of the API

    def __call__(self, page, text):
        "`text` of the page `page` (a path from the top of the repository) with links that work on the site"
        link = r'(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#|attachment:)([^)\s]+)\)'
        code = r'^```.*?^```|`[^`\n]*`' # stays as it is
        def one(m): return m[0] if m[1] is None else self._link(page, m[1], m[2])
        return re.sub(f'{link}|{code}', one, text, flags=re.M|re.S)

    def _link(self, page, text, target):
        if target.startswith('/'): return self._symbol(page, text, target)
        path, _, anchor = target.partition('#')
        goal = normpath(join(dirname(page), path))
        if goal in ('README.md', 'nbs/index.ipynb', 'nbs'): goal = 'index.md'
        if goal+'/index.md' in self.there: goal += '/index.md'
        if goal not in self.there: return text # a file of the repository that is no page
        return f'[{text}]({relpath(goal, dirname(page) or ".")}{"#"+anchor if anchor else ""})'

    def _symbol(self, page, text, target):
        name = text.strip('`').split('(')[0]
        if name not in self.names: return text
        return f'[{text}]({relpath(self.names[name], dirname(page) or ".")}#{slug(name)})'

def slug(name): return re.sub(r'[^\w-]', '', name.lower())

# The pages

def toctree(pages, caption=''):
    "For the list at the side; the page itself says more of each"
    return '\n'.join(['```{toctree}', ':hidden:', *[f':caption: {caption}' for _ in [0] if caption], '', *pages, '```'])

def title_of(path):
    "Title and promise of a notebook: what is quoted first, up to an empty line"
    for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
        found = re.match(r'# (.+)(?:\n+((?:> .*\S.*\n?)+))?', ''.join(c['source']))
        if found and c['cell_type']=='markdown':
            return found[1].strip(), ' '.join(l[2:].strip() for l in (found[2] or '').splitlines())
    return path.stem, ''

def room_page(folder):
    "What is in a room: its notebooks and their promises"
    paths = sorted((root/'nbs'/folder).glob('*.ipynb'))
    lines = [f'- [{title}]({p.name}): {promise}' for p in paths for title,promise in [title_of(p)]]
    return f'# {ROOMS[folder]}\n\n'+'\n'.join(lines)+'\n\n'+toctree([p.stem for p in paths])

def index_page():
    "The README, and the ways into the site"
    text = (root/'README.md').read_text(encoding='utf-8')
    rooms = [f'nbs/{f}/index' for f in ROOMS if f!='course']
    ways = {'Learn': ['nbs/course/index', 'methods'], 'Rooms': rooms, 'Reference': ['api/index'],
            'Results': [f'docs/{r}' for r in RESULTS], 'Project': ['CONTRIBUTING', 'CHANGELOG']}
    return '\n\n'.join([text, *[toctree(pages, caption) for caption,pages in ways.items()]])+'\n'

def make(to):
    "Everything that sphinx needs, in the folder `to`"
    import api_pages, cards
    shutil.rmtree(to, ignore_errors=True)
    processed(to/'nbs')
    (to/'nbs/index.ipynb').unlink() # the README is made from it
    texts = {'index.md': index_page(), 'methods.md': cards.page()}
    texts |= {f'nbs/{f}/index.md': room_page(f) for f in ROOMS}
    texts |= {p: (root/p).read_text(encoding='utf-8') for p in ('CONTRIBUTING.md', 'CHANGELOG.md')}
    texts |= {f'docs/{r}.md': (root/f'docs/{r}.md').read_text(encoding='utf-8') for r in RESULTS}
    texts |= api_pages.pages()
    books = [p.relative_to(to).as_posix() for p in sorted((to/'nbs').rglob('*.ipynb'))]
    links = Links({*texts, *books}, api_pages.where())
    for page,text in texts.items():
        (to/page).parent.mkdir(parents=True, exist_ok=True)
        (to/page).write_text(links(page, text), encoding='utf-8')
    for book in books: write_book(to/book, book, links)
    for png in (root/'docs').glob('*.png'): shutil.copy(png, to/'docs')
    shutil.copytree(root/'nbs/images', to/'nbs/images', dirs_exist_ok=True) # those of the README
    shutil.copytree(root/'site', to, dirs_exist_ok=True) # conf.py, the style sheet
    (to/'_extra').mkdir()
    (to/'_extra/llms.txt').write_text(api_pages.llms_txt(), encoding='utf-8')

def write_book(path, page, links):
    nb = json.loads(path.read_text(encoding='utf-8'))
    nb['cells'] = [shown for c in nb['cells'] if (shown := page_cell(c, page)) is not None]
    for c in nb['cells']:
        if c['cell_type']=='markdown': c['source'] = links(page, c['source'])
    path.write_text(json.dumps(nb), encoding='utf-8')

if __name__=='__main__': make(Path(sys.argv[1]))
