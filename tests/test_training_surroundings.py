"What a fit brings along: accumulation, optimizers, clipping, the search for a learning rate"

from copy import deepcopy
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper, SGD
from torch import nn
from torch.utils._pytree import tree_flatten
from elastic_nets.shrink.choices import combine_avg, combine_project
from elastic_nets.shrink.gradients import combine_sum
from elastic_nets.shrink.methods import bignas, delayed_shrinking, slimmable
from elastic_nets.shrink.recipe import Construct, Delayed, Gradient, Phase, Phases, Recipe, Update
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from helpers import Float32Loss, Scaled, add, differ, grad, label, says, times
from helpers_shrink import Noted, all_four, close, fit, lr, matrices_net, n_batches, new_learner, usage, with_norm, x

@pytest.mark.parametrize('rule', [combine_sum, combine_avg, combine_project])
@pytest.mark.parametrize('target', ['hard', 'distill', 'next'])
def test_accumulation(rule, target):
    "Two batches of 8 are one of 16: same networks, same weight, same combined gradient"
    rec = Recipe(Construct(k=3), Gradient(target, rule), schedule=Delayed(0.25, 0.5))
    big = fit(new_learner(bs=16), rec, n=4)
    log = fit(new_learner(), rec, n=4, cbs=[GradientAccumulation(16)])
    assert [i for i, b in enumerate(log) if hasattr(b, 'grads')] == [*range(1, 16, 2)]
    for i, b in enumerate(big):  # the schedule counts batches: the large steps are those of every second one
        assert (
            len(b.nets) == len(log[2 * i].nets) == len(log[2 * i + 1].nets) and log[2 * i].nets == log[2 * i + 1].nets
        )
    for i, small in enumerate(log[1::2]):
        first = log[2 * i]
        xb, yb, W = torch.cat([first.x, small.x]), torch.cat([first.y, small.y]), small.W
        order = sorted(first.h)
        q = {h: label(yb) if h == 4 or target == 'hard'
             else says(4 if target == 'distill' else order[order.index(h) + 1] if order.count(h) == 1 else h, W, xb)
             for h in order}
        if target == 'next' and len({*order}) < len(order):
            continue  # the same network twice in a step
        gs, w = ([times(1.0 if h == 4 else first.eps, grad(h, q[h], W, xb)) for h in order],
                 [1.0 if h == 4 else first.eps for h in order])
        own = [usage([h]) for h in order]
        if rule is combine_sum:
            want = add(*gs)
        elif rule is combine_avg:
            want = [
                torch.where(
                    (u := sum(o[j] * v for o, v in zip(own, w))) > 0, sum(G[j] for G in gs) / u.clamp(1e-9), 0.0
                )
                for j in (0, 1)
            ]
        else:
            want = [surgery([G[j] for G in gs], [o[j] for o in own]) for j in (0, 1)]
        close(small.grads, want, i)

def surgery(gs, own):
    out = [v.clone() for v in gs]
    for i in range(len(gs)):
        for j in range(len(gs)):
            o = gs[j] * own[i]
            if i != j and (d := (out[i] * o).sum()) < 0:
                out[i] -= d / (o * o).sum() * o
    return sum(out)

def test_accumulation_is_a_large_batch():
    "With networks and weight that do not change, whole runs are the same"
    for rule in (combine_sum, combine_avg):
        rec = Recipe(all_four, Gradient(combine=rule))
        close([*new_learner().model.parameters()], [*new_learner(bs=16).model.parameters()])
        a, b = new_learner(), new_learner(bs=16)
        fit(a, rec, n=3, cbs=[GradientAccumulation(16)])
        fit(b, rec, n=3)
        close([p.detach() for p in a.model.parameters()], [p.detach() for p in b.model.parameters()], rule)

