"Growing with its options, beside other callbacks, in fits that are interrupted, compiled or distributed"
import os, subprocess, sys, time
from functools import partial
import pytest, torch
from fastai.vision.all import Callback, ChannelsLast, GradientAccumulation, GradientClip, MixedPrecision, MixUp, SGD
from torch import nn
from elastic_nets.grow.growing import GrowDepth, GrowWidth, SkinRates
from elastic_nets.grow.stages import StagePlan, plan_stages
from elastic_nets.zoo.models import resnet_cifar, vit
from helpers import compiles_in_place, Bf16, quietly
from helpers_grow import Stop, Watch, deep, flat, learner, net

def test_skins_take_their_share_of_a_step():
    "Each skin's step is the core's rule times the ratio of norms, checked against plain SGD by hand"
    p = nn.Parameter(torch.randn(6,4).double())
    skins = SkinRates([p])
    skins.birthday()
    skins.state[p]['age'][4:] = 0
    skins.update()
    ratio = p[4:].norm()/p[:4].norm()
    was, g = p.detach().clone(), torch.randn(6,4).double()
    skins.before_step()
    p.data -= .1*g
    skins.after_step()
    torch.testing.assert_close(p.detach()[:4], was[:4]-.1*g[:4])
    torch.testing.assert_close(p.detach()[4:], was[4:]-.1*g[4:]*ratio)

@pytest.mark.parametrize('adapt', [False, True])
def test_adapt_lr_in_a_fit(adapt):
    "The step after growth: the core's is the gradient's, the skin's is times the ratio of norms"
    class FirstStep(Callback):
        order,run_valid,done = 100,False,False
        def weight(self): return self.learn.model.stem[0].weight
        def before_step(self):
            w = self.weight()
            if not self.done and len(w)==8: self.was, self.g = w.detach().clone(), w.grad.clone()
        def after_step(self):
            w = self.weight()
            if not self.done and len(w)==8: self.now, self.done = w.detach().clone(), True
    see = FirstStep()
    cb = GrowWidth(stages=2, init='random', adapt_lr=adapt)
    quietly(learner(opt_func=SGD), 'fit', 2, .1, wd=0., cbs=[cb, see])
    ratio = see.was[4:].norm()/see.was[:4].norm() if adapt else 1.
    torch.testing.assert_close(see.now[:4], see.was[:4]-.1*see.g[:4])
    torch.testing.assert_close(see.now[4:], see.was[4:]-.1*ratio*see.g[4:])
    assert not adapt or abs(ratio-1)>.05

def test_interrupted_fit_is_finished_by_another(tmp_path):
    "The model says where it stands, also from a file, and a second fit takes it to its end without cutting it again"
    learn = learner()
    with pytest.warns(UserWarning, match='width 0.5'): quietly(learn, 'fit', 3, cbs=[GrowWidth(), Stop()])
    assert learn.model.growth.size==.5 and '1 of 3' in str(learn.model.growth)
    torch.save(learn.model, tmp_path/'m.pkl')
    for m in (learn.model, torch.load(tmp_path/'m.pkl', weights_only=False)):
        w, first = Watch(), m.stem[0].weight.detach().clone()
        again = quietly(learner(m), 'fit', 3, 0., cbs=[GrowWidth(), w], wd=0.)
        n = len(again.dls.train)
        assert w.sizes == [4]*n+[6]*n+[8]*n and not hasattr(m, 'growth')
        assert torch.equal(m.stem[0].weight[:4], first)
        net().load_state_dict(m.state_dict())

def test_resuming_is_checked_too():
    learn = learner()
    with pytest.warns(UserWarning): quietly(learn, 'fit', 2, cbs=[GrowWidth(stages=2), Stop()])
    with pytest.raises(ValueError, match='no multiple'):
        quietly(learn, 'fit', 3, cbs=GrowWidth(stages=3, init='bert2bert'))
    quietly(learn, 'fit', 1, cbs=GrowWidth(plan=StagePlan((1.,), (0.,))))
    net().load_state_dict(learn.model.state_dict())

