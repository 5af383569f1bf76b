"""docs/shrinking.md and its pictures from the rows of results/shrink*.jsonl

python benchmarks/shrink_report.py
"""
import re, statistics as st
from common import results, root, rows
from grow_report import T95, mean, table

NAMES = dict(delayed_shrinking='delayed shrinking', bignas='BigNAS', progressive_shrinking='once for all', compofa='CompOFA', full='the full network alone', smallest='the smallest alone')
BASELINES = ('bignas','progressive_shrinking','compofa')
COST, RUNS = rows(results/'shrink_cost.jsonl'), rows(results/'shrink.jsonl')
NOT = 'Not run yet.'

def made(rs): return f"Made on {' and '.join(sorted({r['machine'] for r in rs}))}; commits {', '.join(sorted({r['commit'] for r in rs}))}; {min(r['date'] for r in rs)} to {max(r['date'] for r in rs)}." if rs else ''

def runs(name, net='resnet', kernels=None, options=None, epochs=None, group=None):
    "Seed -> row; `group`: the rows' name, where it is not the recipe's"
    ok = lambda c: c['net']==net and c.get('kernels')==kernels and (options is None or all(c['options'].get(k)==v for k,v in options.items())) and epochs in (None, c['epochs'])
    return {r['config']['seed']:r for r in RUNS if (r['name'] if group is None else r['name']==group and r['config']['recipe'])==name and ok(r['config'])}

def pm(xs): return f'{mean(xs):.2f} ± {st.stdev(xs):.2f}' if len(xs)>1 else f'{mean(xs):.2f}' if xs else ''
def of(rs, f): return {s:dict(v=f(r)) for s,r in rs.items() if f(r) is not None}
def values(rs, f): return [x['v'] for x in of(rs, f).values()]
def vs(a, b, f, g=None):
    "Differences of runs with the same seed"
    x, y = of(a,f), of(b,g or f)
    return [x[s]['v']-y[s]['v'] for s in x if s in y]
def pm_of(rs, f): return pm(values(rs, f))
def interval(d): return f'{mean(d):+.2f} ± {T95.get(len(d),2)*st.stdev(d)/len(d)**.5:.2f}' if len(d)>1 else f'{d[0]:+.2f}' if d else ''
def spent(r): return r['seconds' if 'gpu' in r else 'cpu_seconds']
def ratio(a, b): return [spent(a[s])/spent(b[s]) for s in a if s in b]

def verdict(d, yes='reached', no='not reached', bound=0.):
    "What paired differences say of 'at least `bound`': nothing where their 95 % interval holds it"
    half = T95.get(len(d),2)*st.stdev(d)/len(d)**.5 if len(d)>1 else float('inf')
    return yes if mean(d)-half>bound else no if mean(d)+half<bound else 'no difference' if len(d)>1 else 'one run'

def test(r): return r['test']
def smallest(r): return r['smallest'][2]

# What steps cost

def y(net='ResNet-20 space', fmt='bf16 channels_last', gpu=False, bs=64, threads=1):
    "Kind of step -> times a step of the full network, as in the runs below"
    rs = [r for r in COST if r['name']=='steps' and tuple(r['config'][k] for k in ('net','format','gpu','bs','threads'))==(net, fmt, gpu, bs, threads)]
    return {k:v for k,(_,v) in rs[-1]['kinds'].items()} if rs else None

def deps(t, warm=150/270): return warm + (1-warm)*t['full and 3']
def ofa(t): return (180+150*t['teacher and 2 depths']+150*t['teacher and 4'])/480 # the phases of a space without kernels

def steps():
    rs = [r for r in COST if r['name']=='steps']
    if not rs: return NOT
    kinds, body = list(rs[0]['kinds']), []
    for r in rs:
        c, t = r['config'], {k:v for k,(_,v) in r['kinds'].items()}
        body.append([f"{c['net']}, batch {c['bs']}", c['format']+(' (GPU)' if c['gpu'] else f" ({c['threads']} thread{'s'*(c['threads']>1)})"), f"{r['kinds']['full'][0]:.0f}", *[f'{t[k]:.2f}' for k in kinds[1:]], f'{deps(t):.2f}', f"{400*t['sandwich']/270/deps(t):.2f}x", f'{605*ofa(t)/270/deps(t):.2f}x'])
    return table(['','format','ms of the full network',*kinds[1:],'delayed shrinking, its mean','allowed: BigNAS','allowed: once for all'], body)+'\n\n'+made(rs)

