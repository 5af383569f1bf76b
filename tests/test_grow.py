"Growing keeps what was learned, and any fastai fit goes on as if nothing had happened"
import copy, os, subprocess, sys, time, warnings
from functools import partial
import numpy as np, pytest, torch
from fastai.vision.all import (Adam, Callback, CancelFitException, ChannelsLast, EarlyStoppingCallback, GradientAccumulation, GradientClip, Learner, MixedPrecision, MixUp, MSELossFlat, OptimWrapper, ProgressCallback, ReduceLROnPlateau, SGD, SaveModelCallback, default_split,
                               ranger, resnet18, vision_learner)
from torch import nn
from torchvision.models import DenseNet, SqueezeNet
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.channels.trace import trace_channels
from elastic_nets.subnets.cost import macs
from elastic_nets.zoo.data import digits_dls
from elastic_nets.grow.deepen import BlockEMA
from elastic_nets.grow.growing import GrowDepth, GrowWidth, SkinRates, past_of
from elastic_nets.grow.stages import StagePlan, plan_stages, choose_stages, opt_like, step_seconds
from elastic_nets.zoo.models import mobilenet_cifar, resnet_cifar, vit
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.grow.widen import (
    grow_width, init_bert2bert, init_net2net, init_orthogonal, init_random, init_replicate, init_variance,
    start_narrow
)

class Odd(nn.Module):
    "Transposed and grouped convolutions, group norm, PReLU, a shared layer, flattened maps"
    def __init__(self, groups=4):
        super().__init__()
        self.down,self.gn,self.act = nn.Conv2d(3, 8, 3, 2, 1),nn.GroupNorm(groups, 8),nn.PReLU(8)
        self.grouped,self.up,self.same = nn.Conv2d(8, 8, 3, padding=1, groups=4),nn.ConvTranspose2d(8, 12, 2, 2),nn.Conv2d(12, 12, 1)
        self.scale,self.head = nn.Parameter(torch.ones(1, 12, 1, 1)),nn.Linear(12*16, 5)
    def forward(self, x):
        x = self.up(self.grouped(self.act(self.gn(self.down(x)))))
        x = x + self.scale*self.same(torch.relu(self.same(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))

class SE(nn.Module):
    "Squeeze and excitation, concatenation, flatten then linear"
    def __init__(self):
        super().__init__()
        self.a,self.b,self.down,self.up,self.dw = nn.Conv2d(3, 8, 3, padding=1),nn.Conv2d(3, 12, 3, padding=1),nn.Conv2d(8, 4, 1),nn.Conv2d(4, 8, 1),nn.Conv2d(8, 8, 3, groups=8)
        self.mix,self.head = nn.Conv2d(20, 10, 3, padding=1),nn.Linear(10*9, 5)
    def forward(self, x):
        a = self.a(x)
        a = a*torch.sigmoid(self.up(torch.relu(self.down(a.mean((2,3), keepdim=True)))))
        x = self.mix(torch.cat([torch.relu(self.dw(a)), self.b(x)[...,1:-1,1:-1]], 1))
        return self.head(nn.functional.adaptive_avg_pool2d(torch.relu(x), 3).flatten(1))

nets = {'se': SE, 'resnet': lambda: resnet_cifar(8, width=8), 'mobilenet2': lambda: mobilenet_cifar(2, width=.25), 'vit': lambda: vit(img=16, dim=24, depth=2, heads=2), 'odd': Odd, 'odd1': lambda: Odd(1),
        'densenet': lambda: DenseNet(8, (2,2), 16, 2, num_classes=10), 'squeezenet': lambda: SqueezeNet('1_1', 10),
        'convnext': lambda: ConvNeXt([CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)], num_classes=10)}

def fresh(name, seed=0):
    "A network without zeros and ones that hide mistakes, in float64 and eval mode, a batch for it, and its graph"
    torch.manual_seed(seed)
    m = nets[name]().double().eval()
    for p in [*m.parameters(), *m.buffers()]:
        if p.is_floating_point() and p.ndim<2: p.data = .5+torch.rand_like(p)
    x = torch.randn(2, 3, *((64,64) if name in ('densenet','squeezenet') else (16,16)), dtype=torch.float64)
    return m, x, trace_channels(m, x.float())

def at(graph, name, keep, shape):
    "Where a tensor with `keep` channels lies in the whole one, of `shape`"
    idx = locate(graph, width=keep).at(name)
    return torch.meshgrid(*[torch.arange(n)[i] for n,i in zip(shape, [*idx, *[slice(None)]*(len(shape)-len(idx))])], indexing='ij')

@pytest.mark.parametrize('init,widths', [(init_orthogonal, (.5,.75,1.)), (init_random, (.1,1.))], ids=['orthogonal','random']) # .1: down to one channel, or one group
@pytest.mark.parametrize('name', nets)
def test_grown_net_holds_the_small_one(name, init, widths):
    "Up to the whole width: old values at their places bit for bit; where nobody reads the new channels, the small net's output"
    m, x, graph = fresh(name)
    whole, text = {n:p.shape for n,p in m.state_dict().items()}, str(m)
    keep = start_narrow(m, graph, widths[0])
    assert keep and sum(p.numel() for p in m.parameters()) < .6*sum(torch.Size(s).numel() for n,s in whole.items())
    small, y, params = copy.deepcopy(m.state_dict()), m(x), list(m.parameters())
    to = keep
    for w in widths[1:]: to = grow_width(m, graph, to, w, init)
    assert {n:p.shape for n,p in m.state_dict().items()} == whole and str(m) == text
    assert all(p is q for p,q in zip(m.parameters(), params))
    for n,p in m.state_dict().items():
        if p.ndim: assert torch.equal(p[at(graph, n, keep, p.shape)], small[n]), n
    assert (m(x)-y).abs().max() > 1e-3
    with torch.no_grad():
        for n,d in graph.reads.items():
            w = m.get_parameter(n).movedim(d, 0)
            gone = torch.ones(len(w), dtype=torch.bool)
            idx = locate(graph, width=keep).at(n)
            gone[idx[d] if d<len(idx) else slice(None)] = False
            w[gone] = 0
    if not graph.norms: torch.testing.assert_close(m(x), y)
    nets[name]().load_state_dict(m.state_dict())

def test_orthogonal_in_the_grown_net():
    "Eqs. 2 and 5 hold in every convolution that has room for it"
    m, x, graph = fresh('resnet')
    keep = start_narrow(m, graph, .5)
    small = copy.deepcopy(m.state_dict())
    grow_width(m, graph, keep, .75)
    seen = 0
    for n,p in m.state_dict().items():
        if p.ndim!=4: continue
        w, (o,i) = small[n], small[n].shape[:2]
        for old,new in ((w.flatten(1), p[o:,:i].flatten(1)), (w.transpose(0,1).flatten(1), p[:o,i:].transpose(0,1).flatten(1))):
            if not len(new) or len(old)+len(new)>old.shape[1]: continue
            assert (old@new.T).abs().max() < 1e-5 and (new@new.T).fill_diagonal_(0).abs().max() < 1e-5
            torch.testing.assert_close(new.norm(dim=1), old.norm(dim=1).mean().expand(len(new)))
            seen += 1
    assert seen > 8

