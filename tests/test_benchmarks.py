"What decides in the benchmarks: which recipes are combined and chosen, equal cost, and what a table calls a difference"
import sys
from pathlib import Path
import pytest
from elastic_nets.onion import Construct, Phases

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
    "The best value of each field together, those that gained; and the best of all"
    gain = {'us_net':0., 'gradient: avg':2., 'update: rate per skin':1., 'gradient: avg + update: rate per skin':both}
    rows_of(lambda r: gain.get(r, -1.))
    assert onion.two_rates()==[.08,.03] and onion.best_lr('gradient: avg')==.08
    assert onion.together()=='gradient: avg + update: rate per skin' and onion.handful()[0]==want
    assert [r for r in onion.second() if r.startswith('gradient')][0]=='gradient: avg' and len(onion.second())==5

def test_none_gains(rows_of):
    rows_of(lambda r: 0. if r=='us_net' else -1.)
    assert onion.together() is None and onion.handful()==[]

def test_equal_cost(rows_of):
    "Steps times cost are the base's, for everyone"
    rows = rows_of(lambda r: 0., lambda r: 1.25 if r=='alone' else 2.)
    for r in rows:
        c, share = r['config'], .5 if r['name']=='lr' else 1.
        if not c.get('cost'): assert c['steps']==round(onion.BASE['steps']*onion.SHARE[c['net']]*share/(1. if c['recipe']=='us_net' else 1.25 if c['recipe']=='alone' else 2.)), c

def test_recipes_suit_the_base():
    "Every value changes the base, and a parent changes less"
    assert onion.RECIPES['us_net']==onion.base==onion.PUBLISHED['us_net'] and len({*onion.RECIPES.values()})==len(onion.RECIPES)
    assert all(p in onion.RECIPES and n in onion.RECIPES for n,p in onion.PARENT.items())
    assert all(r.construct.kinds==('width',) for r in onion.PUBLISHED.values()) and Construct().kinds!=('width',)

@pytest.mark.parametrize('d,want', [([1.,1.1,.9],'reached'), ([-1.,-1.1,-.9],'not reached'), ([1.,-1.,.5],'no difference'), ([1.],'one run')])
def test_verdict(d, want): assert shrink_report.verdict(d)==want
