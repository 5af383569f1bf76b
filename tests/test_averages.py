"What users keep beside a growing network: averages of its weights, and files"
import pytest, torch
from fastai.callback.core import Callback
from timm.utils import ModelEma, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from elastic_nets.all import GrowDepth, GrowWidth
from helpers import quietly
from helpers_grow import deep, learner, net

def averaged(model): return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(.5))
def copied(model): return [p.detach().clone() for p in model.parameters()]
def mean_of(avg): return [*getattr(avg, 'module', getattr(avg, 'ema', None)).parameters()]

kinds = { # how it is made, how it follows, its tensors
    'torch': (averaged, lambda avg,m: avg.update_parameters(m), mean_of),
    'timm': (lambda m: ModelEmaV3(m, decay=.5), lambda avg,m: avg.update(m), mean_of),
    'timm, the first': (lambda m: ModelEma(m, decay=.5), lambda avg,m: avg.update(m), mean_of),
    'a list': (copied, lambda avg,m: [a.lerp_(p.detach(), .5) for a,p in zip(avg, m.parameters(), strict=True)], list)}

class Average(Callback):
    def __init__(self, kind): self.make, self.follow, self.tensors = kinds[kind]
    def before_fit(self): self.avg = self.make(self.model)
    def after_step(self): self.follow(self.avg, self.model)

class Follows(Average):
    def after_grow(self): self.avg = self.make(self.model)

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.parametrize('grow', [GrowWidth, GrowDepth])
def test_an_average_follows_growth(grow, kind):
    learn = learner(deep() if grow is GrowDepth else net())
    quietly(learn, 'fit', 3, cbs=[grow(stages=2), cb := Follows(kind)])
    params = [*learn.model.parameters()]
    assert [p.shape for p in cb.tensors(cb.avg)]==[p.shape for p in params]
    assert not all(torch.equal(a, p) for a,p in zip(cb.tensors(cb.avg), params)), 'it lags behind'

@pytest.mark.parametrize('kind', kinds)
def test_an_average_that_would_not_follow_is_refused_before_training(kind):
    learn, steps = learner(), []
    class Steps(Callback):
        def after_step(self): steps.append(1)
    with pytest.raises(ValueError, match=r'Average.avg is a copy of the model, which will grow.*after_grow\(self\)'):
        quietly(learn, 'fit', 3, cbs=[GrowWidth(), Average(kind), Steps()])
    assert not steps

def test_other_models_beside_are_none_of_our_business():
    class Teacher(Callback):
        def __init__(self): self.teacher, self.sizes = net(), [torch.ones(2), 3]
    quietly(learner(), 'fit', 2, cbs=[GrowWidth(stages=2), Teacher()])

@pytest.mark.parametrize('grow', [GrowWidth, GrowDepth])
def test_a_file_of_a_smaller_stage_says_that_the_network_grew(tmp_path, grow):
    learn = learner(deep() if grow is GrowDepth else net())
    learn.path = tmp_path
    class Saves(Callback):
        order = 90
        def after_epoch(self):
            if self.epoch==0: self.learn.save('early')
    quietly(learn, 'fit', 2, cbs=[grow(stages=2), Saves()])
    with pytest.raises(ValueError, match='load: early holds a smaller network.*has grown since.*ElasticCheckpoint'):
        learn.load('early')
    learn.save('late')
    learn.load('late')

def test_other_errors_stay_as_they_are(tmp_path):
    learn = learner()
    learn.path = tmp_path
    learn.save('all')
    learn.model = nn.Linear(2, 2)
    learn.opt = None
    with pytest.raises(RuntimeError, match='Unexpected key'): learn.load('all')
