"What decides in the benchmarks: which recipes are combined and chosen, by what, at equal cost; what a restart skips"
import sys
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from elastic_nets.shrink import methods
from elastic_nets.shrink.recipe import Construct, Phases
from elastic_nets.subnets.supernet import Supernet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
onion = pytest.importorskip('onion')
shrink, grow, common = (pytest.importorskip(name) for name in ('shrink','grow','common'))

@pytest.fixture
def rows_of(monkeypatch):
    """Rows as the benchmark would write them, for a gain over the base per recipe and a cost per recipe.
    Fresh seeds have a test accuracy, too, which says the contrary of what validation says"""
    rows = []
    monkeypatch.setattr(onion, 'rows', lambda path: rows)
    def accuracies(c, gain):
        valid = 50-abs(c['lr']-.08)+(gain(c['recipe']) if c['recipe']!='alone' else 0)
        parts = dict(valid=valid, test=100-valid) if c['seed'] in onion.FRESH else dict(valid=valid)
        if c['recipe']=='alone': return {part:dict(widths={str(c['width']): v}) for part,v in parts.items()}
        return {part:dict(mean_pareto=v) for part,v in parts.items()}
    def run(gain, cost=lambda r: 1.):
        for _ in range(4):
            for name,c in onion.configs(()):
                if any(c==r['config'] for r in rows): continue
                row = dict(ratio=cost(c['recipe'])) if c.get('cost') else accuracies(c, gain)
                rows.append(dict(name=name, config=c, **row))
        return rows
    return run

def runs(rows, name, recipe, net='resnet', width=None):
    "(rate, seed) of what was run"
    def same(c): return (c['recipe'],c['net'],c.get('width'))==(recipe,net,width)
    return {(r['config']['lr'],r['config']['seed']) for r in rows if r['name']==name and same(r['config'])}

# Recipes and their choice

def test_combined_recipes_have_both_changes():
    r = onion.combine(['gradient: avg','update: rate per skin','construct: private BN'])
    assert r.gradient.combine==onion.RECIPES['gradient: avg'].gradient.combine!=onion.base.gradient.combine
    assert r.update==onion.RECIPES['update: rate per skin'].update!=onion.base.update
    assert (r.construct.bn, r.construct.levels)==('private',4) and r.construct.smallest
    assert onion.combine(['us_net'])==onion.base
    assert isinstance(onion.combine(['schedule: inside out']).schedule, Phases)

@pytest.mark.parametrize('names', [
    ['construct: four widths','construct: private BN'],
    ['schedule: inside out','schedule: annealed to .1'],
    ['schedule: annealed to .1','schedule: inside out'],
    ['construct: four widths','schedule: by importance'],
], ids=' + '.join)
def test_the_same_is_not_changed_twice(names):
    with pytest.raises(ValueError, match='changed twice'): onion.combine(names)

def test_one_step_per_subnet_has_nothing_to_combine():
    with pytest.raises(ValueError, match='nothing to combine'): onion.combine(['gradient: avg','update: large first'])

@pytest.mark.parametrize('both,want', [(3.,'gradient: avg + update: rate per skin'), (1.5,'gradient: avg')])
def test_forward_selection(rows_of, both, want):
    """The best value of all, and with it the better of each other field, where both together gain, among values that
    suit every network; the second rate and the second seed for who is left"""
    gain = {'us_net':0., 'gradient: avg':2., 'gradient: core':1.5, 'update: rate per skin':1., 'update: large first':.5,
            'construct: depth skins':4., 'gradient: avg + update: rate per skin':both}
    rows = rows_of(lambda r: gain.get(r, -1.))
    assert onion.base_rates()==[.08,.03] and onion.best_lr('gradient: avg')==.08
    # 'update: large first' is not tried: one step per subnet has nothing to average
    assert onion.select()==(['gradient: avg','gradient: core','gradient: avg + update: rate per skin'], want)
    assert onion.winners()==[*dict.fromkeys([want, 'gradient: avg'])]
    assert runs(rows, 'screen', want)=={(.08,0),(.03,0),(.2,0),(.08,1),(.03,1)}
    assert runs(rows, 'screen', 'gradient: core')=={(.08,0)}
    assert {seed for _,seed in runs(rows, 'confirm', want)}=={*onion.FRESH}

