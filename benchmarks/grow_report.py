"""docs/growing.md and its pictures from the rows of results/grow_*.jsonl and the template pages/growing.md

python benchmarks/grow_report.py
"""
from elastic_nets.grow.stages import choose_stages
import card, small
from card import pass_time
from common import by_seed, results, rows
from grow import FIVE, JOBS, PLAN
from report import Page, change, figure, interval, made, mean, median, paired, ratios, spread, table, times, verdict

page = Page('growing')

WIDTH, DEPTH, SEGMENT, CORRELATION = (rows(JOBS[part].path) for part in ('width','depth','segment','correlation'))
STEPS = rows(results/'grow_steps.jsonl')

def test(r): return r['test']
def seconds(r): return r['cpu_seconds']

# Steps

def step_times(net, fmt, gpu=False):
    "Size -> milliseconds, as measured in turn; on a processor with one thread, as the runs"
    def same(c): return (c['net'],c['format'],c['gpu'])==(net,fmt,gpu) and (gpu or c['threads']==1)
    return {size:ms for r in STEPS if same(r['config']) for size,ms,_ in r['sizes']}

RESNET8 = step_times('ResNet-8, base 16', 'bf16 channels_last')
VIT = step_times('ViT of 8 blocks, 96 wide, patches of 8', 'fp32')
DEEPLAB = step_times('DeepLabV3+ on ResNet-18, its backbone', 'bf16')

@page.place
def steps():
    sizes = sorted({size for r in STEPS for size,*_ in r['sizes']})
    def line(r):
        c, ms = r['config'], {size:ms for size,ms,_ in r['sizes']}
        parts = [f'{ms[s]/ms[1.]:.2f}' if s in ms else '' for s in sizes]
        return [c['net'], c['format'], 'GPU' if c['gpu'] else c['threads'], *parts, f'{ms[1.]:.0f}']
    return table(['','format','threads',*[f'{s:g}' for s in sizes],'ms at 1'], map(line, STEPS))

def planned(base_width):
    "What `plan_stages` makes of the measured steps"
    def same(c): return (c['net'],c['format'],c['threads'])==(f'ResNet-20, base {base_width}','bf16 channels_last',1)
    sizes = next(r['sizes'] for r in STEPS if same(r['config']))
    return choose_stages(tuple((size, ms/1000, macs) for size,ms,macs in sizes if size>=.5), speedup=1.6, by='width')

@page.place
def plan_32(): return planned(32)

@page.place
def plan_16(): return planned(16)

@page.place
def plan():
    (size,_),(_,until) = PLAN
    return f'{size:g} of the width for {until:.0%} of the fit'

# Runs against dense ones

def named(rs, name): return by_seed(rs, lambda r: r['name']==name)
def config_of(runs): return next(iter(runs.values()))['config']

def plan_of(r):
    "The plan of a run; of one that chose its moments, as it went"
    plan = r['config']['plan']
    return plan if plan!='auto' else [[stage['width'], stage['step']/r['steps']] for stage in r['stages']]

def faster_by_steps(runs, dense, times_of):
    "Times faster than dense by the times of steps; None where they are not known, as for smaller pictures"
    if not times_of or not dense or any('sizes' in r['config'] for r in runs.values()): return
    costs = [pass_time(times_of, plan_of(r))*r['config']['epochs'] for r in runs.values()]
    return config_of(dense)['epochs']/mean(costs)

def beside_dense(rs, names, times_of):
    "Name, runs, their ratios of time to dense runs, and that by measured steps; dense has the first name"
    dense = named(rs, names[0])
    for name in names[1:]:
        runs = named(rs, name)
        if runs: yield name, runs, ratios(dense, runs, seconds), faster_by_steps(runs, dense, times_of)

def compare(rs, names, times_of=None):
    "A row per name, of which the first is dense: accuracy, difference, time, and the share of the callback"
    dense = named(rs, names[0])
    def line(name, runs, *cells):
        return [name, config_of(runs)['epochs'], spread([test(r) for r in runs.values()], ' (one run)'), *cells]
    body = [line(names[0], dense, '', '', '', '')]
    for name,runs,measured,expected in beside_dense(rs, names, times_of):
        body.append(line(name, runs, interval(paired(runs, dense, test), count=True), times(measured),
                         f'{expected:.2f}x' if expected else '', overhead_of(runs)))
    return table(['','epochs','test','difference to dense (seeds)','faster, measured','by measured steps','overhead'],
                 body)

