"""``kernelfusion restore`` and ``watch``, as they are called; toy settings throughout."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import tifffile
import torch
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from PIL import Image

from kernelfusion_plugin import KernelFusionConfig, Progress, checkpoints, report, restore
from kernelfusion_plugin.cli import fit_textures, main
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.memory import SHORTAGE
from kernelfusion_plugin.core.nets.texture_unet import TextureUNet
from kernelfusion_plugin.estimate import Pace
from kernelfusion_plugin.files import read_picture
from kernelfusion_plugin.live import LiveView, at_work, follow, is_at_work
from kernelfusion_plugin.restoration import Restoration

EM = {'sketch_passes': 1, 'coarse_passes': 1, 'fine_passes': 1, 'uncertainty': 0, 'steps': 2,
      'kernel_levels': 1, 'final_steps': 2, 'final_prior': 'both', 'cg_iterations': 2}
TOY = {'preset': 'quick', 'scale': 2, 'prior': {'channels': 4, 'steps': 3, 'batch': 1}, 'em': EM}
OPTIONS = ['--scale', 2, '--set', 'prior.channels=4', '--set', 'prior.steps=3', '--set', 'prior.batch=1',
           *(part for key, value in EM.items() for part in ('--set', f'em.{key}={value}'))]


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture
def run(tmp_path, monkeypatch, caplog):
    """Calls ``restore`` in a folder of its own, without the estimate; gives (exit status, what was said)."""
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('kernelfusion_plugin.cli.batch.measure_pace', lambda *_: Pace({'prior': 100.0}, 'em', []))

    def restore_command(*arguments):
        caplog.clear()
        answer = call('restore', *OPTIONS, *arguments)
        said = answer.output + caplog.text
        assert 'Traceback' not in said and not isinstance(answer.exception, (ValueError, OSError)), said
        return answer.exit_code, said

    return restore_command


def write(path, seed=0, size=(18, 20), **options):
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    values = blocks.repeat(4, 0).repeat(4, 1)[:size[0], :size[1]]
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def write_two(folder):
    """a.png and b.png."""
    for seed, name in enumerate('ab'):
        write(folder / f'{name}.png', seed)


def full_at(name, patch):
    """The disk is full when the file ``name`` is written."""
    replace = os.replace

    def full(source, target):
        if os.path.basename(target) == name:
            raise OSError(errno.ENOSPC, 'No space left on device', str(target))
        replace(source, target)

    patch.setattr(os, 'replace', full)


def contents(folder):
    """Bytes of all results by name; the records have seconds in them and are left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != '.json'}


def test_a_kernel_at_the_edge_of_its_grid_is_spoken_of(run, tmp_path, monkeypatch):
    """Where it was found; one that was given may be what it is."""
    monkeypatch.setattr('kernelfusion_plugin.advice.edge_share', lambda kernel: 0.12)
    write(tmp_path / 'photo.png')
    status, said = run('photo.png')
    assert status == 0 and '12% of the kernel' in said and 'try --kernel-size 16' in said and '(--shrink 2)' in said
    status, said = run('photo.png', '-o', 'again', '--kernel', 'restored/photo_kernel.npy')
    assert status == 0 and 'of the kernel' not in said


