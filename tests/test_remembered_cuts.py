"Where a subnet's weights lie is worked out once: what is remembered stays right, and little"
import pytest, torch
from torch import nn
from torchvision.models import densenet121
from elastic_nets.subnets.supernet import Supernet
from helpers import is_close, randomise
from supernets import kernels, outs, resnet, shake, xb

def densenet(widths=(.25,.5,1.)):
    "Its indices are tensors, not slices"
    return Supernet(densenet121(num_classes=3), torch.randn(1,3,32,32), widths=widths, check=False)

def plan_of(sn, s):
    "The plan of `s` as numbers that can be compared"
    def plain(index): return [i.tolist() if isinstance(i, torch.Tensor) else i for i in index]
    def numbers(tensors): return [(name, plain(index)) for name,index in tensors]
    def cut(c): return (numbers(c.params), numbers(c.buffers), c.attrs, c.old, c.rest, c.names)
    with sn.active(s): cuts = {n:m._cut for n,m in sn.layers.items()}
    return {n: cut(c) if hasattr(c, 'attrs') else c for n,c in cuts.items()}

@pytest.mark.parametrize('build', [resnet, kernels, densenet])
def test_remembered_cuts_are_right(build):
    "After many subnets, the plan of each is what a supernet works out that has seen none"
    sn = build()
    subs = [sn.space.sample(i) for i in range(12)]
    for s in subs: sn.set_active(s)
    got = [plan_of(sn, s) for s in subs]
    for s,p in zip(subs, got):
        sn._plans.clear()
        sn.graph._places.clear()
        assert plan_of(sn, s)==p
    def cuts():
        with sn.active(s): return {n:m._cut for n,m in sn.layers.items()}
    a, b = cuts(), cuts()
    assert any(c is not None and c is b[n] for n,c in a.items() if c!='drop'), 'they are remembered'

def test_remembered_cuts_are_bounded():
    net = nn.Sequential(nn.Linear(4,300), nn.ReLU(), nn.Linear(300,3))
    sn = Supernet(net, torch.randn(2,4), widths={'0':tuple(range(1,301))})
    for s in sn.space:
        sn.set_active(s)
        assert len(sn._plans)<=128
    x = torch.ones(1,4)
    with sn.active(sn.space.min): assert is_close(net(x), sn.extract(sn.space.min)(x), 1e-5)

def test_remembered_cuts_see_new_weights():
    "Weights, statistics and the order of channels may change between two switches"
    sn = resnet()
    s = sn.space.sample(3)
    def right(): return is_close(outs(sn, [s])[0], sn.extract(s).eval()(xb))
    assert right()
    changes = dict(weights=lambda: randomise(sn.model, 9), order=sn.sort_channels, statistics=lambda: sn.calibrate(s, [xb]),
                   none=sn.forget_stats, private=lambda: sn.private_bn(s), shaken=lambda: shake(sn))
    for name,change in changes.items():
        change()
        assert right(), name

def test_norms_keep_what_the_user_set():
    sn = resnet()
    s = sn.space.sample(3)
    sn.private_bn(s)
    norms = [m for m in sn.layers.values() if isinstance(m, nn.BatchNorm2d)]
    for m in norms: m.track_running_stats = False
    for t in (s, sn.space.min):
        with sn.active(t): sn.model.train()(xb)
    assert not any(m.track_running_stats for m in norms)

def test_index_is_where_the_model_is():
    sn = densenet((.5,1.))
    def devices():
        sn.set_active(sn.space.min)
        cuts = [m._cut for m in sn.layers.values() if m._cut]
        indices = [i for c in cuts for _,index in c.params for i in index]
        return {i.device.type for i in indices if isinstance(i, torch.Tensor)}
    assert devices()=={'cpu'}
    sn.model.to('meta')
    assert devices()=={'meta'}