def share_of_callback(r): return 100*r['overhead']/r['seconds']

def overhead_of(runs):
    some = [share_of_callback(r) for r in runs.values() if r['overhead']]
    return f'{mean(some):.2f} %' if some else ''

def resnet20(base_width, name):
    return named([r for r in WIDTH if (r['config']['net'],r['config']['width'])==(20,base_width)], name)

EQUAL_COST = ['dense','plan','dense, seconds of the plan','plan, equal seconds','uniform']

def size_of(r): return tuple(r['config'][k] for k in ('net','width','bs'))

def of_size():
    "(network, base width, batch) of the runs at equal cost -> its times of steps"
    def times_of(net, width, bs):
        gpu = bs>128 # the settings for a GPU
        like = f'ResNet-{net}, batch {bs}' if gpu else f'ResNet-{net}, base {width}'
        return step_times(like, 'bf16 channels_last', gpu)
    return {size:times_of(*size) for size in map(size_of, WIDTH_AT_COST)}

WIDTH_AT_COST = [r for r in WIDTH if r['name'] in EQUAL_COST]

@page.place
def widths():
    "A table per network"
    text = []
    for (net,width,bs),times_of in of_size().items():
        body = compare([r for r in WIDTH_AT_COST if size_of(r)==(net,width,bs)], EQUAL_COST, times_of)
        text += [f"**ResNet-{net}, base width {width}{', on a GPU' if bs>128 else ''}**", '', body, '']
    return '\n'.join(text)

@page.place
def rate_search():
    found = {r['config']['lr']:r['valid'] for r in WIDTH if r['name']=='lr'}
    return ', '.join(f'{lr:g}: {valid:.2f}' for lr,valid in sorted(found.items()))

def choice_of(c):
    "What a run of the small ResNet tries"
    if c['plan'] is None: return 'dense'
    (start,_),(_,until) = c['plan']
    name = c['init']
    if not c['carry']: name += ', state forgotten'
    if c.get('adapt'): name += ', rates adapted'
    if c['plan']!=PLAN: name += f', {start:g} of the width for {until:.0%}'
    return name

CHOICES = [dict(r, name=choice_of(r['config'])) for r in WIDTH if r['config']['net']==8 and r['name']!='lr']

def names_of(rs): return [*dict.fromkeys(r['name'] for r in rs)]
def names_of_choices(): return sorted(names_of(CHOICES), key=lambda n: (n!='dense', n!='orthogonal', 'for' in n))

@page.place
def inits(): return compare(CHOICES, names_of_choices(), RESNET8)

@page.place
def depth_setting():
    c = DEPTH[0]['config']
    return f"{c['depth']} blocks of width {c['dim']}, {c['patch']} pixels a patch, float32, AdamW, {c['epochs']} epochs"

@page.place
def depth(): return compare(DEPTH, names_of(DEPTH), VIT)

@page.place
def segment(): return compare(SEGMENT, names_of(SEGMENT), DEEPLAB)

# What was aimed at

@page.place
def aims():
    dense_32, plan_32 = resnet20(32, 'dense'), resnet20(32, 'plan')
    body = []
    def points(aim, least, runs, dense):
        found = paired(runs, dense, test)
        wanted = f'at least {least:+d} points' if least else 'no loss'
        body.append([aim, wanted, interval(found, count=True), verdict(found, least)])
    points('base width 32, equal epochs: accuracy', 0, plan_32, dense_32)
    faster = ratios(dense_32, plan_32, seconds)
    body.append(['base width 32, equal epochs: time', '1.60x faster', times(faster),
                 'reached, by construction' if median(faster)>=1.6 else 'not reached'])
    points('base width 32, equal seconds', 3, resnet20(32, 'plan, equal seconds'), dense_32)
    points('base width 16, equal seconds', 0, resnet20(16, 'plan, equal seconds'), resnet20(16, 'dense'))
    for what,rs in (('width, ResNets',WIDTH), ('depth, ViT',DEPTH), ('DeepLabV3+',SEGMENT)):
        most = max(share_of_callback(r) for r in rs if r['config']['plan'])
        body.append([f'overhead of the callback, largest: {what}', 'below 2 %', f'{most:.2f} %',
                     'reached' if most<2 else 'not reached'])
    return table(['aim','wanted','found (runs)',''], body)