def flat(rs): return 100*(max(r['mb'] for r in rs)/min(r['mb'] for r in rs)-1)

def memory():
    rs, body = [r for r in COST if r['name']=='memory'], []
    for key in dict.fromkeys((r['config']['net'], r['config']['format'], r['config']['bs'], r['config']['gpu'], r['config']['rule']) for r in rs):
        part = {r['config']['k']:r for r in rs if tuple(r['config'][k] for k in ('net','format','bs','gpu','rule'))==key}
        body.append([f'{key[0]}, batch {key[2]}', key[1]+(' (GPU)' if key[3] else ''), key[4], *[f"{part[k]['mb']:.0f}" if k in part else '' for k in (2,4,8)], f'{flat(list(part.values())):.1f} %'])
    return table(['','format','rule','2','4','8','most over least'], body)+'\n\n'+made(rs) if rs else NOT

# What networks are worth

def family(kw, names, base='delayed_shrinking'):
    "A row per recipe: six buckets, ends, mean, cost"
    mine, body = runs(base, **kw), []
    for n in names:
        rs = runs(n, **kw)
        if not rs: continue
        c, alone = next(iter(rs.values()))['config'], n in ('full','smallest')
        cells = (['']*7+[pm_of(rs,test)] if n=='full' else [pm_of(rs,test)]+['']*7) if alone else [pm_of(rs,smallest), *[pm_of(rs, lambda r: r['buckets'][i][2]) for i in range(6)], pm_of(rs, lambda r: r['largest'][2])]
        cost = ratio(rs, mine)
        body.append([NAMES[n], len(rs), c['epochs'], f"{c['lr']:g}", *cells, '' if alone else pm_of(rs,test), '' if alone or n==base else f'{interval(vs(mine, rs, test))} ({len(vs(mine, rs, test))})' if vs(mine, rs, test) else '',
                     f"{mean([spent(r) for r in rs.values()]):.0f}", f'{st.median(cost):.2f}x' if cost else '', *[f"{mean([r[k] for r in rs.values()]):,.0f}" if all(k in r for r in rs.values()) else f"{mean([r['steps'] for r in rs.values()]):,.0f}" if n=='full' else '' for k in ('passes','full_passes')]])
    return table(['','seeds','epochs','lr','smallest',*[f'bucket {i}' for i in range(1,7)],'largest','mean Pareto','delayed shrinking minus this (seeds)',f"{'' if 'gpu' in next(iter(mine.values()), {}) else 'processor '}seconds",'cost','passes','in full passes'], body) if body else NOT

def cifar(): return family({}, ['delayed_shrinking',*BASELINES,'full','smallest'])
def mobile():
    "The papers' own space: on a GPU, and a shortened seed on a processor"
    cpu = [r for r in RUNS if r['name']=='mobilenet']
    res = []
    for ks in ([7],[3,5,7]):
        if any(runs(n, 'mobilenet', ks) for n in NAMES): res += [f"Kernels {', '.join(map(str,ks))}; 45,000 training pictures, on a GPU:", '', family(dict(net='mobilenet', kernels=ks), ['delayed_shrinking',*BASELINES,'full','smallest']), '', made([r for n in NAMES for r in runs(n,'mobilenet',ks).values()]), '']
    if cpu:
        res += ['One shortened seed on a processor: 1,250 training pictures in batches of 32, half of the epochs, kernel 7, fp32, learning rates of the ResNet space; 500 pictures to choose by, 1,000 to report. Accuracies are those of networks far from trained; it shows that the recipes run there, and what they cost.', '', family(dict(net='mobilenet', kernels=[7], group='mobilenet'), ['delayed_shrinking',*BASELINES,'full','smallest']), '', made(cpu)]
    return '\n'.join(res) if res else NOT

def rates():
    rs, body = [r for r in RUNS if r['name']=='lr'], []
    lrs = sorted({r['config']['lr'] for r in rs})
    for net,n in dict.fromkeys((r['config']['net'], r['config']['recipe']) for r in rs):
        v = {r['config']['lr']:r['valid'] for r in rs if (r['config']['net'], r['config']['recipe'])==(net,n)}
        best = max(v, key=v.get)
        body.append([f'{NAMES[n]}, {net}', *[f'{v[l]:.2f}' if l in v else '' for l in lrs], f'{best:g}'+(', at the edge' if best in (lrs[0],lrs[-1]) else '') if len(v)==3 else ''])
    return table(['',*[f'{l:g}' for l in lrs],'chosen'], body) if body else NOT

