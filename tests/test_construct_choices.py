"Which networks train, and what they are made of, against updates by hand in float64"

import random
from dataclasses import replace
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn
from torch.nn import functional as F
from elastic_nets.shrink.choices import ByImportance, equal_macs
from elastic_nets.shrink.gradients import owned
from elastic_nets.shrink.methods import slimmable
from elastic_nets.shrink.recipe import Construct, Gradient, Phase, Phases, Recipe, Update, equal_shares, levels_of
from helpers import add, differ, fails, grad, label, logits, minus, says, times
from helpers_shrink import (all_four, batches, close, elastic_everywhere, fit, lr, new_learner, three_layers, with_norm,
                            x, y)

def test_levels_and_spacing():
    "Equally spaced shares, or equally spaced MACs (6h + h^2 with h channels in both layers)"
    for spacing, want in ((equal_shares, {1, 3, 6, 8}), (equal_macs, {1, 4, 6, 8})):
        learn = new_learner(three_layers, widths=tuple(i / 8 for i in range(1, 9)))
        log = fit(learn, Recipe(Construct(k=4, levels=4, spacing=spacing), Gradient('hard')))
        for b in log:
            assert {(s.width['0'], s.width['2']) for s in b.nets} == {(h, h) for h in want}
            ws = [w.clone().requires_grad_() for w in b.W]
            for h in want:
                out = ((b.x @ ws[0][:h].T).relu() @ ws[1][:h, :h].T).relu() @ ws[2][:, :h].T
                F.cross_entropy(out, b.y).backward()
            close(b.grads, [w.grad for w in ws])
    assert {len({*b.nets}) for b in fit(new_learner(), Recipe(Construct(k=2, levels=3)))} == {2}
    some = fit(new_learner(), Recipe(Construct(k=2, levels=3)), n=5)
    assert {h for b in some for h in b.h[1:]} == {1, 3} and {b.h[0] for b in some} == {
        4
    }  # 2.5 of 4 is nearer to neither: the larger

def test_levels_of_a_recipe():
    "Levels are those of the kinds of choices that the construction makes"
    learn = new_learner(
        lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4),
                              nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
        kernels=(1, 3),
    )
    fit(learn, slimmable())
    assert {*levels_of(slimmable().construct, learn.supernet.space)} == {
        *learn.supernet.private,
        learn.supernet.space.max,
    } and len(learn.supernet.private) == 3

def test_levels_without_the_full_network():
    "A phase without the largest draws among the levels too"
    rec = Recipe(Construct(k=4, levels=2, bn='private'), Gradient('hard'), schedule=Phases((Phase(1, full=False),)))
    learn = new_learner(with_norm)
    assert {h for b in fit(learn, rec, n=3) for h in b.h} == {1, 4} and [
        s.width['0'] for s in learn.supernet.private
    ] == [1]
    rec = Recipe(
        Construct(k=4, levels=2), Gradient('hard'), schedule=Phases((Phase(1, (('width', -2),), full=False),))
    )  # 3 and 4 are left, and 3 is no level
    assert {h for b in fit(new_learner(), rec) for h in b.h} == {4}

@pytest.mark.parametrize('smallest', [False, True])
def test_sandwich(smallest):
    log = fit(new_learner(), Recipe(Construct(k=3, smallest=smallest)), n=3)
    assert all(b.h[:2] == [4, 1] for b in log) == smallest and all(b.h[0] == 4 and 4 not in b.h[1:] for b in log)
    for b in log:
        close(b.grads, add(grad(4, label(b.y), b.W, b.x), *[grad(h, says(4, b.W, b.x), b.W, b.x) for h in b.h[1:]]))

