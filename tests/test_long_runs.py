"Two thousand steps with each callback: memory stays flat, nothing piles up, nothing is left behind"
import gc, os
from functools import partial
import psutil, pytest, torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import lr_find # noqa: F401, adds it to Learner
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner, Recorder
from fastai.optimizer import SGD
from torch import nn
from elastic_nets.all import (
    Bfloat16, ByImportance, Construct, Delayed, ElasticCheckpoint, Gradient, GrowDepth, GrowWidth, OnionTraining,
    OwnMomentum, RatePerSkin, Recipe, Update)
from noted import note

STEPS, EPOCHS = 2000, 10
RSS = .02 # Share that memory may grow by, from a quarter of the fit to its end

class Residual(nn.Module):
    def __init__(self, n=8):
        super().__init__()
        self.layer = nn.Linear(n, n)
    def forward(self, x): return x+self.layer(x).relu()

def model(kind):
    "As small as can be: a step takes what fastai and the callbacks do around it"
    between = {'depth': [nn.Sequential(Residual(), Residual())], 'private': [nn.BatchNorm1d(8)]}
    return nn.Sequential(nn.Linear(4, 8), *between.get(kind, []), nn.ReLU(), nn.Linear(8, 3))

class Rows:
    n_inp = 1
    def __init__(self, n): self.x, self.y = torch.randn(n, 4), torch.arange(n)%3
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.y[i]
    def new_empty(self): return Rows(0)

def learner(kind, steps=STEPS//EPOCHS):
    torch.manual_seed(0)
    loaders = DataLoader(Rows(4*steps), bs=4, shuffle=True), DataLoader(Rows(8), bs=8)
    learn = Learner(DataLoaders(*loaders, device='cpu'), model(kind), loss_func=nn.CrossEntropyLoss(),
                    opt_func=partial(SGD, mom=.9)).remove_cb(ProgressCallback)
    if kind in recipes: learn.to_supernet(widths=(.5,1.))
    return learn

recipes = {
    'delayed': Recipe(Construct(k=2, odds=ByImportance), Gradient('distill'), Update(rule=RatePerSkin), Delayed(.1)),
    'private': Recipe(Construct(k=2, levels=2, bn='private'), Gradient('hard'), Update('large first', OwnMomentum))}

def callbacks(kind, path):
    "What is trained with; growth writes files"
    if kind in recipes: return [OnionTraining(recipes[kind], watch=(), estimate=False)]
    if kind=='depth': return [GrowDepth(), ElasticCheckpoint(path, every=100)]
    return [GrowWidth(stages=3, adapt_lr=True), ElasticCheckpoint(path, every=100), Bfloat16()]

WHAT = { # In words
    'width': 'GrowWidth, ElasticCheckpoint, Bfloat16', 'depth': 'GrowDepth, ElasticCheckpoint',
    'delayed': 'OnionTraining, delayed shrinking, subnets by importance, rates per skin',
    'private': 'OnionTraining, private batch norms and momenta'}

def hooks_of(module):
    "Number of hooks, of modules, parameters and state dicts"
    of_modules = [len(v) for m in module.modules() for k,v in vars(m).items() if 'hook' in k and hasattr(v, '__len__')]
    return sum(of_modules)+sum(len(p._backward_hooks or ()) for p in module.parameters())

def lengths(cb):
    "What may pile up in a callback, one object deep"
    owners = [(type(cb).__name__, cb), *[(n, v) for n,v in vars(cb).items() if hasattr(v, '__dict__') and n!='_learn']]
    owners = [(n, o) for n,o in owners if not isinstance(o, (Learner, nn.Module, type))]
    return {(n, k): len(v) for n,o in owners for k,v in vars(o).items() if isinstance(v, (list,dict,set))}

class Watch(Callback):
    "Memory, hooks and lengths at a quarter, a half and the end"
    order = 200
    def __init__(self): self.rss, self.sizes, self.hooks = [], [], []
    def after_batch(self):
        if not self.training or self.learn.train_iter not in (STEPS//4, STEPS//2+200, STEPS-1): return
        gc.collect()
        self.rss.append(psutil.Process(os.getpid()).memory_info().rss)
        self.hooks.append(hooks_of(self.learn.model))
        cbs = [cb for cb in self.learn.cbs if not isinstance(cb, (Recorder, Watch))]
        self.sizes.append({k:n for cb in cbs for k,n in lengths(cb).items()})

def state(learn):
    "What a callback might leave behind"
    fitted = 'opt', 'final_record', 'scaler' # fastai makes these
    types = [type(m).__name__ for m in learn.model.modules()]
    own = {k for k in vars(learn) if k not in fitted}
    return own, [type(c).__name__ for c in learn.cbs], hooks_of(learn.model), types

def piling(sizes):
    "What has grown by more than one entry in every second hundred of steps"
    _,half,end = sizes
    return {k:(half[k], n) for k,n in end.items() if k in half and n-half[k]>8}

@pytest.fixture(autouse=True, scope='module')
def libraries_are_left_out():
    "A collection looks at what came since: torch and fastai are half a million objects"
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

@pytest.mark.parametrize('kind', WHAT)
def test_memory_is_flat(tmp_path, kind):
    fitted, learn, watch = learner(kind, steps=2), learner(kind), Watch()
    with fitted.no_logging(): fitted.fit(1) # the learner's attributes come with the first fit
    before = state(fitted)
    with learn.no_logging(): learn.fit(EPOCHS, .01, cbs=[*callbacks(kind, tmp_path/'files'), watch])
    quarter, _, end = watch.rss
    assert end<(1+RSS)*quarter, f'{quarter/1e6:.1f} MB at a quarter, {end/1e6:.1f} MB at the end'
    assert piling(watch.sizes)=={}
    assert watch.hooks[1]==watch.hooks[2]
    assert state(learn)==before
    note('steps', kind=WHAT[kind], steps=STEPS, growth=round(end/quarter-1, 5))

@pytest.mark.parametrize('kind', WHAT)
def test_other_methods_before_between_and_after(tmp_path, kind):
    learn = learner(kind, 12)
    cbs = [cb for cb in callbacks(kind, tmp_path/'files') if not isinstance(cb, ElasticCheckpoint)]
    with learn.no_logging():
        learn.lr_find(show_plot=False, num_it=4)
        learn.add_cbs(cbs)
        learn.fit_one_cycle(3, .01)
        preds = learn.get_preds()[0]
        learn.fit_one_cycle(3, .01)
        learn.lr_find(show_plot=False, num_it=4)
        assert learn.get_preds()[0].shape==preds.shape
        learn.remove_cbs(cbs)
        hooks = hooks_of(learn.model)
        learn.fit_one_cycle(1, .01)
    assert hooks_of(learn.model)==hooks
    assert [type(c).__name__ for c in learn.cbs]==['TrainEvalCallback','Recorder','CastToTensor']
    assert not hasattr(learn.model, 'growth')
