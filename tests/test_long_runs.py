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
    Bfloat16, ByImportance, Construct, ElasticCheckpoint, Gradient, GrowDepth, GrowWidth, OnionTraining, OwnMomentum,
    RatePerSkin, Recipe, Update, delayed_shrinking)
from noted import note

STEPS, EPOCHS = 2000, 10
RSS = .02 # Share that memory may grow by, from a quarter of the fit to its end

class Residual(nn.Module):
    def __init__(self, n=8):
        super().__init__()
        self.layer, self.norm = nn.Linear(n, n), nn.BatchNorm1d(n)
    def forward(self, x): return x+self.norm(self.layer(x)).relu()

def model(): return nn.Sequential(nn.Linear(4, 8), nn.Sequential(*[Residual() for _ in range(2)]), nn.Linear(8, 3))

class Rows:
    n_inp = 1
    def __init__(self, n): self.x, self.y = torch.randn(n, 4), torch.arange(n)%3
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.y[i]
    def new_empty(self): return Rows(0)

def learner(steps=STEPS//EPOCHS, space=None):
    torch.manual_seed(0)
    loaders = DataLoader(Rows(4*steps), bs=4, shuffle=True), DataLoader(Rows(8), bs=8)
    learn = Learner(DataLoaders(*loaders, device='cpu'), model(), loss_func=nn.CrossEntropyLoss(),
                    opt_func=partial(SGD, mom=.9)).remove_cb(ProgressCallback)
    if space: learn.to_supernet(**space)
    return learn

widths = dict(widths=(.5,1.))
def onion(recipe): return lambda path: [OnionTraining(recipe, watch=(), estimate=False)]
hard = Gradient('hard')
kinds = {
    'width': (None, lambda path: [GrowWidth(stages=3, adapt_lr=True), ElasticCheckpoint(path, every=100), Bfloat16()]),
    'depth': (None, lambda path: [GrowDepth(), ElasticCheckpoint(path, every=100)]),
    'delayed': (widths, onion(delayed_shrinking(k=2))),
    'private': (widths, onion(
        Recipe(Construct(k=2, levels=2, bn='private'), hard, Update('large first', OwnMomentum)))),
    'odds': (widths, onion(Recipe(Construct(k=2, odds=ByImportance), hard, Update(rule=RatePerSkin))))}

WHAT = { # In words
    'width': 'GrowWidth, ElasticCheckpoint, Bfloat16', 'depth': 'GrowDepth, ElasticCheckpoint',
    'delayed': 'OnionTraining, delayed shrinking', 'private': 'OnionTraining, private batch norms and momenta',
    'odds': 'OnionTraining, subnets by importance, rates per skin'}

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
    return {k:(half[k], n) for k,n in end.items() if k in half and n-half[k]>8 and k[1]!='hps'} # fastai's scheduler

@pytest.mark.parametrize('kind', kinds)
def test_memory_is_flat(tmp_path, kind):
    space, cbs = kinds[kind]
    learn = learner(space=space)
    fit(learn, 1) # the learner's attributes come with the first fit
    before, watch = state(learn), Watch()
    if not space: learn = learner() # growing takes a fresh one
    fit(learn, EPOCHS, *cbs(tmp_path/'files'), watch)
    quarter, _, end = watch.rss
    assert end<(1+RSS)*quarter, f'{quarter/1e6:.1f} MB at a quarter, {end/1e6:.1f} MB at the end'
    assert piling(watch.sizes)=={}
    assert watch.hooks[1]==watch.hooks[2]
    assert state(learn)==before
    note('steps', kind=WHAT[kind], steps=STEPS, growth=round(end/quarter-1, 5))

def fit(learn, n, *cbs):
    with learn.no_logging(): learn.fit_one_cycle(n, .01, cbs=[*cbs])

@pytest.mark.parametrize('kind', kinds)
def test_other_methods_before_between_and_after(tmp_path, kind):
    space, make = kinds[kind]
    learn = learner(12, space)
    cbs = [cb for cb in make(tmp_path/'files') if not isinstance(cb, ElasticCheckpoint)]
    with learn.no_logging():
        learn.lr_find(show_plot=False, num_it=4)
        learn.add_cbs(cbs)
        fit(learn, 3)
        preds = learn.get_preds()[0]
        fit(learn, 3)
        learn.lr_find(show_plot=False, num_it=4)
        assert learn.get_preds()[0].shape==preds.shape
        learn.remove_cbs(cbs)
        hooks = hooks_of(learn.model)
        fit(learn, 1)
    assert hooks_of(learn.model)==hooks
    assert [type(c).__name__ for c in learn.cbs]==['TrainEvalCallback','Recorder','CastToTensor']
    assert not hasattr(learn.model, 'growth')