def test_new_channels_of_norms_are_the_identity():
    for name in ('resnet', 'odd', 'convnext'):
        m, x, graph = fresh(name)
        grow_width(m, graph, start_narrow(m, graph, .5), 1.)
        norms = [l for l in m.modules() if isinstance(l, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm))]
        assert norms
        for l in norms:
            new = slice(-1, None) # the last channel
            assert l.weight[new]==1 and l.bias[new]==0
            if isinstance(l, nn.BatchNorm2d): assert l.running_mean[new]==0 and l.running_var[new]==1

def test_wrong_channels_are_an_error():
    m, x, graph = fresh('resnet')
    keep = start_narrow(m, graph, .5)
    with pytest.raises(ValueError, match='channels'): grow_width(m, graph, {n:2 for n in keep}, 1.)
    with pytest.raises(ValueError, match='only adds'): grow_width(m, graph, keep, .25)
    with pytest.raises(ValueError, match='channels'): start_narrow(m, graph, .5)
    with pytest.raises(ValueError, match='width'): grow_width(m, graph, keep, 1.5)
    with pytest.warns(UserWarning, match='nothing grew'): grow_width(m, graph, keep, .5)

optimizers = {'sgd': partial(SGD, mom=.9), 'adam': Adam, 'ranger': ranger, 'adamw': partial(OptimWrapper, opt=torch.optim.AdamW)}

@pytest.mark.parametrize('name', [*optimizers, 'torch'])
def test_optimizer_state_grows(name):
    "Every averaged gradient keeps its old part, is zero in the new one, and the next step moves every entry of every parameter"
    m, x, graph = fresh('resnet')
    m.train()
    keep = start_narrow(m, graph, .5)
    ps = list(m.parameters())
    opt = torch.optim.SGD(ps, .1, momentum=.9) if name=='torch' else optimizers[name](ps, lr=.1)
    def step():
        nn.functional.cross_entropy(m(x), torch.tensor([0,1])).backward()
        opt.step()
        opt.zero_grad()
    for _ in range(4): step()
    state = lambda: getattr(opt, 'opt', opt).state
    if name=='adam': opt.state = dict(opt.state) # as after learn.load
    before = {n: {k:copy.deepcopy(v) for k,v in state()[p].items()} for n,p in m.named_parameters()}
    shapes = {n:p.shape for n,p in m.named_parameters()}
    grow_width(m, graph, keep, 1., opt=opt)
    for n,p in m.named_parameters():
        for k,v in state()[p].items():
            old = before[n][k]
            if not isinstance(v, torch.Tensor) or old.shape!=shapes[n]: assert v == old; continue
            i = at(graph, n, keep, p.shape)
            assert v.shape==p.shape and torch.equal(v[i], old) and old.any()
            rest = v.clone()
            rest[i] = 0
            assert not rest.any()
    was = [p.detach().clone() for p in ps]
    for _ in range(2): step()
    assert all((p!=q).all() if p.ndim>1 else not torch.equal(p, q) for p,q in zip(ps, was))

@pytest.fixture(scope='module')
def data(): return partial(digits_dls, bs=128, device='cpu')

def learner(dls, model=None, **kw):
    torch.manual_seed(0)
    return Learner(dls, model or net(), **kw).remove_cb(ProgressCallback)

def net(): return resnet_cifar(8, width=8, n_in=1)

def quietly(learn, fit='fit', *args, **kw):
    with learn.no_logging(): getattr(learn, fit)(*args, **kw)
    return learn

class Watch(Callback):
    "What every training batch held, the width it met, and the parameters after it"
    order,run_valid = 100,False
    def before_fit(self): self.ys, self.sizes, self.first, self.moved, self.last_format = [], [], list(self.learn.model.parameters()), set(), []
    def before_batch(self):
        self.ys.append(self.y.tolist())
        self.sizes.append(self.learn.model[0][0].out_channels)
        self.was = [p.detach().clone() for p in self.first]
        self.last_format.append(all(p.is_contiguous(memory_format=torch.channels_last) for p in self.first if p.ndim==4 and p.shape[1]>1))
    def after_step(self): self.moved |= {(tuple(p.shape), i) for i,(p,q) in enumerate(zip(self.first, self.was)) if not torch.equal(p, q)}

@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle'])
@pytest.mark.parametrize('opt', ['sgd', 'adam', 'adamw'])
def test_fit_goes_on(data, fit, opt):
    "The same batches and learning rates as without growth; every parameter is trained at every size and at the end it is the user's network"
    dense, grown = [learner(data(), opt_func=optimizers[opt]) for _ in range(2)]
    a, b, cb = Watch(), Watch(), GrowWidth(start=.5, stages=3)
    quietly(dense, fit, 4, .01, cbs=a)
    quietly(grown, fit, 4, .01, cbs=[b, cb])
    n = 4*len(grown.dls.train)
    starts = [0, round(n/3), round(2*n/3)]
    assert grown.recorder.lrs == dense.recorder.lrs and len(grown.recorder.lrs)==n
    assert b.ys == a.ys, 'growing must not change the order of the data'
    assert b.sizes == [4]*starts[1] + [6]*(starts[2]-starts[1]) + [8]*(n-starts[2])
    assert all(p is q for p,q in zip(grown.model.parameters(), b.first)) and [p for g in grown.opt.param_lists for p in g] == b.first
    assert len(b.moved) == 3*len(b.first)-2 # the stem reads pictures and the head writes classes; only the head's bias has one size
    assert {k:p.shape for k,p in grown.model.state_dict().items()} == {k:p.shape for k,p in net().state_dict().items()}
    assert [(r['step'], r['width']) for r in cb.rows] == list(zip(starts, (.5,.75,1.))) and all(r['seconds']>0 for r in cb.rows)
    xb = grown.dls.one_batch()[0]
    for r in cb.rows:
        m = net()
        start_narrow(m, trace_channels(m, xb), r['width']) if r['width']<1 else None
        assert r['macs']==macs(m, xb)
    assert grown.recorder.losses[-1] < grown.recorder.losses[0]

class Spy(Callback):
    "Do the batch norms have the statistics of the network as it is validated?"
    order = 50
    def before_fit(self): self.exact = []
    def before_validate(self):
        m = calibrate_bn(copy.deepcopy(self.learn.model), self.dls.train)
        self.exact.append(all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for (n,a),b in zip(self.learn.model.named_buffers(), m.buffers()) if 'running' in n))

def test_validation_after_growth_has_fresh_statistics(data):
    spy = Spy()
    quietly(learner(data()), 'fit', 6, .01, cbs=[GrowWidth(stages=3), spy])
    assert spy.exact == [False, False, True, False, True, False]

def test_channels_last(data):
    "Weights stay channels_last at every width"
    w = Watch()
    learn = quietly(learner(data(), cbs=ChannelsLast()), 'fit', 3, .01, cbs=[GrowWidth(), w])
    assert all(w.last_format) and {4,6,8} == set(w.sizes)
    assert not all(p.is_contiguous() for p in learn.model.parameters())

def test_random_init_and_callables(data):
    "`init` reaches every weight"
    seen = []
    def init(w, o, i): return seen.append(w.dtype) or torch.full((o, i, *w.shape[2:]), 7., dtype=w.dtype)
    learn = quietly(learner(data()), 'fit', 2, 0., cbs=GrowWidth(stages=2, init=init), wd=0.)
    assert len(seen) == len([p for p in net().parameters() if p.ndim>1])+2 and set(seen) == {torch.float64}
    assert (learn.model.stem[0].weight[4:] == 7).all() and (learn.model.stem[0].weight[:4] != 7).all()

