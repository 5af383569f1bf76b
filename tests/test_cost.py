"MACs, parameters, latency and the bill of a training run"
import copy, gc, pickle, random, time, weakref
from types import SimpleNamespace
import pytest, torch
from fastai.callback.core import Callback, CancelFitException
from fastcore.imports import noop
from torch import nn
from torchvision.models import VisionTransformer, mobilenet_v2, resnet18
import elastic_nets.all # noqa: F401, gives a Supernet its methods
from elastic_nets.subnets import cost
from elastic_nets.subnets.cost import CostMeter, cost_table, latency, layer_macs, macs, n_params
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.models import resnet_cifar, vit
from helpers import compiles_in_place, counted_macs, new_learner

hooks = torch.nn.modules.module._global_forward_hooks

def compiled_twice(counter):
    "For training and for validation"
    return counter.frame_count==2 or not compiles_in_place()

# ---- networks and subnets

class Decoder(nn.Module):
    "Transposed, grouped and one-dimensional convolutions, and a layer that is used twice"
    def __init__(self):
        super().__init__()
        self.down, self.same = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 5, padding=2)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(32, 12, 4, stride=2, padding=1)
        self.line, self.out = nn.Conv1d(12, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.same(self.same(self.down(x)).relu()).relu()
        x = self.line(self.up(self.grouped(x)).relu().flatten(2))
        return self.out(x.transpose(1, 2))

nets = {'resnet18': (lambda: resnet18(num_classes=10), dict(depths=(0,.5,1), kernels=(1,3,5,7))),
        'mobilenet_v2': (lambda: mobilenet_v2(num_classes=10), dict(depths=(0,.5,1), kernels=(1,3))),
        'resnet_cifar': (lambda: resnet_cifar(14), dict(depths=(0,1), kernels=(1,3), divisor=4)),
        'decoder': (Decoder, dict(kernels=(1,3,5))),
        'vit': (lambda: vit(img=32, dim=24, depth=3), dict(depths=(0,.5,1))),
        'torchvision vit': (lambda: VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5), {})}

@pytest.mark.parametrize('name', nets)
def test_layer_by_layer(name):
    "A subnet costs what is counted on its extraction, on the model while it is active, and by PyTorch"
    build, choices = nets[name]
    torch.manual_seed(0)
    model, x, rng = build(), torch.randn(2,3,32,32), random.Random(0)
    sn = Supernet(model, x, check=False, **choices)
    subs = [sn.space.max, sn.space.min, *[sn.space.sample(rng) for _ in range(4)]]
    for dim in ('width', 'depth', 'kernel'):
        if getattr(sn.space, dim): assert len({getattr(s, dim) for s in subs})>2, f'the {dim} never changed'
    for s in subs:
        small = sn.extract(s).eval()
        want, n = layer_macs(small, x), n_params(small)
        assert layer_macs(sn, s) == want and macs(sn, s) == macs(small, x) == sum(want.values())
        assert n_params(sn, s) == n
        with sn.active(s): assert layer_macs(model, x) == layer_macs(sn) == want and n_params(sn) == n
        assert macs(small, x) == counted_macs(lambda: small(x[:1]))

def test_resolution():
    sn = Supernet(resnet18(num_classes=10), torch.randn(2,3,64,64), resolutions=(32,64), check=False)
    for s in (sn.space.min, sn.space.max):
        assert layer_macs(sn, s) == layer_macs(sn.extract(s), torch.randn(1,3,s.resolution,s.resolution))

def test_counting_leaves_no_trace():
    "Modes, statistics, random numbers, gradients and hooks are as before, also after an error"
    m = resnet18(num_classes=10).train()
    m.layer1.eval()
    modes, state, rng = [l.training for l in m.modules()], copy.deepcopy(m.state_dict()), torch.get_rng_state()
    for f in (macs, lambda m,x: latency(m, x, n=2, warmup=0)):
        f(m, torch.ones(2,3,32,32))
        with pytest.raises(RuntimeError): f(m, torch.ones(2,4,32,32))
        assert [l.training for l in m.modules()] == modes and torch.is_grad_enabled()
        assert all(torch.equal(a, b) for a,b in zip(m.state_dict().values(), state.values()))
        assert torch.equal(torch.get_rng_state(), rng) and not any(l._forward_hooks for l in m.modules())

def test_latency_waits_for_the_device(monkeypatch):
    "Before and after every timed call; slow first calls are not counted"
    log = []
    class Slow(nn.Module):
        def forward(self, x):
            log.append('call')
            time.sleep(.1 if log.count('call')<=4 else .002)
    monkeypatch.setattr(cost, 'synchronize', lambda m: log.append('sync'))
    l = latency(Slow(), torch.ones(1), n=3, warmup=4)
    assert log == ['sync','call','sync']*7 and l.n == 3 and .002 <= l.median < .1

