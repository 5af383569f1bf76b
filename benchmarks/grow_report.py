"""docs/growing.md from the rows of results/grow_*.jsonl

python benchmarks/grow_report.py
"""
import statistics as st
from common import root, results, rows
from elastic_nets.grow.stages import choose_stages
from grow_width import HALF

def mean(xs): return st.mean(xs) if xs else float('nan')
def pm(xs, digits=2): return f'{mean(xs):.{digits}f} ± {st.stdev(xs):.{digits}f}' if len(xs)>1 else f'{mean(xs):.{digits}f} (one run)' if xs else ''

T95 = {2:12.71, 3:4.30, 4:3.18, 5:2.78, 6:2.57, 7:2.45, 8:2.36}
def paired(a, b, key='test'):
    "Mean difference of runs with the same seed, with its 95 % interval"
    d = [a[s][key]-b[s][key] for s in a if s in b]
    if not d: return ''
    return f'{mean(d):+.2f} ± {T95.get(len(d),2)*st.stdev(d)/len(d)**.5:.2f} ({len(d)})' if len(d)>1 else f'{d[0]:+.2f} (1)'

def by_seed(rs, keep): return {r['config']['seed']: r for r in rs if keep(r)}

def steps_of(net, fmt, gpu=False):
    "Size -> milliseconds, as measured in turn; empty where that was not done"
    return {s:ms for r in rows(results/'grow_steps.jsonl') if r['config']['net']==net and r['config']['format']==fmt and r['config']['gpu']==gpu and (gpu or r['config']['threads']==1) for s,ms,_ in r['sizes']}

def ceiling(times, c, key):
    "Seconds of one pass of configuration `c` over those of full steps, by measured steps"
    if not times: return None
    plan = c['plan'] or [[1.,0.]]
    ends = [*[s for _,s in plan[1:]], 1.]
    return sum((e-s)*times[z] for (z,s),e in zip(plan, ends))/times[1.]

def table(head, body): return '\n'.join(['| '+' | '.join(head)+' |', '|---'+'|---:'*(len(head)-1)+'|', *['| '+' | '.join(map(str, r))+' |' for r in body]])

def compare(rs, base, names, times=None, epochs_from=None):
    "A row per name: test accuracy, difference to the first, time"
    dense, res = by_seed(rs, lambda r: r['name']==names[0]), []
    for n in names:
        runs = by_seed(rs, lambda r: r['name']==n)
        if not runs: continue
        c = next(iter(runs.values()))['config']
        ratio = [dense[s]['cpu_seconds']/r['cpu_seconds'] for s,r in runs.items() if s in dense]
        full = ceiling(times, c, n) if times else None
        most = f"{1/(full*c['epochs']/base['epochs']):.2f}x" if full else ''
        over = [100*r['overhead']/r['seconds'] for r in runs.values() if r.get('overhead')]
        res.append([n, c['epochs'], pm([r['test'] for r in runs.values()]), '' if n==names[0] else paired(runs, dense),
                    '' if n==names[0] else f'{st.median(ratio):.2f}x' if ratio else '', '' if n==names[0] else most, f'{mean(over):.2f} %' if over else ''])
    return table(['', 'epochs', 'test', 'difference to dense (seeds)', 'faster, measured', 'ceiling', 'overhead'], res)

def made(*names):
    "Where the rows of some files were made"
    rs = [r for n in names for r in rows(results/f'grow_{n}.jsonl')]
    return f"Made on {' and '.join(sorted({r['machine'] for r in rs}))}; commits {', '.join(sorted({r['commit'] for r in rs}))}; {min(r['date'] for r in rs)} to {max(r['date'] for r in rs)}." if rs else 'Not run yet.'

