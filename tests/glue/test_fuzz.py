"""Spoilt files: one line each, and nothing else. Few by default, thousands with

    python -m pytest -m slow -s tests/glue/test_fuzz.py
"""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from fuzzing import sound_pictures, spoil, spoilt_picture
from glue_helpers import run_toolbox, scores, toy_options
from PIL import Image
from starting import ROOT
from test_restore_command import OPTIONS, call, contents, write

from kernelfusion_plugin.core.kernel_files import load_kernel
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.estimate import Pace
from kernelfusion_plugin.files import BadPicture, read_picture, write_picture

SECONDS = 20  # that one file may take


def fates(first, last, folder):
    """How often the reader took a spoilt picture, and how often it refused one; anything else is an error."""
    counts, sound = Counter(), sound_pictures()
    for number in range(first, last):
        ending, raw = spoilt_picture(number, sound)
        path = folder / f'{number}.{ending}'
        path.write_bytes(raw)
        signal.alarm(SECONDS)
        try:
            picture = read_picture(path)
        except BadPicture as error:
            assert '\n' not in str(error) and str(error).startswith(f'{path}: '), number
            counts['refused'] += 1
        else:
            assert picture.y.ndim == 4 and picture.y.shape[1] == 3 and torch.isfinite(picture.y).all(), number
            assert picture.y.numel() == 0 or picture.y.abs().max() <= 1, number
            counts['read'] += 1
            if picture.y.numel() < 10_000:  # what was read can be written, profile and all
                write_picture(folder / 'out.png', picture.y.repeat_interleave(2, -1).repeat_interleave(2, -2), picture)
                assert read_picture(folder / 'out.png').y.shape[-1] == 2 * picture.y.shape[-1], number
        finally:
            signal.alarm(0)
        path.unlink()
    return counts


def fates_apart(first, last, folder):
    """The same in a process of its own, which a decoder may take down."""
    code = ('import sys; from pathlib import Path; from test_fuzz import fates; '
            f'print(dict(fates({first}, {last}, Path({str(folder)!r}))))')
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests/glue')])
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=1200, check=False,
                          env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, f'{first} to {last}: {done.stderr[-2000:]}'
    return Counter(eval(done.stdout.strip().splitlines()[-1]))


def through_the_command(first, last, folder, caplog):
    """Spoilt pictures beside a sound one through the whole command; returns how many were done."""
    (folder / 'in').mkdir()
    write(folder / 'in/good.png')
    assert call('restore', folder / 'in', '-o', folder / 'whole', *OPTIONS).exit_code == 0
    good = contents(folder / 'whole')
    spoilt = write_spoilt(first, last, folder / 'in')
    caplog.clear()
    answer = call('restore', folder / 'in', '-o', folder / 'out', *OPTIONS)
    assert answer.exit_code in (0, 1) and answer.exception is None or isinstance(answer.exception, SystemExit)
    assert 'Traceback' not in answer.output + caplog.text
    found = contents(folder / 'out')
    assert {name: found.get(name) for name in good} == good
    done = {path.name.removesuffix('_restored.json') for path in (folder / 'out').glob('*.json')}
    assert {name.replace('.tif', '.png') for name in found} == {
        f'{name}_{what}' for name in done for what in ('x2.png', 'kernel.npy', 'kernel.png', 'sheet.png')}
    for path in (folder / 'out').glob('*_x2.*'):
        read_picture(path)
    refused = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert all('\n' not in record.getMessage() and 'a bug in the program' not in record.getMessage()
               for record in refused), [r.getMessage() for r in refused if 'a fault' in r.getMessage()]
    assert len(refused) + len(done) == spoilt + 1
    return Counter(done=len(done) - 1, refused=len(refused))


def write_spoilt(first, last, folder):
    """Spoilt pictures, but those that have become so large that they would be restored for hours; how many."""
    sound, count = sound_pictures(), 0
    for number in range(first, last):
        ending, raw = spoilt_picture(number, sound)
        path = folder / f'bad{number}.{ending}'
        path.write_bytes(raw)
        count += 1
        with contextlib.suppress(BadPicture):
            if read_picture(path).y.numel() > 10_000:
                path.unlink()
                count -= 1
    return count


def through_the_toolbox(first, last, folder, monkeypatch):
    """The same through basicsr/test.py, from a folder."""
    (folder / 'lq').mkdir()
    write(folder / 'lq/good.png')
    spoilt = write_spoilt(first, last, folder / 'lq')
    opt = toy_options(folder, scale=2)
    opt['datasets']['test_1'] = {'name': 'Plain', 'type': 'SingleImageDataset', 'dataroot_lq': str(folder / 'lq'),
                                 'io_backend': {'type': 'disk'}}
    from kernelfusion_plugin import runlog
    run_toolbox(opt, folder / 'run', monkeypatch)
    done = {row['image'] for row in scores(folder / 'run')}
    assert 'good' in done and len(done) + len(runlog.failures) == spoilt + 1
    assert all('\n' not in line for line in runlog.failures)
    return Counter(done=len(done) - 1, refused=len(runlog.failures))


