"Batch norms of a subnet's own: private ones are trained, recalibrated ones hold statistics"
import copy
from dataclasses import replace
import pytest, torch
import fastai.callback.all # noqa: F401, gives Learner its fit_one_cycle and no_bar
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import nn
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from helpers import fails, is_close, randomise, same
from supernets import kernels, resnet, shake, train, xb

def batch_norms(named): return {n:m for n,m in named if isinstance(m, nn.BatchNorm2d)}

@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('momentum', [.1, None])
def test_private_subnet_trains_as_the_network_taken_out(affine, momentum):
    "The full network and the other subnets see nothing of it"
    sn = resnet()
    for m in batch_norms(sn.layers.items()).values(): m.momentum = momentum
    ours, others = [sn.space.sample(i) for i in (1,2)]
    start = sn.extract(ours).state_dict()
    sn.private_bn([ours, others, sn.space.max], affine=affine)
    assert same(sn.extract(ours).state_dict(), start) and [*sn.private]==[ours, others], 'begins as the full network'
    shake(sn)
    with torch.no_grad(): # its own statistics too
        for ts in sn.stats[ours].values():
            ts['running_mean'] += .5
            ts['num_batches_tracked'] += 2
    plain = sn.extract(ours)
    full, other = copy.deepcopy(dict(sn.model.named_buffers())), copy.deepcopy(sn.stats[others])
    with sn.active(ours):
        train(sn.model)
        train(plain)
        assert is_close(sn.model(xb), plain(xb))

    new, want = sn.extract(ours).state_dict(), plain.state_dict()
    assert new.keys()==want.keys() and all(is_close(new[k], want[k]) for k in want)
    assert not is_close(want['stem.bn.running_mean'], start['stem.bn.running_mean'], .1)
    assert want['stem.bn.num_batches_tracked']==3+2+2
    assert same(dict(sn.model.named_buffers()), full)
    assert all(same(other[n], sn.stats[others][n]) for n in other)
    for n,m in batch_norms(plain.named_modules()).items():
        for t in ('weight','bias'):
            shared = getattr(sn.layers[n], t).grad
            own = getattr(sn.stats[ours][n].get(t), 'grad', None)
            want = getattr(m, t).grad
            if affine: assert shared is None and is_close(own, want), n
            else: assert own is None and is_close(shared[:len(want)], want), n
    stem = plain.stem.conv.weight
    assert is_close(sn.model.stem.conv.weight.grad[:len(stem)], stem.grad)
    assert not any(p.grad is not None for ts in sn.stats[others].values() for p in ts.values())

def test_private_bn_has_the_active_norms_only():
    sn = resnet()
    sn.private_bn(sn.space.min)
    norms = {*batch_norms(sn.extract(sn.space.min).named_modules())}
    assert {*sn.stats[sn.space.min]}==norms < {*batch_norms(sn.layers.items())}
    ps = sn.held_params()
    assert len(ps)==2*len(norms) and all(isinstance(p, nn.Parameter) and p.is_leaf and p.requires_grad for p in ps)

def test_full_network_stays_shared():
    sn, want = resnet(), resnet().model
    sn.private_bn([sn.space.max, sn.space.min])
    shake(sn)
    assert torch.equal(sn.model(xb), want(xb)) and not sn.private.get(sn.space.max)
    state = {k:t for k,t in train(sn.model).state_dict().items() if k[:5]!='held_'}
    assert same(state, train(want).state_dict())

def test_statistics_rest_in_evaluation():
    "A batch norm in evaluation mode uses its private statistics and leaves them alone, gradients or not"
    sn, s = resnet(), resnet().space.uniform(.5)
    sn.private_bn(s)
    before = copy.deepcopy(sn.stats[s])
    with sn.active(s): sn.model(xb).sum().backward()
    assert all(same(before[n], sn.stats[s][n]) for n in before) and sn.held_params()[0].grad.any()

def test_statistics_of_the_full_network_rest_in_training():
    "Of batch norm, and of instance norm, which reads them whatever `track_running_stats` says"
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    first, second, head = nn.Conv2d(1,8,1), nn.Conv2d(8,8,1), nn.Conv2d(8,2,1)
    net = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, norm, nn.ReLU(), head)
    sn = Supernet(randomise(net.double()), xb)
    before = copy.deepcopy(dict(net.named_buffers()))
    plain = sn.extract(sn.space.min).train()
    with sn.active(sn.space.min): assert is_close(net.train()(xb), plain(xb))
    assert same(before, dict(net.named_buffers()))
    assert not same(plain.state_dict(), sn.extract(sn.space.min).state_dict())
    net(xb)
    assert not any(torch.equal(before[n], b) for n,b in net.named_buffers() if 'running' in n)

