"""docs/verdicts.md: what the three papers claim, and what our rows say of it

A verdict is computed, never typed. *Reproduced* and *not reproduced* need an interval on one side of the claim and
three seeds; for accuracies also a dense network that has `ENOUGH`, since short runs cannot say what long ones do.

python benchmarks/verdicts_report.py
"""
from collections import Counter, namedtuple
import card, grow_report, onion, onion_report, shrink_report
from common import by_seed
from evidence import ENOUGH
from grow import FIVE, HALF, PLAN, UNIFORM
from report import Page, interval, mean, paired, table, verdict
from shrink_report import largest, paired as pairs, smallest, test

page = Page('verdicts')

REPRODUCED, NOT_REPRODUCED, NOT_SHOWN, NOT_TESTED = 'reproduced', 'not reproduced', 'not shown', 'not tested'
SEEDS = 3 # at least, for a verdict

# What rows say of a claim: text, verdict, why; the rows behind it, and how many seeds or tables they are
Found = namedtuple('Found', 'ours verdict why rows n')
Claim = namedtuple('Claim', 'text published found')

def untested(why=''): return Found('', NOT_TESTED, why, [], 0)

def judge(differences, rows, reference=None, bound=0.):
    """A verdict on 'at least `bound`' from differences between runs of the same seed; `reference` is what the dense
    network of these runs has, in per cent, where the claim is about accuracy"""
    n, rows, unit = len(differences), [*rows], ' points'
    if not n: return untested('no runs')
    ours = f'{differences[0]:+.2f}{unit} (one run)' if n==1 else interval(differences)+unit
    says = verdict(differences, bound, yes=REPRODUCED, no=NOT_REPRODUCED)
    if n<SEEDS: return Found(ours, NOT_SHOWN, f'fewer than {SEEDS} seeds', rows, n)
    if says==NOT_SHOWN: return Found(ours, NOT_SHOWN, 'the interval holds it', rows, n)
    if reference is not None and reference<ENOUGH:
        way = 'the same way' if says==REPRODUCED else 'the other way'
        return Found(ours, NOT_SHOWN, f'short runs (dense: {reference:.0f} %) point {way}', rows, n)
    return Found(ours, says, '', rows, n)

def judge_times(xs, rows, published):
    "A verdict on 'so many times faster' from tables of steps: where they do not agree, none"
    if not xs: return untested('not measured')
    ours = f'{min(xs):.2f}x'+(f' to {max(xs):.2f}x' if len(xs)>1 else '')+', by steps'
    reached = {round(x, 2)>=published for x in xs}
    if len(reached)>1: return Found(ours, NOT_SHOWN, 'tables do not agree', [*rows], len(xs))
    where = 'on these machines' if len({r['machine'] for r in rows})>1 else 'on this machine'
    return Found(ours, REPRODUCED if reached.pop() else NOT_REPRODUCED, where, [*rows], len(xs))

def average(runs, value=test): return mean([v for r in runs.values() if (v := value(r)) is not None])

def best_of(*founds):
    "The first that has a verdict, else the last that has runs"
    decided = [f for f in founds if f.verdict in (REPRODUCED, NOT_REPRODUCED)]
    tested = [f for f in founds if f.verdict!=NOT_TESTED]
    return (decided or tested[::-1] or [untested('no runs')])[0]

# Network expansion

def faster_here(net, plan, published):
    "By the tables of a processor and of a card"
    def same(r): return r['config']['net'].startswith(net) and not r['config']['gpu']
    rows = [r for r in grow_report.STEPS if same(r)]
    rows += [r for r in card.SIZES if card.described(r)[0].startswith(net) and card.described(r)[3]=='fastai']
    return judge_times([1/card.pass_time(card.times_of(r), plan) for r in rows], rows, published)

def on_card_since():
    "Growth on a card with the rates that were searched there"
    rs = [r for r in card.LATER if r.get('kind')=='growth']
    if not rs: return {}, {}
    return by_seed(rs, lambda r: r['name']=='plan'), by_seed(rs, lambda r: r['name']=='dense')

def long_growth():
    rs = grow_report.LONG
    dense = grow_report.named(rs, 'dense')
    most = max([r['config']['epochs'] for r in dense.values()], default=0)
    def of(name): return by_seed(rs, lambda r: r['name']==name and r['config']['epochs']==most)
    return of('plan'), of('dense')

