"What follows a growth: a warning where it destroys, and a learning rate that rises again"
import warnings
from functools import partial
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.learner import Learner
from fastai.optimizer import SGD
from torch import nn
from elastic_nets.all import GrowDepth, GrowWidth, StagePlan, digits_dls
from helpers import fails, is_close, new_learner, quietly
from helpers_grow import deep, learner, net

def mlp(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

class Raw(Callback):
    "The loss of every batch, and the learning rate of every step"
    order,run_valid = 90,False
    def before_fit(self): self.losses, self.rates = [], []
    def after_step(self): self.rates.append(self.opt.hypers[-1]['lr'])
    def after_batch(self): self.losses.append(self.loss.item())

def fit(lr, *cbs, plan=((.25,1.), (0.,.6)), fit='fit', n=10, **kw):
    "A learner after a fit that grows at step 96 of 160, its losses and what was said"
    torch.manual_seed(0)
    dls = digits_dls()
    dls.train.rng.seed(0)
    learn, raw = Learner(dls, mlp(), opt_func=partial(SGD, mom=.8)), Raw()
    with warnings.catch_warnings(record=True) as said, learn.no_bar():
        warnings.simplefilter('always')
        quietly(learn, fit, n, lr, cbs=[GrowWidth(plan=StagePlan(*plan), init='random', **kw), raw, *cbs])
    return learn, raw, [str(w.message) for w in said if 'come back' in str(w.message)]

def test_a_rate_that_destroys_is_named():
    learn, raw, said = fit(.5)
    before, after = [sum(raw.losses[i-5:i])/5 for i in (96,121)]
    assert after>1.25*before
    assert len(said)==1 and said[0].startswith('GrowWidth: the loss has not come back after the growth to width 1 at '
        f'step 96: {before:.3g} in the 5 steps before, {after:.3g} in the 5 that end 25 steps after')
    assert all(hint in said[0] for hint in ('0.5 there', 'lower one', 'warm-up', 'rewarm=.05', 'more stages'))

def test_a_rate_that_does_not_is_not():
    learn, raw, said = fit(.05)
    assert max(raw.losses[96:101])>1.25*sum(raw.losses[91:96])/5, 'the jump alone is no reason'
    assert not said
