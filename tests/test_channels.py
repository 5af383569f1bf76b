"Channels where they meet real models: groups by hand, rules of the user's, blocks; and supernets that are exported"
import pickle, random
import pytest, torch
from fastai.layers import SigmoidRange
from fastai.learner import Learner, load_learner
from fastai.optimizer import Adam
from torch import nn
from torchvision.models import resnet18
import elastic_nets.all # noqa: F401, gives Learner its methods
from elastic_nets.channels.labels import channel_rule
from elastic_nets.channels.place import locate
from elastic_nets.channels.trace import trace_channels
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from helpers import close, optimizers, quietly

def digits_learner(depth, opt=Adam, **choices):
    "A learner of a ResNet on fastai's data, and its supernet"
    dls = digits_dls(bs=128, device='cpu')
    learn = Learner(dls, resnet_cifar(depth, n_in=1), loss_func=nn.CrossEntropyLoss(), opt_func=opt)
    learn.to_supernet(**choices)
    return learn

@pytest.fixture(scope='module')
def learn(): return digits_learner(20, depths=(0.,.5,1.), kernels=(1,3))

# ---- what is found

def unet():
    from fastai.vision.learner import create_unet_model
    return create_unet_model(resnet18, 3, (64,64), pretrained=False).eval(), torch.randn(2,3,64,64)

def test_insides_of_a_unet_are_written_down():
    "Only the widths that are named: the insides of the encoder's blocks"
    m, xb = unet()
    layers = ('conv1','bn1','conv2')
    groups = {f'{s}.{b}': [f'layers.0.{s}.{b}.{l}' for l in layers] for s in (4,5,6,7) for b in (0,1)}
    want = m(xb)
    sn = Supernet(m, xb, groups=groups)
    assert len(sn.space.width)==8 and torch.equal(m(xb), want)
    small = sn.extract(sn.space.min).eval()
    with sn.active(sn.space.min): torch.testing.assert_close(m(xb), small(xb), rtol=1e-3, atol=1e-4)
    assert small.get_submodule('layers.0.7.0.conv1').out_channels==128

def test_control_flow_by_values_needs_a_rule():
    "A sum over channels decides: with other channels it could decide otherwise"
    class Odd(nn.Module):
        def forward(self, x): return x*2 if x.sum()>0 else x*2
    net, xb = nn.Sequential(nn.Conv2d(3,8,3), Odd(), nn.Flatten(), nn.Linear(8*36, 2)), torch.randn(2,3,8,8)
    assert 'sum in 1 (Odd, test_channels.py' in trace_channels(net, xb).groups['0'].why
    channel_rule(Odd)(lambda labeller, module, name, x: x)
    assert list(trace_channels(net, xb).elastic)==['0']

def test_a_subclass_with_its_own_forward_is_followed():
    class Doubled(nn.Conv2d):
        def forward(self, x): return torch.cat([super().forward(x)]*2, 1)
    class Named(nn.Conv2d): pass
    def elastic(conv, n):
        net = nn.Sequential(conv(3,8,3), nn.ReLU(), nn.Conv2d(n,4,3), nn.Flatten(), nn.Linear(4*16,2))
        return list(trace_channels(net, torch.randn(2,3,8,8)).elastic)
    assert elastic(Named, 8)==elastic(Doubled, 16)==['0','2']

def test_norms_without_weights_are_frozen():
    for norm in (nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(8, elementwise_affine=False)):
        assert not trace_channels(nn.Sequential(nn.Linear(4,8), norm, nn.Linear(8,5)), torch.randn(2,4)).elastic
    group_norm = nn.Sequential(nn.Conv2d(3,8,1), nn.GroupNorm(4,8,affine=False), nn.Flatten(), nn.Linear(32,5))
    assert not trace_channels(group_norm, torch.randn(2,3,2,2)).elastic

