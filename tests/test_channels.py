"Channels, subnets and the handle where they meet real models: groups by hand, exports, and errors that help"
import pickle, random
import pytest, torch
from torch import nn
import fastai.callback.all # noqa: F401, gives Learner its fit_one_cycle and no_bar
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from torchvision.models import resnet18
from elastic_nets.channels.labels import NotElasticError, channel_rule
from elastic_nets.channels.trace import trace_channels
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.supernet import Supernet

@pytest.fixture(scope='module')
def learn():
    learn = Learner(digits_dls(), resnet_cifar(20, n_in=1), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    learn.to_supernet(depths=(0.,.5,1.), kernels=(1,3))
    return learn

def test_unet_by_hand():
    "fastai's DynamicUnet does not trace; the insides of its encoder's blocks can be written down"
    from fastai.vision.learner import create_unet_model
    m, xb = create_unet_model(resnet18, 3, (64,64), pretrained=False).eval(), torch.randn(2,3,64,64)
    with pytest.raises(NotElasticError, match='cannot trace DynamicUnet.*groups='): Supernet(m, xb)
    groups = {f'{s}.{b}': [f'layers.0.{s}.{b}.{l}' for l in ('conv1','bn1','conv2')] for s in (4,5,6,7) for b in (0,1)}
    want = m(xb)
    sn = Supernet(m, xb, groups=groups)
    assert len(sn.space.width)==8 and torch.equal(m(xb), want)
    small = sn.extract(sn.space.min).eval()
    with sn.active(sn.space.min): torch.testing.assert_close(m(xb), small(xb), rtol=1e-3, atol=1e-4)
    assert small.get_submodule('layers.0.7.0.conv1').out_channels==128

def test_wrong_groups_by_hand_are_found():
    groups = {'a': ['layer1.0.conv1', 'layer1.0.conv2']} # forgot the batch norm
    with pytest.raises(NotElasticError, match='layer1.0'): trace_channels(resnet18(), torch.randn(2,3,64,64), groups=groups)

def test_export_and_load(learn, tmp_path):
    "A subnet leaves as an ordinary learner, and the elastic learner itself survives export"
    sn, xb = learn.supernet, learn.dls.valid.one_batch()[0]
    sub = sn.space.sample(random.Random(0))
    small = learn.subnet(sub)
    small.path = tmp_path
    small.export('small.pkl')
    back = load_learner(tmp_path/'small.pkl')
    torch.testing.assert_close(back.model.eval()(xb), small.model.eval()(xb))
    assert not any('elastic_nets.supernet' in type(m).__module__ for m in back.model.modules())
    both = pickle.loads(pickle.dumps(sn))
    with both.active(sub), sn.active(sub): torch.testing.assert_close(both.model.eval()(xb), learn.model.eval()(xb))
    assert both.space.constrain(both.macs, hi=1e9).sample(random.Random(0)) in sn.space

def test_user_rule():
    "A module that torch.fx cannot follow becomes a leaf with a rule of the user's"
    class Odd(nn.Module):
        def forward(self, x): return x*2 if x.sum()>0 else x*2
    net = lambda: nn.Sequential(nn.Conv2d(3,8,3), Odd(), nn.Flatten(), nn.Linear(8*36, 2))
    xb = torch.randn(2,3,8,8)
    with pytest.raises(NotElasticError, match='channel_rule'): trace_channels(net(), xb)
    channel_rule(Odd)(lambda labeller, module, name, x: x)
    assert list(trace_channels(net(), xb).elastic)==['0']

def test_subclass_with_own_forward_is_unknown():
    class Doubled(nn.Conv2d):
        def forward(self, x): return torch.cat([super().forward(x)]*2, 1)
    class Named(nn.Conv2d): pass
    net = lambda c, n: nn.Sequential(c(3,8,3), nn.ReLU(), nn.Conv2d(n,4,3), nn.Flatten(), nn.Linear(4*16,2))
    assert list(trace_channels(net(Named, 8), torch.randn(2,3,8,8)).elastic)==['0','2']
    assert '0' not in trace_channels(net(Doubled, 16), torch.randn(2,3,8,8)).elastic

@pytest.mark.parametrize('args, match', [
    (dict(widths=(0.,1.)), r'\(0, 1\], got 0'), (dict(widths=(.5,1.5)), r'\(0, 1\], got 1.5'), (dict(widths=(.01,)), 'widths: 0.01 of the 16 channels .* rounds to none'),
    (dict(widths={'nope':(4,)}), "'nope' is not there"), (dict(depths={'nope':(1,)}), "depths: 'nope' is not there"), (dict(depths=(2.,)), r'\[0, 1\], got 2'),
    (dict(depths={'layer1':(9,)}), "9 is not possible for 'layer1'; whole numbers from 0 to 3"), (dict(kernels=(5,)), 'no convolution has a kernel of'),
    (dict(kernels={'stem.conv':(2,)}), "kernels"), (dict(widths=None), 'nothing to choose'), (dict(kernels=3), 'kernels: a tuple such as'),
    *[(dict(resolutions=r), 'resolutions: a tuple of pixels') for r in (8, (0,8), (8.,16.))]])
def test_bad_choices(args, match):
    m = resnet_cifar(20, n_in=1)
    before = [type(l) for l in m.modules()]
    with pytest.raises((ValueError, NotElasticError), match=match): Supernet(m, torch.randn(2,1,8,8), **args)
    assert [type(l) for l in m.modules()]==before, 'a refused model must stay as it was'

def test_bad_input(learn):
    sn = learn.supernet
    with pytest.raises(ValueError, match=r'does not run on `xb` of shape .*1, 3, 8, 8'): Supernet(resnet_cifar(20, n_in=1), torch.randn(2,3,8,8))
    other = Supernet(resnet_cifar(20, n_in=1, width=8), torch.randn(2,1,8,8)).space.max
    with pytest.raises(ValueError, match='not allowed|missing'): sn.set_active(other)
    with pytest.raises(ValueError, match='cut short'): Subnet.from_json(sn.space.max.to_json()[:40])
    with pytest.raises(ValueError, match='version 2'): Subnet.from_json(sn.space.max.to_json().replace('"version": 1','"version": 2'))
    with pytest.raises(ValueError, match='resolution of a Subnet'): Subnet.from_json(sn.space.max.to_json().replace('"resolution": null','"resolution": "x"'))
    with pytest.raises(ValueError, match='to_supernet'): Learner(learn.dls, nn.Linear(2,2), loss_func=CrossEntropyLossFlat()).subnet(other)
    assert sn.subnet==sn.space.max

def test_active_is_undone_after_an_exception(learn):
    sn = learn.supernet
    with pytest.raises(ZeroDivisionError):
        with sn.active(sn.space.min): 1/0
    assert sn.subnet==sn.space.max and all(m._cut is None for m in sn.layers.values())
    m = sn.layers[next(n for n in sn.layers if n.endswith('conv') or 'conv' in n)]
    with sn.active(sn.space.min), pytest.raises(RuntimeError): m(torch.randn(1,99,8,8))
    assert 'weight' not in vars(m)

def test_sorting_with_lookahead():
    "Lookahead keeps a second copy of the weights, which must not bring the old order back"
    from fastai.optimizer import ranger
    learn = Learner(digits_dls(bs=128), resnet_cifar(8, n_in=1), loss_func=CrossEntropyLossFlat(), opt_func=ranger)
    sn, xb = learn.to_supernet(), learn.dls.valid.one_batch()[0].as_subclass(torch.Tensor)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
    learn.model.eval()
    want = learn.model(xb)
    sn.sort_channels(opt=learn.opt)
    learn.opt.zero_grad()
    learn.opt.set_hyper('lr', 0.)
    for _ in range(7): learn.opt.step() # a synchronisation is among them; the learning rate is zero
    torch.testing.assert_close(learn.model(xb), want, rtol=1e-3, atol=1e-3)

@pytest.mark.parametrize('args, match', [(dict(widths=.5), "widths: a tuple such as"), (dict(divisor=8.), 'divisor: a whole number'), (dict(divisor=0), 'divisor: a whole number'),
    (dict(widths={'head.fc':(5,)}), "'head.fc' is frozen: the network's output")])
def test_natural_mistakes(args, match):
    with pytest.raises(ValueError, match=match): Supernet(resnet_cifar(8, n_in=1), torch.randn(2,1,8,8), **args)

def test_asking_for_no_subnet(learn):
    sn = learn.supernet
    with pytest.raises(TypeError, match='a Subnet is expected'): learn.subnet(.5)
    with pytest.raises(TypeError, match='a Subnet is expected'): sn.macs(None)
    light = sn.space.constrain(sn.macs, hi=.5*sn.macs(sn.space.max))
    with pytest.raises(ValueError, match='the limits are'): light.max
    with pytest.raises(ValueError, match='compiled'): Supernet(torch.compile(resnet_cifar(8)), torch.randn(2,3,8,8))
    assert 'subnets of' in repr(sn)

def test_norms_without_weights_are_frozen():
    for norm in (nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(8, elementwise_affine=False)):
        assert not trace_channels(nn.Sequential(nn.Linear(4,8), norm, nn.Linear(8,5)), torch.randn(2,4)).elastic
    assert not trace_channels(nn.Sequential(nn.Conv2d(3,8,1), nn.GroupNorm(4,8,affine=False), nn.Flatten(), nn.Linear(32,5)), torch.randn(2,3,2,2)).elastic

class _Adds(nn.Module):
    "A module that returns `f(self, x)`"
    def __init__(self, f):
        super().__init__()
        self.l,self.w,self.b,self.f = nn.Linear(6, 6),nn.Parameter(torch.ones(6)),nn.Parameter(torch.randn(6)),f
    def forward(self, x): return self.f(self, x)

@pytest.mark.parametrize('f,block', [(lambda m,x: x+m.l(x).tanh(), True), (lambda m,x: m.l(x).mul(m.w).add(x).relu(), True), (lambda m,x: x+m.b+m.l(x), True), # residual
    (lambda m,x: x.sigmoid()*3-1, False), (lambda m,x: (x+3).clamp(0, 6)/6, False), (lambda m,x: x*m.w+m.b, False), (lambda m,x: x+m.b*m.w, False), (lambda m,x: m.l(x)+m.b, False)]) # range, hard sigmoid, affine, position
def test_what_is_a_block(f, block):
    "A block adds to its input what it makes of it; a constant or a parameter makes none"
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), _Adds(f), nn.Linear(6, 2))
    assert bool(trace_channels(net, torch.randn(4, 5)).stages)==block

def test_range_of_a_head_stays():
    "fastai's `y_range` is no block that depth could drop"
    from fastai.layers import SigmoidRange
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), _Adds(lambda m,x: x+m.l(x)), nn.Linear(6, 1), SigmoidRange(0, 1))
    sn = Supernet(net, torch.randn(4, 5), depths=(0,1))
    out = sn.extract(sn.space.min)(100*torch.randn(64, 5))
    assert sn.space.min.depth=={'2':0} and out.min()>=0 and out.max()<=1