@pytest.mark.parametrize(
    'rec,space',
    [(slimmable(), {}), (Recipe(Construct(matrices=True), Gradient('hard', combine_avg)), dict(kernels=(3, 5))),
     (delayed_shrinking(warmup=0.25, ramp=0.25), dict(kernels=(3, 5)))],
    ids=['private', 'matrices', 'delayed'],
)
def test_torch_optimizer(rec, space):
    "OptimWrapper does what fastai's SGD does, with what lives on the handle too"
    own, models = [], []
    for opt in (SGD, OptimWrapper):
        learn = new_learner(matrices_net, opt=opt, mom=0.9, **space)
        fit(learn, rec, n=2)
        sn = learn.supernet
        ps = sn.held_params()
        group = {id(p) for g in learn.opt.param_lists for p in g}
        assert group == {
            *map(id, learn.model.parameters())
        }  # in a fit only: outside of it the optimizer is saved with the model
        ones = [torch.ones_like(p) if p.ndim == 1 else torch.eye(len(p)).double() for p in ps]
        assert all(
            (p - o).abs().max() > 1e-3 and (p.grad is None or not p.grad.any()) for p, o in zip(ps, ones)
        )  # trained, and nothing left over
        own.append([p.detach() for p in ps])
        models.append([*learn.model.state_dict().values()])
        before = [p.detach().clone() for p in ps]
        fit(learn, rec)  # they go on in a second fit
        assert all((p != b).any() for p, b in zip(ps, before))
    close(*own)
    close(*models)
    assert bool(own[0]) == (not rec.construct.sort == 'once')

@pytest.mark.parametrize('scaled', [False, True])
@pytest.mark.parametrize('rec',
                         [slimmable(), Recipe(Construct(matrices=True, smallest=True), Gradient('hard', combine_avg))],
                         ids=['private', 'matrices'])
def test_clipping_takes_the_norm_of_all(rec, scaled):
    "Clipping takes the norm of all that is trained, what is on the handle included"

    class Norms(Callback):
        order, run_valid = 30, False

        def before_fit(self):
            self.grads = []

        def before_step(self):
            self.grads.append(
                [p.grad.clone() for p in [*self.model.parameters(), *self.learn.supernet.held_params()]
                 if p.grad is not None]
            )

    res = []
    for clip in ([], [GradientClip(1e-3)]):
        learn, norms = new_learner(matrices_net, kernels=(3, 5)), Norms()
        fit(learn, rec, cbs=[norms, *clip, *([Scaled()] if scaled else [])])
        res.append(norms.grads[0])
    own = len(learn.supernet.held_params())
    norm = torch.stack([g.norm() for g in res[0]]).norm()
    assert own and norm > 0.1 and torch.stack([g.norm() for g in res[0][-own:]]).norm() > 0.01
    close(res[1], times(1e-3 / norm, res[0]), eps=1e-7)

def test_private_norms_have_the_layers_rate():
    "A private batch norm is in the group of its layer, and frozen with it"

    def split(m):
        return [[*m[:2].parameters()], [*m[2:].parameters()]]

    def net():
        return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4),
                             nn.ReLU(), nn.Linear(4, 3))

    def moved(train_bn, freeze, lr):
        learn = new_learner(net)
        learn.splitter, learn.train_bn = split, train_bn
        learn.create_opt()
        if freeze:
            learn.freeze()
        fit(learn, slimmable(), lr=lr)
        sn = learn.supernet
        return [
            any((p.detach() - float(t == 'weight')).abs().max() > 1e-9 for d in sn.stats.values()
                for t, p in d[n].items() if t in ('weight', 'bias'))
            for n in '13'
        ]

    assert moved(True, False, lr) == [True, True] and moved(True, False, slice(1e-12, lr)) == [
        False,
        True,
    ]  # body, head
    assert moved(False, True, lr) == [False, True] and moved(True, True, lr) == [True, True]

def test_private_affine_has_no_weight_decay():
    "As batch norm's in fastai; matrices have"
    learn = new_learner(with_norm)
    learn.wd = 0.5
    learn.loss_func = lambda p, y: 0 * p.sum()
    fit(learn, slimmable())
    assert all(torch.equal(p, torch.full_like(p, p[0].item())) and p[0].item() in (0.0, 1.0)
               for p in learn.supernet.held_params())
    assert learn.model[0].weight.norm() < 0.9 * new_learner(with_norm).model[0].weight.norm()

def test_lr_find(tmp_path):
    "The finder's rates, not the recipe's; and the model is put back"
    learn = new_learner(path=tmp_path)
    log, said = Noted(), []
    learn.add_cbs([OnionTraining(bignas(), watch=()), Float32Loss(), log])
    learn.logger = said.append
    before = deepcopy(learn.model.state_dict())
    with learn.no_logging():
        learn.lr_find(start_lr=1e-5, end_lr=0.1, num_it=12, stop_div=False, show_plot=False)
    assert [b.lr for b in log.rows] == pytest.approx([1e-5 * 1e4 ** (i / 12) for i in range(12)], rel=1e-4) and {
        len(b.nets) for b in log.rows
    } == {4}
    for a, b in zip(before.values(), learn.model.state_dict().values()):
        assert torch.equal(a, b)
    assert not said  # no estimate of what is no training

