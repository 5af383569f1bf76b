"A space is a value: small, hashable, and independent of the network that it belongs to"
import copy, pickle, random
from dataclasses import replace
import pytest, torch
from torchvision.models import resnet18
from elastic_nets.subnets.budgets import Constrained
from elastic_nets.subnets.subnet import Space, Subnet
from elastic_nets.subnets.supernet import Supernet

@pytest.fixture(scope='module')
def sn():
    return Supernet(resnet18(num_classes=10), torch.randn(2,3,64,64), depths=(0,.5,1), kernels=(1,3,5,7), check=False)

@pytest.fixture
def builds(monkeypatch):
    "How often a subnet has been built"
    seen, build = [], Space._build
    monkeypatch.setattr(Space, '_build', lambda self, pick: (seen.append(pick), build(self, pick))[1])
    return seen

def test_the_space_of_a_resnet18_has_a_few_kilobytes(sn):
    "And equal ones are one key of a dict, also after a pickle"
    packed = pickle.dumps(sn.space)
    assert len(packed)<=10_000
    twins = [pickle.loads(packed), copy.deepcopy(sn.space), replace(sn.space)]
    assert len({sn.space, *twins})==1 and sn.space.restrict(width=2) not in {sn.space}

def test_what_was_given_may_be_lists_and_may_change_afterwards():
    widths, inside = {'a':[4,8], 'b':[2,4]}, {('width','b'): ('s',0)}
    space = Space(widths, {'s':[0,1]}, inside=inside)
    before = hash(space)
    widths['a'].append(16)
    inside.clear()
    assert hash(space)==before and space==Space({'a':(4,8), 'b':(2,4)}, {'s':(0,1)}, inside={('width','b'): ('s',0)})

def test_given_hashes():
    given = {('width','b'): (('width','a'), {4:[2], 8:[4]})}
    space = Space({'a':(4,8), 'b':(2,4)}, given=given)
    assert hash(space)==hash(replace(space)) and space!=replace(space, given={})

def test_a_sample_is_built_once_and_a_check_builds_nothing(sn, builds):
    sub = sn.space.sample(0)
    assert len(builds)==1
    sn.space.check(sub)
    assert sub in sn.space and replace(sub, depth={}) not in sn.space and len(builds)==1

def test_check_agrees_with_the_list_of_all():
    "Every combination of values, possible or not: a subnet is one of the space where the list of all has it"
    inside = {('width','b'):('r',0), ('kernel','k'):('r',0)}
    space = Space({'a':(1,2), 'b':(4,8), 'c':(5,6)}, {'r':(0,1)}, {'k':(3,5)}, inside=inside,
                  given={('width','c'): (('width','a'), {1:(5,), 2:(6,)})})
    every, rng = {*space}, random.Random(0)
    def some(choices): return {n:rng.choice(vs) for n,vs in choices.items() if rng.random()<.8}
    tried = {Subnet(some(space.width), some(space.depth), some(space.kernel)) for _ in range(3000)}
    assert every < tried and all((s in space)==(s in every) for s in tried)

def test_limits_of_several_costs(sn):
    "`constrain` takes functions, and what it gives is one set: sampled, listed, counted, asked"
    space = sn.space.restrict(width=-1)
    most = space.max
    light = space.constrain(sn.macs, hi=.9*sn.macs(most)).constrain(sn.n_params, lo=.5*sn.n_params(most))
    assert isinstance(light, Constrained) and light==pickle.loads(pickle.dumps(space)).constrain(
        sn.macs, hi=.9*sn.macs(most)).constrain(sn.n_params, lo=.5*sn.n_params(most))
    def fits(s): return sn.macs(s)<=.9*sn.macs(most) and sn.n_params(s)>=.5*sn.n_params(most)
    some = random.Random(0).sample([*space], 50)
    assert {s in light for s in some}=={True, False} and all((s in light)==fits(s) for s in some)
    assert all(light.sample(i) in light for i in range(10)) and most not in light and most in space
    with pytest.raises(ValueError, match=r'macs of .*n_params of .*limits are macs in \[-inf, '): light.max
