"""docs/onion.md from the rows of results/onion.jsonl

python benchmarks/onion_report.py
"""
import statistics as st
from common import root, rows
from grow_report import T95, mean, table
from onion import BASE, FOUR, LONG, LRS, NETS, PARENT, PUBLISHED, RECIPES, SCREEN, SEARCH, SHARE, best_lr, by_rate, gpu, handful, on_vgg, path, ratio, two_rates

WIDTHS = [str(w) for w in FOUR]
NOT, SECONDS, LIMIT = 'Not run yet.', 'seconds, as a share of those of the four widths alone, whose steps should make it 1', 1.03

def value(r, part='test'): return r[part]['mean_pareto']
def of(rs, name, net, recipe, width=None):
    "Seed -> row, at the learning rate that was chosen"
    lr = best_lr(recipe, width, net)
    return {r['config']['seed']:r for r in rs if r['name']==name and tuple(r['config'].get(k) for k in ('net','recipe','width','lr'))==(net,recipe,width,lr)}
def alone(rs, net, name='alone'): return {w:of(rs, name, net, 'alone', float(w)) for w in WIDTHS}

def half(d): return T95.get(len(d),2)*st.stdev(d)/len(d)**.5 if len(d)>1 else float('inf')
def at_base_rate(best):
    "What the best of the screen gave at the rate of the other rows"
    got = by_rate('screen', best, SCREEN[0])
    return f'What the selection ended with is shown at its better rate, {best_lr(best):g}; at {two_rates()[0]:g}, the rate of the others, its first seed gave {got[two_rates()[0]]:.2f}. ' if best!='us_net' and best_lr(best) not in (None, two_rates()[0]) else ''
def more_seeds(rs):
    "Which networks got more than the first three seeds"
    got = {n:len(of(rs, 'confirm', n, 'us_net')) for n in NETS}
    some = [n for n in NETS if got[n]>3]
    return f" The first three were run for every network; their intervals were too wide for an answer, so {' and '.join(some)} got more. That this was decided after a look makes intervals a little narrower than they should be." if some else ''
def differ(a, b, part):
    "Mean difference of runs with the same seed, with its 95 % interval; 'no difference' where that holds 0"
    d = [value(a[s],part)-value(b[s],part) for s in a if s in b]
    if len(d)<2: return f'{d[0]:+.2f} (one run)' if d else ''
    return f'{mean(d):+.2f} ± {half(d):.2f}'+('' if abs(mean(d))>half(d) else ', no difference')

def rates(rs):
    "What every search gave, with each of its seeds"
    body, found = [], dict.fromkeys((r['config']['recipe'], r['config'].get('width')) for r in rs if r['name']=='lr')
    best = (handful() or ['us_net'])[0]
    for name,seeds,r,w in [*[('screen', SCREEN, r, None) for r in dict.fromkeys(['us_net', best])], *[('lr', SEARCH, r, w) for r,w in found]]:
        one, two = (by_rate(name, r, s, w) for s in seeds)
        body.append([r if w is None else f'width {w:g} alone', *[f'{one[l]:.2f}'+(f', {two[l]:.2f}' if l in two else '') if l in one else '' for l in LRS], f'{best_lr(r,w):g}' if best_lr(r,w) else ''])
    for r,w in dict.fromkeys((r['config']['recipe'], r['config'].get('width')) for r in rs if r['name'] in ('confirm','alone') and r['config']['net']=='vgg'):
        one, lr = on_vgg(r, w), best_lr(r, w, 'vgg')
        body.append([f"vgg: {r if w is None else f'width {w:g} alone'}", *[f'{one[l]:.2f}' if l in one else '' for l in LRS], f'{lr:g}' if lr else ''])
    return table(['',*map(str,LRS),'chosen'], body) if found else NOT

def screen(rs):
    base, body = of(rs,'screen','resnet','us_net'), []
    for n in [*RECIPES, *dict.fromkeys(r['config']['recipe'] for r in rs if ' + ' in r['config']['recipe'])]:
        if not (runs := of(rs,'screen','resnet',n)): continue
        c = next(iter(runs.values()))['config']
        body.append([n, f"{ratio('resnet',n):.2f}", c['steps'], f"{c['lr']:g}", f"{mean([value(r,'valid') for r in runs.values()]):.2f}", '' if n=='us_net' else differ(runs, base, 'valid'),
                     f"{differ(runs, of(rs,'screen','resnet',PARENT[n]), 'valid')} (*{PARENT[n].split(': ')[1]}*)" if n in PARENT else '', len(runs), f"{mean([r['seconds'] for r in runs.values()]):.0f}"])
    return table(['','cost of a step','steps','rate','mean Pareto, validation','difference to US-Net','difference to its parent','runs','seconds'], body) if body else NOT