def test_nothing_is_selected_where_nothing_gains(rows_of):
    rows_of(lambda r: 0. if r=='us_net' else -1.)
    assert onion.select()==([], 'us_net') and onion.winners()==[]

# Learning rates

def test_rates_are_searched_until_the_best_lies_between_worse_ones(rows_of):
    "Or at an end of the list"
    rows_of(lambda r: 0.)
    tried = onion.rates_to_try
    assert tried({})==[.08,.03] and tried({.08:1.})==[.08,.03] # the base's two best come first
    assert tried({.08:1.,.03:2.})==[.08,.03,.01] and tried({.08:1.,.03:2.,.01:1.})==[.08,.03,.01]
    assert tried({.08:2.,.03:1.})==[.08,.03,.2] and tried({.08:2.,.03:1.,.2:3.})==[.08,.03,.2]
    assert onion.by_rate('lr', 'bignas', 100).keys()=={.03,.08,.2} and onion.best_lr('bignas')==.08

def test_the_mean_of_two_seeds_decides(rows_of):
    rows = rows_of(lambda r: 0.)
    assert onion.by_rate('lr', 'bignas', 101).keys()=={.03,.08}
    def second(c): return c.get('seed')==101 and (c['recipe'],c['lr'])==('bignas',.03)
    next(r for r in rows if second(r['config']))['valid']['mean_pareto'] += 1
    assert onion.best_lr('bignas')==.03

@pytest.mark.parametrize('recipe,width', [('us_net',None), ('bignas',None), ('alone',.5)])
def test_rates_are_chosen_on_validation(rows_of, recipe, width):
    "Rows that report have a test accuracy, too: here its best rate is the worst on validation"
    rows_of(lambda r: 0.)
    got = onion.on_vgg(recipe, width)
    assert got.keys()=={.03,.08,.2} and all(v==50-abs(lr-.08) for lr,v in got.items())
    assert onion.best_lr(recipe, width, 'vgg')==.08

@pytest.mark.parametrize('recipe,width', [('us_net',None), ('bignas',None), ('alone',.5)])
def test_vgg_searches_rates_with_its_first_seed(rows_of, recipe, width):
    rows, name = rows_of(lambda r: 0.), 'alone' if width else 'confirm'
    first,*others = onion.FRESH
    searched, chosen = {(lr,first) for lr in (.03,.08,.2)}, {(.08,seed) for seed in others}
    assert runs(rows, name, recipe, 'vgg', width)==searched|chosen
    def raise_valid(seed, lr):
        "What a seed gave at a rate is better than all else"
        def same(c): return tuple(c.get(k) for k in ('net','recipe','width','seed'))==('vgg',recipe,width,seed)
        row = dict(next(r for r in rows if r['name']==name and same(r['config'])))
        value = dict(widths={str(width): 99.}) if width else dict(mean_pareto=99.)
        row.update(config=dict(row['config'], lr=lr), valid=value)
        rows.insert(0, row)
        rows[:] = [r for r in rows if r is row or (r['name'],r['config'])!=(name,row['config'])]
    raise_valid(others[0], .03)
    assert onion.best_lr(recipe, width, 'vgg')==.08 # another seed says nothing
    raise_valid(first, .03) # then its neighbour is asked for
    assert onion.best_lr(recipe, width, 'vgg') is None
    assert onion.rates_to_try(onion.on_vgg(recipe, width))==[.08,.03,.2,.01]