@pytest.fixture(autouse=True)
def quick_command(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr('kernelfusion_plugin.cli.batch.measure_pace', lambda *_: Pace({}, 'em', []))


def test_some_through_the_reader(tmp_path):
    counts = fates(0, 300, tmp_path)
    assert counts['refused'] > 100 and counts['read'] > 20


def test_some_through_the_command(tmp_path, caplog):
    through_the_command(0, 8, tmp_path, caplog)


@pytest.mark.slow
def test_many_through_the_reader(tmp_path):
    counts = Counter()
    for first in range(0, 6000, 500):
        counts += fates_apart(first, first + 500, tmp_path)
    print(f'reader: {dict(counts)}')
    assert sum(counts.values()) == 6000


@pytest.mark.slow
@pytest.mark.parametrize('first', range(10_000, 10_240, 40))
def test_many_through_the_command(first, tmp_path, caplog):
    print(f'command: {dict(through_the_command(first, first + 40, tmp_path, caplog))}')


@pytest.mark.slow
def test_many_through_the_toolbox(tmp_path, monkeypatch):
    print(f'toolbox: {dict(through_the_toolbox(20_000, 20_100, tmp_path, monkeypatch))}')


def test_spoilt_kernels(tmp_path):
    """What load_kernel takes is a kernel; what it does not take is a ValueError in one line."""
    kernel = gaussian(9, sigmas=1.5).numpy()
    np.save(tmp_path / 'k.npy', kernel)
    np.savetxt(tmp_path / 'k.txt', kernel)
    Image.fromarray((kernel * 2000).astype(np.uint8)).save(tmp_path / 'k.png')
    counts = Counter()
    for path in (tmp_path / 'k.npy', tmp_path / 'k.txt', tmp_path / 'k.png'):
        raw = path.read_bytes()
        for number in range(200):
            path.write_bytes(spoil(raw, number))
            try:
                k = load_kernel(path)
            except ValueError as error:
                assert '\n' not in str(error) and str(path) in str(error), (path, number)
                counts['refused'] += 1
            else:
                assert k.ndim == 2 and k.shape[0] == k.shape[1] and torch.isfinite(k).all() and k.min() >= 0
                assert abs(float(k.sum()) - 1) < 1e-3
                counts['read'] += 1
    assert min(counts.values()) > 30


@pytest.mark.parametrize('name', [
    'a b.png', '-o.png', '[1].png', 'a*b?.png', '%s{0}.png', 'ü日本.png', 'line\nbreak.png', "'\"$(x).png", 'a.b.c.png',
    '.png.png', os.fsdecode(b'\xff\xfe.png'), 'x' * 200 + '.png'])
def test_odd_names(name, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in').mkdir()
    write(tmp_path / 'in/good.png', 1)
    shutil.copy(write(tmp_path / 'sound.png'), tmp_path / 'in' / name)
    answer = call('restore', 'in/good.png', f'in/{name}', '-o', 'out', *OPTIONS)
    assert answer.exit_code == 0, answer.output + caplog.text
    assert len(list((tmp_path / 'out').iterdir())) == 10
    assert all('\n' not in r.getMessage() for r in caplog.records if r.name.startswith('kernelfusion_plugin.rest'))
    assert call('restore', 'in/good.png', f'in/{name}', '-o', 'out', *OPTIONS).exit_code == 0
    assert caplog.text.count('is kept') == 2


def test_a_name_too_long_for_its_results(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'good.png', 1)
    shutil.copy(tmp_path / 'good.png', tmp_path / ('x' * 250 + '.png'))
    assert call('restore', '*.png', '-o', 'out', *OPTIONS).exit_code == 1
    assert 'File name too long' in caplog.text and (tmp_path / 'out/good_x2.png').exists()


def test_a_read_only_place(tmp_path, monkeypatch, caplog):
    if os.geteuid() == 0:
        import errno
        mkdir = os.mkdir

        def refuse(path, *args, **kwargs):
            if str(path).endswith('locked/out'):
                raise OSError(errno.EROFS, 'Read-only file system', str(path))
            return mkdir(path, *args, **kwargs)
        monkeypatch.setattr(os, 'mkdir', refuse)
    (tmp_path / 'locked').mkdir(mode=0o500)
    write(tmp_path / 'a.png')
    answer = call('restore', tmp_path / 'a.png', '-o', tmp_path / 'locked/out', *OPTIONS)
    assert answer.exit_code == 2 and 'cannot be created' in answer.output
