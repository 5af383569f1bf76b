"Who steps, against updates by hand in float64"

import math, warnings
from dataclasses import replace
from functools import wraps
import pytest
import torch
from fastai.callback.core import Callback
from fastai.optimizer import Adam, OptimWrapper, SGD
from elastic_nets.shrink.choices import OwnMomentum, RatePerSkin, combine_avg, combine_project, combine_skins
from elastic_nets.shrink.gradients import combine_sum
from elastic_nets.shrink.recipe import Construct, Delayed, Gradient, Phase, Phases, Recipe, Update, inside_out
from elastic_nets.shrink.watching import GradientProbe
from helpers import Scaled, add, differ, grad, label, minus, says, times
from helpers_shrink import all_four, close, fit, lr, new_learner, usage

@wraps(Adam)
def Adam_(params, lr, mom=0.9):
    return Adam(params, lr, mom=0.9)

@pytest.mark.parametrize('steps', ['small first', 'large first'])
@pytest.mark.parametrize('target', ['hard', 'distill'])
def test_a_step_for_each(steps, target):
    "A step for each network; the teacher is the largest as it was before the first of them"
    for b in fit(new_learner(), Recipe(all_four, Gradient(target), Update(steps)))[:2]:
        W, q = b.W, says(4, b.W, b.x)
        assert b.h == sorted(b.h, reverse=steps == 'large first')
        for h in b.h:
            W = minus(W, times(lr, grad(h, label(b.y) if h == 4 or target == 'hard' else q, W, b.x)))
        close(b.end, W)
    other = fit(
        new_learner(),
        Recipe(all_four, Gradient(target),
               Update(dict(zip(('small first', 'large first'), ('large first', 'joint')))[steps])),
    )
    differ(fit(new_learner(), Recipe(all_four, Gradient(target), Update(steps)))[0].end, other[0].end)

def test_steps_next():
    "With the largest first, the teacher of each is what the next larger one said before its step"
    b = fit(new_learner(), Recipe(all_four, Gradient('next'), Update('large first')))[0]
    W, q = b.W, label(b.y)
    for h in (4, 3, 2, 1):
        q, W = says(h, W, b.x), minus(W, times(lr, grad(h, q, W, b.x)))
    close(b.end, W)

def test_rate_per_skin():
    "The step, momentum and all, is divided by the networks that share a weight"
    log = fit(new_learner(mom=0.9), Recipe(Construct(k=3, levels=4), Gradient('hard'), Update(rule=RatePerSkin)))
    buf = times(0, log[0].W)
    for b in log:
        buf = add(times(0.9, buf), *[grad(h, label(b.y), b.W, b.x) for h in b.h])
        close(b.end, [w - lr * m / u.clamp(1) for w, m, u in zip(b.W, buf, usage(b.h))])
    assert len({tuple(sorted(b.h)) for b in log}) > 1
    differ(log[0].end, fit(new_learner(mom=0.9), Recipe(Construct(k=3, levels=4), Gradient('hard')))[0].end)

def test_rate_per_skin_counts_weights():
    "A subnet counts by its weight: with plain SGD a ramp of epsilon is the same as with the mean by usage"
    ramp = Recipe(Construct(k=3, levels=4), schedule=Delayed(0.0, 1.0, 1e-3))
    log, avg = (fit(new_learner(), replace(ramp, update=Update(rule=RatePerSkin)), n=2),
                fit(new_learner(), replace(ramp, gradient=Gradient(combine=combine_avg)), n=2))
    for a, b in zip(log, avg):
        close(a.end, b.end, a.eps)
    assert log[0].eps == 1e-3 and log[-1].eps > 0.8
    close(log[0].end, fit(new_learner(), Recipe(Construct(k=1)))[0].end, eps=1e-3)

@pytest.mark.parametrize('schedule', [Delayed(0.0, 0.0), inside_out(3)])
@pytest.mark.parametrize('steps', ['small first', 'large first'])
@pytest.mark.parametrize('momentum', [OwnMomentum, None], ids=['own', 'shared'])
@pytest.mark.parametrize('opt', [SGD, OptimWrapper])
def test_own_and_shared_momentum(steps, momentum, opt, schedule):
    "A momentum buffer for each network, or one for all"
    learn = new_learner(opt=opt, mom=0.9)
    log = fit(learn, Recipe(Construct(k=3, levels=4), Gradient('hard'), Update(steps, momentum), schedule), n=3)
    bufs, W = {}, log[0].W
    for b in log:
        close(b.W, W)
        for h in b.h:
            whose = h if momentum else 4
            bufs[whose] = add(times(0.9, bufs.get(whose, times(0, W))), grad(h, label(b.y), W, b.x))
            W = minus(W, times(lr, bufs[whose]))
        close(b.end, W)
    assert len({h for b in log for h in b.h}) == 4
    state = getattr(learn.opt, 'opt', learn.opt).state  # in the end, and for whoever saves it: the largest network's
    close([state[p]['grad_avg' if opt is SGD else 'momentum_buffer'] for p in learn.model.parameters()], bufs[4])

