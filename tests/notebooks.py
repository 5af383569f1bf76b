"The notebooks, modules and classes of this repository as the tests of its rules see them"
import ast, functools, json, os, re, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
package = root/'elastic_nets'
handmade = {'all.py', '_docments.py'} # and each folder's __init__.py

def run(*args, cwd=root, **env):
    "Run a command, its name being looked up beside this Python; a failure shows the end of its output"
    cmd = [sys.executable if args[0]=='python' else Path(sys.executable).parent/args[0], *args[1:]]
    r = subprocess.run(cmd, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    if r.returncode: pytest.fail(f'{" ".join(map(str, args))}\n{(r.stdout+r.stderr)[-5000:]}', pytrace=False)
    return r.stdout

@functools.cache
def warm_process(*names):
    "It tests notebooks, see warm.py"
    return subprocess.Popen([sys.executable, root/'tests'/'warm.py', *names], cwd=root, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

def execute(nb, log):
    """`nbdev-test` of one notebook, in a process where the heavy imports are done; a failure shows its end

    Not those that it does not ask for: fastai patches tensors, and this package's last rooms its first."""
    whole = [m for m in ('fastai.vision.all','elastic_nets.all') if f'from {m} import *' in '\n'.join(nb.code)]
    warm = warm_process(*whole)
    print(nb.path, log, sep='\t', file=warm.stdin, flush=True)
    code, said = warm.stdout.readline(), log.read_text()
    if code!='0\n' or 'Success' not in said: pytest.fail(f'nbdev-test {nb}\n{said[-5000:]}', pytrace=False)

def nothing(found, rule):
    "Fail with every place in `found`, a line each"
    if found: pytest.fail(f'{rule}; {len(found)} places:\n  ' + '\n  '.join(map(str, found)), pytrace=False)

def parsed(src):
    "A cell's code without the lines that only Jupyter understands"
    return ast.parse(re.sub(r'^(\s*)[%!].*', r'\1pass', src, flags=re.M))

def is_import(node): return isinstance(node, (ast.Import, ast.ImportFrom))
def is_export(src): return bool(re.match(r'\s*#\|\s*export', src))
def is_hidden(src): return bool(re.match(r'\s*#\|\s*(hide|default_exp)', src))
def code_lines(src): return [l for l in src.splitlines() if l.strip() and not l.strip().startswith('#')]

class Notebook:
    "A notebook by what is asked of it"
    def __init__(self, path):
        self.path, self.name = path, path.relative_to(root/'nbs').as_posix()
        self.cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        self.code = [''.join(c['source']) for c in self.cells if c['cell_type']=='code']
        found = [m[1] for s in self.code if (m := re.search(r'^#\|\s*default_exp:?\s+(\S+)', s, re.M))]
        self.module = found[0] if found else None
        self.number = int(re.match(r'\d+', path.name)[0]) if self.module else None

    def __repr__(self): return self.name

    @functools.cached_property
    def exported(self): return [s for s in self.code if is_export(s)]

    @functools.cached_property
    def seen(self): return [s for s in self.code if s.strip() and not is_hidden(s)]

    @functools.cached_property
    def running(self): return [s for s in self.seen if not is_export(s)]

    def definitions(self):
        "Places in `seen` of the exported cells that hold more than imports"
        return [i for i,s in enumerate(self.seen) if is_export(s) and not all(map(is_import, parsed(s).body))]

    def followed(self):
        "The exported cells right below which something runs"
        return [i for i in self.definitions() if i+1<len(self.seen) and not is_export(self.seen[i+1])]

    def silent(self):
        "The longest row of exported cells in which nothing runs"
        longest, row = [], []
        for s in self.seen:
            row = [*row, s] if is_export(s) else []
            longest = max(longest, row, key=len)
        return longest

    def mute(self):
        "Running cells that end without showing or testing anything"
        shows = ast.Expr, ast.Assert, ast.With, ast.For
        ends = [(s, parsed(s).body[-1:]) for s in self.running]
        return [s for s,end in ends if not end or not isinstance(end[0], shows) or s.rstrip().endswith(';')]

notebooks = [Notebook(p) for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]
modules = {nb.module: nb for nb in notebooks if nb.module}

def imports(src):
    "Modules of this package that a cell imports, as `folder.name`"
    for node in ast.walk(parsed(src)):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom): names = [node.module, *[f'{node.module}.{a.name}' for a in node.names]]
        else: continue
        for name in names:
            inside = name.removeprefix('elastic_nets.')
            if inside!=name and (inside in modules or inside=='all'): yield inside

def py_files(*folders): return [p for f in folders for p in sorted((root/f).rglob('*.py')) if p.name!='_modidx.py']

def first_line(src):
    "Of a cell, its first line that is no directive, comment or decorator: what it can be found by"
    lines = [l for l in code_lines(src) if l[0]!='@'] or ['']
    return lines[0][:80]

def place(path, line): return f'{path.relative_to(root).as_posix()}:{line}'

def patched_class(node):
    "The class that `@patch` puts a function into"
    if not isinstance(node, ast.FunctionDef): return None
    if not any(ast.unparse(d).startswith('patch') for d in node.decorator_list): return None
    return ast.unparse(node.args.args[0].annotation)

def methods():
    "Class -> its methods, patched ones included, as (path, node)"
    res = {}
    for path in py_files('elastic_nets'):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.ClassDef):
                res.setdefault(node.name, []).extend((path, m) for m in node.body if isinstance(m, ast.FunctionDef))
            elif name := patched_class(node): res.setdefault(name, []).append((path, node))
    return res
