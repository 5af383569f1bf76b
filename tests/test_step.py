"`OnionTraining` and a loop of `onion_step` in plain PyTorch end with the same weights, to the last bit"

import random
import pytest, torch
from fastai.callback.core import Callback
from fastai.optimizer import OptimWrapper
from torch import nn
from torch.nn import functional as F
from elastic_nets.shrink.choices import combine_avg, combine_avg_sqrt, combine_core, combine_project, combine_skins
from elastic_nets.shrink.gradients import combine_sum
from elastic_nets.shrink.methods import (bignas, compofa, delayed_shrinking, onion, progressive_shrinking, slimmable,
                                         us_net)
from elastic_nets.shrink.recipe import Construct, Delayed, Gradient, Recipe, Update
from elastic_nets.shrink.step import Losses, Timetable, look, onion_step
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.subnets.supernet import Supernet
from helpers import Float32Loss, new_learner, quietly

BS, BATCHES, EPOCHS, LR = 8, 6, 4, 0.05
gen = torch.Generator().manual_seed(0)
x = torch.randn(BS * BATCHES, 1, 8, 8, generator=gen, dtype=torch.float64)
y = torch.randint(3, (BS * BATCHES,), generator=gen)
batches = [*zip(x.split(BS), y.split(BS))]
space = dict(widths=(0.25, 0.5, 0.75, 1.0), depths=(0, 0.5, 1), kernels=(1, 3), check=False)

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
                                           nn.Conv2d(8, 8, 3, padding=1))
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        return x + self.conv2(self.drop(self.bn(self.conv1(x)).relu()))

def net():
    torch.manual_seed(0)
    stem = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(
        *stem, nn.Sequential(Block(), Block()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    ).double()

def by_callback(recipe):
    learn = new_learner(net(), (x, y), bs=BS, opt=OptimWrapper, space=space)

    class Seed(Callback):
        order = -99

        def before_batch(self):
            if self.training:
                torch.manual_seed(self.epoch * BATCHES + self.iter)  # dropout

    quietly(
        learn, 'fit', EPOCHS, LR, wd=0.0, cbs=[OnionTraining(recipe, watch=(), estimate=False), Float32Loss(), Seed()]
    )
    return learn.supernet

class Loop:
    "What a user of plain PyTorch writes who wants all that a recipe may ask for"

    def __init__(self, recipe):
        self.recipe, self.sn, self.teacher = recipe, Supernet(net(), x[:2], **space), None
        if recipe.construct.matrices:
            self.sn.kernel_matrices()
        self.opt = torch.optim.SGD([*self.sn.model.parameters(), *self.sn.held_params()], lr=LR, momentum=0.9)
        self.todo = Timetable(recipe, self.sn, EPOCHS * BATCHES)

    def new_phase(self, plan, last):
        "Teacher, sorting, private norms: once between two phases"
        sn, c, todo = self.sn, self.recipe.construct, self.todo
        if last and last.teach:
            self.teacher = sn.extract(sn.space.max).eval()
        if todo.full_alone(plan):
            return
        alone = last is None or todo.full_alone(last)
        tiers = last and (todo.space_of(last).restrict(width=-1) if alone else todo.space_of(last))
        wider = last is None or tiers.width != todo.space_of(plan).width
        if c.sort == 'once' and alone or c.sort == 'phases' and wider:
            sn.sort_channels(opt=self.opt, tiers=tiers)
        if c.bn != 'shared' and not sn.private:
            sn.private_bn([s for s in todo.levels if s != sn.space.max], affine=c.bn == 'private')
            if held := sn.held_params():
                self.opt.add_param_group(dict(params=held))

    def teacher_says(self, top, xb):
        if self.teacher is None:
            return look(self.sn, top, xb)
        with torch.no_grad():
            return self.teacher(xb)

    def run(self):
        self.sn.model.train()
        last = None
        for i, (xb, yb) in enumerate(batches * EPOCHS):
            torch.manual_seed(i)
            plan, (nets, top) = self.todo.at(i), self.todo.draw(i)
            if last is None or plan.phase != last.phase:
                self.new_phase(plan, last)
            if plan.lr is not None:
                for g in self.opt.param_groups:
                    g['lr'] = LR * plan.lr
            gradient, largest = self.recipe.gradient, self.todo.space_of(plan).max
            losses = Losses(yb, top, F.cross_entropy, gradient.target, teacher=lambda: self.teacher_says(largest, xb))
            onion_step(self.sn, self.opt, nets, xb, losses, top, plan.eps, gradient.combine, self.recipe.update.steps,
                       gradient.dropout)
            last = plan
            if (i + 1) % BATCHES == 0 and top != self.sn.space.max:
                calibrate_bn(self.sn.model, batches)  # who validates wants it
        return self.sn

def tensors(sn):
    return [*sn.model.state_dict().values(), *[p.detach() for p in sn.held_params()]]

RULES = (combine_sum, combine_avg, combine_avg_sqrt, combine_project, combine_core, combine_skins)
RECIPES = dict(slimmable=slimmable(), us_net=us_net(levels=10), bignas=bignas(),
               progressive_shrinking=progressive_shrinking(), compofa=compofa(),
               delayed_shrinking=delayed_shrinking(ramp=0.2), code=delayed_shrinking(ramp=0.2, code=True),
               onion=onion(), small_first=Recipe(onion().construct, update=Update('small first')),
               next_larger=Recipe(gradient=Gradient('next')),
               **{f.__name__: Recipe(Construct(k=3), Gradient(combine=f), schedule=Delayed(0.0, 0.5)) for f in RULES})

@pytest.mark.parametrize('name', RECIPES)
def test_callback_and_loop_are_the_same(name):
    random.seed(0)
    a, b = tensors(by_callback(RECIPES[name])), tensors(Loop(RECIPES[name]).run())
    assert all(map(torch.equal, a, b)) and len(a) == len(b)
    start = tensors(Supernet(net(), x[:2], **space))
    assert not torch.equal(a[0], start[0]), 'nothing was trained'

def test_a_step_needs_no_learner():
    "Neither fastai's Learner nor its optimizers are imported by the module of the step"
    import ast, inspect
    from elastic_nets.shrink import step

    tree = ast.parse(inspect.getsource(step))
    names = [n.module or '' for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [n for n in names if n.startswith('fastai')]
