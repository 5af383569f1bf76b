"The function behind the widget of `52_inside_the_onion` trains what its menus say, whatever is chosen together"

import json
from functools import partial
from itertools import combinations
from pathlib import Path
import matplotlib, pytest

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from elastic_nets.zoo.data import digits_dls
from elastic_nets.shrink.methods import us_net

@pytest.fixture(scope='module')
def tut():
    "What the lesson's cells define down to the widget, with trainings of one epoch and two widths evaluated"
    nb = json.loads((Path(__file__).parent.parent / 'nbs/look/52_inside_the_onion.ipynb').read_text(encoding='utf-8'))
    ns = {}
    for src in (''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code'):
        exec(src, ns)
        if 'def show(' in src:
            break
    ns['dls'], ns['train'], ns['WIDTHS'] = digits_dls(bs=256, device='cpu'), partial(ns['train'], epochs=1), (0.25, 1.0)
    plt.rcdefaults()  # the tutorial's resolution is its own
    return ns

def firsts(tut):
    return {f: [*vs][0] for f, vs in tut['CHOICES'].items()}

def test_first_is_us_net(tut):
    assert tut['recipe']() == us_net(levels=10)

def test_every_value_counts(tut):
    "Each value of each field makes a recipe of its own, and trains other weights than all others"
    went = {'first': tut['result'](**firsts(tut), seed=0)[1]}
    for f, vs in tut['CHOICES'].items():
        for n, v in [*vs.items()][1:]:
            assert getattr(tut['recipe'](**{f: n}), f) == v
            acc, went[n] = tut['result'](**firsts(tut) | {f: n}, seed=0)
            assert [*acc] == [0.25, 1.0] and all(0 <= a <= 1 for a in acc.values()), n
    alike = {
        'four widths only',
        'four widths, private statistics',
    }  # they differ in the statistics that evaluation uses
    for (a, p), (b, q) in combinations(went.items(), 2):
        assert ((p - q).abs().max() > 1e-5) == ({a, b} != alike), (a, b)

def test_every_pair(tut, capsys):
    "A pair of values trains, or is one of those that cannot be, and `show` says why"
    impossible = {
        frozenset(p)
        for p in [
            ('from the next larger', 'small first'),
            *(
                (g, u)
                for g in ('mean by usage', 'conflicts projected', 'core protected', 'skins protected')
                for u in ('large first', 'small first')
            ),
        ]
    }
    for f, g in combinations(tut['CHOICES'], 2):
        for a in tut['CHOICES'][f]:
            for b in tut['CHOICES'][g]:
                pair = {f: a, g: b}
                if frozenset((a, b)) in impossible:
                    capsys.readouterr()
                    assert tut['show'](**pair) is None
                    assert capsys.readouterr().out.startswith('gradient: '), pair
                else:
                    acc, moved = tut['result'](**firsts(tut) | pair, seed=0)
                    assert all(0 <= v <= 1 for v in acc.values()) and moved.isfinite().all() and moved.max() > 0, pair

def test_show(tut):
    "What is drawn and returned is the training of what was chosen, in front of US-Net's"
    plt.close('all')
    choice = dict(construct='2 networks', gradient='hard labels', schedule='outside in')
    got = tut['show'](**choice, seed=3)
    acc, moved = tut['train'](tut['recipe'](**choice), seed=3)
    base, _ = tut['train'](us_net(levels=10), seed=3)
    left, right = plt.gcf().axes[:2]
    assert got == acc and got != base
    assert [[*l.get_ydata()] for l in left.lines] == [[*base.values()], [*acc.values()]]
    assert (right.images[0].get_array() == moved.numpy()).all()
    plt.close('all')
