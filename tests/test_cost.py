"MACs, parameters, latency and the bill of a training run"
import copy, gc, pickle, random, time, weakref
from types import SimpleNamespace
import pytest, torch
from fastai.vision.all import Callback, CancelFitException, CrossEntropyLossFlat, DataLoaders, Learner, ProgressCallback, SGD, noop
from torch import nn
from torchvision.models import VisionTransformer, mobilenet_v2, resnet18
from elastic_nets.subnets import cost
from elastic_nets.subnets.cost import CostMeter, cost_table, latency, layer_macs, macs, n_params
from elastic_nets.zoo.models import resnet_cifar, vit
from elastic_nets.subnets.supernet import Supernet
from helpers import counted_macs

hooks = torch.nn.modules.module._global_forward_hooks

def compiled_twice(counter):
    "For training and for validation; PyTorch 2.8 compiles a model in place less often, or more, with and without a meter"
    return torch.__version__<(2,9) or counter.frame_count==2

class Decoder(nn.Module):
    "Transposed, grouped and one-dimensional convolutions, and a layer that is used twice"
    def __init__(self):
        super().__init__()
        self.down,self.same = nn.Conv2d(3, 16, 3, stride=2, padding=1),nn.Conv2d(16, 16, 5, padding=2)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.up,self.line,self.out = nn.ConvTranspose2d(32, 12, 4, stride=2, padding=1),nn.Conv1d(12, 8, 3, padding=1),nn.Linear(8, 5)

    def forward(self, x):
        x = self.same(self.same(self.down(x)).relu()).relu()
        x = self.line(self.up(self.grouped(x)).relu().flatten(2))
        return self.out(x.transpose(1, 2))

cases = {'resnet18': (lambda: resnet18(num_classes=10), dict(depths=(0,.5,1), kernels=(1,3,5,7)), 0),
         'mobilenet_v2': (lambda: mobilenet_v2(num_classes=10), dict(depths=(0,.5,1), kernels=(1,3)), 0),
         'resnet_cifar': (lambda: resnet_cifar(14), dict(depths=(0,1), kernels=(1,3), divisor=4), 0),
         'decoder': (Decoder, dict(kernels=(1,3,5)), 0),
         'vit': (lambda: vit(img=32, dim=24, depth=3), dict(depths=(0,.5,1)), 2*64**2), # per channel of the heads: queries by keys, shares by values
         'torchvision vit': (lambda: VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5), {}, 2*17**2*24+17*4*24**2)} # its projections are no layers

@pytest.mark.parametrize('name', cases)
def test_layer_by_layer(name):
    "A subnet costs what is counted on its extraction, on the model while it is active, and by PyTorch"
    build,choices,attention = cases[name]
    torch.manual_seed(0)
    model,x,rng = build(),torch.randn(2,3,32,32),random.Random(0)
    sn = Supernet(model, x, check=False, **choices)
    subs = [sn.space.max, sn.space.min, *[sn.space.sample(rng) for _ in range(4)]]
    for kind in ('width', *(['depth'] if 'depths' in choices else []), *(['kernel'] if 'kernels' in choices else [])):
        assert len({getattr(s, kind) for s in subs})>2, f'the {kind} never changed'
    for s in subs:
        small = sn.extract(s).eval()
        want = layer_macs(small, x)
        assert layer_macs(sn, s) == want and macs(sn, s) == macs(small, x) == sum(want.values())
        assert n_params(sn, s) == n_params(small)
        with sn.active(s): assert layer_macs(model, x) == layer_macs(sn) == want and n_params(sn) == n_params(small)
        heads = 2 if 'torchvision' in name else sum(m.q.out_features for m in small.modules() if type(m).__name__=='Attention') # torchvision's: two blocks
        assert macs(small, x)+attention*heads == counted_macs(lambda: small(x[:1]))

def test_resolution():
    sn = Supernet(resnet18(num_classes=10), torch.randn(2,3,64,64), resolutions=(32,64), check=False)
    for s in (sn.space.min, sn.space.max): assert layer_macs(sn, s) == layer_macs(sn.extract(s), torch.randn(1,3,s.resolution,s.resolution))

