"What is wrong is said where it is wrong: the argument, what was given, what would be allowed"
import importlib, re
from pathlib import Path
import pytest

folder = Path(__file__).parent/'errors'
tables = {p.stem: importlib.import_module(f'errors.{p.stem}').ERRORS for p in sorted(folder.glob('[!_]*.py'))}
rows = [pytest.param(*row[:3], row[3:], id=f'{name}: {row[0]}') for name,table in tables.items() for row in table]

@pytest.mark.parametrize('label, call, message, exception', rows)
def test_error(label, call, message, exception):
    "`message` is a part of what is said, or a regular expression; a row may name its exception"
    with pytest.raises(exception or (ValueError, TypeError)) as e: call()
    said = str(e.value)
    assert message in said or re.search(message, said), f'{label}: {said!r} does not say {message!r}'

def test_there_are_many(): assert len(rows)>=500

@pytest.mark.parametrize('name', tables)
def test_labels_differ(name):
    labels = [row[0] for row in tables[name]]
    assert {l for l in labels if labels.count(l)>1} == set()
