"""Code of the user's own, beside the option file and not in the package: what README's "Extending" says is enough."""

import csv
import re
import sys

import numpy as np
import pytest
import yaml
from comparing import Methods, compare, noise, option_file, write_images
from starting import ROOT, python, startup_folder, toy_options, write

from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.option_checks import import_modules

METHODS = """
from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from torch import nn

from kernelfusion_plugin.core.degradation import to_canvas
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.solver import Solver
from kernelfusion_plugin.core.solvers import SOLVERS
from kernelfusion_plugin.core.state import Phase2State
from kernelfusion_plugin.models.baselines import Baseline


@MODEL_REGISTRY.register()
class NearestModel(Baseline):
    def upscale(self, y):
        return F.interpolate(y, scale_factor=self.scale, mode='nearest'), None


@ARCH_REGISTRY.register()
class Nearest(nn.Module):
    def __init__(self, upscale):
        super().__init__()
        self.scale = upscale

    def forward(self, y):
        return F.interpolate(y, scale_factor=self.scale, mode='nearest')


@dataclass(frozen=True)
class Width:
    sigma: float = 1.0


class NearestSolver(Solver):
    settings = Width

    def training(self, config, kernel_known=False):
        return {}

    def solve(self, problem):
        x = to_canvas(problem.y, problem.degradation)
        k = gaussian(problem.config.kernel_size, sigmas=problem.config.own.sigma)
        yield Phase2State(1, 1, 0, x, k, {'residual': 0.0})


SOLVERS['nearest'] = NearestSolver()


@METRIC_REGISTRY.register()
def calculate_brightness(img):
    return img.mean()
"""


@pytest.mark.parametrize('changes', [
    {'model_type': 'NearestModel'},
    {'model_type': 'BlindSRModel', 'network_g': {'type': 'Nearest'}},
    {'kernelfusion': {'solver': 'nearest', 'kernel_size': 8, 'sheet': False, 'plot': False}}],
    ids=['model', 'network', 'solver'])
def test_a_module_beside_the_option_file(changes, tmp_path):
    write(tmp_path / 'my_methods.py', METHODS)
    file = toy_options(tmp_path, images=1, **{'import': 'my_methods', **changes},
                       val={'metrics': {'light': {'type': 'calculate_brightness'}}})
    ran = python(ROOT / 'basicsr/test.py', '-opt', file, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (row,) = csv.DictReader((tmp_path / 'results/toy/scores.csv').open())
    assert 100 < float(row['val_light']) < 155


@pytest.mark.parametrize(('change', 'said'), [
    ('kernelfusion:nearest:sigma=2.0', ''),
    ('kernelfusion:nearest:sigm=2', "unknown option 'nearest.sigm': did you mean 'sigma'?"),
    ('kernelfusion:nearst:sigma=2', "unknown option 'kernelfusion.nearst': did you mean 'nearest'?"),
    ('sigma=2', "unknown option 'sigma': did you mean 'kernelfusion: nearest: sigma'?")])
def test_settings_of_a_solver_of_ones_own(change, said, tmp_path):
    write(tmp_path / 'my_methods.py', METHODS)
    file = toy_options(tmp_path, images=1, **{'import': 'my_methods'},
                       kernelfusion={'solver': 'nearest', 'kernel_size': 8, 'sheet': False, 'plot': False})
    ran = python(ROOT / 'basicsr/test.py', '-opt', file, '--force_yml', change, cwd=tmp_path)
    if said:
        assert ran.returncode == 2 and said in ran.stderr and len(ran.stderr.splitlines()) == 1, ran.stderr
        return
    (found,) = (tmp_path / 'results/toy').rglob('*_kernel.npy')
    assert np.allclose(np.load(found), gaussian(8, sigmas=2.0).numpy())


def test_under_basicsrs_own_program(tmp_path):
    """``import`` alone makes the run ours: nothing else in this file does."""
    site = startup_folder(tmp_path / 'site')
    write(tmp_path / 'my_methods.py', METHODS)
    file = toy_options(tmp_path, images=1, model_type='NearestModel', **{'import': ['my_methods']})
    opt = yaml.safe_load(file.read_text())
    del opt['kernelfusion']
    write(file, yaml.safe_dump(opt))
    ran = python('-m', 'basicsr.test', '-opt', file, cwd=tmp_path, path=[site, ROOT])
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / 'results/toy/scores.csv').is_file()


@pytest.mark.parametrize(('text', 'given', 'said'), [
    ('', 'my_faulty.py', "'import' must be the name of a module, .* got 'my_faulty.py'$"),
    ('', 3, "'import' must be the name of a module, .* got 3$"),
    ('', ['my_faulty', None], "'import' must be the name of a module, .* got .'my_faulty', None.$"),
    ('', 'my_absent', r'there is no module my_absent in \S+, and none is installed$'),
    ('', 'my_faulty.part', r'there is no module my_faulty.part in'),
    ('import my_absent', 'my_faulty', r"my_faulty ends in ModuleNotFoundError: .*'my_absent' \(.*, line 1\)$"),
    ('a = 1\nb = c', 'my_faulty', r'my_faulty ends in NameError: .* \(.*my_faulty.py, line 2\)$'),
    ('a = (', 'my_faulty', r'my_faulty ends in SyntaxError: .* \(my_faulty.py, line 1\)$'),
    ('import sys\nsys.exit()', 'my_faulty', r'my_faulty ends in SystemExit \(.*my_faulty.py, line 2\)$')])
def test_what_cannot_be_imported_is_told_in_one_line(text, given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    monkeypatch.delitem(sys.modules, 'my_faulty', raising=False)
    write(tmp_path / 'my_faulty.py', text)
    with pytest.raises(ValueError, match=f'^(import: )?{said}') as caught:
        import_modules({'import': given})
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('file', 'name', 'taken'), [
    ('json.py', 'json', r'json\S__init__\.py'), ('json/__init__.py', 'json', r'json\S__init__\.py'),
    ('builtins.py', 'builtins', 'a part of Python')])
def test_a_module_hidden_by_an_installed_one_is_told(file, name, taken, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    write(tmp_path / file)
    import_modules({'import': name})
    own = file.partition('/')[0]
    assert re.search(rf'{name} is the one that is installed \(.*{taken}\), not {own} here', caplog.text)


@pytest.mark.parametrize('file', ['my_own.py', 'my_own/__init__.py'])
def test_a_module_that_is_found_needs_no_word(file, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    monkeypatch.delitem(sys.modules, 'my_own', raising=False)
    write(tmp_path / file)
    import_modules({'import': ['my_own', 'json']})
    assert not caplog.text


@pytest.mark.parametrize(('file', 'name'), [('lab/methods.py', 'lab.methods'), ('lab/__init__.py', 'lab'),
                                            ('lab/part.py', 'lab')])
def test_a_comparison_runs_again_what_has_other_code(file, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, ran = write_images(tmp_path / 'data'), Methods(monkeypatch, a=noise(3), b=noise(9))
    write(tmp_path / 'lab/__init__.py')
    code = write(tmp_path / file, 'SIGMA = 3')
    files = [option_file(tmp_path / 'a.yml', data, 'a', **{'import': [name]}),
             option_file(tmp_path / 'b.yml', data, 'b')]
    assert compare('-opt', *files, '--out', 'out').exit_code == 0
    code.write_text('SIGMA = 4')
    ran.started.clear()
    assert compare('-opt', *files, '--out', 'out').exit_code == 0
    assert ran.started == ['a']