def confirm(rs, net, name='confirm', single='alone'):
    "What the recipes, in rows of that `name`, and each width by itself gave on test"
    base, body, each = of(rs,name,net,'us_net'), [], alone(rs, net, single)
    acc = lambda runs,w: f"{mean([r['test']['widths'][w] for r in runs.values()]):.2f}" if runs else ''
    if any(each.values()): body.append(['each width alone', *[acc(each[w],w) for w in WIDTHS], '', '', max(map(len, each.values())), f"{sum(mean([r['seconds'] for r in a.values()]) for a in each.values() if a):.0f}"])
    for n in dict.fromkeys(r['config']['recipe'] for r in rs if r['name']==name and r['config']['net']==net and r['config']['recipe']!='alone'):
        if runs := of(rs,name,net,n): body.append([n, *[acc(runs,w) for w in WIDTHS], f"{mean([value(r) for r in runs.values()]):.2f}", '' if n=='us_net' else differ(runs, base, 'test'), len(runs), f"{mean([r['seconds'] for r in runs.values()]):.0f}"])
    return table(['','.25','.5','.75','1','mean Pareto','difference to US-Net','runs','seconds'], body) if body else NOT

def interval(d):
    "Mean and 95 % interval of paired differences, and what they say of an aim of at least 0"
    if len(d)<2: return f'{d[0]:+.2f} (one run)',
    return f'{mean(d):+.2f} ± {half(d):.2f}', 'reached' if mean(d)>max(half(d),0) else 'not reached' if mean(d)<-half(d) else 'no difference'

def aims(rs, name='confirm', single='alone'):
    "Aim -> network -> what the paired differences are, and what they say"
    best, body = (handful() or ['us_net'])[0], {}
    def cell(net, aim, d, verdict=interval):
        if d: body.setdefault(aim, {})[net] = verdict(d)
    def seconds(d): return interval(d)[0].lstrip('+'), *(['not reached' if mean(d)-half(d)>LIMIT else 'reached' if mean(d)+half(d)<=LIMIT else 'no difference'] if len(d)>1 else [])
    for net in NETS:
        runs, each = of(rs,name,net,best), alone(rs, net, single)
        for other in PUBLISHED:
            o = of(rs,name,net,other) if other!=best else {}
            cell(net, f'mean Pareto above {other}', [value(runs[s])-value(o[s]) for s in runs if s in o])
        for w,a in each.items(): cell(net, f'width {w} at least as alone', [runs[s]['test']['widths'][w]-a[s]['test']['widths'][w] for s in runs if s in a])
        cell(net, SECONDS, [runs[s]['seconds']/sum(a[s]['seconds'] for a in each.values()) for s in runs if all(s in a for a in each.values())], seconds)
    return body

def targets(body, seeds):
    "A row per aim, a column per network, and the number of `seeds` of a network"
    nets = [n for n in NETS if any(n in c for c in body.values())]
    return table(['aim',*nets], [*[[aim, *[', '.join(c.get(n,[])) for n in nets]] for aim,c in body.items()], ['fresh seeds', *[seeds(n) for n in nets]]]) if body else NOT

def missed(body):
    "In words: where the best of the screen was not shown to be better"
    out = []
    for net in NETS:
        for verdict,says in (('not reached','is worse than'), ('no difference','was not shown to differ from')):
            some = [a.replace('mean Pareto above ', '').replace(' at least as alone', ' alone') for a,c in body.items() if a!=SECONDS and c.get(net, ('',))[-1]==verdict]
            if some: out.append(f'On {net} it {says} {", ".join(some)}.')
    return ' '.join(out)

