"The queues of long runs: what they ask for next, what a card is asked for, and that all stops in time"
import sys, time
from pathlib import Path
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
common, evidence, gpu, shrink, trials = (
    pytest.importorskip(name) for name in ('common','evidence','gpu_evidence','shrink','trials'))

@pytest.fixture
def path(tmp_path): return tmp_path/'rows.jsonl'

# Rows

def test_stamp_without_git(monkeypatch):
    "A copy without git says which files made a row"
    def no_git(*args, **kw): raise FileNotFoundError('git')
    monkeypatch.setattr(common.subprocess, 'run', no_git)
    assert common.git('status')=='' and common.find_commit()==common.sources()
    assert common.sources().startswith('files ') and len(common.sources())==len('files ')+7

def test_a_line_that_is_being_written_is_no_row(path):
    common.append(path, dict(a=1))
    with open(path, 'a') as f: f.write('{"a": ')
    assert common.rows(path)==[dict(a=1)]

# Learning rates

def searched(path, found, first, widen=True):
    "What a search that has found these values asks for, and its best"
    path.unlink(missing_ok=True)
    for lr,valid in found.items(): common.append(path, dict(name='lr', config=dict(n=1, lr=lr), valid=valid))
    for lr in (.1,.2): common.append(path, dict(name='lr', config=dict(n=2, lr=lr), valid=99.)) # another search
    common._read.cache_clear()
    return trials.search(path, 'lr', dict(n=1), first, widen)

def test_a_best_rate_at_the_edge_widens_the_search(path):
    first = (.1,.2,.4)
    assert searched(path, {}, first)==([.1,.2,.4], None)
    assert searched(path, {.1:1.}, first)==([.2,.4], None)
    assert searched(path, {.1:1.,.2:3.,.4:2.}, first)==([], .2)
    assert searched(path, {.1:1.,.2:2.,.4:3.}, first)==([.8], None)
    assert searched(path, {.1:3.,.2:2.,.4:1.}, first)==([.05], None)
    assert searched(path, {.05:2.,.1:3.,.2:2.,.4:1.}, first)==([], .1)
    assert searched(path, {.1:1.,.2:2.,.4:float('nan')}, first)==([], .2) # a run that broke down is the worst
    assert searched(path, {.1:3.,.2:2.,.4:1.}, first, widen=False)==([], .1)

# The queue of a processor

@pytest.fixture
def queue(path, monkeypatch):
    "Growth's part of the queue as it goes on when a dense network has so much on validation after so many epochs"
    monkeypatch.setattr(evidence, 'GROWN', path)
    def run(dense, seeds=(0,)):
        path.unlink(missing_ok=True)
        common._read.cache_clear()
        def valid(c): return dense(c['epochs']) if c['seed']<100 else 80-abs(c['lr']-.2)-(c['schedule']=='flat')
        for _ in range(60):
            asked = [*evidence.growth_search(), *[x for s in seeds for x in evidence.growth_runs(s)]]
            left = [(n,c) for n,c in asked if not any(r['config']==c for r in common.rows(path))]
            if not left: break
            common.append(path, dict(name=left[0][0], config=left[0][1], valid=valid(left[0][1])))
            common._read.cache_clear()
        return common.rows(path)
    return run

def test_dense_runs_until_it_is_good_enough(queue):
    "Then, and not before, what grows is compared with it, at equal epochs and at equal cost"
    def epochs(rows): return [(r['name'],r['config']['epochs']) for r in rows if r['name']!='lr']
    passes = evidence.plan_passes(evidence.PLAN)
    def compared(e):
        return [('plan',e), ('plan, equal cost',round(e/passes)), ('dense, cost of the plan',round(e*passes))]
    assert epochs(queue(lambda e: 86.))==[('dense',12), *compared(12)]
    assert epochs(queue(lambda e: 80.+e/3))==[('dense',12), ('dense',18), *compared(18)]
    assert epochs(queue(lambda e: 50.))==[('dense',12), ('dense',18), ('dense',27), *compared(27)]

def test_the_baseline_has_the_best_schedule_and_decay(queue):
    rows = queue(lambda e: 86., seeds=(0,1))
    assert {(r['config']['schedule'],r['config']['lr']) for r in rows if r['name']!='lr'}=={('cycle',.2)}
    assert {r['config']['lr'] for r in rows if r['name']=='lr' and r['config']['schedule']=='flat'}=={.05,.1,.2,.4}
    assert [r['config']['wd'] for r in rows if r['name']=='lr'].count(5e-4)==1

def test_a_run_that_fails_is_left_out(path):
    "And the next one is run"
    def train(c):
        if c['n']==1: raise RuntimeError('out of memory')
        return dict(out=c['n'])
    kinds, failed = dict(a=evidence.Kind(path, train)), set()
    def asked(): return [('a','x',dict(n=n)) for n in (1,2)]
    while evidence.run_next(asked(), kinds, failed): pass
    assert [r['out'] for r in common.rows(path)]==[2] and len(failed)==1

def test_targets_are_changed():
    "Hard labels in the place of distillation, and nothing else"
    c = shrink.new('bignas', seed=0, lr=.1)
    published, hard = shrink.recipe_of(c), shrink.recipe_of(dict(c, target='hard'))
    assert (published.gradient.target, hard.gradient.target)==('distill','hard')
    assert published.construct==hard.construct and published.schedule==hard.schedule

# A card

