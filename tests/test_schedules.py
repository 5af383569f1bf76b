"When subnets train, with which weight and which learning rate"

import math
from dataclasses import replace
import pytest
import torch
from fastai.callback.core import Callback
from fastai.metrics import accuracy
from elastic_nets.shrink.choices import Annealed
from elastic_nets.shrink.methods import compofa, progressive_shrinking
from elastic_nets.shrink.recipe import (Construct, Delayed, Gradient, Phase, Phases, Recipe, Update, inside_out,
                                        outside_in)
from elastic_nets.shrink.training import OnionTraining
from helpers import Float32Loss, add, fails, grad, label, minus, times
from helpers_shrink import all_four, base, close, fit, lopsided, lr, new_learner, with_norm

def test_annealed_weight():
    "The weight falls on a straight line to `end`, which the last step has"
    log = fit(new_learner(), Recipe(all_four, Gradient('hard'), schedule=Annealed(0.25, 0.25, 0.1, end=0.4)), n=2)
    assert [b.eps for b in log] == pytest.approx([0, 0, 0.1, 0.55, 1, 0.8, 0.6, 0.4])
    for b in log:
        close(b.grads,
              add(grad(4, label(b.y), b.W, b.x), *[times(b.eps, grad(h, label(b.y), b.W, b.x)) for h in (1, 2, 3)]))

def test_ramp_of_what_is_left():
    "A ramp that the warm-up leaves no room for takes the steps that there are"
    assert [
        b.eps for b in fit(new_learner(), Recipe(all_four, Gradient('hard'), schedule=Delayed(0.5, 0.9, 0.1)), n=2)
    ] == pytest.approx([0, 0, 0, 0, 0.1, 0.325, 0.55, 0.775])

@pytest.mark.parametrize('how', ['fit_one_cycle', 'fit_flat_cos', 'fit'])
def test_code_ramp(how):
    "The published code: epsilon times the rate is a straight line, and begins a ramp before the warm-up ends"
    log = fit(
        new_learner(), Recipe(all_four, Gradient('hard'), schedule=Delayed(0.75, 0.25, code=True)), n=5, fit=how
    )  # 20 steps, warm-up to 15, ramp from 10
    assert [b.eps > 0 for b in log] == [False] * 10 + [True] * 10 and {b.eps for b in log[15:]} == {1.0}
    assert [b.eps * b.lr for b in log[10:15]] == pytest.approx(
        [log[15].lr * (1e-4 + (1 - 1e-4) * i / 5) for i in range(5)], rel=1e-5
    )
    for b in log:
        close(b.grads,
              add(grad(4, label(b.y), b.W, b.x), *[times(b.eps, grad(h, label(b.y), b.W, b.x)) for h in (1, 2, 3)]))
    paper = fit(new_learner(), Recipe(all_four, Gradient('hard'), schedule=Delayed(0.5, 0.25)), n=5, fit=how)
    assert how != 'fit_one_cycle' or log[12].eps < paper[12].eps - 0.01

@pytest.mark.parametrize('how', ['fit_one_cycle', 'fit_flat_cos', 'fit'])
def test_lr_floor(how):
    "Never below the share of the highest rate, and else the fit's own"
    free, kept = [
        fit(new_learner(), Recipe(all_four, schedule=Delayed(0.0, 0.0, lr_floor=f)), n=5, fit=how) for f in (0.0, 0.3)
    ]
    assert [b.lr for b in kept] == pytest.approx([max(b.lr, 0.3 * lr) for b in free], rel=1e-5)
    assert how == 'fit' or min(b.lr for b in free) < 0.1 * lr
    for b in kept:
        close(b.end, minus(b.W, times(b.lr, b.grads)))