def short_growth(): return grow_report.resnet20(32, 'plan'), grow_report.resnet20(32, 'dense')

def little_loss(bound):
    "Grown minus dense at equal epochs: the longest runs that there are"
    def of(grown, dense):
        rows = [*grown.values(), *dense.values()]
        return judge(paired(grown, dense, test), rows, average(dense) if dense else 0., -bound)
    return best_of(of(*short_growth()), of(*on_card_since()), of(*long_growth()))

def of_choice(name): return grow_report.named(grow_report.CHOICES, name)

def init_above(other):
    "Orthogonal minus another init on a ResNet-8: of two sets of runs the one with more seeds"
    def of(named):
        runs, others, dense = named('orthogonal'), named(other), named('dense')
        return judge(paired(runs, others, test), [*runs.values(), *others.values()], average(dense) if dense else 0.)
    return max(of(of_choice), of(grow_report.of_init), key=lambda found: found.n)

def start_above(start, other):
    "Accuracy of a start at one width minus that at another"
    def of(start): return of_choice(f'orthogonal, {start:g} of the width for 60%' if start!=.5 else 'orthogonal')
    runs, others, dense = of(start), of(other), of_choice('dense')
    return judge(paired(runs, others, test), [*runs.values(), *others.values()], average(dense))

def less_correlated():
    of = {init:grow_report.largest_correlation(m) for init,m in grow_report.FOUND.items()}
    ours = ', '.join(f'{init} {of[init]:.2f}' for init in ('replicate','orthogonal','random'))
    why = 'one network, one picture'
    if of['random']<=of['orthogonal']: why += '; random ones are no more correlated'
    return Found(ours, NOT_SHOWN, why, grow_report.CORRELATION, 1)

def of_depth(name): return grow_report.named(grow_report.DEPTH, name)

def depth_above(name, bound=0., than='EMA, inserted'):
    runs, others = of_depth(than), of_depth(name)
    return judge(paired(runs, others, test), [*runs.values(), *others.values()], average(of_depth('dense')), bound)

def segment_above(name, other, bound=0.):
    runs, others = (grow_report.named(grow_report.SEGMENT, n) for n in (name, other))
    found = judge(paired(runs, others, test), [*runs.values(), *others.values()], None, bound)
    return found._replace(ours=found.ours+', generated shapes')

EXPANSION = [
    Claim('ResNet-32, .5 in 5 stages, is faster', '1.41x', faster_here('ResNet-32', FIVE, 1.41)),
    Claim('ResNet-56, .5 in 5 stages, is faster', '1.45x', faster_here('ResNet-56', FIVE, 1.45)),
    Claim('ResNet-50, .5 in 3 stages, is faster', '1.28x', faster_here('ResNet-50', UNIFORM, 1.28)),
    Claim('ResNet-101, .5 in 3 stages, is faster', '1.42x', faster_here('ResNet-101', UNIFORM, 1.42)),
    Claim('DeiT-B, half of the blocks in 2 stages, is faster', '1.34x', faster_here('DeiT-B', HALF, 1.34)),
    Claim('DeepLabV3+ on ResNet-101, backbone in 2 stages, is faster', '1.30x',
          faster_here('DeepLabV3+ R101', HALF, 1.30)),
    Claim('a ResNet grown in width loses next to nothing on CIFAR-10 at equal epochs', '-0.05 and -0.13 points',
          little_loss(.13)),
    Claim('a narrower start loses more: .25 against .5', '-0.23 points', start_above(.5, .25)),
    Claim('orthogonal new channels are better than random ones', '+0.37 points', init_above('random')),
    Claim('orthogonal new channels are better than replicated ones', '+1.09 points', init_above('replicate')),
    Claim('maps of orthogonal channels are less correlated with old ones than replicated ones', 'figure 6',
          less_correlated()),
    Claim('a ViT grown in depth loses little at equal epochs', '-0.3 points', depth_above('dense', -.3)),
    Claim('blocks of the moving average are better than stacked ones', '+0.7 points',
          depth_above('model, stacked (StackBERT)')),
    Claim('a ViT should grow once: 2 stages are better than 3', '+1.0 points', depth_above('EMA, inserted, 3 stages')),
    Claim('DeepLabV3+ with a backbone grown in 2 stages loses little', '-0.5 points of mIoU',
          segment_above('backbone grown, 2 stages', 'dense', -.5)),
    Claim('there, 2 stages are better than 3', '+1.3 points of mIoU',
          segment_above('backbone grown, 2 stages', 'backbone grown, 3 stages')),
    Claim('accuracy on ImageNet: ResNet-50, ResNet-101, DeiT-B', '-0.3, -0.2, -0.3 points',
          untested('no ImageNet here')),
    Claim('accuracy on CIFAR-100, mIoU on Cityscapes', '-0.04, -0.5 points', untested()),
]