def unchanged(learn, match, n=3, **kw):
    "A fit with `GrowWidth(**kw)` raises, and nothing has been changed"
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(ValueError, match=match): quietly(learn, 'fit', n, cbs=GrowWidth(**kw))
    assert all(torch.equal(p, before[n]) for n,p in learn.model.state_dict().items())

def test_errors_before_training(data):
    for kw,match in ((dict(start=0), 'start'), (dict(start=1.), 'start'), (dict(stages=1), 'stages'), (dict(stages=2.5), 'stages'), (dict(start='half'), 'start'), (dict(init='best'), 'orthogonal'), (dict(plan=(.5,1)), 'StagePlan'),
                     (dict(init=lambda w,o,i: torch.randn(o,i,3,3)), 'must return the whole weight'), (dict(init=lambda w: w), 'init fails')):
        with pytest.raises(ValueError, match=match): GrowWidth(**kw)
    learn = learner(data())
    unchanged(learn, '4 stages do not fit into 3 epoch', stages=4)
    unchanged(learn, 'round to the same', start=.97)
    learn.to_supernet()
    unchanged(learn, 'supernet')

def test_trained_model_is_not_cut(data):
    "Batch norms, the optimizer, frozen layers and vision_learner's flag tell that there are weights to lose"
    learn = quietly(learner(data()), 'fit', 1)
    unchanged(learn, 'statistics|steps')
    other = learner(data(), copy.deepcopy(learn.model)) # weights from somewhere else
    unchanged(other, 'statistics')
    flat = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    unchanged(quietly(learner(data(), flat()), 'fit', 1), 'steps')
    v = vision_learner(data(), resnet18, pretrained=False, n_in=1, normalize=False)
    v.pretrained = True # what `vision_learner(pretrained=True)` leaves
    unchanged(v.remove_cb(ProgressCallback), 'pretrained')
    frozen = learner(data(), splitter=default_split)
    frozen.freeze()
    frozen.model[0][1].train_bn = False
    unchanged(frozen, 'frozen')
    quietly(learn, 'fit', 2, cbs=GrowWidth(stages=2, discard_pretrained=True)) # the optimizer still knew the whole shapes
    net().load_state_dict(learn.model.state_dict())

def test_lr_find_does_not_grow(data):
    "... neither while it runs, nor does it make a fresh model look trained"
    learn = learner(data(), cbs=GrowWidth(stages=2))
    with learn.no_logging(): learn.lr_find(show_plot=False, num_it=20)
    assert learn.grow_width.rows == [] and learn.model.stem[0].out_channels == 8
    quietly(learn, 'fit', 2)
    assert len(learn.grow_width.rows) == 2

class Stop(Callback):
    def after_epoch(self): raise CancelFitException

def test_early_end_can_be_finished(data):
    learn, cb = learner(data()), GrowWidth()
    with pytest.warns(UserWarning, match='width 0.5'): quietly(learn, 'fit', 3, cbs=[cb, Stop()])
    assert learn.model.stem[0].out_channels == 4
    learn.finish_growing()
    net().load_state_dict(learn.model.state_dict())
    again = calibrate_bn(copy.deepcopy(learn.model), learn.dls.train)
    for (n,a),b in zip(learn.model.named_buffers(), again.buffers()):
        if 'running' in n: torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    was = [p.detach().clone() for p in learn.model.parameters()]
    quietly(learn, 'fit', 1)
    assert all(not torch.equal(p,q) for p,q in zip(learn.model.parameters(), was))
    with pytest.raises(ValueError, match='not in the middle'): learn.finish_growing()
    deeper = learner(data(), deep())
    with pytest.warns(UserWarning, match='depth 0.5'): quietly(deeper, 'fit', 2, .01, cbs=[GrowDepth(), Stop()])
    deeper.finish_growing()
    was = [p.detach().clone() for p in deeper.model.parameters()]
    quietly(deeper, 'fit', 1)
    assert all(not torch.equal(p,q) for p,q in zip(deeper.model.parameters(), was)) and not hasattr(deeper.model, 'growth')

def test_start_epoch(data):
    "Skipped epochs count: the fit starts at the width that its first batch would have had"
    cb, w = GrowWidth(), Watch()
    learn = quietly(learner(data()), 'fit', 6, start_epoch=2, cbs=[cb, w])
    n = len(learn.dls.train)
    assert w.sizes == [6]*2*n + [8]*2*n and [r['step'] for r in cb.rows] == [2*n, 2*n, 4*n]

