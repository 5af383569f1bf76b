"Ten questions of the course, each with a pointer to a cell that is there and shows something"
import json, re
import pytest
from notebooks import root

page = root/'nbs'/'course'/'questions.ipynb'

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def heading(cell): return re.findall(r'^#+ (.+)$', source(cell), re.M) if cell['cell_type']=='markdown' else []

def questions(): return [source(c) for c in cells(page) if re.match(r'## \d+\. ', source(c))]

def pointers(text):
    "(name, path, heading) of what a question points at"
    found = re.findall(r'\[(\w+)\]\((\S+\.ipynb)\), \*(.+?)\*', text)
    more = [(*found[-1][:2], h) for h in re.findall(r'; then \*(.+?)\*', text)] if found else []
    return found+more

def shown_below(path, title):
    "Cells with an output between the heading `title` and the next heading; None where it is not there"
    here, found = None, 0
    for c in cells(path):
        titles = heading(c)
        if titles: here = True if title in titles else here and False
        if here and c.get('outputs'): found += 1
    return None if here is None else found

def lost(name, link, title):
    "What is wrong with a pointer"
    path = (page.parent/link).resolve()
    if not path.exists(): return f'{link} is not there'
    if path.stem!=name: return f'{name} is the name of {path.stem}'
    shown = shown_below(path, title)
    if shown is None: return f'{name} has no heading {title!r}'
    if not shown: return f'below {title!r} of {name} no cell shows anything'

def test_there_are_ten(): assert [int(re.match(r'## (\d+)', q)[1]) for q in questions()]==[*range(1, 11)]

@pytest.mark.parametrize('question', questions(), ids=lambda q: re.match(r'## (\d+)', q)[1])
def test_a_question_points_at_a_cell(question):
    assert question.splitlines()[0].endswith(('?', '.')) and '**See** ' in question
    found = pointers(question)
    assert found and [l for p in found if (l := lost(*p))]==[]

@pytest.mark.parametrize('pointer,why', [
    (('10_three_ways','10_no_way.ipynb','Both: the seeded onion'), 'is not there'),
    (('three_ways','10_three_ways.ipynb','Both: the seeded onion'), 'is the name of'),
    (('10_three_ways','10_three_ways.ipynb','Both'), 'no heading'),
    (('questions','questions.ipynb','Ten questions'), 'no cell shows')])
def test_a_lost_pointer_is_found(pointer, why): assert why in lost(*pointer)