# Delayed shrinking

MINE, FULL = shrink_report.MINE, shrink_report.FULL

def above(recipe, value=test, bound=0.):
    "Delayed shrinking minus another recipe, which may be a network alone: the longest runs that there are"
    def of(runs_of):
        mine, others, full = runs_of('delayed_shrinking'), runs_of(recipe), runs_of('full')
        other_value = test if recipe in ('full','smallest') else value
        rows = [*mine.values(), *others.values()]
        return judge(pairs(mine, others, value, other_value), rows, average(full) if full else 0., bound)
    return best_of(of(shrink_report.runs_of), of(on_card), of(shrink_report.long_runs_of))

def on_card(recipe): return by_seed(card.LATER, lambda r: r.get('kind')=='family' and r['name']==recipe)

def part(runs, others, value=test):
    "Of figure 7, on the ResNet space"
    return judge(pairs(runs, others, value), [*runs.values(), *others.values()], average(FULL))

def cost_above(cost_of_epoch, epochs, published):
    """How many times the cost of delayed shrinking, for the papers' numbers of epochs, by tables of steps;
    `cost_of_epoch`: steps -> epochs of the full network that an epoch costs"""
    rows = [*[r for r in shrink_report.COST if r['name']=='steps'], *card.KINDS]
    steps = [shrink_report.ratios_of_steps(r) for r in rows]
    times = [epochs*cost_of_epoch(of)/(270*shrink_report.delayed_cost(of)) for of in steps]
    return judge_times(times, rows, published)

def bignas_cost(steps): return steps['sandwich']
def compofa_cost(steps): return (180+150*steps['teacher and 4'])/330 # its teacher, then its phases

QUARTER, HALFWAY, LATE = shrink_report.QUARTER, shrink_report.HALF, shrink_report.LATE
PLAIN, IN_PLACE, drop = shrink_report.PLAIN, shrink_report.IN_PLACE, shrink_report.drop

DEPS = [
    Claim('BigNAS costs more', '2.5x', cost_above(bignas_cost, 400, 2.5)),
    Claim('once-for-all costs more', '1.8x', cost_above(shrink_report.once_for_all_cost, 605, 1.8)),
    Claim('CompOFA costs more', '1.12x', cost_above(compofa_cost, 330, 1.12)), # table 2: 782 GPU-hours for 700
    Claim('mean Pareto accuracy: at least that of once-for-all', '+0.04 points', above('progressive_shrinking')),
    Claim('mean Pareto accuracy: above BigNAS', '+3.3 points', above('bignas')),
    Claim('the smallest network: above that of once-for-all', '+2.0 points', above('progressive_shrinking', smallest)),
    Claim('the smallest network: above that of BigNAS', '+3.2 points', above('bignas', smallest)),
    Claim('the largest network: at least that of once-for-all', '+0.1 points', above('progressive_shrinking', largest)),
    Claim('the largest network: above that of BigNAS', '+3.3 points', above('bignas', largest)),
    Claim('figure 7a: a start at 50 % is better than at 25 %', 'above', part(HALFWAY, QUARTER)),
    Claim('figure 7a: a start at 50 % is better than at 75 %', 'above, 1 point at the small end', part(HALFWAY, LATE)),
    Claim('figure 7b: with epsilon the family is better', 'above in all of the range', part(MINE, PLAIN)),
    Claim('figure 7b: without epsilon the full network drops, beside one that goes on alone', '2 points',
          part(FULL, PLAIN, drop)),
    Claim('figure 7b: epsilon prevents the drop', 'no drop', part(MINE, PLAIN, drop)),
    Claim('figure 7c: a warmed-up teacher is better than distillation in place', '+2 to +3.5 points',
          part(MINE, IN_PLACE)),
    Claim('ImageNet, ImageNet-100, CIFAR-100', '+1.83 points on ImageNet', untested('no such data here')),
    Claim('the space of ProxylessNAS', '+1.8 points for the smallest', untested()),
]