@pytest.mark.parametrize(
    'rec', [slimmable(), delayed_shrinking(), Recipe(Construct(k=2, dims=('kernel',), matrices=True), Gradient('hard'))]
)
def test_lr_find_leaves_the_supernet(rec, tmp_path):
    "What the supernet holds is as before, and the first fit is that of a learner that never looked"

    def make():
        return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4),
                             nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))

    def look(learn):
        cbs = [OnionTraining(rec, watch=()), Float32Loss()]
        learn.add_cbs(cbs)
        with learn.no_logging():
            learn.lr_find(start_lr=1e-3, end_lr=10, num_it=12, stop_div=False, show_plot=False)
        learn.remove_cbs(cbs)

    def state(learn):
        return tree_flatten((learn.supernet.state_dict(), learn.model.state_dict()))

    def same(a, b):
        assert a[1] == b[1] and len(a[0]) == len(b[0])
        for s, t in zip(a[0], b[0]):
            assert torch.equal(s, t) if isinstance(s, torch.Tensor) else s == t

    plain, found = [new_learner(make, path=tmp_path, kernels=(1, 3), mom=0.9) for _ in range(2)]
    for again in (False, True):  # the second time there is something to restore
        before = deepcopy(state(found))
        look(found)
        same(before, state(found))
        if again:
            return
        for learn in (plain, found):
            fit(learn, rec)
        same(state(plain), state(found))

def test_fit_after_load(tmp_path):
    "fastai's loaded optimizer knows nothing of private batch norms; the next fit begins their state anew"
    learn = new_learner(with_norm, path=tmp_path)
    fit(learn, slimmable())
    learn.save('a')
    learn.load('a')
    w = [p.detach().clone() for p in learn.supernet.held_params()]
    fit(learn, slimmable())
    differ(w, [p.detach() for p in learn.supernet.held_params()])

def test_full_network_is_seen_once_a_batch():
    "Looking at the largest network, to learn from it, leaves no trace in its statistics"
    for steps in ('joint', 'small first', 'large first'):
        learn = new_learner(with_norm)
        fit(learn, Recipe(all_four, update=Update(steps)))
        assert learn.model[1].num_batches_tracked == n_batches, steps

def test_untrained_full_network_is_calibrated():
    "Where a phase does not train the full network, its statistics are those of the weights that validation sees"

    class See(Callback):
        order = 9

        def before_validate(self):
            sn = self.learn.supernet
            m, want = sn.extract(sn.space.max), sn.extract(sn.space.max)
            calibrate_bn(want, self.dls.train)
            close([m.eval()(x).detach()], [want.eval()(x).detach()])
            stale.append(not torch.allclose(m[1].running_mean, old[0]))
            old[0] = m[1].running_mean.clone()

    stale, old = [], [torch.zeros(4).double()]
    fit(new_learner(with_norm), Recipe(Construct(k=2), Gradient('hard'), schedule=Phases((Phase(1, full=False),))), n=3,
        cbs=[See()])
    assert stale == [True] * 3

class Bf16Learner(MixedPrecision):
    "fastai's own mixed precision, on a CPU"
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)

@pytest.mark.parametrize('full', [True, False])
def test_mixed_precision_ends_with_the_batch(full):
    "Also where the first network of a step asks a teacher in the middle of fastai's own forward and loss"
    learn = Learner(digits_dls(bs=256, device='cpu'), resnet_cifar(8, n_in=1), loss_func=CrossEntropyLossFlat())
    learn.to_supernet()
    after = []
    class Watched(Callback):
        order, run_valid = 1000, False
        def after_batch(self): after.append(torch.is_autocast_enabled('cpu'))
    rec = Recipe(Construct(k=2), Gradient('teacher'), schedule=Phases((Phase(1, k=1, teach=True), Phase(1, full=full))))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2, cbs=[OnionTraining(rec, watch=(), estimate=False), Bf16Learner('bf16'), Watched()])
    assert len(after)==len(learn.dls.train) and not any(after)
