"""docs/using.md from the rows of evaluate_speed, search, latency, switch, onnx_files and eight_bits in results/,
and the template pages/using.md

python benchmarks/using_report.py
"""
import json
from collections import defaultdict
import eight_bits, evaluate_speed, latency, onnx_files, search
from common import results, rows
from report import Page, figure, made, mean, spread, table, verdict

page = Page('using')
EVALUATED, SEARCHED, TIMED, FILES, BITS = [rows(module.path) for module in
    (evaluate_speed, search, latency, onnx_files, eight_bits)]
BITS_MS = {r['config']['data']:r for r in rows(eight_bits.times)}
SWITCHED = json.loads((results/'switch.json').read_text())
OTHERS = dict(chance='chance', limit='chance near the limit') # what a search has to beat
ERROR, RANK, TWICE, LOST = 5, .95, 2, .5 # targets: % of error, rank correlation, times as fast, points lost

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
            for other,words in OTHERS.items():
                seeds = sorted({*methods[other]} & {*methods[method]})
                gains = [methods[other][s]['better']-methods[method][s]['better'] for s in seeds]
                if gains: says.append([space, n, metric, macs, method, words, f'{mean(gains):+.2f}', len(gains),
                                       verdict(gains, yes='shown', no='worse')])
    head = ['space','evaluations','metric','MACs','is','better than','points of *better*','seeds','verdict']
    return table(head, says, left=6)

@page.place
def compofa_says():
    near = [r for r in SEARCHED if r['config']['space']=='compofa' and r['config']['metric']=='accuracy']
    if not near: return "Within .2 points of the best of CompOFA's 243 networks after 64 evaluations: not measured yet."
    def count(method):
        gaps = [r['best']-r['found'] for r in near if r['config']['method']==method]
        return f'{sum(g<=.2 for g in gaps)} of {len(gaps)} by {method} (at most {max(gaps, default=0):.2f} points)'
    return ("Within .2 points of the best of CompOFA's 243 networks after 64 evaluations: "
            f"{', '.join(map(count, ('tpe','predictor')))}; and {count('chance')}.")

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
def switches():
    def line(name, r): return [name, f"{r['switch']:.1f}", f"{r['shared']:.0f}", f'{100*r["share"]:.2f}']
    lines = [line(name, r) for name,r in SWITCHED['microseconds'].items()]
    return table(['network, its smallest subnet','switch, µs','forward, µs','switch, % of it'], lines)

@page.place
def switch_says():
    worst, most = max(r['share'] for r in SWITCHED['microseconds'].values()), 1
    about = SWITCHED['about']
    return (f"Target: at most {most} %: {'kept' if 100*worst<=most else 'missed'} (commit {about['commit']}, "
            f"{about['processor']}, torch {about['torch']}, threads: {about['threads']}).")

@page.place
def onnx_says():
    good, bad = [[r for r in FILES if ('refused' in r)==is_bad] for is_bad in (False, True)]
    if not FILES: return 'Not measured yet.'
    n, worst = sum(2+r['config']['random'] for r in good), max((r['difference'] for r in good), default=0)
    todo = len(onnx_files.models())-len(FILES)
    waiting = f' (and {todo} not tried yet)' if todo else ''
    return (f"{len(good)} of {len(FILES)} models{waiting}: {n} files, the largest difference is {worst:.1e} of the "
            f"largest answer (allowed: {onnx_files.TOL:.0e})."+(' The others are refused, by name.' if bad else ''))

@page.place
def onnx_table():
    def line(r):
        if 'refused' in r: return [r['config']['model'], '', '', '', r['refused'].replace('|', '/')]
        return [r['config']['model'], f"{r['difference']:.1e}", f"{r['bytes_largest']/1e6:.2f}",
                f"{r['bytes_smallest']/1e6:.2f}", '']
    return table(['model','difference','MB, largest','MB, smallest','refused'], map(line, FILES))

@page.place
def eight_bits_table():
    lines = []
    for r in BITS:
        for which in ('full', 'half'):
            f, ms = r[which], BITS_MS.get(r['config']['data'], {}).get(which)
            lines.append([r['config']['data'], which, r['config']['seed'], f['pictures'], f"{f['macs']/1e6:.2f}",
                f"{f['before']:.2f}", f"{f['after']:.2f}", f"{f['before']-f['after']:+.2f}",
                f"{f['bytes_before']/1e3:.0f}", f"{f['bytes']/1e3:.0f}",
                f"{ms['before']:.2f} to {ms['after']:.2f}" if ms else ''])
    return table(['data','network','seed','pictures','M MACs','accuracy','8 bits','lost','kB','8 bits, kB',
                  'ms of a picture'], lines, left=3)

@page.place
def eight_bits_says():
    if not BITS: return 'Not measured yet.'
    lost = [r[which]['before']-r[which]['after'] for r in BITS for which in ('full','half')]
    kept = sum(l<=LOST for l in lost)
    ms = '' if BITS_MS else ' Milliseconds wait for an idle machine.'
    return f'At most {LOST} points lost: {kept} of {len(lost)} networks; at most {max(lost):.2f} points.{ms}'

@page.place
def where(): return made(comparing=EVALUATED, finding=SEARCHED, milliseconds=TIMED, ONNX=FILES, eight_bits=BITS,
                         eight_bits_ms=[*BITS_MS.values()])

if __name__ == '__main__': page.write()
