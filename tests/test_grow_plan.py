"Plans are measured with the learner's own steps, which leave the learner as it was"
import pytest, torch
from fastai.callback.core import Callback
from fastai.losses import MSELossFlat
from fastai.optimizer import OptimWrapper
from torch import nn
from elastic_nets.grow.growing import GrowWidth, past_of
from elastic_nets.grow.stages import StagePlan, choose_stages, plan_stages, step_seconds
from elastic_nets.zoo.models import resnet_cifar, vit
from helpers import quietly
from helpers_grow import is_as, learner, net, values

def test_plan_stages_measures_and_leaves_no_trace():
    "Sizes that round to the same are tried once; the learner and the random numbers are as they were"
    learn = learner(resnet_cifar(8, width=16, n_in=1))
    before, rng = values(learn.model), torch.get_rng_state()
    with learn.no_bar(): plan = plan_stages(learn, stages=2, start=.25, rounds=2, show_plot=False)
    assert [size for size,_,_ in plan.measured]==[.25,.375,.5,.625,.75,.875,1.]
    assert all(seconds>0 and macs>0 for _,seconds,macs in plan.measured)
    assert is_as(learn.model, before) and torch.equal(rng, torch.get_rng_state()) and learn.opt is None
    assert past_of(learn)==''

def test_plan_by_depth_measures_every_depth():
    learn = learner(vit(img=8, patch=2, dim=24, depth=4, heads=2, n_in=1))
    plan = plan_stages(learn, stages=2, by='depth', rounds=2, show_plot=False)
    assert [size for size,_,_ in plan.measured]==[.5,.75,1.]

@pytest.mark.parametrize('speedup', [1.2, 1.5, 2.])
def test_a_plan_keeps_its_promise(speedup):
    plan = choose_stages(((.25,.3,1.), (.5,.4,4.), (.75,.98,9.), (1.,1.,16.)), speedup=speedup)
    assert plan.sizes==(.25,1.) and abs(plan.speedup()-speedup)<1e-6 # .75 does not pay

def test_equal_stages_take_sizes_in_equal_steps():
    plan = choose_stages(tuple((i/8, i/8, i) for i in range(2, 9)), stages=3)
    assert plan.sizes==(.25,.625,1.) and plan.starts==(0,1/3,2/3)

def test_plan_stages_leaves_a_ready_made_optimizer_alone():
    m = net()
    learn = learner(m, opt_func=OptimWrapper(opt=torch.optim.AdamW(m.parameters(), lr=.01, betas=(.8,.9))))
    quietly(learn, 'fit', 1)
    def state():
        states = learn.opt.opt.state_dict()['state'].values()
        return [torch.as_tensor(v).clone() for s in states for v in s.values()]
    before, groups = state(), learn.opt.opt.state_dict()['param_groups']
    plan_stages(learn, stages=2, rounds=1, show_plot=False)
    assert groups==learn.opt.opt.state_dict()['param_groups'] and before
    assert all(torch.equal(a, b) for a,b in zip(before, state(), strict=True))

def test_steps_are_measured_with_the_users_targets():
    class Auto(Callback):
        def before_batch(self): self.learn.yb = (self.xb[0].flatten(1),)
    auto = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))
    assert step_seconds(learner(auto, loss_func=MSELossFlat(), cbs=Auto()), {1.:auto}, 1)[1.]>0

def test_where_nothing_can_grow_the_plan_says_so():
    learn = learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert 'Nothing can grow' in str(plan_stages(learn, stages=2, rounds=1, show_plot=False))

def test_plan_of_one_stage_trains_as_it_is():
    learn, cb = learner(), GrowWidth(plan=StagePlan((1.,), (0,)))
    quietly(learn, 'fit', 1, cbs=cb)
    assert cb.rows==[] and learn.model.stem[0].out_channels==8
