"The rules of this house: lines that can be read, lessons right below the code, names that say who may use them"
import ast, dataclasses, importlib, inspect, pydoc, re
import pytest
from fastai.callback.core import event
from fastai.learner import Learner
from fastcore.docments import docments
import elastic_nets.all as elastic
from notebooks import (
    Notebook, code_lines, first_line, is_export, is_import, methods, modules, nothing, notebooks, parsed, patched_class,
    place, py_files)

WIDTH = 120 # Columns of a line
CELL = 30 # Lines of an exported cell
NOTEBOOK = 450 # Exported lines of a notebook
FILE = 450 # Lines of a test file
METHODS = 20 # Of a class, patched ones included
SILENT = 4 # Exported cells in a row
FOLLOWED = .6 # Share of the exported cells with a running cell right below
MUTE = .15 # Share of the running cells that may end showing and testing nothing

BY_NBDEV = '__all__', '- `elastic_nets.' # names of a module, modules of the package

def too_wide(lines): return [i for i,l in enumerate(lines, 1) if len(l)>WIDTH and not l.startswith(BY_NBDEV)]

@pytest.mark.parametrize('folder', ['elastic_nets', 'tests', 'benchmarks', 'scripts'])
def test_lines_are_short(folder):
    wide = [place(p, i) for p in py_files(folder) for i in too_wide(p.read_text(encoding='utf-8').splitlines())]
    nothing(wide, f'a line has at most {WIDTH} columns')

def test_lines_of_lessons_are_short():
    lines = [(nb, l) for nb in notebooks for s in nb.code if not is_export(s) for l in s.splitlines()]
    nothing([f'{nb}: {l[:80]}...' for nb,l in lines if len(l)>WIDTH], f'a line has at most {WIDTH} columns')

def test_test_files_are_short():
    lengths = {p.name: len(p.read_text(encoding='utf-8').splitlines()) for p in py_files('tests')}
    nothing([f'{p}: {n}' for p,n in lengths.items() if n>FILE], f'a test file has at most {FILE} lines')

def symbols(src):
    "What a cell defines at its top level; a method patched into a class and a private constant may stand beside it"
    body = parsed(src).body
    defined = [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not patched_class(n)]
    names = [ast.unparse(t) for n in body if isinstance(n, ast.Assign) for t in n.targets]
    return defined+[n for n in names if not n.startswith('_')]

def cells(which): return [f'{nb}: {first_line(s)}' for nb in notebooks for s in which(nb)]

def test_exported_cells_are_short():
    def long(nb): return [s for s in nb.exported if len(code_lines(s))>CELL]
    nothing(cells(long), f'an exported cell has at most {CELL} lines')

def test_exported_cells_define_one_thing():
    nothing(cells(lambda nb: [s for s in nb.exported if len(symbols(s))>1]), 'an exported cell defines one symbol')

def test_notebooks_hold_one_idea():
    lengths = {nb: sum(len(code_lines(s)) for s in nb.exported) for nb in notebooks}
    nothing([f'{nb}: {n}' for nb,n in lengths.items() if n>NOTEBOOK], f'a notebook exports at most {NOTEBOOK} lines')

def test_notebooks_are_small():
    nothing([nb for nb in notebooks if nb.path.stat().st_size >= 300_000], 'a notebook has less than 300 KB')

def test_cells_have_ids_of_their_own():
    ids = {nb: [c.get('id') for c in nb.cells] for nb in notebooks}
    nothing([nb for nb,i in ids.items() if not all(i) or len(i)>len(set(i))], 'each cell has an id of its own')

def test_imports_stand_alone():
    "nbdev runs a cell with imports by itself, so nothing else may be in it"
    def mixed(nb): return [s for s in nb.code if len({is_import(n) for n in parsed(s).body})==2]
    nothing(cells(mixed), 'a cell with imports holds nothing else')

# ---- teaching

def test_something_runs_every_few_cells():
    rows = {nb: nb.silent() for nb in notebooks}
    nothing([f'{nb}: {len(row)}, from {first_line(row[0])}' for nb,row in rows.items() if len(row)>SILENT],
            f'after {SILENT} exported cells something runs')

def test_lessons_follow_the_code():
    rows = {nb: (len(nb.followed()), len(nb.definitions())) for nb in modules.values()}
    followed, exported = [sum(row[i] for row in rows.values()) for i in (0,1)]
    few = [f'{nb}: {f} of {n}' for nb,(f,n) in rows.items() if f<FOLLOWED*n]
    rule = f'{FOLLOWED:.0%} of the exported cells have a running cell right below, here {followed} of {exported}'
    if followed < FOLLOWED*exported: nothing(few, rule)

def test_lessons_show_something():
    mute, running = cells(Notebook.mute), sum(len(nb.running) for nb in notebooks)
    if len(mute) > MUTE*running: nothing(mute, f'at most {MUTE:.0%} of {running} running cells show and test nothing')

def is_noise(output):
    "Progress bars, other libraries' warnings, objects without a picture or table, numbers of 15 digits"
    data = output.get('data', {})
    text = ''.join(output.get('text', '')) + ''.join(data.get('text/plain', ''))
    html = ''.join(data.get('text/html', ''))
    shown = any(k.startswith('image') for k in data) or '<table' in html or 'class="animation"' in html
    if text.startswith('<IPython.core') and not shown: return True
    return bool(re.search(r'\r|FutureWarning|█|^[\[({\d].*\d\.\d{15}', text, re.S))