WIDTH = ['dense','plan','dense, seconds of the plan','plan, equal seconds','uniform']
def width():
    rs, res = rows(results/'grow_width.jsonl'), []
    lr = {r['config']['lr']:r['valid'] for r in rs if r['name']=='lr'}
    if lr: res += [f"The learning rate was chosen once, for a dense ResNet-8, on validation: {', '.join(f'{k:g}: {v}' for k,v in sorted(lr.items()))}.", '']
    for key in dict.fromkeys((r['config']['net'], r['config']['width'], r['config']['bs']) for r in rs if r['name'] in WIDTH):
        part, (net,w,bs) = [r for r in rs if r['name'] in WIDTH and (r['config']['net'], r['config']['width'], r['config']['bs'])==key], key
        gpu = bs>128 # the settings for a GPU
        times = steps_of(f'ResNet-{net}, batch {bs}' if gpu else f'ResNet-{net}, base {w}', 'bf16 channels_last', gpu)
        res += [f"### ResNet-{net}, base width {w}{', on a GPU' if gpu else ''}", '', compare(part, part[0]['config'], WIDTH, times), '']
    return '\n'.join(res)

def plans():
    "What `plan_stages` makes of the measured steps"
    res = []
    for w in (32,16):
        r = next((r for r in rows(results/'grow_steps.jsonl') if (r['config']['net'],r['config']['format'])==(f'ResNet-20, base {w}','bf16 channels_last') and r['config']['threads']==1), None)
        if r is None: continue
        try: p = str(choose_stages(tuple((s,ms/1000,m) for s,ms,m in r['sizes'] if s>=.5), speedup=1.6, by='width')); p = f'```\n{p}\n```'
        except ValueError as e: p = f'an error: *{e}*.'
        res += [f'At base width {w}, `plan_stages(learn, speedup=1.6)` makes of these steps:', '', p, '']
    return '\n'.join(res)

def plan_text(): (size,_),(_,until) = HALF; return f'{size:g} of the width for {until:.0%} of the fit'

def overheads(): return [(100*r['overhead']/r['seconds'], what) for f,what in (('width','width, ResNets'), ('depth','depth, ViT'), ('segment','DeepLabV3+')) for r in rows(results/f'grow_{f}.jsonl') if r['config']['plan']]

def targets():
    "What was aimed at, and whether it was reached"
    rs, res = [r for r in rows(results/'grow_width.jsonl') if r['config']['net']==20], []
    get = lambda w,n: by_seed(rs, lambda r: r['config']['width']==w and r['name']==n)
    for w,name,least,what in ((32,'plan',0,'base width 32, equal epochs: no loss'), (32,'plan, equal seconds',3,'base width 32, equal seconds: 3 points above dense'), (16,'plan, equal seconds',0,'base width 16, equal seconds: at least dense')):
        a, b = get(w,name), get(w,'dense')
        d = [a[s]['test']-b[s]['test'] for s in a if s in b]
        if d: res.append([what, f'at least {least:+d}', paired(a, b), 'reached' if mean(d)>=least else 'not reached'])
        if d and name=='plan':
            x = st.median(b[s]['cpu_seconds']/a[s]['cpu_seconds'] for s in a if s in b)
            res.append(['base width 32, equal epochs: time', 'at least 1.60x', f'{x:.2f}x', 'reached' if x>=1.6 else 'not reached'])
    for what in dict.fromkeys(w for _,w in overheads()):
        most = max(o for o,w in overheads() if w==what)
        res.append([f'callback overhead, largest: {what}', 'below 2 %', f'{most:.2f} %', 'reached' if most<2 else 'not reached'])
    return table(['aim','wanted','found (runs)',''], res) if res else 'Not run yet.'

def label(c):
    if c['plan'] is None: return 'dense'
    (start,_),(_,until) = c['plan']
    return c['init']+('' if c['carry'] else ', state forgotten')+(', rates adapted' if c.get('adapt') else '')+('' if (start,until)==(.5,.6) else f', {start:g} of the width for {until:.0%}')

