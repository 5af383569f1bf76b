"A loop that trains by a recipe, written by hand: plain PyTorch in float64 on plain copies of the subnets"

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
from elastic_nets.zoo.spaces import compofa_space
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.supernet import Supernet
from sklearn.datasets import load_digits

torch.set_num_threads(1)
n_batches, bs, lr, seed = 6, 16, 0.05, 3
d = load_digits()
x, y = torch.tensor(d.images / 16)[:, None], torch.tensor(d.target)
batch = [(x[i * bs :][:bs], y[i * bs :][:bs]) for i in range(n_batches)]

class Half(nn.Dropout):
    "Dropout without dice: every second channel, where it is on"

    def forward(self, x):
        return x * (torch.arange(x.shape[1]) % 2 * 2)[:, None, None] if self.training else x

class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(n, n, 5, padding=2, bias=False), nn.BatchNorm2d(n), nn.ReLU(),
                                  nn.Conv2d(n, n, 1, bias=False), nn.BatchNorm2d(n))

    def forward(self, x):
        return (x + self.body(x)).relu()

def ofa_like():
    "Three widths, three depths, three kernels: something for each of once-for-all's phases"
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Sequential(Block(8), Block(8)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

def new_learner(make=partial(resnet_cifar, 8, width=8, n_in=1), drop='layer2', smoothing=0.0, tied=False, **space):
    torch.manual_seed(0)
    model = make()
    sn = Supernet(model, x[:2].float(), **space)
    if tied:
        sn = Supernet((model := make()), x[:2].float(), space=compofa_space(sn.space))
    for p in model.parameters():  # also batch norm's, so that every order of channels differs from every other
        if p.ndim == 1:
            p.data += 0.2 * torch.randn_like(p)
    model.get_submodule(drop).add_module('drop', Half())
    dl = lambda a, b: DataLoader(list(zip(x[a:b], y[a:b])), bs=bs)
    learn = Learner(DataLoaders(dl(0, n_batches * bs), dl(600, 632), device='cpu'), model.double(),
                    loss_func=nn.CrossEntropyLoss(label_smoothing=smoothing), opt_func=partial(SGD, mom=0.9))
    learn.remove_cbs(ProgressCallback)
    learn.supernet = sn
    return learn

def hard(y, smoothing=0.0):
    return lambda p: (
        -((1 - smoothing) * p.log_softmax(1)[range(len(y)), y] + smoothing * p.log_softmax(1).mean(1)).mean()
    )

def soft(teacher):
    return lambda p: -(teacher.softmax(1) * p.log_softmax(1)).sum(1).mean()

# Choices of the two models, in the order in which they are drawn: (dimension, name, values, position of the block)
resnet_choices = [('depth', 'layer1', (0, 1), None), ('width', 'stem.conv', 8, None),
                  ('width', 'layer2.0.conv1.conv', 16, None), ('width', 'layer2.0.conv2.conv', 16, None),
                  ('width', 'layer3.0.conv1.conv', 32, None), ('width', 'layer3.0.conv2.conv', 32, None),
                  ('width', 'layer1.0.conv1.conv', 8, 0)]
ofa_choices = [('depth', '3', (0, 1, 2), None), ('width', '0', (2, 4, 8), None), ('kernel', '0', (1, 3), None),
               *[('width', f'3.{i}.body.0', (2, 4, 8), i) for i in (0, 1)],
               *[('kernel', f'3.{i}.body.0', (1, 3, 5), i) for i in (0, 1)]]

def at_widths(*shares):
    return [(k, n, tuple(int(w * v) for w in shares) if isinstance(v, int) else v, i) for k, n, v, i in resnet_choices]

def net(choices, pick):
    "A subnet; what is in a block that is gone is not chosen"
    got = dict(depth={}, width={}, kernel={})
    for kind, name, vs, i in choices:
        if i is None or i < sum(got['depth'].values()):
            got[kind][name] = pick(vs)
    return Subnet(**got)

def largest(choices):
    return net(choices, lambda vs: vs[-1])

def smallest(choices):
    return net(choices, lambda vs: vs[0])

def other(choices, rng):
    s = net(choices, rng.choice)
    return s if s != largest(choices) else other(choices, rng)

def dice(step):
    return random.Random(f'{seed} {step}')

def cos_to_0(t):
    return (1 + math.cos(math.pi * t)) / 2

class Hand:
    "A model trained by hand: each network is taken out, and its gradients are put back where its weights come from"

    def __init__(self, learn, choices, sizes=()):
        self.model, self.sn = deepcopy((learn.model.train(), learn.supernet))
        self.params, self.full, self.steps, self.bn, self.moved = (dict(self.model.named_parameters()),
                                                                   largest(choices), [], {}, [])
        self.mats = {n: {k: torch.eye(k * k, dtype=x.dtype, requires_grad=True) for k in ks} for n, ks in sizes}
        self.opt = torch.optim.SGD(
            [*self.params.values(), *[m for ms in self.mats.values() for m in ms.values()]], lr=lr, momentum=0.9
        )
        self.new_step()

    def new_step(self):
        self.now = SimpleNamespace(nets=[], losses=[])

    def private(self, nets):
        "Batch norms of their own for `nets`, begun as the full network's first channels"
        for s in nets:
            for n, m in self.sn.extract(s).named_modules():
                if isinstance(m, nn.BatchNorm2d):
                    self.bn[s, n] = m
        self.opt.param_groups[0]['params'] += [p for m in self.bn.values() for p in m.parameters()]

    def kernel(self, n, s):
        "The weight of convolution `n` in `s`, from the centre of the larger kernels, through their matrices"
        w = take(self.params[f'{n}.weight'], self.sn.place(s).at(f'{n}.weight')[:2])
        for k, m in self.mats[n].items():
            if k < s.kernel[n]:
                break
            c = (w.shape[-1] - k) // 2
            w = (w[:, :, c : c + k, c : c + k].flatten(2) @ m.T).unflatten(2, (k, k))
        return w

    def take_out(self, s):
        small = self.sn.extract(s).train()
        for n in self.mats:
            if n in s.kernel:
                small.get_submodule(n).weight.data = self.kernel(n, s).detach()
        for n, m in list(small.named_modules()):
            if (s, n) in self.bn:
                small.set_submodule(n, self.bn[s, n])
        return small

    def run(self, s, xb, loss, weight=1.0, dropout=True):
        "Forward and backward of network `s`, whose output is returned"
        net = self.model if s == self.full else self.take_out(s)
        for m in net.modules():
            if isinstance(m, Half):
                m.training = dropout
        pred = net(xb)
        l = weight * loss(pred)
        l.backward()
        self.now.nets.append(s)
        self.now.losses.append(l.item())
        if net is not self.model:
            self.give_back(net, s)
        return pred.detach()

    def give_back(self, small, s):
        for n, p in small.named_parameters():
            layer, _, t = n.rpartition('.')
            if (s, layer) in self.bn:
                continue
            if layer in self.mats and t == 'weight':
                self.kernel(layer, s).backward(p.grad)
                continue
            w = self.params[n]
            if w.grad is None:
                w.grad = torch.zeros_like(w)
            idx = self.sn.place(s).at(n)
            put(w.grad, idx, take(w.grad, idx) + p.grad)

    def own(self):  # What lives beside the model
        bn = {(s, n, t): p for (s, n), m in self.bn.items() for t, p in m.named_parameters()}
        return {**bn, **{(n, k): m for n, ms in self.mats.items() for k, m in ms.items()}}

    def step(self, lr):
        ps = {**self.params, **self.own()}
        self.now.lr, self.now.grads = (
            lr,
            {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in ps.items()},
        )
        self.steps.append(self.now)
        self.new_step()
        self.opt.param_groups[0]['lr'] = lr
        self.opt.step()
        self.opt.zero_grad(set_to_none=False)  # as fastai: momentum goes on where a step has no gradient

    def mean_statistics(self):
        "Running statistics of the full network as the mean over the training batches"
        self.model.eval()
        for m in self.model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.train()
                m.reset_running_stats()
                m.momentum = None
        with torch.no_grad():
            for xb, _ in batch:
                self.model(xb)

class Steps(Callback):
    "What each optimizer step of the callback is given"

    order, run_valid = 30, False

    def before_fit(self):
        self.log, self.losses = [], []

    def before_train(self):
        if not self.log:
            self.losses.clear()  # one batch has been tried

    def before_step(self):
        sn = self.learn.supernet
        own = {(s, n, t): p for s in sn.private for n, ts in sn.stats[s].items() for t, p in ts.items()
               if isinstance(p, nn.Parameter)}
        own.update({(n, k): m for n, ms in sn.matrices.items() for k, m in ms.items()})
        grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                 for n, p in [*self.model.named_parameters(), *own.items()]}
        self.log.append(
            SimpleNamespace(
                nets=self.onion_training.nets, losses=self.losses[:], lr=self.opt.hypers[-1]['lr'], grads=grads
            )
        )
        self.losses.clear()