# How new channels and blocks begin, each beside the default

@page.place
def inits_beside():
    "The other ways for new channels minus orthogonal ones, those with several seeds, best first"
    names = {r['name'] for r in CHOICES if r['config']['plan']==PLAN}-{'orthogonal'}
    found = {name:paired(named(CHOICES, name), named(CHOICES, 'orthogonal'), test) for name in names}
    found = {name:d for name,d in found.items() if len(d)>1}
    return ', '.join(f'{name} {interval(found[name])}' for name in sorted(found, key=lambda n: (-mean(found[n]), n)))

@page.place
def orthogonal_rank():
    "Of `orthogonal` among the inits with several seeds"
    runs = {name:named(CHOICES, name) for name in {r['name'] for r in CHOICES if r['config']['plan']==PLAN}}
    means = {name:mean([test(r) for r in of_name.values()]) for name,of_name in runs.items() if len(of_name)>1}
    return f"{sum(m>=means['orthogonal'] for m in means.values())} of {len(means)}"

def largest_correlation(matrix): return mean([max(abs(v) for v in of_new[:OLD]) for of_new in matrix[OLD:]])

@page.place
def correlation_of_both():
    orthogonal, random = (largest_correlation(FOUND[init]) for init in ('orthogonal','random'))
    return f'{orthogonal:.2f} for orthogonal, {random:.2f} for random'

def depth_beside(name): return interval(paired(named(DEPTH, 'EMA, inserted'), named(DEPTH, name), test))

@page.place
def ema_beside_model(): return depth_beside('model, inserted')

@page.place
def ema_beside_stacked(): return depth_beside('model, stacked (StackBERT)')

@page.place
def five_stages():
    "Times faster of the paper's five stages on its two networks, by the steps measured here"
    nets = ('ResNet-32, base 16','ResNet-56, base 16')
    steps = [r for r in STEPS if r['config']['net'] in nets and not r['config']['gpu']]
    found = [1/pass_time({size:ms for size,ms,_ in r['sizes']}, FIVE) for r in steps]
    return f'{min(found):.2f}x to {max(found):.2f}x'

@page.place
def above_steps():
    "In how many rows the measured gain lies above what steps let expect"
    def at_cost(size): return [r for r in WIDTH_AT_COST if size_of(r)==size]
    resnets = [(at_cost(size), EQUAL_COST, times_of) for size,times_of in of_size().items()]
    others = [(CHOICES, names_of_choices(), RESNET8), (DEPTH, names_of(DEPTH), VIT),
              (SEGMENT, names_of(SEGMENT), DEEPLAB)]
    above = [median(measured)>expected for args in (*resnets, *others) for *_,measured,expected in beside_dense(*args)]
    return f'{sum(above)} of {len(above)}'

# The findings in words

def change_at(base_width, name): return change(paired(resnet20(base_width, name), resnet20(base_width, 'dense'), test))
def faster_at(base_width): return times(ratios(resnet20(base_width, 'dense'), resnet20(base_width, 'plan'), seconds))

@page.place
def epochs_32(): return f'{faster_at(32)} faster and {change_at(32, "plan")}'

@page.place
def epochs_16(): return f'{faster_at(16)} faster and {change_at(16, "plan")}'

@page.place
def seconds_32(): return change_at(32, 'plan, equal seconds')

@page.place
def seconds_16(): return change_at(16, 'plan, equal seconds')

def against_dense(rs, name):
    "The median of times faster, and the change of accuracy"
    runs, dense = named(rs, name), named(rs, 'dense')
    return f'{times(ratios(dense, runs, seconds))} faster and {change(paired(runs, dense, test))}'

@page.place
def depth_found(): return against_dense(DEPTH, 'EMA, inserted')

@page.place
def segment_found(): return against_dense(SEGMENT, 'backbone grown, 2 stages')

