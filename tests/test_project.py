"The notebooks run, the modules are theirs, and the package installs"
import importlib, re, runpy, shutil
import pytest
from notebooks import execute, handmade, imports, modules, nothing, notebooks, package, root, run

@pytest.mark.parametrize('nb', notebooks, ids=repr)
def test_notebook_runs(nb, tmp_path): execute(nb, tmp_path/'log')

def test_each_module_can_be_the_first():
    "Imported alone, nothing of the package being there yet"
    run('python', '-c', f'''if True:
        import importlib, sys
        import fastai.vision.all # once: it takes seconds
        for module in {[*modules]}:
            for name in [m for m in sys.modules if m.split('.')[0]=='elastic_nets']: del sys.modules[name]
            exec(f'from elastic_nets.{{module}} import *', {{}})
    ''')

@pytest.fixture
def copy(tmp_path):
    "The notebooks, and of the package only what no notebook writes"
    shutil.copy(root/'pyproject.toml', tmp_path)
    shutil.copytree(root/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    for p in package.rglob('*'):
        if p.name not in handmade|{'__init__.py'} and p.suffix!='.mplstyle': continue
        to = tmp_path/p.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(p, to)
    return tmp_path

def modules_in(folder):
    files = (folder/'elastic_nets').rglob('*.py')
    return {p.relative_to(folder).as_posix(): p.read_text(encoding='utf-8') for p in files}

def test_modules_in_sync(copy):
    run('nbdev-export', cwd=copy)
    here, there = modules_in(root), modules_in(copy)
    nothing(here.keys()-there.keys(), 'each module has its notebook')
    nothing([f for f in there if here.get(f)!=there[f]], 'modules are those of the notebooks: run make export')

def test_notebooks_clean(copy):
    run('nbdev-clean', cwd=copy)
    changed = [nb for nb in notebooks if nb.path.read_bytes()!=(copy/'nbs'/nb.name).read_bytes()]
    nothing(changed, 'notebooks are clean: run make export')

def test_documentation_can_be_made(copy): # nbdev runs each cell of imports alone, and shows each symbol
    shutil.copytree(package, copy/'elastic_nets', dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__'))
    run('nbdev-proc-nbs', cwd=copy, PYTHONPATH=str(copy))

def test_folders_are_packages():
    folders = {p.parent for p in package.rglob('*.py')}
    nothing([f.name for f in folders if not (f/'__init__.py').exists()], 'a folder of modules has an __init__.py')

@pytest.mark.parametrize('nb', modules.values(), ids=repr)
def test_notebook_imports_what_stands_before_it(nb):
    "Lessons may also use what is there to try things on, and to look at them with"
    folder, stem = nb.path.parent.name, nb.path.stem.split('_', 1)[1]
    assert nb.module==f'{folder}.{stem}', 'a notebook exports the module of its name'
    before = {m for m,o in modules.items() if o.number<nb.number}
    graphs = {'channels.rules','channels.trace'} # what makes a lesson's graph
    lent = {m for m in modules if m.split('.')[0] in ('zoo','look')} | graphs
    exported = {m for s in nb.exported for m in imports(s)}
    lessons = {m for s in nb.code if s not in nb.exported for m in imports(s)}
    nothing(exported-before, 'exported code imports what stands before it')
    nothing(lessons-before-lent-{nb.module}, 'a lesson uses what stands before it, the zoo, and pictures')

def test_numbers_are_used_once():
    numbers = [nb.number for nb in modules.values()]
    assert len(set(numbers))==len(numbers)

def test_all():
    import elastic_nets.all, fastai.vision.all
    api = [m for m in modules if m!='app.demo'] # the demo is a command, not a part of the API
    public = [n for m in api for n in importlib.import_module(f'elastic_nets.{m}').__all__]
    names = [n for n in vars(elastic_nets.all) if not n.startswith('_')]
    assert sorted(public)==sorted(names)
    assert set(public) & vars(fastai.vision.all).keys()==set()

def test_readme():
    text = (root/'README.md').read_text(encoding='utf-8')
    assert text==runpy.run_path(root/'scripts/readme.py')['readme'](), 'run make readme'
    head = text.splitlines()[:10]
    assert [c for c in ('make demo', 'make test') if not any(l.startswith(c) for l in head)]==[]
    listed = set(re.findall(r'\]\((?!\w+:|#)([^)#]+)', text))
    nothing({f'nbs/{nb}' for nb in notebooks if nb.name!='index.ipynb'}-listed, 'README lists every notebook')

pages = [p.relative_to(root).as_posix() for p in sorted([*root.glob('*.md'), *root.glob('docs/*.md')])]
@pytest.mark.parametrize('page', pages)
def test_links_lead_somewhere(page):
    text = re.sub(r'```.*?```', '', (root/page).read_text(encoding='utf-8'), flags=re.S)
    links = re.findall(r'\]\((?!\w+:|#)([^)#]+)', text)
    nothing([l for l in links if not ((root/page).parent/l).exists()], 'links lead somewhere')

@pytest.mark.parametrize('nb', notebooks, ids=repr)
def test_links_of_notebooks_lead_somewhere(nb):
    text = '\n'.join(''.join(c['source']) for c in nb.cells if c['cell_type']=='markdown')
    links = re.findall(r'\]\((?!\w+:|#|attachment:)([^)#\s]+)', re.sub(r'`[^`]*`', '', text))
    nothing([l for l in links if not (nb.path.parent/l).exists()], 'links lead somewhere')

def test_changelog_has_version():
    import elastic_nets
    assert f'\n## {elastic_nets.__version__} ' in (root/'CHANGELOG.md').read_text(encoding='utf-8')

def test_ruff(): run('ruff', 'check', '--no-cache', root)

checks = '''if True:
    import elastic_nets.all, fastai.learner, pydoc
    from importlib.metadata import distribution
    from matplotlib import style
    d = distribution('elastic_nets')
    assert elastic_nets.__file__.startswith({site!r}), elastic_nets.__file__
    assert d.version==elastic_nets.__version__
    assert {{'torch>=2.8', 'fastai>=2.8.12'}} <= set(d.requires), d.requires
    assert [e.value for e in d.entry_points if e.load() and e.name=='elastic-nets']==['elastic_nets.app.demo:main']
    text = pydoc.render_doc(fastai.learner.Learner.to_supernet)
    assert 'Parameters:' in text, text
    style.use('elastic_nets.look.onion')
'''

@pytest.mark.parametrize('form', ['checkout', 'wheel'])
def test_installs(form, tmp_path):
    src, site = tmp_path/'src', tmp_path/'site'
    shutil.copytree(root, src, ignore=shutil.ignore_patterns('.*', '*.egg-info', '__pycache__', 'build', 'dist'))
    if form=='wheel': # by way of a source distribution, as a release is built
        run('python', '-m', 'build', '--no-isolation', '--outdir', tmp_path, src)
        src, = tmp_path.glob('*.whl')
    run('pip', 'install', '--no-deps', '--no-build-isolation', '--target', site, src)
    run('python', '-c', checks.format(site=str(site)), cwd=tmp_path, PYTHONPATH=str(site))
