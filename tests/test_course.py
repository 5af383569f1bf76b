"The chapters of the course have one form, and what the library offers is seen at work somewhere"
import ast, functools, re
import pytest
import elastic_nets.all as elastic
from notebooks import Notebook, nothing, notebooks, parsed

LINES = 40 # Of the outputs of a cell
REPR = 200 # Characters of an object that shows itself as Python writes it
SOLUTION = '#| code-fold: true\n# Solution of exercise {}\n'

chapters = [nb for nb in notebooks if re.match(r'course/\d\d_', nb.name)]
each_chapter = pytest.mark.parametrize('nb', chapters, ids=repr)

def source(cell): return ''.join(cell['source'])
def is_code(cell): return cell['cell_type']=='code'
def is_text(cell): return cell['cell_type']=='markdown'
def links(text): return re.findall(r'\]\(([^)#\s]+)[^)]*\)', text)

def places(nb, start):
    "Numbers of the markdown cells that begin with `start`"
    return [i for i,c in enumerate(nb.cells) if is_text(c) and source(c).startswith(start)]

def has_picture(cell):
    if is_text(cell): return bool(re.search(r'!\[.*?\]\(|<img|<svg', source(cell)))
    return any(k.startswith('image') for o in cell.get('outputs', []) for k in o.get('data', {}))

def first(found): return next(iter(found), None)

# ---- its form

def without_promise(text):
    "What the first cell of a chapter lacks"
    if not re.match(r'# \S.*\n\n> \S', text): return 'it begins with `# Title` and `> promise`'
    points = re.findall(r'^- ', text.partition('**You will be able to**')[2], re.M)
    if not 2<=len(points)<=4: return f'"You will be able to" has two to four points, here {len(points)}'

def without_next(nb):
    "What the last cell lacks"
    last = nb.cells[-1]
    if not is_text(last) or '**What to read next**' not in source(last): return 'it is markdown with What to read next'
    there = links(source(last).partition('**What to read next**')[2])
    if not 1<=len(there)<=3: return f'it has one to three links, here {len(there)}'

def without_prediction(nb):
    "Why no prediction counts: it stands before an output, and is answered after it"
    asked = places(nb, '**What do you expect?**')
    if not asked: return 'no cell begins with **What do you expect?**'
    for i in asked:
        if not is_code(cell := nb.cells[i+1]) or not cell['outputs']: return f'cell {i+1} shows nothing to predict'
        if not any(map(is_text, nb.cells[i+2:])): return f'nothing answers cell {i}'

def without_solution(nb, n):
    "What exercise `n` lacks: a solution right below it that is folded away, runs in the tests and shows its result"
    asked = places(nb, f'**Exercise {n}.**')
    if len(asked)!=1: return f'{len(asked)} cells begin with **Exercise {n}.**'
    cell = nb.cells[asked[0]+1]
    if not is_code(cell) or not source(cell).startswith(SOLUTION.format(n)): return 'a folded solution stands below it'
    others = source(cell).partition('\n')[2]
    if re.search(r'^#\|', others, re.M): return 'its solution runs in the tests like every cell'
    shows = isinstance(parsed(source(cell)).body[-1], (ast.Assert, ast.Expr)) or cell['outputs']
    if not shows: return 'its solution ends in an assert or something shown'

def without_picture(nb):
    pictures = [i for i,c in enumerate(nb.cells) if has_picture(c)]
    formulas = [i for i,c in enumerate(nb.cells) if is_text(c) and '$$' in source(c)]
    if not pictures: return 'it has no picture'
    if formulas and formulas[0]<pictures[0]: return f'cell {formulas[0]} is a formula, the first picture is below it'

@each_chapter
def test_chapter_promises(nb): assert without_promise(source(nb.cells[0])) is None

@each_chapter
def test_chapter_has_a_picture_before_the_first_formula(nb): assert without_picture(nb) is None

@each_chapter
def test_chapter_lets_predict(nb): assert without_prediction(nb) is None

@each_chapter
def test_chapter_has_two_exercises(nb):
    assert [without_solution(nb, n) for n in (1,2)]==[None,None]
    assert len(places(nb, '**Exercise '))==2

@each_chapter
def test_chapter_says_when_it_fails(nb):
    assert any(re.search(r'(\*\*|#+ )When it fails', source(c)) for c in nb.cells if is_text(c))

@each_chapter
def test_chapter_says_what_to_read_next(nb): assert without_next(nb) is None

# ---- chapters and rooms

rooms = [nb for nb in notebooks if nb.path.parent.name not in ('course','nbs')]

def named(text, among): return {nb for nb in among if any(l.endswith(f'/{nb.name}') for l in links(text))}
def head(nb): return next(source(c) for c in nb.cells if is_text(c))

@pytest.mark.parametrize('nb', rooms, ids=repr)
def test_room_says_in_which_chapter_it_is_met(nb): assert named(head(nb), chapters)

@each_chapter
def test_chapter_says_where_it_is_built(nb):
    "In its last cell: by the rooms that name it in their first"
    built = named(source(nb.cells[-1]).partition('**Where it is built')[2].partition('\n\n')[0], rooms)
    want = {room for room in rooms if nb in named(head(room), chapters)}
    nothing(sorted(r.name for r in built^want), 'a room names the chapters that name it')

glossary = first(nb for nb in notebooks if nb.name=='course/glossary.ipynb')

