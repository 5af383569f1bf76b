"Fits that cannot be are refused before training"

from copy import deepcopy
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.metrics import accuracy
from torch import nn
from torch.nn import functional as F
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.shrink.choices import combine_avg
from elastic_nets.shrink.methods import bignas, compofa, delayed_shrinking, progressive_shrinking, slimmable, us_net
from elastic_nets.shrink.recipe import Delayed, Gradient, Recipe, Update
from elastic_nets.shrink.watching import GradientProbe
from helpers import fails, two_layers
from helpers_shrink import Noted, base, elastic_everywhere, fit, new_learner, with_norm

@pytest.mark.parametrize('estimate', [True, False])
def test_bad_fits(estimate):
    "Errors come before training: no weight, no statistic and no metric has changed"

    def refuses(match, rec, make=with_norm, cbs=(), loss=None, n=1, space={}, **kwargs):
        learn = new_learner(make, loss=loss, metrics=accuracy, **space)
        learn.logger, before = (lambda *a: None), deepcopy(learn.model.state_dict())
        fails(match, lambda: fit(learn, rec, n=n, cbs=cbs, estimate=estimate, watch=('min',), **kwargs))
        for a, b in zip(before.values(), learn.model.state_dict().values()):
            assert torch.equal(a, b), match
        assert learn.supernet.subnet == learn.supernet.space.max and [m.name for m in learn.metrics] == ['accuracy'], (
            match
        )

    refuses('teacher: .*OnionTraining', Recipe(gradient=Gradient('teacher')))
    refuses('teacher: .*OnionTraining', progressive_shrinking(0))
    for l in (lambda p, y: F.cross_entropy(p, y, reduction='none'), lambda p, y: 1.0):
        refuses('loss_func: training needs a scalar, it returned', Recipe(gradient=Gradient('hard')), loss=l)
        refuses('loss_func: training needs a scalar, it returned',
                Recipe(gradient=Gradient('hard'), update=Update('small first')), loss=l)
    refuses("reduction 'mean' or 'sum', got 'none'", base, loss=nn.CrossEntropyLoss(reduction='none'))
    refuses('loss_func: no distillation loss .*give your own as distill', base, loss=nn.L1Loss())
    depth_only = dict(widths=None, depths=(0, 1))
    for rec in (us_net(), slimmable()):
        refuses("space: it has one subnet, .*'width'", rec, make=elastic_everywhere, space=depth_only)
    refuses("bn: 'private' is not possible, the model has no batch norm", slimmable(), make=two_layers)
    refuses(
        'train it, or grow a plain model, in separate fits', base, cbs=[GrowWidth(stages=2)], n=2
    )  # the growth is the first to see it
    refuses('growth and shrinking cannot share a fit: .*take out GrowDepth or', base,
            cbs=[type('GrowDepth', (Callback,), {})()])
    for cb in (MixedPrecision(), GradientAccumulation(16), GradientClip(1.0)):
        refuses(
            f"update: .*several optimizer steps per batch, which {type(cb).__name__} does not know; use steps='joint'",
            Recipe(update=Update('small first')),
            cbs=[cb],
        )
    refuses('GradientProbe can tell', Recipe(gradient=Gradient(combine=combine_avg)), cbs=[GradientProbe()])
    refuses('GradientProbe can tell', Recipe(update=Update('small first')), cbs=[GradientProbe()])

def test_bad_distill():
    "A distillation that returns no scalar is named before training, although it is needed only later"
    learn, log = new_learner(with_norm), Noted()
    before = deepcopy(learn.model.state_dict())
    fails('distill: training needs a scalar, it returned a tensor of shape',
          lambda: fit(learn, delayed_shrinking(), distill=lambda p, t: (p - t) ** 2, n=4, cbs=[log]))
    assert not log.rows
    for a, b in zip(before.values(), learn.model.state_dict().values()):
        assert torch.equal(a, b)

def test_bad_teacher():
    "A teacher with other outputs, or one that nobody asks, is named before training"
    learn, log = new_learner(), Noted()
    fails('teacher: what it says of a batch',
          lambda: fit(learn, compofa(), teacher=nn.Linear(3, 5).double(), n=4, cbs=[log]))
    fails('teacher: this recipe has no use', lambda: fit(learn, bignas(), teacher=two_layers().double(), cbs=[log]))
    assert not log.rows

def test_no_supernet():
    learn = new_learner()
    del learn.supernet
    fails('call learn.to_supernet', lambda: fit(learn, base))
    learn = new_learner()
    learn.supernet = new_learner().supernet
    fails('another model', lambda: fit(learn, base))
    learn = new_learner()
    with learn.no_logging():
        fails('put both into cbs', lambda: learn.fit(1, cbs=GradientProbe()))

def test_limits_are_not_for_training():
    learn = new_learner()
    sn = learn.supernet
    sn.space = sn.space.constrain(sn.macs, hi=0.6 * sn.macs(sn.space.max))
    fails('limits are for searching', lambda: fit(learn, base))
    with pytest.raises(TypeError, match='schedule'):
        Recipe(schedule=Delayed)
