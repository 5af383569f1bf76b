"ONNX files that answer as PyTorch does, and with whole numbers of 8 bits"
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
import pytest, timm, torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn
from torch.nn import functional as F
from torchvision import models as tv
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.deploy import OnnxNet, batch_of, difference, to_int8, to_onnx
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar, vit
from helpers import digits, fails, new_learner, randomise
from test_save import table_learner
from zoo import zoo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))

for name in ('onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(name, reason="pip install 'elastic_nets[deploy]'")

def of_timm(): return timm.create_model('mobilenetv3_small_050', num_classes=5)
def of_torchvision(): return tv.VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32,
                                                  mlp_dim=64, num_classes=5)
def segmentation(): return tv.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)

nets = { # a network, its inputs, options of the supernet
    'demo': (lambda: resnet_cifar(20, n_in=1), (1,16,16), dict(depths=(0,.5,1))),
    'timm': (of_timm, (3,32,32), dict(depths=(0,1), kernels=(3,5))),
    'vit': (lambda: vit(img=16, patch=4, dim=48, depth=2, heads=3), (3,16,16), dict(depths=(0,1))),
    'torchvision vit': (of_torchvision, (3,32,32), dict(depths=(0,1))),
    'segmentation': (segmentation, (3,32,32), {})}

def written(sn, subnets, xb, path):
    "Each as a file: the answers of the active subnet, for a number of samples that the export has not tried"
    for s in subnets:
        file = to_onnx(sn.extract(s), path, xb)
        assert file.report['difference']<=1e-4 and file.report['bytes']==path.stat().st_size
        other = batch_of(tuple(x.clone() for x in xb), 5)
        with sn.active(s): assert difference(file, sn.model, other)<=1e-4

@pytest.mark.parametrize('name', nets)
def test_the_file_answers_as_pytorch_does(name, tmp_path):
    "The largest, the smallest and a random one, recalibrated"
    make, shape, options = nets[name]
    x = torch.randn(2, *shape)
    sn = Supernet(randomise(make()).eval(), x, check=False, **options)
    s = sn.space.sample(1)
    sn.calibrate(s, [(x,)], 2)
    written(sn, (sn.space.max, sn.space.min, s), (x,), tmp_path/'f')

def test_a_regression_of_two_inputs(tmp_path):
    "Whole numbers and numbers of a table, from the learner"
    learn = table_learner(regression=True)[1]
    sn = learn.to_supernet()
    for s in (sn.space.max, sn.space.min, sn.space.sample(0)):
        file = to_onnx(learn.subnet(s, calibrate=32), tmp_path/'f')
        assert file.report['difference']<=1e-4 and len(file.session.get_inputs())==2
        fails('takes 2 inputs, got 1', lambda: file(torch.ones(1)))

def test_models_of_the_coverage_answer_as_pytorch_does():
    "Rows of `make onnx`: the largest, the smallest and three random ones; a small model is tried again"
    onnx_files, common = [pytest.importorskip(name) for name in ('onnx_files','common')]
    found = {r['config']['model']:r for r in common.rows(onnx_files.path)}
    assert {*found}=={*zoo}
    for name,r in found.items(): assert 'refused' not in r and r['difference']<=1e-4, name
    again = onnx_files.train(dict(model='timm mobilenetv3_small_050', random=0))
    assert 'refused' not in again and again['difference']<=1e-4

# ---- wrong files

class Baked(nn.Module):
    "Answers otherwise once it is exported"
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4,2)
    def forward(self, x): return self.fc(x)+(1 if torch.compiler.is_compiling() else 0)

class Branches(Baked):
    "Its way depends on the numbers"
    def forward(self, x): return self.fc(x) if x.sum()>0 else x

def test_a_wrong_file_is_not_left_behind(tmp_path):
    x, f = torch.randn(2,4), tmp_path/'f.onnx'
    fails('ONNX file is wrong: with 1 samples its answers differ by', lambda: to_onnx(Baked(), f, x))
    fails('cannot be written as ONNX', lambda: to_onnx(Branches(), f, x))
    assert [*tmp_path.iterdir()]==[]
    good = to_onnx(nn.Linear(4,2), f, x)
    fails('ONNX file is wrong', lambda: to_onnx(Baked(), f, x))
    y = torch.randn(3,4)
    assert torch.equal(OnnxNet(f)(y), good(y)) and [p.name for p in tmp_path.iterdir()]==['f.onnx']

