"Estimate, alarms, metrics of subnets and the probe"

import math, random, warnings
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.metrics import Perplexity, accuracy, error_rate
from torch import nn
from torch.nn import functional as F
from elastic_nets.shrink.choices import Annealed, RatePerSkin, combine_avg
from elastic_nets.shrink.gradients import combine_sum
from elastic_nets.shrink.methods import bignas, slimmable
from elastic_nets.shrink.recipe import Construct, Delayed, Gradient, Phase, Phases, Recipe, Update, outside_in
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.watching import GradientProbe, plot_gradients
from helpers import Float32Loss, add, fails, grad, label, logits, minus, says, times
from helpers_shrink import all_four, bs, close, fit, lr, new_learner, with_norm, x, y

class Clean(Callback):
    "What the first batch finds"

    order, run_valid, seen = 9, False, False

    def before_batch(self):
        if self.seen:
            return
        sn, self.seen = self.learn.supernet, True
        self.grads = [p.grad for p in [*self.model.parameters(), *sn.held_params()]]
        self.state = [
            t.clone()
            for t in [*self.model.state_dict().values(),
                      *[t for s in sn.private for d in sn.stats[s].values() for t in d.values()]]
        ]
        self.rng = (torch.get_rng_state(), random.getstate(), self.dls.train.rng.getstate(), self.x.clone())

def dropping():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))

@pytest.mark.parametrize(
    'rec',
    [bignas(), slimmable(3), Recipe(Construct(k=3), Gradient('hard', combine_avg), Update(rule=RatePerSkin))],
    ids=['bignas', 'private', 'avg'],
)
def test_estimate_leaves_no_trace(rec):
    "Said once a fit, and then everything is as if nothing had been measured"

    def trained(estimate):
        learn, clean, said = new_learner(dropping, shuffle=True, widths=(0.25, 0.5, 1.0)), Clean(), []
        assert learn.supernet.space.sample(random.Random(0)) != learn.supernet.space.max  # the one that is measured
        if rec.construct.bn == 'private':
            fit(learn, rec)  # private ones are there already, and have been trained
        learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
        learn.fit(3, lr, cbs=[OnionTraining(rec, watch=(), estimate=estimate), clean, Float32Loss()])
        return learn, clean, said

    (a, ca, sa), (b, cb, sb) = trained(True), trained(False)
    assert len(sa) == 1 and sa[0].startswith('12 steps, 12 of them with subnets') and not sb
    assert all(g is None for g in ca.grads) and ca.grads
    for p, q in zip(ca.state, cb.state, strict=True):
        assert torch.equal(p, q)
    assert torch.equal(ca.rng[0], cb.rng[0]) and ca.rng[1:3] == cb.rng[1:3] and torch.equal(ca.rng[3], cb.rng[3])
    for p, q in zip(a.model.state_dict().values(), b.model.state_dict().values()):
        assert torch.equal(p, q)

def test_estimate_counts():
    "Steps with subnets, by the schedule of this fit"
    for rec, n in ((Recipe(schedule=Delayed(0.5)), 4), (Recipe(schedule=Delayed(0.25, code=True, ramp=0.25)), 8),
                   (Recipe(gradient=Gradient('hard'), schedule=outside_in(4, 0.5)), 7)):
        said, learn = [], new_learner()
        learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
        learn.fit(2, lr, cbs=[OnionTraining(rec, watch=()), Float32Loss()])
        assert said[0].startswith(f'8 steps, {n} of them'), said

def test_estimate_memory():
    "Weights, gradients and what autograd keeps, counted by hand; a rule that keeps gradients has one for each network"

    class Wide(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(3, 4096, bias=False), nn.Identity(), nn.Linear(4096, 3, bias=False))

    weights, hidden = 8 * 2 * 3 * 4096, 8 * bs * 4096
    for rule, n in ((combine_sum, 1), (combine_avg, 4)):
        said, learn = [], new_learner(Wide)
        learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
        learn.fit(1, lr, cbs=[OnionTraining(Recipe(Construct(k=4), Gradient('hard', rule)), watch=()), Float32Loss()])
        mb = float(said[0].split('validation; ')[1].split(' MB')[0])
        assert mb == pytest.approx((weights * (1 + n) + hidden) / 1e6, rel=0.02), said