def test_a_second_fit_with_the_same_callback_trains_on():
    learn = learner(cbs=GrowWidth(stages=2))
    quietly(learn, 'fit', 2, .01)
    was = learn.model.stem[0].weight.detach().clone()
    with pytest.warns(UserWarning, match='grown already'):
        quietly(learn, 'fit', 1, 0.)
        with learn.no_logging(): learn.lr_find(show_plot=False, num_it=4)
        quietly(learn, 'fit', 1, 0.)
    assert torch.equal(learn.model.stem[0].weight, was) and learn.model.stem[0].out_channels==8

def test_an_interrupted_fit_without_growth_is_over():
    "Ctrl-C in lr_find: the callback grows in the next fit"
    class Ctrl(Callback):
        def after_batch(self): raise KeyboardInterrupt
    # fastai does not undo what an interrupted lr_find trained
    learn = learner(cbs=GrowWidth(stages=2, discard_pretrained=True))
    with learn.no_logging(), learn.added_cbs(Ctrl()), pytest.raises(KeyboardInterrupt):
        learn.lr_find(show_plot=False, num_it=4)
    quietly(learn, 'fit', 2, .01)
    assert [r['width'] for r in learn.recorder.stages]==[.5,1.]

class Half(Bf16):
    "... as fastai sets it up"
    def __init__(self): super().__init__('bf16')
    def before_fit(self):
        MixedPrecision.before_fit(self)
        super().before_fit()

class Parts(nn.Module):
    "A backbone that grows and a head that does not"
    def __init__(self):
        super().__init__()
        self.backbone = resnet_cifar(8, width=8, n_in=1)[:4]
        pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU(), *pool, nn.Linear(8, 10))
    def forward(self, x): return self.head(self.backbone(x))

class PartSizes(Callback):
    order,run_valid = 100,False
    def before_fit(self): self.sizes = []
    def before_batch(self):
        m = self.learn.model
        self.sizes.append((m.backbone.stem[0].out_channels, m.head[0].out_channels, m.head[4].in_features))

def test_submodule_grows_in_a_fit():
    see, learn = PartSizes(), learner(Parts())
    plan = plan_stages(learn, stages=2, rounds=1, submodule='backbone', show_plot=False)
    assert [size for size,_,_ in plan.measured]==[.5,.625,.75,.875,1.]
    assert plan.measured[0][2]<plan.measured[-1][2]
    quietly(learn, 'fit', 2, .01, cbs=[GrowWidth(stages=2, submodule='backbone'), see])
    n = len(learn.dls.train)
    assert see.sizes==[(4,8,8)]*n+[(8,8,8)]*n
    Parts().load_state_dict(learn.model.state_dict())

# 8 channels at the start: with fewer, PyTorch's shortcuts in channels_last write out of bounds where AVX-512 is missing
wide = partial(resnet_cifar, 8, width=16, n_in=1)
ways = {'width': (partial(GrowWidth, stages=2), wide), 'depth': (partial(GrowDepth, stages=2), deep),
        'skins': (partial(GrowWidth, stages=2, adapt_lr=True, init='variance'), wide)}

@pytest.mark.parametrize('way', ways)
def test_works_with_the_usual_callbacks(way):
    "Mixed precision, clipping, accumulation, channels_last, MixUp, a flat schedule: sizes and rates as planned"
    grow, make = ways[way]
    def fit(*cbs):
        usual = [Half(), GradientClip(1.), GradientAccumulation(256), ChannelsLast(), MixUp()]
        return quietly(learner(make(), cbs=usual), 'fit_flat_cos', 3, .005, cbs=list(cbs))
    cb = grow()
    dense, grown = fit(), fit(cb)
    assert dense.recorder.lrs==grown.recorder.lrs and len(cb.rows)==2
    assert torch.isfinite(torch.stack(grown.recorder.losses)).all()
    make().load_state_dict(grown.model.state_dict())

