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
from elastic_nets.grow.after import AfterGrowth
from elastic_nets.grow.growing import growth_state
from elastic_nets.grow.widen import init_random
from helpers import quietly
from helpers_grow import deep, learner

def mlp(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                                  nn.Linear(128, 10))

class Raw(Callback):
    "The loss of every batch, and the learning rate of every step"
    order,run_valid = 90,False
    def before_fit(self): self.losses, self.rates = [], []
    def after_step(self): self.rates.append(self.opt.hypers[-1]['lr'])
    def after_batch(self): self.losses.append(self.loss.item())

def loud(w, n_out, n_in):
    "New channels that drown what the old ones say, as steps at too high a rate make them"
    return 30*init_random(w, n_out, n_in)

def fit(lr, *cbs, plan=((.25,1.), (0.,.6)), fit='fit', n=10, init='random', **kw):
    "A learner after a fit that grows at step 96 of 160, its losses and what was said"
    torch.manual_seed(0)
    dls = digits_dls(device='cpu')
    dls.train.rng.seed(0)
    learn, raw = Learner(dls, mlp(), opt_func=partial(SGD, mom=.8)), Raw()
    with warnings.catch_warnings(record=True) as said, learn.no_bar():
        warnings.simplefilter('always')
        quietly(learn, fit, n, lr, cbs=[GrowWidth(plan=StagePlan(*plan), init=init, **kw), raw, *cbs])
    return learn, raw, [str(w.message) for w in said if 'come back' in str(w.message)]

def test_a_growth_that_destroys_is_named():
    learn, raw, said = fit(.1, init=loud)
    first, before, after = [sum(raw.losses[i-5:i])/5 for i in (5,96,121)]
    lost = (after-before)/(first-before)
    assert lost>.2 and min(raw.losses[116:121])>before, 'or this test has no subject'
    assert len(said)==1 and said[0].startswith('GrowWidth: the loss has not come back after the growth to width 1 at '
        f'step 96: {first:.3g} in the first 5 steps, {before:.3g} in the 5 before the growth, {after:.3g} in the 5 '
        f'that end 25 steps after, so that {lost:.0%} of what was learned is lost')
    assert all(hint in said[0] for hint in ('0.1 there', 'lower one', 'warm-up', 'rewarm=.05', 'more stages'))

def test_a_growth_that_does_not_is_not():
    learn, raw, said = fit(.1)
    assert max(raw.losses[96:101])>1.25*sum(raw.losses[91:96])/5, 'the jump alone is no reason'
    assert not said

def test_two_growths_in_a_row_are_compared_with_the_time_before_both():
    "The loss is high already when the second one comes"
    _,raw,said = fit(.1, plan=((.25,.5,1.), (0.,.5,.6)), init=loud)
    before = sum(raw.losses[75:80])/5
    assert len(said)==1 and 'step 96' in said[0] and f'{before:.3g} in the 5 before the growth' in said[0]

def test_no_warning_without_steps_to_compare():
    for begin in (.02,.9): assert not fit(.1, plan=((.25,1.), (0.,begin)), init=loud)[2]

def test_a_tiny_loss_that_doubles_is_no_alarm():
    "From .01 to .02, where the first steps had 2.3: the share of what was learned decides, not the ratio"
    class Pretend(AfterGrowth):
        def __init__(self, before, after): self.values = before, after
        def before_fit(self): self.watch()
        def before_batch(self):
            if self.step_now()==40: self.grown('width 1')
        def after_loss(self):
            i = self.step_now()
            self.learn.loss = torch.tensor(2.3 if i<5 else self.values[i>=40])
    def said(before, after):
        learn = Learner(digits_dls(), mlp(), opt_func=SGD)
        with warnings.catch_warnings(record=True) as said, learn.no_bar():
            warnings.simplefilter('always')
            quietly(learn, 'fit', 5, .1, cbs=Pretend(before, after))
        return [w for w in said if 'come back' in str(w.message)]
    assert not said(.01, .02) and not said(1.3, 1.39) and said(.01, .25) and said(1.3, 1.41)
    assert not said(2.4, 3.), 'nothing had been learned'

@pytest.mark.parametrize('kind', ['fit','fit_one_cycle'])
def test_the_rate_rises_again(kind):
    "16 of 160 steps, times what the schedule says; the loss and the rate of the fit are what they were"
    plain, again = fit(.1, fit=kind)[1].rates, (there := fit(.1, fit=kind, rewarm=.1))[1].rates
    shares = [1.]*96+[i/17 for i in range(1,17)]+[1.]*48
    assert again==pytest.approx([r*s for r,s in zip(plain, shares)])
    assert [h['lr'] for h in there[0].opt.hypers]==pytest.approx([plain[-1]])

def test_each_group_rises_from_its_own_rate():
    "In depth as in width"
    learn = learner(deep(), splitter=lambda m: [[*m[0].parameters()], [*m[1:].parameters()]])
    class Groups(Callback):
        order = 90
        def before_fit(self): self.rows = []
        def after_step(self): self.rows.append([h['lr'] for h in self.opt.hypers])
    quietly(learn, 'fit', 4, slice(.001,.1), cbs=[GrowDepth(rewarm=.25), groups := Groups()])
    assert len({a/b for a,b in groups.rows})==1 or max(abs(a/b-.01) for a,b in groups.rows)<1e-6
    n, i = len(groups.rows), learn.recorder.stages[1]['step']
    assert groups.rows[i][1]==pytest.approx(.1/(round(n/4)+1)) and groups.rows[-1][1]==pytest.approx(.1)

def test_accumulated_steps_rise_too():
    "Two batches a step: the rate is that of the second"
    rates = fit(.1, GradientAccumulation(128), rewarm=.1)[1].rates
    assert .1*2/17==pytest.approx(min(rates)) and len(rates)==80 and rates[-1]==.1

def test_what_follows_is_in_the_state():
    "A fit that goes on waits for the same comparison"
    class Ask(Callback):
        order = 95
        def after_batch(self):
            now = self.training and self.epoch*self.n_iter+self.iter==100
            if now: self.state = growth_state(self.grow_width)['after']
    _,raw,_ = fit(.1, ask := Ask(), rewarm=.1)
    assert ask.state['since']==96 and ask.state['rates']==[.1] and ask.state['losses']==raw.losses[96:101]
    assert ask.state['first']==pytest.approx(sum(raw.losses[:5])/5)
    assert ask.state['before']==[pytest.approx(sum(raw.losses[91:96])/5), .1, 'width 1']