# Onionization: its body is not public, so that our own best stands for it

def onion_best(net):
    "The best of our screen minus the best published recipe: the longest runs that there are"
    def of(name, alone):
        runs = onion_report.runs_of(name, net, onion_report.BEST)
        rivals = {r:onion_report.runs_of(name, net, r) for r in onion.PUBLISHED}
        rivals = {r:of_rival for r,of_rival in rivals.items() if of_rival}
        full = onion_report.runs_alone(net, alone)['1.0']
        if not (runs and rivals and full): return untested('no runs')
        rival = max(rivals, key=lambda r: average(rivals[r], onion_report.on_test))
        found = judge(paired(runs, rivals[rival], onion_report.on_test), [*runs.values(), *rivals[rival].values()],
                      average(full, onion_report.at_width('1.0')))
        return found._replace(ours=f"{found.ours}, against {rival.replace('_', ' ')}")
    return best_of(of('confirm', 'alone'), of('long', 'long'))

def interference(net):
    "A network alone minus the largest of US-Net's"
    runs, alone = onion_report.runs_of('confirm', net, 'us_net'), onion_report.runs_alone(net)['1.0']
    differences = paired(alone, runs, onion_report.at_width('1.0'))
    return judge(differences, [*runs.values(), *alone.values()], average(alone, onion_report.at_width('1.0')))

NAMES = dict(resnet='ResNet', vgg='VGG', mobilenet='MobileNet')
ONION = [*[Claim(f'a better design than existing ones, {NAMES[net]} on CIFAR-10 (ours, not the paper\'s)',
                 'notable superiority', onion_best(net)) for net in onion.NETS],
         *[Claim(f'existing ones handle interference badly: {NAMES[net]} alone against US-Net\'s largest', 'no figure',
                 interference(net)) for net in onion.NETS],
         Claim('the paper\'s own method', 'notable superiority', untested('its body is not public')),
         Claim('ImageNet', 'notable superiority', untested('no ImageNet here'))]

PAPERS = {'Network expansion':EXPANSION, 'Delayed epsilon-shrinking':DEPS, 'Onionization (its abstract)':ONION}
CLAIMS = [c for claims in PAPERS.values() for c in claims]

# Where it comes from

MACHINES = sorted({r['machine'] for c in CLAIMS for r in c.found.rows})
def letters(rows): return ', '.join('ABCDEFGH'[MACHINES.index(m)] for m in sorted({r['machine'] for r in rows}))

def steps_of(rows):
    found = {r['steps'] if 'steps' in r else r['config'].get('steps') for r in rows if 'config' in r}-{None}
    return ' to '.join(dict.fromkeys(f'{n:,}' for n in (min(found), max(found)))) if found else ''

def line(c):
    f = c.found
    says = f'**{f.verdict}**'+(f': {f.why}' if f.why else '')
    return [c.text, c.published, f.ours, f.n or '', steps_of(f.rows), letters(f.rows), says]

def of_paper(claims):
    head = ['claim','paper','here','seeds or tables','steps','machine','verdict']
    return table(head, map(line, claims), left=len(head))

@page.place
def tables(): return '\n\n'.join(f'## {paper}\n\n{of_paper(claims)}' for paper,claims in PAPERS.items())

@page.place
def counts():
    of = Counter(c.found.verdict for c in CLAIMS)
    return ', '.join(f'{of[v]} {v}' for v in (REPRODUCED, NOT_REPRODUCED, NOT_SHOWN, NOT_TESTED))

@page.place
def n_claims(): return len(CLAIMS)

@page.place
def enough(): return f'{ENOUGH:g}'

@page.place
def machines(): return '\n'.join(f'- **{letter}**: {name}' for letter,name in zip('ABCDEFGH', MACHINES))

@page.place
def plan():
    (size,_),(_,until) = PLAN
    return f'{size:g} of the width for {until:.0%} of the fit'

if __name__=='__main__': page.write()