def test_compiled_stages():
    "Every stage is compiled anew, which counts in its seconds, and the model ends as it was passed in"
    seen, widths = [], []
    def backend(gm, xs):
        if not seen or seen[-1]!=len(widths): time.sleep(.5) # a compiler takes its time, once a stage
        seen.append(len(widths))
        return gm
    learn, real, cb = learner(flat()), torch.compile, GrowWidth(stages=2, compile=True)
    def compile():
        widths.append(learn.model[1].out_features)
        nn.Module.compile(learn.model)
    learn.model.compile = compile
    try:
        torch.compile = partial(real, backend=backend) # as `compile=True`, without a C++ compiler's minutes
        quietly(learn, 'fit', 2, .01, cbs=cb)
    finally:
        torch.compile = real
        torch._dynamo.reset()
    assert widths==[8,16]
    if compiles_in_place(): assert {*seen}=={1,2} and all(r['seconds']>.5 for r in cb.rows)
    flat().load_state_dict(learn.model.state_dict())

DISTRIBUTED = """
import sys, torch
from functools import partial
from fastai.vision.all import *
from fastai.distributed import *
import fastai.distributed as fd
from elastic_nets.zoo.data import digits_dls
from elastic_nets.grow.growing import GrowDepth, GrowWidth
from elastic_nets.zoo.models import resnet_cifar, vit
def broadcast(self, t, rank): # fastai's is for a GPU
    x = torch.LongTensor(t)
    torch.distributed.broadcast(x, rank)
    return x.tolist()
fd.DistributedDL._broadcast = broadcast
torch.set_num_threads(1)
class Batches(Callback):
    "Batches that every process takes alike would make the same weights without any exchange"
    run_valid = False
    def after_batch(self): self.seen = self.y.tolist()
ways = {GrowWidth: partial(resnet_cifar, 8, width=8, n_in=1),
        GrowDepth: partial(vit, img=8, patch=2, dim=24, depth=4, heads=2, n_in=1)}
for grow,make in ways.items():
    torch.manual_seed(rank_distrib()) # other new channels in every process, if nobody shared them out
    learn = Learner(digits_dls(bs=128, device='cpu'), make()).remove_cb(ProgressCallback)
    see = Batches()
    with learn.distrib_ctx(sync_bn=False, cpu=True), learn.no_logging(): learn.fit(4, .05, cbs=[grow(stages=2), see])
    stages = [r[grow.by] for r in learn.recorder.stages]
    res = dict(model=learn.model.state_dict(), seen=see.seen, stages=stages)
    torch.save(res, f'{sys.argv[1]}/{grow.__name__}{rank_distrib()}')
"""

def test_distributed(tmp_path):
    "Two processes with batches of their own end with the same weights, although each draws other new channels"
    (tmp_path/'run.py').write_text(DISTRIBUTED)
    port = str(20000+os.getpid()%20000)
    launch = ['-W', 'ignore', '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', port]
    env = {**os.environ, 'OMP_NUM_THREADS':'1', 'CUDA_VISIBLE_DEVICES':''}
    res = subprocess.run([sys.executable, *launch, str(tmp_path/'run.py'), str(tmp_path)], env=env, timeout=300,
                         capture_output=True, text=True)
    assert res.returncode==0, res.stderr[-3000:]
    makes = {'GrowWidth': net, 'GrowDepth': partial(vit, img=8, patch=2, dim=24, depth=4, heads=2, n_in=1)}
    for name,make in makes.items():
        a, b = [torch.load(tmp_path/f'{name}{i}') for i in (0,1)]
        assert a['stages']==b['stages']==[.5,1.] and a['seen']!=b['seen']
        make().load_state_dict(a['model'])
        trained = [n for n in a['model'] if 'running' not in n and 'num_batches' not in n]
        assert all(torch.equal(a['model'][n], b['model'][n]) for n in trained)
