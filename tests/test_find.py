"Finding a subnet for a budget: limits are hard, studies go on and are shared; latencies say how good they are"
import subprocess, sys
import pytest, torch
from pandas import Series
from torch import nn
from fastai.learner import Learner
from fastai.metrics import accuracy, error_rate
from fastai.torch_core import no_random
from elastic_nets.subnets.budgets import Costs, at_ranks
from elastic_nets.use import latency, search as find
from elastic_nets.use.latency import (LatencyTable, latency_table, load_latencies, seconds_for, time_subnets,
    widths_that_pay, work_of)
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

def test_prices_by_hand():
    work = [{'layers':n, 'macs':m} for n,m in ((1,10), (2,30), (3,20), (5,90))]
    found = seconds_for(work, [.3*w['layers']+.01*w['macs'] for w in work])
    assert found==pytest.approx({'layers':.3, 'macs':.01})
    assert min(seconds_for(work, [4,3,2,1]).values())==0. # nothing gets faster by more work

def test_work_is_that_of_the_layers(learn):
    sn = learn.supernet
    costs = Costs(sn)
    for s in map(sn.space.sample, range(5)):
        net, numbers, work = sn.extract(s), [0], work_of(costs, s)
        for m in net.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                m.register_forward_hook(lambda m, x, y: numbers.append(y[0].numel()))
        net.eval()(torch.randn(2,1,8,8))
        assert sum(v for k,v in work.items() if k.endswith('numbers'))==sum(numbers)
        assert sum(v for k,v in work.items() if k.endswith('macs'))==sn.macs(s)
        assert sum(v for k,v in work.items() if k.endswith('layers'))==len(numbers)-1

def test_widths_that_do_not_pay_are_said(learn, monkeypatch):
    space, seconds = learn.supernet.space, {1.:4., .75:3.9, .5:2., .25:2.}
    times = {space.uniform(w):t for w,t in seconds.items()}
    monkeypatch.setattr(latency, 'time_subnets', lambda sn, subnets, *args: [times[s] for s in subnets])
    with pytest.warns(UserWarning, match='0.75, 0.25 of the width is not faster'):
        table = widths_that_pay(learn.supernet)
    assert dict(zip(table.width, table.pays))=={1.:True, .75:False, .5:True, .25:False}
    assert table.times.tolist()==pytest.approx([1, 4/3.9, 2, 2])

def test_a_predictor_says_how_good_it_is_and_proposes(learn, monkeypatch):
    sn, truth = learn.supernet, {}
    def rating(table): # a metric that widths alone decide
        truth.update({s:sum(s.width.values())/192 for s in table.subnet})
        return table.assign(accuracy=[truth[s] for s in table.subnet])
    evaluate = find.evaluate_subnets
    monkeypatch.setattr(find, 'evaluate_subnets', lambda learn, subnets, *args, **kw: rating(
        evaluate(learn, subnets, *args, calibrate=0)))
    with learn.no_bar(), learn.no_logging():
        predictor = learn.accuracy_predictor(macs='60%', n=24)
        assert predictor.rank>.8 and len(predictor.held_out)==6 and 'rank correlation' in repr(predictor)
        unseen = [sn.space.sample(i) for i in range(500, 520)]
        want = Series([sum(s.width.values()) for s in unseen])
        assert want.corr(Series(predictor.predict(unseen)), method='spearman')>.8
        found = learn.search_subnet(macs='60%', n=32, predictor=predictor)
    assert {*predictor.table.subnet} <= {*found.table.subnet} and len(found.table)==32
    assert sn.macs(found.best)<=.6*sn.macs(sn.space.max) and truth[found.best]>=predictor.table.accuracy.max()

def test_a_predictor_of_something_else_is_refused(learn):
    with learn.no_bar():
        predictor = learn.accuracy_predictor(n=8, calibrate=64)
        with pytest.raises(ValueError, match='it predicts accuracy of another'):
            learn.search_subnet(n=10, metric=error_rate, predictor=predictor)
        with pytest.raises(ValueError, match='of another supernet'): search(new_learner(), 10, predictor=predictor)