def test_a_blur_wider_than_the_grid_is_spoken_of_before_the_search(run, tmp_path, monkeypatch):
    """Once, and not where the kernel is known; the advice is the next size down."""
    monkeypatch.setattr('kernelfusion_plugin.advice.seems_wider', lambda y, prior, config: True)
    blocks = np.random.default_rng(0).integers(0, 256, (9, 10, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    Image.fromarray(blocks).save(tmp_path / 'photo.png')
    status, said = run('photo.png')
    warning = 'the blur seems to be wider than the 6 pixels that the 12 x 12 kernel grid'
    assert status == 0 and said.count(warning) == 1 and '(--shrink 2)' in said
    assert said.index(warning) < said.index('photo_x2.png, ')
    assert '(--shrink 4)' in run('photo.png', '--shrink', 2, '-o', 'small')[1]
    status, said = run('photo.png', '-o', 'again', '--kernel', 'restored/photo_kernel.npy')
    assert status == 0 and 'the blur seems' not in said


def test_a_picture_and_what_lies_beside_it(run, tmp_path):
    write(tmp_path / 'photo.png')
    status, said = run('photo.png')
    assert status == 0
    assert 'x2, solver em, preset quick' in said and 'about 1.7 min' in said and '20 x 18 to 40 x 36' in said
    results = tmp_path / 'restored'
    assert sorted(path.name for path in results.iterdir()) == [
        'photo_kernel.npy', 'photo_kernel.png', 'photo_restored.json', 'photo_sheet.png', 'photo_x2.png']
    expected = restore(read_picture(tmp_path / 'photo.png').y, KernelFusionConfig.from_dict(TOY), name='photo')
    assert np.array_equal(np.asarray(Image.open(results / 'photo_x2.png')), report.to_picture(expected.sr))
    assert np.array_equal(np.load(results / 'photo_kernel.npy'), expected.kernel.numpy())


def test_regions_have_kernels_of_their_own(run, tmp_path, monkeypatch):
    monkeypatch.setattr('kernelfusion_plugin.core.regional_degradation.SMALLEST', 8)
    write(tmp_path / 'photo.png')
    assert run('photo.png', '--regions', '1x2')[0] == 0
    results, regional = tmp_path / 'restored', {'photo_kernels.npy', 'photo_kernels.png'}
    config = KernelFusionConfig.from_dict({**TOY, 'regions': '1x2'})
    expected = restore(read_picture(tmp_path / 'photo.png').y, config, name='photo')
    assert np.array_equal(np.load(results / 'photo_kernels.npy'), expected.kernels.numpy())
    assert expected.kernels.shape == (1, 2, 12, 12)
    assert 'is kept' in run('photo.png', '--set', 'regions=1x2')[1]
    record = json.loads((results / 'photo_restored.json').read_text())
    assert set(record['files']) > regional and record['regions'] == [1, 2]
    assert run('photo.png')[0] == 0  # without regions: what they left is gone, the rest as ever
    assert not regional & {path.name for path in results.iterdir()}
    assert np.array_equal(np.load(results / 'photo_kernel.npy'), expected.kernel.numpy())
    status, said = run('photo.png', '--regions', '1x4')
    assert status == 1 and 'regions: 1x4 of an image of 20 x 18 pixels' in said
    for wrong in (['two'], ['1x2', '--solver', 'joint']):
        assert run('photo.png', '--regions', *wrong)[0] == 2


def test_a_bad_picture_costs_itself_only(run, tmp_path):
    for seed, name in enumerate('ac'):
        write(tmp_path / 'in' / f'{name}.png', seed)
    status, _ = run('in', '-o', 'whole')
    (tmp_path / 'in/b.png').write_bytes((tmp_path / 'in/a.png').read_bytes()[:-30])
    write(tmp_path / 'in/d.png', size=(9, 20))
    status, said = run('in', '-o', 'out')
    assert status == 1 and '2 done, 2 failed' in said
    assert '[2/4] b.png: the image is damaged' in said and '[4/4] d.png: the image is 20 x 9' in said
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_what_is_done_is_kept_and_what_has_changed_is_done_anew(run, tmp_path):
    write(tmp_path / 'a.png')
    assert run('a.png')[0] == 0
    before, out = contents(tmp_path / 'restored'), tmp_path / 'restored/a_x2.png'
    born = out.stat().st_mtime_ns

    def done_anew(*options):
        nonlocal born
        status, said = run('a.png', *options)
        assert status == 0 and ('is kept' in said) == (out.stat().st_mtime_ns == born), said
        anew, born = out.stat().st_mtime_ns != born, out.stat().st_mtime_ns
        return anew

    assert not done_anew()
    assert done_anew('--fresh') and contents(tmp_path / 'restored') == before
    out.write_bytes(b'overwritten')
    born = out.stat().st_mtime_ns
    assert done_anew() and contents(tmp_path / 'restored') == before
    assert done_anew('--seed', 5) and done_anew()
    write(tmp_path / 'a.png', 3)
    assert done_anew() and not done_anew()


def test_a_result_of_another_format_is_not_the_one_that_is_asked_for(run, tmp_path):
    """They share the record, which knows both for ours."""
    write(tmp_path / 'a.png')
    for out in ('b.png', 'b.jpg', 'b.png'):
        status, said = run('a.png', '-o', out)
        assert status == 0 and 'is kept' not in said and (tmp_path / out).exists()
        assert 'is kept' in run('a.png', '-o', out)[1]


def test_another_version_begins_anew(run, tmp_path, monkeypatch):
    write(tmp_path / 'a.png')
    assert run('a.png')[0] == 0
    monkeypatch.setattr(checkpoints, 'code_digest', lambda: 'other')
    assert 'is kept' not in run('a.png')[1]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(('phase', 'step'), [('prior', 2), ('em', 3)])
def test_stopped_and_gone_on_with(number, phase, step, run, tmp_path, monkeypatch):
    write_two(tmp_path / 'in')
    assert run('in', '-o', 'whole')[0] == 0
    show = LiveView.__call__

    def stop(self, progress):
        show(self, progress)
        if (self.name, progress.phase, progress.step) == ('b.png', phase, step):
            os.kill(os.getpid(), number)

    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(LiveView, '__call__', stop)
        status, said = run('in', '-o', 'out', '--fresh')
    assert status == 128 + number and 'stopped; the same command without --fresh resumes from here' in said
    assert (tmp_path / 'out/b_run/checkpoint.pt').exists() and not (tmp_path / 'out/b_x2.png').exists()
    assert 'no process is running' in call('watch', tmp_path / 'out', '--once').output
    monkeypatch.setattr(LiveView, '__call__', lambda self, p: seen.append((p.phase, p.step)))
    status, said = run('in', '-o', 'out')
    assert status == 0 and 'a_x2.png is kept' in said and 'resumes from its checkpoint' in said
    assert seen[0] == (phase, step + 1)
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_in_the_last_step_of_a_picture(number, run, tmp_path, monkeypatch):
    """That picture is written, the next is not begun; behind the last one there is nothing to stop."""
    write_two(tmp_path / 'in')
    show, last = LiveView.__call__, 'a.png'

    def stop(self, progress):
        show(self, progress)
        if (self.name, progress.phase, progress.step) == (last, 'em', progress.total):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(LiveView, '__call__', stop)
    status, said = run('in', '-o', 'out')
    assert status == 128 + number and '[2/2] b.png: stopped; the same command resumes from here' in said
    assert (tmp_path / 'out/a_x2.png').exists() and not list((tmp_path / 'out').glob('b*'))
    last = 'b.png'
    status, said = run('in', '-o', 'out')
    assert status == 0 and 'a_x2.png is kept' in said and (tmp_path / 'out/b_x2.png').exists()


def test_a_checkpoint_of_another_command_is_not_used(run, tmp_path, monkeypatch):
    write(tmp_path / 'a.png')
    assert run('a.png', '-o', 'whole', '--seed', 1)[0] == 0

    def stop(self, progress):
        os.kill(os.getpid(), signal.SIGINT)

    for spoil in (lambda path: None, lambda path: path.write_bytes(path.read_bytes()[:-99]),
                  lambda path: path.write_bytes(b'')):
        with monkeypatch.context() as patch:
            patch.setattr(LiveView, '__call__', stop)
            assert run('a.png', '-o', 'out')[0] == 130
        spoil(tmp_path / 'out/a_run/checkpoint.pt')
        status, said = run('a.png', '-o', 'out', '--seed', 1)
        assert status == 0 and 'resumes' not in said and contents(tmp_path / 'out') == contents(tmp_path / 'whole')
        shutil.rmtree(tmp_path / 'out')


def test_two_at_work_on_one_picture(run, tmp_path):
    write(tmp_path / 'a.png')
    with checkpoints.locked(tmp_path / 'restored/a_run/lock'):
        status, said = run('a.png')
        assert status == 1 and 'another process is working' in said


@pytest.mark.parametrize('options', [[], ['--save-run']])
def test_what_another_process_has_done_meanwhile_is_kept(options, run, tmp_path, monkeypatch):
    """Between the question whether it is done, and the lock."""
    write(tmp_path / 'a.png')
    assert run('a.png', *options)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'restored').rglob('*') if path.is_file()}
    answers, finished = iter([False, False]), Restoration.finished
    monkeypatch.setattr(Restoration, 'finished', lambda self: next(answers, None) is None and finished(self))
    status, said = run('a.png', *options)
    assert status == 0 and 'a_x2.png is kept' in said
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / 'restored').rglob('*') if path.is_file()}
    assert (tmp_path / 'restored/a_run').exists() == bool(options)