@pytest.mark.parametrize('dims', [('width',), ('depth',), ('kernel',), ('width', 'depth', 'kernel', 'resolution')])
def test_elastic_dimensions(dims):
    "Choices of other kinds stay whole, in what is drawn and in the gradient"
    learn = new_learner(elastic_everywhere, widths=(0.5, 1.0), depths=(0, 1), kernels=(1, 3))
    full = learn.supernet.space.max
    nets = {
        s for b in fit(learn, Recipe(Construct(k=3, dims=dims, smallest=True), Gradient('hard')), n=8) for s in b.nets
    }
    for k in (
        'width',
        'depth',
        'kernel',
    ):  # the whole model is what it is, and so is what lives in a block that is there
        assert any(getattr(s, k)[n] != v for s in nets for n, v in getattr(full, k).items() if n in getattr(s, k)) == (
            k in dims
        )
    log = fit(learn, Recipe(Construct(k=3, dims=dims, smallest=True), Gradient('hard')))[:1]
    for b in log:
        C1, C2, L, bias = ws = [w.clone().requires_grad_() for w in b.W]
        for s in b.nets:
            h, k1 = s.width.get('1', 4), s.kernel.get('1', 3)
            o = F.conv1d(b.x[:, None], C1[:h] if k1 == 3 else C1[:h, :, 1:2], padding=k1 // 2)
            if s.depth.get('2', 1):
                k2 = s.kernel.get('2.0.conv', 3)
                o = o + F.conv1d(o, C2[:h, :h] if k2 == 3 else C2[:h, :h, 1:2], padding=k2 // 2).relu()
            F.cross_entropy(F.linear(o.flatten(1), L[:, : 3 * h], bias), b.y).backward()
        close(b.grads, [w.grad for w in ws])

@pytest.mark.parametrize('target', ['hard', 'distill'])
@pytest.mark.parametrize('steps', ['joint', 'small first', 'large first'])
@pytest.mark.parametrize('bn', ['shared', 'statistics', 'private'])
def test_batch_norms(bn, steps, target):
    "Whose weight, bias and running statistics; trained by hand for an epoch, by a teacher that leaves no trace in them"
    learn = new_learner(with_norm)
    log = fit(learn, Recipe(replace(all_four, bn=bn), Gradient(target), Update(steps)), n=1)[:2]
    sn = learn.supernet
    own = {h: [torch.ones(h).double().requires_grad_(), torch.zeros(h).double().requires_grad_()] for h in (1, 2, 3)}
    stats = {h: [torch.zeros(h).double(), torch.ones(h).double()] for h in (1, 2, 3, 4)}
    W1, w, b, W2 = ws = [p.clone().requires_grad_() for p in log[0].W]
    ps = ws + [p for h in own for p in own[h]]

    @torch.no_grad()
    def sgd():
        for p in ps:
            if p.grad is not None:
                p -= lr * p.grad
            p.grad = None

    def step(xb, yb):
        with torch.no_grad():
            q = (F.batch_norm(xb @ W1.T, None, None, w, b, training=True).relu() @ W2.T).softmax(1)
        for h in (4, 3, 2, 1) if steps == 'large first' else (1, 2, 3, 4):
            wh, bh = own[h] if bn == 'private' and h < 4 else (w[:h], b[:h])
            z = F.batch_norm(xb @ W1[:h].T, *stats[h], wh, bh, training=True)
            F.cross_entropy(z.relu() @ W2[:, :h].T, yb if target == 'hard' or h == 4 else q).backward()
            if steps != 'joint':
                sgd()
        grads = [None if p.grad is None else p.grad.clone() for p in ws]
        sgd()
        return grads

    for i, s in enumerate(log):
        close(s.W, [p.detach() for p in ws], i)
        grads = step(s.x, s.y)
        if steps == 'joint':
            close(s.grads, grads, i)
    for xb, yb in batches[2:]:
        step(xb, yb)
    close([p.detach() for p in learn.model.parameters()], [p.detach() for p in ws])
    close([learn.model[1].running_mean, learn.model[1].running_var], stats[4])
    assert {s.width['0'] for s in sn.private} == (set() if bn == 'shared' else {1, 2, 3})
    for s in sn.private:
        mine, h = sn.stats[s]['1'], s.width['0']
        close([mine['running_mean'], mine['running_var']], stats[h])
        assert ('weight' in mine) == (bn == 'private')
        if bn == 'private':
            close([mine['weight'].detach(), mine['bias'].detach()], [p.detach() for p in own[h]])
            assert (own[h][0] - 1).abs().max() > 1e-5
        z = F.batch_norm(x @ W1[:h].T, *stats[h], *(own[h] if bn == 'private' else (w[:h], b[:h])))
        close([sn.extract(s).eval()(x).detach()], [(z.relu() @ W2[:, :h].T).detach()])

@pytest.mark.parametrize('bn', ['shared', 'statistics', 'private'])
def test_bn_without_the_full_network(bn):
    "The teacher is not trained in the step, and looked at between a subnet's forward and backward"
    b = fit(new_learner(with_norm),
            Recipe(replace(all_four, bn=bn), Gradient('distill'), schedule=Phases((Phase(1, k=2, full=False),))))[0]
    W1, w, bias, W2 = ws = [p.clone().requires_grad_() for p in b.W]
    with torch.no_grad():
        q = (F.batch_norm(b.x @ W1.T, None, None, w, bias, training=True).relu() @ W2.T).softmax(1)
    for h in b.h:
        wh, bh = (torch.ones(h).double(), torch.zeros(h).double()) if bn == 'private' and h < 4 else (w[:h], bias[:h])
        F.cross_entropy(
            F.batch_norm(b.x @ W1[:h].T, None, None, wh, bh, training=True).relu() @ W2[:, :h].T, q
        ).backward()
    close([g for g in b.grads if g is not None], [p.grad for p in ws if p.grad is not None])

def test_kernel_matrices_by_hand():
    "Kernels by matrices: the smaller kernel is a linear map of the whole kernel's centre, and both are trained"

    def net():
        return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 3, padding=1, bias=False), nn.Flatten(),
                             nn.Linear(6, 3, bias=False))

    learn = new_learner(net, widths=(1.0,), kernels=(1, 3))
    log = fit(learn, Recipe(Construct(k=2, matrices=True), Gradient('hard')))
    M = torch.ones(1, 1, dtype=x.dtype, requires_grad=True)
    for b in log:
        C, L = ws = [w.clone().requires_grad_() for w in b.W]
        assert [s.kernel['1'] for s in b.nets] == [3, 1]
        for c, p in ((C, 1), (C[..., 1:2] * M, 0)):
            F.cross_entropy(F.conv1d(b.x[:, None], c, padding=p).flatten(1) @ L.T, b.y).backward()
        close(b.grads, [w.grad for w in ws])
        with torch.no_grad():
            M -= lr * M.grad
            M.grad = None
    close([learn.supernet.matrices['1'][1].detach()], [M.detach()])
    assert abs(M.item() - 1) > 1e-3
    cropped = fit(new_learner(net, widths=(1.0,), kernels=(1, 3)), Recipe(Construct(k=2), Gradient('hard')))
    differ(log[1].grads, cropped[1].grads)

