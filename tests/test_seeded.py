"The seeded onion beside real growth: a network cut, trained, grown and made a supernet, as `30_widen` does it"
import copy
from dataclasses import replace
from functools import partial
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.metrics import accuracy
from fastai.torch_core import no_random
from torch.nn import functional as F
from elastic_nets.channels.surgery import get_state
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow import growing
from elastic_nets.grow.deepen import grow_depth, start_shallow
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.grow.seeded import NewSkins, seeded_onion
from elastic_nets.grow.stages import StagePlan
from elastic_nets.grow.widen import grow_width, init_orthogonal, start_narrow
from elastic_nets.shrink.recipe import Construct, Gradient, Phase, Phases, Recipe
from elastic_nets.shrink.step import Losses, Timetable, onion_step
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.half import Bfloat16
from elastic_nets.zoo.models import resnet_cifar
from helpers import Float32Loss, Scaled, close, differ, digits, new_learner, optimizers, quietly, randomise

x, y = [t[:64] for t in digits()]
wide = dict(widths=(.5,1.))
CORE = (('width',1),)

def net(): return resnet_cifar(8, width=4, n_in=1)
def alone(init):
    "The core for half of the steps, then the full network; no family"
    return Recipe(Construct(k=1), Gradient('hard'), schedule=Phases((Phase(1, CORE), Phase(1)), NewSkins(init)))
def onion(rec): return OnionTraining(rec, watch=(), estimate=False)
def learner(**kw): return new_learner(net, (x, y), **kw)

@pytest.fixture
def same_dice(monkeypatch):
    "Growth draws the same numbers in the supernet and in the network that really grows"
    def seeded(f):
        def g(*args, **kwargs):
            with no_random(7): return f(*args, **kwargs)
        return g
    monkeypatch.setattr(NewSkins, '__call__', seeded(NewSkins.__call__))
    monkeypatch.setattr(growing, 'grow_width', seeded(growing.grow_width))

def orthogonal(w, n_out, n_in):
    "Where vectors have no room, theirs is any basis of a null space: the last bit of `w` must not choose it"
    return init_orthogonal(w.round(decimals=9), n_out, n_in)

@pytest.mark.parametrize('opt', ['sgd','adam','adamw'])
@pytest.mark.parametrize('init', [orthogonal,'variance','replicate'])
def test_it_is_growth(same_dice, opt, init):
    "A core and its skin inside the large tensors are trained as a network that is cut and grows: weights and memory"
    def fit(cb, **kw):
        learn = learner(wd=.01, **kw)
        learn.opt_func = optimizers[opt]
        return quietly(learn, 'fit_one_cycle', 4, 1e-2, cbs=[cb, GradientClip(.5), Float32Loss()])
    real = fit(GrowWidth(plan=StagePlan((.5,1.), (0.,.5)), init=init))
    ours = fit(onion(alone(init)), space=wide)
    close([p.data for p in ours.model.parameters()], [p.data for p in real.model.parameters()], f'{init}')
    for p,q in zip(ours.model.parameters(), real.model.parameters()):
        for (_,a),(_,b) in zip(get_state(ours.opt, p), get_state(real.opt, q), strict=True):
            for k in a:
                if torch.is_tensor(a[k]): close(a[k], b[k], k)