def inits():
    rs = [dict(r, name=label(r['config'])) for r in rows(results/'grow_width.jsonl') if r['config']['net']==8 and r['name']!='lr']
    names = sorted({r['name'] for r in rs}, key=lambda n: (n!='dense', n!='orthogonal', 'for' in n))
    return compare(rs, rs[0]['config'], names, steps_of('ResNet-8, base 16', 'bf16 channels_last')) if rs else 'Not run yet.'

def depth_setting():
    rs = rows(results/'grow_depth.jsonl')
    if not rs: return ''
    c = rs[0]['config']
    return f"{c['depth']} blocks of width {c['dim']}, {c['patch']} pixels a patch, float32, AdamW, {c['epochs']} epochs; half the blocks for half of the fit, if nothing else is said."

def depth():
    rs = rows(results/'grow_depth.jsonl')
    names = list(dict.fromkeys(r['name'] for r in rs))
    return compare(rs, rs[0]['config'], names, steps_of('ViT of 8 blocks, 96 wide, patches of 8', 'fp32')) if rs else 'Not run yet.'

def segment():
    rs = rows(results/'grow_segment.jsonl')
    return compare(rs, rs[0]['config'], list(dict.fromkeys(r['name'] for r in rs)), steps_of('DeepLabV3+ on ResNet-18, its backbone', 'bf16')) if rs else 'Not run yet.'

def steps():
    rs = rows(results/'grow_steps.jsonl')
    sizes = sorted({s for r in rs for s,*_ in r['sizes']})
    return table(['', 'format', 'threads', *[f'{s:g}' for s in sizes], 'ms at 1'], [[r['config']['net'], r['config']['format'], 'GPU' if r['config']['gpu'] else r['config']['threads'],
        *[f"{dict((a,b) for a,b,_ in r['sizes'])[s]/r['sizes'][-1][1]:.2f}" if s in [a for a,*_ in r['sizes']] else '' for s in sizes], f"{r['sizes'][-1][1]:.0f}"] for r in rs]) if rs else 'Not run yet.'

def picture():
    "Figure 6 again"
    rs = rows(results/'grow_correlation.jsonl')
    if not rs: return 'Not run yet.'
    import matplotlib; matplotlib.use('agg')
    import matplotlib.pyplot as plt, numpy as np
    cs, old = rs[0]['correlations'], 8
    fig,axs = plt.subplots(1, len(cs), figsize=(7.5,2.6), dpi=80, layout='constrained')
    for ax,(n,c) in zip(axs, cs.items()): im = ax.imshow(np.abs(c), vmin=0, vmax=1, cmap='Blues'); ax.set(title=n, xticks=[0,old,len(c)-1], yticks=[0,old,len(c)-1])
    fig.colorbar(im, ax=axs, label='|correlation|')
    fig.savefig(root/'docs/growing_correlation.png', metadata=dict(Software=None))
    most = {n: mean([max(abs(v) for v in r[:old]) for r in c[old:]]) for n,c in cs.items()}
    return '![correlations](growing_correlation.png)\n\n'+table(['','largest |correlation| of a new map with an old one, mean'], [[n,f'{v:.2f}'] for n,v in most.items()])

