"Every recipe against a loop written by hand: plain PyTorch in float64 on plain copies of the subnets, with the numbers of the papers"
import math, random
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import SGD
from torch import nn
from elastic_nets.channels.place import put, take
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.methods import (
    bignas, compofa, delayed_shrinking, onion, progressive_shrinking, slimmable, us_net, zero_last_bn
)
from elastic_nets.zoo.spaces import compofa_space
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.supernet import Supernet
from sklearn.datasets import load_digits

torch.set_num_threads(1)
n_batches, bs, lr, seed = 6, 16, .05, 3
d = load_digits()
x,y = torch.tensor(d.images/16)[:,None],torch.tensor(d.target)
batch = [(x[i*bs:][:bs], y[i*bs:][:bs]) for i in range(n_batches)]

class Half(nn.Dropout):
    "Dropout without dice: every second channel, where it is on"
    def forward(self, x): return x*(torch.arange(x.shape[1])%2*2)[:,None,None] if self.training else x

class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(n, n, 5, padding=2, bias=False), nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, n, 1, bias=False), nn.BatchNorm2d(n))
    def forward(self, x): return (x+self.body(x)).relu()

def ofa_like():
    "Three widths, three depths, three kernels: something for each of once-for-all's phases"
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Sequential(Block(8), Block(8)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

def new_learner(make=partial(resnet_cifar, 8, width=8, n_in=1), drop='layer2', smoothing=0., tied=False, **space):
    torch.manual_seed(0)
    model = make()
    sn = Supernet(model, x[:2].float(), **space)
    if tied: sn = Supernet((model := make()), x[:2].float(), space=compofa_space(sn.space))
    for p in model.parameters(): # also batch norm's, so that every order of channels differs from every other
        if p.ndim==1: p.data += .2*torch.randn_like(p)
    model.get_submodule(drop).add_module('drop', Half())
    dl = lambda a,b: DataLoader(list(zip(x[a:b], y[a:b])), bs=bs)
    learn = Learner(DataLoaders(dl(0, n_batches*bs), dl(600, 632), device='cpu'), model.double(), loss_func=nn.CrossEntropyLoss(label_smoothing=smoothing), opt_func=partial(SGD, mom=.9))
    learn.remove_cbs(ProgressCallback)
    learn.supernet = sn
    return learn

def hard(y, smoothing=0.): return lambda p: -((1-smoothing)*p.log_softmax(1)[range(len(y)),y] + smoothing*p.log_softmax(1).mean(1)).mean()
def soft(teacher): return lambda p: -(teacher.softmax(1)*p.log_softmax(1)).sum(1).mean()

# The choices of the two models, in the order in which they are drawn: (kind, name, values, position of the block it is in)
resnet_choices = [('depth','layer1',(0,1),None), ('width','stem.conv',8,None), ('width','layer2.0.conv1.conv',16,None), ('width','layer2.0.conv2.conv',16,None),
    ('width','layer3.0.conv1.conv',32,None), ('width','layer3.0.conv2.conv',32,None), ('width','layer1.0.conv1.conv',8,0)]
ofa_choices = [('depth','3',(0,1,2),None), ('width','0',(2,4,8),None), ('kernel','0',(1,3),None), *[('width',f'3.{i}.body.0',(2,4,8),i) for i in (0,1)],
    *[('kernel',f'3.{i}.body.0',(1,3,5),i) for i in (0,1)]]

def at_widths(*shares): return [(k, n, tuple(int(w*v) for w in shares) if isinstance(v, int) else v, i) for k,n,v,i in resnet_choices]

def net(choices, pick):
    "A subnet; what is in a block that is gone is not chosen"
    got = dict(depth={}, width={}, kernel={})
    for kind,name,vs,i in choices:
        if i is None or i<sum(got['depth'].values()): got[kind][name] = pick(vs)
    return Subnet(**got)

def largest(choices): return net(choices, lambda vs: vs[-1])
def smallest(choices): return net(choices, lambda vs: vs[0])
def other(choices, rng):
    s = net(choices, rng.choice)
    return s if s!=largest(choices) else other(choices, rng)
def dice(step): return random.Random(f'{seed} {step}')
def cos_to_0(t): return (1+math.cos(math.pi*t))/2

class Hand:
    "A model trained by hand: each network is taken out, and its gradients are put back where its weights come from"
    def __init__(self, learn, choices, sizes=()):
        self.model,self.sn = deepcopy((learn.model.train(), learn.supernet))
        self.params,self.full,self.steps,self.bn,self.moved = dict(self.model.named_parameters()),largest(choices),[],{},[]
        self.mats = {n:{k:torch.eye(k*k, dtype=x.dtype, requires_grad=True) for k in ks} for n,ks in sizes}
        self.opt = torch.optim.SGD([*self.params.values(), *[m for ms in self.mats.values() for m in ms.values()]], lr=lr, momentum=.9)
        self.new_step()

    def new_step(self): self.now = SimpleNamespace(nets=[], losses=[])

    def private(self, nets):
        "Batch norms of their own for `nets`, begun as the full network's first channels"
        for s in nets:
            for n,m in self.sn.extract(s).named_modules():
                if isinstance(m, nn.BatchNorm2d): self.bn[s,n] = m
        self.opt.param_groups[0]['params'] += [p for m in self.bn.values() for p in m.parameters()]

    def kernel(self, n, s):
        "The weight of convolution `n` in `s`, from the centre of the larger kernels, through their matrices"
        w = take(self.params[f'{n}.weight'], self.sn.place(s).at(f'{n}.weight')[:2])
        for k,m in self.mats[n].items():
            if k<s.kernel[n]: break
            c = (w.shape[-1]-k)//2
            w = (w[:,:,c:c+k,c:c+k].flatten(2) @ m.T).unflatten(2, (k,k))
        return w

    def take_out(self, s):
        small = self.sn.extract(s).train()
        for n in self.mats:
            if n in s.kernel: small.get_submodule(n).weight.data = self.kernel(n, s).detach()
        for n,m in list(small.named_modules()):
            if (s,n) in self.bn: small.set_submodule(n, self.bn[s,n])
        return small

    def run(self, s, xb, loss, weight=1., dropout=True):
        "Forward and backward of network `s`, whose output is returned"
        net = self.model if s==self.full else self.take_out(s)
        for m in net.modules():
            if isinstance(m, Half): m.training = dropout
        pred = net(xb)
        l = weight*loss(pred)
        l.backward()
        self.now.nets.append(s); self.now.losses.append(l.item())
        if net is not self.model: self.give_back(net, s)
        return pred.detach()

    def give_back(self, small, s):
        for n,p in small.named_parameters():
            layer,_,t = n.rpartition('.')
            if (s,layer) in self.bn: continue
            if layer in self.mats and t=='weight': self.kernel(layer, s).backward(p.grad); continue
            w = self.params[n]
            if w.grad is None: w.grad = torch.zeros_like(w)
            idx = self.sn.place(s).at(n)
            put(w.grad, idx, take(w.grad, idx)+p.grad)

    def own(self): # What lives beside the model
        bn = {(s,n,t):p for (s,n),m in self.bn.items() for t,p in m.named_parameters()}
        return {**bn, **{(n,k):m for n,ms in self.mats.items() for k,m in ms.items()}}

    def step(self, lr):
        ps = {**self.params, **self.own()}
        self.now.lr,self.now.grads = lr,{n:torch.zeros_like(p) if p.grad is None else p.grad.clone() for n,p in ps.items()}
        self.steps.append(self.now); self.new_step()
        self.opt.param_groups[0]['lr'] = lr
        self.opt.step()
        self.opt.zero_grad(set_to_none=False) # as fastai: momentum goes on where a step has no gradient

    def mean_statistics(self):
        "Running statistics of the full network as the mean over the training batches"
        self.model.eval()
        for m in self.model.modules():
            if isinstance(m, nn.BatchNorm2d): m.train(); m.reset_running_stats(); m.momentum = None
        with torch.no_grad():
            for xb,_ in batch: self.model(xb)

class Steps(Callback):
    "What each optimizer step of the callback is given"
    order,run_valid = 30,False
    def before_fit(self): self.log,self.losses = [],[]
    def before_train(self):
        if not self.log: self.losses.clear() # one batch has been tried
    def before_step(self):
        sn = self.learn.supernet
        own = {(s,n,t):p for s in sn.private for n,ts in sn.stats[s].items() for t,p in ts.items() if isinstance(p, nn.Parameter)}
        own.update({(n,k):m for n,ms in sn.matrices.items() for k,m in ms.items()})
        grads = {n:torch.zeros_like(p) if p.grad is None else p.grad.clone() for n,p in [*self.model.named_parameters(), *own.items()]}
        self.log.append(SimpleNamespace(nets=self.onion_training.nets, losses=self.losses[:], lr=self.opt.hypers[-1]['lr'], grads=grads))
        self.losses.clear()

class Shown(Callback):
    "fastai's Recorder wants a float32 loss; what is trained stays float64"
    def after_loss(self): self.learn.loss = self.loss.float()

def trained(learn, rec, epochs, sched=None, lr=lr, **kwargs):
    "The steps of a fit with `rec`, where `sched` gives the rate at a share of them; losses are those on which `backward` was called"
    steps,backward = Steps(),torch.Tensor.backward
    def noted(self, *args, **kw):
        steps.losses.append(self.item())
        return backward(self, *args, **kw)
    with pytest.MonkeyPatch.context() as m, learn.no_logging():
        m.setattr(torch.Tensor, 'backward', noted)
        learn.fit(epochs, lr, cbs=[OnionTraining(rec, seed=seed, watch=(), estimate=False, **kwargs), steps, Shown(), *([ParamScheduler(dict(lr=sched))] if sched else [])])
    return steps.log

def close(a, b, what): assert (a-b).abs().max() <= 1e-10*max(1, b.abs().max()), what

def equal(learn, got, hand):
    "Same networks, losses, gradients and rates in every step, same weights and statistics in the end"
    assert len(got)==len(hand.steps)
    for i,(a,b) in enumerate(zip(got, hand.steps)):
        assert a.nets==b.nets, f'step {i}'
        assert a.losses==pytest.approx(b.losses, rel=1e-10), f'step {i}'
        assert a.lr==pytest.approx(b.lr, rel=1e-10), f'step {i}'
        assert not {*b.grads}-{*a.grads}-{*hand.own()}, f'step {i}' # own ones may come later, where they are first of use
        for n,g in b.grads.items():
            if n in a.grads: close(a.grads[n], g, f'step {i}, {n}')
            else: assert not g.any(), f'step {i}, {n}'
    want = hand.model.state_dict()
    for n,t in learn.model.state_dict().items():
        if t.is_floating_point(): close(t, want[n], n)

# ---- from the start

def test_slimmable():
    "Four widths, each in every step on the labels, each with a batch norm of its own"
    learn = new_learner(depths=(0,1))
    choices = [(k, n, vs[-1:] if k=='depth' else vs, i) for k,n,vs,i in at_widths(.25, .5, .75, 1.)] # depth stays whole
    four = [net(choices, lambda vs: vs[min(i, len(vs)-1)]) for i in range(4)]
    hand = Hand(learn, choices)
    hand.private(four[:3])
    for i in range(2*n_batches):
        xb,yb = batch[i%n_batches]
        for s in [four[3], *dice(i).sample(four[:3], 3)]: hand.run(s, xb, hard(yb))
        hand.step(lr)
    equal(learn, trained(learn, slimmable(), 2), hand)
    assert {len({*s.nets}) for s in hand.steps}=={4} and {*learn.supernet.private}=={*four[:3]}
    for (s,n),m in hand.bn.items(): # affine and statistics of every width
        for t in ('weight','bias','running_mean','running_var'): close(learn.supernet.stats[s][n][t], getattr(m, t), (s, n, t))
        full = hand.model.get_submodule(n)
        assert (m.weight-full.weight[:m.num_features]).abs().max()>1e-3 # its own, not the full network's
        assert n=='stem.bn' or (m.running_mean-full.running_mean[:m.num_features]).abs().max()>1e-3
    for s in four: # and what is taken out afterwards is what was trained
        a,b = learn.supernet.extract(s).eval()(x[:bs]),(hand.model if s==four[3] else hand.take_out(s)).eval()(x[:bs])
        close(a, b, s)

class OwnStatistics(Hand):
    "Every network keeps its running statistics, begun as the full network's; weight and bias are shared"
    def __init__(self, *args):
        super().__init__(*args)
        self.kept = {}
    def take_out(self, s):
        small = super().take_out(s)
        for n,m in small.named_modules():
            if isinstance(m, nn.BatchNorm2d): m.running_mean,m.running_var = self.kept.setdefault((s,n), (m.running_mean.clone(), m.running_var.clone()))
        return small

def test_onion():
    "Four widths in turn, the largest first, each with labels, an optimizer step and batch statistics of its own"
    learn = new_learner(depths=(0,1))
    choices = [(k, n, vs[-1:] if k=='depth' else vs, i) for k,n,vs,i in at_widths(.25, .5, .75, 1.)]
    four = [net(choices, lambda vs: vs[min(i, len(vs)-1)]) for i in (3,2,1,0)]
    hand = OwnStatistics(learn, choices)
    for s in four[1:]: hand.take_out(s) # begun before the first step
    for i in range(2*n_batches):
        xb,yb = batch[i%n_batches]
        for s in four:
            hand.run(s, xb, hard(yb))
            hand.step(lr)
    log = trained(learn, onion(), 2)
    assert len(log)==2*n_batches and all(a.nets==four for a in log)
    assert [l for a in log for l in a.losses]==pytest.approx([l for b in hand.steps for l in b.losses], rel=1e-10)
    want = hand.model.state_dict()
    for n,t in learn.model.state_dict().items():
        if t.is_floating_point(): close(t, want[n], n)
    for (s,n),(mean,var) in hand.kept.items():
        for t,w in dict(running_mean=mean, running_var=var).items(): close(learn.supernet.stats[s][n][t], w, (s, n, t))
    assert not learn.supernet.held_params() and (mean-want[f'{n}.running_mean'][:len(mean)]).abs().max()>1e-3

def test_us_net():
    "Largest, smallest and two random widths; what the largest says teaches the others"
    learn = new_learner(widths=tuple(w/16 for w in range(4,17)), depths=(0,1))
    choices = [(k, n, (1,) if k=='depth' else tuple(sorted({round(w/16*v) if v>8 else int(w/16*v+.5) for w in range(4,17)})), i) for k,n,v,i in resnet_choices]
    assert {n:vs for k,n,vs,_ in choices if k=='width'}==learn.supernet.space.width
    size = {n:v for k,n,v,_ in resnet_choices}
    def width(w): return Subnet({n:min(vs, key=lambda v: abs(v-w*size[n])) for k,n,vs,_ in choices if k=='width'}, dict(layer1=1))
    pool = [*dict.fromkeys(width(w/100) for w in range(25,101))]
    hand = Hand(learn, choices)
    for i in range(2*n_batches):
        xb,yb = batch[i%n_batches]
        teacher = soft(hand.run(pool[-1], xb, hard(yb)))
        for s in [pool[0], *dice(i).sample(pool[1:-1], 2)]: hand.run(s, xb, teacher)
        hand.step(lr)
    equal(learn, trained(learn, us_net(), 2), hand)
    assert len({s for st in hand.steps for s in st.nets})>12

def flat_cos(share): return lr*cos_to_0(max(0, share-.75)/.25) # three quarters flat, then a cosine

def test_bignas():
    "The sandwich over widths and depths, dropout on the largest only, and a learning rate that stays above 5 %"
    learn,choices,n = new_learner(widths=(.5,1.), depths=(0,1)),at_widths(.5, 1.),5*n_batches
    hand = Hand(learn, choices)
    for i in range(n):
        (xb,yb),rng = batch[i%n_batches],dice(i)
        teacher = soft(hand.run(largest(choices), xb, hard(yb)))
        for s in [smallest(choices), *[other(choices, rng) for _ in range(2)]]: hand.run(s, xb, teacher, dropout=False)
        hand.step(max(flat_cos(i/n), .05*lr))
    assert sum(s.lr==.05*lr for s in hand.steps)==1 and flat_cos((n-1)/n)<.05*lr
    equal(learn, trained(learn, bignas(), 5, flat_cos), hand)

# ---- delayed

def falling(share): return lr*cos_to_0(share)

@pytest.mark.parametrize('code', [False, True], ids=['paper','code'])
@pytest.mark.parametrize('kwargs,warm,ramp', [({}, 24, 1), (dict(warmup=.25, ramp=.1875, eps0=.01), 12, 9)], ids=['default','long'])
def test_delayed_shrinking(code, kwargs, warm, ramp):
    "Half of the run for the full network; then three subnets, with a weight that grows to 1 (5 of 270 epochs)"
    learn,choices,n = new_learner(widths=(.25,.5,1.), depths=(0,1), smoothing=.1),at_widths(.25, .5, 1.),8*n_batches
    hand,first,eps0 = Hand(learn, choices),max(warm-ramp, 0) if code else warm,kwargs.get('eps0', 1e-4)
    for i in range(n):
        (xb,yb),rng,rate = batch[i%n_batches],dice(i),falling(i/n)
        if i==first: hand.sn.sort_channels(opt=hand.opt)
        teacher = soft(hand.run(largest(choices), xb, hard(yb, .1)))
        if i>=first:
            line = min(1, eps0+(1-eps0)*(i-first)/ramp)
            eps = min(1, line*falling((first+ramp)/n)/rate) if code and line<1 else line # the code: the straight line is that of the rate
            for s in [smallest(choices)]*code + [other(choices, rng) for _ in range(3-code)]: hand.run(s, xb, teacher, eps, dropout=False)
        hand.step(rate)
    equal(learn, trained(learn, delayed_shrinking(code=code, **kwargs), 8, falling), hand)
    assert [len(s.nets) for s in hand.steps]==[1]*first + [4]*(n-first)

def test_delayed_epochs():
    "The published run: 270 epochs, 150 for the full network with the code's count of them, 5 for the ramp"
    at = lambda rec: [rec.schedule.eps_at(i, 270) for i in range(270)]
    ramp = [1e-4+(1-1e-4)*i/5 for i in range(5)]
    assert at(delayed_shrinking())==pytest.approx([0]*135+ramp+[1]*130, abs=1e-12)
    assert at(delayed_shrinking(warmup=150/270, code=True))==pytest.approx([0]*145+ramp+[1]*120, abs=1e-12)

# ---- in phases

def phase_lr(peak, j, steps, warm): return peak*((j+1)/(warm+1) if j<warm else cos_to_0((j-warm)/(steps-warm)))

def in_phases(hand, choices, phases, n, smoothing, teacher=None):
    "`phases`: (epochs, warm-up epochs, {kind: values}, networks, highest rate, sorted within); their epochs are shares of the `n` steps"
    ends = [round(sum(p[0] for p in phases[:i+1])/sum(p[0] for p in phases)*n) for i in range(len(phases))]
    for (epochs,warm,part,k,peak,tiers),a,b in zip(phases, [0,*ends], ends):
        some = [(kind, name, vs[-part.get(kind, 0):], i) for kind,name,vs,i in choices]
        if k and teacher is None: teacher = hand.sn.extract(hand.full).eval() # what was trained so far
        if tiers is not None:
            before = {name:p.clone() for name,p in hand.params.items()}
            hand.sn.sort_channels(opt=hand.opt, tiers={name:vs[-tiers:] for kind,name,vs,_ in choices if kind=='width'})
            hand.moved.append(any((p!=before[name]).any() for name,p in hand.params.items()))
        for i in range(a, b):
            (xb,yb),rng = batch[i%n_batches],dice(i)
            label = hard(yb, smoothing)
            if not k: hand.run(hand.full, xb, label)
            else:
                with torch.no_grad(): says = soft(teacher(xb))
                for s in [net(some, rng.choice) for _ in range(k)]: hand.run(s, xb, lambda p: label(p)+says(p))
            hand.step(phase_lr(peak, i-a, b-a, round((b-a)*warm/epochs)))
    hand.mean_statistics()
    return ends

whole = dict(width=1, depth=1, kernel=1)
ofa_phases = [(180,5,whole,0,.08,None), (125,5,dict(width=1, depth=1),1,.03,None), (25,0,dict(width=1, depth=2),2,.0025,None), (125,5,dict(width=1),2,.0075,None),
    (25,0,dict(width=2),4,.0025,1), (125,5,{},4,.0075,2)]

def scaled(phases, lr=lr): return [(*p[:4], p[4]/.08*lr, p[5]) for p in phases] # `lr` is the teacher's

@pytest.mark.parametrize('matrices', [True, False], ids=['matrices','cropped'])
def test_progressive_shrinking(matrices):
    "Teacher, kernels, two depths, three depths, two widths, three widths"
    learn = new_learner(ofa_like, '3', .1, widths=(.25,.5,1.), depths=(0,.5,1.), kernels=(1,3,5))
    hand = Hand(learn, ofa_choices, [('0',(1,)), ('3.0.body.0',(3,1)), ('3.1.body.0',(3,1))] if matrices else ())
    ends = in_phases(hand, ofa_choices, scaled(ofa_phases), 12*n_batches, .1)
    assert [e%n_batches for e in ends]==[3,0,3,0,3,0] and len({s.nets[0] for s in hand.steps})>20 # within epochs and between them
    assert hand.moved[0]
    equal(learn, trained(learn, progressive_shrinking(matrices=matrices), 12), hand)
    for n,ms in hand.mats.items():
        for k,m in ms.items():
            close(learn.supernet.matrices[n][k], m, (n,k))
            assert k==1 or (m-torch.eye(k*k)).abs().max()>1e-3 # a factor before a batch norm hardly moves
    assert bool(learn.supernet.matrices)==matrices

def test_progressive_shrinking_from_a_teacher():
    "The published way: phases only, with a teacher that is given, in evaluation although it comes in training"
    learn = new_learner(ofa_like, '3', widths=(.25,.5,1.), depths=(0,.5,1.), kernels=(1,3,5))
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64,16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(.5), nn.Linear(16,10)).double()
    hand,given = Hand(learn, ofa_choices, [('0',(1,)), ('3.0.body.0',(3,1)), ('3.1.body.0',(3,1))]),deepcopy(teacher).eval()
    phases = [(*ofa_phases[1][:5], 1), *ofa_phases[2:]] # nothing is known of what was trained before: sorted at once
    in_phases(hand, ofa_choices, scaled(phases, 1.), 6*n_batches, 0., given)
    assert hand.moved[:2]==[True]*2
    equal(learn, trained(learn, progressive_shrinking(teacher=0), 6, lr=1., teacher=teacher.train()), hand)
    for a,b in zip(teacher.state_dict().values(), given.state_dict().values()): assert torch.equal(a, b)