@pytest.fixture
def tiny(path, monkeypatch):
    for module in (gpu.grow, trials, shrink): monkeypatch.setattr(module, 'cifar_dls', module.cifar_dls)
    a = gpu.settings(['--tiny','--out',str(path)])
    a.until = time.time()+600
    return a

def test_tables_and_runs_for_a_card(tiny):
    "Tried without one: times of steps for every kind of table, and a run of every kind; a second time there is nothing"
    gpu.measure_tables(tiny)
    steps = [r for r in common.rows(tiny.out) if r['name']=='steps']
    assert [(r['config']['what'],r['config'].get('opt')) for r in steps]==[
        ('sizes','fastai'), ('recipes',None), ('sizes','fused'), ('peak',None), ('sizes','fastai')]
    gpu.work(tiny)
    runs = [r for r in common.rows(tiny.out) if r['name']!='steps']
    assert [(r['kind'],r['name']) for r in runs]==[
        ('growth','lr'), ('growth','dense'), ('growth','plan'), ('family','delayed_shrinking')]
    assert all({'all','machine','commit'}<={*r} for r in runs) and runs[2]['stages'][-1]['width']==1
    before = len(common.rows(tiny.out))
    gpu.measure_tables(tiny)
    gpu.work(tiny)
    assert len(common.rows(tiny.out))==before

def test_only_what_fits_into_the_time_is_begun(tiny):
    c = dict(net=8, width=8, bs=32, epochs=10)
    assert gpu.fits(tiny, c) # nothing is known of such runs
    common.append(tiny.out, dict(config=dict(c, epochs=2), all=100.)) # 50 seconds an epoch
    assert gpu.fits(tiny, c)
    tiny.until = time.time()+520 # 500 seconds and a tenth more are needed
    assert not gpu.fits(tiny, c) and gpu.fits(tiny, dict(c, epochs=5)) and gpu.fits(tiny, dict(c, width=16))
    tiny.until = time.time()+5
    assert not gpu.fits(tiny, dict(c, width=16))

def test_processes_end_in_time():
    "Those that have not ended are stopped"
    begin = time.time()
    gpu.serve([[sys.executable,'-c','pass'], [sys.executable,'-c','import time; time.sleep(60)']], begin+1.5)
    assert time.time()-begin<10

def test_a_card_has_every_recipe_and_three_seeds(tmp_path):
    "Once rates are known: 30 epochs or more on 45,000 pictures"
    a = gpu.settings(['--out',str(tmp_path/'x.jsonl')])
    for kind,name,c in gpu.configs(a):
        if name=='lr': common.append(a.out, dict(name='lr', config=c, valid=80-abs(c['lr']-.4)))
    common._read.cache_clear()
    runs = [(kind,name,c) for kind,name,c in gpu.configs(a) if name!='lr' and not name.startswith('probe')]
    names = [*gpu.RECIPES, *gpu.MORE]
    families = {name:{c['seed'] for kind,n,c in runs if kind=='family' and n==name} for name in names}
    assert all(seeds=={0,1,2} for seeds in families.values())
    assert all(c['n_train']==45_000 and c['lr'] in (.4,.2) for *_,c in runs)
    assert min(c['epochs'] for kind,_,c in runs if kind=='family')>=30

# Pages while rows are still coming

def row_of(kind, name, c):
    "A row as a run would leave it"
    where = dict(machine='a card', commit='abc', date='2026-11-27')
    value = 80+c['seed']+len(name)/10
    row = dict(name=name, config=c, kind=kind, valid=value, test=value, seconds=10., cpu_seconds=9., overhead=.1,
               steps=100, all=20., **where)
    if kind=='family' and c['recipe'] not in shrink.ALONE and name!='lr':
        row.update(smallest=[1000, value, value], largest=[9000, value, value], buckets=[[1000, value, value]]*6)
    if kind=='onion':
        widths = {str(w):value for w in evidence.onion.FOUR}
        both = dict(widths={str(c['width']):value}) if 'width' in c else dict(widths=widths, mean_pareto=value)
        row.update(valid=both, test=both)
    return row

def test_pages_can_be_made_at_any_time(path, monkeypatch, share=.7):
    "From a share of the rows that both queues will leave"
    reports = {n:pytest.importorskip(f'{n}_report') for n in ('grow','shrink','onion','verdicts')}
    monkeypatch.setattr(evidence, 'GROWN', path)
    monkeypatch.setattr(evidence, 'FAMILIES', path)
    found = []
    for _ in range(4): # runs follow from rows
        done = [r['config'] for r in found]
        for kind,name,c in evidence.configs((0,1,2)):
            if kind=='steps' or c in done: continue
            found.append(row_of(kind, name, c))
            common.append(path, found[-1])
        common._read.cache_clear()
    found = found[:round(share*len(found))]
    def of(kind): return [r for r in found if r['kind']==kind]
    monkeypatch.setattr(reports['grow'], 'LONG', of('growth'))
    monkeypatch.setattr(reports['shrink'], 'LONG', of('family'))
    monkeypatch.setattr(reports['onion'], 'RUNS', [*reports['onion'].RUNS, *of('onion')])
    monkeypatch.setattr(reports['verdicts'].card, 'LATER', of('growth')+of('family'))
    pages = {name:module.page.render() for name,module in reports.items()}
    assert 'nan' not in ''.join(pages.values())
    v = reports['verdicts']
    assert {v.little_loss(.13).verdict, v.above('bignas').verdict, v.onion_best('vgg').verdict}<={
        v.REPRODUCED, v.NOT_REPRODUCED, v.NOT_SHOWN}
