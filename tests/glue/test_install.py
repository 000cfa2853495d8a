"""What an installation puts where; which Pythons are refused, and how."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from starting import PTH, ROOT

pytest.importorskip('setuptools', minversion='64')


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of what is packaged, as a build writes into its folder."""
    folder = tmp_path_factory.mktemp('source')
    for name in ('setup.py', 'pyproject.toml', 'LICENSE', 'MANIFEST.in', 'kernelfusion_hook.py', PTH):
        shutil.copy(ROOT / name, folder)
    for name in ('kernelfusion_plugin', 'basicsr', 'tests'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    return folder


def build(source, kind):
    """Build a wheel with what pip calls: build_wheel or build_editable; returns its path."""
    code = f'import sys; from setuptools import build_meta; print(build_meta.{kind}(sys.argv[1]))'
    ran = subprocess.run([sys.executable, '-c', code, source / kind], cwd=source, text=True, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    return source / kind / ran.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def wheel(source):
    return build(source, 'build_wheel')


def names_and_record(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = next(name for name in names if name.endswith('.dist-info/RECORD'))
        return names, archive.read(record).decode()


def test_wheel_holds_the_package_and_the_hook_and_nothing_else(wheel):
    names, record = names_and_record(wheel)
    assert PTH in names and f'{PTH},sha256=' in record
    tops = {name.partition('/')[0] for name in names}
    ours = {top for top in tops if not top.endswith('.dist-info')}
    assert ours == {'kernelfusion_plugin', 'kernelfusion_hook.py', PTH}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / 'kernelfusion_plugin').rglob('*.py')}
    assert sources <= set(names)
    weights = 'kernelfusion_plugin/weights/texture_prior.pt'
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(weights) == (ROOT / weights).read_bytes()
    assert any(name.endswith('/LICENSE') for name in names)


def test_editable_wheel_holds_the_hook(source):
    names, record = names_and_record(build(source, 'build_editable'))
    assert PTH in names and f'{PTH},sha256=' in record
    assert 'kernelfusion_plugin/__init__.py' not in names


def test_installed_hook_runs_at_start_and_goes_with_the_package(wheel, tmp_path):
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--python', str(tmp_path / 'venv')]
    if subprocess.run([*pip[:3], '--version'], capture_output=True).returncode:
        pytest.skip('pip is not installed')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True)
    python = tmp_path / 'venv' / 'bin' / 'python'
    site = tmp_path / 'venv' / os.path.relpath(sysconfig.get_path('purelib'), sysconfig.get_path('data'))

    def finders():
        code = 'import sys; print(*(type(f).__name__ for f in sys.meta_path if isinstance(f, object)))'
        env = {key: value for key, value in os.environ.items() if not key.startswith(('KERNELFUSION_', 'PYTHONPATH'))}
        ran = subprocess.run([python, '-c', code], text=True, capture_output=True, cwd=tmp_path, env=env)
        assert ran.returncode == 0 and not ran.stderr
        return ran.stdout

    subprocess.run([*pip, 'install', '--no-deps', '--no-index', '--quiet', wheel], check=True)
    assert (site / PTH).is_file() and '_BasicSRFinder' in finders()
    subprocess.run([*pip, 'uninstall', '--yes', '--quiet', 'kernelfusion-plugin'], check=True)
    assert not (site / PTH).exists() and '_BasicSRFinder' not in finders()


@pytest.mark.parametrize('version', [(3, 13), (3, 14), (3, 9)])
def test_setup_refuses_other_pythons_in_one_line(version):
    code = (f'import sys; import setuptools; sys.version_info = ({version[0]}, {version[1]}, 0, "final", 0)\n'
            'exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py"})')
    ran = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True)
    assert ran.returncode == 1 and ran.stderr.count('\n') == 1
    assert f'this is {version[0]}.{version[1]}' in ran.stderr and '3.12' in ran.stderr


def find_python(chosen, path):
    return subprocess.run(['/bin/sh', ROOT / '.ci' / 'find_python', chosen], text=True, capture_output=True,
                          env={'PATH': str(path), 'HOME': str(path), 'PYENV_ROOT': str(path)})


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/sh\n' + text)
    path.chmod(0o755)


def test_make_looks_for_a_python_that_fits(tmp_path):
    nothing = find_python('', tmp_path)
    assert nothing.returncode == 1 and nothing.stderr.count('\n') == 1 and '3.12' in nothing.stderr
    program(tmp_path / 'python3', 'case "$2" in *platform*) echo Python 3.13.1;; *) exit 1;; esac\n')
    assert find_python('', tmp_path).returncode == 1
    refused = find_python(str(tmp_path / 'python3'), tmp_path)
    assert refused.returncode == 1 and 'is Python 3.13.1' in refused.stderr and refused.stderr.count('\n') == 1
    program(tmp_path / 'versions' / '3.11.9' / 'bin' / 'python', f'exec {sys.executable} "$@"\n')
    found = find_python('', tmp_path)
    assert found.returncode == 0 and found.stdout.strip() == sys.executable
