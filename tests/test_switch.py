"One supernet, many budgets: networks that share its weights, threads that do not meet"
from concurrent.futures import ThreadPoolExecutor
import pytest, timm, torch
from torch import nn
from torchvision import models as tv
from elastic_nets.channels.surgery import tensors_of
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.switch import Switcher, menu
from elastic_nets.zoo.models import deeplabv3plus, resnet_cifar, vit
from elastic_nets.zoo.spaces import ofa_mobilenetv3
from helpers import close, fails, new_learner, randomise

x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
nets = {
    'resnet': (lambda: resnet_cifar(8), dict(depths=(0,1), kernels=(1,3))),
    'matrices': (lambda: ofa_mobilenetv3(10, img=32, width=.5)[0],
                 dict(space=ofa_mobilenetv3(10, img=32, width=.5)[1], check=False)),
    'vit': (lambda: vit(img=32, patch=8, dim=48, depth=3, heads=3), dict(depths=(0,1))),
    'densenet': (lambda: tv.DenseNet(8, (2,2), 16, num_classes=5), {}),
    'timm': (lambda: timm.create_model('vit_tiny_patch16_224', img_size=32, depth=2), dict(depths=(0,1))),
    'segmentation': (lambda: deeplabv3plus('resnet18', 3, width=32), dict(check=False))}

def made(name, **kwargs):
    make, options = nets[name]
    sn = Supernet(randomise(make()).eval(), x.float(), **{**options, **kwargs})
    sn.model.double()
    return sn

def storages(tensors): return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}

@pytest.mark.parametrize('name', nets)
def test_networks_are_those_taken_out(name):
    "Smallest, largest, random; recalibrated, with matrices; and with little memory of their own"
    sn = made(name)
    if sn.space.kernel: sn.kernel_matrices()
    for p in sn.held_params(): p.data = p.data.double()+.1*torch.randn_like(p).double()
    subnets = [sn.space.min, sn.space.max, sn.space.sample(0), sn.space.sample(1)]
    sn.calibrate(subnets[0], [(x,)], 2)
    want = [sn.extract(s).eval()(x) for s in subnets]
    switcher, copies = Switcher(sn, subnets), Switcher(sn, subnets, share=False)
    for s,y in zip(subnets, want):
        assert switcher.pick(sn.macs(s))[0] in subnets
        for sw in (switcher, copies): close(sw.nets[s](x), y)
    def extra(sw): # bytes that the supernet does not have
        mine, all_ = [storages(t for m in ms for *_,t in tensors_of(m)) for ms in ([sn.model], sw.nets.values())]
        return sum(n for k,n in all_.items() if k not in mine)
    assert extra(switcher)<.6*extra(copies) and (name in ('densenet','matrices') or extra(switcher)<.2*extra(copies))

def test_weights_that_are_trained_show_through():
    sn = made('vit')
    switcher, copies = Switcher(sn, sn.space.min), Switcher(sn, sn.space.min, share=False)
    before = switcher(1e12, x)
    with torch.no_grad():
        for p in sn.model.parameters(): p.mul_(1.1)
    close(switcher(1e12, x), sn.extract(sn.space.min).eval()(x))
    close(copies(1e12, x), before)
    sn.model.float()
    fails('have moved since', lambda: switcher.within(1e12), RuntimeError)

def test_threads_do_not_meet():
    "Eight of them pick at random while another one switches the supernet itself"
    sn = made('resnet')
    subnets = [sn.space.sample(i) for i in range(6)]
    switcher = Switcher(sn, subnets, score=lambda s: subnets.index(s), cost=lambda s: subnets.index(s))
    want = {s:n(x) for s,n in switcher.nets.items()}
    def right(i):
        if i%9==0:
            sn.set_active(subnets[i%6])
            return True
        subnet, net = switcher.pick(i%6)
        return subnet==subnets[i%6] and torch.equal(net(x), want[subnet])
    with ThreadPoolExecutor(8) as pool: assert all(pool.map(right, range(300)))

def test_the_best_within_a_budget():
    "By score, not by cost: what costs more and is worse is never picked"
    assert menu([(1,1,'a'), (2,3,'b'), (3,2,'c'), (3,4,'d')])==([1,2,3], ['a','b','d'])
    sn = made('resnet')
    subnets = [sn.space.level(t) for t in (0,.5,1)]
    score = dict(zip(subnets, (.5,.9,.8)))
    switcher = Switcher(sn, subnets, score=score.get)
    assert [switcher.pick(sn.macs(s))[0] for s in subnets]==[subnets[0], subnets[1], subnets[1]]
    fails('budget: 1 is too little', lambda: switcher.within(1))
    timed = switcher.timed(x, rounds=3)
    assert timed is switcher and all(0<c<5 for c in switcher.costs.values())
    fails('is too little', lambda: switcher.within(0))

def test_of_a_learner_statistics_are_found_anew():
    xs = torch.randn(32,3,16,16)
    learn = new_learner(lambda: resnet_cifar(8), (xs, torch.zeros(32).long()), dtype=torch.float32,
                        loss=nn.CrossEntropyLoss())
    sn = learn.to_supernet(resolutions=(8,16))
    s = sn.space.min
    switcher = Switcher(learn, s, calibrate=16)
    mean = switcher.nets[s].stem.bn.running_mean
    assert not torch.equal(mean, sn.model.stem.bn.running_mean[:len(mean)])
    half = nn.functional.interpolate(xs, size=(8,8), mode='bilinear', antialias=True)
    assert s.resolution==8 and switcher(1e12, xs).shape==switcher.nets[s](half).shape
