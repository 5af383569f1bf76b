"A subnet is built once, placed once, and looked up ever after; a step and a growth stay in their rooms"
import random, sys, time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
import pickle, pytest, torch
import elastic_nets
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torchvision.models import densenet121, resnet18
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.shrink.methods import us_net
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.subnets.subnet import Space
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar

library = str(Path(elastic_nets.__file__).parent)

class Calls:
    "Calls of library functions, and how often a call goes from one module to another"
    def __init__(self): self.calls, self.moves = Counter(), 0
    def __repr__(self):
        return f'{sum(self.calls.values())} calls of {len(self.calls)} functions, {self.moves} changes of room'
    def __call__(self, frame, event, arg):
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if event!='call' or name[0]=='<' or not file.startswith(library): return
        self.calls[Path(file).stem, name] += 1
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(library): caller = caller.f_back
        if caller is not None: self.moves += caller.f_code.co_filename!=file

@contextmanager
def counted():
    calls = Calls()
    sys.setprofile(calls)
    try: yield calls
    finally: sys.setprofile(None)

@pytest.fixture(scope='module')
def dls(): return digits_dls(bs=64, device='cpu')

@pytest.fixture
def sn():
    torch.manual_seed(0)
    return Supernet(resnet_cifar(20, n_in=1, width=8), torch.randn(2,1,8,8), depths=(0,.5,1), kernels=(1,3))

def test_a_subnet_is_built_once(sn):
    "Sampling builds it; switching it on, counting it and taking it out compare, and build nothing"
    with counted() as c:
        s = sn.space.sample(random.Random(0))
        sn.set_active(s)
        sn.macs(s), sn.n_params(s), sn.extract(s)
    assert c.calls['subnet','_build']==1

def test_a_subnet_is_placed_once(sn):
    "The second time that a step needs a subnet, no index is computed and no cut is made"
    nets = [sn.space.sample(100+i) for i in range(4)] # not those that the check of a new supernet places
    def step():
        for s in nets:
            with sn.active(s): sn.model(torch.randn(2,1,8,8)).sum().backward()
            sn.macs(s)
    with counted() as first: step()
    with counted() as second: step()
    assert first.calls['place','locate']==len({*nets}) and first.calls['supernet','_cut']>0
    made = ('place','locate'), ('place','axis_index'), ('supernet','_cut'), ('subnet','_build')
    assert [second.calls[k] for k in made]==[0]*4

def test_a_recipe_places_each_network_once(dls):
    "In a fit of 16 steps with seven widths"
    learn = Learner(dls, resnet_cifar(8, n_in=1), loss_func=CrossEntropyLossFlat())
    learn.to_supernet(widths=tuple(i/8 for i in range(2,9)))
    with learn.no_bar(), learn.no_logging(), counted() as c:
        learn.fit(1, 1e-2, cbs=OnionTraining(us_net(levels=7), watch=(), estimate=False))
    assert 0<c.calls['place','locate']<=7

def test_a_place_is_checked_again_where_the_space_has_changed(sn):
    s = sn.space.min
    sn.set_active(s)
    sn.space = sn.space.restrict(width=-1)
    with pytest.raises(ValueError, match='is not allowed'): sn.place(s)

def test_few_places_are_kept(sn):
    for i in range(300): sn.place(sn.space.sample(i))
    assert len(sn.graph._places)<=128

def test_first_switch_of_densenet():
    "A new subnet of the network with the most joined groups: under .1 s, the best of ten"
    sn = Supernet(densenet121(), torch.randn(1,3,64,64), check=False)
    seconds = []
    for i in range(10):
        s = sn.space.sample(i)
        start = time.process_time()
        sn.set_active(s)
        seconds.append(time.process_time()-start)
    assert min(seconds)<.1

def test_space_is_a_small_value(sn):
    space = Supernet(resnet18(), torch.randn(1,3,64,64), depths=(0,.5,1), check=False).space
    assert isinstance(space, Space) and len(pickle.dumps(space))<10_000
    assert hash(space)==hash(pickle.loads(pickle.dumps(space))) and space==pickle.loads(pickle.dumps(space))

class Watched(Callback):
    "Counts the library's calls while the network grows"
    order, run_valid = GrowWidth.order-1, False
    def before_batch(self):
        self.counting = Calls()
        sys.setprofile(self.counting)

class Unwatched(Callback):
    order, run_valid = GrowWidth.order+1, False
    def before_fit(self): self.most = Calls()
    def before_batch(self):
        sys.setprofile(None)
        c = self.watched.counting
        if sum(c.calls.values())>sum(self.most.calls.values()): self.most = c

def test_one_growth_stays_in_its_rooms(dls):
    "At most 100 changes of room in a growth (507 once)"
    learn, seen = Learner(dls, resnet_cifar(8, n_in=1), loss_func=CrossEntropyLossFlat()), Unwatched()
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2, cbs=[Watched(), GrowWidth(start=.5, stages=2), seen])
    assert seen.most.calls['widen','grow_width']==1
    assert seen.most.moves<=100, seen.most

def test_one_step_stays_in_its_rooms(dls):
    "A step of two networks: fewer calls and changes of room than the 756 and 189 of before, argument checks included"
    learn = Learner(dls, resnet_cifar(8, n_in=1), loss_func=CrossEntropyLossFlat())
    learn.to_supernet()
    counts = []
    class Each(Callback):
        order, run_valid = -1000, False
        def before_batch(self):
            counts.append(Calls())
            sys.setprofile(counts[-1])
        def after_batch(self): sys.setprofile(None)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2, cbs=[OnionTraining(us_net(k=2, levels=4), watch=(), estimate=False), Each()])
    last = counts[-1]
    assert sum(last.calls.values())<=500 and last.moves<=180, last
