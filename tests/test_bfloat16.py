"bfloat16 on the CPU for all that trains: layers compute in 16 bits, weights stay in 32, and the loss falls"
import warnings
from functools import partial
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from torch import nn
from elastic_nets.all import (
    Bfloat16, ByImportance, Construct, Delayed, ElasticCheckpoint, Gradient, GrowDepth, GrowWidth, OnionTraining,
    OwnMomentum, RatePerSkin, Recipe, Update, bignas, combine_avg, compofa, delayed_shrinking, digits_dls,
    evaluate_subnets, finetune, onion, plan_stages, progressive_shrinking, resnet_cifar, seeded_onion, slimmable,
    us_net)
from helpers import fails, quietly

widths, all_choices = dict(widths=(.25,.5,1.)), dict(widths=(.5,1.), depths=(.5,1.), kernels=(1,3))
at_once, hard = Delayed(0., 0.), Gradient('hard')
levels = Construct(k=2, levels=2, dims=('width',))

def family(recipe): return [OnionTraining(recipe, watch=(), estimate=False)]

ways = { # choices of the supernet, callbacks
    'GrowWidth': (None, lambda: [GrowWidth(stages=2, init='variance', adapt_lr=True)]),
    'GrowDepth': (None, lambda: [GrowDepth(stages=2)]),
    'accumulation': (None, lambda: [GrowWidth(stages=2), GradientAccumulation(256), GradientClip(1.)]),
    'ElasticCheckpoint': (None, lambda: [GrowWidth(stages=2)]), # see below
    'slimmable': (widths, lambda: family(slimmable(k=3))), 'us_net': (widths, lambda: family(us_net(k=3))),
    'bignas': (widths, lambda: family(bignas(k=3))), 'onion': (widths, lambda: family(onion(k=3))),
    'delayed_shrinking': (widths, lambda: family(delayed_shrinking(k=2, warmup=.3, ramp=.3))),
    'progressive_shrinking': (all_choices, lambda: family(progressive_shrinking())),
    'compofa': (all_choices, lambda: family(compofa())),
    'seeded_onion': (widths, lambda: family(seeded_onion(k=3, distill=.25))),
    'own momenta': (widths, lambda: family(Recipe(levels, hard, Update('large first', OwnMomentum), at_once))),
    'small first': (widths, lambda: family(Recipe(levels, hard, Update('small first'), at_once))),
    'rates per skin': (widths, lambda: family(Recipe(Construct(k=2), hard, Update(rule=RatePerSkin), at_once))),
    'by importance': (widths, lambda: family(Recipe(Construct(k=3, odds=ByImportance), schedule=at_once))),
    'averages': (widths, lambda: family(Recipe(Construct(k=3), Gradient('next', combine_avg), schedule=at_once)))}

class Dtypes(Callback):
    "What comes out of every convolution that runs in training, and the losses"
    order, run_valid = 100, False
    def before_fit(self): self.found, self.losses = set(), []
    def before_batch(self):
        convs = [m for m in self.model.modules() if isinstance(m, nn.Conv2d)]
        self.handles = [m.register_forward_hook(lambda m, x, y: self.found.add(y.dtype)) for m in convs]
    def after_batch(self):
        for h in self.handles: h.remove()
        self.losses.append(self.loss.item())

def learner(space=None, depth=8, **kwargs):
    torch.manual_seed(0)
    learn = Learner(digits_dls(bs=128, device='cpu'), resnet_cifar(depth, width=4, n_in=1), metrics=accuracy,
                    opt_func=partial(SGD, mom=.9), **kwargs).remove_cb(ProgressCallback)
    if space: learn.to_supernet(**space, check=False)
    return learn

@pytest.mark.parametrize('way', ways)
def test_trains_in_bfloat16(way, tmp_path):
    space, cbs = ways[way]
    learn, seen = learner(space, 14 if space is all_choices or way=='GrowDepth' else 8), Dtypes()
    more = [ElasticCheckpoint(tmp_path, every=5)] if way=='ElasticCheckpoint' else []
    quietly(learn, 'fit_one_cycle', 2, .05, cbs=[*cbs(), *more, Bfloat16(), seen])
    assert seen.found=={torch.bfloat16}
    held = learn.supernet.held_params() if space else []
    tensors = [*learn.model.parameters(), *[b for b in learn.model.buffers() if b.is_floating_point()], *held]
    assert {t.dtype for t in tensors}=={torch.float32} and all(torch.isfinite(t).all() for t in tensors)
    assert sum(seen.losses[-3:])<sum(seen.losses[:3])

def test_what_comes_before_and_after_a_fit():
    "A plan of stages, a comparison of subnets and a last training, in bfloat16 too"
    learn = learner(cbs=Bfloat16())
    plan = plan_stages(learn, stages=2, rounds=1, show_plot=False)
    assert len(plan.measured)>1
    learn = learner(widths, cbs=Bfloat16())
    quietly(learn, 'fit_one_cycle', 4, .1, cbs=family(us_net(k=3)))
    with learn.no_bar(): table = evaluate_subnets(learn, [learn.supernet.space.min, learn.supernet.space.max])
    assert table.accuracy.notna().all() and table.accuracy.max()>.5 # a tenth is chance
    seen = Dtypes()
    with learn.no_logging(): small = finetune(learn, learn.supernet.space.min, 1, cbs=[Bfloat16(), seen])
    assert seen.found=={torch.bfloat16} and {p.dtype for p in small.model.parameters()}=={torch.float32}

def test_loaders_that_name_no_device():
    "As DataLoaders(train, valid) makes them; and nobody warns of a card that is not there"
    learn = learner()
    learn.dls = DataLoaders(*learn.dls.loaders)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        quietly(learn, 'fit', 1, .01, cbs=[Bfloat16(), seen := Dtypes()])
    assert seen.found=={torch.bfloat16}

def test_a_step_for_each_network_needs_no_scaled_losses():
    "Nothing is scaled in bfloat16; float16 is refused, because its scaler knows one step a batch"
    learn = learner(widths)
    def scaled(): quietly(learn, 'fit', 1, .1, cbs=[*family(onion(k=3)), MixedPrecision()])
    fails('which MixedPrecision does not know', scaled)
    assert not [cb for cb in learn.cbs if isinstance(cb, (OnionTraining, MixedPrecision))]