@pytest.mark.parametrize('name', ['a_x2.png', 'a_kernel.npy', 'a_sheet.png', 'a_restored.json'])
def test_a_full_disk(name, run, tmp_path, monkeypatch):
    write_two(tmp_path / 'in')
    assert run('in', '-o', 'whole')[0] == 0
    with monkeypatch.context() as patch:
        full_at(name, patch)
        status, said = run('in', '-o', 'out', '--checkpoint-every', 0)
    assert status == 1 and f'{name}: No space left on device' in said and '1 done, 1 failed' in said
    assert not list((tmp_path / 'out').glob('.*')) and not (tmp_path / 'out/a_restored.json').exists()
    status, said = run('in', '-o', 'out')
    assert status == 0 and 'resumes from its checkpoint' in said
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(run, tmp_path, monkeypatch):
    write(tmp_path / 'a.png')
    monkeypatch.setattr(torch, 'save', lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'No space left')))
    status, said = run('a.png', '--checkpoint-every', 0)
    assert status == 0 and 'checkpoint cannot be written: No space left' in said


def test_out_of_memory_costs_no_step_and_no_other_picture(run, tmp_path, monkeypatch):
    write_two(tmp_path / 'in')
    assert run('in', '-o', 'whole')[0] == 0
    show, step = LiveView.__call__, TextureUNet.forward

    def full(net, x, t):
        if broken and not net.training and x.any() and len(seen) > 4:  # the plan tries networks on zeros
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')
        return step(net, x, t)

    def watch(self, progress):
        seen.append((self.name, progress.phase, progress.step))
        show(self, progress)

    monkeypatch.setattr(TextureUNet, 'forward', full)
    monkeypatch.setattr(LiveView, '__call__', watch)
    seen, broken = [], True
    status, said = run('in', '-o', 'out', '--checkpoint-every', 0, '--fresh')
    assert status == 1 and '2 failed' in said and f'a.png: {SHORTAGE}; the same command without --fresh' in said
    assert seen[-1][:2] == ('b.png', 'prior')
    status, said = run('in', '-o', 'out', '--set', 'memory_limit=0.1')
    assert status == 1 and said.count('needs about') == 2 and 'memory_limit is 0.1 GB: take a smaller picture' in said
    seen, broken = [], False
    status, said = run('in', '-o', 'out', '--set', 'memory_limit=8')
    assert status == 0 and said.count('resumes from its checkpoint') == 2 and ('a.png', 'prior', 1) not in seen
    assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')
    assert run('in', '-o', 'out')[1].count('is kept') == 2


def test_a_live_picture_that_cannot_be_written_does_not_end_the_run(run, tmp_path, monkeypatch):
    write(tmp_path / 'a.png')

    def full(self, **status):
        raise OSError(errno.ENOSPC, 'No space left')

    monkeypatch.setattr(LiveView, 'say', full)
    status, said = run('a.png')
    assert status == 0 and 'live picture cannot be written: No space left' in said


def test_a_pipe_is_not_waited_for(run, tmp_path):
    os.mkfifo(tmp_path / 'a.png')
    status, said = run('a.png')
    assert status == 1 and 'not a file' in said


def test_a_fault_of_the_program_shows_where_on_demand(run, tmp_path, monkeypatch, caplog):
    write(tmp_path / 'a.png')
    monkeypatch.setattr(Restoration, '_write', lambda *_: 1 / 0)
    status, said = run('a.png')
    assert status == 1 and 'a.png: ZeroDivisionError: division by zero (a bug in the program: set KERNEL' in said
    monkeypatch.setattr(Restoration, '_write', lambda *_: (_ for _ in ()).throw(AssertionError))  # without a text
    assert 'a.png: AssertionError (a bug in the program: set KERNELFUSION_DEBUG=1' in run('a.png')[1]
    monkeypatch.setenv('KERNELFUSION_DEBUG', '1')
    caplog.clear()
    assert call('restore', 'a.png', *OPTIONS).exit_code == 1 and 'Traceback' in caplog.text


def test_an_output_place_that_cannot_be(run, tmp_path):
    write(tmp_path / 'a.png')
    (tmp_path / 'file').write_text('')
    for out, words in (('file/below', 'cannot be created'), ('a.png', 'overwritten'), ('a.xyz', 'must end in')):
        status, said = run('a.png', '-o', out)
        assert status == 2 and words in said
    write(tmp_path / 'b.png')
    for arguments, words in ((('a.png', 'b.png', '-o', 'one.png'), '2 pictures: name a folder'),
                             (('.', '-o', tmp_path), 'name another')):
        status, said = run(*arguments)
        assert status == 2 and words in said


@pytest.mark.parametrize(('options', 'own'), [
    (['-o', 'in/rot.jpg'], 'rot.jpg'), (['-o', 'in'], 'p_kernel.png'), (['-o', 'in'], 'p_kernels.npy'),
    (['-o', 'in'], 'p_restored.json'), (['-o', 'in'], 'p_run/notes.txt')])