def test_owned_with_matrices():
    "A kernel that a matrix makes uses all of the larger centre: what gets a gradient is owned"

    def net():
        return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 5, padding=2, bias=False), nn.Flatten(),
                             nn.Linear(6, 3, bias=False))

    learn = new_learner(net, widths=(1.0,), kernels={'1': (1, 3, 5)})
    sn = learn.supernet
    sn.kernel_matrices()
    with torch.no_grad():
        for p in sn.held_params():
            p += 0.3
    for s in (sn.space.min, sn.space.max):
        learn.model.zero_grad()
        with sn.active(s):
            F.cross_entropy(learn.model(x), y).backward()
        assert ((learn.model[1].weight.grad != 0) == owned(sn, s)['1.weight']).all()

@pytest.mark.parametrize('steps', ['joint', 'large first', 'small first'])
def test_importance_by_hand(steps):
    "Four candidates each time; one is drawn in proportion to the running distillation loss of its size"

    def up_and_down(i):
        return 1 + 9 * (i % 3 == 0)

    def distill(pred, teacher):
        return up_and_down(learn.train_iter) * F.cross_entropy(pred, teacher.softmax(1))

    learn, gaps = new_learner(), {}
    log = fit(
        learn, Recipe(Construct(k=3, odds=ByImportance), update=Update(steps)), n=6, seed=5, lr=0.01, distill=distill
    )
    for i, b in enumerate(log):
        rng, hs = random.Random(f'5 {i}'), [4]

        def one():
            while (h := rng.choice((1, 2, 3, 4))) == 4:
                pass
            return h

        for _ in (1, 2):
            four = [one() for _ in range(4)]
            hs += rng.choices(four, [gaps.get(h, max(gaps.values(), default=1.0)) for h in four])
        if steps != 'joint':
            hs.sort(reverse=steps == 'large first')
        assert b.h == hs, i
        q, W = says(4, b.W, b.x), b.W  # what the full network says before anybody steps
        for h in hs:  # 1 to 3 channels are sizes of their own: 0, 1/3 and 2/3 of the range of MACs
            if h < 4:
                loss = -up_and_down(i) * (q * logits(h, W, b.x).log_softmax(1)).sum(1).mean().item()
                gaps[h] = 0.9 * gaps.get(h, loss) + 0.1 * loss
            if steps != 'joint':
                W = minus(
                    W, times(0.01, times(up_and_down(i), grad(h, q, W, b.x)) if h < 4 else grad(4, label(b.y), W, b.x))
                )
    uniform = fit(new_learner(), Recipe(Construct(k=3)), n=6, seed=5)
    assert [b.h for b in uniform] != [b.h for b in log]

    def often(weights):  # how often each size is drawn where its loss is `weights`
        def distill(pred, teacher):
            return weights[cb.h.pop(0)] + 0 * pred.sum()

        class Next(Callback):
            order, run_valid, h = 9, False, [1]  # a loss is tried before the first batch

            def before_batch(self):
                self.h = [s.width['0'] for s in self.onion_training.nets[1:]]

        cb = Next()
        log = fit(new_learner(), Recipe(Construct(k=3, odds=ByImportance)), n=15, lr=0.0, distill=distill, cbs=[cb])
        return [sum(b.h[1:].count(h) for b in log) for h in (1, 2, 3)]

    a, b = often({1: 9.0, 2: 1.0, 3: 1.0}), often({1: 1.0, 2: 1.0, 3: 9.0})
    assert a[0] > 2 * b[0] and b[2] > 2 * a[2]