def test_nothing_to_grow(data):
    "A network without elastic channels trains as it is, with a warning"
    learn = learner(data(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.warns(UserWarning, match='channels of this model cannot'): quietly(learn, 'fit', 3, cbs=GrowWidth())
    assert learn.model[1].in_features == 64

def test_save_model_starts_again_with_each_stage(tmp_path):
    "The best file of a narrow stage would not load into the grown network"
    torch.manual_seed(0)
    learn = Learner(digits_dls(bs=128), resnet_cifar(8, width=8, n_in=1), path=tmp_path, opt_func=SGD)
    save = SaveModelCallback(monitor='valid_loss', comp=np.greater)  # the first epoch is the "best"
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 1e-2, cbs=[GrowWidth(stages=2), save])
    assert learn.model[0][0].out_channels==8

inits = {'orthogonal': init_orthogonal, 'random': init_random, 'replicate': init_replicate, 'net2net': init_net2net, 'bert2bert': init_bert2bert, 'variance': init_variance}

@pytest.mark.parametrize('name,init', [('resnet','net2net'), ('mobilenet2','net2net'), ('densenet','net2net'), ('squeezenet','net2net'), ('odd','net2net'), ('se','net2net'),
                                       ('resnet','bert2bert'), ('vit','bert2bert'), ('convnext','bert2bert'), ('odd1','bert2bert'), ('se','bert2bert')])
@pytest.mark.parametrize('train', [False, True], ids=['eval','train'])
def test_function_is_preserved(name, init, train):
    "Net2Net and bert2BERT leave the outputs as they were, in training mode too; Net2Net in two unequal steps"
    m, x, graph = fresh(name)
    for l in m.modules():
        if isinstance(l, nn.Dropout): l.p = 0.
    to, y = start_narrow(m, graph, .5), None
    y = m.train(train)(x)
    for w in ((.8,1.) if init=='net2net' else (1.,)):
        to = grow_width(m, graph, to, w, inits[init])
        torch.testing.assert_close(m(x), y)
    assert m.eval()(x).isfinite().all() and len(list(m.parameters()))

def test_copies_that_do_not_fit_are_an_error():
    m, x, graph = fresh('vit')
    keep = start_narrow(m, graph, .5)
    with pytest.raises(ValueError, match='no multiple'): grow_width(m, graph, keep, .75, init_bert2bert)

def test_net2net_parts_copies_and_replicate_does_not():
    "After some steps of SGD filters that were equal differ, or do not"
    for init,parts in (('net2net',True), ('bert2bert',True), ('replicate',False)):
        m, x, graph = fresh('resnet')
        grow_width(m.train(), graph, start_narrow(m, graph, .5), 1., inits[init])
        opt = torch.optim.SGD(m.parameters(), .1)
        for _ in range(3):
            nn.functional.cross_entropy(m(x), torch.tensor([0,1])).backward(); opt.step(); opt.zero_grad()
        w = m.stem[0].weight.detach().flatten(1)
        pairs = torch.cdist(w, w)+9*torch.eye(8)
        assert (pairs.min() > 1e-4) == parts, init

@pytest.mark.parametrize('init', inits)
def test_every_init_keeps_channels_last_and_trains(init, data):
    w = Watch()
    learn = quietly(learner(data(), cbs=ChannelsLast()), 'fit', 2, .01, cbs=[GrowWidth(stages=2, init=init), w])
    assert all(w.last_format) and {4,8} == set(w.sizes)
    net().load_state_dict(learn.model.state_dict())

class Seg(nn.Module):
    "A backbone of its own, and a head with weights to keep"
    def __init__(self):
        super().__init__()
        self.backbone, self.head = resnet_cifar(8, width=8)[:4], nn.Sequential(nn.Conv2d(32, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))
    def forward(self, x): return self.head(self.backbone(x))

def test_submodule_grows_alone():
    torch.manual_seed(0)
    m, x = Seg().double().eval(), torch.randn(2,3,16,16).double()
    graph, whole, head = trace_channels(m, x.float()), {n:p.shape for n,p in m.state_dict().items()}, copy.deepcopy(m.head[3].state_dict())
    keep = start_narrow(m, graph, .5, 'backbone')
    assert keep and all(n.startswith('backbone') for n in keep) and m.head[0].weight.shape==(8,16,3,3)
    y = m(x)
    grow_width(m, graph, keep, 1., init_net2net)
    torch.testing.assert_close(m(x), y)
    assert {n:p.shape for n,p in m.state_dict().items()}==whole and all(torch.equal(p, head[n]) for n,p in m.head[3].state_dict().items())
    with pytest.raises(ValueError, match="'body'.*backbone, head"): start_narrow(m, graph, .5, 'body')

def test_accumulated_gradients_are_not_lost(data):
    "Growth waits for the step that is under way: every gradient that was accumulated is stepped with"
    class Count(Callback):
        order,run_valid = 200,False
        def before_fit(self): self.grew, self.was = [], self.learn.model.stem[0].out_channels
        def before_batch(self):
            ga = next(c for c in self.learn.cbs if isinstance(c, GradientAccumulation))
            if self.learn.model.stem[0].out_channels!=self.was: self.grew.append(ga.count)
            self.was = self.learn.model.stem[0].out_channels
    count, cb = Count(), GrowWidth(stages=2)
    learn = quietly(learner(data()), 'fit', 3, .01, cbs=[cb, count, GradientAccumulation(3*128)])
    n = len(learn.dls.train)
    assert count.grew == [0] and cb.rows[1]['step']>=round(1.5*n)

def test_carry_state_false_forgets(data):
    class State(Callback):
        order,run_valid = 200,False
        def before_fit(self): self.n = []
        def before_batch(self): self.n.append(sum(isinstance(v, torch.Tensor) and bool(v.any()) for s in self.opt.state.values() for v in s.values()))
    for carry in (True, False):
        st = State()
        learn = quietly(learner(data(), opt_func=partial(SGD, mom=.9)), 'fit', 2, .01, cbs=[GrowWidth(stages=2, carry_state=carry), st])
        assert (st.n[len(learn.dls.train)]>0) == carry

def test_fine_tune_grows_in_its_second_fit(data):
    "The head's fit stays at the first size, whatever its length; the second fit has all stages and discriminative learning rates"
    for freeze_epochs in (1,3):
        cb, w = GrowWidth(stages=2), Watch()
        learn = learner(data(), splitter=default_split)
        learn.pretrained = False # what vision_learner leaves
        with learn.no_bar(), learn.no_logging(): learn.fine_tune(2, 1e-2, freeze_epochs=freeze_epochs, cbs=[cb, w])
        n = len(learn.dls.train)
        assert [(r['step'],r['width']) for r in cb.rows]==[(0,.5),(n,1.)] and w.sizes==[4]*n+[8]*n
        assert len(learn.opt.hypers)==2 and learn.opt.hypers[0]['lr']<learn.opt.hypers[1]['lr']
        net().load_state_dict(learn.model.state_dict())

def test_frozen_groups_stay_frozen(data):
    "Growth keeps who is trained and with which rate"
    learn = learner(data(), splitter=lambda m: [list(m[:2].parameters()), list(m[2].parameters()), list(m[3:].parameters())])
    learn.freeze_to(1)
    quietly(learn, 'fit', 2, slice(1e-4, 1e-2), cbs=GrowWidth(stages=2, discard_pretrained=True))
    bn = {id(p) for l in learn.model.modules() if isinstance(l, nn.BatchNorm2d) for p in l.parameters()}
    assert not any(p.requires_grad for p in learn.opt.param_lists[0] if id(p) not in bn) and all(p.requires_grad for g in learn.opt.param_lists[1:] for p in g)
    assert [len(g) for g in learn.opt.param_lists]==[len(list(m.parameters())) for m in (learn.model[:2],learn.model[2],learn.model[3:])]

def test_adapt_lr_scales_the_skins(data):
    "Each skin's step is the core's rule times the ratio of norms, checked against plain SGD by hand"
    p = nn.Parameter(torch.randn(6,4).double())
    ages = SkinRates([p]); ages.birthday(); ages.state[p]['age'][4:] = 0
    ages.update()
    ratio = p[4:].norm()/p[:4].norm()
    was, g = p.detach().clone(), torch.randn(6,4).double()
    ages.before_step()
    p.data -= .1*g
    ages.after_step()
    torch.testing.assert_close(p.detach()[:4], was[:4]-.1*g[:4])
    torch.testing.assert_close(p.detach()[4:], was[4:]-.1*g[4:]*ratio)

def test_interrupted_fit_is_finished_by_another(data, tmp_path):
    "The model says where it stands, also from a file, and a second fit takes it to its end without cutting it again"
    learn, cb = learner(data()), GrowWidth()
    with pytest.warns(UserWarning, match='width 0.5'): quietly(learn, 'fit', 3, cbs=[cb, Stop()])
    assert learn.model.growth.size==.5 and '1 of 3' in str(learn.model.growth)
    torch.save(learn.model, tmp_path/'m.pkl')
    for m in (learn.model, torch.load(tmp_path/'m.pkl', weights_only=False)):
        w, first = Watch(), m.stem[0].weight.detach().clone()
        l = quietly(learner(data(), m), 'fit', 3, 0., cbs=[GrowWidth(), w], wd=0.)
        n = len(l.dls.train)
        assert w.sizes == [4]*n+[6]*n+[8]*n and not hasattr(m, 'growth')
        assert torch.equal(m.stem[0].weight[:4], first)
        net().load_state_dict(m.state_dict())

def test_plans():
    with pytest.raises(ValueError, match='rising'): StagePlan((.5,.5,1.), (0,.2,.5))
    with pytest.raises(ValueError, match='end with 1'): StagePlan((.5,.9), (0,.2))
    for kw,match in ((dict(), 'speedup'), (dict(speedup=.9), 'above 1'), (dict(stages=1), 'from 2'), (dict(stages=2, by='x'), 'depth'), (dict(stages=2, start=1), 'start')):
        with pytest.raises(ValueError, match=match): plan_stages(None, **kw)

def test_plan_stages_measures_the_learners_own_steps(data):
    "Sizes that round to the same are tried once, the learner is left as it was, and the plan keeps its promise on made-up times"
    learn = learner(data(), resnet_cifar(8, width=16, n_in=1))
    before, rng = copy.deepcopy(learn.model.state_dict()), torch.get_rng_state()
    with learn.no_bar(): plan = plan_stages(learn, stages=2, start=.25, rounds=2)
    assert [m[0] for m in plan.measured]==[.25,.375,.5,.625,.75,.875,1.] and all(s>0 and c>0 for _,s,c in plan.measured)
    assert all(torch.equal(p, before[n]) for n,p in learn.model.state_dict().items()) and torch.equal(rng, torch.get_rng_state()) and learn.opt is None
    assert past_of(learn)==''
    deep = plan_stages(learner(data(), vit(img=8, patch=2, dim=24, depth=4, heads=2, n_in=1)), stages=2, by='depth', rounds=2)
    assert [m[0] for m in deep.measured]==[.5,.75,1.]
    ms = ((.25,.3,1.),(.5,.4,4.),(.75,.98,9.),(1.,1.,16.))
    for s in (1.2,1.5,2.):
        p = choose_stages(ms, speedup=s)
        assert p.sizes==(.25,1.) and abs(p.speedup()-s)<1e-6 # .75 does not pay
    with pytest.raises(ValueError, match='2.27x'): choose_stages(ms, speedup=2.5)
    assert choose_stages(((.5,.99,4.),(1.,1.,16.)), speedup=1.1).sizes==(1.,)

def test_plan_of_one_stage_trains_as_it_is(data):
    learn, cb = learner(data()), GrowWidth(plan=StagePlan((1.,), (0,)))
    quietly(learn, 'fit', 1, cbs=cb)
    assert cb.rows==[] and learn.model.stem[0].out_channels==8

def deep(): return vit(img=8, patch=2, dim=24, depth=4, heads=2, n_in=1, drop_path=.1)

@pytest.mark.parametrize('opt', ['sgd','adam','adamw'])
@pytest.mark.parametrize('kw', [dict(), dict(block='model', place='stack'), dict(zero_last=True, half_life=5)], ids=['ema','stack','zero'])
def test_depth_grows_in_a_fit(data, opt, kw):
    dense, grown = [learner(data(), deep(), opt_func=optimizers[opt]) for _ in range(2)]
    cb = GrowDepth(start=.5, stages=2, **kw)
    quietly(dense, 'fit_one_cycle', 2, .003)
    quietly(grown, 'fit_one_cycle', 2, .003, cbs=cb)
    assert grown.recorder.lrs==dense.recorder.lrs and [r['depth'] for r in cb.rows]==[.5,1.] and grown.recorder.stages is cb.rows
    assert cb.rows[0]['macs']<cb.rows[1]['macs']==macs(deep(), grown.dls.one_batch()[0]) and not hasattr(grown.model, 'growth')
    deep().load_state_dict(grown.model.state_dict())
    assert [id(p) for g in grown.opt.param_lists for p in g]==[id(p) for p in grown.model.parameters()]
    was = [p.detach().clone() for p in grown.model.parameters()]
    quietly(grown, 'fit', 1, .003)
    assert all(not torch.equal(p,q) for p,q in zip(grown.model.parameters(), was))

def test_depth_groups_follow_the_splitter(data):
    split = lambda m: [list(m.blocks[:2].parameters()), list(m.blocks[2:].parameters())+[p for n,p in m.named_parameters() if not n.startswith('blocks')]]
    learn = learner(data(), deep(), splitter=split)
    quietly(learn, 'fit', 2, slice(1e-4,1e-3), cbs=GrowDepth())
    assert [[id(p) for p in g] for g in learn.opt.param_lists]==[[id(p) for p in g] for g in split(learn.model)]
    split = lambda m: [list(m.blocks[:2].parameters()), list(m.blocks[2:].parameters()), [p for n,p in m.named_parameters() if not n.startswith('blocks')]]
    learn = learner(data(), deep(), splitter=split)
    learn.freeze_to(1) # what a block's place says counts, not whose copy it is
    quietly(learn, 'fit', 2, slice(1e-4,1e-3), cbs=GrowDepth(discard_pretrained=True))
    assert [{p.requires_grad for m in b.modules() if isinstance(m, nn.Linear) for p in m.parameters()} for b in learn.model.blocks]==[{False}]*2+[{True}]*2

def test_depth_errors(data):
    learn = learner(data(), deep())
    with pytest.raises(ValueError, match='round to the same blocks'): quietly(learn, 'fit', 9, cbs=GrowDepth(start=.5, stages=5))
    with pytest.raises(ValueError, match='in one fit'): quietly(learn, 'fit', 3, cbs=[GrowDepth(), GrowWidth()])
    with pytest.warns(UserWarning, match='blocks of this model cannot'): quietly(learner(data(), nn.Sequential(nn.Flatten(), nn.Linear(64,10))), 'fit', 2, cbs=GrowDepth())

def blocks(m): return [b for b in m.blocks if any(True for _ in b.parameters())]

@pytest.mark.parametrize('kw', [dict(half_life=5), dict(block='model'), dict(half_life=5, place='stack'), dict(block='model', zero_last=True)], ids=['ema','model','stack','zero'])
def test_depth_callback_does_as_told(data, kw):
    "In a fit new blocks are copies of the average, kept here by hand, or of the model, where they belong; or the identity"
    class Mine(Callback):
        order,run_valid,new = 100,False,None
        def before_fit(self):
            self.old = blocks(self.learn.model)
            self.avg = [[p.detach().clone() for p in b.parameters()] for b in self.old]
        def after_step(self):
            if self.new is None: self.avg = [[.5**(1/5)*a+(1-.5**(1/5))*p.detach() for a,p in zip(x, b.parameters())] for x,b in zip(self.avg, self.old)]
        def before_batch(self):
            bs = blocks(self.learn.model)
            if self.new is None and len(bs)>len(self.old): self.at, self.new = [next((i for i,o in enumerate(self.old) if o is b), None) for b in bs], copy.deepcopy(bs)
    mine, learn = Mine(), learner(data(), deep(), opt_func=SGD)
    quietly(learn, 'fit', 2, .05, cbs=[GrowDepth(**kw), mine])
    stack = kw.get('place')=='stack'
    assert mine.at==([0,1,None,None] if stack else [0,None,1,None])
    for i,j in enumerate(mine.at):
        if j is not None: continue
        src = i-2 if stack else i-1
        want = mine.avg[mine.at[src]] if kw.get('half_life') else list(mine.new[src].parameters())
        if 'zero_last' not in kw:
            for p,q in zip(mine.new[i].parameters(), want, strict=True): torch.testing.assert_close(p.detach(), q.detach())
        x = torch.randn(2, 16, 24)
        assert torch.equal(mine.new[i].eval()(x), x)==('zero_last' in kw)
    if kw.get('half_life'): assert not torch.equal(mine.avg[0][0], next(mine.new[0].parameters())) # what tells the average from the model

def test_half_life_follows_the_stage(data):
    seen = set()
    class See(Callback):
        order,run_valid = 100,False
        def before_batch(self):
            if self.learn.grow_depth._ema: seen.add(self.learn.grow_depth._ema.decay)
    for kw in (dict(half_life=5.), dict()):
        seen.clear()
        learn = quietly(learner(data(), deep()), 'fit', 4, .001, cbs=[GrowDepth(**kw), See()])
        assert seen=={.5**(1/5) if kw else BlockEMA(learn.model, trace_channels(learn.model, learn.dls.one_batch()[0]), stage=2*len(learn.dls.train)).decay}

@pytest.mark.parametrize('adapt', [False, True])
def test_adapt_lr_in_a_fit(data, adapt):
    "The step after growth: the core's is the gradient's, the skin's is times the ratio of norms"
    class See(Callback):
        order,run_valid,done = 100,False,False
        def before_step(self):
            w = self.learn.model.stem[0].weight
            if not self.done and len(w)==8: self.was, self.g = w.detach().clone(), w.grad.clone()
        def after_step(self):
            w = self.learn.model.stem[0].weight
            if not self.done and len(w)==8: self.now, self.done = w.detach().clone(), True
    see = See()
    quietly(learner(data(), opt_func=SGD), 'fit', 2, .1, wd=0., cbs=[GrowWidth(stages=2, init='random', adapt_lr=adapt), see])
    ratio = see.was[4:].norm()/see.was[:4].norm() if adapt else 1.
    torch.testing.assert_close(see.now[:4], see.was[:4]-.1*see.g[:4])
    torch.testing.assert_close(see.now[4:], see.was[4:]-.1*ratio*see.g[4:])
    assert not adapt or abs(ratio-1)>.05

class Parts(nn.Module):
    "A backbone that grows and a head that does not"
    def __init__(self):
        super().__init__()
        self.backbone, self.head = resnet_cifar(8, width=8, n_in=1)[:4], nn.Sequential(nn.Conv2d(32, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    def forward(self, x): return self.head(self.backbone(x))

def test_submodule_grows_in_a_fit(data):
    class See(Callback):
        order,run_valid = 100,False
        def before_fit(self): self.sizes = []
        def before_batch(self): self.sizes.append((self.learn.model.backbone.stem[0].out_channels, self.learn.model.head[0].out_channels, self.learn.model.head[4].in_features))
    torch.manual_seed(0)
    see, learn = See(), learner(data(), Parts())
    plan = plan_stages(learn, stages=2, rounds=1, submodule='backbone', show_plot=False)
    assert [m[0] for m in plan.measured]==[.5,.625,.75,.875,1.] and plan.measured[0][2]<plan.measured[-1][2]
    quietly(learn, 'fit', 2, .01, cbs=[GrowWidth(stages=2, submodule='backbone'), see])
    n = len(learn.dls.train)
    assert see.sizes==[(4,8,8)]*n+[(8,8,8)]*n
    Parts().load_state_dict(learn.model.state_dict())
    with pytest.raises(ValueError, match="'body'.*backbone, head"): quietly(learner(data(), Parts()), 'fit', 2, cbs=GrowWidth(stages=2, submodule='body'))

def test_frozen_blocks_stay_frozen(data):
    "Copies of frozen blocks are frozen too, and discriminative rates are kept"
    split = lambda m: [list(m.blocks.parameters()), [p for n,p in m.named_parameters() if not n.startswith(('blocks','head'))], list(m.head.parameters())]
    learn = learner(data(), deep(), splitter=split)
    learn.freeze_to(1)
    was = [p.detach().clone() for p in learn.model.blocks[0].mlp.parameters()]
    quietly(learn, 'fit', 2, slice(1e-4,1e-2), cbs=GrowDepth(discard_pretrained=True))
    assert [[id(p) for p in g] for g in learn.opt.param_lists]==[[id(p) for p in g] for g in split(learn.model)]
    assert not any(p.requires_grad for m in learn.model.blocks.modules() if isinstance(m, nn.Linear) for p in m.parameters()) and all(p.requires_grad for p in learn.model.head.parameters())
    assert all(torch.equal(p,q) for p,q in zip(learn.model.blocks[0].mlp.parameters(), was)) and learn.opt.hypers[0]['lr']<learn.opt.hypers[2]['lr']

@pytest.mark.parametrize('carry', [True, False])
@pytest.mark.parametrize('opt', ['sgd','adamw'])
def test_depth_carries_state_or_forgets(data, opt, carry):
    class State(Callback):
        order,run_valid = 200,False
        def before_fit(self): self.n = []
        def before_batch(self): self.n.append(sum(isinstance(v, torch.Tensor) and bool(v.any()) for s in getattr(self.opt, 'opt', self.opt).state.values() for v in s.values()))
    st = State()
    learn = quietly(learner(data(), deep(), opt_func=optimizers[opt]), 'fit', 2, .01, cbs=[GrowDepth(carry_state=carry), st])
    assert (st.n[len(learn.dls.train)]>0)==carry

def test_heads_keep_their_size_where_their_number_doubles():
    "bert2BERT doubles heads, not what a head is made of"
    torch.manual_seed(0)
    m, x = vit(img=16, dim=24, depth=1, heads=2).double().eval(), torch.randn(2,3,16,16).double()
    graph = trace_channels(m, x.float())
    keep = start_narrow(m, graph, .5)
    a = m.blocks[0].attn
    assert a.q.out_features==a.head_dim==12
    y = m(x)
    grow_width(m, graph, keep, 1., init_bert2bert)
    torch.testing.assert_close(m(x), y)
    assert a.q.out_features==24 and a.head_dim==12

@pytest.mark.parametrize('grow', [GrowWidth, GrowDepth])
def test_validation_is_no_fit(data, grow):
    "A callback of the learner leaves `validate` and `get_preds` alone, before the fit and after it"
    learn = learner(data(), deep() if grow is GrowDepth else None, cbs=grow(stages=2, discard_pretrained=True))
    cb = learn.cbs[-1]
    def look():
        shapes = [p.shape for p in learn.model.parameters()]
        with warnings.catch_warnings(), learn.no_logging(), learn.no_bar():
            warnings.simplefilter('error')
            for _ in range(2): learn.validate(); learn.get_preds()
        assert shapes==[p.shape for p in learn.model.parameters()]
    look()
    quietly(learn, 'fit', 2)
    assert len(cb.rows)==2
    look()
    assert len(cb.rows)==2 and learn.recorder.stages is cb.rows

def test_frozen_fit_says_that_it_does_not_grow(data):
    learn, said = learner(data(), splitter=default_split), []
    learn.freeze()
    learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
    learn.fit(2, cbs=GrowWidth(stages=2, discard_pretrained=True))
    assert learn.model.stem[0].out_channels==4 and len(said)==1 and 'stays at width 0.5 in this fit' in said[0]

class Gated(nn.Module):
    "A residual block whose branch does not end with a layer"
    def __init__(self): super().__init__(); self.f = nn.Conv2d(8, 8, 3, padding=1)
    def forward(self, x): return x+torch.sigmoid(self.f(x))

def test_depth_plans_are_tried_before_training(data):
    make = lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *[Gated() for _ in range(4)], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    for kw,ex in ((dict(zero_last=True), NotElasticError), (dict(place=lambda b,c: b), ValueError)):
        learn = learner(data(), make())
        before = copy.deepcopy(learn.model.state_dict())
        with pytest.raises(ex): quietly(learn, 'fit', 2, cbs=GrowDepth(stages=2, **kw))
        assert {k:v.shape for k,v in before.items()}=={k:v.shape for k,v in learn.model.state_dict().items()} and all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())

def test_one_output_is_enough(data):
    "More new vectors than dimensions, by far: the head of a network with one output"
    x = init_orthogonal(torch.randn(1, 1024).double(), 1, 2048)
    assert x.shape==(1,2048) and x.isfinite().all()
    x = init_orthogonal(torch.randn(3, 2).double(), 40, 2)
    torch.testing.assert_close(x[3:].norm(dim=1), x[3:4].norm().expand(37))

class Half(MixedPrecision):
    "bfloat16 on a CPU"
    def __init__(self): super().__init__('bf16')
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)

@pytest.mark.parametrize('grow', [partial(GrowWidth, stages=2), partial(GrowWidth, stages=2, adapt_lr=True, init='variance'), partial(GrowDepth, stages=2)], ids=['width','skins','depth'])
def test_works_with_the_usual_callbacks(data, grow):
    "Mixed precision, clipping, accumulation, channels_last, MixUp, and a schedule with a flat part: sizes and learning rates as planned"
    def fit(*cbs):
        learn = learner(data(), deep() if 'depth' in str(grow.func).lower() else None, cbs=[Half(), GradientClip(1.), GradientAccumulation(256), ChannelsLast(), MixUp()])
        return quietly(learn, 'fit_flat_cos', 3, .005, cbs=list(cbs))
    cb = grow()
    a, b = fit(), fit(cb)
    assert a.recorder.lrs==b.recorder.lrs and len(cb.rows)==2 and torch.isfinite(torch.stack(b.recorder.losses)).all()
    (deep() if cb.by=='depth' else net()).load_state_dict(b.model.state_dict())

def test_compiled_stages(data):
    "Every stage is compiled anew, which counts in its seconds, and the model ends as it was passed in"
    seen, widths = [], []
    def backend(gm, xs):
        time.sleep(.5*(not seen or seen[-1]!=len(widths))) # a compiler takes its time, once a stage
        return seen.append(len(widths)) or gm
    flat = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    learn, real, cb = learner(data(), flat()), torch.compile, GrowWidth(stages=2, compile=True)
    learn.model.compile = lambda: widths.append(learn.model[1].out_features) or nn.Module.compile(learn.model)
    try:
        torch.compile = partial(real, backend=backend) # as `compile=True`, without a C++ compiler's minutes
        quietly(learn, 'fit', 2, .01, cbs=cb)
    finally: torch.compile = real; torch._dynamo.reset()
    assert widths==[8,16] and {*seen}=={1,2} and all(r['seconds']>.5 for r in cb.rows)
    flat().load_state_dict(learn.model.state_dict())

def test_plans_are_for_one_thing(data):
    "A plan goes with what it was measured for; copies that do not fit are an error before training"
    plan = StagePlan((.5,1.), (0.,.5), by='depth')
    with pytest.raises(ValueError, match='measured for growing in depth'): GrowWidth(plan=plan)
    with pytest.raises(ValueError, match='either a plan'): GrowDepth(stages=3, plan=plan)
    unchanged(learner(data()), 'no multiple', init='bert2bert') # .5 to .75
    learn = learner(data())
    with pytest.warns(UserWarning): quietly(learn, 'fit', 3, cbs=[GrowWidth(), Stop()])
    with pytest.raises(ValueError, match='middle of growing'): plan_stages(learn, stages=2)
    assert choose_stages(tuple((i/8, i/8, i) for i in range(2, 9)), stages=3).sizes==(.25,.625,1.)

def test_trackers_start_again_with_each_stage(data):
    "The grown network is not measured by what the smaller one had reached"
    class Loss(Callback): # as if growth had cost much
        order = 55
        def after_epoch(self): self.learn.recorder.log[2] = 1. if self.epoch<2 else 5.-self.epoch/10
    learn, stop, plateau = learner(data(), metrics=[]), EarlyStoppingCallback(patience=3), ReduceLROnPlateau(patience=3)
    with learn.no_bar(), learn.no_logging(): learn.fit(6, 1e-2, cbs=[GrowWidth(stages=3), Loss(), stop, plateau])
    assert len(learn.recorder.values)==6 and learn.opt.hypers[0]['lr']==1e-2

def test_a_cancelled_fit_does_not_load_a_smaller_best(tmp_path):
    class Cancel(Callback):
        def after_batch(self):
            if self.training and self.epoch==2 and self.iter==1: raise CancelFitException
    torch.manual_seed(0)
    learn = Learner(digits_dls(bs=128, device='cpu'), net(), path=tmp_path, cbs=[])
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 1e-2, cbs=[GrowWidth(stages=2), SaveModelCallback(), Cancel()])
    assert learn.model.stem[0].out_channels==8 and not hasattr(learn.model, 'growth')