def test_words_are_explained_where_the_glossary_says():
    rows = re.findall(r'^\| \*\*(.+?)\*\* \|.*\| \[.+?\]\((\S+?)\)', '\n'.join(map(source, glossary.cells)), re.M)
    assert len(rows)>50
    def text(link): return ' '.join(source(c) for nb in chapters if nb.path.name==link for c in nb.cells).lower()
    def beginnings(words): return [w.split(' (')[0].lower()[:7].rstrip('e') for w in words.split(', ')]
    lost = [(words, link) for words,link in rows if not any(b in text(link) for b in beginnings(words))]
    nothing(lost, 'the chapter has the word')

def test_chapters_have_the_numbers_1_to_11():
    assert [int(nb.path.name[:2]) for nb in chapters]==[*range(1, 12)]

# ---- its outputs

def texts(cell):
    "What a cell printed or shows as text, an output after the other"
    for o in cell.get('outputs', []): yield ''.join(o.get('text', '') or o.get('data', {}).get('text/plain', ''))

def is_raw(output):
    "An object as Python writes it, without a table or a picture"
    data = output.get('data', {})
    return not data.keys()-{'text/plain'} and bool(re.match(r'<|[\w.]*[\[({]', ''.join(data.get('text/plain', ''))))

def noise(cell):
    "What is wrong with the outputs of a cell"
    if sum(len(t.splitlines()) for t in texts(cell)) > LINES: yield f'more than {LINES} lines'
    if any(re.search(r'\bnan\b', t, re.I) for t in texts(cell)): yield 'nan'
    outputs = cell.get('outputs', [])
    if any('Warning' in t for t in texts(cell)) or any(o.get('name')=='stderr' for o in outputs): yield 'a warning'
    if any(is_raw(o) and len(''.join(o['data']['text/plain']))>REPR for o in outputs if 'data' in o):
        yield f'an object of more than {REPR} characters'

@each_chapter
def test_outputs_of_chapter_can_be_read(nb):
    nothing([f'cell {i}: {n}' for i,c in enumerate(nb.cells) for n in noise(c)], 'outputs say one thing')

# ---- what is offered

@functools.cache
def seen_at_work():
    "Names in the cells of notebooks that run and are seen"
    nodes = [n for nb in notebooks for s in nb.running for n in ast.walk(parsed(s))]
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}

def test_public_names_are_seen_at_work():
    names = {n for n in vars(elastic) if n[0]!='_'}
    nothing(sorted(names-seen_at_work()), 'a notebook shows each public name at work')

# ---- the rules can fail

def text(s): return dict(cell_type='markdown', source=s)
def code(s, *outputs): return dict(cell_type='code', source=s, outputs=[*outputs])
def printed(s, name='stdout'): return dict(output_type='stream', name=name, text=s)
def shown(s, **data): return dict(output_type='execute_result', data={'text/plain': s, **data})

@pytest.fixture
def chapter():
    "A small chapter as it should be, and what to break in it"
    nb = Notebook.__new__(Notebook)
    nb.cells = [text('# Onions\n\n> Cut one.\n\n**You will be able to**\n\n- cut\n- weep'),
                code('draw()', shown('<Figure>', **{'image/png': ''})), text('$$1+1$$'),
                text('**What do you expect?** Two?'), code('1+1', shown('2')), text('Two.'),
                text('**Exercise 1.** Cut.'), code(SOLUTION.format(1)+'cut()'),
                text('**Exercise 2.** Weep.'), code(SOLUTION.format(2)+'x = 1\nassert x'),
                text('**What to read next** [more](02_more.ipynb)')]
    return nb

def test_a_chapter_as_it_should_be(chapter):
    assert without_promise(chapter.cells[0]['source']) is None
    rules = without_picture, without_prediction, without_next
    assert [r(chapter) for r in rules]+[without_solution(chapter, n) for n in (1,2)]==[None]*5

@pytest.mark.parametrize('rule,i,cell', [
    (without_picture, 1, code('draw()')), (without_picture, 0, text('$$1+1$$')),
    (without_prediction, 3, text('Two?')), (without_prediction, 4, code('1+1')),
    (lambda nb: without_solution(nb, 1), 7, code('cut()')),
    (lambda nb: without_solution(nb, 1), 7, code(SOLUTION.format(1)+'#| slow\ncut()')),
    (lambda nb: without_solution(nb, 2), 9, code(SOLUTION.format(2)+'x = 1')),
    (lambda nb: without_solution(nb, 2), 8, text('**Exercise 1.** Again.')),
    (without_next, 10, text('**What to read next** Something.')), (without_next, 10, code('1')),
    (lambda nb: without_promise(nb.cells[0]['source']), 0, text('# Onions\n\n> Cut one.')),
    (lambda nb: without_promise(nb.cells[0]['source']), 0, text('Onions'))])
def test_a_broken_chapter_is_found(chapter, rule, i, cell):
    chapter.cells[i] = cell
    assert isinstance(rule(chapter), str)

@pytest.mark.parametrize('output,found', [
    (printed('line\n'*(LINES+1)), 1), (printed('loss nan'), 1), (shown('0  NaN'), 1), (printed('finance'), 0),
    (printed('x', name='stderr'), 1), (printed('UserWarning: x'), 1), (shown('[' + '1, '*99 + ']'), 1),
    (shown('[1, 2]'), 0), (shown('Net('+'x'*REPR), 1), (shown('Net('+'x'*REPR, **{'text/html': '<table>'}), 0),
    (shown('a  b\n'*LINES), 0)])
def test_noise_is_found(output, found): assert len([*noise(code('x', output))])==found
