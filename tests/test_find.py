"Finding a subnet for a budget: limits are hard, studies go on and are shared; latencies say how good they are"
import subprocess, sys
import pytest, torch
from fastai.learner import Learner
from fastai.metrics import accuracy, error_rate
from fastai.torch_core import no_random
from elastic_nets.subnets.budgets import at_ranks
from elastic_nets.use.latency import LatencyTable, latency_table, load_latencies, rising_line, time_subnets
from elastic_nets.use.search import first_guesses, proposed, ranks_of
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar

torch.set_num_threads(1)

def new_learner():
    with no_random(): learn = Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1), metrics=accuracy)
    learn.to_supernet(depths=(0,1))
    return learn

@pytest.fixture(scope='module')
def learn(): return new_learner()

def search(learn, n=6, **kw):
    with learn.no_bar(): return learn.search_subnet(n=n, calibrate=64, **kw)

def test_every_evaluated_subnet_keeps_the_budget_and_the_best_is_the_best(learn):
    sn = learn.supernet
    found = search(learn, 10, macs='40%', params='60%')
    assert found.table.macs.max()<=.4*sn.macs(sn.space.max) and found.table.params.max()<=.6*sn.n_params(sn.space.max)
    assert found.best==found.table.subnet[0] and found.table.accuracy[0]==found.table.accuracy.max()
    assert len({*found.table.subnet})==10 and {*found.front.subnet}<={*found.table.subnet}

def test_less_is_better_where_the_metric_says_so(learn):
    found = search(learn, macs='60%', metric=error_rate)
    assert found.table.error_rate[0]==found.table.error_rate.min()

def test_a_small_space_is_searched_whole():
    learn = new_learner()
    learn.supernet.space = learn.supernet.space.restrict(width=1)
    assert {*search(learn, 50).table.subnet}=={*learn.supernet.space}

def test_a_search_goes_on_and_is_refused_for_other_weights(learn, tmp_path):
    first = search(learn, 4, macs='50%', storage=tmp_path/'study')
    more = search(learn, 7, macs='50%', storage=tmp_path/'study')
    assert {*first.table.subnet} < {*more.table.subnet} and len(more.table)==7
    other = new_learner()
    with torch.no_grad(): next(other.model.parameters()).add_(.1)
    with pytest.raises(ValueError, match='name another file'): search(other, macs='50%', storage=tmp_path/'study')

def test_two_processes_share_a_search(tmp_path):
    code = ("import sys; sys.path.insert(0, 'tests'); from test_find import *; l = new_learner(); "
            f"print(len(search(l, 12, macs='50%', storage={str(tmp_path/'study')!r}, seed=int(sys.argv[1])).table))")
    both = [subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(i)], stdout=subprocess.PIPE, text=True)
            for i in range(2)]
    sizes = [int(p.communicate(timeout=300)[0].split()[-1]) for p in both]
    table = search(new_learner(), 1, macs='50%', storage=tmp_path/'study').table
    assert max(sizes)>=12 and len(table)>=12 and len({*table.subnet})==len(table)

def test_numbers_and_subnets_translate(learn):
    space = learn.supernet.space
    for i in range(10): assert at_ranks(space, ranks_of(space, space.sample(i)))==space.sample(i)
    limited = learn.supernet.constrain(macs='30%')
    fits = limited.sample(0)
    assert proposed(limited, ranks_of(space, fits))==fits and proposed(limited, ranks_of(space, space.max)) in limited
    assert all(s in limited for s in first_guesses(limited, learn.supernet.macs, 8))

def test_a_table_of_latencies_predicts_saves_and_limits(learn, tmp_path):
    sn = learn.supernet
    table = latency_table(sn, batch=8, n=8, held_out=3, rounds=3)
    assert isinstance(table, LatencyTable) and len(table.held_out)==3 and 'median error' in repr(table)
    assert 0<=table.latency(sn.space.min)<=table.latency(sn.space.max)
    middle = (table.latency(sn.space.min)+table.latency(sn.space.max))/2
    assert all(table.latency(sn.constrain(latency=middle).sample(i))<=middle for i in range(3))
    assert (search(learn, 3, latency=middle).table.latency<=middle).all()
    table.save(tmp_path/'table.json')
    again = load_latencies(new_learner().supernet, tmp_path/'table.json')
    assert again.latency(sn.space.max)==pytest.approx(table.latency(sn.space.max)) and again.error==table.error

def test_more_work_takes_longer(learn):
    space = learn.supernet.space
    small, large = time_subnets(learn.supernet, [space.min, space.max], batch=64, rounds=5)
    assert small<large

def test_lines_never_fall():
    assert rising_line([1,2,3], [6,4,2])==(4.,0.) and rising_line([2,4], [1,3])[0]==0