def test_outputs_are_no_noise():
    def noisy(nb): return [''.join(c['source']) for c in nb.cells if any(map(is_noise, c.get('outputs', [])))]
    nothing(cells(noisy), 'an output shows what the lesson is about')

# ---- names

def test_no_private_name_of_a_sibling():
    "What another module needs has a public name; `#| exporti` keeps it out of `__all__`"
    found = []
    for path in py_files('elastic_nets'):
        if path.name=='all.py': continue # it hides its own
        for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(n, ast.ImportFrom): continue
            if not n.level and n.module.split('.')[0]!='elastic_nets': continue
            found += [f'{place(path, n.lineno)} {a.name}' for a in n.names if a.name[0]=='_' and a.name!='__version__']
    nothing(found, 'what a sibling needs has a public name')

def test_classes_do_one_thing():
    "Methods that are patched into a class count"
    many = [f'{name}: {len(ms)}' for name,ms in methods().items() if len(ms)>METHODS]
    nothing(many, f'a class has at most {METHODS} methods')

def is_ours(f): return inspect.isfunction(f) and f.__module__.startswith('elastic_nets')

def methods_to_call(cls):
    "Public methods written here that are not another library's in a new version"
    for name,f in vars(cls).items():
        f = getattr(f, '__func__', f)
        inherited = any(name in vars(c) for c in cls.__mro__[1:] if not c.__module__.startswith('elastic_nets'))
        if is_ours(f) and name[0]!='_' and not inherited: yield f'{cls.__name__}.{name}', f

def public_functions():
    "What a user can call, as (name, object): functions, classes, their methods, and what is patched into a Learner"
    for m in modules:
        module = importlib.import_module(f'elastic_nets.{m}')
        for o in [getattr(module, name) for name in module.__all__]:
            if is_ours(o): yield o.__name__, o
            if not inspect.isclass(o): continue
            if is_ours(o.__init__) or '__dataclass_fields__' in vars(o): yield o.__name__, o
            yield from methods_to_call(o)
    yield from methods_to_call(Learner)

def members(cls):
    "Public methods and properties written here; events, which fastai calls, aside"
    for name in dir(cls):
        o = inspect.getattr_static(cls, name)
        f = getattr(o, 'fget', None) or getattr(o, 'func', None) or getattr(o, '__func__', o)
        if name[0]!='_' and is_ours(f) and not hasattr(event, name): yield f'{cls.__name__}.{name}', o

def says_nothing(o):
    "Is there no docstring of its own? (A dataclass without one gets its signature.)"
    return not o.__doc__ or inspect.isclass(o) and o.__doc__.startswith(f'{o.__name__}(')

def test_public_names_say_what_they_are():
    named = [(n,o) for n,o in vars(elastic).items() if n[0]!='_' and (is_ours(o) or inspect.isclass(o))]
    classes = [o for _,o in named if inspect.isclass(o)]
    named += [m for c in (*classes, Learner) for m in members(c)]
    assert {'GrowWidth.keep', 'GrowWidth.graph', 'Learner.search_subnet', 'Space.choices'}<={n for n,_ in named}
    nothing(sorted({n for n,o in named if says_nothing(o)}), 'a public name has a docstring')

def described(o):
    "Parameter -> its comment"
    return {n:c for n,c in docments(o, returns=False, args_kwargs=True).items() if n not in ('self','cls')}

def test_every_parameter_is_described():
    "By a comment behind it, where `help` and the notebooks find it"
    bare = [f'{name}({p})' for name,o in public_functions() for p,c in described(o).items() if not c]
    nothing(bare, 'each parameter has a comment behind it')

@pytest.mark.parametrize('o', [
    elastic.GrowWidth, elastic.OnionTraining, elastic.Subnet, elastic.trace_channels, elastic.Space.sample,
    Learner.to_supernet], ids=lambda o: o.__qualname__)
def test_help_shows_the_comments(o):
    text = ' '.join(pydoc.render_doc(o, renderer=pydoc.plaintext).split())
    comments = [' '.join(c.split()) for c in described(o).values() if c]
    assert len(comments)>0 and [c for c in comments if c not in text]==[]

def test_help_costs_nothing_until_it_is_asked_for():
    "No source is read when the library is imported; docstrings stay short where programs read them"
    from elastic_nets._docments import Docments
    f = elastic.trace_channels
    assert isinstance(f.__doc__, Docments) and 'Parameters' not in f.__doc__ and 'Parameters' in inspect.getdoc(f)

def test_defaults_of_dataclasses_suit_python_3_10():
    "Which refuses any dict there, later versions only what has no hash"
    classes = [o for _,o in public_functions() if dataclasses.is_dataclass(o)]
    fields = [(c, f) for c in classes for f in dataclasses.fields(c)]
    bad = [f'{c.__name__}.{f.name}' for c,f in fields if isinstance(f.default, (list,dict,set))]
    nothing(bad, 'a default that is a dict, list or set comes from field(default_factory=...)')