def test_family_by_hand():
    "The whole recipe against plain PyTorch: a narrow network, growth, a supernet, a sandwich of four on labels"
    n, rec = 6*4, seeded_onion()
    learn = learner(space=dict(widths=(.25,.5,1.)), wd=.01)
    start = copy.deepcopy(learn.model.state_dict())
    dice = []
    class Dice(NewSkins):
        def __call__(self, *args):
            dice.append(torch.get_rng_state())
            super().__call__(*args)
    schedule = replace(rec.schedule, grow=Dice('variance'))
    quietly(learn, 'fit', 6, .05, cbs=[onion(replace(rec, schedule=schedule)), Float32Loss()])
    model = net()
    graph = trace_channels(model, x[:2].float())
    model.double().load_state_dict(start)
    keep = start_narrow(model, graph, .25)
    opt, batches = torch.optim.SGD(model.parameters(), .05, momentum=.9), list(zip(x.split(16), y.split(16)))*6
    def decay(opt, *_): # as fastai: not for batch norm and biases, and after the gradient
        for p in model.parameters():
            if p.ndim>1: p.data *= 1-.05*.01
    opt.register_step_pre_hook(decay)
    for xb,yb in batches[:n//2]:
        F.cross_entropy(model(xb), yb).backward()
        opt.step()
        opt.zero_grad()
    torch.set_rng_state(dice[0])
    grow_width(model, graph, keep, 1., 'variance', opt)
    sn = Supernet(model, x[:2], widths=(.25,.5,1.))
    todo = Timetable(rec, sn, n)
    for i,(xb,yb) in enumerate(batches[n//2:], n//2):
        nets, top = todo.draw(i)
        assert len(nets)==4 and top==sn.space.max and sn.space.min in nets
        onion_step(sn, opt, nets, xb, Losses(yb, top, F.cross_entropy, 'hard'), top)
    close([p.data for p in learn.model.parameters()], [p.data for p in model.parameters()], 'weights')

def test_skins_are_no_noise():
    "What lies outside of the core before growth has no influence on anything"
    found = []
    for seed in (1,2):
        learn = learner(space=wide)
        sources = sn_place(learn.supernet)
        for n,p in learn.model.named_parameters():
            noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).to(p)
            part = p.data[sources(n, p)].clone()
            p.data.copy_(noise)
            p.data[sources(n, p)] = part
        quietly(learn, 'fit', 2, .05, cbs=[onion(seeded_onion(k=3)), Float32Loss()])
        found.append([p.data for p in learn.model.parameters()])
    close(*found, 'weights', 0.)

def sn_place(sn):
    "(name, parameter) -> index of the core's part"
    place = sn.place(sn.space.min)
    def at(n, p): return tuple(place.at(n)) or (slice(None),)
    return at

def test_blocks_are_those_of_growth():
    "New blocks: as `grow_depth` with copies on top makes them; what the optimizer remembers of them is zero"
    torch.manual_seed(0)
    ours = randomise(resnet_cifar(20, width=4, n_in=1))
    theirs, xb = copy.deepcopy(ours), x[:2].float()
    graph, sn = trace_channels(theirs, xb), Supernet(ours, xb, widths=(.5,1.), depths=(0.,.5,1.))
    keep = start_shallow(theirs, graph, .5)
    old = sn.space.restrict(depth=2).max
    assert old.depth==keep
    opt = torch.optim.SGD(ours.parameters(), .1, momentum=.9)
    for p in ours.parameters(): opt.state[p]['momentum_buffer'] = torch.ones_like(p)
    grow_depth(theirs, graph, keep, 1., place='stack')
    NewSkins()(sn, old, sn.space.max, opt)
    assert keep!=sn.space.max.depth
    mine, others = ours.state_dict(), theirs.state_dict()
    assert mine.keys()==others.keys() and all(torch.equal(mine[n], others[n]) for n in mine)
    left = sn.place(old)
    for n,p in ours.named_parameters(): assert bool(opt.state[p]['momentum_buffer'].any())==left.has(n)

def test_width_and_depth_at_once():
    "Channels first, then blocks: the function of the core stays where both inits keep it"
    torch.manual_seed(0)
    model = randomise(resnet_cifar(20, width=4, n_in=1)).double().eval()
    sn = Supernet(model, x[:2], widths=(.5,1.), depths=(.5,1.))
    with sn.active(sn.space.min): before = model(x[:4])
    NewSkins('net2net', zero_last=True)(sn, sn.space.min, sn.space.max)
    close(model(x[:4]), before, 'the answer')

class Seen(Callback):
    "Which network is on when a validation begins, and what the learner's metrics say"
    order = 70
    def before_fit(self): self.active = []
    def before_validate(self): self.active.append(self.learn.supernet.subnet)

def test_validated_as_far_as_it_is_there():
    "The core is validated, and its subnets are not"
    learn, seen = learner(space=dict(widths=(.25,.5,1.)), metrics=accuracy), Seen()
    rec = seeded_onion(skins=2)
    with learn.no_logging(): learn.fit(4, .05, cbs=[OnionTraining(rec, estimate=False), seen, Float32Loss()])
    sizes = [learn.supernet.macs(net) for net in seen.active]
    assert sizes[0]<sizes[1]<sizes[2]==sizes[3]==learn.supernet.macs(learn.supernet.space.max)
    low = [row[learn.recorder.metric_names[1:].index('acc_min')] for row in learn.recorder.values]
    assert [v!=v for v in low]==[True, True, False, False]

def test_scaled():
    "A scaler changes nothing; fastai's mixed precision makes predictions float32"
    def fit(*cbs):
        learn = learner(space=wide)
        quietly(learn, 'fit', 2, .05, cbs=[onion(seeded_onion(k=3)), Float32Loss(), *cbs])
        return [p.data for p in learn.model.parameters()]
    close(fit(), fit(Scaled()), 'weights', 1e-6)

@pytest.mark.parametrize('other, dtype', [
    (partial(GradientAccumulation, 48), torch.float64), (Bfloat16, torch.float32)])
def test_it_is_growth_with(same_dice, other, dtype):
    "Three batches in a step of the optimizer, which a border may not cut; and half precision"
    data = x.to(dtype), y
    def fit(cb, **kw):
        learn = new_learner(net, data, dtype=dtype, **kw)
        return quietly(learn, 'fit', 4, .05, cbs=[cb, Float32Loss(), other()])
    real = fit(GrowWidth(plan=StagePlan((.5,1.), (0.,.5)), init=orthogonal))
    ours = fit(onion(alone(orthogonal)), space=wide)
    close([p.data for p in ours.model.parameters()], [p.data for p in real.model.parameters()], 'weights')

def test_an_estimate_changes_nothing(capsys):
    "The batch before training is undone, the core is named in what it says"
    def fit(estimate):
        learn = learner(space=wide)
        cb = OnionTraining(seeded_onion(k=3), watch=(), estimate=estimate)
        learn.logger = print
        with learn.no_bar(): learn.fit(2, .05, cbs=[cb, Float32Loss()])
        return [p.data for p in learn.model.parameters()]
    silent = fit(False)
    capsys.readouterr()
    close(fit(True), silent, 'weights', 0.)
    assert 'of the network before it grows' in capsys.readouterr().out

def test_an_average_of_noise_is_refused():
    "A copy of the weights begins again with the family, or there is no fit"
    class Average(Callback):
        def before_fit(self): self.avg = copy.deepcopy(self.model)
    class Follows(Average):
        def after_grow(self): self.avg, self.begun = copy.deepcopy(self.model), self.train_iter
    def fit(cb): quietly(learner(space=wide), 'fit', 2, .05, cbs=[onion(seeded_onion(k=3)), Float32Loss(), cb])
    with pytest.raises(ValueError, match='Average.avg is a copy of the model, which will grow'): fit(Average())
    cb = Follows()
    fit(cb)
    assert cb.begun==4

def test_dice_are_the_recipes_own():
    "Numbers of a skin depend on the seed and the step: processes with dice of their own grow the same network"
    class Throws(Callback):
        order = -6
        def before_batch(self): torch.manual_seed(self.n)
    def fit(n):
        cb = Throws()
        cb.n = n
        learn = learner(space=wide)
        quietly(learn, 'fit', 2, .05, cbs=[onion(seeded_onion(k=3, init='random')), Float32Loss(), cb])
        return [p.data for p in learn.model.parameters()]
    close(fit(1), fit(2), 'weights', 0.)

def test_targets_of_the_family():
    "Labels at first, then the full network; less weight at the end"
    rec = seeded_onion(distill=.125, finish=.25, eps=.5)
    sn = learner(space=wide).supernet
    todo = Timetable(rec, sn, 8)
    assert [(todo.at(i).target, todo.at(i).eps, todo.k_of(todo.at(i))) for i in (0,3,4,5,6,7)]==[
        (None,1.,1), (None,1.,1), (None,1.,4), (None,1.,4), (None,.5,4), ('distill',.5,4)]

def test_refused():
    "A network that was trained, a second fit, an init that does not fit: before anything is changed"
    learn = learner(space=wide)
    cb = partial(onion, seeded_onion(k=3))
    quietly(learn, 'fit', 2, .05, cbs=[cb(), Float32Loss()])
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(ValueError, match='grow: .*its subnets have been trained'):
        quietly(learn, 'fit', 2, .05, cbs=cb())
    other = learner(space=wide)
    other.model.load_state_dict(before)
    with pytest.raises(ValueError, match='grow: .*batch norms have statistics'): quietly(other, 'fit', 2, .05, cbs=cb())
    uneven = learner(space=dict(widths=(.75,1.)))
    rec = seeded_onion(init='bert2bert')
    with pytest.raises(ValueError, match='bert2bert'): quietly(uneven, 'fit', 2, .05, cbs=OnionTraining(rec))
    differ([p.data for p in learn.model.parameters()], [p.data for p in uneven.model.parameters()])
