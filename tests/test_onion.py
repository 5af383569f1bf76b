"`OnionTraining` against a loop written by hand, in float64, on plain copies of the subnets"
import math, random
from copy import deepcopy
from dataclasses import replace
from functools import partial
import pytest, torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastcore.foundation import L
from torch import nn
from torch.nn import functional as F
from elastic_nets.channels.place import put, take
from elastic_nets.shrink.recipe import Construct, Gradient, Recipe
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.methods import delayed_shrinking
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.subnets.batches import calibrate_bn
from onion_fits import Shown, Steps, bs, data, epochs, fit, lr, n_batches, new_learner, ramp, recipe, start

def by_hand(learn, n_acc=None, clip=None, seed=0):
    "The same training as a plain loop: gradients of each step, and the model in the end"
    model, sn = deepcopy((learn.model, learn.supernet))
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    x, y = data()
    names, grads, seen, shrinking, subs, eps = dict(model.named_parameters()), [], 0, False, [], 0.0
    model.train()
    for i in range(epochs * n_batches):
        b = slice(i % n_batches * bs, (i % n_batches + 1) * bs)
        if seen == 0 and i >= start:  # an optimizer step begins
            if not shrinking:
                sn.sort_channels(opt=opt)
            shrinking, eps, rng, subs = (True, min(1.0, 1e-4 + (1 - 1e-4) * (i - start) / ramp),
                                         random.Random(f'{seed} {i}'), [])
            while len(subs) < 3:
                s = sn.space.sample(rng)
                if s != sn.space.max:
                    subs.append(s)
        share = bs / n_acc if n_acc else 1.0
        pred = model(x[b])
        (share * F.cross_entropy(pred, y[b])).backward()
        for s in subs:
            small = sn.extract(s).train()  # a plain network with small tensors of its own
            soft = pred.detach().softmax(1)
            (-(soft * small(x[b]).log_softmax(1)).sum(1).mean()).backward()
            for n, p in small.named_parameters():
                idx = sn.place(s).at(n)
                put(names[n].grad, idx, take(names[n].grad, idx) + eps * share * p.grad)
        seen += bs
        if seen < (n_acc or bs):
            continue
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        grads.append([p.grad.clone() for p in model.parameters()])
        opt.step()
        opt.zero_grad()
        seen = 0
    return grads, model

class Scaled(MixedPrecision):
    "A gradient scaler that works on a CPU, without autocast: gradients must not change"

    def before_fit(self):
        self.autocast, self.learn.scaler, self.scales = (torch.autocast('cpu', enabled=False),
                                                         torch.amp.GradScaler('cpu', init_scale=1024.0), L())

@pytest.mark.parametrize(
    'kwargs,cbs,eps',
    [({}, [], 1e-12), (dict(n_acc=40), [GradientAccumulation(40)], 1e-12), (dict(clip=0.5), [GradientClip(0.5)], 1e-12),
     (dict(n_acc=40, clip=0.5), [GradientAccumulation(40), GradientClip(0.5)], 1e-12),
     (dict(n_acc=40), [GradientAccumulation(40), Scaled()], 1e-6)],
    ids=['plain', 'accumulation', 'clip', 'accumulation+clip', 'accumulation+scaler'],
)
def test_gradients_equal_loop(kwargs, cbs, eps):
    learn, steps = new_learner(), Steps()
    want, model = by_hand(learn, **kwargs)
    fit(learn, OnionTraining(recipe), steps, *cbs)
    assert len(steps.grads) == len(want) == (6 if 'n_acc' in kwargs else 18)
    for i, (gs, ws) in enumerate(zip(steps.grads, want)):
        for g, w in zip(gs, ws):
            assert (g - w).abs().max() <= eps * max(1, w.abs().max()), f'step {i}'
    for (n, a), b in zip(
        learn.model.state_dict().items(), model.state_dict().values()
    ):  # running statistics of the full network too
        assert (a - b).abs().max() <= eps * 10, n

