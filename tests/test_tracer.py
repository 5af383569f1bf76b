"What real networks do on their way: every kind that a walk has to follow, from the trace to a trained subnet"
import re
from types import SimpleNamespace
import pytest, timm, torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.channels.trace import trace_channels
from elastic_nets.subnets.cost import macs
from elastic_nets.subnets.supernet import Supernet

class Net(nn.Module):
    "`forward` is a function of the module and the picture; `parts` are its layers and parameters"
    def __init__(self, f, **parts):
        super().__init__()
        self.f = f
        self.c, self.d, self.fc = nn.Conv2d(3,16,3,padding=1), nn.Conv2d(16,16,3,padding=1), nn.Linear(16,4)
        for n,p in parts.items():
            if isinstance(p, torch.Tensor) and not isinstance(p, nn.Parameter): self.register_buffer(n, p)
            else: setattr(self, n, p)
    def forward(self, x, **kwargs): return self.fc(self.f(self, x, **kwargs).mean((2,3)))

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.rand(1,16,1,1))
    def scale(self, x): return x*self.g

class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w-w.mean((1,2,3), keepdim=True))/w.std((1,2,3), keepdim=True)
        return F.conv2d(x, w, self.bias, padding=self.padding)

class Block(nn.Module):
    def __init__(self, n=16):
        super().__init__()
        self.conv = nn.Conv2d(n, n, 3, padding=1)
    def forward(self, x, scale=None): return x+self.conv(x)*(1 if scale is None else scale)

def tied():
    net = Net(lambda m, x: m.e(m.d(m.c(x).relu()).relu()), e=nn.Conv2d(16,16,3,padding=1))
    net.e.weight = net.d.weight
    return net

def in_place(m, x):
    y = m.c(x)
    z, y = m.d(y), y*2
    y += z
    y[:, :, 0] = z[:, :, 1]
    return y.relu_()

def c2f(m, x):
    y = list(m.c(x).chunk(2, 1))
    y.extend(e(y[-1]) for e in m.e)
    return m.o(torch.cat(y, 1))

def skip_of_the_right_size(m, x):
    a = m.c(x).relu()
    b = m.d(F.max_pool2d(a, 2))
    return a+(F.interpolate(b, size=a.shape[-2:]) if b.shape[-2:]!=a.shape[-2:] else b)

def asserts(m, x):
    assert x.shape[1]==3
    return m.d(m.c(x).relu())

def parametrised():
    net = Net(lambda m, x: m.d(m.c(x)))
    nn.utils.parametrizations.weight_norm(net.fc)
    return net

def parameter(*shape): return nn.Parameter(torch.rand(*shape))

KINDS = {
    'tied weights': (tied, ['c']),
    'a buffer': (lambda: Net(lambda m, x: m.d(m.c(x)*m.s.view(1,-1,1,1)), s=torch.rand(16)), ['c','d']),
    'a frozen norm': (lambda: Net(lambda m, x: m.d(m.n(m.c(x))), n=FrozenBatchNorm2d(16)), ['c','d']),
    'a masked weight': (lambda: Net(lambda m, x: F.conv2d(m.c(x), m.d.weight*m.mask, m.d.bias, padding=1),
                                    mask=torch.rand(16,16,3,3).round()), ['c','d']),
    'its own dtype': (lambda: Net(lambda m, x: m.d(m.c(x.to(m.c.weight.dtype)))), ['c','d']),
    'a gate by a weight': (lambda: Net(lambda m, x: m.d(m.n(m.c(x))*torch.sigmoid(m.n.weight.view(1,-1,1,1))),
                                       n=nn.BatchNorm2d(16)), ['c','d']),
    'a tied decoder': (lambda: Net(lambda m, x: F.linear(torch.tanh(m.e(m.c(x).movedim(1,3))), m.e.weight.t(),
                                                         m.b).movedim(3,1), e=nn.Linear(16,8), b=parameter(16)), ['c']),
    'an assertion': (lambda: Net(asserts), ['c','d']),
    'a skip that is resized': (lambda: Net(skip_of_the_right_size), ['c']),
    'a list of chunks': (lambda: Net(c2f, e=nn.ModuleList(nn.Conv2d(8,8,1) for _ in range(2)), o=nn.Conv2d(32,16,1)),
                         ['c','e.0','e.1','o']),
    'in place': (lambda: Net(in_place), ['c']),
    'pixel shuffle': (lambda: Net(lambda m, x: m.e(F.pixel_shuffle(m.d(m.c(x)), 2)), e=nn.Conv2d(4,16,1)),
                      ['c','d','e']),
    'a parameter list': (lambda: Net(lambda m, x: m.d(m.c(x)*m.ps[0]),
                                     ps=nn.ParameterList([parameter(1,16,1,1)])), ['c','d']),
    'a parameter dict': (lambda: Net(lambda m, x: m.d(m.c(x)*m.ps['g']),
                                     ps=nn.ParameterDict({'g': parameter(1,16,1,1)})), ['c','d']),
    'a method of a module': (lambda: Net(lambda m, x: m.d(m.s.scale(m.c(x))), s=Scale()), ['c','d']),
    'a standardised weight': (lambda: Net(lambda m, x: m.d(m.e(m.c(x))), e=Standardised(16,16,3,padding=1)), ['e','d']),
    'a parametrised weight': (parametrised, ['c']),
    'einsum': (lambda: Net(lambda m, x: torch.einsum('bchw,oc->bohw', m.c(x), m.w), w=parameter(16,16)), ['c']),
}

