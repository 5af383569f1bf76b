"Choices in growing: lengths of new vectors, shares of copies, a rate for new channels, the moment by the gap, alarms"
import warnings
from copy import deepcopy
import pytest, torch
from fastai.callback.core import Callback
from fastai.optimizer import Adam, SGD
from elastic_nets.grow.growing import GrowDepth, GrowWidth, growth_state, load_growth_state
from elastic_nets.grow.seeded import SkinAlarm, seeded_onion
from elastic_nets.grow.stages import gap_of, wait_of
from elastic_nets.grow.widen import init_half, init_lemon, init_orthogonal
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from helpers import Float32Loss, new_learner, digits, quietly
from helpers_grow import deep, few, flat, learner

# Inits

@pytest.mark.parametrize('shape,to', [((6,4,3,3),(9,7)), ((6,20),(8,30)), ((5,3,1,1),(12,4))])
def test_new_vectors_half_as_long(shape, to):
    "What is orthogonal is half of what it is by default; new on new is drawn alike"
    w = torch.randn(*shape, dtype=torch.float64)
    torch.manual_seed(1)
    whole = init_orthogonal(w, *to)
    torch.manual_seed(1)
    half = init_half(w, *to)
    o, i = shape[:2]
    want = whole.clone()
    want[o:,:i] /= 2
    want[:o,i:] /= 2
    torch.testing.assert_close(half, want)

@pytest.mark.parametrize('old,new', [(3,7), (4,8), (5,6), (2,9)])
def test_lemon_copies_in_turn_and_shares_out_unequally(old, new):
    parents, shares = init_lemon(old, new)
    copies = [[c for c in range(new) if c%old==p] for p in range(old)]
    for p,mine in enumerate(copies):
        assert parents[mine].tolist()==[p]*len(mine)
        assert shares[mine].sum().item()==pytest.approx(1, abs=1e-12)
        assert len({*shares[mine].tolist()})==len(mine) and (shares[mine]>0).all()
    assert max(map(len, copies))-min(map(len, copies))<=1

# A rate for new channels

class Steps(Callback):
    "The first layer's weight before and after every step, and its gradient"
    order,run_valid = 100,False
    def before_fit(self): self.rows = []
    def weight(self): return self.learn.model[1].weight
    def before_step(self): self.was, self.g = self.weight().detach().clone(), self.weight().grad.clone()
    def after_step(self): self.rows.append((self.was, self.g, self.weight().detach().clone()))

def test_new_channels_rise_alone():
    "Against SGD by hand in float64: old channels make whole steps, new ones 1/9, 2/9, ... of theirs, biases too"
    class Both(Steps):
        def weight(self):
            layer = self.learn.model[1]
            return torch.cat([layer.weight, layer.bias[:,None]], 1)
        def before_step(self):
            layer = self.learn.model[1]
            self.was = self.weight().detach().clone()
            self.g = torch.cat([layer.weight.grad, layer.bias.grad[:,None]], 1)
    steps, learn = Both(), learner(flat().double(), opt_func=SGD, cbs=Float32Loss())
    cbs = [GrowWidth(stages=2, init='random', rewarm=8/(3*len(learn.dls.train)), only_new=True), Doubled(), steps]
    quietly(learn, 'fit', 3, .1, wd=0., cbs=cbs)
    first = next(i for i,(was,_,_) in enumerate(steps.rows) if len(was)==16)
    assert len(steps.rows)-first>10
    for i,(was,g,now) in enumerate(steps.rows):
        share = min(1., (i-first+1)/9) if i>=first else 1.
        torch.testing.assert_close(now[:8], was[:8]-.1*g[:8])
        torch.testing.assert_close(now[8:], was[8:]-.1*share*g[8:])

class Doubled(Callback):
    "Inputs and targets for a network in float64"
    order = -3
    def before_batch(self): self.learn.xb = tuple(x.double() for x in self.xb)

def test_old_channels_do_not_notice():
    "With Adam, whose steps do not shrink with a gradient: each old entry steps as without, bit for bit, at the growth"
    def fit(**kw):
        steps = Steps()
        torch.manual_seed(0)
        quietly(learner(flat(), opt_func=Adam), 'fit', 2, .01, cbs=[GrowWidth(stages=2, init='random', **kw), steps])
        return steps.rows
    plain, risen = fit(), fit(rewarm=.25, only_new=True)
    first = next(i for i,(was,*_) in enumerate(plain) if len(was)==16)
    for (_,_,a),(_,_,b) in zip(plain[:first], risen[:first]): assert torch.equal(a, b)
    assert torch.equal(plain[first][2][:8], risen[first][2][:8])
    new = [(now-was)[8:].norm() for was,_,now in (plain[first], risen[first])]
    n = round(.25*len(plain))
    assert new[1].item()==pytest.approx(new[0].item()/(n+1), rel=1e-3)

def test_both_shares_at_once():
    "A rate by norms, which rises for new channels alone: that by norms over n+1 in the first step"
    def fit(**kw):
        steps = Steps()
        torch.manual_seed(0)
        cb = GrowWidth(stages=2, init='random', adapt_lr=True, **kw)
        quietly(learner(flat(), opt_func=SGD), 'fit', 2, .1, wd=0., cbs=[cb, steps])
        return next((was,now) for was,_,now in steps.rows if len(was)==16), len(steps.rows)
    (was,plain),n = fit()
    (_,risen),_ = fit(rewarm=.25, only_new=True)
    torch.testing.assert_close(risen[:8], plain[:8])
    torch.testing.assert_close(risen[8:]-was[8:], (plain[8:]-was[8:])/(round(.25*n)+1), rtol=1e-3, atol=1e-6)

