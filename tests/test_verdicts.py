"Verdicts follow from rows: the rule, and the lines of docs/verdicts.md beside rows that are read here by themselves"
import json, re, statistics, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
verdicts = pytest.importorskip('verdicts_report')

T95 = {2:12.706, 3:4.303, 4:3.182, 5:2.776, 6:2.571, 7:2.447, 8:2.365} # Student's t, from a table

def half(xs): return T95[len(xs)]*statistics.stdev(xs)/len(xs)**.5

# The rule

@pytest.mark.parametrize('differences,dense,bound,want,why', [
    ([1.,1.1,.9], 90., 0., 'reproduced', ''),
    ([-1.,-1.1,-.9], 90., 0., 'not reproduced', ''),
    ([1.,1.1,.9], None, 0., 'reproduced', ''), # no accuracy
    ([1.,1.1,.9], 84.9, 0., 'not shown', 'short runs (dense: 85 %) point the same way'),
    ([-1.,-1.1,-.9], 70., 0., 'not shown', 'short runs (dense: 70 %) point the other way'),
    ([1.,-1.,.5], 90., 0., 'not shown', 'the interval holds it'),
    ([1.,1.1], 90., 0., 'not shown', 'fewer than 3 seeds'),
    ([1.], 90., 0., 'not shown', 'fewer than 3 seeds'),
    ([-.2,-.21,-.19], 90., -.3, 'reproduced', ''), # loses no more than .3
    ([-.4,-.41,-.39], 90., -.3, 'not reproduced', ''),
    ([], 90., 0., 'not tested', 'no runs'),
])
def test_a_verdict(differences, dense, bound, want, why):
    found = verdicts.judge(differences, [], dense, bound)
    assert (found.verdict, found.why, found.n)==(want, why, len(differences))

@pytest.mark.parametrize('xs,want', [([1.5,1.42],'reproduced'), ([1.395],'reproduced'), ([1.39],'not reproduced'),
                                     ([1.3,1.5],'not shown'), ([],'not tested')])
def test_a_verdict_on_times(xs, want): assert verdicts.judge_times(xs, [], 1.4).verdict==want

def test_long_runs_come_first():
    "What has a verdict goes before what has none, and the longest runs before short ones"
    short, long, decided = (verdicts.Found(name, says, '', [], 3) for name,says in
                            (('short','not shown'), ('long','not shown'), ('decided','not reproduced')))
    none = verdicts.untested()
    assert verdicts.best_of(short, none, long) is long and verdicts.best_of(short, none, none) is short
    assert verdicts.best_of(short, decided, long) is decided and verdicts.best_of(none, none).verdict=='not tested'

# The page

def lines_of(page):
    "Claim -> its cells"
    cells = [[c.strip() for c in l.strip('|\n').split('|')] for l in page.splitlines() if l.startswith('|')]
    return {c[0]:c[1:] for c in cells if len(c)==7 and c[0] not in ('claim','---')}

PAGE = (root/'docs/verdicts.md').read_text(encoding='utf-8')
LINES = lines_of(PAGE)

def raw(name):
    path = root/f'benchmarks/results/{name}.jsonl'
    return [json.loads(l) for l in open(path)] if path.exists() else []

def by_seed(rs, value): return {r['config']['seed']:value(r) for r in rs}

def differences(runs, others): return [runs[s]-others[s] for s in runs if s in others]

def test(r): return r['test']
test.__test__ = False # a value, not a test

def inits():
    "Of three seeds, or of more once there are rows"
    few = [r for r in raw('grow_width') if r['config']['net']==8 and r['name']=='init']
    many = [r for r in raw('evidence_small') if r['name'] in ('dense','orthogonal','random')]
    def of(rs, init): return by_seed([r for r in rs if r['config']['init']==init], test)
    sets = [[of(rs, init) for init in ('orthogonal','random',None)] for rs in (few, many)]
    return *max(sets, key=lambda s: len(differences(*s[:2]))), 0.