@pytest.mark.parametrize('kind', KINDS)
def test_kinds(kind):
    "It is elastic where it can be, active is extracted, and a step trains the active part only"
    build, elastic = KINDS[kind]
    torch.manual_seed(0)
    net, x = build().eval(), torch.randn(2,3,8,8)
    sn = Supernet(net, x, widths=(.5,1.))
    assert set(elastic) <= set(sn.graph.elastic), sn.graph
    small = sn.extract(sn.space.min)
    assert sum(p.numel() for p in small.parameters())==sn.n_params(sn.space.min)
    with sn.active(sn.space.min):
        torch.testing.assert_close(net(x), small(x), rtol=1e-4, atol=1e-5)
        net(x).pow(2).sum().backward()
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert any((g==0).any() for g in grads) and all(g.isfinite().all() for g in grads)

@pytest.mark.parametrize('call', [lambda b, x: b(x, scale=.5), lambda b, x: b(x, .5), lambda b, x: b(x=x)],
                         ids=['keyword','position','named'])
def test_a_dropped_block_takes_what_its_block_took(call):
    def forward(m, x):
        x = m.c(x)
        for b in m.blocks: x = call(b, x)
        return x
    net, x = Net(forward, blocks=nn.ModuleList(Block() for _ in range(3))).eval(), torch.randn(2,3,8,8)
    sn = Supernet(net, x, depths=(0,1))
    with sn.active(sn.space.min): torch.testing.assert_close(net(x), sn.extract(sn.space.min)(x))

@pytest.mark.parametrize('how', ['under three names', 'called again', 'with the tensor of another'])
def test_a_block_that_runs_twice_stays(how):
    b = Block()
    blocks = nn.Sequential(b, b, b) if how=='under three names' else nn.Sequential(b, Block(), Block())
    if how=='with the tensor of another': blocks[2].conv.weight = b.conv.weight
    def forward(m, x):
        x = m.blocks(m.c(x))
        return m.blocks[0](x) if how=='called again' else x
    net, x = Net(forward, blocks=blocks).eval(), torch.randn(2,3,8,8)
    sn = Supernet(net, x, widths=(.5,1.), depths=(0.,1.))
    for s in {sn.space.max, *map(sn.space.sample, range(6))}:
        small = sn.extract(s)
        with sn.active(s): torch.testing.assert_close(net(x), small(x))
        assert sum(p.numel() for p in small.parameters())==sn.n_params(s) and macs(small, x)==sn.macs(s)

def test_hooks_see_the_gradient_of_large_weights():
    net, x, seen = nn.Sequential(nn.Linear(64,600), nn.Tanh(), nn.Linear(600,10)), torch.randn(8,64), []
    sn = Supernet(net, x, widths=(.5,1.))
    net[0].weight.register_hook(lambda g: (seen.append(g.shape), torch.zeros_like(g))[1])
    with sn.active(sn.space.min): net(x).sum().backward()
    assert seen==[(600,64)] and not net[0].weight.grad.any()