# Figure 7

ABLATIONS = {'as in the table above':('delayed_shrinking',{}), 'start at 25 %':('start',dict(options=dict(warmup=.25))), 'start at 50 %':('start',dict(options=dict(warmup=.5))), 'start at 75 %':('start',dict(options=dict(warmup=.75))),
             'without epsilon':('no epsilon',{}), 'epsilon for a fifth of the run':('longer ramp',{}), 'in place from the start, 3 epochs':('in place',{})}

def ablations():
    mine, body = runs('delayed_shrinking'), []
    for label,(name,kw) in ABLATIONS.items():
        if not (rs := runs(name, **kw)): continue
        d, cost = vs(rs, mine, test), ratio(rs, mine)
        body.append([label, len(rs), next(iter(rs.values()))['config']['epochs'], pm_of(rs,smallest), pm_of(rs, lambda r: r['largest'][2]), pm_of(rs,test), f'{interval(d)} ({len(d)})' if d and name!='delayed_shrinking' else '', f'{st.median(cost):.2f}x' if cost else ''])
    return table(['','seeds','epochs','smallest','largest','mean Pareto','difference (seeds)','cost'], body)+'\n\n'+made([r for n,kw in ABLATIONS.values() for r in runs(n,**kw).values()]) if body else NOT

def at(r, lo, hi):
    "Mean accuracy of the full network from `lo` (not included) to `hi` epochs after shrinking started"
    n = r['of_steps']/r['config']['epochs']
    v = [a for i,a in r['around'] if lo<i/n<=hi+1e-6]
    return mean(v) if v else None

def drop(r): return None if at(r,-1,0) is None else at(r,0,.5)-at(r,-1,0)

WATCHED = {'with epsilon':'delayed_shrinking', 'without':'no epsilon', 'with epsilon for a fifth of the run':'longer ramp', 'the full network alone':'full'}
def around():
    body = []
    for label,n in WATCHED.items():
        rs = {s:r for s,r in runs(n).items() if r['around']}
        if rs: body.append([label, len(rs), *[pm_of(rs, lambda r: at(r,*q)) for q in ((-1,0),(0,.25),(.25,.5),(.5,1))], pm_of(rs,drop), pm_of(rs, lambda r: min(a for i,a in r['around'] if i>0)-at(r,-1,0))])
    return table(['','seeds','the half epoch before','first quarter','second quarter','second half','half an epoch after minus before','lowest after minus before'], body)+'\n\n![full network](shrinking_full.png)' if body else NOT

# What was aimed at

def targets():
    mine, body = runs('delayed_shrinking'), []
    def row(aim, wanted, d, found, said): body.append([aim, wanted, found, len(d), said])
    for n in BASELINES:
        if d := vs(mine, runs(n), test): row(f'mean Pareto accuracy, delayed shrinking minus {NAMES[n]}', 'at least 0', d, interval(d), verdict(d))
    t = y()
    for n,paper,bound in (('bignas','2.5x', lambda t: t['sandwich']/deps(t)), ('progressive_shrinking','1.8x', lambda t: ofa(t)/deps(t))):
        d = ratio(rs := runs(n), mine)
        if not d or not t: continue
        allowed = bound(t)*next(iter(rs.values()))['config']['epochs']/next(iter(mine.values()))['config']['epochs']
        row(f'cost of {NAMES[n]} over that of delayed shrinking (paper: {paper})', f'{allowed:.2f}x, what the steps allow', d, f'{st.median(d):.2f}x ({min(d):.2f} to {max(d):.2f})', 'reached' if st.median(d)>=.97*allowed else 'not reached')
    if d := vs(mine, runs('smallest'), smallest, test): row('smallest subnet minus the same network trained alone', 'at least 0', d, interval(d), verdict(d))
    for how,rs in (('', mine), (', with epsilon for a fifth of the run', runs('longer ramp'))):
        if d := values(rs, drop): row(f'full network where shrinking starts: half an epoch after minus before{how}', 'at least 0', d, interval(d), verdict(d))
    memory_of = lambda r: (r['config']['net'], r['config']['format'], r['config']['gpu'], r['config']['bs'])
    for key in dict.fromkeys(memory_of(r) for r in COST if r['name']=='memory'):
        part = [r for r in COST if r['name']=='memory' and r['config']['rule']=='sum' and memory_of(r)==key]
        if len(part)==3: row(f"peak memory of 2, 4, 8 networks, {key[0]}, {key[1]}{', GPU' if key[2] else ''}", 'within 5 %', part, f'{flat(part):.1f} %', 'reached' if flat(part)<=5 else 'not reached')
    return table(['aim','wanted','found','runs',''], body) if body else NOT

