"A part of a larger network becomes elastic: what is outside stays, or follows"
import pytest, torch
from torch import nn
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.models import resnet_cifar
from helpers import fails, new_learner

x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))

class Sorts(nn.Module):
    "Nobody behind this sees channels any more"
    def forward(self, x): return x.sort(1)[0]

def agree(sn):
    for s in {sn.space.min, *map(sn.space.sample, range(2))}:
        small = sn.extract(s)
        with sn.active(s): torch.testing.assert_close(sn.model(x), small(x), rtol=1e-4, atol=1e-5)
        yield s, small

def test_a_part():
    m = resnet_cifar(8, n_in=1).eval()
    want, whole = m(x), Supernet(resnet_cifar(8, n_in=1), x, depths=(0,1), kernels=(1,3))
    sn = Supernet(m, x, depths=(0,1), kernels=(1,3), submodule='layer2')
    assert torch.equal(m(x), want)
    inside = {n for n,g in whole.graph.elastic.items() if all(k.startswith('layer2.') for k in g.makers)}
    assert set(sn.space.width)==inside
    assert all(n.startswith('layer2.') for n in [*sn.space.width, *sn.space.kernel])
    for s,small in agree(sn):
        for n,p in small.named_parameters():
            if n.split('.')[0] in ('stem','layer1'): assert p.shape==m.get_parameter(n).shape
    assert any(small.layer3[0].conv1.conv.in_channels<m.layer3[0].conv1.conv.in_channels for _,small in agree(sn))
    assert sn.graph.groups['stem.conv'].why=="stem.conv is outside of 'layer2'"

def test_a_part_that_is_traced_alone():
    "Outside of it is nothing to trace; its outputs stay whole, and costs are those of the whole network"
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1,16,3,padding=1), nn.ReLU(), nn.Conv2d(16,8,3,padding=1))
            self.sorts, self.head = Sorts(), nn.Linear(8, 3)
        def forward(self, x): return self.head(torch.from_numpy(self.sorts(self.body(x)).detach().numpy()).mean((2,3)))
    m = Net().eval()
    sn = Supernet(m, x, submodule='body')
    assert [*sn.space.width]==['body.0'] and sn.graph.positions['head']==1
    for s,small in agree(sn): assert sum(p.numel() for p in small.parameters())==sn.n_params(s)

def test_a_learner_s_part():
    learn = new_learner(nn.Sequential(nn.Sequential(nn.Linear(3,8), nn.ReLU(), nn.Linear(8,8)), nn.Linear(8,3)),
                        (torch.randn(16,3), torch.arange(16)%3), dtype=torch.float32)
    sn = learn.to_supernet(submodule='0')
    assert [*sn.space.width]==['0.0','0.2'] and learn.supernet is sn
    fails("submodule 'body' is not in the model, which has 0, 1", lambda: learn.to_supernet(submodule='body'))

# ---- a warning where little can be cut

def test_little_is_elastic():
    net = nn.Sequential(nn.Linear(6,64), Sorts(), nn.Linear(64,64), Sorts(), nn.Linear(64,4), nn.Linear(4,2))
    match = r'smallest subnet has 96% of the MACs. Frozen: \d\d% at 2 and .*sort in \d .Sorts, '
    with pytest.warns(UserWarning, match=match):
        Supernet(net, torch.randn(2,6))

def test_much_is_elastic(recwarn):
    Supernet(resnet_cifar(8, n_in=1), x)
    assert not [w for w in recwarn if 'MACs' in str(w.message)]
