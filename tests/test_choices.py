"Every value of a recipe's four fields against an update computed by hand in float64, on networks small enough to print"
import math, random, warnings, weakref
from copy import deepcopy
from dataclasses import replace
from functools import partial, wraps
from types import SimpleNamespace
import pytest, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import fit_one_cycle # noqa: F401, patched into Learner
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.metrics import Perplexity, accuracy, error_rate
from fastai.optimizer import Adam, OptimWrapper, SGD
from fastai.torch_core import TensorMask
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten
from elastic_nets.shrink.watching import GradientProbe, plot_gradients
from elastic_nets.shrink.gradients import distill_loss, owned
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.shrink.recipe import (
    Construct, Delayed, Gradient, Phase, Phases, Recipe, Update, inside_out, levels_of, outside_in
)
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.methods import bignas, compofa, delayed_shrinking, progressive_shrinking, slimmable, us_net
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.subnets.batches import calibrate_bn

torch.set_num_threads(1)
bs, n_batches, lr = 8, 4, .1
g = torch.Generator().manual_seed(0)
x,y = torch.randn(n_batches*bs, 3, generator=g, dtype=torch.float64),torch.randint(3, (n_batches*bs,), generator=g)
batch = [(x[i*bs:][:bs], y[i*bs:][:bs]) for i in range(n_batches)]
mask = torch.tensor([0.,2.,0.,2.], dtype=x.dtype)

class Half(nn.Dropout):
    "Dropout without dice: every second channel, where it is on"
    def forward(self, x): return x*mask[:x.shape[1]] if self.training else x

@wraps(Adam)
def Adam_(params, lr, mom=.9): return Adam(params, lr, mom=.9)

def two_layers(n=4): return nn.Sequential(nn.Linear(3, n, bias=False), nn.Identity(), nn.Linear(n, 3, bias=False))
def lopsided():
    "The last unit matters most"
    model = two_layers()
    with torch.no_grad(): model[2].weight[:,3] *= 5
    return model
def with_norm(): return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3, bias=False))
def three_layers(): return nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))

def new_learner(make=two_layers, opt=SGD, y=y, bs=bs, shuffle=False, path=None, loss=None, metrics=(), xs=x, **kwargs):
    kwargs,mom = dict(widths=(.25,.5,.75,1.)) | kwargs,kwargs.pop('mom', 0.)
    torch.manual_seed(0); random.seed(0)
    model = make().double()
    dls = DataLoaders(DataLoader(list(zip(xs, y)), bs=bs, shuffle=shuffle), DataLoader(list(zip(xs, y)), bs=bs), device='cpu')
    opt = partial(OptimWrapper, opt=torch.optim.SGD, momentum=mom) if opt is OptimWrapper else partial(opt, mom=mom)
    learn = Learner(dls, model, loss_func=loss or nn.CrossEntropyLoss(), opt_func=opt, path=path, metrics=metrics)
    learn.remove_cbs(ProgressCallback)
    learn.supernet = Supernet(model, xs[:2], **{k:v for k,v in kwargs.items() if k!='mom'})
    return learn

class Shown(Callback):
    "fastai's Recorder wants a float32 loss; what is trained stays float64"
    def after_loss(self): self.learn.loss = self.loss.float()

class Noted(Callback):
    "Weights at a batch's start and end, and what its optimizer step is given"
    order,run_valid = 30,False
    def before_fit(self): self.rows = []
    def weights(self): return [p.detach().clone() for p in self.model.parameters()]
    def before_batch(self):
        cb = self.onion_training
        self.rows.append(SimpleNamespace(nets=cb.nets, h=[s.width.get('0') for s in cb.nets], eps=cb.eps, W=self.weights(), x=self.x, y=self.y))
    def before_step(self): self.rows[-1].grads,self.rows[-1].lr = [None if p.grad is None else p.grad.clone() for p in self.model.parameters()],float(self.opt.hypers[-1]['lr'])
    def after_batch(self): self.rows[-1].end = self.weights()

def fit(learn, rec, n=1, lr=lr, cbs=(), fit='fit', start_epoch=0, **kwargs):
    log,cb = Noted(),OnionTraining(rec, **dict(watch=(), estimate=False) | kwargs)
    with learn.no_logging(): getattr(learn, fit)(n, lr, cbs=[cb, log, Shown(), *cbs], **(dict(start_epoch=start_epoch) if start_epoch else {}))
    return log.rows

def close(a, b, what='', eps=1e-12):
    for p,q in zip(a, b, strict=True): assert (p-q).abs().max()<=eps*max(1, q.abs().max()), what
def differ(a, b): assert any((p-q).abs().max()>1e-4 for p,q in zip(a, b))

# ---- by hand: W1 (4,3) and W2 (3,4), a subnet is the first `h` hidden units

def logits(h, W, x, m=None): return (x @ W[0][:h].T * (1 if m is None else m[:h])) @ W[1][:,:h].T
def says(h, W, x): return logits(h, W, x).softmax(1)
def grad(h, q, W, x, m=None):
    "Gradients of the mean cross-entropy with the targets `q`"
    m = torch.ones(4, dtype=x.dtype) if m is None else m
    e,a = (logits(h, W, x, m).softmax(1)-q)/len(x),x @ W[0][:h].T*m[:h]
    G = [torch.zeros_like(w) for w in W]
    G[0][:h],G[1][:,:h] = (e @ W[1][:,:h] * m[:h]).T @ x,e.T @ a
    return G
def add(*Gs): return [sum(g) for g in zip(*Gs)]
def times(a, G): return [a*g for g in G]
def minus(W, G): return [w-g for w,g in zip(W, G)]
def label(y): return F.one_hot(y, 3).to(x.dtype)
def usage(hs): # networks that own each weight
    U = [torch.zeros(4, 3, dtype=x.dtype), torch.zeros(3, 4, dtype=x.dtype)]
    for h in hs: U[0][:h] += 1; U[1][:,:h] += 1
    return U

all_four = Construct(k=4, levels=4)
base = Recipe(all_four)

def test_base():
    "The update that the others are compared with: the full network on labels, three on what it says, the sum"
    b = fit(new_learner(), base)[0]
    assert b.h[0]==4 and sorted(b.h)==[1,2,3,4]
    want = add(grad(4, label(b.y), b.W, b.x), *[grad(h, says(4, b.W, b.x), b.W, b.x) for h in (1,2,3)])
    close(b.grads, want)
    close(b.end, minus(b.W, times(lr, want)))

# ---- gradient

@pytest.mark.parametrize('target', ['hard','distill','next','teacher'])
@pytest.mark.parametrize('eps', [1., .25])
def test_target(target, eps):
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Linear(3, 3), nn.Dropout(.9)).double()
    rec = Recipe(all_four, Gradient(target), schedule=Delayed(0., 1., eps0=eps))
    for b in fit(new_learner(), rec, teacher=teacher.train() if target=='teacher' else None)[:1]:
        t = label(b.y)
        q = dict(hard=[t]*3, distill=[says(4, b.W, b.x)]*3, next=[says(h+1, b.W, b.x) for h in (1,2,3)])
        if target=='teacher': # labels and soft labels: two losses
            with torch.no_grad(): soft = teacher[0](b.x).softmax(1)
            subs = [add(grad(h, t, b.W, b.x), grad(h, soft, b.W, b.x)) for h in (1,2,3)]
        else: subs = [grad(h, q, b.W, b.x) for h,q in zip((1,2,3), q[target])]
        close(b.grads, add(grad(4, t, b.W, b.x), times(eps, add(*subs))), target)
        if target!='distill': differ(b.grads, fit(new_learner(), replace(rec, gradient=Gradient()))[0].grads)

def by_hand(rule, gs, own, w):
    "One element list `gs` per network, smallest first, as a loop over networks"
    if rule=='sum': return sum(gs)
    u = sum(o*v for o,v in zip(own, w))
    if rule=='avg': return sum(gs)/u
    if rule=='avg_sqrt': return sum(gs)/u**.5
    against = dict(project=lambda i: [j for j in range(4) if j!=i], core=lambda i: [j for j in range(4) if j<i], skins=lambda i: [j for j in range(4) if j>i])[rule]
    res = 0
    for i,v in enumerate(gs):
        v = v.clone()
        for j in against(i):
            o = gs[j]*own[i] # what the two share
            if (d := (v*o).sum())<0: v -= d/(o*o).sum()*o
        res = res+v
    return res

def conflict(gs, own): return any((a*b*o).sum()<0 for i,(a,o) in enumerate(zip(gs, own)) for b in gs[i+1:])

def cancelling():
    "Unit 0 is sure of itself, and unit 3 takes back what it says: the smallest network wants less of it, the full one more"
    model = two_layers()
    with torch.no_grad():
        model[0].weight[3],model[2].weight[:,0] = model[0].weight[0],20*model[2].weight[:,0]
        model[2].weight[:,3] = -model[2].weight[:,0]
    return model

@pytest.mark.parametrize('rule', ['sum','avg','avg_sqrt','project','core','skins'])
def test_combine(rule):
    mostly = logits(1, [p.detach() for p in new_learner(cancelling).model.parameters()], x).argmax(1) # what it is sure of is mostly right
    mostly[::3] = (mostly[::3]+1)%3
    log,seen = fit(new_learner(cancelling, y=mostly), Recipe(all_four, Gradient('hard', rule), schedule=Delayed(0., 1., eps0=.25)), n=3, lr=.02),0
    own = [usage([h]) for h in (1,2,3,4)]
    for b in log:
        w = [b.eps]*3+[1.]
        gs = [times(v, grad(h, label(b.y), b.W, b.x)) for h,v in zip((1,2,3,4), w)]
        by_layer = [([G[i] for G in gs], [o[i] for o in own]) for i in (0,1)]
        close(b.grads, [by_hand(rule, *l, w) for l in by_layer], rule)
        if rule in ('avg','avg_sqrt'): differ(b.grads, add(*gs))
        if rule in ('project','core','skins'): # they are different things where networks disagree
            for l in by_layer:
                (a,c,d,e) = [by_hand(o, *l, w) for o in ('sum','project','core','skins')]
                seen += conflict(*l) and all((p-q).abs().max()>1e-4 for p,q in ((a,c), (a,d), (a,e), (c,d), (c,e), (d,e)))
    assert rule in ('sum','avg','avg_sqrt') or seen>2

