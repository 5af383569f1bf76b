"README.md from nbs/index.ipynb: markdown as it is, code as a block, the value of its last line below it"
import json, re
from pathlib import Path
from posixpath import join, normpath

root = Path(__file__).resolve().parent.parent

def _value(cell): # text of the cell's result; pictures and progress are left out
    for o in cell['outputs']:
        if o['output_type'] != 'execute_result': continue
        if 'text/markdown' in o['data']: yield ''.join(o['data']['text/markdown'])
        else: yield '    ' + ''.join(o['data']['text/plain']).replace('\n', '\n    ')

def _cell(cell): # blocks of text; links are seen from the top of the repository
    src = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
        yield re.sub(r'\]\((?!\w+:|#)([^)]+)\)', lambda m: f"]({normpath(join('nbs', m[1]))})", src)
    elif not re.match(r'#\|\s*hide', src):
        yield '```python\n' + re.sub(r'^#\|.*\n+', '', src, flags=re.M) + '\n```'
        yield from _value(cell)

def readme():
    "The text of README.md"
    nb = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))
    return '\n\n'.join(b for c in nb['cells'] for b in _cell(c)) + '\n'

if __name__ == '__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