def test_what_is_no_result_is_not_written_over(options, own, run, tmp_path):
    """Even with --fresh; the other pictures are done."""
    write(tmp_path / 'in/p.png')
    own = tmp_path / 'in' / own
    own.parent.mkdir(exist_ok=True)
    own.write_text('[]')
    place, before = own.parent if own.parent.name == 'p_run' else own, set(tmp_path.rglob('*'))
    for more in ([], ['--fresh'], ['--dry-run']):
        status, said = run('in/p.png', *options, *more)
        line = f'p.png: {place.relative_to(tmp_path)} would be overwritten, but is not a result of this command'
        assert status == 1 and f'{line}: move it away or choose another -o' in said
    assert own.read_text() == '[]' and set(tmp_path.rglob('*')) == before
    if options == ['-o', 'in']:
        write(tmp_path / 'q.png')
        status, said = run('in/p.png', 'q.png', *options)
        assert status == 1 and '1 done, 1 failed' in said and (tmp_path / 'in/q_x2.png').exists()


def test_results_of_other_settings_are_known_for_ours(run, tmp_path, monkeypatch):
    """Of both scales, which share the names of the kernels; and where the disk was full before the record."""
    write(tmp_path / 'a.png')
    for options in ([], ['--scale', 3], [], ['--scale', 3]):
        assert run('a.png', *options)[0] == 0
    with monkeypatch.context() as patch:
        full_at('a_restored.json', patch)
        assert run('a.png', '--scale', 4)[0] == 1
    assert (tmp_path / 'restored/a_x4.png').exists()
    assert run('a.png', '--scale', 4)[0] == 0 and run('a.png')[0] == 0
    record = json.loads((tmp_path / 'restored/a_restored.json').read_text())
    assert set(record['earlier']) == {'a_x3.png', 'a_x4.png'}
    (tmp_path / 'restored/a_restored.json').unlink()
    status, said = run('a.png')
    assert status == 1 and 'a_x2.png would be overwritten' in said


def test_the_written_picture_is_like_the_given(run, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (18, 20, 4), dtype=np.uint16)
    tifffile.imwrite(tmp_path / 'deep.tif', deep, photometric='rgb', extrasamples=[2])
    write(tmp_path / 'turned.jpg', exif=_turned())
    Image.fromarray(np.asarray(Image.open(write(tmp_path / 'x.png')).convert('L'))).save(tmp_path / 'grey.webp')
    Image.open(tmp_path / 'x.png').convert('L').save(tmp_path / 'grey.png')
    status, said = run('deep.tif', 'turned.jpg', 'grey.png')
    assert status == 0, said
    deep_out = read_picture(tmp_path / 'restored/deep_x2.tif')
    assert deep_out.bits == 16 and deep_out.alpha is not None and deep_out.y.shape[-2:] == (36, 40)
    assert read_picture(tmp_path / 'restored/turned_x2.png').y.shape[-2:] == (40, 36)
    assert read_picture(tmp_path / 'restored/grey_x2.png').grey
    status, _ = run('deep.tif', '-o', 'other.jpg')
    assert status == 0 and (tmp_path / 'other_kernel.npy').exists() and Image.open(tmp_path / 'other.jpg').mode == 'RGB'


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_the_estimate_of_a_command_is_made_and_said(tmp_path, monkeypatch, caplog):
    """Others go without it, for their time."""
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'a.png')
    assert call('restore', *OPTIONS, 'a.png').exit_code == 0
    assert re.search(r'about [\d.]+ s, estimated from a few timed steps: .* GB of memory', caplog.text)


@pytest.mark.parametrize(('options', 'said'), [
    (['--kernel-size', 20], '--kernel k.npy (12 x 12) and --kernel-size 20 contradict each other: give one of them'),
    (['--set', 'kernel_size=20'], '--kernel k.npy (12 x 12) and --kernel-size 20 contradict each other'),
    (['--regions', '1x2'], '--kernel k.npy (1x1 regions) and --regions 1x2 contradict each other: give one of them'),
    (['--regions', 'auto'], '--kernel k.npy (1x1 regions) and --regions auto contradict each other'),
    (['--solver', 'joint'], "k.npy: solver 'joint' takes no known kernel")])
def test_options_that_contradict_a_known_kernel_end_before_anything_is_done(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'a.png')
    np.save(tmp_path / 'k.npy', np.full((12, 12), 1 / 144, np.float32))
    answer = call('restore', 'a.png', '--scale', 2, '--kernel', 'k.npy', *options)
    assert answer.exit_code == 2 and said in answer.output and not (tmp_path / 'restored').exists()


@pytest.mark.parametrize(('size', 'option', 'grid'), [(3, [], 5), (4, ['--kernel-size', 4, '--regions', '1x1'], 4),
                                                      (4, ['--scale', 3], 6)])
def test_a_small_known_kernel_lies_in_the_middle_of_its_grid(size, option, grid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / 'a.png')
    np.save(tmp_path / 'k.npy', np.full((size, size), 1 / size ** 2, np.float32))
    assert call('restore', 'a.png', *OPTIONS, '--kernel', 'k.npy', *option).exit_code == 0
    around = (grid - size) // 2
    assert np.allclose(np.load(tmp_path / 'restored/a_kernel.npy'), np.pad(np.load(tmp_path / 'k.npy'), around))


@pytest.mark.parametrize('options', [
    ['--scale', 2, '--set', 'scale=3'], ['--solver', 'em', '--set', 'solver=joint'], ['--seed', 1, '--set', 'seed=2'],
    ['--preset', 'quick', '--set', 'preset=paper'], ['--kernel-size', 12, '--set', 'kernel_size=14'],
    ['--regions', '1x1', '--set', 'regions=1x2']])
def test_an_option_and_set_that_contradict_each_other_are_refused(options, run, tmp_path):
    """The same twice is no contradiction, and neither is another value than the default's."""
    write(tmp_path / 'a.png')
    flag, value, _, change = options
    status, said = run('a.png', *options, '--dry-run')
    assert status == 2 and f'{flag} {value} and --set {change} contradict each other: give one of them' in said
    for fine in ([flag, value, '--set', f'{change.partition("=")[0]}={value}'], ['--set', 'seed=2']):
        assert run('a.png', *fine, '--dry-run')[0] == 0


