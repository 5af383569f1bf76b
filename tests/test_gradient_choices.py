"What subnets learn from and how gradients meet, against updates by hand in float64"

import weakref
from dataclasses import replace
from functools import partial
import pytest
import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fastai.torch_core import TensorMask
from torch import nn
from torch.nn import functional as F
from elastic_nets.shrink.choices import combine_avg, combine_avg_sqrt, combine_core, combine_project, combine_skins
from elastic_nets.shrink.gradients import combine_sum, distill_loss
from elastic_nets.shrink.methods import delayed_shrinking
from elastic_nets.shrink.recipe import Construct, Delayed, Gradient, Phase, Phases, Recipe, Update
from elastic_nets.subnets.batches import calibrate_bn
from helpers import HalfDropout, add, differ, fails, grad, label, logits, minus, says, times, two_layers
from helpers_shrink import all_four, base, close, fit, lr, mask, n_batches, new_learner, usage, x

def test_us_net_by_hand():
    "The update that the others are compared with: the full network on labels, three on what it says, the sum"
    b = fit(new_learner(), base)[0]
    assert b.h[0] == 4 and sorted(b.h) == [1, 2, 3, 4]
    want = add(grad(4, label(b.y), b.W, b.x), *[grad(h, says(4, b.W, b.x), b.W, b.x) for h in (1, 2, 3)])
    close(b.grads, want)
    close(b.end, minus(b.W, times(lr, want)))

@pytest.mark.parametrize('target', ['hard', 'distill', 'next', 'teacher'])
@pytest.mark.parametrize('eps', [1.0, 0.25])
def test_targets_by_hand(target, eps):
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9)).double()
    rec = Recipe(all_four, Gradient(target), schedule=Delayed(0.0, 1.0, eps0=eps))
    for b in fit(new_learner(), rec, teacher=teacher.train() if target == 'teacher' else None)[:1]:
        t = label(b.y)
        q = dict(hard=[t] * 3, distill=[says(4, b.W, b.x)] * 3, next=[says(h + 1, b.W, b.x) for h in (1, 2, 3)])
        if target == 'teacher':  # labels and soft labels: two losses
            with torch.no_grad():
                soft = teacher[0](b.x).softmax(1)
            subs = [add(grad(h, t, b.W, b.x), grad(h, soft, b.W, b.x)) for h in (1, 2, 3)]
        else:
            subs = [grad(h, q, b.W, b.x) for h, q in zip((1, 2, 3), q[target])]
        close(b.grads, add(grad(4, t, b.W, b.x), times(eps, add(*subs))), target)
        if target != 'distill':
            differ(b.grads, fit(new_learner(), replace(rec, gradient=Gradient()))[0].grads)

def by_hand(rule, gs, own, w):
    "One element list `gs` per network, smallest first, as a loop over networks"
    if rule == 'sum':
        return sum(gs)
    u = sum(o * v for o, v in zip(own, w))
    if rule == 'avg':
        return sum(gs) / u
    if rule == 'avg_sqrt':
        return sum(gs) / u**0.5
    against = dict(project=lambda i: [j for j in range(4) if j != i], core=lambda i: [j for j in range(4) if j < i],
                   skins=lambda i: [j for j in range(4) if j > i])[rule]
    res = 0
    for i, v in enumerate(gs):
        v = v.clone()
        for j in against(i):
            o = gs[j] * own[i]  # what the two share
            if (d := (v * o).sum()) < 0:
                v -= d / (o * o).sum() * o
        res = res + v
    return res

def conflict(gs, own):
    return any((a * b * o).sum() < 0 for i, (a, o) in enumerate(zip(gs, own)) for b in gs[i + 1 :])

def cancelling():
    "Unit 0 is sure of itself, and unit 3 takes back what it says: small and full network disagree"
    model = two_layers()
    with torch.no_grad():
        model[0].weight[3], model[2].weight[:, 0] = model[0].weight[0], 20 * model[2].weight[:, 0]
        model[2].weight[:, 3] = -model[2].weight[:, 0]
    return model