def test_progressive_shrinking_leaves_out():
    "Without kernels there are four phases and the teacher"
    learn,choices = new_learner(widths=(.25,.5,1.), depths=(0,1)),at_widths(.25, .5, 1.)
    hand = Hand(learn, choices)
    in_phases(hand, choices, scaled([ofa_phases[i] for i in (0,2,3,4,5)], .5), 6*n_batches, 0.)
    assert hand.moved==[True]*2 # the second within the tiers that were trained
    equal(learn, trained(learn, progressive_shrinking(), 6, lr=.5), hand)

compofa_phases = [(180,5,whole,0,.08,None), (25,0,dict(width=2, depth=2),4,.0025,1), (125,5,{},4,.0075,2)]

@pytest.mark.parametrize('teacher,rate', [(180,lr), (0,1.5)], ids=['','given'])
def test_compofa(teacher, rate):
    "Width follows depth; two phases after the teacher, sorted at both"
    learn = new_learner(ofa_like, '3', .1, tied=True, widths=(.25,.5,1.), depths=(0,.5,1.))
    choices = [c for c in ofa_choices if c[0]=='depth' or c[:2]in[('width','3.0.body.0'),('width','3.1.body.0')]]
    hand = Hand(learn, choices)
    def tied(cs, pick): # at depth 0, 1, 2 the blocks have 2, 4, 8 channels
        depth = pick(cs[0][2])
        return Subnet({f'3.{i}.body.0':pick(((2,4,8)[depth],)) for i in range(depth)}, {'3':depth})
    given = hand.sn.extract(hand.full).eval() if not teacher else None
    with pytest.MonkeyPatch.context() as m:
        m.setitem(globals(), 'net', tied)
        ends = in_phases(hand, choices, scaled(compofa_phases[not teacher:], rate), 6*n_batches, .1, given)
    assert teacher or hand.moved==[True,True]
    assert len({s for st in hand.steps for s in st.nets})==3
    assert [len(s.nets) for s in hand.steps]==[1]*(ends[0] if teacher else 0)+[4]*(36-(ends[0] if teacher else 0))
    kwargs = {} if teacher else dict(teacher=deepcopy(given).train())
    equal(learn, trained(learn, compofa(teacher), 6, lr=rate, **kwargs), hand)

def test_zero_last_bn_takes_the_last():
    "The last batch norm of each block that may be dropped, and no other; the block says nothing then, whatever the others are"
    model = resnet_cifar(20, n_in=1)
    for name,p in model.named_parameters():
        if p.ndim==1: nn.init.normal_(p) # biases too: a first batch norm of weight 0 would not silence its block
    sn = Supernet(model.eval(), torch.randn(2,1,8,8), depths=(0,1))
    names = zero_last_bn(sn)
    blocks = [b for blocks in sn.graph.stages.values() for b in blocks]
    assert names==sorted(f'{b}.conv2.bn' for b in blocks)
    weights = {n:m.weight for n,m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n for n,w in weights.items() if not w.any()}=={*names}