class Shown(Callback):
    "fastai's Recorder wants a float32 loss; what is trained stays float64"

    def after_loss(self):
        self.learn.loss = self.loss.float()

def trained(learn, rec, epochs, sched=None, lr=lr, **kwargs):
    "The steps of a fit with `rec`; `sched` gives the rate at a share of them; losses are those with a `backward`"
    steps, backward = Steps(), torch.Tensor.backward

    def noted(self, *args, **kw):
        steps.losses.append(self.item())
        return backward(self, *args, **kw)

    with pytest.MonkeyPatch.context() as m, learn.no_logging():
        m.setattr(torch.Tensor, 'backward', noted)
        learn.fit(
            epochs,
            lr,
            cbs=[OnionTraining(rec, seed=seed, watch=(), estimate=False, **kwargs), steps, Shown(),
                 *([ParamScheduler(dict(lr=sched))] if sched else [])],
        )
    return steps.log

def close(a, b, what):
    assert (a - b).abs().max() <= 1e-10 * max(1, b.abs().max()), what

def equal(learn, got, hand):
    "Same networks, losses, gradients and rates in every step, same weights and statistics in the end"
    assert len(got) == len(hand.steps)
    for i, (a, b) in enumerate(zip(got, hand.steps)):
        assert a.nets == b.nets, f'step {i}'
        assert a.losses == pytest.approx(b.losses, rel=1e-10), f'step {i}'
        assert a.lr == pytest.approx(b.lr, rel=1e-10), f'step {i}'
        assert not {*b.grads} - {*a.grads} - {*hand.own()}, (
            f'step {i}'
        )  # own ones may come later, where they are first of use
        for n, g in b.grads.items():
            if n in a.grads:
                close(a.grads[n], g, f'step {i}, {n}')
            else:
                assert not g.any(), f'step {i}, {n}'
    want = hand.model.state_dict()
    for n, t in learn.model.state_dict().items():
        if t.is_floating_point() and not n.startswith('held_by_supernet.'):
            close(t, want[n], n)

# ---- from the start