def test_only_devices_that_run_ahead_are_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, 'synchronize', waited.append)
    for name in ('cuda:1','mps','cpu'):
        p = SimpleNamespace(device=torch.device(name))
        cost.synchronize(SimpleNamespace(parameters=lambda: iter([p])))
    assert waited == [torch.device('cuda:1'), torch.device('mps')]

# ---- the bill of a training run: four steps an epoch on 32 pictures

def small_net():
    block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Sequential(block),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

data = torch.randn(32,3,8,8), torch.arange(32)%4

def learner(model=None, cbs=None):
    "In float32, with plain SGD, without a table of results"
    valid = [t[:16] for t in data]
    learn = new_learner(model or small_net(), data, valid, bs=8, mom=0., dtype=torch.float32, cbs=cbs)
    learn.logger = noop
    return learn

def step_macs(model):
    "Of forward and backward of one batch"
    model = copy.deepcopy(model).train()
    return counted_macs(lambda: model(data[0][:8]).sum().backward())

class At(Callback):
    "Do something at `event` of training step `i`"
    def __init__(self, event, i, f): self.event, self.i, self.f = event, i, f
    def __call__(self, event):
        if event==self.event and self.learn.training and getattr(self.learn, 'iter', None)==self.i: self.f(self.learn)

def widen(learn):
    "Twice the channels inside the block, in place: the same modules and parameters"
    a, b = learn.model[0], learn.model[3][0][0]
    learn.pred = learn.loss_grad = None # the graph of the last step knows the old shapes
    learn.loss = learn.loss.detach()
    for p,dim in ((a.weight,0), (a.bias,0), (b.weight,1)):
        p.data = torch.cat([p.data]*2, dim)
        p.grad = None
    a.out_channels = b.in_channels = 16
    learn.model[1] = nn.BatchNorm2d(16)

def deepen(learn):
    "A copy of a block that has run already"
    learn.model[3].append(copy.deepcopy(learn.model[3][0]))

@pytest.mark.parametrize('event', ['before_batch','after_step'])
@pytest.mark.parametrize('grow', [widen, deepen])
def test_growth_in_the_middle(grow, event):
    learn, meter = learner(), CostMeter()
    small = step_macs(learn.model)
    learn.fit(1, cbs=[At(event, 2, grow), meter])
    large = step_macs(learn.model)
    assert large>small and meter.row['macs'] == (2*small+2*large if event=='before_batch' else 3*small+large)

def test_copies_in_the_middle():
    "What is copied or pickled during training carries no hook away, and does not count"
    got, learn, meter = [], learner(), CostMeter()
    one = step_macs(learn.model)
    def copies(l): got.extend([copy.deepcopy(l.model), pickle.loads(pickle.dumps(l.model))])
    learn.fit(1, cbs=[At('after_backward', 1, copies), meter])
    for m in got: m(data[0][:8])
    assert len(got) == 2 and meter.row['macs'] == 4*one and not hooks

def test_other_passes():
    "Extra passes of a step count as they are: with gradients, without, and in validation not at all"
    learn, meter, teacher = learner(), CostMeter(), small_net()
    one, x = step_macs(learn.model), data[0][:8]
    def more(l):
        l.model(x).sum().backward()
        with torch.no_grad(): teacher(x)
    class InValidation(Callback):
        def after_pred(self):
            if not self.training: self.learn.model(x)
    learn.fit(1, cbs=[At('after_backward', 1, more), InValidation(), meter])
    assert meter.row['macs'] == 5*one+8*macs(teacher, x)

def test_frozen():
    learn, meter = learner(), CostMeter()
    learn.model[0].requires_grad_(False)
    learn.model[3].requires_grad_(False)
    part = step_macs(learn.model)
    learn.fit(1, cbs=meter)
    assert meter.row['macs'] == 4*part < 4*step_macs(small_net())

def test_seconds(monkeypatch):
    "Work between epochs belongs to training, validation does not, a pause to neither; waits at borders only"
    waits = []
    monkeypatch.setattr(cost, 'synchronize', waits.append)
    class Sleep(Callback):
        def before_epoch(self): time.sleep(.1)
        def after_batch(self): time.sleep(.02 if self.training else .1)
    learn, meter = learner(), CostMeter(price_per_hour=3600, devices=2)
    t = time.perf_counter()
    learn.fit(1, cbs=[Sleep(), meter])
    t, r = time.perf_counter()-t, meter.row
    assert waits == [learn.model]*3
    assert r['seconds'] >= .18 and r['valid_seconds'] >= .2 and r['seconds']+r['valid_seconds'] <= t
    assert r['device_hours'] == pytest.approx(2*r['seconds']/3600) and r['money'] == pytest.approx(2*r['seconds'])
    time.sleep(.5)
    t = time.perf_counter()
    learn.fit(1, cbs=[meter])
    assert 0 < meter.row['seconds']-r['seconds'] <= time.perf_counter()-t and meter.row['samples'] == 64

