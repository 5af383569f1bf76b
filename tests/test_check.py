"The check of a supernet: active is taken out, forward and backward, with all blocks dropped"
import pytest, torch
from torch import nn
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.subnets import supernet
from elastic_nets.subnets.elastic import Drop
from elastic_nets.subnets.supernet import Supernet, check_subnets
from elastic_nets.zoo.models import resnet_cifar
from helpers import fails

class Reads(nn.Linear):
    "A linear layer with another idea of its weight"
    def __init__(self, n_in, n_out, f):
        super().__init__(n_in, n_out)
        self.f = f
    def forward(self, x): return self.f(self, x)

def behind_the_back(m, x): return nn.functional.linear(x, m._parameters['weight'], m.bias)

def leaks(m, x):
    "What it says is right, and all of its weight learns (only where it has gradients: the trace sees nothing of it)"
    y, w = nn.functional.linear(x, m.weight, m.bias), m._parameters['weight']
    return y + (w.sum()-w.sum().detach()) if torch.is_grad_enabled() else y

def only_where_whole(m, x):
    "Learns twice as much while it is elastic and nothing of it is cut"
    y, whole = nn.functional.linear(x, m.weight, m.bias), m.weight.shape==m._parameters['weight'].shape
    return 2*y-y.detach() if whole and type(m) is not Reads else y

@pytest.mark.parametrize('f,match', [(behind_the_back, 'active, it raises RuntimeError'),
                                     (leaks, '2.weight gets another gradient'),
                                     (only_where_whole, "'0': 8}.*0.weight gets another gradient")])
def test_a_layer_that_works_otherwise_when_it_is_active(f, match):
    net, x = nn.Sequential(nn.Linear(4,8), nn.ReLU(), Reads(8,3,f)), torch.randn(2,4)
    fails(match, lambda: Supernet(net, x), NotElasticError)
    assert type(net[0]) is nn.Linear # it stays as it was
    Supernet(net, x, check=False)

class Twofold(nn.Module):
    "A residual block that says something about itself elsewhere"
    def __init__(self, n, log):
        super().__init__()
        self.a, self.log = nn.Linear(n, n), log
    def forward(self, x):
        self.log.append(1)
        return x+self.a(x)

class Counted(nn.Module):
    "What it returns depends on how many blocks have run"
    def __init__(self):
        super().__init__()
        self.log = []
        self.stem, self.head = nn.Linear(3,4), nn.Linear(4,2)
        self.blocks = nn.ModuleList(Twofold(4, self.log) for _ in range(3))
    def forward(self, x):
        x = self.stem(x)
        for b in self.blocks: x = b(x)
        n = len(self.log)
        self.log.clear()
        return self.head(x)/n

def test_blocks_are_dropped():
    "A forward that divides by the number of its blocks: with none of them it says infinity, and the check sees it"
    fails('the output says something else|ZeroDivisionError',
          lambda: Supernet(Counted(), torch.randn(2,3), depths=(0,1)), NotElasticError)
    Supernet(Counted(), torch.randn(2,3))

SPOILED = {'a block that is not left out': ('Drop', lambda key: None),
           'a layer that stays whole': ('_cut', lambda name, m, place: None)}

@pytest.mark.parametrize('spoiled', SPOILED)
def test_the_check_sees_a_mistake_of_ours(spoiled, monkeypatch):
    name, f = SPOILED[spoiled]
    sn = Supernet(resnet_cifar(20, n_in=1), torch.randn(2,1,8,8), depths=(0,1))
    check_subnets(sn)
    monkeypatch.setattr(supernet, name, f)
    sn = Supernet(sn.plain(), torch.randn(2,1,8,8), depths=(0,1), check=False)
    fails('where it is active and where it is taken out', lambda: check_subnets(sn), NotElasticError)
    assert Drop(0).key==0

def test_the_model_is_not_changed():
    sn = Supernet(resnet_cifar(8, n_in=1), torch.randn(2,1,8,8), check=False)
    sn.set_active(sn.space.min)
    before, training = {n:t.clone() for n,t in sn.model.state_dict().items()}, [m.training for m in sn.model.modules()]
    check_subnets(sn)
    assert all(torch.equal(t, before[n]) for n,t in sn.model.state_dict().items()) and sn.subnet==sn.space.min
    assert [m.training for m in sn.model.modules()]==training and all(p.grad is None for p in sn.model.parameters())

class Counts(nn.Linear):
    "It writes into a buffer whenever it runs"
    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.register_buffer('runs', torch.zeros(2,8)) # of a shape that could be a part of a weight
    def forward(self, x):
        y = super().forward(x)
        self.runs += 1
        return y

def test_a_forward_may_write_into_buffers():
    net = nn.Sequential(nn.Linear(4,8), nn.ReLU(), Counts(8,8), nn.ReLU(), nn.Linear(8,3))
    Supernet(net, torch.randn(2,4))
    assert not net[2].runs.any()