def test_heads_of_multihead_attention_go_with_the_stream():
    "nn.MultiheadAttention computes the size of a head from the width of its input"
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4,8), nn.Linear(8,2)
            self.attention = nn.MultiheadAttention(8,2,batch_first=True)
        def forward(self, x):
            x = self.first(x)
            return self.last(self.attention(x, x, x, need_weights=False)[0])
    g = trace_channels(Attends(), torch.randn(2,5,4))
    assert g.groups['first'].unit==4 and set(g.elastic)=={'first', 'attention.out_proj'}
    one_head = locate(g, {'first':4})
    assert one_head.attrs['attention']=={'num_heads':1, 'embed_dim':4, 'kdim':4, 'vdim':4}

# ---- blocks that can be dropped

class Adds(nn.Module):
    "A module that returns `f(self, x)`"
    def __init__(self, f):
        super().__init__()
        self.l, self.w, self.b, self.f = nn.Linear(6, 6), nn.Parameter(torch.ones(6)), nn.Parameter(torch.randn(6)), f
    def forward(self, x): return self.f(self, x)

blocks = {'residual': lambda m,x: x+m.l(x).tanh(), 'its input scaled': lambda m,x: m.l(x).mul(m.w).add(x).relu(),
          'a bias beside': lambda m,x: x+m.b+m.l(x)}
no_blocks = {'a range': lambda m,x: x.sigmoid()*3-1, 'a hard sigmoid': lambda m,x: (x+3).clamp(0, 6)/6,
             'affine': lambda m,x: x*m.w+m.b, 'a position': lambda m,x: x+m.b*m.w, 'no input': lambda m,x: m.l(x)+m.b}

@pytest.mark.parametrize('name', [*blocks, *no_blocks])
def test_a_block_adds_to_its_input_what_it_makes_of_it(name):
    "A constant or a parameter that is added makes no block"
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), Adds({**blocks, **no_blocks}[name]), nn.Linear(6, 2))
    assert bool(trace_channels(net, torch.randn(4, 5)).stages)==(name in blocks)

def test_the_range_of_a_head_stays():
    "fastai's `y_range` is no block that depth could drop"
    residual = Adds(lambda m,x: x+m.l(x))
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), residual, nn.Linear(6, 1), SigmoidRange(0, 1))
    sn = Supernet(net, torch.randn(4, 5), depths=(0,1))
    out = sn.extract(sn.space.min)(100*torch.randn(64, 5))
    assert sn.space.min.depth=={'2':0} and out.min()>=0 and out.max()<=1

# ---- with a supernet

def test_export_and_load(learn, tmp_path):
    "A subnet leaves as an ordinary learner, and the elastic learner itself survives export"
    sn, xb = learn.supernet, learn.dls.valid.one_batch()[0]
    sub = sn.space.sample(random.Random(0))
    small = learn.subnet(sub)
    small.path = tmp_path
    small.export('small.pkl')
    back = load_learner(tmp_path/'small.pkl')
    torch.testing.assert_close(back.model.eval()(xb), small.model.eval()(xb))
    assert not any(getattr(m, '_is_elastic', False) for m in back.model.modules())
    both = pickle.loads(pickle.dumps(sn))
    with both.active(sub), sn.active(sub): torch.testing.assert_close(both.model.eval()(xb), learn.model.eval()(xb))
    assert both.space==sn.space and both.space.constrain(both.macs, hi=1e9).sample(0) in sn.space

def test_a_refused_model_stays_as_it_was():
    m = resnet_cifar(20, n_in=1)
    before = [type(l) for l in m.modules()]
    for choices in (dict(widths=(0.,1.)), dict(depths={'nope':(1,)}), dict(kernels=(5,)), dict(resolutions=(0,8))):
        with pytest.raises(ValueError): Supernet(m, torch.randn(2,1,8,8), **choices)
    assert [type(l) for l in m.modules()]==before

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
    learn = digits_learner(8, opt=optimizers['ranger'])
    quietly(learn, 'fit', 2, 1e-3)
    xb = learn.dls.valid.one_batch()[0].as_subclass(torch.Tensor)
    learn.model.eval()
    with torch.no_grad(): want = learn.model(xb)
    learn.supernet.sort_channels(opt=learn.opt)
    learn.opt.zero_grad()
    learn.opt.set_hyper('lr', 0.)
    for _ in range(7): learn.opt.step() # a synchronisation is among them; the learning rate is zero
    with torch.no_grad(): close(learn.model(xb), want, tol=1e-3)
