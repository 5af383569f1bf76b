"Where a subnet's weights lie is worked out once: what is remembered stays right, and little"
import copy
import pytest, torch
from torch import nn
from torchvision.models import densenet121
from elastic_nets.subnets.supernet import Supernet
from helpers import is_close, randomise
from supernets import kernels, outs, resnet, shake, xb

def densenet(widths=(.25,.5,1.)):
    "Its indices are tensors, not slices"
    return Supernet(densenet121(num_classes=3), torch.randn(1,3,32,32), widths=widths, check=False)

@pytest.mark.parametrize('build', [resnet, kernels, densenet])
def test_remembered_cuts_are_right(build):
    "After many subnets each computes, bit for bit, what it does on a supernet that has seen no other"
    sn = build()
    x = torch.randn(2, *((3,32,32) if build is densenet else xb.shape[1:])).to(next(sn.model.parameters()))
    subs = [sn.space.sample(i) for i in range(8)]
    for s in subs: sn.set_active(s)
    sn.set_active(None)
    for s in subs:
        fresh = copy.deepcopy(sn) # without what is remembered
        with sn.active(s), fresh.active(s): assert torch.equal(sn.model.eval()(x), fresh.model.eval()(x))

def test_remembered_cuts_see_new_weights():
    "Weights, statistics and the order of channels may change between two switches"
    sn = resnet()
    s = sn.space.sample(3)
    def right(): return is_close(outs(sn, [s])[0], sn.extract(s).eval()(xb))
    assert right()
    changes = dict(
        weights=lambda: randomise(sn.model, 9), order=sn.sort_channels, statistics=lambda: sn.calibrate(s, [xb]),
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

def test_indices_are_where_the_model_is():
    sn = densenet((.5,1.))
    def devices():
        with sn.active(sn.space.min): cuts = [m._cut for m in sn.layers.values() if m._cut]
        indices = [i for cut in cuts for _,index in cut.params for i in index]
        return {i.device.type for i in indices if isinstance(i, torch.Tensor)}
    assert devices()=={'cpu'}
    sn.model.to('meta')
    assert devices()=={'meta'}
