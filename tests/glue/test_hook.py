"""The start-up hook: cheap, silent, and it brings our model into programs that know nothing of it."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from starting import PTH, ROOT, python, startup_folder, toy_options, write

FINDERS = 'import sys; print(sum(type(f).__name__ == "_BasicSRFinder" for f in sys.meta_path))'


def fake_basicsr(folder):
    """A BasicSR that needs no torch: enough for the hook to act on."""
    write(folder / 'basicsr' / '__init__.py', 'from basicsr.utils import options\nVALUE = 42\n')
    write(folder / 'basicsr' / 'utils' / '__init__.py')
    write(folder / 'basicsr' / 'utils' / 'options.py', 'def parse_options(root_path):\n    return 1, 2\n')
    return folder


def test_pth_is_one_plain_line_that_site_executes():
    text = (ROOT / PTH).read_bytes().decode('ascii')
    assert text.startswith('import ') and text.count('\n') == 1 and text.endswith('\n')


def test_start_up_installs_one_finder(tmp_path):
    ran = python('-c', FINDERS, cwd=tmp_path, path=[startup_folder(tmp_path / 'site')])
    assert (ran.stdout.strip(), ran.stderr, ran.returncode) == ('1', '', 0)


def test_environment_variable_turns_it_off(tmp_path):
    ran = python('-S', '-c', 'import sitecustomize; ' + FINDERS, cwd=tmp_path,
                 path=[startup_folder(tmp_path / 'site')], KERNELFUSION_NO_HOOK='1')
    assert (ran.stdout.strip(), ran.stderr, ran.returncode) == ('0', '', 0)


def test_half_removed_package_leaves_programs_alone(tmp_path):
    site = startup_folder(tmp_path / 'site', with_hook=False)
    ran = python('-S', '-c', 'import sitecustomize; ' + FINDERS, cwd=tmp_path, path=[site])
    assert (ran.stdout.strip(), ran.stderr, ran.returncode) == ('0', '', 0)


def test_hook_without_the_package_lets_basicsr_be_imported(tmp_path):
    site = fake_basicsr(startup_folder(tmp_path / 'site'))
    ran = python('-S', '-c', 'import sitecustomize, basicsr; print(basicsr.VALUE)', cwd=tmp_path, path=[site])
    assert (ran.stdout.strip(), ran.stderr, ran.returncode) == ('42', '', 0)


def test_broken_package_lets_basicsr_be_imported_and_is_logged_at_debug_only(tmp_path):
    site = fake_basicsr(startup_folder(tmp_path / 'site'))
    write(site / 'kernelfusion_plugin' / '__init__.py', 'raise RuntimeError("broken")')
    ran = python('-S', '-c', 'import sitecustomize, basicsr; print(basicsr.VALUE)', cwd=tmp_path, path=[site])
    assert (ran.stdout.strip(), ran.stderr, ran.returncode) == ('42', '', 0)
    ran = python('-S', '-c', 'import logging; logging.basicConfig(level=10); import sitecustomize, basicsr',
                 cwd=tmp_path, path=[site])
    assert 'RuntimeError: broken' in ran.stderr and ran.returncode == 0


def test_absent_basicsr_is_still_an_ordinary_import_error(tmp_path):
    code = ('import sitecustomize\n'
            'try:\n    import basicsr.utils\nexcept ModuleNotFoundError as error:\n    print(error.name)')
    ran = python('-S', '-c', code, cwd=tmp_path, path=[startup_folder(tmp_path / 'site')])
    assert (ran.stdout.strip(), ran.stderr) == ('basicsr', '')


def test_error_in_basicsr_is_not_swallowed(tmp_path):
    site = startup_folder(tmp_path / 'site')
    write(site / 'basicsr' / '__init__.py', 'raise RuntimeError("its own fault")')
    ran = python('-S', '-c', 'import sitecustomize, basicsr', cwd=tmp_path, path=[site])
    assert 'RuntimeError: its own fault' in ran.stderr and ran.returncode == 1


def test_basicsr_keeps_its_own_loader(tmp_path):
    site = fake_basicsr(startup_folder(tmp_path / 'site'))
    code = ('import sitecustomize, importlib.util\n'
            'print(importlib.util.find_spec("basicsr").loader.get_filename())\n'
            'import basicsr, inspect\n'
            'print(type(basicsr.__loader__).__name__, type(basicsr.__spec__.loader).__name__)\n'
            'print("VALUE" in inspect.getsource(basicsr))')
    ran = python('-S', '-c', code, cwd=tmp_path, path=[site])
    assert ran.stdout.splitlines() == [str(site / 'basicsr' / '__init__.py'), 'SourceFileLoader SourceFileLoader',
                                       'True']


def test_start_up_is_cheap(tmp_path):
    """Nothing is imported besides the hook, and the line takes well under 20 ms (the best of five starts)."""
    code = (f'import os, sys, time\nbefore = set(sys.modules)\nline = open({str(ROOT / PTH)!r}).read()\n'
            'start = time.perf_counter()\nexec(line)\nprint(time.perf_counter() - start)\n'
            'print(*sorted(set(sys.modules) - before))')
    seconds = []
    for _ in range(5):
        ran = python('-S', '-c', code, cwd=tmp_path, path=[startup_folder(tmp_path / 'site')])
        first, imported = ran.stdout.splitlines()
        seconds.append(float(first))
        assert set(imported.split()) == {'kernelfusion_hook', '__future__'}
    assert min(seconds) < 0.02


@pytest.mark.parametrize('own', [False, True], ids=['absent', 'there'])
def test_functional_tensor_is_offered_only_where_torchvision_has_none(tmp_path, own):
    transforms = tmp_path / 'torchvision' / 'transforms'
    write(tmp_path / 'torchvision' / '__init__.py')
    write(transforms / '__init__.py')
    write(transforms / 'functional.py', 'def rgb_to_grayscale():\n    return "functional"\n')
    if own:
        write(transforms / 'functional_tensor.py', 'def rgb_to_grayscale():\n    return "own"\n')
    code = ('from kernelfusion_plugin import compat\ncompat.apply(); compat.apply()\nimport sys\n'
            'print(sum(type(f).__name__ == "_FunctionalTensorFinder" for f in sys.meta_path), '
            '"torchvision" in sys.modules)\n'
            'from torchvision.transforms.functional_tensor import rgb_to_grayscale as gray\nprint(gray())')
    ran = python('-c', code, cwd=tmp_path, path=[tmp_path, ROOT])
    assert ran.stdout.splitlines() == ['1 False', 'own' if own else 'functional'], ran.stderr


@pytest.fixture(scope='module')
def basicsr_folder():
    return Path(find_spec('basicsr').origin).parent


def results(folder):
    return sorted(str(path.relative_to(folder)) for path in (folder / 'results').rglob('*') if path.suffix == '.png')


def test_unmodified_test_py_does_our_model_and_tells_of_a_bad_image(tmp_path, basicsr_folder):
    """Only test.py is the checkout's; as sys.path[0] is its folder, the installed basicsr is imported."""
    program = tmp_path / 'checkout' / 'basicsr' / 'test.py'
    program.parent.mkdir(parents=True)
    shutil.copy(basicsr_folder / 'test.py', program)
    user = tmp_path / 'user'
    options = toy_options(user)
    write(user / 'lq' / 'empty.png')
    ran = python(program, '-opt', options, '--force_yml', 'kernelfusion:prior:lr=2e-3', cwd=user,
                 path=[startup_folder(tmp_path / 'site'), ROOT])
    assert ran.returncode == 1, ran.stderr
    assert any('empty.png' in line and 'empty' in line for line in ran.stderr.splitlines())
    assert 'Traceback' not in ran.stderr
    assert {Path(path).name[0] for path in results(user)} >= {'0', '1'}
    assert not (tmp_path / 'checkout' / 'results').exists()