def test_counting_leaves_no_trace():
    "Modes, statistics, random numbers, gradients and hooks are as before, also after an error"
    m = resnet18(num_classes=10).train()
    m.layer1.eval()
    modes,state,rng = [l.training for l in m.modules()],copy.deepcopy(m.state_dict()),torch.get_rng_state()
    for f in (macs, lambda m,x: latency(m, x, n=2, warmup=0)):
        f(m, torch.ones(2,3,32,32))
        with pytest.raises(RuntimeError): f(m, torch.ones(2,4,32,32))
        assert [l.training for l in m.modules()] == modes and torch.is_grad_enabled()
        assert all(torch.equal(a, b) for a,b in zip(m.state_dict().values(), state.values())) and torch.equal(torch.get_rng_state(), rng)
        assert not any(l._forward_hooks for l in m.modules())

def test_latency_waits(monkeypatch):
    "The device is waited for before and after every timed call; slow first calls are not counted"
    log = []
    class Slow(nn.Module):
        def forward(self, x):
            log.append('call')
            time.sleep(.1 if log.count('call')<=4 else .002)
    monkeypatch.setattr(cost, 'synchronize', lambda m: log.append('sync'))
    l = latency(Slow(), torch.ones(1), n=3, warmup=4)
    assert log == ['sync','call','sync']*7 and l.n == 3 and .002 <= l.median < .1
    monkeypatch.undo()
    waited = []
    monkeypatch.setattr(torch.accelerator, 'synchronize', waited.append)
    for d in ('cuda:1','mps','cpu'): cost.synchronize(SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device(d))])))
    assert waited == [torch.device('cuda:1'), torch.device('mps')]

def test_bad_input():
    m,x = nn.Linear(4,2),torch.ones(1,4)
    sn = Supernet(nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,2)), x)
    other = Supernet(nn.Sequential(nn.Linear(4,6), nn.ReLU(), nn.Linear(6,2)), x, widths=(.5,1)).space.min
    for f,err,msg in ((lambda: macs(m), TypeError, 'counted on a batch'), (lambda: macs(m, other), TypeError, 'needs its Supernet'), (lambda: macs(sn, x), TypeError, 'got Tensor'),
                      (lambda: macs(sn, other), ValueError, 'only 2, 4, 6, 8'), (lambda: n_params(sn, other), ValueError, 'only 2, 4, 6, 8'),
                      (lambda: n_params(m, other), TypeError, 'only a Supernet'), (lambda: latency(sn, x), TypeError, 'sn.extract'),
                      (lambda: latency(m, x, n=1), ValueError, 'n=1'), (lambda: CostMeter(price_per_hour=-1), ValueError, '-1'), (lambda: CostMeter(devices=0), ValueError, '0'),
                      (lambda: cost_table({}), ValueError, 'at least one'), (lambda: cost_table({'a':3}), ValueError, r"rows\['a'\].*int")):
        with pytest.raises(err, match=msg): f()

@pytest.fixture(scope='module')
def dls():
    ds = [(torch.randn(3,8,8), torch.tensor(i%4)) for i in range(32)]
    return DataLoaders.from_dsets(ds, ds[:16], bs=8, num_workers=0, device='cpu')

def small_net():
    block = lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Sequential(block()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

def learner(dls, model, cbs=None):
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), opt_func=SGD, cbs=cbs).remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

def step_macs(model, dls):
    model = copy.deepcopy(model).train()
    return counted_macs(lambda: model(dls.one_batch()[0]).sum().backward())

class At(Callback):
    "Do something at `event` of training step `i`"
    def __init__(self, event, i, f): self.event,self.i,self.f = event,i,f
    def __call__(self, event):
        if event==self.event and self.learn.training and getattr(self.learn, 'iter', None)==self.i: self.f(self.learn)

def widen(learn):
    "Twice the channels inside the block, in place: the same modules and parameters"
    a,b = learn.model[0],learn.model[3][0][0]
    learn.pred = learn.loss_grad = None # the graph of the last step knows the old shapes
    learn.loss = learn.loss.detach()
    for p in (a.weight, a.bias): p.data,p.grad = torch.cat([p.data]*2),None
    b.weight.data,b.weight.grad = torch.cat([b.weight.data]*2, 1),None
    a.out_channels = b.in_channels = 16
    learn.model[1] = nn.BatchNorm2d(16)