# On a GPU

@page.place
def gpu_steps(): return card.sizes_table()

@page.place
def gpu_runs(): return card.growth_tables()

def machines(rs): return ' and '.join(sorted({r['machine'] for r in rs}))

@page.place
def gpu_machine(): return machines(card.ALL)

@page.place
def gpu_found():
    "Of the paper's networks, what their plans allow by steps in bf16, and what was published"
    found = {}
    for r in card.SIZES:
        net, _, fmt, opt = card.described(r)
        if card.published_plans(r) and 'bf16' in fmt and opt=='fastai': found[net] = r
    def one(net, r):
        plans = zip(card.published_plans(r), card.allowed(r))
        return f"{net}: "+' and '.join(f'{x:.2f}x in {stages} ({published:.2f}x)' for (stages,_,published,_),x in plans)
    return '; '.join(one(net, r) for net,r in found.items())

@page.place
def gpu_wide():
    "The network that did not come back from growth"
    dense, grown = card.wide()
    c = dense['config']
    return (f"a {card.title(c)}, {c['epochs']} epochs at a rate of {c['lr']:g}, has {dense['test']:.2f} % when it is "
            f"dense and {grown['test']:.2f} % when it grows, one seed each")

@page.place
def gpu_probes():
    "Why the wide network did not come back: one thing changed at a time"
    ends = {name:f'{found:.2f} %' for name,found in card.probes().items()}
    if not ends: return 'The wide network did not come back from growth, and why is open.'
    return (f"The wide network did not come back from growth. Half as long, it ends at {ends['as it was']}; with "
            f"contiguous weights at {ends['contiguous']}, with the optimizer's state forgotten at "
            f"{ends['state forgotten']}: neither is the reason. At a quarter of the rate it ends at "
            f"{ends['lower rate']}: the rate is, or what it does to the new channels.")

# Long runs on one core, where dense is good

LONG = rows(results/'evidence_growth.jsonl')
LONG_NAMES = ['dense','plan','dense, cost of the plan','plan, equal cost']

@page.place
def long_runs():
    "As far as they are done"
    rs = [r for r in LONG if r['name']!='lr']
    dense = named(rs, 'dense')
    if not dense: return 'The long runs (`make evidence`), where the dense network has 85 %, are not done.'
    most = max(r['config']['epochs'] for r in dense.values())
    start = {k:config_of(dense)[k] for k in ('n_train','lr','schedule','wd')}
    rs = [r for r in rs if r['name'] not in ('dense','plan') or r['config']['epochs']==most]
    names = LONG_NAMES+[n for n in names_of(rs) if n not in LONG_NAMES]
    times_of = step_times('ResNet-20, base 32', 'bf16 channels_last')
    setting = (f"ResNet-20 of base 32, {start['n_train']:,} pictures, batch 128, bf16. The dense network's best of "
               f"what was searched: {start['schedule']}, rate {start['lr']:g}, weight decay {start['wd']:g}.")
    return '\n\n'.join([setting, compare(rs, names, times_of)])

# Cheap runs: a small network, many seeds

SMALL = rows(small.GROWN)
NOT_YET = 'Not run yet: `make evidence` begins with it.'

def of_init(init): return named(SMALL, init)

def beside_default(init): return paired(of_init(init), of_init('orthogonal'), test)

@page.place
def small_inits():
    "Beside the dense network, and beside orthogonal new channels"
    dense = named(SMALL, 'dense')
    if not dense: return NOT_YET
    def line(init):
        runs, beside = of_init(init), beside_default(init) if init!='orthogonal' else []
        says = verdict(beside, yes='above', no='below') if beside else ''
        return [init, len(runs), spread([*map(test, runs.values())], ' (one run)'),
                interval(paired(runs, dense, test), count=True), interval(beside, count=True), says]
    body = [['dense', len(dense), spread([*map(test, dense.values())], ' (one run)'), '', '', '']]
    return table(['','seeds','test','minus dense (seeds)','minus orthogonal (seeds)',''],
                 body+[line(init) for init in small.INITS if of_init(init)])