def test_factored_states_are_forgotten_with_a_warning():
    m, x, graph = fresh('resnet')
    m.float().train()
    keep = start_narrow(m, graph, .5)
    opt = torch.optim.Adafactor(m.parameters(), lr=.1)
    def step(): nn.functional.cross_entropy(m(x.float()), torch.tensor([0,1])).backward(); opt.step(); opt.zero_grad()
    step()
    with pytest.warns(UserWarning, match='Adafactor keeps'): grow_width(m, graph, keep, 1., opt=opt)
    was = [p.detach().clone() for p in m.parameters()]
    step()
    assert all(not torch.equal(p,q) for p,q in zip(m.parameters(), was))

def test_failing_init_leaves_the_model_as_it_was():
    m, x, graph = fresh('resnet')
    keep, n = start_narrow(m, graph, .5), [0]
    before = copy.deepcopy(m.state_dict())
    def init(w, o, i):
        n[0] += 1
        if n[0]>5: raise RuntimeError('no more')
        return init_random(w, o, i)
    with pytest.raises(ValueError, match='layer.*no more'): grow_width(m, graph, keep, 1., init)
    assert all(torch.equal(p, before[n]) for n,p in m.state_dict().items())

def test_a_second_fit_with_the_same_callback_trains_on(data):
    learn = learner(data(), cbs=GrowWidth(stages=2))
    quietly(learn, 'fit', 2, .01)
    was = learn.model.stem[0].weight.detach().clone()
    with pytest.warns(UserWarning, match='grown already'):
        quietly(learn, 'fit', 1, 0.)
        with learn.no_logging(): learn.lr_find(show_plot=False, num_it=4)
        quietly(learn, 'fit', 1, 0.)
    assert torch.equal(learn.model.stem[0].weight, was) and learn.model.stem[0].out_channels==8