def deepen(learn):
    "A copy of a block that has run already"
    learn.model[3].append(copy.deepcopy(learn.model[3][0]))

@pytest.mark.parametrize('event', ['before_batch','after_step'])
@pytest.mark.parametrize('grow', [widen, deepen])
def test_growth_in_the_middle(dls, grow, event):
    learn,meter = learner(dls, small_net()),CostMeter()
    small = step_macs(learn.model, dls)
    learn.fit(1, cbs=[At(event, 2, grow), meter])
    large = step_macs(learn.model, dls)
    assert large>small and meter.row['macs'] == (2*small+2*large if event=='before_batch' else 3*small+large)

def test_copies_in_the_middle(dls):
    "What is copied or pickled during training carries no hook away, and does not count"
    got,learn,meter = [],learner(dls, small_net()),CostMeter()
    one = step_macs(learn.model, dls)
    learn.fit(1, cbs=[At('after_backward', 1, lambda l: got.extend([copy.deepcopy(l.model), pickle.loads(pickle.dumps(l.model))])), meter])
    for m in got: m(dls.one_batch()[0])
    assert len(got) == 2 and meter.row['macs'] == 4*one and not hooks

def test_other_passes(dls):
    "Extra passes of a step count as they are: with gradients, without, and in validation not at all"
    learn,meter,teacher = learner(dls, small_net()),CostMeter(),small_net()
    one,x = step_macs(learn.model, dls),dls.one_batch()[0]
    def more(l):
        l.model(x).sum().backward()
        with torch.no_grad(): teacher(x)
    class InValidation(Callback):
        def after_pred(self):
            if not self.training: self.learn.model(x)
    learn.fit(1, cbs=[At('after_backward', 1, more), InValidation(), meter])
    assert meter.row['macs'] == 5*one+8*macs(teacher, x)

def test_frozen(dls):
    learn,meter = learner(dls, small_net()),CostMeter()
    learn.model[0].requires_grad_(False); learn.model[3].requires_grad_(False)
    part = step_macs(learn.model, dls)
    learn.fit(1, cbs=meter)
    assert meter.row['macs'] == 4*part < 4*step_macs(small_net(), dls)

def test_seconds(dls, monkeypatch):
    "Work between epochs belongs to training, validation does not; a pause between fits to neither; the device is waited for at the borders only"
    waits = []
    monkeypatch.setattr(cost, 'synchronize', waits.append)
    class Sleep(Callback):
        def before_epoch(self): time.sleep(.1)
        def after_batch(self): time.sleep(.02 if self.training else .1)
    learn,meter = learner(dls, small_net()),CostMeter(price_per_hour=3600, devices=2)
    t = time.perf_counter()
    learn.fit(1, cbs=[Sleep(), meter])
    t,r = time.perf_counter()-t,meter.row
    assert waits == [learn.model]*3
    assert r['seconds'] >= .18 and r['valid_seconds'] >= .2 and r['seconds']+r['valid_seconds'] <= t
    assert r['device_hours'] == pytest.approx(2*r['seconds']/3600) and r['money'] == pytest.approx(2*r['seconds'])
    time.sleep(.5)
    t = time.perf_counter()
    learn.fit(1, cbs=[meter])
    assert 0 < meter.row['seconds']-r['seconds'] <= time.perf_counter()-t and meter.row['samples'] == 64

