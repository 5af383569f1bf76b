"""Results and pictures of nbs/index.ipynb, which README.md is made from, by the rows of results

python benchmarks/readme_report.py
"""
import json, re
import grow_report, onion_report, shrink_report, verdicts_report
from common import root
from report import interval, mean, paired, ratios, table, times, verdict

path, images = root/'nbs/index.ipynb', root/'nbs/images'
BEGIN, END = '<!-- results: python benchmarks/readme_report.py -->\n', '\n<!-- end of results -->'

# The table

def says(differences, unit=' points'):
    "A difference between runs of the same seed, and whether it is shown"
    shown = {'not shown':'no difference shown', 'reached':'better', 'not reached':'worse'}.get(verdict(differences), '')
    return f'{interval(differences)}{unit}'+(f': {shown}' if shown else ''), len(differences)

def grown(what, runs, dense):
    faster = times(ratios(dense, runs, grow_report.seconds))
    return [what, f'{faster} faster', *says(paired(runs, dense, grow_report.test))]

def growing():
    "Grown networks beside dense ones"
    dense = grow_report.resnet20(32, 'dense')
    yield grown('ResNet-20, grown in width, equal epochs', grow_report.resnet20(32, 'plan'), dense)
    longer = grow_report.resnet20(32, 'plan, equal seconds')
    yield ['the same, more epochs in the same time', '', *says(paired(longer, dense, grow_report.test))]
    for what,rs,name in (('small ViT, grown in depth', grow_report.DEPTH, 'EMA, inserted'),
                         ('DeepLabV3+, its backbone grown, generated shapes', grow_report.SEGMENT,
                          'backbone grown, 2 stages')):
        yield grown(what, grow_report.named(rs, name), grow_report.named(rs, 'dense'))

def shrinking():
    "Delayed shrinking beside other ways to a family"
    mine = shrink_report.MINE
    for other in ('bignas','progressive_shrinking'):
        runs = shrink_report.runs_of(other)
        cheaper = times(ratios(runs, mine, shrink_report.spent))
        yield [f'a family by delayed shrinking, beside {shrink_report.NAMES[other]}', f'{cheaper} cheaper',
               *says(paired(mine, runs, shrink_report.test))]
    for end,value in (('largest', shrink_report.largest), ('smallest', shrink_report.smallest)):
        alone = shrink_report.runs_of('full' if end=='largest' else end)
        yield [f'its {end} network, beside the same one trained alone', '',
               *says(paired(mine, alone, value, shrink_report.test))]

def onions():
    "The best recipe of the screen, beside US-Net and beside networks trained alone"
    mine, us_net = (onion_report.runs_of('confirm', 'vgg', recipe) for recipe in (onion_report.BEST, 'us_net'))
    yield ['a VGG of four widths by `onion()`, beside US-Net', '', *says(paired(mine, us_net, onion_report.on_test))]
    for w in ('0.25','1.0'):
        alone = onion_report.runs_alone('vgg')[w]
        yield [f'its width {w}, beside the same one trained alone', '',
               *says(paired(mine, alone, onion_report.at_width(w)))]

def results():
    "The table, and what the page of verdicts comes to"
    body = [[what, cost, found, n] for what,cost,found,n in [*growing(), *shrinking(), *onions()]]
    claims = f'Of {verdicts_report.n_claims()} claims of the papers here: {verdicts_report.counts()}.'
    return f"{table(['','time','accuracy','seeds'], body, left=3)}\n\n{claims}"

def with_results(text):
    "`text` with the results of today between its marks"
    if text.count(BEGIN)!=1 or text.count(END)!=1:
        raise ValueError(f'{path.name}: results stand between one {BEGIN.strip()} and one {END.strip()}')
    return re.sub(f'{re.escape(BEGIN)}.*{re.escape(END)}', lambda _: BEGIN+results()+END, text, flags=re.S)

def write():
    nb = json.loads(path.read_text(encoding='utf-8'))
    cell = next(c for c in nb['cells'] if BEGIN in ''.join(c['source']))
    cell['source'] = with_results(''.join(cell['source'])).splitlines(keepends=True)
    path.write_text(json.dumps(nb, ensure_ascii=False, indent=1)+'\n', encoding='utf-8')

# Pictures

def onion():
    "A weight with four networks inside, and the same weight in four stages of growth"
    from elastic_nets.look.plots import plot_onion
    import matplotlib.pyplot as plt
    sizes = [4,8,12,16]
    fig,axs = plt.subplots(1, 6, figsize=(7,1.7), width_ratios=(1,.15,1,1,1,1))
    plot_onion((16,16), sizes, legend=False, title='shrink: all at once', ax=axs[0])
    axs[1].axis('off')
    for i,ax in enumerate(axs[2:]):
        plot_onion((16,16), sizes, legend=False, title='' if i else 'grow: the core first', ax=ax)
        for patch,n in zip(ax.patches, reversed(sizes)): patch.set_visible(n<=sizes[i])
        ax.set(xlabel='then a skin' if i else '', ylabel='', xticks=[0,sizes[i]], yticks=[])
    return fig

def macs_of_widths():
    "MACs of the four widths of the VGG of these runs"
    import torch
    from elastic_nets.all import Supernet
    from onion import FOUR, NETS
    sn = Supernet(NETS['vgg'](), torch.randn(2,3,32,32), widths=FOUR)
    return {str(w):sn.macs(sn.space.uniform(w)) for w in FOUR}

def front():
    "One VGG of four widths beside four that were trained alone, on test"
    import pandas as pd
    from elastic_nets.all import plot_pareto
    import matplotlib.pyplot as plt
    macs, alone = macs_of_widths(), onion_report.runs_alone('vgg')
    def of(runs, w): return mean([onion_report.at_width(w)(r) for r in runs.values()])
    def frame(of_width): return pd.DataFrame({'macs':macs.values(), 'test accuracy, %':map(of_width, macs)})
    mine, us_net = (onion_report.runs_of('confirm', 'vgg', recipe) for recipe in (onion_report.BEST, 'us_net'))
    tables = {'a family by onion(), one fit': frame(lambda w: of(mine, w)),
              'each width alone, four fits': frame(lambda w: of(alone[w], w)),
              'a family by US-Net, one fit': frame(lambda w: of(us_net, w))}
    fig,ax = plt.subplots(figsize=(5,2.4))
    plot_pareto(tables, ax=ax)
    ax.set(ylim=(20,None), title='VGG of four widths, CIFAR-10, short runs, mean of 5 seeds')
    ax.legend(loc='lower right', frameon=False)
    return fig

pictures = onion, front

def draw():
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    plt.style.use('elastic_nets.look.onion')
    images.mkdir(exist_ok=True)
    for picture in pictures:
        picture().savefig(images/f'{picture.__name__}.png', dpi=110, metadata=dict(Software=None))

if __name__=='__main__':
    write()
    draw()
