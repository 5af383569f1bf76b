"docs/trust.md says what the tests hold: its numbers are counted from their tables, and rows are left only when asked"
import json, sys
from pathlib import Path
import pytest
import noted
from test_errors import rows, tables

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
common, report = pytest.importorskip('common'), pytest.importorskip('trust_report')
PAGE = (root/'docs/trust.md').read_text(encoding='utf-8')

def test_bad_calls_are_counted_from_the_tables():
    assert f'{len(rows)} bad calls' in PAGE and f'| **all** | {len(rows)} |' in PAGE
    assert [*map(len, report.TABLES.values())]==[*map(len, tables.values())]

def test_kills_are_those_that_were_asked_for():
    "20 of each kind, and of the kinds that the harness has"
    from faults.fits import FITS
    assert {r['kind'] for r in report.KILLS}=={*FITS} and all(r['kills']>=20 for r in report.KILLS)
    assert all(0<r['while_writing']<r['kills'] for r in report.KILLS)

@pytest.fixture
def left(tmp_path, monkeypatch):
    "Rows that were left"
    monkeypatch.setattr(common, 'results', tmp_path)
    path = tmp_path/'trust.jsonl'
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

def test_a_row_is_left_when_it_is_asked_for(left, monkeypatch):
    monkeypatch.delenv('TRUST', raising=False)
    noted.note('steps', kind='a')
    assert left()==[]
    monkeypatch.setenv('TRUST', 'write')
    noted.note('steps', kind='a')
    assert [(r['what'],r['kind']) for r in left()]==[('steps','a')]
    assert {'torch','fastai','python','machine','commit','date'}<={*left()[0]}

def test_a_part_of_the_suite_says_nothing_of_the_whole(left, monkeypatch):
    monkeypatch.setenv('TRUST', 'write')
    noted.note_suite(dict(passed=[1]*999))
    assert left()==[]
    noted.note_suite(dict(passed=[1]*1998, failed=[1], skipped=[1]*3))
    assert [(r['passed'],r['failed'],r['error'],r['skipped']) for r in left()]==[(1998,1,0,3)]

def test_the_newest_row_of_each_kind_counts(monkeypatch):
    monkeypatch.setattr(report, 'NOTED', [dict(what='kills', kind=k, kills=n) for k,n in (('a',1), ('b',2), ('a',3))])
    assert [(r['kind'],r['kills']) for r in report.newest('kills','kind')]==[('a',3), ('b',2)]
