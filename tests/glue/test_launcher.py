"""Our launchers: BasicSR's pipelines from any folder, exit status, one line for a fault in the options."""

import os
import sys
import types

import pytest
from starting import ROOT, python, toy_options, write
from torch.utils.data import DataLoader

from kernelfusion_plugin import compat, launch, options, runlog
from kernelfusion_plugin.option_files import apply_force_yml

compat.apply()  # the tests import basicsr in this process, with or without the start-up hook


@pytest.fixture
def run(monkeypatch, tmp_path):
    """launch.run with a given function in the place of BasicSR's test_pipeline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, '_every_run', False)
    monkeypatch.setattr(runlog, 'failures', [])
    monkeypatch.setattr(launch, 'compat', types.SimpleNamespace(register=lambda: None))
    monkeypatch.delenv('KERNELFUSION_DEBUG', raising=False)

    def call(pipeline):
        monkeypatch.setitem(sys.modules, 'basicsr.test', types.SimpleNamespace(test_pipeline=pipeline))
        return launch.run('test')
    return call


def test_root_is_the_working_folder(run, tmp_path):
    roots = []
    assert run(roots.append) == 0
    assert roots == [str(tmp_path)] and options._every_run


def test_failed_images_are_status_1(run):
    assert run(lambda root: runlog.record_failure('a.png: empty')) == 1


def test_our_errors_are_one_line_and_status_2(run, capsys):
    assert run(lambda root: apply_force_yml({}, ['nonsense'])) == 2
    err = capsys.readouterr().err
    assert err.startswith('kernelfusion: error: --force_yml') and err.count('\n') == 1


def test_missing_files_are_one_line_and_status_2(run, capsys):
    assert run(lambda root: os.scandir('nowhere')) == 2
    assert 'nowhere' in capsys.readouterr().err


class Damaged:
    """A data set whose picture is a fault in the options."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise TypeError('None: has no shape')
        except TypeError:
            apply_force_yml({}, ['a.png: damaged'])


@pytest.mark.parametrize('workers', [0, 1])
def test_errors_in_a_workers_process_are_one_line_too(workers, run, capfd):
    assert run(lambda root: list(DataLoader(Damaged(), num_workers=workers))) == 2
    err = capfd.readouterr().err
    assert err == "kernelfusion: error: --force_yml takes section:option=value, got 'a.png: damaged'\n"


def test_debug_shows_the_traceback(run, monkeypatch):
    monkeypatch.setenv('KERNELFUSION_DEBUG', '1')
    with pytest.raises(ValueError, match='nonsense'):
        run(lambda root: apply_force_yml({}, ['nonsense']))


def test_errors_of_others_keep_their_traceback(run):
    with pytest.raises(ValueError, match='invalid literal'):
        run(lambda root: int('x'))


@pytest.mark.parametrize(('validated', 'is_train', 'ends'), [(1, False, False), (2, False, True), (2, True, False)])
def test_run_ends_with_status_1_behind_the_last_data_set_only(monkeypatch, validated, is_train, ends):
    monkeypatch.setattr(runlog, 'failures', ['a.png: empty'])
    opt = {'is_train': is_train, 'datasets': {'a': {}, 'b': {}}}
    if ends:
        with pytest.raises(SystemExit) as end:
            runlog.end_of_dataset(opt, validated)
        assert end.value.code == 1
    else:
        runlog.end_of_dataset(opt, validated)


def test_absent_basicsr_is_one_line(tmp_path):
    code = ('import sys; sys.modules["basicsr"] = None; sys.modules["matplotlib"] = None\n'
            'from kernelfusion_plugin import launch; sys.exit(launch.run("test"))')
    ran = python('-c', code, cwd=tmp_path, path=[ROOT], KERNELFUSION_NO_HOOK='1')
    assert ran.returncode == 2 and 'BasicSR is not installed' in ran.stderr and 'Traceback' not in ran.stderr


def test_module_runs_from_any_folder_even_an_unbuilt_checkout(tmp_path):
    write(tmp_path / 'basicsr' / '__init__.py', 'raise ImportError("no version.py: never built")')
    file = toy_options(tmp_path, images=1)
    ran = python('-m', 'kernelfusion_plugin.test', '-opt', file, '--force_yml', 'path:results_root=there',
                 cwd=tmp_path, path=[ROOT], KERNELFUSION_NO_HOOK='1')
    assert ran.returncode == 0, ran.stderr
    log, = (tmp_path / 'there').glob('test_toy_*.log')  # not made before its folder was
    assert 'Toy: mean of 1 image' in log.read_text() and log.read_text().count('Testing Toy') == 1
    assert (tmp_path / 'there' / 'scores.csv').is_file() and not (tmp_path / 'results').exists()
    assert list((tmp_path / 'there' / 'visualization' / 'Toy').rglob('*.png'))


def test_launcher_in_our_root_names_a_misspelt_option(tmp_path):
    ran = python(ROOT / 'basicsr' / 'test.py', '-opt', toy_options(tmp_path), '--force_yml',
                 'kernelfusion:prior:stepz=3', cwd=tmp_path, KERNELFUSION_NO_HOOK='1')
    assert ran.returncode == 2
    error = [line for line in ran.stderr.splitlines() if 'kernelfusion: error' in line]
    assert len(error) == 1 and 'stepz' in error[0] and 'steps' in error[0] and 'Traceback' not in ran.stderr
