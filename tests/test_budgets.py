"Budgets: every draw keeps them, near the limit, in milliseconds; what nothing keeps is refused at once"
import copy, gc, pickle, random, time, weakref
import numpy as np, pytest, torch
from torchvision.models import resnet18, shufflenet_v2_x1_0
from elastic_nets.subnets.budgets import Costs, profile_space
from elastic_nets.subnets.subnet import Space
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.models import mobilenet_cifar, resnet_cifar, vit
from elastic_nets.zoo.spaces import ofa_mobilenetv3

def small(**kw): return Supernet(resnet_cifar(8, n_in=1), torch.randn(1,1,8,8), **(kw or dict(depths=(0,1))))

def published(make): # a search space of a paper
    net,space = make(10, img=32)
    return Supernet(net, torch.randn(2,3,32,32), check=False, space=space)

made = dict(
    resnet=small, sizes=lambda: small(resolutions=(6,8), depths=(0,1)),
    resnet18=lambda: Supernet(resnet18(weights=None), torch.randn(1,3,64,64)),
    shuffle=lambda: Supernet(shufflenet_v2_x1_0(weights=None), torch.randn(1,3,64,64)),
    mobilenet=lambda: Supernet(mobilenet_cifar(), torch.randn(1,3,32,32), kernels=(1,3)),
    vit=lambda: Supernet(vit(), torch.randn(1,3,32,32), depths=(.5,1)),
    ofa=lambda: published(ofa_mobilenetv3))

@pytest.fixture(scope='module', params=made)
def sn(request): return made[request.param]()

def test_tables_count_what_the_supernet_counts(sn):
    costs, rng = Costs(sn), random.Random(0)
    for s in [sn.space.min, sn.space.max, *[sn.space.sample(rng) for _ in range(15)]]:
        assert (costs.macs(s), costs.params(s))==(sn.macs(s), sn.n_params(s))

@pytest.mark.parametrize('cost', ['macs', 'params'])
def test_draws_keep_every_budget_and_use_it(sn, cost):
    "Steps of single choices are coarse near the smallest subnet; above, a draw is near its limit"
    count = dict(macs=sn.macs, params=sn.n_params)[cost]
    lo, hi = count(sn.space.min), count(sn.space.max)
    for share in (0, .001, .03, .3, .6, .97, 1):
        limited = sn.constrain(**{cost: lo+share*(hi-lo)})
        drawn = [count(limited.sample(seed)) for seed in range(4)]
        assert max(drawn)<=lo+share*(hi-lo)
        if .1<share<1: assert np.mean(drawn)>=.8*(lo+share*(hi-lo))

def test_a_draw_takes_milliseconds():
    sn = made['ofa']()
    limited = sn.constrain(macs=1.02*sn.macs(sn.space.min), params='60%')
    limited.sample(0)
    start = time.process_time()
    for seed in range(1, 11): limited.sample(seed)
    assert (time.process_time()-start)/10<.3 # 20 ms on an idle machine

def test_draws_differ_and_are_repeatable():
    limited = made['ofa']().constrain(macs='50%')
    drawn = [limited.sample(seed) for seed in range(20)]
    assert len({*drawn})==20 and drawn[3]==limited.sample(3)==limited.sample(random.Random(3))
    assert limited.sample(np.random.default_rng(0)) in limited

def test_ranges_are_covered_from_end_to_end():
    sn = made['ofa']()
    lo, hi = [x*sn.macs(sn.space.max) for x in (.4,.6)]
    drawn = [sn.macs(sn.constrain(macs=('40%','60%')).sample(seed)) for seed in range(30)]
    assert lo<=min(drawn)<lo+.3*(hi-lo) and hi-.1*(hi-lo)<max(drawn)<=hi

def test_a_lower_bound_alone_is_reached():
    sn = made['ofa']()
    limited = sn.space.constrain(sn.macs, lo=.9*sn.macs(sn.space.max))
    assert all(sn.macs(limited.sample(seed))>=.9*sn.macs(sn.space.max) for seed in range(3))

def test_several_budgets_at_once(sn):
    limited = sn.constrain(macs='70%', params='50%')
    for seed in range(5):
        s = limited.sample(seed)
        assert sn.macs(s)<=.7*sn.macs(sn.space.max) and sn.n_params(s)<=.5*sn.n_params(sn.space.max)

def test_a_budget_above_the_full_network_draws_as_the_space_does():
    sn = small()
    sizes = [sn.macs(sn.constrain(macs=1e12).sample(seed)) for seed in range(40)]
    assert np.median(sizes)<.7*sn.macs(sn.space.max)

def test_choices_that_follow_others_are_drawn_together():
    space = Space(width={'b':(1,2), 'a':(4,8)}, depth={'r':(0,1)},
                  given={('width','b'):(('width','a'),{4:(1,),8:(2,)}), ('width','a'):(('depth','r'),{0:(4,),1:(8,)})})
    for hi in (5, 9, 10): assert space.constrain(lambda s: sum(s.width.values()), hi=hi).sample(0) in space

def test_a_cost_that_jumps_is_drawn_again():
    sn = small()
    def odd(s): return sn.macs(s)+1e5*(sn.n_params(s)%2)
    limited = sn.space.constrain(odd, hi=.5*sn.macs(sn.space.max))
    assert all(odd(limited.sample(seed))<=.5*sn.macs(sn.space.max) for seed in range(10))

def test_a_space_knows_names_as_long_as_it_is_a_supernets_own():
    sn = small()
    named, by_function = sn.space.constrain(macs='50%'), sn.space.constrain(sn.macs, hi=.5*sn.macs(sn.space.max))
    assert [named.sample(i) for i in range(5)]==[by_function.sample(i) for i in range(5)]
    for other in (pickle.loads(pickle.dumps(sn.space)), copy.deepcopy(sn.space), sn.space.restrict(width=2)):
        with pytest.raises(ValueError, match='which network'): other.constrain(macs='50%')
    assert len(pickle.dumps(sn.space))<3000 and [*vars(sn.space)]==[*vars(sn.space.restrict(width=2))]

def test_counting_keeps_no_supernet_alive():
    sn = small()
    sn.constrain(macs='50%').sample(0)
    gone = weakref.ref(sn)
    del sn
    gc.collect()
    assert gone() is None

def test_a_supernet_out_of_a_pickle_counts_anew():
    sn = small()
    sn.constrain(macs='50%')
    again = pickle.loads(pickle.dumps(sn))
    assert '_costs' not in vars(again) and again.constrain(macs='50%').sample(3)==sn.constrain(macs='50%').sample(3)

def test_profile_says_what_each_choice_saves():
    sn = small(resolutions=(6,8), depths=(0,1))
    p = profile_space(sn, n=20)
    full = sn.space.max
    less = Space.sample(sn.space.restrict(resolution=1), 0).resolution
    saved = 1-sn.macs(full.__class__(full.width, full.depth, full.kernel, less))/sn.macs(full)
    assert p.choices.loc['resolution','macs saved']==pytest.approx(saved)
    assert p.choices.loc['resolution','params saved']==0 and len(p.draws)==20
    assert p.draws.macs.between(p.extremes.macs['smallest'], p.extremes.macs['largest']).all()