def test_samples_and_the_scale_of_differences():
    "All samples differ; the difference is a share of the largest answer"
    x, i = batch_of((torch.ones(1,3)*torch.tensor([1.,2.,3.]), torch.tensor([[7]])), 8)
    assert len({tuple(r.tolist()) for r in x})==8 and i.tolist()==[[7]]*8
    class Twice(nn.Module):
        def __init__(self, by): super().__init__(); self.by = by
        def forward(self, x): return dict(a=100*x+self.by, b=x)
    y = torch.eye(2)
    assert difference(Twice(.5), Twice(0.), (y,))==pytest.approx(.005)
    assert difference(Twice(float('nan')), Twice(0.), (y,))==float('inf')
    assert difference(nn.Flatten(0), nn.Identity(), (y,))==float('inf')

def test_the_network_stays_as_it_is(tmp_path):
    "Its mode, its gradients' flags and PyTorch's fused attention"
    net = nn.Sequential(nn.Linear(4,4), nn.Dropout(.5)).train()
    to_onnx(net, tmp_path/'f', torch.randn(2,4))
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert torch.backends.mha.get_fastpath_enabled()

# ---- eight bits

def trained(model, x, y, epochs):
    "A learner of random two thirds, which validates on the rest"
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    a, b = order[:1200], order[1200:]
    learn = new_learner(model, (x[a], y[a]), (x[b], y[b]), bs=64, dtype=torch.float32, metrics=accuracy, shuffle=True)
    with redirect_stdout(StringIO()), learn.no_bar(): learn.fit_one_cycle(epochs, .1)
    return learn

def in_color(x, size):
    "Digits as pictures of three channels, each in a color of its own before gray"
    gen = torch.Generator().manual_seed(1)
    color = torch.rand(len(x), 3, 1, 1, generator=gen)
    return F.interpolate(x, size=(size,size), mode='bilinear')*color+.2*torch.rand(len(x), 3, 1, 1, generator=gen)

@pytest.mark.parametrize('name', ['digits', 'cifar'])
def test_eight_bits_lose_at_most_half_a_point(name, tmp_path):
    "On digits, and for a network of CIFAR's size and channels"
    x, y = digits(dtype=torch.float32)
    if name=='digits': learn = trained(lambda: resnet_cifar(8, n_in=1), x, y, 6)
    else: learn = trained(lambda: resnet_cifar(14), in_color(x, 16), y, 5)
    file = to_onnx(learn, tmp_path/'f.onnx')
    bits = to_int8(file, tmp_path/'b.onnx', learn)
    r = bits.report
    assert r['accuracy_before']>.9 and r['accuracy']>=r['accuracy_before']-.005
    assert r['bytes']==(tmp_path/'b.onnx').stat().st_size < .6*r['bytes_before']
    assert 0<r['milliseconds']<1000 and 0<r['milliseconds_before']<1000
    kinds = {n.op_type for n in __import__('onnx').load(tmp_path/'b.onnx').graph.node}
    assert {'QuantizeLinear','DequantizeLinear'}<=kinds
    assert 'accuracy' not in to_int8(file, tmp_path/'c.onnx', [(x,)] if name=='digits' else [(in_color(x,16),)]).report

def test_a_subnet_of_the_demos_learner(tmp_path):
    "From a learner on fastai's loaders, with the first validation batch"
    learn = Learner(digits_dls(size=16, device='cpu'), resnet_cifar(8, n_in=1), metrics=accuracy)
    sn = learn.to_supernet(depths=(0,1))
    small = learn.subnet(sn.space.min, calibrate=64)
    file = to_onnx(small, tmp_path/'f')
    x = learn.dls.valid.one_batch()[0].cpu()
    assert difference(file, small.model.cpu().eval(), (x,))<=1e-4
    fails('it is a supernet', lambda: to_onnx(learn, tmp_path/'f'))