def starts():
    rs = raw('shrink')
    def of(warmup): return [r for r in rs if r['name']=='start' and r['config']['options']['warmup']==warmup]
    full = [r for r in rs if r['name']=='full' and r['config']['net']=='resnet']
    return by_seed(of(.5), test), by_seed(of(.25), test), by_seed(full, test), 0.

def us_net():
    def of(recipe, width=None):
        rs = [r for r in raw('onion') if r['name'] in ('confirm','alone') and r['config']['recipe']==recipe]
        rs = [r for r in rs if r['config']['net']=='resnet' and r['config'].get('width')==width]
        return by_seed(rs, lambda r: r['test']['widths']['1.0'])
    return of('alone', 1.), of('us_net'), of('alone', 1.), 0.

@pytest.mark.parametrize('claim,read', [
    ('orthogonal new channels are better than random ones', inits),
    ('figure 7a: a start at 50 % is better than at 25 %', starts),
    ("existing ones handle interference badly: ResNet alone against US-Net's largest", us_net),
], ids=['inits','starts','us_net'])
def test_a_line_says_what_rows_say(claim, read):
    "Mean, interval, seeds and verdict, from the rows by this file's own arithmetic"
    runs, others, dense, bound = read()
    found = differences(runs, others)
    mean, width = statistics.mean(found), half(found)
    _, ours, n, _, _, says = LINES[claim]
    assert ours==f'{mean:+.2f} ± {width:.2f} points' and int(n)==len(found)
    decided = mean-width>bound or mean+width<bound
    if not decided: want = 'not shown'
    elif statistics.mean(dense.values())<85: want = 'not shown'
    else: want = 'reproduced' if mean>bound else 'not reproduced'
    assert re.match(r'\*\*(.*?)\*\*', says)[1]==want

def test_every_verdict_is_one_of_four():
    says = {claim:re.match(r'\*\*(.*?)\*\*', cells[-1])[1] for claim,cells in LINES.items()}
    assert {*says.values()}<={'reproduced','not reproduced','not shown','not tested'}
    assert len(says)==len(verdicts.CLAIMS) and says=={c.text:c.found.verdict for c in verdicts.CLAIMS}

def test_a_verdict_has_seeds_and_a_machine():
    "No claim about accuracy is decided by fewer than three seeds or by a dense network below 85 %"
    for claim,(_,ours,n,_,machine,says) in LINES.items():
        tested = 'not tested' not in says
        assert bool(ours)==bool(n)==bool(machine)==tested, claim
        if says.startswith(('**reproduced**','**not reproduced**')) and 'points' in ours: assert int(n)>=3, claim
        assert 'short runs' not in says or says.startswith('**not shown**'), claim

# Numbers in lessons

def lesson(name):
    "Its sources as one text"
    cells = json.loads((root/f'nbs/{name}.ipynb').read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(c['source']) for c in cells)

def test_a_growth_that_destroys_is_that_of_rows():
    "The curves and accuracies of 28_after"
    text, rows = lesson('grow/28_after'), {r['name']:r for r in raw('gpu_evidence')}
    for name,row in (('low','probe, lower rate'), ('high','probe, as it was')):
        found = json.loads(re.sub(r'(?<![\d])\.', '0.', re.search(rf'^{name} = (\[.*?\])', text, re.S|re.M)[1]))
        assert len(found)>40 and found==rows[row]['losses'][:len(found)]
        assert f"learning rate of {rows[row]['config']['lr']:.1f}".replace('0.', '.') in text or name=='low'
        assert f"{rows[row]['test']:.0f} %" in text

def test_what_a_longer_ramp_saves_is_that_of_rows():
    "Two numbers of chapter 4, in points"
    from shrink_report import LONGER, MINE, PLAIN, drop, paired, smallest
    text = lesson('course/04_delay_the_shrink')
    saved, cost = (statistics.mean(d) for d in (paired(LONGER, PLAIN, drop), paired(LONGER, MINE, smallest)))
    assert f'saved {saved:.0f} points of the full network' in text
    assert f'cost the smallest one {-cost:.1f} points' in text
