"What decides in the benchmarks: which recipes are combined and chosen, equal cost, and what a table calls a difference"
import sys
from pathlib import Path
import pytest
from elastic_nets import recipes
from elastic_nets.shrink.recipe import Construct, Phases

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
onion = pytest.importorskip('onion')
shrink_report = pytest.importorskip('shrink_report')

@pytest.fixture
def rows_of(monkeypatch):
    "Rows as the benchmark would write them, for a gain over the base per recipe and a cost per recipe"
    rows = []
    monkeypatch.setattr(onion, 'rows', lambda path: rows)
    def run(gain, cost=lambda r: 1.):
        for _ in range(4):
            for name,c in onion.configs(()):
                if any(c==r['config'] for r in rows): continue
                if c.get('cost'): row = dict(ratio=cost(c['recipe']))
                elif c['recipe']=='alone': row = dict(valid=dict(widths={str(c['width']):50.}))
                else: row = dict(valid=dict(mean_pareto=50+gain(c['recipe'])-abs(c['lr']-.08)))
                rows.append(dict(name=name, config=c, **row))
        return rows
    return run

def test_combine():
    r = onion.combine(['gradient: avg','update: rate per skin','construct: private BN'])
    assert r.gradient.combine=='avg' and r.update.skin_lr and (r.construct.bn, r.construct.levels)==('private',4) and r.construct.smallest
    assert onion.combine(['us_net'])==onion.base and isinstance(onion.combine(['schedule: inside out']).schedule, Phases)
    for clash in (['construct: four widths','construct: private BN'], ['schedule: inside out','schedule: annealed to .1'], ['schedule: annealed to .1','schedule: inside out'], ['construct: four widths','schedule: by importance']):
        with pytest.raises(ValueError, match='changed twice'): onion.combine(clash)
    with pytest.raises(ValueError, match='nothing to combine'): onion.combine(['gradient: avg','update: large first'])

@pytest.mark.parametrize('both,want', [(3.,'gradient: avg + update: rate per skin'), (1.5,'gradient: avg')])
def test_chosen(rows_of, both, want):
    "The best value of all, and with it the better of each other field, where both together gain, among values that suit every network; the second rate and the second seed for who is left"
    gain = {'us_net':0., 'gradient: avg':2., 'gradient: core':1.5, 'update: rate per skin':1., 'update: large first':.5, 'construct: depth skins':4., 'gradient: avg + update: rate per skin':both}
    rows = rows_of(lambda r: gain.get(r, -1.))
    assert onion.two_rates()==[.08,.03] and onion.best_lr('gradient: avg')==.08
    assert onion.select()==(['gradient: avg','gradient: core','gradient: avg + update: rate per skin'], want) # one step per subnet has nothing to average
    assert onion.handful()==[*dict.fromkeys([want, 'gradient: avg'])]
    runs = lambda name, recipe: {(r['config']['lr'],r['config']['seed']) for r in rows if r['name']==name and r['config']['recipe']==recipe}
    assert runs('screen', want)=={(.08,0),(.03,0),(.2,0),(.08,1),(.03,1)} and runs('screen', 'gradient: core')=={(.08,0)} and {s for _,s in runs('confirm', want)}=={*onion.FRESH}

def test_search(rows_of):
    "A learning rate is searched until the best lies between worse ones, or at an end of the list"
    rows = rows_of(lambda r: 0.)
    assert onion.around({})==[.08,.03] and onion.around({.08:1.})==[.08,.03] # the base's two best come first
    assert onion.around({.08:1.,.03:2.})==[.08,.03,.01] and onion.around({.08:1.,.03:2.,.01:1.})==[.08,.03,.01]
    assert onion.around({.08:2.,.03:1.})==[.08,.03,.2] and onion.around({.08:2.,.03:1.,.2:3.})==[.08,.03,.2]
    assert onion.by_rate('lr', 'bignas', 100).keys()=={.03,.08,.2} and onion.best_lr('bignas')==.08
    second = onion.by_rate('lr', 'bignas', 101)
    assert second.keys()=={.03,.08}
    next(r for r in rows if r['config'].get('seed')==101 and r['config']['recipe']=='bignas' and r['config']['lr']==.03)['valid']['mean_pareto'] += 1
    assert onion.best_lr('bignas')==.03 # the mean of two seeds decides

def test_none_gains(rows_of):
    rows_of(lambda r: 0. if r=='us_net' else -1.)
    assert onion.select()==([], 'us_net') and onion.handful()==[]

def test_rows_follow(tmp_path, monkeypatch):
    "What is worth running is asked again after every row, and a row that another start wrote is seen"
    path, common = tmp_path/'x.jsonl', onion.main.__globals__
    def configs(seeds): return [('first', dict(n=0)), *(('then', dict(n=r['out'])) for r in common['rows'](path) if r['name']=='first')]
    monkeypatch.setattr(sys, 'argv', ['x'])
    common['main']('', path, configs, lambda c: dict(out=7))
    assert [(r['name'],r['config']['n']) for r in common['rows'](path)]==[('first',0),('then',7)]

def test_equal_cost(rows_of):
    "Steps times cost are the base's, for everyone"
    rows = rows_of(lambda r: 0., lambda r: 1.25 if r=='alone' else 2.)
    for r in rows:
        c, share = r['config'], .5 if r['name']=='lr' else 4. if r['name']=='long' else 1.
        if not c.get('cost'): assert c['steps']==round(onion.BASE['steps']*onion.SHARE[c['net']]*share/(1. if c['recipe']=='us_net' else 1.25 if c['recipe']=='alone' else 2.)), c

def test_recipes_suit_the_base():
    "Every value changes the base, and a parent changes less"
    assert onion.RECIPES['us_net']==onion.base==onion.PUBLISHED['us_net'] and len({*onion.RECIPES.values()})==len(onion.RECIPES)
    assert all(p in onion.RECIPES and n in onion.RECIPES for n,p in onion.PARENT.items())
    assert all(r.construct.dims==('width',) for r in onion.PUBLISHED.values()) and Construct().dims!=('width',)

@pytest.mark.parametrize('d,want', [([1.,1.1,.9],'reached'), ([-1.,-1.1,-.9],'not reached'), ([1.,-1.,.5],'no difference'), ([1.],'one run')])
def test_verdict(d, want): assert shrink_report.verdict(d)==want

def test_onion_is_what_won():
    "The recipe in the library is the best of the screen's rows"
    best = onion.handful()
    if not best: pytest.skip('the screen is not finished')
    assert recipes.onion()==onion.recipe_of(best[0])