@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224', 'eva02_tiny_patch14_224'])
def test_whole_heads(name):
    "A cut sets the number of heads, and nothing stays frozen but the output"
    img = dict(vit_tiny_patch16_224=32, swin_tiny_patch4_window7_224=56, eva02_tiny_patch14_224=28)[name]
    sizes = dict(depths=(2,1,1,1)) if 'swin' in name else dict(depth=2)
    net, x = timm.create_model(name, img_size=img, num_classes=4, **sizes).eval(), torch.randn(2,3,img,img)
    sn = Supernet(net, x)
    assert {g.why for g in sn.graph.groups.values()} <= {'', "the network's output"}
    heads = {n for n,k in sn.graph.attrs if k=='num_heads'}
    small = sn.extract(sn.space.min)
    assert heads and all(small.get_submodule(n).num_heads<net.get_submodule(n).num_heads for n in heads)
    with sn.active(sn.space.min): torch.testing.assert_close(net(x), small(x), rtol=1e-4, atol=1e-5)

def test_inputs_by_keyword():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4,8), nn.Linear(6,8), nn.Linear(8,2)
        def forward(self, x, *, y): return dict(out=self.c(self.a(x)+self.b(y)))
    g = trace_channels(Two(), torch.randn(2,4), y=torch.randn(2,6))
    assert g.groups['a'].makers==('a','b')

def test_what_is_frozen_says_where():
    class Frozen(nn.Module):
        def forward(self, x): return torch.special.bessel_j0(x)
    net = nn.Sequential(nn.Linear(4,8), Frozen(), nn.Linear(8,2))
    why = trace_channels(net, torch.randn(2,4)).groups['0'].why
    assert why.startswith('special_bessel_j0 in 1 (Frozen, test_tracer.py:') and why.endswith('no rule for it')

@torch.jit.script
def scripted(x): return x*2+1

@pytest.mark.parametrize('build,name,why', [
    (lambda: nn.LSTM(4,6), 'r', 'lstm in r .LSTM, test_tracer.*recurrent layers stay whole'),
    (lambda: nn.GRUCell(4,6), 'r', 'gru_cell in r .GRUCell, test_tracer.*recurrent layers stay whole')],
    ids=['LSTM','GRUCell'])
def test_recurrent_layers_say_that_they_stay(build, name, why):
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.r = build()
        def forward(self, x): return self.r(x)[0]
    class Between(Alone):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3,4), nn.Linear(6,2)
        def forward(self, x): return self.b(super().forward(self.a(x)))
    for net,x in ((Alone(), torch.randn(5,4)), (Between(), torch.randn(5,3))):
        assert re.match(why, trace_channels(net, x).groups[name].why)
        with pytest.raises(NotElasticError, match='recurrent layers stay whole'): Supernet(net, x)

@pytest.mark.parametrize('f,why', [
    (scripted, 'made by something that is no torch function'),
    (lambda x: torch.from_numpy(x.detach().numpy()*2), 'numpy in the network .Odd, test_tracer.py:.*: leaves torch')],
    ids=['scripted','numpy'])
def test_code_out_of_sight_freezes_what_goes_in(f, why):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3,4), nn.Linear(4,2)
        def forward(self, x): return self.b(f(self.a(x)))
    assert re.search(why, trace_channels(Odd(), torch.randn(5,3)).groups['a'].why)

def test_a_scripted_layer_freezes_what_goes_in():
    net = nn.Sequential(nn.Linear(3,4), torch.jit.script(nn.Linear(4,4)), nn.Linear(4,2))
    assert trace_channels(net, torch.randn(5,3)).groups['0'].why.endswith('made by something that is no torch function')

def test_a_half_grown_model_is_no_supernet():
    net = nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,2))
    net.growth = SimpleNamespace(by='width', size=.5)
    with pytest.raises(ValueError, match='half grown .width 0.5.*finish_growing'): Supernet(net, torch.randn(2,4))