@pytest.mark.parametrize('exc', [CancelFitException, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize('attached', [False, True])
def test_interrupted(dls, exc, attached):
    "What was done is on the bill; nothing after it is; the next fit goes on; no hook and no learner stay behind"
    def stop(learn): raise exc('stop')
    meter = CostMeter()
    learn = learner(dls, small_net(), cbs=meter if attached else None)
    one = step_macs(learn.model, dls)
    try: learn.fit(1, cbs=[At('after_step', 0, lambda l: time.sleep(.2)), At('after_step', 1, stop), *([] if attached else [meter])])
    except (KeyboardInterrupt, RuntimeError): pass
    r = meter.row
    assert r['macs'] == 2*one and r['samples'] == 16 and r['seconds'] >= .2
    if not attached:
        learn.model(dls.one_batch()[0])
        assert not hooks and meter.row['macs'] == r['macs']
    time.sleep(.5)
    t = time.perf_counter()
    learn.fit(1, cbs=None if attached else meter)
    assert meter.row['macs'] == 6*one and meter.row['seconds']-r['seconds'] <= time.perf_counter()-t and not hooks
    try: learn.fit(1, cbs=[At('after_step', 1, stop), *([] if attached else [meter])])
    except (KeyboardInterrupt, RuntimeError): pass
    gone = weakref.ref(learn)
    del learn, meter
    gc.collect()
    assert gone() is None and not hooks

def keep_pickle(learn): learn.kept = pickle.dumps(learn.cost_meter)

def test_attached_meter_is_saved(dls):
    "A learner that is copied in the middle of a fit, or saved after it, keeps its bill and can go on"
    meter = CostMeter()
    learn = learner(dls, small_net(), cbs=meter)
    learn.fit(1, cbs=At('after_step', 1, keep_pickle))
    assert pickle.loads(learn.kept).row['samples'] == 16
    saved = pickle.loads(pickle.dumps(learn))
    assert saved.cost == learn.cost == meter.row
    saved.fit(1)
    assert saved.cost['macs'] == 2*learn.cost['macs'] and not hooks

def test_processes(dls, monkeypatch):
    "Every process counts its share; one device each unless said otherwise"
    meter = CostMeter(price_per_hour=1)
    learner(dls, small_net()).fit(1, cbs=meter)
    a = meter.row
    monkeypatch.setenv('WORLD_SIZE', '4')
    b = meter.row
    assert [b[k]/a[k] for k in ('samples','macs','device_hours','money','seconds')] == [4,4,4,4,1]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('how', ['wrapped','in place'])
def test_compiled(dls, how):
    "Compiled models are counted, and compiled once for training and once for validation"
    import torch._dynamo as dynamo
    from torch._dynamo.testing import CompileCounter
    dynamo.reset()
    counter,net,meter = CompileCounter(),small_net(),CostMeter()
    if how=='wrapped': model = torch.compile(net, backend=counter)
    else: (model := net).compile(backend=counter)
    learn = learner(dls, model)
    learn.fit(2, cbs=meter)
    assert meter.row['macs'] == 64*3*macs(small_net(), torch.ones(1,3,8,8)) and compiled_twice(counter)
    learn.fit(1)
    learn.fit(1, cbs=meter)
    assert compiled_twice(counter)
    dynamo.reset()

def test_compiled_in_the_middle(dls):
    "A model that is compiled after some steps is counted on, and not compiled at each step"
    import torch._dynamo as dynamo
    from torch._dynamo.testing import CompileCounter
    dynamo.reset()
    counter,learn,meter = CompileCounter(),learner(dls, small_net()),CostMeter()
    one,rest = step_macs(learn.model, dls),8*3*macs(learn.model, torch.ones(1,3,8,8))
    learn.fit(2, cbs=[At('before_batch', 2, lambda l: l.epoch or l.model.compile(backend=counter)), meter])
    assert meter.row['macs'] == 2*one+6*rest and compiled_twice(counter)
    dynamo.reset()

def test_table(dls):
    "Ratios are to the first row; what nobody has is no column; what a row brings is one"
    base = dict(seconds=2., valid_seconds=1., samples=10, macs=100, device_hours=.5, money=None)
    df = cost_table({'scratch': {**base, 'accuracy':.9}, 'grown': {**base, 'seconds':1., 'macs':50, 'accuracy':.8}})
    assert list(df.index) == ['scratch','grown'] and 'money' not in df and df['accuracy'].tolist() == [.9,.8]
    assert df['seconds ratio'].tolist() == [1,.5] and df['macs ratio'].tolist() == [1,.5] and 'money ratio' not in df
    meter = CostMeter(price_per_hour=1)
    learner(dls, small_net()).fit(1, cbs=meter)
    assert cost_table({'a':meter, 'b':{**meter.row, 'money':2*meter.row['money']}})['money ratio'].tolist() == [1,2]