def test_a_kernel_that_was_found_in_a_picture_of_another_size_is_refused(run, tmp_path):
    """The blur of one that was made half as large is half as wide."""
    blocks = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(blocks).save(tmp_path / 'a.png')
    assert run('a.png', '--shrink', 2)[0] == 0
    again = ('a.png', '--kernel', 'restored/a_kernel.npy', '-o', 'again', '--dry-run')
    status, said = run(*again)
    assert status == 2 and 'a_kernel.npy: found with --shrink 2 (see a_restored.json)' in said
    assert run(*again, '--shrink', 2)[0] == 0


def test_a_kernel_that_was_found_at_another_scale_is_refused(run, tmp_path):
    """As the record beside it says, if it is that very kernel."""
    write(tmp_path / 'a.png')
    assert run('a.png')[0] == 0
    kernel = tmp_path / 'restored/a_kernel.npy'
    status, said = run('a.png', '--kernel', 'restored/a_kernel.npy', '--scale', 3, '-o', 'again')
    assert status == 2 and 'a_kernel.npy: found with --scale 2 (see a_restored.json)' in said
    assert 'give --scale 2, or another kernel' in said
    assert run('a.png', '--kernel', 'restored/a_kernel.npy', '-o', 'again', '--dry-run')[0] == 0
    np.save(kernel, gaussian(12, sigmas=1.5).numpy())
    assert run('a.png', '--kernel', 'restored/a_kernel.npy', '--scale', 3, '--dry-run')[0] == 0


def test_a_picture_is_made_smaller_first(run, tmp_path):
    """For a blur wider than the kernel's grid; the result is that of the small picture, and another than the large."""
    blocks = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(blocks[:37]).save(tmp_path / 'a.png')
    status, said = run('a.png', '--shrink', 2, '-o', 'out')
    assert status == 0 and '20 x 18 to 40 x 36' in said
    with Image.open(tmp_path / 'out/a_x2.png') as restored:
        assert restored.size == (40, 36)
    assert 'is kept' in run('a.png', '--shrink', 2, '-o', 'out')[1]
    assert json.loads((tmp_path / 'out/a_restored.json').read_text())['shrink'] == 2
    small = read_picture(tmp_path / 'a.png').smaller(2).y
    expected = restore(small, KernelFusionConfig.from_dict(TOY), name='a')
    assert np.array_equal(np.load(tmp_path / 'out/a_kernel.npy'), expected.kernel.numpy())
    assert 'is kept' not in run('a.png', '-o', 'out')[1]
    with Image.open(tmp_path / 'out/a_x2.png') as restored:
        assert restored.size == (80, 74)
    status, said = run('a.png', '--shrink', 3, '-o', 'out')
    assert status == 1 and 'the image is 13 x 12 pixels' in said and 'at least 15 x 15 are needed' in said
    assert 'it was 40 x 37 before --shrink 3' in said
    assert 'before --shrink' not in run(write(tmp_path / 'b.png', size=(9, 20)), '-o', 'out')[1]


def test_known_kernels_of_regions(tmp_path, monkeypatch, caplog):
    """As a run with --regions has written them."""
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('kernelfusion_plugin.core.regional_degradation.SMALLEST', 8)
    write(tmp_path / 'a.png', size=(20, 40))
    kernels = torch.stack([gaussian(12, sigmas=1.2), gaussian(12, sigmas=2.0)])[None]
    np.save(tmp_path / 'a_kernels.npy', kernels.numpy())
    answer = call('restore', *OPTIONS, 'a.png', '--kernel', 'a_kernels.npy')
    assert answer.exit_code == 0 and 'estimated from a few timed steps' in caplog.text
    assert np.allclose(np.load(tmp_path / 'restored/a_kernels.npy'), kernels, atol=1e-7)


def test_a_known_kernel(run, tmp_path):
    write(tmp_path / 'a.png')
    np.save(tmp_path / 'k.npy', gaussian(9, sigmas=1.5).numpy())
    assert run('a.png', '--kernel', 'k.npy')[0] == 0
    assert np.allclose(np.load(tmp_path / 'restored/a_kernel.npy'), np.load(tmp_path / 'k.npy'), atol=1e-7)
    for spoil, words in ((np.full((9, 9), np.nan), 'not finite'), (-np.ones((9, 9)), 'no positive'),
                         (np.zeros((9, 9)), 'no positive'), (np.ones((9, 8)), 'square'), (np.ones((99, 99)), '64')):
        np.save(tmp_path / 'k.npy', spoil)
        status, said = run('a.png', '--kernel', 'k.npy')
        assert status == 2 and words in said
    np.save(tmp_path / 'k.npy', np.array([print], dtype=object), allow_pickle=True)
    status, said = run('a.png', '--kernel', 'k.npy')
    assert status == 2 and 'k.npy: cannot be read' in said


def test_the_kernel_as_it_is_drawn_for_the_eye_is_refused(run, tmp_path):
    write(tmp_path / 'a.png')
    Image.new('L', (240, 240), 255).save(tmp_path / 'a_kernel.png')
    status, said = run('a.png', '--kernel', 'a_kernel.png')
    assert status == 2 and '--kernel a_kernel.png' in said and 'got 240' in said and 'give NAME_kernel.npy' in said


def test_a_preset_that_makes_no_difference_is_said_to(run, tmp_path):
    write(tmp_path / 'a.png')
    for options in ([], ['--preset', 'quick']):  # with final_prior: both
        assert 'makes no difference' not in run('a.png', *options)[1]
    said = run('a.png', '--preset', 'quick', '--set', 'em.final_prior=textures')[1]
    assert '--preset quick has no effect with these options' in said