def test_interrupted_calibration_leaves_no_trace():
    net = randomise(nn.Sequential(nn.Conv2d(1,4,1), nn.BatchNorm2d(4, momentum=.3)).double()).eval()
    def batches():
        yield xb[:2],
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): calibrate_bn(net, batches())
    assert net[1].momentum==.3 and not net[1].training

def test_norms_without_statistics_or_without_weights():
    no_statistics, no_weights = nn.BatchNorm2d(8, track_running_stats=False), nn.BatchNorm2d(8, affine=False)
    net = nn.Sequential(nn.Conv2d(1,8,1), no_statistics, nn.ReLU(), nn.Conv2d(8,8,1), no_weights, nn.Conv2d(8,2,1))
    sn = Supernet(randomise(net.double()), xb, check=False)
    s = sn.space.min
    sn.private_bn(s)
    own = {n:[*ts] for n,ts in sn.stats[s].items()}
    assert own=={'1':['weight','bias'], '4':['running_mean','running_var','num_batches_tracked']}
    shake(sn)
    plain = sn.extract(s)
    with sn.active(s): assert is_close(train(net)(xb), train(plain)(xb))
    assert net[1].track_running_stats is False and is_close(sn.stats[s]['1']['bias'].grad, plain[1].bias.grad)

def test_what_is_active_is_made_anew():
    "A subnet that is active while its private tensors, matrices or statistics come has them at once"
    sn = kernels()
    sn.matrices.clear()
    s = replace(sn.space.uniform(.5), kernel={'3':3})
    sn.set_active(s)
    def cut(n): return sn.layers[n]._cut
    sn.calibrate(s, [xb])
    assert [*cut('1').own]==['running_mean','running_var','num_batches_tracked'] and not cut('1').rest
    sn.private_bn(s)
    assert len(cut('1').own)==5 and not cut('1').rest
    sn.kernel_matrices()
    assert [k for k,_ in cut('3').chain]==[5,3]
    other = kernels()
    other.set_active(s)
    other.load_state_dict(sn.state_dict())
    assert len(other.layers['1']._cut.own)==5

def test_calibrated_statistics_are_renewed_and_forgotten():
    sn = resnet()
    private, calibrated = sn.space.uniform(.5), sn.space.uniform(.25)
    sn.private_bn(private)
    shake(sn)
    before, held = copy.deepcopy(sn.stats[private]), dict(sn.stats[private]['stem.bn'])
    for s in (private, calibrated): sn.calibrate(s, [xb])
    assert all(sn.stats[private]['stem.bn'][k] is t for k,t in held.items()), 'the same tensors, renewed'
    for n,ts in sn.stats[private].items():
        assert {k for k in ts if not torch.equal(ts[k], before[n][k])}=={'running_mean','running_var'}, n
    m = sn.extract(private)
    seen = m.stem.bn.train()
    seen.reset_running_stats()
    seen.momentum = 1.
    m(xb)
    assert is_close(seen.running_mean, sn.stats[private]['stem.bn']['running_mean'])
    assert [*sn.stats]==[private, calibrated]
    sn.set_active(calibrated)
    sn.forget_stats()
    assert [*sn.stats]==[private] and sn.subnet==calibrated and not sn.layers['stem.bn']._cut.own

def test_learner_keeps_private_statistics():
    learn = Learner(digits_dls(bs=128, device='cpu'), resnet_cifar(8, n_in=1), loss_func=CrossEntropyLossFlat())
    sn = learn.to_supernet()
    private, shared = sn.space.uniform(.5), sn.space.uniform(.25)
    sn.private_bn(private)
    def mean_of(s): return learn.subnet(s).model.stem.bn.running_mean
    own = sn.stats[private]['stem.bn']['running_mean']
    assert torch.equal(mean_of(private), own) and mean_of(shared).abs().max()>0
    own += 1
    assert torch.equal(mean_of(private), own)

def test_refused_private_norms_change_nothing():
    sn = resnet()
    no_space = Subnet(width={'nowhere':1})
    fails("width: 'nowhere' is not a choice", lambda: sn.private_bn([sn.space.min, no_space]))
    fails('a Subnet is expected', lambda: sn.private_bn([.5]), TypeError)
    assert not sn.stats and not sn.private
    sn.private_bn(sn.space.min)
    ps = sn.held_params()
    sn.private_bn([sn.space.min]) # once more: kept
    assert all(a is b for a,b in zip(sn.held_params(), ps))
    fails('private with affine=True already', lambda: sn.private_bn(sn.space.min, affine=False))
    fails('sort before private_bn', sn.sort_channels)
