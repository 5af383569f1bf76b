"The API as pages, a page per room: signature, words, and a table of the parameters, all from the code"
import functools, html, importlib, inspect, json, re, textwrap
from pathlib import Path
from fastai.learner import Learner
from fastcore.docments import docments, empty

root = Path(__file__).resolve().parent.parent

@functools.cache
def modules():
    "`folder.name` -> path of its notebook, in the order of reading"
    found = {}
    for nb in root.glob('nbs/*/*.ipynb'):
        m = re.search(r'#\\?\| ?default_exp:?\s+([\w.]+)', nb.read_text(encoding='utf-8'))
        if m: found[m[1]] = nb
    return dict(sorted(found.items(), key=lambda item: item[1].name))

def module_of(name): return importlib.import_module(f'elastic_nets.{name}')

def is_ours(o, module): return getattr(inspect.unwrap(getattr(o, '__func__', o)), '__module__', '')==module.__name__

def methods_in(cls, module):
    "Public methods of `cls` that are written in `module`"
    for name,o in vars(cls).items():
        if name[0]!='_' and inspect.isfunction(getattr(o, '__func__', o)) and is_ours(o, module):
            yield f'{cls.__name__}.{name}', getattr(o, '__func__', o)

EVENTS = re.compile(r'\.(before|after)_\w+$') # called by fastai, not by a user

@functools.cache
def classes():
    "Public classes, and fastai's that gets methods"
    found = [getattr(module_of(m), n) for m in modules() for n in module_of(m).__all__]
    return [*dict.fromkeys(o for o in found if inspect.isclass(o)), Learner]

@functools.cache
def public(module):
    "What a user can call of a module: (name, object)"
    names = [(name, getattr(module, name)) for name in module.__all__]
    return names+[(name, o) for cls in classes() for name,o in methods_in(cls, module) if not EVENTS.search(name)]

def folder(name): return name.split('.')[0]

def where():
    "Public name -> the page of the API that it is on"
    return {n:f'api/{folder(m)}.md' for m in modules() for n,_ in public(module_of(m))}

# One symbol

def word(t): return '' if t is empty or t is None else getattr(t, '__name__', str(t)).replace('elastic_nets.', '')

def default(p):
    if p.default is inspect.Parameter.empty: return ''
    d = p.default
    return f'`{d.__name__ if callable(d) and hasattr(d, "__name__") else d!r}`'[:60]

def cell(text): return html.escape(' '.join(str(text).split()), quote=False).replace('|', '\\|')

def parameters(o):
    "The table of the parameters; their comments are in the code"
    try: sig = inspect.signature(o)
    except (TypeError, ValueError): return ''
    said = docments(o, full=True, returns=False, args_kwargs=True)
    rows = [(n, word(getattr(said.get(n), 'anno', None)), default(p), getattr(said.get(n), 'docment', '') or '')
            for n,p in sig.parameters.items() if n!='self']
    if not rows: return ''
    lines = [f'| `{n}` | {cell(t)} | {d.replace("|", chr(92)+"|")} | {said_of(c)} |' for n,t,d,c in rows]
    return '\n'.join(['| parameter | type | default | what it is |', '|---|---|---|---|', *lines])

def said_of(comment):
    "A comment with its code kept"
    return ' '.join(str(comment).split()).replace('|', '\\|').replace('<', '&lt;').replace('$', '\\$')

def returned(o):
    said = docments(o, full=True).get('return') if not inspect.isclass(o) and callable(o) else None
    anno, text = (word(said.get('anno')), said.get('docment') or '') if said else ('', '')
    return f'Returns {f"`{anno}`" if anno else ""}{": "+said_of(text) if text else ""}' if anno or text else ''

def call_of(name, o):
    try: sig = inspect.signature(o)
    except (TypeError, ValueError): return name
    ps = [p for p in sig.parameters.values() if p.name!='self']
    ps = [p.name if p.default is p.empty else f'{p.name}={short(p.default)}' for p in ps]
    return '\n'.join(textwrap.wrap(f'{name}({", ".join(ps)})', 100, subsequent_indent='    ', break_long_words=False))

def short(d): return d.__name__ if callable(d) and hasattr(d, '__name__') else repr(d)

def symbol(name, o, book, level):
    text = inspect.cleandoc(str(getattr(o, '__doc__', None) or ''))
    parts = [f'{"#"*level} {name}']
    if callable(o): parts.append(f'```python\n{call_of(name, o)}\n```')
    parts += [re.sub(r'(?<!\\)\$', r'\\$', text)]
    if callable(o): parts += [parameters(o), returned(o)]
    title = book.stem
    parts.append(f'Seen at work in [{title}](../nbs/{book.parent.name}/{book.name}).')
    return '\n\n'.join(p for p in parts if p)

# Pages

def module_page(name, book):
    m = module_of(name)
    said = str(m.__doc__ or '').strip()
    return '\n\n'.join([f'## elastic_nets.{name}', said, *[symbol(n, o, book, 3) for n,o in public(m)]])

def pages():
    "Path -> text"
    rooms = {}
    for name,book in modules().items():
        if public(module_of(name)): rooms.setdefault(folder(name), []).append(module_page(name, book))
    res = {f'api/{f}.md': f'# {f}\n\n'+'\n\n'.join(texts)+'\n' for f,texts in rooms.items()}
    lists = [f'- [{f}]({f}.md): '+', '.join(f'`{n}`' for m in modules() if folder(m)==f for n in module_of(m).__all__)
             for f in rooms]
    tree = '\n'.join(['```{toctree}', ':hidden:', '', *rooms, '```'])
    says = 'Every public name, with what each parameter is. `from elastic_nets.all import *` has them all.'
    res['api/index.md'] = '\n\n'.join(['# API', f'> {says}', '\n'.join(lists), tree])+'\n'
    return res

def first_line(o): return inspect.cleandoc(str(getattr(o, '__doc__', None) or '')).split('\n')[0]

def llms_txt():
    "The library for a reader that is a program (llmstxt.org): every module, and what it exports"
    from elastic_nets import all as _ # noqa: F401, every room adds its methods
    project = (root/'pyproject.toml').read_text(encoding='utf-8')
    lines = ['# elastic_nets', '', '> '+re.search(r'^description = "(.*)"', project, re.M)[1], '']
    for room in dict.fromkeys(map(folder, modules())):
        lines += [f'## {room}', '']
        for name,book in modules().items():
            if folder(name)!=room: continue
            m = module_of(name)
            promise, *more = [' '.join(part.split()) for part in m.__doc__.strip().split('\n\n')]
            said = ' '.join([promise if promise[-1] in '.?' else f'{promise}.', *more])
            lines.append(f'- [elastic_nets.{name}](nbs/{room}/{book.stem}.html): {said}')
            lines += [f'  - `{n}`: {first_line(o)}' for n,o in public(m)]
        lines.append('')
    return '\n'.join(lines)

if __name__=='__main__': print(json.dumps({p:len(t) for p,t in pages().items()}, indent=1))