@pytest.mark.parametrize('steps', ['joint', 'small first', 'large first'])
@pytest.mark.parametrize('bad', [2, 4])
def test_not_finite(steps, bad):
    "Names epoch and subnet, and no optimizer step takes it in"

    def hard(pred, target):
        return F.cross_entropy(pred, target) * (
            math.nan if learn.epoch == 1 and learn.training and learn.supernet.subnet.width['0'] == bad else 1
        )

    learn = new_learner()
    learn.loss_func = hard
    with pytest.warns(UserWarning, match='epoch 1: the loss of '
                      + ('the full network' if bad == 4 else "Subnet\\(width={'0': 2}") + '.* is nan; training stops'):
        log = fit(learn, Recipe(all_four, Gradient('hard'), Update(steps)), n=3)
    assert len(log) == 5  # the fifth batch is the first of epoch 1
    W = log[4].W
    for h in () if steps == 'joint' else log[4].h[: log[4].h.index(bad)]:
        W = minus(W, times(lr, grad(h, label(log[4].y), W, log[4].x)))
    close([p.detach() for p in learn.model.parameters()], W)
    learn.loss_func = nn.CrossEntropyLoss()
    fit(learn, Recipe(all_four, Gradient('hard'), Update(steps)))  # and what is left of it does not enter the next fit
    assert all(p.isfinite().all() for p in learn.model.parameters())

def test_not_finite_leaves_no_gradient():
    "A fit after an alarm, or an interrupted one, begins without gradients"
    learn = new_learner()
    learn.loss_func = lambda p, y: F.cross_entropy(p, y) * (math.nan if learn.supernet.subnet.width['0'] == 2 else 1)
    with pytest.warns(UserWarning, match='is nan'):
        fit(learn, Recipe(all_four, Gradient('hard')))
    learn.loss_func = nn.CrossEntropyLoss()
    b = fit(learn, Recipe(all_four, Gradient('hard')))[0]
    close(b.grads, add(*[grad(h, label(b.y), b.W, b.x) for h in (1, 2, 3, 4)]))

def chance(y, rec, n=4, metrics=accuracy):
    learn = new_learner(y=y, metrics=metrics)
    learn.dls.c = 3
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter('always')
        fit(learn, rec, n=n, lr=0.0, watch=('min',))
    return [str(w.message) for w in got if 'chance' in str(w.message)]

def test_at_chance():
    "Warned of once, an epoch after shrinking started; not where the smallest is good, or has hardly any weight"
    W = [p.detach() for p in new_learner().model.parameters()]
    right = logits(1, W, x).argmax(1)
    wrong = (right + 1) % 3
    got = chance(wrong, Recipe(Construct(k=2)))
    assert len(got) == 1 and got[0].startswith(
        'epoch 1: the smallest subnet is at chance (0.000 with 3 classes): Subnet(width={\'0\': 1}'
    )
    assert chance(wrong, Recipe(Construct(k=2)), metrics=error_rate) == got and not chance(
        right, Recipe(Construct(k=2)), metrics=error_rate
    )
    assert [m[:7] for m in chance(wrong, Recipe(Construct(k=2), schedule=Delayed(0.5, 0.0)))] == ['epoch 2']
    assert not chance(
        wrong, Recipe(Construct(k=2), schedule=Phases((Phase(1, (('width', -1),)), Phase(1, (('width', -2),)))))
    )  # the smallest is not trained yet
    assert not chance(right, Recipe(Construct(k=2)))
    assert not chance(wrong, Recipe(Construct(k=2), schedule=Delayed(0.0, 1.0, 1e-4)), n=1)
    assert not chance(wrong, Recipe(Construct(k=2), schedule=Annealed(0.0, 0.0, end=0.05)), n=2)