def test_an_interrupted_fit_without_growth_is_over(data):
    "Ctrl-C in lr_find: the callback grows in the next fit"
    class Ctrl(Callback):
        def after_batch(self): raise KeyboardInterrupt
    learn = learner(data(), cbs=GrowWidth(stages=2, discard_pretrained=True)) # fastai does not undo what an interrupted lr_find trained
    with learn.no_logging(), learn.added_cbs(Ctrl()), pytest.raises(KeyboardInterrupt): learn.lr_find(show_plot=False, num_it=4)
    quietly(learn, 'fit', 2, .01)
    assert [r['width'] for r in learn.recorder.stages]==[.5,1.]

def test_an_early_end_saves_and_recalibrates(tmp_path):
    "Stopped between a growth and its validation: a checkpoint for the end is of the model as it is, with the statistics of its new channels"
    class Cancel(Callback):
        def after_batch(self):
            if self.training and self.epoch==2 and self.iter==1: raise CancelFitException
    torch.manual_seed(0)
    learn = Learner(digits_dls(bs=128, device='cpu'), net(), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 1e-2, cbs=[GrowWidth(stages=2), SaveModelCallback(at_end=True), Cancel()])
    again = calibrate_bn(copy.deepcopy(learn.model), learn.dls.train)
    for (n,a),b in zip(learn.model.named_buffers(), again.buffers()):
        if 'running' in n: torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    now = {n:p.clone() for n,p in learn.model.state_dict().items()}
    learn.load('model')
    assert all(torch.equal(p, now[n]) for n,p in learn.model.state_dict().items())