PAGE = """# The design space of training many networks at once

Generated by `python benchmarks/onion_report.py` from `benchmarks/results/onion.jsonl`, a row per finished run. *Onionization* names four places of design; its body is not public, so the values are our own list (`nbs/tutorials/four_choices.ipynb`).

From universally slimmable networks (US-Net: sandwich of four, in-place distillation, from the start), one field at a time. {n:,} training pictures of CIFAR-10, batch {bs}, {steps} steps of the base{shares}; everything else gets the steps that cost the same processor seconds, by the ratio of its steps to the base's, measured beforehand (in turn, median of three); *seconds* are what its steps then took. The forward in bf16 for all, those with several optimizer steps per batch too{but}.
Widths .25 to 1 in steps of 1/8, the same share for every layer; recipes that draw each layer's width are scored on these as well. *Mean Pareto*: mean over budgets of MACs between width .25 and 1 of the best accuracy within the budget, which validation chooses; the largest network has no weight in it, and four fifths of the budgets lie above width .5: see the four widths beside it. *Depth skins* trains the three networks that three depths give, and is scored on subnets of those depths too, so that its number is not quite comparable. All numbers are per cent, differences points.
Learning rates: {rates_n} for the base; its best for every value of the screen (a few had the second too, and count with the better). What the selection ends with has a search of its own, and so have published recipes and single widths, with half of the steps and another seed: from the base's two best rates outwards, until the best lies between worse ones; the two best of it have a second seed, and the better in the mean is taken. (These rules were settled while results came in: the wider search after fresh seeds had been seen at narrower ones, the second seed after the winner's best rate of the first, .08, had done worse with it than .03.) These searches are on ResNet-20. VGG has one of its own, by the validation of the first seed that reports; MobileNet takes the lower rate of the two others', and has half of the steps: a recipe that this does not suit loses by it, so that this column says less than the other two. Seeds {screen_seeds} choose, on validation. With the first, every value is run; then comes a forward selection: the best value of all (among those that suit all three networks, two of which have no blocks to drop) is kept, and field by field the two best of another field are tried with it (+) and the better one is kept where it gains. The base, the best value and what the selection ends with have the second seed too; the better of the latter two is *the best of the screen*. Seeds {fresh} report, on test.{more} Differences are paired by seed, with 95 % intervals. A value that needs a second change to mean anything is compared with a *parent* that has that change alone.
The four widths alone have the steps that make them cost together what the base costs. BigNAS, progressive and delayed shrinking are run on widths only, because two of the networks have no blocks to drop; CompOFA, which ties widths to depths, is left out (see [shrinking](shrinking.md)). Batches are small and runs short, so that a recipe which learns fast is favoured over one that learns long.

## What was aimed at

The best of the screen: **{best}**, which is `onion()`. *Reached* and *not reached* where the 95 % interval lies on one side of the aim, which is 0 points, or {limit} times the seconds; otherwise *no difference*. {open}

{targets}

## Screen, ResNet-20

{base_rate}US-Net's mean is over its seeds; a difference is to its run with the same seed.

{screen}

## Confirmed with fresh seeds

{confirmed}

## Does it hold for longer runs?

{times} times the steps for all, the same learning rates, on the network that trains fastest.

{long}

## Learning rates

{rates}

{made}
"""

if __name__=='__main__':
    rs = rows(path)
    best = (handful() or ['us_net'])[0]
    made = f"Made on {' and '.join(sorted({r['machine'] for r in rs}))}; commits {', '.join(sorted({r['commit'] for r in rs}))}; {min(r['date'] for r in rs)} to {max(r['date'] for r in rs)}." if rs else ''
    (root/'docs/onion.md').write_text(PAGE.format(rates_n=len(LRS), n=BASE['n_train'], bs=BASE['bs'], steps=BASE['steps'], shares=''.join(f' ({s:g} of that for {n})' for n,s in SHARE.items() if s!=1), but='' if gpu else '; MobileNet in fp32, where that is faster', screen_seeds=', '.join(map(str,SCREEN)), fresh=', '.join(map(str, sorted({r['config']['seed'] for r in rs if r['name']=='confirm'}))), best=best, limit=LIMIT, open=missed(aims(rs)), more=more_seeds(rs), base_rate=at_base_rate(best), targets=targets(aims(rs), lambda net: len(of(rs, 'confirm', net, best))), times=LONG, long='\n\n'.join([targets(aims(rs,'long','long'), lambda net: len(of(rs, 'long', net, best))), confirm(rs,'vgg','long','long')]) if any(r['name']=='long' for r in rs) else NOT, rates=rates(rs), screen=screen(rs),
        confirmed='\n\n'.join(f'### {net}\n\n{confirm(rs, net)}' for net in NETS), made=made))