def test_own_momentum_is_sorted():
    "Every rank's buffer is permuted with the weights"
    rec = Recipe(Construct(k=3, sort='phases'), Gradient('hard'), Update('small first', OwnMomentum),
                 Phases((Phase(1, (('width', -2),)), Phase(1))))
    log = fit(new_learner(mom=0.9), rec, n=4, lr=0.3)
    bufs, W = {}, None
    for i, b in enumerate(log):
        if i == 8:  # within the tiers that were trained
            score = W[1].abs().sum(0)
            o = torch.cat([a + score[a:z].argsort(descending=True) for a, z in ((0, 3), (3, 4))])
            assert o.tolist() != [0, 1, 2, 3]
            W, bufs = [W[0][o], W[1][:, o]], {r: [m[0][o], m[1][:, o]] for r, m in bufs.items()}
        if W:
            close(b.W, W, i)
        W = b.W
        for h in b.h:
            rank = sum(k > h for k in b.h)  # equal ones have the same
            bufs[rank] = add(times(0.9, bufs.get(rank, times(0, W))), grad(h, label(b.y), W, b.x))
            W = minus(W, times(0.3, bufs[rank]))
        close(b.end, W, i)

def test_weights_without_effect():
    "Adam divides every gradient by its size: said where each network steps by itself and its weight is below 1"
    ramp = Recipe(Construct(k=2, levels=4), Gradient('hard'), Update('large first'), Delayed(0.0, 1.0))
    with pytest.warns(UserWarning, match='schedule: .*Adam divides') as got:
        fit(new_learner(opt=Adam_), ramp, n=2)
    assert len([w for w in got if 'divides' in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        fit(new_learner(), ramp)
        fit(new_learner(opt=Adam_), replace(ramp, update=Update()))
        fit(new_learner(opt=Adam_), replace(ramp, schedule=Delayed(0.0, 0.0)))

def test_stopped_fit_gives_back_the_optimizer():
    "A loss that is not finite after the second network's step: the optimizer's state is the full network's again"
    learn, kept = new_learner(mom=0.9), {}

    def distill(pred, teacher):
        return pred.sum() * (
            math.nan if getattr(learn, 'iter', 0) == 2 and learn.own_momentum.states.get(1) is learn.opt.state else 0.0
        )

    class Note(Callback):
        order = 31

        def after_batch(self):
            kept.update(now=self.opt.state)

    with pytest.warns(UserWarning, match='the loss of'):
        fit(learn, Recipe(all_four, update=Update('large first', OwnMomentum)), distill=distill, cbs=[Note()])
    assert learn.opt.state is kept['now']

@pytest.mark.parametrize('rec',
                         [Recipe(all_four, Gradient('hard', r)) for r in (combine_avg, combine_project, combine_skins)]
                         + [Recipe(all_four, update=Update(rule=RatePerSkin))],
                         ids=['avg', 'project', 'skins', 'skin_lr'])
def test_scaler_changes_nothing(rec):
    "A gradient scaler is out of what is combined, and out of the probe's norms"
    ends, probes = [], []
    for cbs in ([], [Scaled()]):
        learn, probe = new_learner(), GradientProbe()
        fit(learn, rec, n=2, cbs=[*cbs, *([probe] if rec.gradient.combine is combine_sum else [])])
        ends.append([p.detach() for p in learn.model.parameters()])
        probes.append(probe.rows)
    close(*ends, eps=1e-6)
    for a, b in zip(*probes, strict=True):
        assert a.pop('layer') == b.pop('layer') and a == pytest.approx(b, rel=1e-6)
    assert probes[0] or rec.gradient.combine is not combine_sum

def test_scaler_skips_a_step():
    "A step that overflows is left out, with a learning rate per skin too"

    class Overflow(Callback):
        order, run_valid = 9, False

        def after_backward(self):
            if self.iter == 1:
                self.model[0].weight.grad.fill_(math.inf)

    log = fit(new_learner(), Recipe(all_four, update=Update(rule=RatePerSkin)), cbs=[Scaled(), Overflow()])
    assert [torch.equal(b.W[0], b.end[0]) for b in log] == [False, True, False, False]
