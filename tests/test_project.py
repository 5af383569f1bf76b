"The notebooks run, the modules are theirs, and the package installs"
import ast, importlib, json, os, re, runpy, shutil, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
package = root/'elastic_nets'
handmade = {'__init__.py', 'all.py'}

def run(*args, cwd=root, **env):
    "Run a command, its name being looked up beside this Python; a failure shows the end of its output"
    cmd = [sys.executable if args[0] == 'python' else Path(sys.executable).parent/args[0], *args[1:]]
    r = subprocess.run(cmd, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    if r.returncode: pytest.fail(f'{" ".join(map(str, args))}\n{(r.stdout + r.stderr)[-5000:]}', pytrace=False)
    return r.stdout

class Notebook:
    def __init__(self, path):
        self.path, self.name = path, path.relative_to(root/'nbs').as_posix()
        self.cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        self.code = [''.join(c['source']) for c in self.cells if c['cell_type'] == 'code']
        self.module = next((m[1] for s in self.code if (m := re.search(r'^#\|\s*default_exp:?\s+(\S+)', s, re.M))), None)
        self.number = int(m[0]) if path.parent == root/'nbs' and (m := re.match(r'\d+', path.name)) else None

    def __repr__(self): return self.name

notebooks = [Notebook(p) for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
modules = {nb.module: nb for nb in notebooks if nb.module}
api = [m for m in modules if m != 'demo'] # the demo is a command, not a part of the API

def exported(nb): return [s for s in nb.code if re.match(r'#\|\s*export', s)]

def lines(src): return [l for l in src.splitlines() if l.strip() and not l.strip().startswith('#')]

def symbols(src):
    "What a cell defines at its top level; a method patched into a class and a private constant may stand beside it"
    body = ast.parse(src).body
    defs = [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and 'patch' not in ' '.join(map(ast.unparse, n.decorator_list))]
    names = [ast.unparse(t) for n in body if isinstance(n, ast.Assign) for t in n.targets]
    return defs + [n for n in names if not n.startswith('_')]

def imports(src):
    "Modules of this package that a cell imports"
    for n in ast.walk(ast.parse(re.sub(r'^(\s*)[%!].*', r'\1pass', src, flags=re.M))):
        if isinstance(n, ast.Import): names = [a.name for a in n.names]
        elif isinstance(n, ast.ImportFrom): names = [f'{n.module}.{a.name}' for a in n.names]
        else: continue
        yield from (o.split('.')[1] for o in names if o.startswith('elastic_nets.'))

@pytest.mark.parametrize('nb', notebooks, ids=repr)
def test_notebook_runs(nb):
    assert 'Success' in run('nbdev-test', nb.path)

@pytest.mark.parametrize('module', modules)
def test_module_in_fresh_process(module):
    run('python', '-c', f'from elastic_nets.{module} import *')

@pytest.fixture
def copy(tmp_path):
    "The notebooks, and of the package only what no notebook writes"
    shutil.copy(root/'pyproject.toml', tmp_path)
    shutil.copytree(root/'nbs', tmp_path/'nbs')
    (tmp_path/'elastic_nets').mkdir()
    for f in handmade: shutil.copy(package/f, tmp_path/'elastic_nets')
    return tmp_path

def test_modules_in_sync(copy):
    run('nbdev-export', cwd=copy)
    here, there = ({p.name: p.read_text(encoding='utf-8') for p in (d/'elastic_nets').glob('*.py')} for d in (root, copy))
    assert here.keys() == there.keys(), 'a module without a notebook, or not exported'
    assert [f for f in here if here[f] != there[f]] == [], 'run nbdev-export'

def test_notebooks_clean(copy):
    run('nbdev-clean', cwd=copy)
    assert [nb for nb in notebooks if nb.path.read_bytes() != (copy/'nbs'/nb.name).read_bytes()] == [], 'run nbdev-clean'

@pytest.mark.parametrize('nb', notebooks, ids=repr)
def test_notebook_form(nb):
    assert nb.path.stat().st_size < 300_000
    ids = [c.get('id') for c in nb.cells]
    assert all(ids) and len(ids) == len(set(ids)), 'cells without an id of their own'
    assert [s for s in exported(nb) if len(lines(s)) > 30] == [], 'exported cells of more than 30 lines'
    assert [o for s in exported(nb) if len(o := symbols(s)) > 1] == [], 'exported cells of more than one symbol'

@pytest.mark.parametrize('nb', [nb for nb in notebooks if nb.number is not None], ids=repr)
def test_imports_lower_numbers(nb):
    assert nb.module == nb.path.stem.split('_', 1)[1], 'a notebook exports the module of its name'
    lower = {m for m, o in modules.items() if o.number < nb.number} | {'__version__'}
    assert {m for s in nb.code for m in imports(s)} <= lower

def test_all():
    import elastic_nets.all, fastai.vision.all
    public = [n for m in api for n in importlib.import_module(f'elastic_nets.{m}').__all__]
    assert sorted(public) == sorted(n for n in vars(elastic_nets.all) if not n.startswith('_'))
    assert set(public) & vars(fastai.vision.all).keys() == set()

def test_readme():
    text = (root/'README.md').read_text(encoding='utf-8')
    assert text == runpy.run_path(root/'scripts/readme.py')['readme'](), 'run make readme'
    head = text.splitlines()[:10]
    assert [c for c in ('make demo', 'make test') if not any(l.startswith(c) for l in head)] == []
    links = re.findall(r'\]\((?!\w+:|#)([^)#]+)', text)
    assert [l for l in links if not (root/l).exists()] == []
    assert {f'nbs/{nb}' for nb in notebooks if nb.name != 'index.ipynb'} <= set(links), 'a notebook that the README does not list'

def test_changelog_has_version():
    import elastic_nets
    assert f'\n## {elastic_nets.__version__} ' in (root/'CHANGELOG.md').read_text(encoding='utf-8')

def test_ruff(): run('ruff', 'check', '--no-cache', root)

@pytest.mark.parametrize('form', ['checkout', 'wheel'])
def test_installs(form, tmp_path):
    src = tmp_path/'src'
    shutil.copytree(root, src, ignore=shutil.ignore_patterns('.*', '*.egg-info', '__pycache__', 'build', 'dist'))
    if form == 'wheel': # by way of a source distribution, as a release is built
        run('python', '-m', 'build', '--no-isolation', '--outdir', tmp_path, src)
        src, = tmp_path.glob('*.whl')
    run('pip', 'install', '--no-deps', '--no-build-isolation', '--target', tmp_path/'site', src)
    out = run('python', '-c', '''if True:
        import elastic_nets.all
        from importlib.metadata import distribution
        d = distribution('elastic_nets')
        print(elastic_nets.__file__, elastic_nets.__version__, d.version, *d.requires, *[e.value for e in d.entry_points if e.load()])
    ''', cwd=tmp_path, PYTHONPATH=str(tmp_path/'site')).split()
    assert out[0] == str(tmp_path/'site/elastic_nets/__init__.py') and out[1] == out[2]
    assert {'torch>=2.8', 'fastai>=2.8.12', 'elastic_nets.demo:main'} <= set(out)
