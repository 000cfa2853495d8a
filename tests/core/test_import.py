"""The core runs where basicsr is absent, and nothing in it asks for basicsr or the glue."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kernelfusion_plugin

PACKAGE = Path(kernelfusion_plugin.__file__).resolve().parent
CORE = sorted((PACKAGE / 'core').rglob('*.py'))
BLOCK = "import sys; sys.modules['basicsr'] = sys.modules['torchvision'] = sys.modules['cv2'] = None\n"


def run(code):
    done = subprocess.run([sys.executable, '-c', BLOCK + code], capture_output=True, text=True, timeout=120,
                          cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_api_without_basicsr():
    run('from kernelfusion_plugin import KernelFusionConfig, Progress, Result, restore, restore_steps\n'
        'assert callable(restore) and callable(restore_steps)\n'
        'KernelFusionConfig()')


def test_every_core_module_without_basicsr():
    names = ['.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts) for path in CORE]
    names = [name.removesuffix('.__init__') for name in names]
    for name in ('degradation', 'kernels', 'diffusion', 'metrics', 'patch_prior', 'kernel_models', 'joint', 'em',
                 'restore', 'noise', 'tiles', 'texture_prior', 'memory', 'plan', 'nets.patch_net', 'nets.refine_unet',
                 'nets.texture_unet'):
        assert f'kernelfusion_plugin.core.{name}' in names
    run(f'import importlib\nfor name in {names}:\n    importlib.import_module(name)')


def imported(path):
    """Names of the modules that a file imports, relative ones resolved."""
    package = list(path.relative_to(PACKAGE.parent).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            yield '.'.join([*base, *([node.module] if node.module else [])])


@pytest.mark.parametrize('path', CORE, ids=[str(path.relative_to(PACKAGE)) for path in CORE])
def test_imports_go_one_way(path):
    for name in imported(path):
        assert name.split('.')[0] not in ('basicsr', 'torchvision', 'cv2'), name
        if name.split('.')[0] == 'kernelfusion_plugin':
            assert name.split('.')[1:2] == ['core'], f'{name}: the core must not import what is built on it'


def test_readme_names_every_module_of_core():
    text = (Path(__file__).resolve().parents[2] / 'README.md').read_text(encoding='utf-8')
    core = text.split('kernelfusion_plugin/core    ')[1].split('kernelfusion_plugin/bench')[0]
    assert {path.stem for path in CORE if path.parent.name == 'core'} - {'__init__'} <= set(re.findall(r'\w+', core))
