"What is done with a trained family works for any task: the demo's net, a timm net, a transformer, masks, a number"
import pytest, timm, torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat, MSELossFlat
from fastai.metrics import accuracy, mse
from torch import nn
from torch.nn import functional as F
from elastic_nets.subnets.batches import inputs_of
from elastic_nets.subnets.budgets import profile_space
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.use import search # noqa: F401, patches Learner
from elastic_nets.use.deploy import to_int8, to_onnx
from elastic_nets.use.evaluate import evaluate_subnets, pareto, read_table, sample_buckets, score_supernet
from elastic_nets.use.latency import latency_table, load_latencies, widths_that_pay
from elastic_nets.use.save import finetune, load_subnet, save_subnet, subnet_in
from elastic_nets.use.switch import Switcher
from elastic_nets.zoo.data import MeanIoU, digits_dls, shapes_dls
from elastic_nets.zoo.models import resnet_cifar, vit

torch.set_num_threads(1)

def demo(): return Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1), metrics=accuracy)

def of_timm():
    net = timm.create_model('resnet10t', num_classes=10)
    return Learner(digits_dls(size=16, n_in=3, device='cpu'), net, metrics=accuracy)

def transformer():
    net = vit(img=8, dim=16, depth=1, heads=2)
    return Learner(digits_dls( n_in=3, device='cpu'), net, metrics=accuracy)

def masks():
    dls = shapes_dls(n=40, size=16, device='cpu')
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
                        nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1))
    return Learner(dls, net, loss_func=CrossEntropyLossFlat(axis=1), metrics=MeanIoU())

class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = [nn.Conv2d(n, 8, 3, padding=1) for n in (1,2)]
        self.bn, self.mid, self.out = nn.BatchNorm2d(8), nn.Conv2d(8, 12, 1), nn.Linear(12, 1)
    def forward(self, x, y): return self.out(self.mid(F.relu(self.bn(self.a(x)+self.b(y)))).relu().mean((2,3)))

def number():
    torch.manual_seed(0)
    data = [(torch.randn(1,6,6), torch.randn(2,6,6), torch.randn(1)) for _ in range(96)]
    train, valid, test = [DataLoader(data[i:i+32], bs=16) for i in (0,32,64)]
    dls = DataLoaders(train, valid, device='cpu')
    dls.test = test
    return Learner(dls, TwoInputs(), loss_func=MSELossFlat(), metrics=mse)

@pytest.fixture(scope='module', params=[demo, of_timm, transformer, masks, number], ids=lambda f: f.__name__)
def learn(request):
    learn = request.param()
    learn.to_supernet(widths=(.5,.75,1.))
    with learn.no_bar(), learn.no_logging(): yield learn

def test_comparing(learn, tmp_path):
    sn = learn.supernet
    subs = [sn.space.min, sn.space.max, *sum(sample_buckets(sn, per=1, n=3), [])]
    table = evaluate_subnets(learn, subs, calibrate=32, cache=tmp_path/'known.jsonl')
    assert {*table.subnet}=={*subs} and table.iloc[:,-1].notna().all() and len(pareto(table))
    table.to_csv(tmp_path/'t.csv')
    again = read_table(tmp_path/'t.csv')
    assert [*again.subnet]==[*table.subnet] and all(isinstance(s, Subnet) for s in again.subnet)
    small = learn.subnet(again.subnet[0], calibrate=32)
    with small.no_bar(): assert small.validate()[1]==pytest.approx(table.iloc[0,-1], rel=1e-4, abs=1e-6)
    assert score_supernet(learn, learn.dls.test, per=1, n=2, calibrate=32).chosen.test.notna().any()

def test_finding(learn, tmp_path):
    sn = learn.supernet
    limit = .5*(sn.macs(sn.space.min)+sn.macs(sn.space.max))
    predictor = learn.accuracy_predictor(macs=limit, n=8, calibrate=32)
    for how in (dict(storage=tmp_path/'study'), dict(predictor=predictor)):
        found = learn.search_subnet(macs=limit, n=9, calibrate=32, **how)
        assert sn.macs(found.best)<=limit and found.best==found.table.subnet[0]

def test_timing(learn, tmp_path):
    sn = learn.supernet
    profile = profile_space(sn, n=10)
    assert list(profile.extremes.macs)==[sn.macs(sn.space.min), sn.macs(sn.space.max)] and len(profile.choices)
    table = latency_table(sn, batch=2, n=4, held_out=2, rounds=2)
    middle = .5*(table.latency(sn.space.min)+table.latency(sn.space.max))
    if table.latency(sn.space.min)<middle: assert table.latency(sn.constrain(latency=middle).sample(0))<=middle
    table.save(tmp_path/'t.json')
    assert load_latencies(sn, tmp_path/'t.json').latency(sn.space.max)==table.latency(sn.space.max)
    pays = widths_that_pay(sn, (.5,), batch=2, rounds=2)
    assert list(pays.width)==[1.,.5] and pays.pays[0]

def inputs(learn):
    "A batch as the network takes it"
    dl = learn.dls.valid
    return tuple(x.as_subclass(torch.Tensor) for x in inputs_of(dl, dl.one_batch()))

def test_going_out(learn, request, tmp_path):
    "Trained on alone, saved and loaded, exported by fastai and torch, served within a budget"
    sn, xb, whole = learn.supernet, inputs(learn), request.node.callspec.params['learn']
    s = sn.space.min
    small = finetune(learn, s, epochs=1, calibrate=32)
    file = save_subnet(learn, s, tmp_path/'new folder/f', model=small.model)
    want = small.model.eval()(*xb)
    assert subnet_in(file)==s and torch.equal(load_subnet(file, lambda: whole().model)(*xb), want)
    if hasattr(learn.dls.train.dataset, 'new_empty'): # fastai exports no learner on a plain list
        small.export(tmp_path/'l.pkl')
        assert torch.equal(load_learner(tmp_path/'l.pkl').model.eval()(*xb), want)
    shapes = tuple({0:torch.export.Dim.DYNAMIC} for _ in xb)
    program = torch.export.export(small.model, xb, dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(*[x[:3] for x in xb]), want[:3], rtol=1e-4, atol=1e-5)
    switcher = Switcher(learn, [s, sn.space.max], calibrate=32)
    torch.testing.assert_close(switcher(sn.macs(s), *xb), learn.subnet(s, calibrate=32).model.eval()(*xb))

def test_going_out_of_pytorch(learn, tmp_path):
    "An ONNX file, and one of eight bits"
    for name in ('onnx','onnxscript','onnxruntime'): pytest.importorskip(name)
    small = learn.subnet(learn.supernet.space.min, calibrate=32)
    file = to_onnx(small, tmp_path/'f.onnx')
    bits = to_int8(file, tmp_path/'b.onnx', small, n=32, rounds=1)
    name = small.metrics[0].name
    assert file.report['difference']<=1e-4 and bits.report['bytes_before']==file.report['bytes']
    assert bits.report[name]==pytest.approx(bits.report[f'{name}_before'], abs=.2)