def test_an_empty_name_is_no_folder(run):
    """As from a script's variable that is not set; it is not taken for the working folder."""
    status, said = run('', '-o', '.')
    assert status == 2 and 'the name of a picture is empty: give a file' in said


@pytest.mark.parametrize(('seconds', 'said'), [
    (0.123, 'about 0.12 s'), (89, 'about 89 s'), (100, 'about 1.7 min'), (5399, 'about 90 min'), (5400, 'about 1.5 h'),
    (432_100, 'about 120 h')])
def test_times_are_told_in_two_figures(seconds, said, run, tmp_path, monkeypatch):
    write(tmp_path / 'a.png')
    monkeypatch.setattr('kernelfusion_plugin.cli.batch.measure_pace', lambda *_: Pace({'prior': seconds}, 'em', []))
    assert f'{said}, estimated from a few' in run('a.png', '--dry-run')[1]


@pytest.mark.parametrize(('options', 'words'), [
    (['--set', 'em.fine_pases=3'], "'em.fine_pases': did you mean 'fine_passes'"),
    (['--set', 'em.fine_passes'], 'KEY=VALUE'), (['--set', 'a.b.c=1'], 'SECTION.KEY'),
    (['--set', 'seed.x=1'], 'not a section'),
    (['--device', 'gpu'], "for '--device': gpu: "), (['--device', 'hpu'], "for '--device': hpu: "),
    (['--device', 'vulkan'], "from the 'Vulkan' backend\n"), (['--device', 'meta'], "for '--device': meta: "),
    (['--scale', '9'], '9 is not in the range'), (['--preset', 'quik'], 'quik'), (['--set', 'em.steps=0'], 'em.steps')])
def test_faults_in_the_options(options, words, run, tmp_path):
    write(tmp_path / 'a.png')
    status, said = run('a.png', *options)
    assert status == 2 and words in said and not list(tmp_path.glob('restored/*'))


def test_a_saved_run_is_watched_and_animated(run, tmp_path):
    write(tmp_path / 'a.png')
    assert run('a.png')[0] == 0 and 'too late for --save-run: --fresh' in run('a.png', '--save-run')[1]
    assert run('a.png', '--save-run', '--fresh')[0] == 0 and 'too late' not in run('a.png', '--save-run')[1]
    folder = tmp_path / 'restored/a_run'
    assert sorted(path.name for path in folder.iterdir()) == ['frames', 'live.png', 'plot.png', 'status.json']
    answer = call('watch', 'restored')
    assert answer.exit_code == 0 and 'live.png' in answer.output and 'a.png: finished' in answer.output
    for name, kind in (('a.gif', 'GIF'), ('a.gif', 'GIF'), ('a.png', 'PNG'), ('a.png', 'PNG')):  # also over its own
        answer = call('watch', folder, '--animation', tmp_path / 'out' / name)
        assert answer.exit_code == 0 and '8 frames' in answer.output
        with Image.open(tmp_path / 'out' / name) as animation:
            assert animation.format == kind and animation.n_frames > 3  # equal ones are joined
    (tmp_path / 'notes.gif').write_text('mine')
    for other in ('a.png', 'notes.gif', folder / 'live.png'):
        before = (tmp_path / other).read_bytes()
        answer = call('watch', folder, '--animation', tmp_path / other)
        assert answer.exit_code == 2 and f'{other} would be overwritten, but is not an animation' in answer.output
        assert (tmp_path / other).read_bytes() == before
    assert call('watch', tmp_path / 'nowhere').exit_code == 2
    assert call('watch', folder, '--animation', 'a.mp4').exit_code == 2


def test_a_saved_run_that_is_done_anew_keeps_no_frames_of_the_former(run, tmp_path):
    write(tmp_path / 'a.png')
    assert run('a.png', '--save-run', '--set', 'em.final_steps=4')[0] == 0
    frames = tmp_path / 'restored/a_run/frames'
    more = {path.name for path in frames.iterdir()}
    assert run('a.png', '--save-run')[0] == 0  # of fewer steps
    assert {path.name for path in frames.iterdir()} < more
    before = {path: path.read_bytes() for path in frames.parent.rglob('*') if path.is_file()}
    status, said = run('a.png', '--save-run', '--fresh', '--set', 'memory_limit=0.01')
    assert status == 1 and 'GB of memory' in said  # refused: what is there stays
    kept = {path: path.read_bytes() for path in frames.parent.rglob('*') if path.is_file() and path.name != 'lock'}
    assert kept == before


def test_weights_of_the_texture_prior(run, tmp_path):
    """Other ones give another result; changed ones are noticed, faulty ones are a fault in the options."""
    write(tmp_path / 'a.png')
    torch.manual_seed(0)
    net = TextureUNet()
    torch.nn.init.normal_(net.tail.weight, std=0.05)
    fit_textures.save(net, tmp_path / 'own.pt')
    options = ('--set', 'em.final_prior=tuned', '--set', 'tuning.steps=2', '--set', 'texture_weights=own.pt')
    assert run('a.png', *options[:4], '-o', 'shipped')[0] == 0 and run('a.png', *options, '-o', 'own')[0] == 0
    shipped, own = ((tmp_path / name / 'a_kernel.npy').read_bytes() for name in ('shipped', 'own'))
    assert shipped != own
    assert 'is kept' in run('a.png', *options, '-o', 'own')[1]
    torch.nn.init.normal_(net.tail.weight, std=0.1)
    fit_textures.save(net, tmp_path / 'own.pt')
    assert 'is kept' not in run('a.png', *options, '-o', 'own')[1]
    assert (tmp_path / 'own/a_kernel.npy').read_bytes() != own
    for spoil, fault in ((lambda: torch.save({'a': torch.ones(1)}, 'own.pt'), 'not weights of the texture prior: '),
                         (lambda: torch.save({'params': {}}, 'own.pt'), 'it must hold a dict of tensors'),
                         ((tmp_path / 'own.pt').unlink, 'there is no such file')):
        spoil()
        status, said = run('a.png', *options, '-o', 'faulty')
        assert status == 2 and '--set texture_weights: own.pt: ' in said and fault in said
        assert not (tmp_path / 'faulty').exists()
    status, said = run('a.png', '--solver', 'joint', '--set', 'texture_weights=own.pt')
    assert status == 2 and 'this run has no texture prior' in said


