"The queues of long runs: what they ask for next, what a card is asked for, and that all stops in time"
import math, sys, time
from pathlib import Path
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
common, evidence, gpu, shrink, small, tables, trials = (
    pytest.importorskip(n) for n in ('common','evidence','gpu_evidence','shrink','small','family_tables','trials'))

@pytest.fixture
def path(tmp_path): return tmp_path/'rows.jsonl'

# Rows

def test_stamp_without_git(monkeypatch, tmp_path):
    "A copy without git says what it was told, or that it does not know, and which files made a row"
    def no_git(*args, **kw): raise FileNotFoundError('git')
    monkeypatch.setattr(common.subprocess, 'run', no_git)
    monkeypatch.setattr(common, 'root', tmp_path)
    monkeypatch.delenv('ELASTIC_NETS_COMMIT', raising=False)
    assert common.git('status')=='' and common.find_commit()==f'unknown, {common.sources()}'
    assert common.sources().startswith('files ') and len(common.sources())==len('files ')+7
    (tmp_path/'COMMIT').write_text('abc1234\n')
    assert common.find_commit()=='abc1234'
    monkeypatch.setenv('ELASTIC_NETS_COMMIT', 'def5678')
    assert common.find_commit()=='def5678'

def test_a_repository_around_a_copy_is_not_asked(monkeypatch, tmp_path):
    "Its commit is that of something else"
    says = {'--show-toplevel':lambda: str(around), 'HEAD':lambda: 'abc1234'}
    def git(*args): return says.get(args[-1], str)()
    monkeypatch.setattr(common, 'git', git)
    monkeypatch.delenv('ELASTIC_NETS_COMMIT', raising=False)
    around = common.root
    assert common.find_commit()=='abc1234'
    around = tmp_path
    assert common.find_commit().startswith('unknown, files ')

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
        ('growth','lr'), ('growth','dense'), ('growth','plan'), ('family','delayed_shrinking'), ('growth','auto'),
        ('growth','rewarmed, new channels alone'), ('growth','smaller pictures too')]
    assert all({'all','machine','commit'}<={*r} for r in runs)
    assert all(runs[i]['stages'][-1]['width']==1 for i in (2,4,5,6))
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
    asked = [(kind,name,c) for kind,name,c in gpu.configs(a) if name!='lr' and not name.startswith('probe')]
    cheap, runs = ([x for x in asked if (x[0]=='small')==is_small] for is_small in (True,False))
    assert asked[:len(cheap)]==cheap, 'cheap ones come first'
    assert all({c['seed'] for _,n,c in cheap if n==init}=={*range(8)} for init in ('dense',*small.INITS))
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
    if name=='lr': value -= abs(math.log(c['lr']/.2)) # the best lies between others
    row = dict(name=name, config=c, kind=kind, valid=value, test=value, seconds=10., cpu_seconds=9., overhead=.1,
               steps=100, all=20., **where)
    if kind in ('growth','small'): row['stages'] = [dict(step=s, width=w) for s,w in ((0,.5), (30,.75), (60,1.))]
    if 'family' in kind and c['recipe'] not in shrink.ALONE and name!='lr':
        row.update(smallest=[1000, value, value], largest=[9000, value, value], buckets=[[1000, value, value]]*6,
                   full_passes=90)
    if kind=='onion':
        widths = {str(w):value for w in evidence.onion.FOUR}
        both = dict(widths={str(c['width']):value}) if 'width' in c else dict(widths=widths, mean_pareto=value)
        row.update(valid=both, test=both)
    return row

@pytest.fixture(scope='module')
def queued(tmp_path_factory):
    "All rows that the queue of a processor will leave, in its order"
    path, found = tmp_path_factory.mktemp('rows')/'rows.jsonl', []
    with pytest.MonkeyPatch.context() as patch:
        for module in (evidence, small):
            for name in ('GROWN','FAMILIES'): patch.setattr(module, name, path)
        for _ in range(20): # runs follow from rows
            asked = [x for x in evidence.configs((0,1,2)) if x[0]!='steps']
            done = [r['config'] for r in found]
            new = [row_of(*x) for x in asked if x[2] not in done]
            for r in new: common.append(path, r)
            found += new
            common._read.cache_clear()
            if not new: break
    first = {str(c):i for i,(_,_,c) in reversed([*enumerate(asked)])}
    return sorted([r for r in found if str(r['config']) in first], key=lambda r: first[str(r['config'])])

def test_cheap_runs_come_first(queued):
    "Eight seeds of every init beside the dense network, then families, then all that is long"
    runs = [r for r in queued if r['name']!='lr']
    kinds = [r['kind'] for r in runs]
    n = sum(k in ('small','small_family') for k in kinds)
    assert {*kinds[:n]}=={'small','small_family'} and {*kinds[n:]}=={'growth','onion','family'}
    def seeds(kind, name): return {r['config']['seed'] for r in runs if r['kind']==kind and r['name']==name}
    assert all(seeds('small', init)=={*range(8)} for init in ('dense',*small.INITS))
    assert all(seeds('small_family', small.form_name(form))=={0,1,2} for form in small.FORMS)
    assert all(seeds('small_family', name)=={0,1,2} for name in small.RIVALS)
    assert all(len(seeds('small', name))==5 for name in (*small.OPTIONS,'flat','flat, late doubling'))
    of = {name:[r['config'] for r in runs if r['name']==name and r['kind']=='small'] for name in ('dense','high rate')}
    assert {c['lr'] for c in of['high rate']}=={4*c['lr'] for c in of['dense']}
    changes = [dict(c, plan=None, init=None)==d for c,d in zip([r['config'] for r in runs if r['name']=='lemon'],
               [c for c in of['dense'] if c['seed']<8])]
    assert changes and all(changes), 'a pair differs in growth alone'