def test_combine_user():
    "A function sees weighted gradients, owners and weights, smallest network first, and what it returns is the gradient"
    seen = []
    def largest_part(gs, own, ws):
        seen.append((own.flatten(1).sum(1).tolist(), ws.tolist()))
        return 3*gs[-1]+gs[0]
    b = fit(new_learner(), Recipe(all_four, Gradient('hard', largest_part), schedule=Delayed(0., 1., eps0=.25)))[0]
    close(b.grads, add(times(3, grad(4, label(b.y), b.W, b.x)), times(.25, grad(1, label(b.y), b.W, b.x))))
    assert seen[1:3]==[([3,6,9,12], [.25,.25,.25,1.])]*2 # after a trial with two networks

@pytest.mark.parametrize('dropout', [False, True])
@pytest.mark.parametrize('steps', ['joint','small first','large first'])
def test_dropout(dropout, steps):
    "Subnets drop out only where the recipe says so, also where one of them is the step's first network; the largest always does"
    learn = new_learner()
    learn.model[1] = Half()
    b = fit(learn, Recipe(all_four, Gradient('hard', dropout=dropout), Update(steps)), n=2)[4] # in the second epoch: also after a validation
    W,hs = b.W,dict(joint=(4,3,2,1)).get(steps) or sorted(b.h, reverse=steps=='large first')
    gs = lambda W,h: grad(h, label(b.y), W, b.x, mask if dropout or h==4 else None)
    if steps=='joint': W = minus(W, times(lr, add(*[gs(W, h) for h in hs])))
    else:
        for h in hs: W = minus(W, times(lr, gs(W, h)))
    close(b.end, W)
    assert learn.model[1].training is False and learn.model.train()[1].training # after a validation; and train() reaches it

# ---- update

@pytest.mark.parametrize('steps', ['small first','large first'])
@pytest.mark.parametrize('target', ['hard','distill'])
def test_steps(steps, target):
    "A step for each network; the teacher is the largest as it was before the first of them"
    for b in fit(new_learner(), Recipe(all_four, Gradient(target), Update(steps)))[:2]:
        W,q = b.W,says(4, b.W, b.x)
        assert b.h==sorted(b.h, reverse=steps=='large first')
        for h in b.h: W = minus(W, times(lr, grad(h, label(b.y) if h==4 or target=='hard' else q, W, b.x)))
        close(b.end, W)
    other = fit(new_learner(), Recipe(all_four, Gradient(target), Update(dict(zip(('small first','large first'), ('large first','joint')))[steps])))
    differ(fit(new_learner(), Recipe(all_four, Gradient(target), Update(steps)))[0].end, other[0].end)

def test_steps_next():
    "With the largest first, the teacher of each is what the next larger one said before its step"
    b = fit(new_learner(), Recipe(all_four, Gradient('next'), Update('large first')))[0]
    W,q = b.W,label(b.y)
    for h in (4,3,2,1): q,W = says(h, W, b.x),minus(W, times(lr, grad(h, q, W, b.x)))
    close(b.end, W)

def test_skin_lr():
    "The step, momentum and all, is divided by the networks that share a weight"
    log = fit(new_learner(mom=.9), Recipe(Construct(k=3, levels=4), Gradient('hard'), Update(skin_lr=True)))
    buf = times(0, log[0].W)
    for b in log:
        buf = add(times(.9, buf), *[grad(h, label(b.y), b.W, b.x) for h in b.h])
        close(b.end, [w-lr*m/u.clamp(1) for w,m,u in zip(b.W, buf, usage(b.h))])
    assert len({tuple(sorted(b.h)) for b in log})>1
    differ(log[0].end, fit(new_learner(mom=.9), Recipe(Construct(k=3, levels=4), Gradient('hard')))[0].end)

def test_skin_lr_counts_weights():
    "A subnet counts by its weight, so a ramp of epsilon begins where the full network alone was: with plain SGD the same as the mean by usage"
    ramp = Recipe(Construct(k=3, levels=4), schedule=Delayed(0., 1., 1e-3))
    log, avg = fit(new_learner(), replace(ramp, update=Update(skin_lr=True)), n=2), fit(new_learner(), replace(ramp, gradient=Gradient(combine='avg')), n=2)
    for a,b in zip(log, avg): close(a.end, b.end, a.eps)
    assert log[0].eps==1e-3 and log[-1].eps>.8
    close(log[0].end, fit(new_learner(), Recipe(Construct(k=1)))[0].end, eps=1e-3)

@pytest.mark.parametrize('schedule', [Delayed(0., 0.), inside_out(3)])
@pytest.mark.parametrize('steps', ['small first','large first'])
@pytest.mark.parametrize('momentum', ['own','shared'])
@pytest.mark.parametrize('opt', [SGD, OptimWrapper])
def test_momentum(steps, momentum, opt, schedule):
    "A momentum buffer for each network, or one for all"
    learn = new_learner(opt=opt, mom=.9)
    log = fit(learn, Recipe(Construct(k=3, levels=4), Gradient('hard'), Update(steps, momentum=momentum), schedule), n=3)
    bufs,W = {},log[0].W
    for b in log:
        close(b.W, W)
        for h in b.h:
            whose = h if momentum=='own' else 4
            bufs[whose] = add(times(.9, bufs.get(whose, times(0, W))), grad(h, label(b.y), W, b.x))
            W = minus(W, times(lr, bufs[whose]))
        close(b.end, W)
    assert len({h for b in log for h in b.h})==4
    state = getattr(learn.opt, 'opt', learn.opt).state # in the end, and for whoever saves it: the largest network's
    close([state[p]['grad_avg' if opt is SGD else 'momentum_buffer'] for p in learn.model.parameters()], bufs[4])

def test_own_momentum_is_sorted():
    "Every rank's buffer is permuted with the weights"
    rec = Recipe(Construct(k=3, sort='phases'), Gradient('hard'), Update('small first', momentum='own'), Phases((Phase(1, (('width',-2),)), Phase(1))))
    log = fit(new_learner(mom=.9), rec, n=4, lr=.3)
    bufs,W = {},None
    for i,b in enumerate(log):
        if i==8: # within the tiers that were trained
            score = W[1].abs().sum(0)
            o = torch.cat([a+score[a:z].argsort(descending=True) for a,z in ((0,3),(3,4))])
            assert o.tolist()!=[0,1,2,3]
            W,bufs = [W[0][o], W[1][:,o]],{r:[m[0][o], m[1][:,o]] for r,m in bufs.items()}
        if W: close(b.W, W, i)
        W = b.W
        for h in b.h:
            rank = sum(k>h for k in b.h) # equal ones have the same
            bufs[rank] = add(times(.9, bufs.get(rank, times(0, W))), grad(h, label(b.y), W, b.x))
            W = minus(W, times(.3, bufs[rank]))
        close(b.end, W, i)

# ---- schedule

def test_end():
    "The weight falls on a straight line to `end`, which the last step has"
    log = fit(new_learner(), Recipe(all_four, Gradient('hard'), schedule=Delayed(.25, .25, .1, end=.4)), n=2)
    assert [b.eps for b in log]==pytest.approx([0,0,.1,.55,1,.8,.6,.4])
    for b in log: close(b.grads, add(grad(4, label(b.y), b.W, b.x), *[times(b.eps, grad(h, label(b.y), b.W, b.x)) for h in (1,2,3)]))

def test_ramp_of_what_is_left():
    "A ramp that the warm-up leaves no room for takes the steps that there are"
    assert [b.eps for b in fit(new_learner(), Recipe(all_four, Gradient('hard'), schedule=Delayed(.5, .9, .1)), n=2)]==pytest.approx([0,0,0,0,.1,.325,.55,.775])

@pytest.mark.parametrize('how', ['fit_one_cycle','fit_flat_cos','fit'])
def test_code_ramp(how):
    "The published code: epsilon times the rate is a straight line to the rate at the end of the warm-up, and begins a ramp before it"
    log = fit(new_learner(), Recipe(all_four, Gradient('hard'), schedule=Delayed(.75, .25, code=True)), n=5, fit=how) # 20 steps, warm-up to 15, ramp from 10
    assert [b.eps>0 for b in log]==[False]*10+[True]*10 and {b.eps for b in log[15:]}=={1.}
    assert [b.eps*b.lr for b in log[10:15]]==pytest.approx([log[15].lr*(1e-4+(1-1e-4)*i/5) for i in range(5)], rel=1e-5)
    for b in log: close(b.grads, add(grad(4, label(b.y), b.W, b.x), *[times(b.eps, grad(h, label(b.y), b.W, b.x)) for h in (1,2,3)]))
    paper = fit(new_learner(), Recipe(all_four, Gradient('hard'), schedule=Delayed(.5, .25)), n=5, fit=how)
    assert how!='fit_one_cycle' or log[12].eps<paper[12].eps-.01

@pytest.mark.parametrize('how', ['fit_one_cycle','fit_flat_cos','fit'])
def test_lr_floor(how):
    "Never below the share of the highest rate, and else the fit's own"
    free,kept = [fit(new_learner(), Recipe(all_four, schedule=Delayed(0., 0., lr_floor=f)), n=5, fit=how) for f in (0., .3)]
    assert [b.lr for b in kept]==pytest.approx([max(b.lr, .3*lr) for b in free], rel=1e-5)
    assert how=='fit' or min(b.lr for b in free)<.1*lr
    for b in kept: close(b.end, minus(b.W, times(b.lr, b.grads)))