def test_blocks_that_share_weights_do_not_grow_in_depth(data):
    class Block(nn.Module):
        def __init__(self, shared): super().__init__(); self.own,self.shared = nn.Linear(64, 64),shared
        def forward(self, x): return x+self.shared(self.own(x).relu())
    def make(one): return nn.Sequential(nn.Flatten(), nn.Sequential(*[Block(one or nn.Linear(64, 64)) for _ in range(4)]), nn.Linear(64, 10))
    learn = learner(data(), make(nn.Linear(64, 64)))
    with pytest.raises(ValueError, match='1.0.shared.weight and 1.1.shared.weight are the same parameter'): quietly(learn, 'fit', 2, cbs=GrowDepth())
    assert sum(isinstance(b, Block) for b in learn.model[1])==4
    learn = quietly(learner(data(), make(None)), 'fit', 2, cbs=GrowDepth())
    assert [r['depth'] for r in learn.recorder.stages]==[.5,1.]

def test_new_blocks_have_no_hooks_of_callbacks(data):
    from fastai.callback.hook import ActivationStats
    learn = quietly(learner(data(), deep(), cbs=ActivationStats()), 'fit', 2, cbs=GrowDepth(stages=2))
    assert len(blocks(learn.model))==4 and not any(m._forward_hooks for m in learn.model.modules())

