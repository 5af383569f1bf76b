"The comments behind parameters, where `help` looks: in docstrings"
import inspect, sys
from fastcore.docments import docments

class Docments(str):
    "A docstring that says what the parameters are as soon as `help` reads it: sources are not looked at before"
    def __new__(cls, doc, obj):
        self = super().__new__(cls, doc or '')
        self._obj, self._reading = obj, False
        return self

    def expandtabs(self, tabsize=8): # the first thing that `inspect.cleandoc`, and so `help`, asks of a docstring
        text = super().expandtabs(tabsize)
        if self._reading or 'nbdev.showdoc' in sys.modules: return text # nbdev makes a table of the same comments
        self._reading = True # `docments` reads docstrings too
        try: return text+described(self._obj)
        finally: self._reading = False

def described(obj) -> str:
    "Parameters and result of `obj` as its comments describe them, one a line"
    try: docs = docments(obj, full=True, args_kwargs=True)
    except (OSError, TypeError): return '' # there is no source
    said = {n: ' '.join(d.docment.split()) for n,d in docs.items() if d.docment}
    result = said.pop('return', None)
    width = max(map(len, said), default=0)
    lines = ['', 'Parameters:', *[f'  {n:{width}}  {c}' for n,c in said.items()]] if said else []
    if result: lines += ['', f'Returns: {result}']
    return ''.join(f'\n{l}' for l in lines)

def _ours(obj): return getattr(obj, '__module__', None) and obj.__module__.split('.')[0]==__package__

def _methods(cls):
    "Public methods of `cls` that stand in this package"
    for n,f in vars(cls).items():
        f = getattr(f, '__func__', f) # a classmethod's
        if inspect.isfunction(f) and not n.startswith('_') and _ours(f): yield f

def show_docments(objs, *others):
    "Let `help` show the docments of public functions and classes among `objs`, and of what is patched into `others`"
    public = [o for o in objs if _ours(o) and (inspect.isfunction(o) or inspect.isclass(o))]
    classes = [o for o in public if inspect.isclass(o)]
    for o in [*public, *[f for c in (*classes, *others) for f in _methods(c)]]:
        if not isinstance(o.__doc__, Docments): o.__doc__ = Docments(o.__doc__, o)