def test_the_live_picture_shows_a_large_picture_once(tmp_path):
    LiveView(tmp_path, 'a.png', np.zeros((600, 1000, 3), np.uint8))(Progress('prior', 1, 2, 0.5, 0.1))
    width, height = Image.open(tmp_path / 'live.png').size
    assert width < 600 and height < 450  # reduced to 480 x 288, with title and caption


def test_watch_says_where_a_run_stands(run, tmp_path, monkeypatch):
    write(tmp_path / 'a.png')
    seen, show = [], LiveView.__call__

    def look(self, progress):
        show(self, progress)
        if progress.step == progress.total:
            seen.append(call('watch', '--once').output)

    monkeypatch.setattr(LiveView, '__call__', look)
    assert run('a.png')[0] == 0
    assert 'a.png: phase 1 (patch prior), step 3/3' in seen[0] and 'a.png: phase 2 (em), step 8/8' in seen[1]
    assert 'no process' not in seen[1]


def test_watch_follows_a_folder_from_the_first_picture_to_the_last(run, tmp_path):
    """Though nothing runs between two pictures, of which one is kept and one is refused."""
    for seed, name in enumerate('abcd'):
        write(tmp_path / 'in' / f'{name}.png', seed)
    out, said = tmp_path / 'out', []
    assert run('in/b.png', '-o', 'out', '--save-run')[0] == 0
    (tmp_path / 'in/c.png').write_bytes(b'')

    def watch():
        while not is_at_work(out):
            time.sleep(0.001)
        said.extend(follow(out, 0.001))

    thread = threading.Thread(target=watch)
    thread.start()
    assert run('in', '-o', 'out', '--save-run')[0] == 1
    thread.join(60)
    places = [said.index(f'live picture: {out / name}_run/live.png') for name in 'ad']
    assert any(line.startswith('a.png: phase 1') for line in said[places[0]:places[1]])
    assert any(line.startswith('d.png: phase 2') for line in said[places[1]:])
    assert said[-2:] == ['d.png: finished', 'the run has ended'] and not list(out.glob('.*'))


def test_watch_waits_for_the_first_step(tmp_path, monkeypatch):
    """While the pictures are read and the time is estimated; a command that was killed then is not waited for."""
    (tmp_path / '.restore-0123.lock').touch()
    assert 'no run here' in call('watch', tmp_path).output
    with at_work(tmp_path):
        assert call('watch', tmp_path, '--once').output == 'no step done yet\n'
        monkeypatch.setattr('kernelfusion_plugin.live.time.sleep', lambda seconds: next(tmp_path.glob('.*')).unlink())
        assert call('watch', tmp_path).output == 'no step done yet\nthe run has ended\n'


def test_sweeping_leaves_other_files(run, tmp_path):
    write(tmp_path / 'a.png')
    (tmp_path / 'restored').mkdir()
    for name in ('.a_x2.png.abc.tmp', '.b_x2.png.abc.tmp', 'notes.tmp'):
        (tmp_path / 'restored' / name).touch()
    assert run('a.png')[0] == 0
    assert {path.name for path in (tmp_path / 'restored').glob('*.tmp')} == {'notes.tmp', '.b_x2.png.abc.tmp'}


def test_completion_is_produced():
    complete = ShellComplete(main, {}, 'kernelfusion', '_KERNELFUSION_COMPLETE')
    assert 'restore' in {item.value for item in complete.get_completions([], 're')}
    assert {item.value for item in complete.get_completions(['restore', '--preset'], 'pa')} == {'paper', 'paper-100k'}
    answer = CliRunner().invoke(main, prog_name='kernelfusion', env={'_KERNELFUSION_COMPLETE': 'zsh_source'})
    assert '_KERNELFUSION_COMPLETE=zsh_complete' in answer.output


def test_the_record_says_how_it_came_about(run, tmp_path):
    write(tmp_path / 'a.png')
    assert run('a.png', '--seed', 7)[0] == 0
    record = json.loads((tmp_path / 'restored/a_restored.json').read_text())
    assert record['config']['seed'] == 7 and record['versions']['torch'] == torch.__version__
    assert set(record['files']) == {'a_x2.png', 'a_kernel.npy', 'a_kernel.png', 'a_sheet.png'}
    assert str(tmp_path) not in json.dumps(record)


def test_the_seed_name_is_the_files_own(tmp_path):
    """Neither the folder, the place of the result nor the picture's neighbours decide the random numbers."""
    one = Restoration(tmp_path / 'in/a.png', tmp_path / 'out/in_a_png_x4.png', None)
    assert one.name == 'a'


def test_exif_goes_along_and_finished_pictures_are_still_recognised(run, tmp_path):
    exif = _turned()
    exif[0x010F], exif[0x8769] = 'Leica', {0x9003: '2021:05:06 07:08:09', 0xA002: 20, 0xA003: 18}
    write(tmp_path / 'photo.jpg', exif=exif)
    for options, out in (([], 'restored/photo_x2.png'), (['-o', 'sharp.jpg'], 'sharp.jpg')):
        assert run('photo.jpg', *options)[0] == 0
        found = Image.open(tmp_path / out).getexif()
        assert (found[0x010F], found[0x0112]) == ('Leica', 1)
        assert found.get_ifd(0x8769) == {0x9003: '2021:05:06 07:08:09', 0xA002: 36, 0xA003: 40}
        assert 'is kept' in run('photo.jpg', *options)[1]
    before = (tmp_path / 'sharp.jpg').read_bytes()
    assert run('photo.jpg', '-o', 'sharp.jpg', '--fresh')[0] == 0 and (tmp_path / 'sharp.jpg').read_bytes() == before