def test_plan_stages_leaves_a_ready_made_optimizer_alone(data):
    m = net()
    learn = learner(data(), m, opt_func=OptimWrapper(opt=torch.optim.AdamW(m.parameters(), lr=.01, betas=(.8,.9))))
    quietly(learn, 'fit', 1)
    before = copy.deepcopy(learn.opt.opt.state_dict())
    plan_stages(learn, stages=2, rounds=1, show_plot=False)
    now = learn.opt.opt.state_dict()
    assert before['param_groups']==now['param_groups'] and len(now['state'])==len(before['state'])>0
    assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(now['state'][p][k])) for p,st in before['state'].items() for k,v in st.items())
    like = opt_like(learn.opt_func)(net().parameters(), lr=.1)
    assert type(like.opt) is torch.optim.AdamW and like.opt.param_groups[0]['betas']==(.8,.9)

def test_names_and_compiled_models_that_cannot_be(data):
    class Named(nn.Sequential): growth = 32
    learn = learner(data(), Named(*net().children()))
    with pytest.raises(ValueError, match='`growth` of its own'): quietly(learn, 'fit', 3, cbs=GrowWidth())
    with pytest.raises(ValueError, match='`growth` of its own'): plan_stages(learn, stages=2)
    learn = learner(data(), torch.compile(net(), backend='eager'))
    with pytest.raises(ValueError, match='the model is compiled: give the Learner the plain model'): quietly(learn, 'fit', 3, cbs=GrowWidth())

def test_stages_without_a_step_are_an_error(data):
    for starts in ((0,.001), (0,.999)): unchanged(learner(data()), 'has no step', plan=StagePlan((.5,1.), starts))

def test_resuming_is_checked_too(data):
    learn = learner(data())
    with pytest.warns(UserWarning): quietly(learn, 'fit', 2, cbs=[GrowWidth(stages=2), Stop()])
    with pytest.raises(ValueError, match='no multiple'): quietly(learn, 'fit', 3, cbs=GrowWidth(stages=3, init='bert2bert'))
    with pytest.raises(ValueError, match='growing in width'): quietly(learn, 'fit', 1, cbs=GrowDepth())
    quietly(learn, 'fit', 1, cbs=GrowWidth(plan=StagePlan((1.,), (0.,))))
    net().load_state_dict(learn.model.state_dict())

def test_plan_stages_keeps_the_users_targets(data):
    class Auto(Callback):
        def before_batch(self): self.learn.yb = (self.xb[0].flatten(1),)
    auto = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))
    times = step_seconds(learner(data(), auto, loss_func=MSELossFlat(), cbs=Auto()), {1.:auto}, 1)
    assert times[1.]>0
    with pytest.raises(ValueError, match='nothing was measured'): StagePlan((.5,1.), (0,.5)).speedup()
    assert 'Nothing can grow' in str(plan_stages(learner(data(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), stages=2, rounds=1, show_plot=False))

def test_optimizers_that_remember_from_the_start_are_not_a_past(data):
    "Adagrad has its sums before the first step"
    learn = learner(data(), opt_func=partial(OptimWrapper, opt=torch.optim.Adagrad))
    learn.create_opt()
    assert past_of(learn)==''
    quietly(learn, 'fit', 2, .01, cbs=GrowWidth(stages=2))
    net().load_state_dict(learn.model.state_dict())

DISTRIBUTED = """
import sys, torch
from functools import partial
from fastai.vision.all import *
from fastai.distributed import *
import fastai.distributed as fd
from elastic_nets.zoo.data import digits_dls
from elastic_nets.grow.growing import GrowDepth, GrowWidth
from elastic_nets.zoo.models import resnet_cifar, vit
fd.DistributedDL._broadcast = lambda self, t, rank: (lambda x: (torch.distributed.broadcast(x, rank), x.tolist())[1])(torch.LongTensor(t)) # fastai's is for a GPU
torch.set_num_threads(1)
class Batches(Callback):
    "Batches that every process takes alike would make the same weights without any exchange"
    run_valid = False
    def after_batch(self): self.seen = self.y.tolist()
for grow,make in ((GrowWidth, partial(resnet_cifar, 8, width=8, n_in=1)), (GrowDepth, partial(vit, img=8, patch=2, dim=24, depth=4, heads=2, n_in=1))):
    torch.manual_seed(rank_distrib()) # other new channels in every process, if nobody shared them out
    learn = Learner(digits_dls(bs=128, device='cpu'), make()).remove_cb(ProgressCallback)
    see = Batches()
    with learn.distrib_ctx(sync_bn=False, cpu=True), learn.no_logging(): learn.fit(4, .05, cbs=[grow(stages=2), see])
    torch.save(dict(model=learn.model.state_dict(), seen=see.seen, stages=[r['width' if grow is GrowWidth else 'depth'] for r in learn.recorder.stages]), f'{sys.argv[1]}/{grow.__name__}{rank_distrib()}')
"""

def test_distributed(tmp_path):
    "Two processes with batches of their own end with the same weights, of the whole model, although each draws other new channels"
    (tmp_path/'run.py').write_text(DISTRIBUTED)
    res = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', str(20000+os.getpid()%20000), str(tmp_path/'run.py'), str(tmp_path)],
        env={**os.environ, 'OMP_NUM_THREADS':'1', 'CUDA_VISIBLE_DEVICES':''}, capture_output=True, text=True, timeout=300)
    assert res.returncode==0, res.stderr[-3000:]
    for name,make in (('GrowWidth',net), ('GrowDepth',lambda: vit(img=8, patch=2, dim=24, depth=4, heads=2, n_in=1))):
        a,b = [torch.load(tmp_path/f'{name}{i}') for i in (0,1)]
        assert a['stages']==b['stages']==[.5,1.] and a['seen']!=b['seen']
        make().load_state_dict(a['model'])
        for n,p in a['model'].items():
            if 'running' not in n and 'num_batches' not in n: assert torch.equal(p, b['model'][n]), n
