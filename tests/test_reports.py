"The pages under docs/ are what the rows and the templates say, and their statistics are right"
import json, sys
from math import inf
from pathlib import Path
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'benchmarks'))
report = pytest.importorskip('report')
grow_report, shrink_report, onion_report, speed_report, verdicts_report, *_ = reports = [
    pytest.importorskip(f'{name}_report') for name in ('grow','shrink','onion','speed','verdicts','using','trust')]
pages = [module.page for module in reports]

# Statistics

@pytest.mark.parametrize('differences,want', [([1.,2.,3.], 2.484), ([1.,3.], 12.706), ([0.,1.]*10, .240), ([1.], inf)])
def test_interval_is_students(differences, want):
    "By tables: 4.303 for 3 values, 12.706 for 2, 2.093 for 20"
    assert report.half_width(differences)==pytest.approx(want, abs=1e-3)

def run(seed, test, plan=None, **kw):
    return dict(name='grown' if plan else 'dense', config=dict(seed=seed, epochs=2, plan=plan), test=test, overhead=0.,
                seconds=1., cpu_seconds=1., **kw)

def test_growing_has_students_interval():
    "Differences of 1, 2 and 3 points: 2 ± 4.303/sqrt(3)"
    rows = [run(s, 50.) for s in range(3)]+[run(s, 51.+s, plan=[[.5,0.],[1.,.5]]) for s in range(3)]
    assert '| +2.00 ± 2.48 (3) |' in grow_report.compare(rows, ['dense','grown'])

def test_onion_has_students_interval():
    def rows(values): return {s:dict(valid=dict(mean_pareto=v)) for s,v in enumerate(values)}
    found = onion_report.difference(rows([51.,52.,53.]), rows([50.,50.,50.]), onion_report.on_valid)
    assert found=='+2.00 ± 2.48, not shown (n = 3)' # with 1.96 for the quantile it would be ± 1.13

@pytest.mark.parametrize('d,want', [([1.,1.1,.9],'reached'), ([-1.,-1.1,-.9],'not reached'), ([1.,-1.,.5],'not shown'),
                                    ([1.],'one run')])
def test_verdict(d, want): assert report.verdict(d)==want

def test_verdict_against_a_bound():
    assert report.verdict([3.,3.1,2.9], 2.)=='reached' and report.verdict([3.,3.1,2.9], 4.)=='not reached'
    assert report.verdict([1.,1.05,.95], 1.03, below=True)=='not shown'
    assert report.verdict([.9,.91,.89], 1.03, below=True)=='reached'
    assert report.verdict([1.2,1.21,1.19], 1.03, below=True)=='not reached'

def test_runs_are_paired_by_seed():
    "Other seeds and missing values are left out"
    runs, others = {0:1., 1:2., 2:None, 3:9.}, {2:1., 1:.5, 0:.5, 4:7.}
    assert report.paired(runs, others, lambda v: v)==[.5,1.5]
    assert report.ratios({0:2., 3:1.}, others, lambda v: v)==[4.]

def test_median_has_the_interval_of_order_statistics():
    "Of 30 values from the 10th to the 21st, of 6 or fewer their range"
    assert report.median_interval([*range(30,0,-1)])==(15.5, 10, 21)
    assert report.median_interval([3,1,2])==(2, 1, 3)

def test_text_of_differences():
    assert report.interval([-6.16])=='-6.16 (one run)' and report.interval([])==''
    assert report.interval([1.,2.,3.], count=True)=='+2.00 ± 2.48 (3)'
    assert report.change([-2.,-2.1,-1.9])=='loses 2.00 ± 0.25 points'
    assert report.change([2.,2.1,1.9])=='gains 2.00 ± 0.25 points'

# Pages

@pytest.mark.parametrize('page', pages, ids=[p.name for p in pages])
def test_page_is_made_from_rows(page):
    assert page.path.read_text(encoding='utf-8')==page.render(), f'python benchmarks/{page.name}_report.py'

@pytest.mark.parametrize('page', pages, ids=[p.name for p in pages])
def test_pictures_of_a_page_are_there(page):
    for draw in page.pictures:
        name = f'{page.name}_{draw.__name__}.png'
        assert f']({name})' in page.template.read_text(encoding='utf-8') and (page.path.parent/name).exists()

@pytest.fixture
def page(tmp_path):
    "A page with two functions, and a way to give it a template"
    page = report.Page('x')
    page.template = tmp_path/'x.md'
    @page.place
    def one(): return 1
    @page.place
    def two(): return 'zwei'
    return page

def test_places_are_filled(page):
    page.template.write_text('{{one}}, {{two}}, {{one}}\n')
    assert page.render()=='1, zwei, 1\n'

@pytest.mark.parametrize('template,message', [
    ('{{one}} {{two}} {{three}}', r"x.md: nothing fills \['three'\]"),
    ('{{one}} {{ two }}', r"nothing fills \[' two '\]"),
    ('{{one}}', r"x.md: no place for \['two'\]"),
])
def test_places_and_functions_belong_together(page, template, message):
    page.template.write_text(template)
    with pytest.raises(ValueError, match=message): page.render()

def test_a_place_has_one_function(page):
    with pytest.raises(ValueError, match='two functions for {{one}}'):
        @page.place
        def one(): return 2

def test_a_cell_does_not_split():
    with pytest.raises(ValueError, match='the sign between cells'): report.table(['','|r|'], [])

# README

readme = pytest.importorskip('readme_report')

def test_results_of_readme_are_made_from_rows():
    "The notebook that README is made from has what the rows say today"
    text = ''.join(next(c for c in json.loads(readme.path.read_text(encoding='utf-8'))['cells']
                        if readme.BEGIN in ''.join(c['source']))['source'])
    assert text==readme.with_results(text), 'python benchmarks/readme_report.py'

def test_results_stand_between_marks():
    with pytest.raises(ValueError, match='results stand between one'): readme.with_results('no marks')

def test_differences_in_words():
    assert readme.says([1.,1.1,.9])==('+1.00 ± 0.25 points: better', 3)
    assert readme.says([-1.,-1.1,-.9])[0]=='-1.00 ± 0.25 points: worse'
    assert readme.says([1.,-1.,.5])[0].endswith('no difference shown')
    assert readme.says([1.])==('+1.00 (one run) points', 1)

def test_pictures_of_readme_are_there():
    text = readme.path.read_text(encoding='utf-8')
    assert [p.__name__ for p in readme.pictures if f'](images/{p.__name__}.png)' not in text]==[]
    assert all((readme.images/f'{p.__name__}.png').exists() for p in readme.pictures)