def test_further_pages_are_spoken_of_once(run, tmp_path):
    pages = [Image.open(write(tmp_path / f'{seed}.png', seed)) for seed in range(3)]
    pages[0].save(tmp_path / 'scan.tif', save_all=True, append_images=pages[1:])
    status, said = run('scan.tif', '0.png')
    assert status == 0 and said.count(' pages, only the first is restored') == 1
    assert '[1/2] scan.tif: has 3 pages, only the first is restored' in said
    with Image.open(tmp_path / 'restored/scan_x2.tif') as image:
        assert image.size == (40, 36) and image.n_frames == 1


def test_what_alpha_hides_decides_nothing(run, tmp_path):
    """Black or white beneath: the same kernel, and the same where it can be seen."""
    soft = np.asarray(Image.open(write(tmp_path / 'x.png')))
    hidden = np.zeros(soft.shape[:2], bool)
    hidden[4:12, 5:14] = True
    for name, beneath in (('black', 0), ('white', 255)):
        colour = np.where(hidden[..., None], beneath, soft).astype(np.uint8)
        (tmp_path / name).mkdir()
        Image.fromarray(np.dstack([colour, ~hidden * np.uint8(255)])).save(tmp_path / name / 'cut.png')
        assert run(tmp_path / name / 'cut.png', '-o', f'{name}-out')[0] == 0
    assert contents(tmp_path / 'black-out') == contents(tmp_path / 'white-out')


def test_a_folder_of_photographs_of_which_some_are_not_read(run, tmp_path):
    write(tmp_path / 'in/a.jfif', format='JPEG')
    write(tmp_path / 'in/b.tga')
    for name in ('c.heic', 'd.nef'):
        (tmp_path / 'in' / name).touch()
    status, said = run('in')
    assert status == 0 and '2 done' in said and said.count('skipped') == 1
    assert 'in: 2 files skipped, unsupported format: c.heic, d.nef' in said
    for name in ('a.jfif', 'b.tga'):
        (tmp_path / 'in' / name).unlink()
    status, said = run('in')
    assert status == 2 and 'in: no pictures in this folder' in said and '2 files skipped' in said


def test_a_format_that_is_not_read_is_named(run, tmp_path):
    (tmp_path / 'a.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(60))
    write(tmp_path / 'b.png')
    status, said = run('a.heic', 'b.png')
    assert status == 1 and 'a.heic: HEIC (HEIF) is not supported: save it as PNG, JPEG or TIFF' in said
    assert '1 done, 1 failed' in said


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run, tmp_path):
    write(tmp_path / 'a.png')
    status, said = run('a.png', '--dry-run')
    assert status == 0 and 'a.png, 20 x 18 to 40 x 36' in said and 'about 1.7 min' in said and 'GB of memory' in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png']


def test_a_dry_run_says_what_would_be_gone_on_with(run, tmp_path, monkeypatch):
    write(tmp_path / 'a.png')
    write(tmp_path / 'b.png', 1)
    with monkeypatch.context() as patch:
        patch.setattr(LiveView, '__call__', lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert run('a.png')[0] == 130
    line = 'a.png: would resume from a checkpoint'
    for options, there in (([], True), (['b.png'], True), (['--seed', 1], False), (['--fresh'], False)):
        status, said = run('a.png', *options, '--dry-run')
        assert status == 0 and said.count('would resume from a checkpoint') == there == (line in said)


def test_a_path_that_is_no_line_breaks_no_line(run, tmp_path):
    write(tmp_path / 'a\nb.png')
    write(tmp_path / 'c\nd.png', size=(9, 9))
    for words in (': restored/a?b_x2.png, ', ': already done, restored/a?b_x2.png is kept'):
        status, said = run('a\nb.png')
        assert status == 0 and words in said
    status, said = run('a\nb.png', '-o', 'n\nm/a.png')
    assert status == 0 and ', into n?m/a.png' in said
    (tmp_path / 'restored/a\nb_restored.json').unlink()
    for options, words in ((['a\nb.png'], 'a?b.png: restored/a?b_x2.png would be overwritten, but is'),
                           (['c\nd.png', '-o', 'n\nm'], 'c?d.png: the image is 9 x 9 pixels')):
        status, said = run(*options)
        assert status == 1 and words in said
    with checkpoints.locked(tmp_path / 'restored/a\nb_run/lock'):
        status, said = run('a\nb.png')
        assert status == 1 and 'a?b.png: restored/a?b_run: another process is working here' in said


def test_a_result_that_its_format_has_no_room_for_is_refused_before_the_work(run, tmp_path):
    Image.new('RGB', (8200, 16)).save(tmp_path / 'wide.png')
    status, said = run('wide.png', '-o', 'wide_sharp.webp')
    assert status == 1 and 'wide.png: the result would have 16400 x 32 pixels, but WEBP allows only 16383' in said
    assert not (tmp_path / 'wide_sharp_run').exists()
    assert run('wide.png', '-o', 'wide_sharp.jpg', '--dry-run')[0] == 0


def test_a_dry_run_names_what_cannot_be_done(run, tmp_path):
    write(tmp_path / 'a.png')
    (tmp_path / 'bad.jpg').write_text('no picture')
    status, said = run('a.png', 'bad.jpg', '--dry-run')
    assert status == 1 and 'bad.jpg: not an image' in said and 'about 1.7 min' in said
    status, said = run('a.png', '--dry-run', '--set', 'memory_limit=0.01')
    assert status == 1 and 'a.png: a result of' in said and 'memory_limit is 0.0 GB' in said
    assert not (tmp_path / 'restored').exists()


def test_faults_of_other_options_are_not_the_kernels(run, tmp_path):
    write(tmp_path / 'a.png')
    np.save(tmp_path / 'k.npy', np.full((12, 12), 1 / 144, np.float32))
    status, said = run('a.png', '--kernel', 'k.npy', '--set', 'em.bogus=1')
    assert status == 2 and "unknown option 'em.bogus'" in said and 'k.npy' not in said