def test_without_the_full_network():
    "The smallest, and the weights of importance, hold in phases that draw among all"
    from_all = Phases((Phase(1, full=False),))
    for levels in (0, 4):
        log = fit(new_learner(three_layers, widths=(0.25, 0.5, 0.75, 1.0)),
                  Recipe(Construct(k=2, smallest=True, levels=levels), Gradient('hard'), schedule=from_all), n=3)
        assert all(b.h[0] == 2 for b in log) and len({b.nets[1] for b in log}) > 1
        log = fit(new_learner(), Recipe(Construct(k=3, levels=levels), Gradient('hard'), schedule=from_all), n=3)
        assert {4 in b.h for b in log} == {True, False}
    space, asked = new_learner(three_layers).supernet.space, []

    def weigh(s):
        asked.append(s)
        return float(s == space.min) + 1e-9

    Construct(k=2, odds=ByImportance).sample_nets(space, random.Random(0), full=False, odds=weigh)
    assert len(asked) == 8

def test_other_norms_in_a_second_fit():
    "Private batch norms stay what they are; anything else is refused before it is mixed with them"
    rec = lambda bn, levels=4: Recipe(Construct(k=3, levels=levels, bn=bn), Gradient('hard'))
    learn = new_learner(with_norm)
    fit(learn, rec('private'))
    fit(learn, rec('private'))
    for other in (rec('statistics'), rec('shared'), rec('shared', 0)):
        fails("bn: an earlier fit .*'private', the recipe wants '(sha|sta).*extract", lambda: fit(learn, other))
    learn.model = learn.supernet.extract(learn.supernet.space.max)
    learn.create_opt()
    learn.to_supernet(widths=(0.25, 0.5, 0.75, 1.0))
    fit(learn, rec('statistics'))
    assert {*learn.supernet.private.values()} == {False}

def test_fewer_levels_than_asked_for():
    "A phase without a network, and a space with fewer than a step should have"

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.blocks, self.b = nn.Linear(3, 6), nn.Sequential(*[Res() for _ in range(3)]), nn.Linear(6, 3)

        def forward(self, x):
            return self.b(self.blocks(self.a(x).relu()))

    class Res(nn.Module):
        def __init__(self):
            super().__init__()
            self.l = nn.Linear(6, 6)

        def forward(self, x):
            return x + self.l(x).tanh()

    learn = new_learner(Two, widths=(1 / 3, 2 / 3, 1.0), depths=(0, 0.5, 1.0))
    fails(
        'levels: a part .*none of the 3 networks',
        lambda: fit(
            learn,
            Recipe(Construct(k=2, levels=3), Gradient('hard'),
                   schedule=Phases((Phase(1, (('width', 1), ('depth', -1))), Phase(1)))),
        ),
    )
    with pytest.warns(UserWarning, match='levels: the space has 2 networks'):
        fit(new_learner(widths=(0.5, 1.0)), Recipe(Construct(k=4, levels=10), Gradient('hard')))