class Residual(nn.Module):
    def __init__(self, c, h, k):
        super().__init__()
        self.conv1, self.bn, self.conv2 = (nn.Conv2d(c, h, k, padding=k // 2), nn.BatchNorm2d(h),
                                           nn.Conv2d(h, c, k, padding=k // 2))

    def forward(self, x):
        return x + self.conv2(self.bn(self.conv1(x)).relu())

def random_net(seed):
    r = random.Random(seed)
    c, k = r.choice((4, 6, 8)), r.choice((3, 5))
    return nn.Sequential(nn.Conv2d(1, c, k, padding=k // 2), nn.BatchNorm2d(c), nn.ReLU(),
                         nn.Sequential(*[Residual(c, r.choice((4, 8)), k) for _ in range(r.choice((2, 3)))]),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))

@pytest.mark.parametrize('seed', range(4))
def test_random_nets_equal_loop(seed):
    "Widths, depths and kernels of nets drawn at random"
    learn, steps = (new_learner(make=partial(random_net, seed), widths=(0.5, 1.0), depths=(0, 0.5, 1), kernels=(1, 3)),
                    Steps())
    want, _ = by_hand(learn)
    fit(learn, OnionTraining(recipe), steps)
    nets = {s for ss in steps.subnets for s in ss}
    assert min(len({str(getattr(s, k)) for s in nets}) for k in ('width', 'depth', 'kernel')) > 1
    for i, (gs, ws) in enumerate(zip(steps.grads, want, strict=True)):
        for g, w in zip(gs, ws):
            assert (g - w).abs().max() <= 1e-12 * max(1, w.abs().max()), f'step {i}'

def test_start_and_weights():
    steps = Steps()
    fit(new_learner(), OnionTraining(recipe), steps)
    assert [len(s) for s in steps.subnets] == [0] * start + [3] * (epochs * n_batches - start)
    assert steps.eps == pytest.approx([0] * start + [1e-4 + (1 - 1e-4) * i / ramp for i in range(ramp)] + [1] * 4)
    fit(
        new_learner(), OnionTraining(recipe), steps, GradientAccumulation(40)
    )  # steps of 3 batches: the first whole one is the fourth
    assert steps.batch == [2, 5, 8, 11, 14, 17] and [len(s) for s in steps.subnets] == [0, 0, 0, 3, 3, 3]
    assert steps.eps[3] == pytest.approx(1e-4 + (1 - 1e-4) / ramp)

def test_sorts_once(monkeypatch):
    at = []
    monkeypatch.setattr(Supernet, 'sort_channels',
                        lambda self, opt=None, tiers=None: at.append((learn.epoch, learn.iter, opt is learn.opt)))
    learn = new_learner()
    fit(learn, OnionTraining(recipe))
    assert at == [(1, 2, True)]
    fit(learn, OnionTraining(replace(recipe, construct=Construct())))
    fit(learn, OnionTraining(recipe), start_epoch=2)  # resumed: it has been sorted before
    fit(learn, OnionTraining(delayed_shrinking(k=1)))
    assert not at[1:]  # nor is there anything to sort for with k=1

def test_resumed_fit_goes_on():
    whole, rest = Steps(), Steps()
    fit(new_learner(), OnionTraining(recipe), whole)
    fit(new_learner(), OnionTraining(recipe), rest, start_epoch=2)
    assert rest.subnets == whole.subnets[2 * n_batches :] and rest.eps == whole.eps[2 * n_batches :]

def test_seeds():
    def drawn(seed):
        steps = Steps()
        fit(new_learner(), OnionTraining(recipe, seed=seed, watch=()), steps)
        return steps.subnets

    a = drawn(1)
    assert a == drawn(1) != drawn(2)
    assert len({s for ss in a for s in ss}) > 20  # not the same ones at every step

def test_watching_changes_nothing():
    def state(watch):
        torch.manual_seed(0)
        random.seed(0)
        learn = new_learner()
        learn.dls.train.shuffle = True
        learn.model.layer2.add_module('drop', nn.Dropout(0.2))
        fit(learn, OnionTraining(recipe, watch=watch))
        return learn.model.state_dict()

    for a, b in zip(state(()).values(), state(('min', 'mid')).values()):
        assert torch.equal(a, b)

def test_watched_values():
    class Later(Callback):
        "What comes after the metrics finds the full network's output"

        order = 55

        def after_batch(self):
            if not self.training:
                assert torch.equal(self.pred, self.model(*self.xb))

    learn = new_learner()
    fit(learn, OnionTraining(recipe), Later())
    assert learn.recorder.metric_names == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'acc_min', 'acc_mid',
                                           'epsilon', 'time']
    assert learn.metrics.attrgot('name') == ['accuracy'] and not learn.supernet.stats
    sn, (x, y) = learn.supernet, [t[600:664] for t in data()]
    for sub, col in ((sn.space.max, 2), (sn.space.min, 3), (sn.space.uniform(0.5, 0.5), 4)):
        m = sn.extract(sub)
        if col > 2:
            calibrate_bn(m, learn.dls.train, 512)
        assert learn.recorder.values[-1][col] == pytest.approx((m.eval()(x).argmax(1) == y).double().mean().item())
    assert [math.isnan(v[3]) for v in learn.recorder.values] == [True, False, False]

def test_stays_on_a_learner():
    "As a callback of the learner, not of one fit; with metrics on training batches too, which are not for subnets"
    learn = new_learner()
    learn.add_cb(OnionTraining(recipe))
    learn.recorder.train_metrics = True
    fit(learn)
    names, last = learn.recorder.metric_names[1:-1], learn.recorder.values[-1]
    assert [n for n, v in zip(names, last) if math.isnan(v)] == ['train_acc_min', 'train_acc_mid']
    assert learn.metrics.attrgot('name') == ['accuracy']
    shown, at = learn.validate(cbs=Shown()), names.index('valid_acc_min')
    assert shown[2:4] == last[at : at + 2] and math.isnan(shown[4])  # no step, no epsilon

@pytest.mark.parametrize('ex', [KeyboardInterrupt, CancelFitException])
def test_interrupted(ex):
    learn = new_learner()
    calls = []

    def stop(pred, teacher):
        calls.append(1)
        if len(calls) == 5:
            raise ex
        return F.mse_loss(pred, teacher)

    try:
        fit(learn, OnionTraining(recipe, distill=stop))
    except KeyboardInterrupt:
        pass
    assert len(calls) == 5 and learn.supernet.subnet == learn.supernet.space.max
    assert learn.metrics.attrgot('name') == ['accuracy'] and len(learn.validate(cbs=Shown())) == 2
    plain, x = learn.supernet.extract(learn.supernet.space.max), data()[0][:4]
    assert torch.equal(learn.model.eval()(x), plain.eval()(x))
    fit(learn, OnionTraining(recipe))  # and it can be trained again

def test_autocast():
    "Every forward is in half precision, every distillation in full"

    class BF16(MixedPrecision):
        def before_fit(self):
            self.autocast, self.learn.scaler, self.scales = (torch.autocast('cpu', dtype=torch.bfloat16),
                                                             torch.amp.GradScaler('cpu', enabled=False), L())

    learn, conv, dist = new_learner(torch.float32), [], []
    learn.model.stem.conv.register_forward_hook(lambda m, i, o: conv.append(o.dtype) if m.training else None)

    def distill(pred, teacher):
        dist.append((pred.dtype, teacher.dtype, teacher.requires_grad))
        return F.mse_loss(pred, teacher)

    fit(learn, BF16(), OnionTraining(recipe, distill=distill, estimate=False))
    assert (
        set(conv) == {torch.bfloat16} and len(conv) == 2 + 18 + 3 * 10
    )  # the full network and a subnet are tried first
    assert set(dist) == {(torch.float32, torch.float32, False)} and len(dist) == 1 + 30

def test_mixup_and_label_smoothing():
    "The subnets see the mixed pictures, and what the full network says of them"
    learn = new_learner(torch.float32, loss_func=LabelSmoothingCrossEntropyFlat())
    loss, seen = learn.loss_func, []

    class See(Callback):
        run_valid, full = False, None

        def after_pred(self):
            self.full = (self.x.clone(), self.pred.detach())

    see = See()
    learn.model.stem.register_forward_pre_hook(
        lambda m, i: (seen.append(torch.equal(i[0], see.full[0]))
                      if see.full and learn.supernet.subnet != learn.supernet.space.max else None)
    )

    def distill(pred, teacher):
        if see.full:
            seen.append(torch.equal(teacher, see.full[1]))
        return F.mse_loss(pred, teacher)

    fit(learn, MixUp(), see, OnionTraining(recipe, distill=distill, watch=(), estimate=False))
    assert len(seen) == 60 and all(seen) and learn.loss_func is loss

    class Found(Callback):
        def before_batch(self):
            found.append(self.onion_training.now.distill)

    found = []
    fit(learn, MixUp(), OnionTraining(recipe), Found())
    p, t = torch.randn(2, 5, 3)
    assert torch.equal(found[0](p, t), F.cross_entropy(p, t.softmax(1)))  # although MixUp replaces the loss

def test_mixup_and_hard_labels():
    "Subnets that learn from labels learn from the mixed ones"
    learn, mix, checked = new_learner(torch.float32, loss_func=LabelSmoothingCrossEntropyFlat()), MixUp(), []

    class Check(Callback):
        order, run_valid = 30, False

        def before_step(self):
            sn, names = learn.supernet, dict(self.model.named_parameters())
            want = {n: torch.zeros_like(p) for n, p in names.items()}
            for s in self.onion_training.nets:
                net = sn.extract(s).train()
                net.zero_grad()
                pred = net(self.x)
                loss = lambda y: -((0.9 * F.one_hot(y, 10) + 0.01) * pred.log_softmax(1)).sum(1)
                (mix.lam * loss(self.y) + (1 - mix.lam) * loss(mix.yb1[0])).mean().backward()
                for n, p in net.named_parameters():
                    idx = sn.place(s).at(n)
                    put(want[n], idx, take(want[n], idx) + p.grad)
            checked.append(max((want[n] - p.grad).abs().max().item() for n, p in names.items()))

    fit(learn, mix, OnionTraining(Recipe(gradient=Gradient('hard')), watch=(), estimate=False), Check(), n=1)
    assert len(checked) == n_batches and max(checked) < 1e-6

def test_resolution():
    learn = new_learner(size=16, widths=(0.5, 1.0), resolutions=(8, 12, 16))
    steps, sizes = Steps(), []
    learn.model.stem.register_forward_pre_hook(lambda m, i: sizes.append((m.training, i[0].shape[-1])))
    fit(learn, OnionTraining(delayed_shrinking(k=3, warmup=0.0), estimate=False), steps)
    assert [s for t, s in sizes if t][2:] == [s for subs in steps.subnets for s in (16, *[o.resolution for o in subs])]
    assert {s for t, s in sizes if t} == {8, 12, 16} and {s for t, s in sizes if not t} == {
        8,
        16,
    }  # validation: full and middle, smallest

def test_stale_statistics_go():
    learn = new_learner()
    sn = learn.supernet
    sn.calibrate(sn.space.min, learn.dls.train)
    sn.set_active(sn.space.min)
    fit(learn, OnionTraining(replace(recipe, construct=Construct())), n=1)
    assert not sn.stats and sn.subnet == sn.space.max

def test_errors():
    def fails(match, make, ex=ValueError):
        with pytest.raises(ex, match=match):
            make()

    fails('warmup: .*\\[0, 1\\)', lambda: delayed_shrinking(warmup=1))
    fails('k: .*from 1', lambda: delayed_shrinking(k=0))
    fails('ramp: .*\\[0, 1\\]', lambda: delayed_shrinking(ramp=1.5))
    for e in (0, 1.5, float('nan')):
        fails('eps0: .*\\(0, 1\\]', lambda: delayed_shrinking(eps0=e))
    fails('update: Update', lambda: Recipe(Construct(), update='each'), TypeError)
    fails('recipe', lambda: OnionTraining(delayed_shrinking), TypeError)
    learn = new_learner()
    learn.loss_func = nn.L1Loss()
    fails('distill', lambda: fit(learn, OnionTraining(recipe)))
    learn = new_learner()
    before = deepcopy(learn.model.state_dict())
    learn.supernet.space = replace(learn.supernet.space, width={}, depth={}, kernel={}, inside={})
    fails('space: it has one subnet', lambda: fit(learn, OnionTraining(recipe)))
    learn.supernet = new_learner().supernet
    fails('another model', lambda: fit(learn, OnionTraining(recipe)))
    del learn.supernet
    fails('call learn.to_supernet', lambda: fit(learn, OnionTraining(recipe)))
    for a, b in zip(before.values(), learn.model.state_dict().values()):
        assert torch.equal(a, b)  # not one step was trained