@pytest.mark.parametrize('how', ['fit', 'fit_one_cycle'])
def test_phase_rates(how):
    "A phase's own cosine with its warm-up; without one the fit's rate, also behind a phase that had one"
    rec = Recipe(
        Construct(k=2),
        schedule=Phases(
            (Phase(2, (('width', -3),), lr=0.5, warmup=0.25), Phase(1), Phase(2, (('width', -2),), k=3, lr=0.2),
             Phase(1, (('width', 2),)))
        ),
    )
    log, free = fit(new_learner(), rec, n=6, fit=how), fit(new_learner(), base, n=6, fit=how)  # 24 steps

    def cosine(i, n):
        return (1 + math.cos(math.pi * i / n)) / 2

    want = ([0.5 * lr / 3, lr / 3] + [0.5 * lr * cosine(i, 6) for i in range(6)] + [b.lr for b in free[8:12]]
            + [0.2 * lr * cosine(i, 8) for i in range(8)] + [b.lr for b in free[20:]])
    assert [b.lr for b in log] == pytest.approx(want, rel=1e-5)
    assert [len(b.nets) for b in log] == [2] * 12 + [3] * 8 + [2] * 4
    for b in log:
        close(b.end, minus(b.W, times(b.lr, b.grads)))

@pytest.mark.parametrize('sort', ['never', 'once', 'phases'])
@pytest.mark.parametrize('skins', [inside_out, outside_in])
def test_skins(skins, sort):
    "Four skins, 8 steps each; channels that have been trained as a core stay in front"
    learn, orders, values = new_learner(lopsided), [], [1, 2, 3, 4]
    before = [p.detach().clone() for p in learn.model.parameters()]
    log = fit(
        learn, Recipe(Construct(k=2, sort=sort), Gradient('hard'), schedule=skins(4, 0.75)), n=8
    )  # the last from step 24 on
    first = 0 if skins is inside_out else 8  # when there is more, or less, than the full network
    for i, b in enumerate(log):
        part = values[: i // 8 + 1] if skins is inside_out else values[-(i // 8 + 1) :]
        assert {*b.h} <= {*part} and part[-1] == b.h[0] and len(b.h) == 1 + (len(part) > 1), i
        close(b.grads, add(*[grad(h, label(b.y), b.W, b.x) for h in b.h]), i)
        if i % 8:
            continue
        now, n = b.W, i // 8  # n values have been trained
        if i:
            before = log[i - 1].end
        moved = sort == 'phases' and i >= first or sort == 'once' and i == first
        score = before[1].abs().sum(0)
        # inside out: 1..n are trained, units n+1..4 may change places
        # outside in: 4-n+1..4 are trained, each a tier of its own but the first 4-n+1
        tiers = ([(j, j + 1) for j in range(n)] + [(n, 4)] if skins is inside_out
                 else [(0, min(5 - n, 4))] + [(j, j + 1) for j in range(5 - n, 4)])
        o = torch.cat([a + score[a:z].argsort(descending=True) for a, z in tiers]) if moved else torch.arange(4)
        close(now, [before[0][o], before[1][:, o]], (i, o))
        orders.append(o.tolist())
    assert (orders[first // 8] != [0, 1, 2, 3]) == (sort != 'never')

@pytest.mark.parametrize('sorts', [('never', 'once'), ('phases',)], ids=['once', 'phases'])
def test_sorting(sorts):
    "Once, where shrinking starts; at each phase; or never; and momentum goes with the weights"
    for sort in sorts:
        log = fit(new_learner(lopsided, mom=0.9),
                  Recipe(replace(all_four, sort=sort), Gradient('hard'), schedule=Delayed(0.5, 0.0)), n=2)
        W, buf = [p.detach().clone() for p in new_learner(lopsided).model.parameters()], None
        for i, b in enumerate(log):
            if i == 4 and sort != 'never':
                o = W[1].abs().sum(0).argsort(descending=True)
                assert o.tolist() != [0, 1, 2, 3]
                W, buf = [W[0][o], W[1][:, o]], [buf[0][o], buf[1][:, o]]
            close(b.W, W, (sort, i))
            buf = add(times(0.9, buf or times(0, W)),
                      *[grad(h, label(b.y), W, b.x) for h in ((1, 2, 3, 4) if i >= 4 else (4,))])
            W = minus(W, times(lr, buf))
            close(b.end, W, (sort, i))

def test_phases_by_place():
    "A phase used twice is two phases; one with no step is passed over"
    a, b = Phase(1, k=1), Phase(1)
    for ps in ((a, b, a), (a, b, Phase(1, k=1))):
        assert [Phases(ps).at(i, 9).phase for i in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    few = Phases((Phase(1), Phase(8), Phase(1)))
    assert few.ends(3) == [0, 3, 3] and [few.at(i, 3).phase for i in range(3)] == [1] * 3 and few.ends(10) == [1, 9, 10]

def test_phases_too_short_are_named():
    learn = new_learner()
    before = [p.clone() for p in learn.model.parameters()]
    with pytest.warns(UserWarning, match=r'a fit of 4 steps there is none for the phases \[0\]'):
        fit(learn, Recipe(Construct(k=2), schedule=Phases((Phase(1), Phase(99)))))
    learn = new_learner()
    with pytest.warns(UserWarning, match='none for the phases'):
        fails('long enough for a step', lambda: fit(learn, progressive_shrinking(teacher=1)))
    close(learn.model.parameters(), before)

def test_rates_beside_another_schedule():
    "The highest rate is that of the schedule that has one"
    from fastai.callback.schedule import ParamScheduler, SchedLin

    learn = new_learner()
    learn.add_cb(ParamScheduler(dict(wd=SchedLin(0.0, 0.01))))
    log = fit(learn, Recipe(Construct(k=2), schedule=Phases((Phase(1, lr=1.0),))), n=2, lr=0.5, fit='fit_one_cycle')
    assert max(b.lr for b in log) == pytest.approx(0.5)

@pytest.mark.parametrize(
    'rec',
    [base, Recipe(Construct(k=3), schedule=Delayed(0.25, 0.5)),
     Recipe(Construct(k=3, sort='phases'), Gradient('hard'), schedule=inside_out(3)),
     Recipe(Construct(k=2), Gradient('hard'), Update('small first'))],
    ids=['levels', 'delayed', 'skins', 'steps'],
)
def test_resume(rec):
    whole, rest = [fit(new_learner(), rec, n=6, start_epoch=s, seed=2) for s in (0, 3)]
    assert [(b.nets, b.eps) for b in rest] == [(b.nets, b.eps) for b in whole[12:]] and len(rest) == 12
    assert [b.nets for b in fit(new_learner(), rec, n=6, start_epoch=3, seed=3)] != [b.nets for b in rest]

def test_resumed_in_its_last_phase():
    "Sorted before, so not again; and a fit that begins behind the teacher's phase says what it needs"
    rec = Recipe(Construct(k=2, sort='once'), Gradient('hard'), schedule=Delayed(0.5, 0.0))
    close(fit(new_learner(lopsided), rec, n=4, start_epoch=3)[0].W,
          [p.detach() for p in new_learner(lopsided).model.parameters()])
    with pytest.raises(ValueError, match='teacher: .*teacher='):
        fit(new_learner(), compofa(), n=4, start_epoch=3)

def test_core_alone_is_trained():
    "Inside out the smallest network comes first: it is shown, counts as trained, has private norms and an estimate"
    learn = new_learner(with_norm, metrics=accuracy)
    rec, seen, said = Recipe(Construct(k=2, levels=4, bn='private'), Gradient('hard'), schedule=inside_out(2)), [], []

    class See(Callback):
        order = 31

        def after_batch(self):
            if self.training:
                seen.append((len(self.supernet.private), self.supernet.trained))

    learn.logger = said.append
    cb = OnionTraining(rec)
    learn.fit(2, lr, cbs=[cb, Float32Loss(), See()])
    assert seen == [(3, True)] * 8 and '8 of them with subnets' in said[0]
    assert all(v == v for v in learn.recorder.values[0])