RULES = dict(sum=combine_sum, avg=combine_avg, avg_sqrt=combine_avg_sqrt, project=combine_project, core=combine_core,
             skins=combine_skins)

@pytest.mark.parametrize('rule', RULES)
def test_rules_by_hand(rule):
    mostly = logits(1, [p.detach() for p in new_learner(cancelling).model.parameters()], x).argmax(
        1
    )  # what it is sure of is mostly right
    mostly[::3] = (mostly[::3] + 1) % 3
    log, seen = (
        fit(new_learner(cancelling, y=mostly),
            Recipe(all_four, Gradient('hard', RULES[rule]), schedule=Delayed(0.0, 1.0, eps0=0.25)), n=3, lr=0.02),
        0,
    )
    own = [usage([h]) for h in (1, 2, 3, 4)]
    for b in log:
        w = [b.eps] * 3 + [1.0]
        gs = [times(v, grad(h, label(b.y), b.W, b.x)) for h, v in zip((1, 2, 3, 4), w)]
        by_layer = [([G[i] for G in gs], [o[i] for o in own]) for i in (0, 1)]
        close(b.grads, [by_hand(rule, *l, w) for l in by_layer], rule)
        if rule in ('avg', 'avg_sqrt'):
            differ(b.grads, add(*gs))
        if rule in ('project', 'core', 'skins'):  # they are different things where networks disagree
            for l in by_layer:
                (a, c, d, e) = [by_hand(o, *l, w) for o in ('sum', 'project', 'core', 'skins')]
                seen += conflict(*l) and all(
                    (p - q).abs().max() > 1e-4 for p, q in ((a, c), (a, d), (a, e), (c, d), (c, e), (d, e))
                )
    assert rule in ('sum', 'avg', 'avg_sqrt') or seen > 2

def test_rule_of_the_user():
    "A function sees weighted gradients, owners and weights, smallest first, and returns the gradient"
    seen = []

    def largest_part(gs, own, ws):
        seen.append((own.flatten(1).sum(1).tolist(), ws.tolist()))
        return 3 * gs[-1] + gs[0]

    b = fit(new_learner(), Recipe(all_four, Gradient('hard', largest_part), schedule=Delayed(0.0, 1.0, eps0=0.25)))[0]
    close(b.grads, add(times(3, grad(4, label(b.y), b.W, b.x)), times(0.25, grad(1, label(b.y), b.W, b.x))))
    assert seen[1:3] == [([3, 6, 9, 12], [0.25, 0.25, 0.25, 1.0])] * 2  # after a trial with two networks

@pytest.mark.parametrize('dropout', [False, True])
@pytest.mark.parametrize('steps', ['joint', 'small first', 'large first'])
def test_dropout(dropout, steps):
    "Subnets drop out only where the recipe says so, as a step's first network too; the largest always does"
    learn = new_learner()
    learn.model[1] = HalfDropout()
    b = fit(learn, Recipe(all_four, Gradient('hard', dropout=dropout), Update(steps)), n=2)[
        4
    ]  # in the second epoch: also after a validation
    W, hs = b.W, dict(joint=(4, 3, 2, 1)).get(steps) or sorted(b.h, reverse=steps == 'large first')
    gs = lambda W, h: grad(h, label(b.y), W, b.x, mask if dropout or h == 4 else None)
    if steps == 'joint':
        W = minus(W, times(lr, add(*[gs(W, h) for h in hs])))
    else:
        for h in hs:
            W = minus(W, times(lr, gs(W, h)))
    close(b.end, W)
    assert (
        learn.model[1].training is False and learn.model.train()[1].training
    )  # after a validation; and train() reaches it

def test_teacher_shape():
    "A teacher whose answer would be broadcast is refused before training"
    learn = new_learner(y=x, loss=MSELossFlat())
    with pytest.raises(ValueError, match=r'shape \(8, 1\).*\(8, 3\)'):
        fit(learn, Recipe(gradient=Gradient('teacher')), teacher=nn.Linear(3, 1).double())
    fit(learn, Recipe(gradient=Gradient('teacher')), teacher=nn.Linear(3, 1).double(),
        distill=lambda pred, soft: (pred.mean(1, keepdim=True) - soft).square().mean())