def test_unmodified_test_py_does_a_file_that_only_its_base_makes_ours(tmp_path, basicsr_folder):
    program = tmp_path / 'checkout' / 'basicsr' / 'test.py'
    program.parent.mkdir(parents=True)
    shutil.copy(basicsr_folder / 'test.py', program)
    options = toy_options(tmp_path / 'user', images=1)
    middle = write(options.parent / 'middle.yml', f'base: {options.name}\n')
    mine = write(options.parent / 'mine.yml', f'base: {middle.name}\nname: mine\n')
    ran = python(program, '-opt', mine, cwd=tmp_path / 'user', path=[startup_folder(tmp_path / 'site'), ROOT])
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / 'user/results/mine/scores.csv').is_file()


@pytest.mark.parametrize(('entries', 'said'), [
    (['kernelfusion:sed=1'], "unknown option 'kernelfusion.sed': did you mean 'seed'?"),
    (['model_type=KernelFusonModel'], "unknown model_type 'KernelFusonModel'"),
    (['datasets:test:dataroot_lq=nowhere'], 'datasets:test:dataroot_lq: there is no nowhere here')])
def test_unmodified_test_py_tells_of_a_fault_in_the_options_in_one_line(entries, said, tmp_path):
    program = write(tmp_path / 'program.py', 'from basicsr.test import test_pipeline\ntest_pipeline(".")\n')
    ran = python(program, '-opt', toy_options(tmp_path), '--force_yml', *entries, cwd=tmp_path,
                 path=[startup_folder(tmp_path / 'site'), ROOT])
    assert ran.returncode == 2 and 'Traceback' not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith(f'kernelfusion: error: {tmp_path}/toy.yml: {said}')
    assert not (tmp_path / 'results').exists()


def test_unmodified_test_py_keeps_its_errors_in_runs_of_others(tmp_path):
    program = write(tmp_path / 'program.py', 'from basicsr.test import test_pipeline\ntest_pipeline(".")\n')
    ran = python(program, '-opt', 'nowhere.yml', cwd=tmp_path, path=[startup_folder(tmp_path / 'site'), ROOT])
    assert ran.returncode == 1 and 'Traceback' in ran.stderr and 'nowhere.yml' in ran.stderr


def test_full_checkout_that_imports_itself(tmp_path, basicsr_folder):
    checkout = tmp_path / 'checkout'
    shutil.copytree(basicsr_folder, checkout / 'basicsr', ignore=shutil.ignore_patterns('__pycache__'))
    options = toy_options(tmp_path / 'user', images=1)
    ran = python('-m', 'basicsr.test', '-opt', options, cwd=checkout,
                 path=[startup_folder(tmp_path / 'site'), ROOT])
    assert ran.returncode == 0, ran.stderr
    assert results(checkout)  # run from there, so that is where they belong