def test_metric_of_the_loss():
    "A metric that reads the loss gets that of the subnet"
    learn = new_learner(metrics=[Perplexity()])
    fit(learn, Recipe(Construct(k=2)), n=1, watch=('min',))
    assert learn.recorder.metric_names[3:-1] == ['perplexity', 'perplexity_min', 'epsilon']
    W = [p.detach() for p in learn.model.parameters()]
    assert [float(v) for v in learn.recorder.values[-1][2:4]] == pytest.approx(
        [F.cross_entropy(logits(h, W, x), y).exp().item() for h in (4, 1)], rel=1e-5
    )

@pytest.mark.parametrize('k,mid', [(2, 1), (3, 3), (4, 2)])
def test_middle_network_is_a_trained_one(k, mid):
    learn = new_learner(with_norm, metrics=accuracy)
    cb = OnionTraining(slimmable(k), estimate=False)
    nets = []

    class See(Callback):
        def after_validate(self):
            nets.append(next(m.net for m in self.learn.metrics if getattr(m, 'which', '') == 'mid'))

    with learn.no_logging():
        learn.fit(1, lr, cbs=[cb, Float32Loss(), See()])
    assert nets[0][0].out_features == mid

def test_probe_looks_at_the_full_network():
    "Phases that do not train the full network, or nothing else, leave no rows"
    probe = GradientProbe()
    log = fit(
        new_learner(),
        Recipe(Construct(k=2), Gradient('hard'),
               schedule=Phases((Phase(1, (('width', -1),)), Phase(1, full=False), Phase(2)))),
        n=2,
        cbs=[probe],
    )
    assert {r['step'] for r in probe.rows} == {*range(4, 8)} and len(log) == 8

@pytest.mark.parametrize('n_acc', [None, 16])
def test_probe_by_hand(n_acc):
    "Norms and cosines of the three gradients of each layer, from gradients by hand; accumulated batches are one"
    probe = GradientProbe(every=2)
    rec = Recipe(Construct(k=3), Gradient('distill'), schedule=Delayed(0.25, 0.5, 0.01))
    log = fit(new_learner(), rec, n=4, cbs=[probe, *([GradientAccumulation(n_acc)] if n_acc else [])])
    steps = [log[i : i + 2] for i in range(0, 16, 2)] if n_acc else [[b] for b in log]
    rows, want = {(r['step'], r['layer']): r for r in probe.rows}, []
    cos = lambda a, b: ((a * b).sum() / a.norm() / b.norm()).item()
    for i, rows_of in enumerate(steps):
        if i % 2 or not rows_of[0].eps:
            continue
        W, eps = rows_of[0].W, rows_of[0].eps
        xb, yb = torch.cat([b.x for b in rows_of]), torch.cat([b.y for b in rows_of])
        full = grad(4, label(yb), W, xb)
        subs = add(*[grad(h, says(4, W, xb), W, xb) for h in rows_of[0].h[1:]])
        for name, f, s in zip(('0.weight', '2.weight'), full, subs):
            r = rows[i, name]
            want.append((i, name))
            assert r['eps'] == eps
            got = [r[k] for k in ('full', 'shrink', 'used', 'cos_shrink', 'cos_used')]
            assert got == pytest.approx(
                [
                    f.norm().item(),
                    (f + s).norm().item(),
                    (f + eps * s).norm().item(),
                    cos(f, f + s),
                    cos(f, f + eps * s),
                ],
                rel=1e-8,
            ), (i, name)
    assert [*rows] == want and len(want) >= 4
    plot_gradients(probe, step=want[-1][0])
    fails('step: 1 was not kept', lambda: plot_gradients(probe, step=1))