def test_teacher_first():
    "Subnets that learn from a teacher wait for it; the full network alone need not"
    rec = lambda *phases: Recipe(Construct(k=2, levels=4), Gradient('teacher'), schedule=Phases(phases))
    seen = []

    class Seen(Callback):
        def before_batch(self):
            seen.append(1)

    with pytest.raises(ValueError, match='before the phase that trains it'):
        fit(new_learner(), rec(Phase(1, k=1), Phase(1), Phase(1, k=1, teach=True), Phase(1)), n=4, cbs=[Seen()])
    assert not seen
    fit(new_learner(), rec(Phase(1, k=1), Phase(1, k=1, teach=True), Phase(1)), n=4)

@pytest.mark.parametrize('target', ['hard', 'distill'])
def test_one_graph_at_a_time(target):
    "Before a network runs, what autograd kept of the one before it is gone; with the sum no gradient is kept"
    learn, kept, alive = new_learner(), [], []

    class Box:
        def __init__(self, t):
            self.t = t
            kept.append(weakref.ref(self))

    class Kept(Callback):
        order, run_valid = 30, False

        def after_backward(self):
            assert not self.onion_training.now.kept

    learn.model[0].register_forward_pre_hook(
        lambda m, i: alive.append(sum(r() is not None for r in kept)) if learn.model.training else None
    )
    with torch.autograd.graph.saved_tensors_hooks(Box, lambda b: b.t):
        fit(learn, Recipe(all_four, Gradient(target)), cbs=[Kept()])
    assert len(alive) == 2 + 4 * n_batches and not any(alive) and len(kept) > 2 * len(alive)

def test_reduction_of_a_partial():
    p, t = torch.randn(5, 3), torch.randn(5, 3)
    for f in (F.cross_entropy, F.binary_cross_entropy_with_logits, F.mse_loss):
        assert distill_loss(partial(f, reduction='sum'))(p, t) == pytest.approx(
            (distill_loss(f)(p, t) * (5 if f is F.cross_entropy else 15)).item(), rel=1e-5
        )
    fails("reduction 'mean' or 'sum'", lambda: distill_loss(partial(F.mse_loss, reduction='none')))

pixels = torch.rand(32, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

def dense(n):
    return lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, n, 1))

LOSSES = dict(
    segmentation=(CrossEntropyLossFlat(axis=1, ignore_index=255), dense(3),
                  TensorMask((pixels[:, 0] * 3).long().where(pixels[:, 0] < 0.9, 255))),
    binary=(BCEWithLogitsLossFlat(), dense(1), (pixels > 0.5).double()),
    regression=(MSELossFlat(), dense(1), pixels * 2),
)

@pytest.mark.parametrize('kind', LOSSES)
@pytest.mark.parametrize('cb', [None, ChannelsLast], ids=['', 'channels_last'])
def test_each_loss_has_its_distillation(kind, cb):
    "Each loss gets a distillation that fits, and the smallest subnet learns; in channels_last weights stay so"
    loss, make, ys = LOSSES[kind]
    learn = new_learner(make, y=ys, loss=loss, xs=pixels)

    def value():
        m = learn.supernet.extract(learn.supernet.space.min)
        calibrate_bn(m, [(pixels, ys)])
        with torch.no_grad():
            return loss(m.eval()(pixels), ys).item()

    before = value()
    fit(learn, delayed_shrinking(warmup=0.25, ramp=0.25), n=8, lr=0.2, cbs=[cb()] if cb else [])
    assert value() < 0.95 * before
    if cb:
        assert learn.model[0].weight.is_contiguous(memory_format=torch.channels_last) and learn.model[
            3
        ].weight.is_contiguous(memory_format=torch.channels_last)