@pytest.mark.parametrize('how', ['fit','fit_one_cycle'])
def test_phase_rates(how):
    "A phase's own cosine with its warm-up; without one the fit's rate, also behind a phase that had one"
    rec = Recipe(Construct(k=2), schedule=Phases((Phase(2, (('width',-3),), lr=.5, warmup=.25), Phase(1), Phase(2, (('width',-2),), k=3, lr=.2), Phase(1, (('width',2),)))))
    log,free = fit(new_learner(), rec, n=6, fit=how),fit(new_learner(), base, n=6, fit=how) # 24 steps
    def cosine(i, n): return (1+math.cos(math.pi*i/n))/2
    want = [.5*lr/3, lr/3] + [.5*lr*cosine(i, 6) for i in range(6)] + [b.lr for b in free[8:12]] + [.2*lr*cosine(i, 8) for i in range(8)] + [b.lr for b in free[20:]]
    assert [b.lr for b in log]==pytest.approx(want, rel=1e-5)
    assert [len(b.nets) for b in log]==[2]*12+[3]*8+[2]*4
    for b in log: close(b.end, minus(b.W, times(b.lr, b.grads)))

@pytest.mark.parametrize('sort', ['never','once','phases'])
@pytest.mark.parametrize('skins', [inside_out, outside_in])
def test_skins(skins, sort):
    "Four skins, 8 steps each; channels that have been trained as a core stay in front"
    learn,orders,values = new_learner(lopsided),[],[1,2,3,4]
    before = [p.detach().clone() for p in learn.model.parameters()]
    log = fit(learn, Recipe(Construct(k=2, sort=sort), Gradient('hard'), schedule=skins(4, .75)), n=8) # the last from step 24 on
    first = 0 if skins is inside_out else 8 # when there is more, or less, than the full network
    for i,b in enumerate(log):
        part = values[:i//8+1] if skins is inside_out else values[-(i//8+1):]
        assert {*b.h}<={*part} and part[-1]==b.h[0] and len(b.h)==1+(len(part)>1), i
        close(b.grads, add(*[grad(h, label(b.y), b.W, b.x) for h in b.h]), i)
        if i%8: continue
        now,n = b.W,i//8 # n values have been trained
        if i: before = log[i-1].end
        moved = sort=='phases' and i>=first or sort=='once' and i==first
        score = before[1].abs().sum(0)
        # inside out: 1..n are trained, units n+1..4 may change places; outside in: 4-n+1..4 are, each a tier of its own but the first 4-n+1
        tiers = [(j,j+1) for j in range(n)]+[(n,4)] if skins is inside_out else [(0,min(5-n, 4))]+[(j,j+1) for j in range(5-n, 4)]
        o = torch.cat([a+score[a:z].argsort(descending=True) for a,z in tiers]) if moved else torch.arange(4)
        close(now, [before[0][o], before[1][:,o]], (i, o))
        orders.append(o.tolist())
    assert (orders[first//8]!=[0,1,2,3])==(sort!='never')

@pytest.mark.parametrize('sorts', [('never','once'), ('phases',)], ids=['once','phases'])
def test_sorting(sorts):
    "Once, where shrinking starts; at each phase; or never; and momentum goes with the weights"
    for sort in sorts:
        log = fit(new_learner(lopsided, mom=.9), Recipe(replace(all_four, sort=sort), Gradient('hard'), schedule=Delayed(.5, 0.)), n=2)
        W,buf = [p.detach().clone() for p in new_learner(lopsided).model.parameters()],None
        for i,b in enumerate(log):
            if i==4 and sort!='never':
                o = W[1].abs().sum(0).argsort(descending=True)
                assert o.tolist()!=[0,1,2,3]
                W,buf = [W[0][o], W[1][:,o]],[buf[0][o], buf[1][:,o]]
            close(b.W, W, (sort, i))
            buf = add(times(.9, buf or times(0, W)), *[grad(h, label(b.y), W, b.x) for h in ((1,2,3,4) if i>=4 else (4,))])
            W = minus(W, times(lr, buf))
            close(b.end, W, (sort, i))

# ---- construct

def test_levels_and_spacing():
    "Equally spaced shares, or equally spaced MACs (6h + h^2 with h channels in both layers)"
    for spacing,want in (('share',{1,3,6,8}), ('macs',{1,4,6,8})):
        learn = new_learner(three_layers, widths=tuple(i/8 for i in range(1,9)))
        log = fit(learn, Recipe(Construct(k=4, levels=4, spacing=spacing), Gradient('hard')))
        for b in log:
            assert {(s.width['0'], s.width['2']) for s in b.nets}=={(h,h) for h in want}
            ws = [w.clone().requires_grad_() for w in b.W]
            for h in want:
                out = ((b.x @ ws[0][:h].T).relu() @ ws[1][:h,:h].T).relu() @ ws[2][:,:h].T
                F.cross_entropy(out, b.y).backward()
            close(b.grads, [w.grad for w in ws])
    assert {len({*b.nets}) for b in fit(new_learner(), Recipe(Construct(k=2, levels=3)))}=={2}
    some = fit(new_learner(), Recipe(Construct(k=2, levels=3)), n=5)
    assert {h for b in some for h in b.h[1:]}=={1,3} and {b.h[0] for b in some}=={4} # 2.5 of 4 is nearer to neither: the larger

def test_levels_of_a_recipe():
    "Levels are those of the kinds of choices that the construction makes"
    learn = new_learner(lambda: nn.Sequential(nn.Unflatten(1, (1,3)), nn.Conv1d(1, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)), kernels=(1,3))
    fit(learn, slimmable())
    assert {*levels_of(slimmable().construct, learn.supernet.space)}=={*learn.supernet.private, learn.supernet.space.max} and len(learn.supernet.private)==3

def test_levels_without_the_full_network():
    "A phase without the largest draws among the levels too"
    rec = Recipe(Construct(k=4, levels=2, bn='private'), Gradient('hard'), schedule=Phases((Phase(1, full=False),)))
    learn = new_learner(with_norm)
    assert {h for b in fit(learn, rec, n=3) for h in b.h}=={1,4} and [s.width['0'] for s in learn.supernet.private]==[1]
    rec = Recipe(Construct(k=4, levels=2), Gradient('hard'), schedule=Phases((Phase(1, (('width',-2),), full=False),))) # 3 and 4 are left, and 3 is no level
    assert {h for b in fit(new_learner(), rec) for h in b.h}=={4}

@pytest.mark.parametrize('smallest', [False, True])
def test_smallest(smallest):
    log = fit(new_learner(), Recipe(Construct(k=3, smallest=smallest)), n=3)
    assert all(b.h[:2]==[4,1] for b in log)==smallest and all(b.h[0]==4 and 4 not in b.h[1:] for b in log)
    for b in log: close(b.grads, add(grad(4, label(b.y), b.W, b.x), *[grad(h, says(4, b.W, b.x), b.W, b.x) for h in b.h[1:]]))

class Skip(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv = nn.Conv1d(n, n, 3, padding=1, bias=False)
    def forward(self, x): return x+self.conv(x).relu()

def elastic_everywhere(): return nn.Sequential(nn.Unflatten(1, (1,3)), nn.Conv1d(1, 4, 3, padding=1, bias=False), nn.Sequential(Skip(4)), nn.Flatten(), nn.Linear(12, 3))

@pytest.mark.parametrize('dims', [('width',), ('depth',), ('kernel',), ('width','depth','kernel','resolution')])
def test_kinds(kinds):
    "Choices of other kinds stay whole, in what is drawn and in the gradient"
    learn = new_learner(elastic_everywhere, widths=(.5,1.), depths=(0,1), kernels=(1,3))
    full = learn.supernet.space.max
    nets = {s for b in fit(learn, Recipe(Construct(k=3, dims=kinds, smallest=True), Gradient('hard')), n=8) for s in b.nets}
    for k in ('width','depth','kernel'): # the whole model is what it is, and so is what lives in a block that is there
        assert any(getattr(s,k)[n]!=v for s in nets for n,v in getattr(full,k).items() if n in getattr(s,k))==(k in kinds)
    log = fit(learn, Recipe(Construct(k=3, dims=kinds, smallest=True), Gradient('hard')))[:1]
    for b in log:
        C1,C2,L,bias = ws = [w.clone().requires_grad_() for w in b.W]
        for s in b.nets:
            h,k1 = s.width.get('1', 4),s.kernel.get('1', 3)
            o = F.conv1d(b.x[:,None], C1[:h] if k1==3 else C1[:h,:,1:2], padding=k1//2)
            if s.depth.get('2', 1):
                k2 = s.kernel.get('2.0.conv', 3)
                o = o+F.conv1d(o, C2[:h,:h] if k2==3 else C2[:h,:h,1:2], padding=k2//2).relu()
            F.cross_entropy(F.linear(o.flatten(1), L[:,:3*h], bias), b.y).backward()
        close(b.grads, [w.grad for w in ws])

@pytest.mark.parametrize('target', ['hard','distill'])
@pytest.mark.parametrize('steps', ['joint','small first','large first'])
@pytest.mark.parametrize('bn', ['shared','statistics','private'])
def test_bn(bn, steps, target):
    "Whose weight, bias and running statistics; trained by hand for an epoch, by a teacher that leaves no trace in them"
    learn = new_learner(with_norm)
    log = fit(learn, Recipe(replace(all_four, bn=bn), Gradient(target), Update(steps)), n=1)[:2]
    sn = learn.supernet
    own = {h:[torch.ones(h).double().requires_grad_(), torch.zeros(h).double().requires_grad_()] for h in (1,2,3)}
    stats = {h:[torch.zeros(h).double(), torch.ones(h).double()] for h in (1,2,3,4)}
    W1,w,b,W2 = ws = [p.clone().requires_grad_() for p in log[0].W]
    ps = ws+[p for h in own for p in own[h]]
    @torch.no_grad()
    def sgd():
        for p in ps:
            if p.grad is not None: p -= lr*p.grad
            p.grad = None
    def step(xb, yb):
        with torch.no_grad(): q = (F.batch_norm(xb @ W1.T, None, None, w, b, training=True).relu() @ W2.T).softmax(1)
        for h in (4,3,2,1) if steps=='large first' else (1,2,3,4):
            wh,bh = own[h] if bn=='private' and h<4 else (w[:h],b[:h])
            z = F.batch_norm(xb @ W1[:h].T, *stats[h], wh, bh, training=True)
            F.cross_entropy(z.relu() @ W2[:,:h].T, yb if target=='hard' or h==4 else q).backward()
            if steps!='joint': sgd()
        grads = [None if p.grad is None else p.grad.clone() for p in ws]
        sgd()
        return grads
    for i,s in enumerate(log):
        close(s.W, [p.detach() for p in ws], i)
        grads = step(s.x, s.y)
        if steps=='joint': close(s.grads, grads, i)
    for xb,yb in batch[2:]: step(xb, yb)
    close([p.detach() for p in learn.model.parameters()], [p.detach() for p in ws])
    close([learn.model[1].running_mean, learn.model[1].running_var], stats[4])
    assert {s.width['0'] for s in sn.private}==(set() if bn=='shared' else {1,2,3})
    for s in sn.private:
        mine,h = sn.stats[s]['1'],s.width['0']
        close([mine['running_mean'], mine['running_var']], stats[h])
        assert ('weight' in mine)==(bn=='private')
        if bn=='private':
            close([mine['weight'].detach(), mine['bias'].detach()], [p.detach() for p in own[h]])
            assert (own[h][0]-1).abs().max()>1e-5
        z = F.batch_norm(x @ W1[:h].T, *stats[h], *(own[h] if bn=='private' else (w[:h],b[:h])))
        close([sn.extract(s).eval()(x).detach()], [(z.relu() @ W2[:,:h].T).detach()])

@pytest.mark.parametrize('bn', ['shared','statistics','private'])
def test_bn_without_the_full_network(bn):
    "The teacher is not trained in the step, and looked at between a subnet's forward and backward"
    b = fit(new_learner(with_norm), Recipe(replace(all_four, bn=bn), Gradient('distill'), schedule=Phases((Phase(1, k=2, full=False),))))[0]
    W1,w,bias,W2 = ws = [p.clone().requires_grad_() for p in b.W]
    with torch.no_grad(): q = (F.batch_norm(b.x @ W1.T, None, None, w, bias, training=True).relu() @ W2.T).softmax(1)
    for h in b.h:
        wh,bh = (torch.ones(h).double(), torch.zeros(h).double()) if bn=='private' and h<4 else (w[:h],bias[:h])
        F.cross_entropy(F.batch_norm(b.x @ W1[:h].T, None, None, wh, bh, training=True).relu() @ W2[:,:h].T, q).backward()
    close([g for g in b.grads if g is not None], [p.grad for p in ws if p.grad is not None])

def test_matrices():
    "Kernels by matrices: the smaller kernel is a linear map of the whole kernel's centre, and both are trained"
    def net(): return nn.Sequential(nn.Unflatten(1, (1,3)), nn.Conv1d(1, 2, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(6, 3, bias=False))
    learn = new_learner(net, widths=(1.,), kernels=(1,3))
    log = fit(learn, Recipe(Construct(k=2, matrices=True), Gradient('hard')))
    M = torch.ones(1, 1, dtype=x.dtype, requires_grad=True)
    for b in log:
        C,L = ws = [w.clone().requires_grad_() for w in b.W]
        assert [s.kernel['1'] for s in b.nets]==[3,1]
        for c,p in ((C,1), (C[...,1:2]*M,0)): F.cross_entropy(F.conv1d(b.x[:,None], c, padding=p).flatten(1) @ L.T, b.y).backward()
        close(b.grads, [w.grad for w in ws])
        with torch.no_grad(): M -= lr*M.grad; M.grad = None
    close([learn.supernet.matrices['1'][1].detach()], [M.detach()])
    assert abs(M.item()-1)>1e-3
    cropped = fit(new_learner(net, widths=(1.,), kernels=(1,3)), Recipe(Construct(k=2), Gradient('hard')))
    differ(log[1].grads, cropped[1].grads)

def test_owned_with_matrices():
    "A kernel that a matrix makes uses all of the larger centre: what gets a gradient is owned, and the mean divides there"
    def net(): return nn.Sequential(nn.Unflatten(1, (1,3)), nn.Conv1d(1, 2, 5, padding=2, bias=False), nn.Flatten(), nn.Linear(6, 3, bias=False))
    learn = new_learner(net, widths=(1.,), kernels={'1':(1,3,5)})
    sn = learn.supernet
    sn.kernel_matrices()
    with torch.no_grad():
        for p in sn.held_params(): p += .3
    for s in (sn.space.min, sn.space.max):
        learn.model.zero_grad()
        with sn.active(s): F.cross_entropy(learn.model(x), y).backward()
        assert ((learn.model[1].weight.grad!=0)==owned(sn, s)['1.weight']).all()

@pytest.mark.parametrize('steps', ['joint','large first','small first'])
def test_importance(steps):
    "Four candidates each time; one is drawn in proportion to the running distillation loss of its size"
    def up_and_down(i): return 1+9*(i%3==0)
    def distill(pred, teacher): return up_and_down(learn.train_iter)*F.cross_entropy(pred, teacher.softmax(1))
    learn,gaps = new_learner(),{}
    log = fit(learn, Recipe(Construct(k=3, sample='importance'), update=Update(steps)), n=6, seed=5, lr=.01, distill=distill)
    for i,b in enumerate(log):
        rng,hs = random.Random(f'5 {i}'),[4]
        def one():
            while (h := rng.choice((1,2,3,4)))==4: pass
            return h
        for _ in (1,2):
            four = [one() for _ in range(4)]
            hs += rng.choices(four, [gaps.get(h, max(gaps.values(), default=1.)) for h in four])
        if steps!='joint': hs.sort(reverse=steps=='large first')
        assert b.h==hs, i
        q,W = says(4, b.W, b.x),b.W # what the full network says before anybody steps
        for h in hs: # 1 to 3 channels are sizes of their own: 0, 1/3 and 2/3 of the range of MACs
            if h<4:
                loss = -up_and_down(i)*(q*logits(h, W, b.x).log_softmax(1)).sum(1).mean().item()
                gaps[h] = .9*gaps.get(h, loss)+.1*loss
            if steps!='joint': W = minus(W, times(.01, times(up_and_down(i), grad(h, q, W, b.x)) if h<4 else grad(4, label(b.y), W, b.x)))
    uniform = fit(new_learner(), Recipe(Construct(k=3)), n=6, seed=5)
    assert [b.h for b in uniform]!=[b.h for b in log]
    def often(weights): # how often each size is drawn where its loss is `weights`
        def distill(pred, teacher): return weights[cb.h.pop(0)]+0*pred.sum()
        class Next(Callback):
            order,run_valid,h = 9,False,[1] # a loss is tried before the first batch
            def before_batch(self): self.h = [s.width['0'] for s in self.onion_training.subnets]
        cb = Next()
        log = fit(new_learner(), Recipe(Construct(k=3, sample='importance')), n=15, lr=0., distill=distill, cbs=[cb])
        return [sum(b.h[1:].count(h) for b in log) for h in (1,2,3)]
    a,b = often({1:9.,2:1.,3:1.}),often({1:1.,2:1.,3:9.})
    assert a[0]>2*b[0] and b[2]>2*a[2]

def test_teacher_shape():
    "A teacher whose answer would be broadcast is refused before training"
    learn = new_learner(y=x, loss=MSELossFlat())
    with pytest.raises(ValueError, match=r'shape \(8, 1\).*\(8, 3\)'): fit(learn, Recipe(gradient=Gradient('teacher')), teacher=nn.Linear(3, 1).double())
    fit(learn, Recipe(gradient=Gradient('teacher')), teacher=nn.Linear(3, 1).double(), distill=lambda pred, soft: (pred.mean(1, keepdim=True)-soft).square().mean())

def test_teacher_first():
    "Subnets that learn from a teacher wait for it; the full network alone need not"
    rec = lambda *phases: Recipe(Construct(k=2, levels=4), Gradient('teacher'), schedule=Phases(phases))
    seen = []
    class Seen(Callback):
        def before_batch(self): seen.append(1)
    with pytest.raises(ValueError, match='before the phase that trains it'): fit(new_learner(), rec(Phase(1, k=1), Phase(1), Phase(1, k=1, teach=True), Phase(1)), n=4, cbs=[Seen()])
    assert not seen
    fit(new_learner(), rec(Phase(1, k=1), Phase(1, k=1, teach=True), Phase(1)), n=4)

# ---- what the fit brings along

@pytest.mark.parametrize('rule', ['sum','avg','project'])
@pytest.mark.parametrize('target', ['hard','distill','next'])
def test_accumulation(rule, target):
    "Two batches of 8 are one of 16: same networks, same weight, same combined gradient"
    rec = Recipe(Construct(k=3), Gradient(target, rule), schedule=Delayed(.25, .5))
    big = fit(new_learner(bs=16), rec, n=4)
    log = fit(new_learner(), rec, n=4, cbs=[GradientAccumulation(16)])
    assert [i for i,b in enumerate(log) if hasattr(b, 'grads')]==[*range(1, 16, 2)]
    for i,b in enumerate(big): # the schedule counts batches: the large steps are those of every second one
        assert len(b.nets)==len(log[2*i].nets)==len(log[2*i+1].nets) and log[2*i].nets==log[2*i+1].nets
    for i,small in enumerate(log[1::2]):
        first = log[2*i]
        xb,yb,W = torch.cat([first.x, small.x]),torch.cat([first.y, small.y]),small.W
        order = sorted(first.h)
        q = {h:label(yb) if h==4 or target=='hard' else says(4 if target=='distill' else order[order.index(h)+1] if order.count(h)==1 else h, W, xb) for h in order}
        if target=='next' and len({*order})<len(order): continue # the same network twice in a step
        gs,w = [times(1. if h==4 else first.eps, grad(h, q[h], W, xb)) for h in order],[1. if h==4 else first.eps for h in order]
        own = [usage([h]) for h in order]
        if rule=='sum': want = add(*gs)
        elif rule=='avg': want = [torch.where((u := sum(o[j]*v for o,v in zip(own, w)))>0, sum(G[j] for G in gs)/u.clamp(1e-9), 0.) for j in (0,1)]
        else: want = [surgery([G[j] for G in gs], [o[j] for o in own]) for j in (0,1)]
        close(small.grads, want, i)

def surgery(gs, own):
    out = [v.clone() for v in gs]
    for i in range(len(gs)):
        for j in range(len(gs)):
            o = gs[j]*own[i]
            if i!=j and (d := (out[i]*o).sum())<0: out[i] -= d/(o*o).sum()*o
    return sum(out)

def test_accumulation_is_a_large_batch():
    "With networks and weight that do not change, whole runs are the same"
    for rule in ('sum','avg'):
        rec = Recipe(all_four, Gradient(combine=rule))
        close([*new_learner().model.parameters()], [*new_learner(bs=16).model.parameters()])
        a,b = new_learner(),new_learner(bs=16)
        fit(a, rec, n=3, cbs=[GradientAccumulation(16)]); fit(b, rec, n=3)
        close([p.detach() for p in a.model.parameters()], [p.detach() for p in b.model.parameters()], rule)

def matrices_net(): return nn.Sequential(nn.Unflatten(1, (1,3)), nn.Conv1d(1, 4, 5, padding=2, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))

@pytest.mark.parametrize('rec,space', [(slimmable(), {}), (Recipe(Construct(matrices=True), Gradient('hard', 'avg')), dict(kernels=(3,5))), (delayed_shrinking(warmup=.25, ramp=.25), dict(kernels=(3,5)))],
    ids=['private','matrices','delayed'])
def test_torch_optimizer(rec, space):
    "OptimWrapper does what fastai's SGD does, with what lives on the handle too"
    own,models = [],[]
    for opt in (SGD, OptimWrapper):
        learn = new_learner(matrices_net, opt=opt, mom=.9, **space)
        fit(learn, rec, n=2)
        sn = learn.supernet
        ps = sn.held_params()
        group = {id(p) for g in learn.opt.param_lists for p in g}
        assert group=={*map(id, learn.model.parameters())} # in a fit only: outside of it the optimizer is saved with the model
        ones = [torch.ones_like(p) if p.ndim==1 else torch.eye(len(p)).double() for p in ps]
        assert all((p-o).abs().max()>1e-3 and (p.grad is None or not p.grad.any()) for p,o in zip(ps, ones)) # trained, and nothing left over
        own.append([p.detach() for p in ps]); models.append([*learn.model.state_dict().values()])
        before = [p.detach().clone() for p in ps]
        fit(learn, rec) # they go on in a second fit
        assert all((p!=b).any() for p,b in zip(ps, before))
    close(*own); close(*models)
    assert bool(own[0])==(not rec.construct.sort=='once')

@pytest.mark.parametrize('scaled', [False,True])
@pytest.mark.parametrize('rec', [slimmable(), Recipe(Construct(matrices=True, smallest=True), Gradient('hard', 'avg'))], ids=['private','matrices'])
def test_clip(rec, scaled):
    "Clipping takes the norm of all that is trained, what is on the handle included"
    class Norms(Callback):
        order,run_valid = 30,False
        def before_fit(self): self.grads = []
        def before_step(self): self.grads.append([p.grad.clone() for p in [*self.model.parameters(), *self.learn.supernet.held_params()] if p.grad is not None])
    res = []
    for clip in ([], [GradientClip(1e-3)]):
        learn,norms = new_learner(matrices_net, kernels=(3,5)),Norms()
        fit(learn, rec, cbs=[norms, *clip, *([Scaled()] if scaled else [])])
        res.append(norms.grads[0])
    own = len(learn.supernet.held_params())
    norm = torch.stack([g.norm() for g in res[0]]).norm()
    assert own and norm>.1 and torch.stack([g.norm() for g in res[0][-own:]]).norm()>.01
    close(res[1], times(1e-3/norm, res[0]), eps=1e-7)

def test_private_norms_have_the_layers_rate():
    "A private batch norm is in the group of its layer, and frozen with it"
    def split(m): return [[*m[:2].parameters()], [*m[2:].parameters()]]
    def net(): return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    def moved(train_bn, freeze, lr):
        learn = new_learner(net)
        learn.splitter,learn.train_bn = split,train_bn
        learn.create_opt()
        if freeze: learn.freeze()
        fit(learn, slimmable(), lr=lr)
        sn = learn.supernet
        return [any((p.detach()-float(t=='weight')).abs().max()>1e-9 for d in sn.stats.values() for t,p in d[n].items() if t in ('weight','bias')) for n in '13']
    assert moved(True, False, lr)==[True,True] and moved(True, False, slice(1e-12, lr))==[False,True] # body, head
    assert moved(False, True, lr)==[False,True] and moved(True, True, lr)==[True,True]

def test_private_affine_has_no_weight_decay():
    "As batch norm's in fastai; matrices have"
    learn = new_learner(with_norm)
    learn.wd = .5
    learn.loss_func = lambda p, y: 0*p.sum()
    fit(learn, slimmable())
    assert all(torch.equal(p, torch.full_like(p, p[0].item())) and p[0].item() in (0.,1.) for p in learn.supernet.held_params())
    assert (learn.model[0].weight.norm() < .9*new_learner(with_norm).model[0].weight.norm())

@pytest.mark.parametrize('rec', [base, Recipe(Construct(k=3), schedule=Delayed(.25, .5)), Recipe(Construct(k=3, sort='phases'), Gradient('hard'), schedule=inside_out(3)),
    Recipe(Construct(k=2), Gradient('hard'), Update('small first'))], ids=['levels','delayed','skins','steps'])
def test_resume(rec):
    whole,rest = [fit(new_learner(), rec, n=6, start_epoch=s, seed=2) for s in (0,3)]
    assert [(b.nets, b.eps) for b in rest]==[(b.nets, b.eps) for b in whole[12:]] and len(rest)==12
    assert [b.nets for b in fit(new_learner(), rec, n=6, start_epoch=3, seed=3)]!=[b.nets for b in rest]

def test_resumed_in_its_last_phase():
    "Sorted before, so not again; and a fit that begins behind the teacher's phase says what it needs"
    rec = Recipe(Construct(k=2, sort='once'), Gradient('hard'), schedule=Delayed(.5, 0.))
    close(fit(new_learner(lopsided), rec, n=4, start_epoch=3)[0].W, [p.detach() for p in new_learner(lopsided).model.parameters()])
    with pytest.raises(ValueError, match='teacher: .*teacher='): fit(new_learner(), compofa(), n=4, start_epoch=3)

class Clean(Callback):
    "What the first batch finds"
    order,run_valid,seen = 9,False,False
    def before_batch(self):
        if self.seen: return
        sn,self.seen = self.learn.supernet,True
        self.grads = [p.grad for p in [*self.model.parameters(), *sn.held_params()]]
        self.state = [t.clone() for t in [*self.model.state_dict().values(), *[t for s in sn.private for d in sn.stats[s].values() for t in d.values()]]]
        self.rng = (torch.get_rng_state(), random.getstate(), self.dls.train.rng.getstate(), self.x.clone())

def dropping(): return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(.5), nn.Linear(4, 3))

@pytest.mark.parametrize('rec', [bignas(), slimmable(3), Recipe(Construct(k=3), Gradient('hard', 'avg'), Update(skin_lr=True))], ids=['bignas','private','avg'])
def test_estimate_leaves_no_trace(rec):
    "Said once a fit, and then everything is as if nothing had been measured"
    def trained(estimate):
        learn,clean,said = new_learner(dropping, shuffle=True, widths=(.25,.5,1.)),Clean(),[]
        assert learn.supernet.space.sample(random.Random(0))!=learn.supernet.space.max # the one that is measured
        if rec.construct.bn=='private': fit(learn, rec) # private ones are there already, and have been trained
        learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
        learn.fit(3, lr, cbs=[OnionTraining(rec, watch=(), estimate=estimate), clean, Shown()])
        return learn,clean,said
    (a,ca,sa),(b,cb,sb) = trained(True),trained(False)
    assert len(sa)==1 and sa[0].startswith('12 steps, 12 of them with subnets') and not sb
    assert all(g is None for g in ca.grads) and ca.grads
    for p,q in zip(ca.state, cb.state, strict=True): assert torch.equal(p, q)
    assert torch.equal(ca.rng[0], cb.rng[0]) and ca.rng[1:3]==cb.rng[1:3] and torch.equal(ca.rng[3], cb.rng[3])
    for p,q in zip(a.model.state_dict().values(), b.model.state_dict().values()): assert torch.equal(p, q)

def test_estimate_counts():
    "Steps with subnets, by the schedule of this fit"
    for rec,n in ((Recipe(schedule=Delayed(.5)), 4), (Recipe(schedule=Delayed(.25, code=True, ramp=.25)), 8), (Recipe(gradient=Gradient('hard'), schedule=outside_in(4, .5)), 7)):
        said,learn = [],new_learner()
        learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
        learn.fit(2, lr, cbs=[OnionTraining(rec, watch=()), Shown()])
        assert said[0].startswith(f'8 steps, {n} of them'), said

def test_estimate_memory():
    "Weights, gradients and what autograd keeps of one network, counted by hand; a rule that keeps gradients has one for each network"
    class Wide(nn.Sequential):
        def __init__(self): super().__init__(nn.Linear(3, 4096, bias=False), nn.Identity(), nn.Linear(4096, 3, bias=False))
    weights,hidden = 8*2*3*4096,8*bs*4096
    for rule,n in (('sum',1), ('avg',4)):
        said,learn = [],new_learner(Wide)
        learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
        learn.fit(1, lr, cbs=[OnionTraining(Recipe(Construct(k=4), Gradient('hard', rule)), watch=()), Shown()])
        mb = float(said[0].split('validation; ')[1].split(' MB')[0])
        assert mb==pytest.approx((weights*(1+n)+hidden)/1e6, rel=.02), said

@pytest.mark.parametrize('target', ['hard','distill'])
def test_one_graph_at_a_time(target):
    "Before a network goes through the model, what autograd kept of the one before it is gone; with the sum no gradient is kept"
    learn,kept,alive = new_learner(),[],[]
    class Box:
        def __init__(self, t): self.t = t; kept.append(weakref.ref(self))
    class Kept(Callback):
        order,run_valid = 30,False
        def after_backward(self): assert not self.onion_training.kept
    learn.model[0].register_forward_pre_hook(lambda m, i: alive.append(sum(r() is not None for r in kept)) if learn.model.training else None)
    with torch.autograd.graph.saved_tensors_hooks(Box, lambda b: b.t): fit(learn, Recipe(all_four, Gradient(target)), cbs=[Kept()])
    assert len(alive)==2+4*n_batches and not any(alive) and len(kept)>2*len(alive)

def test_lr_find(tmp_path):
    "The finder's rates, not the recipe's; and the model is put back"
    learn = new_learner(path=tmp_path)
    log,said = Noted(),[]
    learn.add_cbs([OnionTraining(bignas(), watch=()), Shown(), log])
    learn.logger = said.append
    before = deepcopy(learn.model.state_dict())
    with learn.no_logging(): learn.lr_find(start_lr=1e-5, end_lr=.1, num_it=12, stop_div=False, show_plot=False)
    assert [b.lr for b in log.rows]==pytest.approx([1e-5*1e4**(i/12) for i in range(12)], rel=1e-4) and {len(b.nets) for b in log.rows}=={4}
    for a,b in zip(before.values(), learn.model.state_dict().values()): assert torch.equal(a, b)
    assert not said # no estimate of what is no training

@pytest.mark.parametrize('rec', [slimmable(), delayed_shrinking(), Recipe(Construct(k=2, dims=('kernel',), matrices=True), Gradient('hard'))])
def test_lr_find_leaves_the_handle(rec, tmp_path):
    "Private batch norms, matrices, and that subnets were trained: as before; and the first fit is that of a learner that never looked"
    def make(): return nn.Sequential(nn.Unflatten(1, (1,3)), nn.Conv1d(1, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    def look(learn):
        cbs = [OnionTraining(rec, watch=()), Shown()]
        learn.add_cbs(cbs)
        with learn.no_logging(): learn.lr_find(start_lr=1e-3, end_lr=10, num_it=12, stop_div=False, show_plot=False)
        learn.remove_cbs(cbs)
    def state(learn): return tree_flatten((learn.supernet.state_dict(), learn.model.state_dict()))
    def same(a, b):
        assert a[1]==b[1] and len(a[0])==len(b[0])
        for s,t in zip(a[0], b[0]): assert torch.equal(s, t) if isinstance(s, torch.Tensor) else s==t
    plain,found = [new_learner(make, path=tmp_path, kernels=(1,3), mom=.9) for _ in range(2)]
    for again in (False,True): # the second time there is something to restore
        before = deepcopy(state(found))
        look(found)
        same(before, state(found))
        if again: return
        for learn in (plain,found): fit(learn, rec)
        same(state(plain), state(found))

def test_fit_after_load(tmp_path):
    "fastai's loaded optimizer knows nothing of private batch norms; the next fit begins their state anew"
    learn = new_learner(with_norm, path=tmp_path)
    fit(learn, slimmable())
    learn.save('a'); learn.load('a')
    w = [p.detach().clone() for p in learn.supernet.held_params()]
    fit(learn, slimmable())
    differ(w, [p.detach() for p in learn.supernet.held_params()])

# ---- alarms

@pytest.mark.parametrize('steps', ['joint','small first','large first'])
@pytest.mark.parametrize('bad', [2,4])
def test_not_finite(steps, bad):
    "Names epoch and subnet, and no optimizer step takes it in"
    def hard(pred, target): return F.cross_entropy(pred, target)*(math.nan if learn.epoch==1 and learn.training and learn.supernet.subnet.width['0']==bad else 1)
    learn = new_learner()
    learn.loss_func = hard
    with pytest.warns(UserWarning, match='epoch 1: the loss of '+('the full network' if bad==4 else "Subnet\\(width={'0': 2}")+'.* is nan; training stops'):
        log = fit(learn, Recipe(all_four, Gradient('hard'), Update(steps)), n=3)
    assert len(log)==5 # the fifth batch is the first of epoch 1
    W = log[4].W
    for h in () if steps=='joint' else log[4].h[:log[4].h.index(bad)]: W = minus(W, times(lr, grad(h, label(log[4].y), W, log[4].x)))
    close([p.detach() for p in learn.model.parameters()], W)
    learn.loss_func = nn.CrossEntropyLoss()
    fit(learn, Recipe(all_four, Gradient('hard'), Update(steps))) # and what is left of it does not enter the next fit
    assert all(p.isfinite().all() for p in learn.model.parameters())

def test_not_finite_leaves_no_gradient():
    "A fit after an alarm, or an interrupted one, begins without gradients"
    learn = new_learner()
    learn.loss_func = lambda p, y: F.cross_entropy(p, y)*(math.nan if learn.supernet.subnet.width['0']==2 else 1)
    with pytest.warns(UserWarning, match='is nan'): fit(learn, Recipe(all_four, Gradient('hard')))
    learn.loss_func = nn.CrossEntropyLoss()
    b = fit(learn, Recipe(all_four, Gradient('hard')))[0]
    close(b.grads, add(*[grad(h, label(b.y), b.W, b.x) for h in (1,2,3,4)]))

def chance(y, rec, n=4, metrics=accuracy):
    learn = new_learner(y=y, metrics=metrics)
    learn.dls.c = 3
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter('always')
        fit(learn, rec, n=n, lr=0., watch=('min',))
    return [str(w.message) for w in got if 'chance' in str(w.message)]

def test_at_chance():
    "Warned of once, an epoch after shrinking started; not where the smallest is good, or has hardly any weight"
    W = [p.detach() for p in new_learner().model.parameters()]
    right = logits(1, W, x).argmax(1)
    wrong = (right+1)%3
    got = chance(wrong, Recipe(Construct(k=2)))
    assert len(got)==1 and got[0].startswith('epoch 1: the smallest subnet is at chance (0.000 with 3 classes): Subnet(width={\'0\': 1}')
    assert chance(wrong, Recipe(Construct(k=2)), metrics=error_rate)==got and not chance(right, Recipe(Construct(k=2)), metrics=error_rate)
    assert [m[:7] for m in chance(wrong, Recipe(Construct(k=2), schedule=Delayed(.5, 0.)))]==['epoch 2']
    assert not chance(wrong, Recipe(Construct(k=2), schedule=Phases((Phase(1, (('width',-1),)), Phase(1, (('width',-2),)))))) # the smallest is not trained yet
    assert not chance(right, Recipe(Construct(k=2)))
    assert not chance(wrong, Recipe(Construct(k=2), schedule=Delayed(0., 1., 1e-4)), n=1)
    assert not chance(wrong, Recipe(Construct(k=2), schedule=Delayed(0., 0., end=.05)), n=2)

# ---- bad input

def fails(match, make, ex=ValueError):
    with pytest.raises(ex, match=match): make()

def test_bad_values():
    for w in (1., 1.5, -.1): fails('warmup: a share in \\[0, 1\\)', lambda: delayed_shrinking(warmup=w))
    for k in (0, -1, 2.): fails('k: .*from 1', lambda: delayed_shrinking(k=k))
    for e in (0, 1.1, -1, math.nan): fails('eps0: a share in \\(0, 1\\]', lambda: delayed_shrinking(eps0=e))
    fails('end: a share in \\(0, 1\\]', lambda: Delayed(end=0.))
    fails('lr_floor: a share', lambda: Delayed(lr_floor=1.1))
    fails("levels: 0, or .*from 2", lambda: Construct(levels=1))
    fails("dims: some of", lambda: Construct(dims=('widths',)))
    fails("spacing: 'macs' .*levels", lambda: Construct(spacing='macs'))
    for name,make in dict(smallest=Construct, matrices=Construct, dropout=Gradient, skin_lr=Update, code=Delayed, full=partial(Phase, 1), teach=partial(Phase, 1)).items(): fails(f"{name}: True or False, got 0.5", lambda: make(**{name:.5}))
    fails('end: .*0.3\\+0.7', lambda: Delayed(.3, .7, end=.1))
    fails("distill: a function", lambda: OnionTraining(base, distill='kl'), TypeError)
    fails("distill: .*hard labels", lambda: OnionTraining(replace(base, gradient=Gradient('hard')), distill=F.mse_loss))
    fails('length: more than 0', lambda: Phase('1'))
    fails("dims: some of", lambda: Construct(dims=()))
    for f,v,want in (('sort','twice',"'never', 'once', 'phases'"), ('spacing','flops',"'share', 'macs'"), ('bn','own',"'shared', 'private', 'statistics'"), ('sample','best',"'uniform', 'importance'")):
        fails(f'{f}: .*{want}; got {v!r}', lambda: Construct(**{f:v}))
    fails("sample: 'importance' .*use 'uniform'", lambda: Construct(levels=3, sample='importance'))
    fails("bn: 'private' needs .*levels", lambda: Construct(bn='private'))
    fails("sort: 'phases' would .*'once' or 'never'", lambda: Construct(levels=2, bn='private', sort='phases'))
    fails("target: .*'hard', 'distill', 'next', 'teacher'; got 'soft'", lambda: Gradient('soft'))
    fails("combine: .*'skins'; got 'mean'", lambda: Gradient(combine='mean'))
    fails("steps: .*'joint', 'small first', 'large first'; got 'each'", lambda: Update('each'))
    fails("momentum: .*'shared', 'own'; got 'mine'", lambda: Update('small first', momentum='mine'))
    fails("momentum: .*choose steps='small first' or 'large first'", lambda: Update(momentum='own'))
    fails("skin_lr: .*only with steps='joint'", lambda: Update('small first', True))
    for k in (0, -1, 2.5): fails('k: .*from 1', lambda: Phase(1, k=k))
    fails('length: more than 0', lambda: Phase(0))
    fails('lr: a share in \\(0, 1\\]', lambda: Phase(1, lr=2.))
    fails('warmup: a share in \\[0, 1\\)', lambda: Phase(1, warmup=1.))
    fails("'widths' is no kind", lambda: Phase(1, (('widths',1),)))
    for ps in ((), (1,)): fails('phases: .*at least one Phase', lambda: Phases(ps))
    for f in (inside_out, outside_in):
        fails('n: a number of skins from 2', lambda: f(1))
        fails('share: a share in \\(0, 1\\)', lambda: f(share=1.))
    fails("gradient: combine='avg' .*use 'sum'", lambda: Recipe(gradient=Gradient(combine='avg'), update=Update('small first')))
    fails("target='next' .*'large first' or 'joint'", lambda: Recipe(gradient=Gradient('next'), update=Update('small first')))
    fails("target='next' .*full=False", lambda: Recipe(gradient=Gradient('next'), schedule=Phases((Phase(1, full=False),))))
    for f,v in (('construct',4), ('gradient','sum'), ('update','joint'), ('schedule',.5)): fails(f'{f}: .*expected, got {v!r}', lambda: Recipe(**{f:v}), TypeError)
    fails('recipe: a Recipe', lambda: OnionTraining(delayed_shrinking), TypeError)
    fails("watch: some of 'min' and 'mid', got 'max'", lambda: OnionTraining(base, watch=('max',)))
    fails('every: a whole number', lambda: GradientProbe(0))

def test_without_the_full_network():
    "The smallest, and the weights of importance, hold in phases that draw among all"
    from_all = Phases((Phase(1, full=False),))
    for levels in (0,4):
        log = fit(new_learner(three_layers, widths=(.25,.5,.75,1.)), Recipe(Construct(k=2, smallest=True, levels=levels), Gradient('hard'), schedule=from_all), n=3)
        assert all(b.h[0]==2 for b in log) and len({b.nets[1] for b in log})>1
        log = fit(new_learner(), Recipe(Construct(k=3, levels=levels), Gradient('hard'), schedule=from_all), n=3)
        assert {4 in b.h for b in log}=={True,False}
    space, asked = new_learner(three_layers).supernet.space, []
    def weigh(s): asked.append(s); return float(s==space.min)+1e-9
    Construct(k=2, sample='importance').sample_nets(space, random.Random(0), full=False, weigh=weigh)
    assert len(asked)==8

def test_other_norms_in_a_second_fit():
    "Private batch norms stay what they are; anything else is refused before it is mixed with them"
    rec = lambda bn, levels=4: Recipe(Construct(k=3, levels=levels, bn=bn), Gradient('hard'))
    learn = new_learner(with_norm)
    fit(learn, rec('private')); fit(learn, rec('private'))
    for other in (rec('statistics'), rec('shared'), rec('shared', 0)): fails("bn: an earlier fit .*'private', the recipe wants '(sha|sta).*extract", lambda: fit(learn, other))
    learn.model = learn.supernet.extract(learn.supernet.space.max)
    learn.create_opt()
    learn.to_supernet(widths=(.25,.5,.75,1.))
    fit(learn, rec('statistics'))
    assert {*learn.supernet.private.values()}=={False}

def test_few_levels():
    "A phase without a network, and a space with fewer than a step should have"
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.blocks, self.b = nn.Linear(3, 6), nn.Sequential(*[Res() for _ in range(3)]), nn.Linear(6, 3)
        def forward(self, x): return self.b(self.blocks(self.a(x).relu()))
    class Res(nn.Module):
        def __init__(self): super().__init__(); self.l = nn.Linear(6, 6)
        def forward(self, x): return x+self.l(x).tanh()
    learn = new_learner(Two, widths=(1/3,2/3,1.), depths=(0,.5,1.))
    fails('levels: a part .*none of the 3 networks', lambda: fit(learn, Recipe(Construct(k=2, levels=3), Gradient('hard'), schedule=Phases((Phase(1, (('width',1),('depth',-1))),Phase(1))))))
    with pytest.warns(UserWarning, match='levels: the space has 2 networks'): fit(new_learner(widths=(.5,1.)), Recipe(Construct(k=4, levels=10), Gradient('hard')))

def test_weights_without_effect():
    "Adam divides every gradient by its size: said where each network steps by itself and its weight is below 1"
    ramp = Recipe(Construct(k=2, levels=4), Gradient('hard'), Update('large first'), Delayed(0., 1.))
    with pytest.warns(UserWarning, match='schedule: .*Adam divides') as got: fit(new_learner(opt=Adam_), ramp, n=2)
    assert len([w for w in got if 'divides' in str(w.message)])==1
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        fit(new_learner(), ramp); fit(new_learner(opt=Adam_), replace(ramp, update=Update())); fit(new_learner(opt=Adam_), replace(ramp, schedule=Delayed(0., 0.)))

@pytest.mark.parametrize('estimate', [True, False])
def test_bad_fits(estimate):
    "Errors come before training: no weight, no statistic and no metric has changed"
    def refuses(match, rec, make=with_norm, cbs=(), loss=None, n=1, space={}, **kwargs):
        learn = new_learner(make, loss=loss, metrics=accuracy, **space)
        learn.logger,before = (lambda *a: None),deepcopy(learn.model.state_dict())
        fails(match, lambda: fit(learn, rec, n=n, cbs=cbs, estimate=estimate, watch=('min',), **kwargs))
        for a,b in zip(before.values(), learn.model.state_dict().values()): assert torch.equal(a, b), match
        assert learn.supernet.subnet==learn.supernet.space.max and [m.name for m in learn.metrics]==['accuracy'], match
    refuses('teacher: .*OnionTraining', Recipe(gradient=Gradient('teacher')))
    refuses('teacher: .*OnionTraining', progressive_shrinking(0))
    for l in (lambda p, y: F.cross_entropy(p, y, reduction='none'), lambda p, y: 1.):
        refuses('loss_func: training needs a scalar, it returned', Recipe(gradient=Gradient('hard')), loss=l)
        refuses('loss_func: training needs a scalar, it returned', Recipe(gradient=Gradient('hard'), update=Update('small first')), loss=l)
    refuses("reduction 'mean' or 'sum', got 'none'", base, loss=nn.CrossEntropyLoss(reduction='none'))
    refuses('loss_func: no distillation loss .*give your own as distill', base, loss=nn.L1Loss())
    depth_only = dict(widths=None, depths=(0,1))
    for rec in (us_net(), slimmable()): refuses("space: it has one subnet, .*'width'", rec, make=elastic_everywhere, space=depth_only)
    refuses("bn: 'private' is not possible, the model has no batch norm", slimmable(), make=two_layers)
    refuses('train it, or grow a plain model, in separate fits', base, cbs=[GrowWidth(stages=2)], n=2) # the growth is the first to see it
    refuses('growth and shrinking cannot share a fit: .*take out GrowDepth or', base, cbs=[type('GrowDepth', (Callback,), {})()])
    for cb in (MixedPrecision(), GradientAccumulation(16), GradientClip(1.)):
        refuses(f"update: .*several optimizer steps per batch, which {type(cb).__name__} does not know; use steps='joint'", Recipe(update=Update('small first')), cbs=[cb])
    refuses('GradientProbe can tell', Recipe(gradient=Gradient(combine='avg')), cbs=[GradientProbe()])
    refuses('GradientProbe can tell', Recipe(update=Update('small first')), cbs=[GradientProbe()])

def test_bad_distill():
    "A distillation that returns no scalar is named before training, although it is needed only later"
    learn,log = new_learner(with_norm),Noted()
    before = deepcopy(learn.model.state_dict())
    fails('distill: training needs a scalar, it returned a tensor of shape', lambda: fit(learn, delayed_shrinking(), distill=lambda p, t: (p-t)**2, n=4, cbs=[log]))
    assert not log.rows
    for a,b in zip(before.values(), learn.model.state_dict().values()): assert torch.equal(a, b)

def test_bad_teacher():
    "A teacher with other outputs is named before training, where it would be asked only later; so is one that nobody asks"
    learn,log = new_learner(),Noted()
    fails('teacher: what it says of a batch', lambda: fit(learn, compofa(), teacher=nn.Linear(3, 5).double(), n=4, cbs=[log]))
    fails('teacher: this recipe has no use', lambda: fit(learn, bignas(), teacher=two_layers().double(), cbs=[log]))
    assert not log.rows

def test_no_supernet():
    learn = new_learner()
    del learn.supernet
    fails('call learn.to_supernet', lambda: fit(learn, base))
    learn = new_learner()
    learn.supernet = new_learner().supernet
    fails('another model', lambda: fit(learn, base))
    learn = new_learner()
    with learn.no_logging(): fails('put both into cbs', lambda: learn.fit(1, cbs=GradientProbe()))

# ---- with other parts of fastai

class Scaled(MixedPrecision):
    "A gradient scaler that works on a CPU, without autocast: gradients must not change"
    def before_fit(self): self.autocast,self.learn.scaler,self.scales = torch.autocast('cpu', enabled=False),torch.amp.GradScaler('cpu', init_scale=1024.),[]

@pytest.mark.parametrize('rec', [Recipe(all_four, Gradient('hard', r)) for r in ('avg','project','skins')]+[Recipe(all_four, update=Update(skin_lr=True))], ids=['avg','project','skins','skin_lr'])
def test_scaler(rec):
    "A gradient scaler is out of what is combined, and out of the probe's norms"
    ends,probes = [],[]
    for cbs in ([], [Scaled()]):
        learn,probe = new_learner(),GradientProbe()
        fit(learn, rec, n=2, cbs=[*cbs, *([probe] if rec.gradient.combine=='sum' else [])])
        ends.append([p.detach() for p in learn.model.parameters()]); probes.append(probe.rows)
    close(*ends, eps=1e-6)
    for a,b in zip(*probes, strict=True): assert a.pop('layer')==b.pop('layer') and a==pytest.approx(b, rel=1e-6)
    assert probes[0] or rec.gradient.combine!='sum'

def test_scaler_skips_a_step():
    "A step that overflows is left out, with a learning rate per skin too"
    class Overflow(Callback):
        order,run_valid = 9,False
        def after_backward(self):
            if self.iter==1: self.model[0].weight.grad.fill_(math.inf)
    log = fit(new_learner(), Recipe(all_four, update=Update(skin_lr=True)), cbs=[Scaled(), Overflow()])
    assert [torch.equal(b.W[0], b.end[0]) for b in log]==[False, True, False, False]

def test_probe_looks_at_the_full_network():
    "Phases that do not train the full network, or nothing else, leave no rows"
    probe = GradientProbe()
    log = fit(new_learner(), Recipe(Construct(k=2), Gradient('hard'), schedule=Phases((Phase(1, (('width',-1),)), Phase(1, full=False), Phase(2)))), n=2, cbs=[probe])
    assert {r['step'] for r in probe.rows}=={*range(4, 8)} and len(log)==8

def test_metric_of_the_loss():
    "A metric that reads the loss gets that of the subnet"
    learn = new_learner(metrics=[Perplexity()])
    fit(learn, Recipe(Construct(k=2)), n=1, watch=('min',))
    assert learn.recorder.metric_names[-3:-1]==['perplexity','perplexity_min']
    W = [p.detach() for p in learn.model.parameters()]
    assert [float(v) for v in learn.recorder.values[-1][-2:]]==pytest.approx([F.cross_entropy(logits(h, W, x), y).exp().item() for h in (4,1)], rel=1e-5)

pixels = torch.rand(32, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
def dense(n): return lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, n, 1))
LOSSES = dict(segmentation=(CrossEntropyLossFlat(axis=1, ignore_index=255), dense(3), TensorMask((pixels[:,0]*3).long().where(pixels[:,0]<.9, 255))),
              binary=(BCEWithLogitsLossFlat(), dense(1), (pixels>.5).double()), regression=(MSELossFlat(), dense(1), pixels*2))

@pytest.mark.parametrize('kind', LOSSES)
@pytest.mark.parametrize('cb', [None, ChannelsLast], ids=['','channels_last'])
def test_losses(kind, cb):
    "The loss that the learner has gets a distillation that fits, and the smallest subnet learns; in channels_last weights stay so"
    loss,make,ys = LOSSES[kind]
    learn = new_learner(make, y=ys, loss=loss, xs=pixels)
    def value():
        m = learn.supernet.extract(learn.supernet.space.min)
        calibrate_bn(m, [(pixels, ys)])
        with torch.no_grad(): return loss(m.eval()(pixels), ys).item()
    before = value()
    fit(learn, delayed_shrinking(warmup=.25, ramp=.25), n=8, lr=.2, cbs=[cb()] if cb else [])
    assert value()<.95*before
    if cb: assert learn.model[0].weight.is_contiguous(memory_format=torch.channels_last) and learn.model[3].weight.is_contiguous(memory_format=torch.channels_last)

# ---- statistics

def test_full_network_is_seen_once_a_batch():
    "Looking at the largest network, to learn from it, leaves no trace in its statistics"
    for steps in ('joint','small first','large first'):
        learn = new_learner(with_norm)
        fit(learn, Recipe(all_four, update=Update(steps)))
        assert learn.model[1].num_batches_tracked==n_batches, steps

def test_untrained_full_network_is_calibrated():
    "Where a phase does not train the full network, its statistics are those of the weights that validation sees"
    class See(Callback):
        order = 9
        def before_validate(self):
            sn = self.learn.supernet
            m,want = sn.extract(sn.space.max),sn.extract(sn.space.max)
            calibrate_bn(want, self.dls.train)
            close([m.eval()(x).detach()], [want.eval()(x).detach()])
            stale.append(not torch.allclose(m[1].running_mean, old[0])); old[0] = m[1].running_mean.clone()
    stale,old = [],[torch.zeros(4).double()]
    fit(new_learner(with_norm), Recipe(Construct(k=2), Gradient('hard'), schedule=Phases((Phase(1, full=False),))), n=3, cbs=[See()])
    assert stale==[True]*3

# ---- probe

@pytest.mark.parametrize('n_acc', [None, 16])
def test_probe(n_acc):
    "Norms and cosines of the three gradients of each layer, from gradients by hand; accumulated batches are one"
    probe = GradientProbe(every=2)
    rec = Recipe(Construct(k=3), Gradient('distill'), schedule=Delayed(.25, .5, .01))
    log = fit(new_learner(), rec, n=4, cbs=[probe, *([GradientAccumulation(n_acc)] if n_acc else [])])
    steps = [log[i:i+2] for i in range(0, 16, 2)] if n_acc else [[b] for b in log]
    rows,want = {(r['step'], r['layer']):r for r in probe.rows},[]
    cos = lambda a, b: ((a*b).sum()/a.norm()/b.norm()).item()
    for i,bs in enumerate(steps):
        if i%2 or not bs[0].eps: continue
        W,eps = bs[0].W,bs[0].eps
        xb,yb = torch.cat([b.x for b in bs]),torch.cat([b.y for b in bs])
        full = grad(4, label(yb), W, xb)
        subs = add(*[grad(h, says(4, W, xb), W, xb) for h in bs[0].h[1:]])
        for name,f,s in zip(('0.weight','2.weight'), full, subs):
            r = rows[i,name]
            want.append((i, name))
            assert r['eps']==eps
            got = [r[k] for k in ('full','shrink','used','cos_shrink','cos_used')]
            assert got==pytest.approx([f.norm().item(), (f+s).norm().item(), (f+eps*s).norm().item(), cos(f, f+s), cos(f, f+eps*s)], rel=1e-8), (i, name)
    assert [*rows]==want and len(want)>=4
    plot_gradients(probe, step=want[-1][0])
    fails('step: 1 was not kept', lambda: plot_gradients(probe, step=1))

# ---- what a fit leaves behind, and what it says before it begins

def test_phases_by_place():
    "A phase used twice is two phases; one with no step is passed over"
    a,b = Phase(1, k=1),Phase(1)
    for ps in ((a,b,a), (a,b,Phase(1, k=1))): assert [Phases(ps).at(i, 9).phase for i in range(9)]==[0,0,0,1,1,1,2,2,2]
    few = Phases((Phase(1), Phase(8), Phase(1)))
    assert few.ends(3)==[0,3,3] and [few.at(i, 3).phase for i in range(3)]==[1]*3 and few.ends(10)==[1,9,10]

def test_phases_too_short_are_named():
    learn = new_learner()
    before = [p.clone() for p in learn.model.parameters()]
    with pytest.warns(UserWarning, match=r'a fit of 4 steps there is none for the phases \[0\]'): fit(learn, Recipe(Construct(k=2), schedule=Phases((Phase(1), Phase(99)))))
    learn = new_learner()
    with pytest.warns(UserWarning, match='none for the phases'): fails('long enough for a step', lambda: fit(learn, progressive_shrinking(teacher=1)))
    close(learn.model.parameters(), before)

def test_rates_beside_another_schedule():
    "The highest rate is that of the schedule that has one"
    from fastai.callback.schedule import ParamScheduler, SchedLin
    learn = new_learner()
    learn.add_cb(ParamScheduler(dict(wd=SchedLin(0., .01))))
    log = fit(learn, Recipe(Construct(k=2), schedule=Phases((Phase(1, lr=1.),))), n=2, lr=.5, fit='fit_one_cycle')
    assert max(b.lr for b in log)==pytest.approx(.5)

def test_stopped_fit_gives_back_the_optimizer():
    "A loss that is not finite after the second network's step: the optimizer's state is the full network's again"
    learn,kept = new_learner(mom=.9),{}
    def distill(pred, teacher): return pred.sum()*(math.nan if getattr(learn, 'iter', 0)==2 and learn.onion_training.states.get(1) is learn.opt.state else 0.)
    class Note(Callback):
        order = 31
        def after_batch(self): kept.update(now=self.opt.state)
    with pytest.warns(UserWarning, match='the loss of'): fit(learn, Recipe(all_four, update=Update('large first', momentum='own')), distill=distill, cbs=[Note()])
    assert learn.opt.state is kept['now']

def test_core_alone_is_trained():
    "Inside out, the smallest network is the first that is trained: it is shown, it counts as trained, it has its private norms, and an estimate does not take it for the full one"
    learn = new_learner(with_norm, metrics=accuracy)
    rec,seen,said = Recipe(Construct(k=2, levels=4, bn='private'), Gradient('hard'), schedule=inside_out(2)),[],[]
    class See(Callback):
        order = 31
        def after_batch(self):
            if self.training: seen.append((len(self.supernet.private), self.supernet.trained))
    learn.logger = said.append
    cb = OnionTraining(rec)
    learn.fit(2, lr, cbs=[cb, Shown(), See()])
    assert seen==[(3, True)]*8 and '8 of them with subnets' in said[0]
    assert all(v==v for v in learn.recorder.values[0])

@pytest.mark.parametrize('k,mid', [(2,1), (3,3), (4,2)])
def test_middle_network_is_a_trained_one(k, mid):
    learn = new_learner(with_norm, metrics=accuracy)
    cb = OnionTraining(slimmable(k), estimate=False)
    nets = []
    class See(Callback):
        def after_validate(self): nets.append(next(m.net for m in self.learn.metrics if getattr(m, 'which', '')=='mid'))
    with learn.no_logging(): learn.fit(1, lr, cbs=[cb, Shown(), See()])
    assert nets[0][0].out_features==mid

def test_reduction_of_a_partial():
    p,t = torch.randn(5, 3),torch.randn(5, 3)
    for f in (F.cross_entropy, F.binary_cross_entropy_with_logits, F.mse_loss):
        assert distill_loss(partial(f, reduction='sum'))(p, t)==pytest.approx((distill_loss(f)(p, t)*(5 if f is F.cross_entropy else 15)).item(), rel=1e-5)
    fails("reduction 'mean' or 'sum'", lambda: distill_loss(partial(F.mse_loss, reduction='none')))

def test_limits_are_not_for_training():
    learn = new_learner()
    sn = learn.supernet
    sn.space = sn.space.constrain(sn.macs, hi=.6*sn.macs(sn.space.max))
    fails('limits .* are for searching', lambda: fit(learn, base))
    with pytest.raises(TypeError, match='schedule'): Recipe(schedule=Delayed)