def tradeoff():
    "Start against speed-up and accuracy, as tables 4 and 5 of the paper"
    import matplotlib; matplotlib.use('agg')
    import matplotlib.pyplot as plt
    fig,axs = plt.subplots(1, 2, figsize=(7.5,2.8), dpi=80, layout='constrained')
    ours = lambda c: c['plan'] is None or c.get('init', 'orthogonal')=='orthogonal' and c.get('carry', True) and not c.get('grow') and len(c['plan'])==2
    for ax,f,title,keep,times in ((axs[0],'width','width, ResNet-8',lambda r: r['config']['net']==8 and r['name']!='lr',steps_of('ResNet-8, base 16', 'bf16 channels_last')),
            (axs[1],'depth','depth, ViT',lambda r: True,steps_of('ViT of 8 blocks, 96 wide, patches of 8', 'fp32'))):
        rs = [r for r in rows(results/f'grow_{f}.jsonl') if keep(r) and ours(r['config'])]
        dense = by_seed(rs, lambda r: r['config']['plan'] is None)
        for key in sorted({str(r['config']['plan']) for r in rs}):
            runs = by_seed(rs, lambda r: str(r['config']['plan'])==key and r['config']['seed'] in dense)
            if not runs: continue
            c = next(iter(runs.values()))['config']
            x, y, p = 1/(ceiling(times, c, '') or 1.), mean([r['test'] for r in runs.values()]), c['plan']
            ax.plot(x, y, 'ks' if p is None else 'o'); ax.annotate('dense' if p is None else f'{p[0][0]:g} for {p[1][1]:.0%}', (x,y), fontsize=8, xytext=(4,3), textcoords='offset points')
        ax.margins(x=.25, y=.15); ax.set(title=title, xlabel='times faster, by measured steps', ylabel='test accuracy, %')
    fig.savefig(root/'docs/growing_tradeoff.png', metadata=dict(Software=None))
    return '![start size against speed-up and accuracy](growing_tradeoff.png)'

PAGE = '''# What growing saved, and what it cost

Generated by `python benchmarks/grow_report.py` from `benchmarks/results/grow_*.jsonl`, a row per finished run; no result is typed. All times are of training alone, without validation. *Faster, measured* is the median over seeds of the
processor seconds of the dense fit over those of the grown one, both with one thread. *Ceiling* is what the steps below allow, measured in turn on an idle machine with one thread as well. *Difference* is the mean over runs of the same seed, with
its 95 % interval (t distribution); where the interval holds 0 there is no difference to speak of. *Overhead* is what the callback itself took: tracing, cutting, growing.

## Seconds of a step

Time of a training step at each size, as a part of the step at full size. bf16 is autocast.

{steps}

{steps_made}

{plans}
## Width: CIFAR-10, 10,000 training pictures

bf16, channels_last, batch 128, SGD with momentum .9 and weight decay 5e-4, one cycle. *plan* is {plan}, about what `plan_stages` plans for 1.6x at base width 32; *uniform* the paper's rule with three stages (.5, .75, 1). *Equal seconds* has as many more epochs as fit into
the dense run's time, by the first seed's processor seconds; *seconds of the plan* as many fewer. ResNet-32 and 56 have rows here where a GPU was at hand.

{width}
{width_made}

### What was aimed at

{targets}

### How new channels begin, and where to start

ResNet-8 of base width 16, 10 epochs, {plan}, if nothing else is said.

{inits}

One seed where it says so: measured times of single runs are those of the machine's hour, the picture takes the steps'.

{tradeoff}

### Correlation of feature maps just after growth

The third convolution of a ResNet-20 of base width 16, grown from 8 to 12 channels after five epochs at half width; one test picture (figure 6 of the paper).

{picture}

## Depth: a small ViT on CIFAR-10, 10,000 training pictures

{depth_setting}

{depth}

{depth_made}

## A part of a network: DeepLabV3+ on generated shapes

Mean IoU in percent; ResNet-18 as backbone, which grows alone; bf16. The callback's overhead is tracing and the new weights of a backbone of 11 million parameters: seconds, whatever the length of the fit.

{segment}

{segment_made}
'''

if __name__=='__main__':
    text = PAGE.format(steps=steps(), plans=plans(), plan=plan_text(), tradeoff=tradeoff(), steps_made=made('steps'), width=width(), targets=targets(), width_made=made('width'), inits=inits(), picture=picture(), depth_setting=depth_setting(), depth=depth(), depth_made=made('depth'), segment=segment(), segment_made=made('segment'))
    (root/'docs/growing.md').write_text('\n'.join(l.rstrip() for l in text.split('\n')))
