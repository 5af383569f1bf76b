"""docs/using.md from results/evaluate_speed.jsonl, search.jsonl and latency.jsonl, and the template pages/using.md

python benchmarks/using_report.py
"""
from collections import defaultdict
import evaluate_speed, latency, search
from common import rows
from report import Page, figure, made, mean, spread, table, verdict

page = Page('using')
EVALUATED, SEARCHED, TIMED = [rows(module.path) for module in (evaluate_speed, search, latency)]
ERROR, RANK, TWICE = 5, .95, 2 # targets: % of error, rank correlation, times as fast

@page.place
def evaluation():
    def line(r):
        what = 'decoded from PNG, 128 pixels' if r['config']['decode'] else 'tensors in memory'
        return [what, r['config']['n'], r['one_by_one'], r['together'], f"{r['ratio']:.1f}x"]
    return table(['pictures','subnets','one by one, s','together, s','faster'], map(line, EVALUATED))

@page.place
def together():
    if not EVALUATED: return 'Not measured yet.'
    ratios = [r['ratio'] for r in EVALUATED]
    kept = 'kept' if min(ratios)>=TWICE else 'kept where pictures are decoded' if max(ratios)>=TWICE else 'missed'
    return (f'`evaluate_subnets` reads data once for all subnets: {min(ratios):.1f} to {max(ratios):.1f} times as fast '
            f'as one by one (target {TWICE}: {kept}).')

def cells():
    "(space, n, metric, budget) -> method -> seed -> row"
    found = defaultdict(lambda: defaultdict(dict))
    for r in SEARCHED:
        c = r['config']
        found[c['space'], c['n'], c['metric'], c['macs'] or 'none'][c['method']][c['seed']] = r
    return found

@page.place
def searches():
    lines = []
    for (space,n,metric,macs),methods in cells().items():
        for method,runs in methods.items():
            rs = [*runs.values()]
            lines.append([space, metric, n, macs, method, len(rs), rs[0]['subnets'], f"{rs[0]['best']:.3f}",
                          f"{mean([r['found'] for r in rs]):.3f}", spread([r['better'] for r in rs])])
    head = ['space','metric','evaluations','MACs','method','seeds','subnets','best there is','found','better, %']
    return table(head, lines, left=5)

@page.place
def search_says():
    says = []
    for (space,n,metric,macs),methods in cells().items():
        for method in ('tpe', 'predictor'):
            seeds = {*methods['chance']} & {*methods[method]}
            gains = [methods['chance'][s]['better']-methods[method][s]['better'] for s in sorted(seeds)]
            if gains: says.append(f"- {space}, {n} evaluations, MACs {macs}: that {method} is better than chance: "
                                  f"{verdict(gains, yes='shown', no='worse')} ({mean(gains):+.2f} points of *better*).")
    near = [r['best']-r['found'] for r in SEARCHED if r['config']['space']=='compofa'
            and r['config']['metric']=='accuracy' and r['config']['method']!='chance']
    good = sum(g<=.2 for g in near)
    what = f'{good} of {len(near)} searches' if near else 'not measured yet'
    says.append(f"- Within .2 points of the best of CompOFA's 243 networks after 64 evaluations: {what}.")
    return '\n'.join(says)

@page.place
def latencies():
    def line(r):
        c = r['config']
        return [c['space'], c['device'], c['batch'], f"{min(r['measured']):.1f} to {max(r['measured']):.1f}",
                f"{r['error']:.1f}", f"{r['rank']:.3f}", f"{r['seconds']:.0f}", f"{r['load']:.0f}"]
    head = ['space','device','batch','ms','median error, %','rank correlation','seconds for the table','load']
    return table(head, map(line, TIMED), left=2)

@page.place
def latency_says():
    if not TIMED: return 'Not measured yet.'
    good = [r for r in TIMED if r['error']<=ERROR and r['rank']>=RANK]
    return (f'Target: median error of at most {ERROR} % and a rank correlation of at least {RANK}; reached in '
            f'{len(good)} of {len(TIMED)} tables.')

@page.picture
def milliseconds():
    fig, axs = figure(1, 3, figsize=(9,3))
    for ax,r in zip(axs, TIMED):
        top = 1.05*max(r['measured']+r['predicted'])
        ax.plot(r['measured'], r['predicted'], 'o', ms=4)
        ax.plot([0,top], [0,top], color='grey', lw=.5)
        ax.set(title=r['config']['space'], xlabel='measured ms', ylabel='predicted ms', xlim=(0,top), ylim=(0,top))
    return fig

@page.place
def where(): return made(comparing=EVALUATED, finding=SEARCHED, milliseconds=TIMED)

if __name__ == '__main__': page.write()