@page.place
def small_choice():
    "Which init these rows choose"
    found = {init:beside_default(init) for init in small.INITS if init!='orthogonal'}
    found = {init:d for init,d in found.items() if len(d)>1}
    if not found: return 'no init is chosen yet'
    best = max(found, key=lambda init: mean(found[init]))
    if mean(found[best])<=0: return f'orthogonal has the highest mean, before {best}'
    says = {'reached':'is better than'}.get(verdict(found[best]), 'is not shown to be better than')
    difference = f'{interval(found[best])} points, n = {len(found[best])}'
    return f'{best} has the highest mean and {says} orthogonal ({difference})'

def small_table(first, names):
    "Beside the dense network of that name"
    return compare(SMALL, [first, *names], RESNET8) if named(SMALL, first) else NOT_YET

@page.place
def small_options(): return small_table('dense', ['orthogonal', *small.OPTIONS, 'smaller pictures, dense'])

@page.place
def small_flat(): return small_table('flat, dense', ['flat','flat, late doubling'])

@page.place
def small_high():
    grown = [n for n in names_of(SMALL) if n.startswith('high rate') and 'dense' not in n]
    return small_table('high rate, dense', grown)

@page.place
def small_setting():
    c, dense = small.BASE, named(SMALL, 'dense')
    rate = f", rate {config_of(dense)['lr']:g} (searched for the dense network)" if dense else ''
    return (f"ResNet-{c['net']} of base width {c['width']}, {c['n_train']:,} pictures, {c['epochs']} epochs, "
            f"batch {c['bs']}, weight decay {c['wd']:g}{rate}")

@page.place
def high(): return small.HIGH

# Pictures and figure 6

FOUND, OLD = CORRELATION[0]['correlations'], 8 # channels before growth

@page.picture
def correlation():
    import numpy as np
    fig,axs = figure(1, len(FOUND), figsize=(7.5,2.6))
    for ax,(init,matrix) in zip(axs, FOUND.items()):
        image = ax.imshow(np.abs(matrix), vmin=0, vmax=1, cmap='Blues')
        ticks = [0, OLD, len(matrix)-1]
        ax.set(title=init, xticks=ticks, yticks=ticks)
    fig.colorbar(image, ax=axs, label='|correlation|')
    return fig

@page.place
def correlations():
    return table(['new channels','largest correlation of a new map with an old one, its size, mean'],
                 [[init, f'{largest_correlation(matrix):.2f}'] for init,matrix in FOUND.items()])

def plain(c):
    "Dense, or grown once with nothing else changed"
    if c['plan'] is None: return True
    default = c.get('init', 'orthogonal')=='orthogonal' and c.get('carry', True) and not c.get('grow')
    return default and len(c['plan'])==2

@page.picture
def tradeoff():
    "Start against speed-up and accuracy, as tables 4 and 5 of the paper"
    fig,axs = figure(1, 2, figsize=(7.5,2.8))
    for ax,title,rs,times_of in ((axs[0],'width, ResNet-8',CHOICES,RESNET8), (axs[1],'depth, ViT',DEPTH,VIT)):
        rs = [r for r in rs if plain(r['config'])]
        dense = by_seed(rs, lambda r: r['config']['plan'] is None)
        plans = {str(r['config']['plan']):r['config']['plan'] for r in rs}
        for _,plan in sorted(plans.items()):
            runs = by_seed(rs, lambda r: r['config']['plan']==plan and r['config']['seed'] in dense)
            if not runs: continue
            at = 1/pass_time(times_of, plan), mean([test(r) for r in runs.values()])
            ax.plot(*at, 'o' if plan else 'ks')
            label = f'{plan[0][0]:g} for {plan[1][1]:.0%}' if plan else 'dense'
            ax.annotate(label, at, fontsize=8, xytext=(4,3), textcoords='offset points')
        ax.margins(x=.25, y=.15)
        ax.set(title=title, xlabel='times faster, by measured steps', ylabel='test accuracy, %')
    return fig

@page.place
def made_where():
    on_gpu = [*card.SIZES, *card.growth_rows()]
    return made(steps=STEPS, width=WIDTH, depth=DEPTH, segmentation=SEGMENT, correlation=CORRELATION, on_a_GPU=on_gpu,
                long_runs=LONG, many_seeds=SMALL)

if __name__=='__main__': page.write()