def test_a_rise_needs_a_share():
    with pytest.raises(ValueError, match='only_new: .*give rewarm=.05'): GrowWidth(only_new=True)

# The moment by the gap

def test_gap_and_wait():
    assert gap_of(2.3, .4, .6)==pytest.approx(10.526, abs=1e-3) and gap_of(1., 1., 2.)==0.
    assert [wait_of(g) for g in (0.,4.,8.)]==pytest.approx([.017986, .5, .982014], abs=1e-6)
    assert wait_of(-1e6)==pytest.approx(0., abs=1e-200)

class Gaps(Callback):
    "Validation that is so many per cent of what was learned behind training, after each epoch"
    order = 55 # after the recorder
    def __init__(self, gaps): self.gaps = gaps
    def after_epoch(self):
        first, row = self.grow.first, self.recorder.values[-1]
        row[0] = .5
        row[1] = .5+self.gaps[self.epoch]/100*(first-.5)
    @property
    def grow(self): return next(cb for cb in self.learn.cbs if isinstance(cb, (GrowWidth,GrowDepth)))

@pytest.mark.parametrize('gaps,epochs', [
    ([0.]*9, [0,1,2]), # no gap: as soon as it is asked
    ([20.]*9, [0,3,6]), # a large one: as planned
    ([4.]*9, [0,2,4]), # half of the longest stage, which is three epochs: at the second validation
    ([20.,20.,0.]+[20.]*6, [0,3,6]),
    ([20.,0.]+[20.]*7, [0,2,5]), # a stage that began early is as long as others
], ids=str)
@pytest.mark.parametrize('grow', [GrowWidth, GrowDepth])
def test_the_network_grows_when_the_gap_says_so(grow, gaps, epochs):
    cb = grow(plan='auto', stages=3)
    learn = learner(None if grow is GrowWidth else deep(), few())
    n = len(learn.dls.train)
    quietly(learn, 'fit', 9, 0., cbs=[cb, Gaps(gaps)])
    assert [r['step'] for r in cb.rows]==[e*n for e in epochs] and not hasattr(learn.model, 'growth')

def test_auto_keeps_its_start_and_stages():
    assert GrowWidth(plan='auto', start=.25, stages=2).plan==GrowWidth(start=.25, stages=2).plan
    with pytest.raises(ValueError, match="or 'auto', got 'later'"): GrowWidth(plan='later')

def test_auto_needs_validations():
    from fastai.data.core import DataLoaders
    dls = digits_dls(bs=128, device='cpu')
    with pytest.raises(ValueError, match="'auto' follows the validation loss"):
        quietly(learner(dls=DataLoaders(dls.train)), 'fit', 3, cbs=GrowWidth(plan='auto'))

def test_an_early_moment_is_in_the_state():
    "A growth that is due, and may have to wait for gradients that are being accumulated, is not forgotten"
    class Ask(Callback):
        order = 95
        def after_batch(self):
            if self.training and self.epoch==1 and self.iter==1: self.state = deepcopy(growth_state(self.grow_width))
    quietly(learner(), 'fit', 3, .01, cbs=[GrowWidth(plan='auto', stages=3), Gaps([0.]*3), ask := Ask()])
    assert ask.state['early']==1 and ask.state['size']==.75
    cb = GrowWidth(plan='auto', stages=3)
    class Start(Callback):
        order = 60
        def before_fit(self):
            load_growth_state(cb, ask.state)
            self.early = cb._early
    quietly(learner(), 'fit', 3, .01, cbs=[cb, start := Start(), Gaps([20.]*3)])
    assert start.early==1 and [r['width'] for r in cb.rows]==[.5,.75,1.]

# Alarms where a supernet grows

x, y = [t[:64] for t in digits()]

def seeded(lr):
    "What is said in a fit whose core grows, and the losses"
    class Raw(Callback):
        order,run_valid = 90,False
        def before_fit(self): self.losses = []
        def after_batch(self): self.losses.append(self.loss.item())
    raw, rec = Raw(), seeded_onion(init='random', k=2)
    torch.manual_seed(0)
    learn = new_learner(lambda: resnet_cifar(8, width=8, n_in=1), (x, y), space=dict(widths=(.25,1.)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        quietly(learn, 'fit', 24, lr, cbs=[OnionTraining(rec, watch=(), estimate=False), raw, Float32Loss()])
    assert not any(isinstance(cb, SkinAlarm) for cb in learn.cbs), 'it leaves with the fit'
    return raw.losses, [str(w.message) for w in said if 'come back' in str(w.message)]

def test_the_seeded_onion_is_watched():
    "The warning is there exactly where the losses say so"
    for lr in (.05, 4.):
        losses, said = seeded(lr)
        i = len(losses)//2
        first, was, now = [sum(losses[j-5:j])/5 for j in (5, i, i+25)]
        lost = (now-was)/(first-was)
        assert len(said)==(not lost<=.1 and min(losses[i+20:i+25])>was), (lr, lost)
        if lr==.05: assert not said
        else: assert said and f'after the growth to a larger network at step {i}' in said[0]