@pytest.mark.parametrize('share', [0.,.01,.1,.4,1.])
def test_pages_can_be_made_at_any_time(queued, monkeypatch, share):
    "From a share of the rows that the queues will leave: none, one of each kind, or many"
    reports = {n:pytest.importorskip(f'{n}_report') for n in ('grow','shrink','onion','verdicts')}
    def of(kind):
        mine = [r for r in queued if r['kind']==kind]
        return mine[:round(share*len(mine))]
    monkeypatch.setattr(reports['grow'], 'LONG', of('growth'))
    monkeypatch.setattr(reports['grow'], 'SMALL', of('small'))
    monkeypatch.setattr(reports['shrink'], 'LONG', of('family'))
    monkeypatch.setattr(reports['onion'], 'SMALL_FAMILIES', of('small_family'))
    monkeypatch.setattr(reports['onion'], 'RUNS', [*reports['onion'].RUNS, *of('onion')])
    monkeypatch.setattr(reports['verdicts'].card, 'LATER', of('growth')+of('family'))
    pages = {name:module.page.render() for name,module in reports.items()}
    assert 'nan' not in ''.join(pages.values())
    assert ('Not run yet' in pages['grow'])==(share<1) and ('| lemon | 8 |' in pages['grow'])==(share==1)
    v = reports['verdicts']
    assert {v.little_loss(.13).verdict, v.above('bignas').verdict, v.onion_best('vgg').verdict}<={
        v.REPRODUCED, v.NOT_REPRODUCED, v.NOT_SHOWN}

# Families beside `seeded_onion`

def family_row(name, seed, test, valid=None, cost=50):
    recipe = small.recipe_of(name) if name in small.RIVALS else 'seeded_onion'
    row = dict(name=name, config=dict(recipe=recipe, seed=seed, epochs=4, lr=.1), test=test, steps=100)
    if name in tables.ALONE: return row
    ends = {which:[0, valid, test+by] for which,by in (('smallest',-2.), ('largest',2.))}
    return dict(row, **ends, buckets=[[0, valid, test]]*6, full_passes=cost)

FOUND = [family_row(name, s, test+s/10, valid, cost) for name,test,valid,cost in (
    ('full',64.,None,0), ('smallest',57.,None,0), ('seeded_onion',60.,50.,60), ('seeded onion, finish',61.,52.,70),
    ('seeded onion, two a step',65.,51.,40), ('bignas',60.,70.,200)) for s in range(3)]

def test_the_form_is_chosen_by_validation():
    "Not by test, where another one is better, and only among those with all seeds"
    assert tables.chosen(FOUND)=='seeded onion, finish'
    assert tables.chosen([*FOUND, family_row('seeded onion, core .25', 0, 70., 99.)])=='seeded onion, finish'
    assert tables.chosen([r for r in FOUND if r['name']=='bignas']) is None

def test_the_chosen_form_beside_its_rivals():
    "By hand: 61 against 60 for BigNAS, 59 against 57 and 63 against 64 for the networks alone, .7 of the cost"
    lines = [l for l in tables.aims(FOUND).splitlines() if '±' in l]
    cells = [[c.strip() for c in l.strip('|').split('|')] for l in lines]
    assert [(c[2],c[3]) for c in cells]==[('+1.00 ± 0.00 (3)','reached'), ('0.70 ± 0.00 (3)','reached'),
                                          ('+2.00 ± 0.00 (3)','reached'), ('-1.00 ± 0.00 (3)','not reached')]
    table = tables.recipes(FOUND)
    assert '| BigNAS | 3 | 4 | 0.1 | 2.00 |' in table and '+1.00 ± 0.00 (3) |' in table

@pytest.mark.parametrize('n', range(len(FOUND)+1))
def test_families_have_a_table_at_any_time(n):
    text = tables.section(FOUND[:n], 'none')
    assert (text=='none')==(n<=6) and 'nan' not in text

@pytest.mark.parametrize('name', ['seeded onion, depth too','bignas, hard labels','smallest'])
def test_a_cheap_family_runs(name, tiny):
    "Tiny, with digits"
    shrink.cifar_dls = gpu.tiny_dls
    form = name.removeprefix('seeded onion, ')
    c = (small.family_run(name, seed=0) if name in small.RIVALS else
         small.family_run('seeded_onion', seed=0, options={**small.SEEDED, **small.FORMS[form]}))
    row = trials.family(dict(c, **gpu.TINY, few=[32,32], lr=.05))
    assert row['test']>=0 and (name=='smallest' or row['full_passes']>0)