def claims():
    "What the paper says of its parts, and what there is of it here"
    mine, plain, half = runs('delayed_shrinking'), runs('no epsilon'), runs('start', options=dict(warmup=.5))
    todo = [('7a: start at 50 % above 25 %, mean Pareto', 'best', vs(half, runs('start', options=dict(warmup=.25)), test)),
            ('7a: start at 50 % above 75 %, mean Pareto', 'best', vs(half, runs('start', options=dict(warmup=.75)), test)),
            ('7b: with epsilon above without, mean Pareto', 'above in all of the range', vs(mine, plain, test)),
            ('7b: the full network falls where shrinking starts without epsilon', '2 points', [-x for x in values(plain, drop)]),
            ('7b: it falls less with epsilon', 'no drop', vs(mine, plain, drop)),
            ('7b: it falls less with epsilon for a fifth of the run', 'no drop', vs(runs('longer ramp'), plain, drop)),
            ('7c: distilled from a warmed-up network above in place from the start, mean Pareto', '2 to 3.5 points', vs(mine, runs('in place'), test))]
    body = [[claim, paper, interval(d), len(d), verdict(d, 'reproduces', 'does not')] for claim,paper,d in todo if d]
    return table(['claim','paper','here, points','runs',''], body) if body else NOT

# Pictures

def pictures():
    import matplotlib; matplotlib.use('agg')
    import matplotlib.pyplot as plt, numpy as np
    todo = {n:runs(n) for n in ('delayed_shrinking',*BASELINES) if runs(n)}
    if todo:
        fig,ax = plt.subplots(figsize=(6,3), dpi=80, layout='constrained')
        ends = [r[k][0] for rs in todo.values() for r in rs.values() for k in ('smallest','largest')]
        xs = np.linspace(min(ends), max(ends), 200)
        for n,rs in todo.items():
            ys = np.array([[max((m,t) for m,_,t in r['front'] if m<=x)[1] for x in xs] for r in rs.values()])
            line, = ax.plot(xs/1e6, ys.mean(0), label=f'{NAMES[n]} ({len(rs)})')
            if len(ys)>1: ax.fill_between(xs/1e6, ys.min(0), ys.max(0), color=line.get_color(), alpha=.15, lw=0)
        for n,end in (('full',max(ends)), ('smallest',min(ends))):
            if rs := runs(n): ax.plot(end/1e6, mean([r['test'] for r in rs.values()]), 'k*' if n=='full' else 'k^', ms=7, label=NAMES[n])
        ax.set(xlabel='million MACs', ylabel='test accuracy, %'); ax.legend(frameon=False, fontsize=8)
        fig.savefig(root/'docs/shrinking_pareto.png', metadata=dict(Software=None))
    watched = {l:{s:r for s,r in runs(n).items() if r['around']} for l,n in WATCHED.items()}
    if any(watched.values()):
        fig,ax = plt.subplots(figsize=(6,2.6), dpi=80, layout='constrained')
        for l,rs in watched.items():
            if not rs: continue
            r = next(iter(rs.values()))
            x = np.array([i for i,_ in r['around']])/(r['of_steps']/r['config']['epochs'])
            ax.plot(x, np.mean([[a for _,a in r['around']] for r in rs.values()], 0), label=f'{l} ({len(rs)})')
        ax.axvline(0, color='k', lw=.5, ls=':'); ax.set(xlabel='epochs since shrinking started', ylabel='full network, validation, %'); ax.legend(frameon=False, fontsize=8)
        fig.savefig(root/'docs/shrinking_full.png', metadata=dict(Software=None))
    return '![accuracy over MACs](shrinking_pareto.png)' if todo else ''