@pytest.mark.parametrize('exc', [CancelFitException, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize('attached', [False, True])
def test_interrupted(exc, attached):
    "What was done is on the bill; nothing after it is; the next fit goes on; no hook and no learner stay behind"
    def stop(learn): raise exc('stop')
    meter = CostMeter()
    learn = learner(cbs=meter if attached else None)
    one = step_macs(learn.model)
    sleeps, stops = At('after_step', 0, lambda l: time.sleep(.2)), At('after_step', 1, stop)
    try: learn.fit(1, cbs=[sleeps, stops, *([] if attached else [meter])])
    except (KeyboardInterrupt, RuntimeError): pass
    r = meter.row
    assert r['macs'] == 2*one and r['samples'] == 16 and r['seconds'] >= .2
    if not attached:
        learn.model(data[0][:8])
        assert not hooks and meter.row['macs'] == r['macs']
    time.sleep(.5)
    t = time.perf_counter()
    learn.fit(1, cbs=None if attached else meter)
    assert meter.row['macs'] == 6*one and meter.row['seconds']-r['seconds'] <= time.perf_counter()-t and not hooks
    try: learn.fit(1, cbs=[stops, *([] if attached else [meter])])
    except (KeyboardInterrupt, RuntimeError): pass
    gone = weakref.ref(learn)
    del learn, meter
    gc.collect()
    assert gone() is None and not hooks

def keep_pickle(learn): learn.kept = pickle.dumps(learn.cost_meter)

def test_attached_meter_is_saved():
    "A learner that is copied in the middle of a fit, or saved after it, keeps its bill and can go on"
    meter = CostMeter()
    learn = learner(cbs=meter)
    learn.fit(1, cbs=At('after_step', 1, keep_pickle))
    assert pickle.loads(learn.kept).row['samples'] == 16
    saved = pickle.loads(pickle.dumps(learn))
    assert saved.cost == learn.cost == meter.row
    saved.fit(1)
    assert saved.cost['macs'] == 2*learn.cost['macs'] and not hooks

def test_processes(monkeypatch):
    "Every process counts its share; one device each unless said otherwise"
    meter = CostMeter(price_per_hour=1)
    learner().fit(1, cbs=meter)
    a = meter.row
    monkeypatch.setenv('WORLD_SIZE', '4')
    b = meter.row
    assert [b[k]/a[k] for k in ('samples','macs','device_hours','money','seconds')] == [4,4,4,4,1]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('how', ['wrapped','in place'])
def test_compiled(how):
    "Compiled models are counted, and compiled once for training and once for validation"
    import torch._dynamo as dynamo
    from torch._dynamo.testing import CompileCounter
    dynamo.reset()
    counter, net, meter = CompileCounter(), small_net(), CostMeter()
    if how=='wrapped': model = torch.compile(net, backend=counter)
    else: (model := net).compile(backend=counter)
    learn = learner(model)
    learn.fit(2, cbs=meter)
    assert meter.row['macs'] == 64*3*macs(small_net(), torch.ones(1,3,8,8)) and compiled_twice(counter)
    learn.fit(1)
    learn.fit(1, cbs=meter)
    assert compiled_twice(counter)
    dynamo.reset()

def test_compiled_in_the_middle():
    "A model that is compiled after some steps is counted on, and not compiled at each step"
    import torch._dynamo as dynamo
    from torch._dynamo.testing import CompileCounter
    dynamo.reset()
    counter, learn, meter = CompileCounter(), learner(), CostMeter()
    one, rest = step_macs(learn.model), 8*3*macs(learn.model, torch.ones(1,3,8,8))
    learn.fit(2, cbs=[At('before_batch', 2, lambda l: l.epoch or l.model.compile(backend=counter)), meter])
    assert meter.row['macs'] == 2*one+6*rest and compiled_twice(counter)
    dynamo.reset()

def test_table():
    "Ratios are to the first row; what nobody has is no column; what a row brings is one"
    base = dict(seconds=2., valid_seconds=1., samples=10, macs=100, device_hours=.5, money=None)
    df = cost_table({'scratch': {**base, 'accuracy':.9}, 'grown': {**base, 'seconds':1., 'macs':50, 'accuracy':.8}})
    assert list(df.index) == ['scratch','grown'] and 'money' not in df and df['accuracy'].tolist() == [.9,.8]
    assert df['seconds ratio'].tolist() == [1,.5] and df['macs ratio'].tolist() == [1,.5] and 'money ratio' not in df
    meter = CostMeter(price_per_hour=1)
    learner().fit(1, cbs=meter)
    assert cost_table({'a':meter, 'b':{**meter.row, 'money':2*meter.row['money']}})['money ratio'].tolist() == [1,2]