def test_mobilenet_takes_the_lower_rate(rows_of):
    rows_of(lambda r: 0.)
    assert onion.best_lr('bignas', net='mobilenet')==min(onion.best_lr('bignas', net=n) for n in ('resnet','vgg'))

# Cost

def test_everything_costs_what_the_base_costs(rows_of):
    "Steps times cost are the base's"
    def cost(recipe): return 1. if recipe=='us_net' else 1.25 if recipe=='alone' else 2.
    for r in rows_of(lambda r: 0., cost):
        c, share = r['config'], dict(lr=.5, long=4.).get(r['name'], 1.)
        if c.get('cost'): continue
        assert c['steps']==round(onion.BASE['steps']*onion.SHARE[c['net']]*share/cost(c['recipe'])), c

def test_recipes_suit_the_base():
    "Every value changes the base, and a parent changes less"
    assert onion.RECIPES['us_net']==onion.base==onion.PUBLISHED['us_net']
    assert len({*onion.RECIPES.values()})==len(onion.RECIPES)
    assert all(p in onion.RECIPES and n in onion.RECIPES for n,p in onion.PARENT.items())
    assert Construct().dims!=('width',) and all(r.construct.dims==('width',) for r in onion.PUBLISHED.values())

def test_onion_is_what_won():
    "The recipe in the library is the best of the screen's rows"
    best = onion.winners()
    if not best: pytest.skip('the screen is not finished')
    assert methods.onion()==onion.recipe_of(best[0])

# What is scored

def test_candidates_are_not_only_those_of_compofa():
    "Some are any networks of the space, some those where widths follow depths; for CompOFA all are such"
    def found(recipe):
        model, space = shrink.network(dict(net='resnet', recipe=recipe))
        sn = Supernet(model, torch.randn(2,3,32,32), space=space)
        return shrink.candidates(SimpleNamespace(supernet=sn), dict(per=2))
    def one_share(s, stage): return len({w/largest[n] for n,w in s.width.items() if n.startswith(f'{stage}.')})==1
    def follows(s): return all(one_share(s, stage) for stage in shrink.DEPTHS)
    largest = shrink.network(dict(net='resnet', recipe='bignas'))[1].max.width
    of_any, of_compofa = found('bignas'), found('compofa')
    assert all(map(follows, of_compofa)) and any(map(follows, of_any)) and not all(map(follows, of_any))

# Which runs there are

@pytest.mark.skipif(torch.cuda.is_available(), reason='the rows are those of a processor')
@pytest.mark.parametrize('part', ['width','depth','segment','correlation','shrink','onion'])
def test_a_restart_skips_what_is_done(part):
    "Every row that a page shows has the configuration that the benchmark asks for today"
    jobs = dict(grow.JOBS, shrink=common.Job(shrink.path, shrink.configs, shrink.train),
                onion=common.Job(onion.path, onion.configs, onion.train))
    rows, asked = common.rows(jobs[part].path), [c for _,c in jobs[part].configs((0,1,2))]
    if part=='onion': rows = [r for r in rows if r['name'] in ('cost','lr') or at_the_chosen_rate(r['config'])]
    assert rows and [r['config'] for r in rows if r['config'] not in asked]==[]

def at_the_chosen_rate(c): return c['lr']==onion.best_lr(c['recipe'], c.get('width'), c['net'])

def test_what_follows_from_a_row_is_run(tmp_path, monkeypatch):
    "What is worth running is asked again after every row, and a row that another start wrote is seen"
    path = tmp_path/'x.jsonl'
    def configs(seeds):
        yield 'first', dict(n=0)
        for r in common.rows(path):
            if r['name']=='first': yield 'then', dict(n=r['out'])
    monkeypatch.setattr(sys, 'argv', ['x'])
    common.main('', x=common.Job(path, configs, lambda c: dict(out=7)))
    assert [(r['name'],r['config']['n']) for r in common.rows(path)]==[('first',0),('then',7)]