PAGE = '''# What a family of networks costs, and what it is worth

Generated by `python benchmarks/shrink_report.py` from `benchmarks/results/shrink*.jsonl`, a row per finished run; nothing here is typed. Spreads (±) in the columns of accuracies are standard deviations over seeds; differences are means over runs of the same seed with their 95 % interval
(t distribution): where the interval holds 0 there is no difference to speak of.

## What was aimed at

From *Delayed epsilon-shrinking* (DepS). On CIFAR-10, in the ResNet space below.

{targets}

## Seconds of a step

Forward, backward and optimizer's step with all callbacks, in turn in the same rounds on an idle machine; medians, as multiples of a step of the full network (the supernet with nothing switched off). *sandwich*: BigNAS, the largest, the smallest and two random ones; *full and 3*: delayed shrinking after
its ramp; its mean is over the whole run, 150 of 270 epochs for the full network alone. *Teacher and 2 depths*, *teacher and 4*: the phases of once-for-all. *Allowed* is what the papers' numbers of epochs (270 for delayed shrinking, 400, 605) make of this: 400 y / (150 + 120 y) where both kinds of steps cost y.

{steps}

## Peak memory

Megabytes above what there is before the first step - activations, gradients, momentum - with 2, 4 and 8 networks in a step, each in a process of its own, after steps that use all these subnets. On a processor: the largest resident size, with an allocator that hands back large blocks at once. *sum* adds gradients up in
place; *avg* keeps one per network, which is hardly to be seen here, where gradients have about 1 MB; that *sum* keeps none is shown by a test.

{memory}

## CIFAR-10: widths and depths of a ResNet-20

20,000 training pictures, 5,000 for choosing; three widths (.5, .75, 1) for every group of channels and one to three blocks in each stage. bf16, channels_last, batch 64, SGD with momentum .9 and weight decay 5e-4, a tenth of the run for warming up the learning rate, then a cosine; cross-entropy without label smoothing.
Epochs are the papers' 270 : 400 : 605 : 330, shortened alike. Once-for-all's 605 contain a phase for kernels, of which there are none here: its time goes to the other phases. CompOFA's networks are the 27 where the widths of a stage follow its depth; up to two of them in each part of the range of MACs are candidates of every recipe, and for all but CompOFA up to two random networks more. Of each of six equal
parts of the range of MACs the network that is best on validation is reported on test, with recalibrated batch norms. *Mean Pareto*: mean over all budgets of MACs of the test accuracy of what validation chooses within the budget. US-Nets and slimmable networks have one width for all layers and no choice of depth: [the onion](onion.md) compares them. Cost: processor seconds of training alone, with one thread, over those of delayed shrinking (median over seeds); *passes*:
networks that went forward and backward, a teacher's forward being a third in *full passes*, which are weighed by MACs.

{cifar}

{picture}

{cifar_made}

### Learning rates

The same search for everyone: three rates, half of the epochs, one seed that is used for nothing else; mean Pareto accuracy on validation, for a network alone its accuracy. The phases of once-for-all and CompOFA have the published ratios to the rate given here, which is the teacher's.

{rates}

## When to start, and how (figure 7 of DepS)

The same network, data and learning rate as delayed shrinking above. A start at 25 % costs more than one at 75 %, as *cost* says. *In place from the start* is in-place distillation without warm-up; its weight is 1 from the first step, and it has an epoch less, since all of them cost what delayed shrinking's last ones do. *Epsilon for a fifth of the run* takes 250 steps: the paper's 5 of 270 epochs are some 3,000 steps on ImageNet, and 23 here.

{claims}

{ablations}

### The full network where shrinking starts (figure 7b)

Accuracy on 2,000 validation pictures with the running statistics, every twelfth of an epoch; the paper reports a drop of 2 points without epsilon.

{around}

## MobileNetV3's space for 32 pixels

{mobile}
'''

if __name__=='__main__':
    text = PAGE.format(targets=targets(), steps=steps(), memory=memory(), cifar=cifar(), picture=pictures(), cifar_made=made([r for n in NAMES for r in runs(n).values()]), rates=rates(), ablations=ablations(), claims=claims(), around=around(), mobile=mobile())
    (root/'docs/shrinking.md').write_text(re.sub('\n{3,}', '\n\n', '\n'.join(l.rstrip() for l in text.split('\n'))))
