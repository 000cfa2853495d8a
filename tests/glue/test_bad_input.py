"""Bad input costs the image that it is in, one clear line, and the exit status; nothing else."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.utils.registry import METRIC_REGISTRY
from glue_helpers import digests, make_lmdb, run_toolbox, scores, texture, toy_options, write_pair
from PIL import Image

from kernelfusion_plugin import runlog
from kernelfusion_plugin.data import RandomBlurDataset, TolerantPairedDataset
from kernelfusion_plugin.entries import entries


@pytest.fixture
def data(tmp_path):
    write_pair(tmp_path, 'good', 1)
    write_pair(tmp_path, 'bad', 2)
    return tmp_path


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


def replace_by(height, width):
    return lambda path: Image.fromarray(texture(height, width, 5)).save(path)


CASES = {
    'empty': ('lr', lambda path: path.write_bytes(b''), 'the file is empty'),
    'no image': ('lr', lambda path: path.write_text('no image'), 'not an image'),
    'cut off': ('lr', cut_off, 'damaged'),
    'empty truth': ('hr', lambda path: path.write_bytes(b''), 'the file is empty'),
    'truth too small': ('hr', replace_by(96, 90), r'90 x 96 .* 96 x 96'),
    'truth too large': ('hr', replace_by(100, 96), r'96 x 100 .* 96 x 96.*kernelfusion: crop_gt'),
}


@pytest.mark.parametrize('case', CASES)
def test_one_bad_file(case, data, monkeypatch, log):
    role, spoil, message = CASES[case]
    run_toolbox(toy_options(data), data / 'whole', monkeypatch)
    spoil(data / role / 'bad.png')
    log.clear()
    assert run_toolbox(toy_options(data), data / 'run', monkeypatch) == 1
    assert [row['image'] for row in scores(data / 'run')] == ['good']
    assert digests(data / 'run') == {key: value for key, value in digests(data / 'whole').items() if 'good' in key}
    errors = [record.getMessage() for record in log.records if record.levelname == 'ERROR']
    assert len(errors) == len(runlog.failures) == 1 and '\n' not in errors[0]
    assert f'{role}/bad.png' in errors[0] and re.search(message, errors[0])
    assert 'mean of 1 image' in log.text and '1 failed' in log.text


def test_larger_truth_is_cut_on_demand(data, monkeypatch):
    replace_by(100, 99)(data / 'hr/bad.png')
    assert run_toolbox(toy_options(data, kernelfusion__crop_gt=True), data / 'run', monkeypatch) == 0
    assert len(scores(data / 'run')) == 2


def test_the_advice_on_a_larger_truth_names_the_models_own_section(data, monkeypatch):
    replace_by(100, 96)(data / 'hr/bad.png')
    assert run_toolbox(toy_options(data, model_type='BicubicModel'), data / 'run', monkeypatch) == 1
    assert runlog.failures[0].endswith('(baseline: crop_gt: true crops larger ones)')
    assert run_toolbox(toy_options(data, model_type='BicubicModel', baseline__crop_gt=True), data / 'two',
                       monkeypatch) == 0


@pytest.mark.parametrize('height', [10, 1])
def test_small_image(height, data, monkeypatch):
    replace_by(height, 24)(data / 'lr/bad.png')
    replace_by(4 * height, 96)(data / 'hr/bad.png')
    assert run_toolbox(toy_options(data), data / 'run', monkeypatch) == 1
    assert len(scores(data / 'run')) == 1 and re.search(rf'lr/bad\.png: .*24 x {height} .*15 x 15', runlog.failures[0])


def test_only_bad_images(data, monkeypatch):
    for name in ('good', 'bad'):
        (data / f'lr/{name}.png').write_bytes(b'')
    assert run_toolbox(toy_options(data), data / 'run', monkeypatch) == 1
    assert scores(data / 'run') == [] and len(runlog.failures) == 2


def test_bad_image_of_a_folder_without_truth(data, monkeypatch):
    (data / 'lr/notes').write_text('shopping list')  # without an ending it may be one
    opt = toy_options(data)
    opt['datasets']['test_1'] = {'name': 'Plain', 'type': 'SingleImageDataset', 'dataroot_lq': str(data / 'lr'),
                                 'io_backend': {'type': 'disk'}}
    assert run_toolbox(opt, data / 'run', monkeypatch) == 1
    assert len(scores(data / 'run')) == 2 and 'notes: not an image' in runlog.failures[0]


def scatter(folder, names=('readme.txt', 'Thumbs.db', 'meta.json', 'a.png.bak')):
    """Files as they come to lie beside pictures."""
    for name in names:
        (folder / name).write_bytes(b'\xd0\xcf no picture')


def left_out(log):
    return [record.getMessage() for record in log.records if record.levelname == 'INFO' and 'skipped' in record.msg]


@pytest.mark.parametrize('kind', ['SingleImageDataset', 'PairedImageDataset', 'TolerantPairedDataset'])
def test_files_that_are_no_pictures_are_left_out(kind, data, monkeypatch, log):
    scatter(data / 'lr')
    if kind != 'SingleImageDataset':
        scatter(data / 'hr')
    if kind == 'TolerantPairedDataset':  # which neither BasicSR's count nor its names stop
        scatter(data / 'hr', ['LICENSE.md', 'bad.xml'])
    opt = toy_options(data, datasets__test_1__type=kind)
    assert run_toolbox(opt, data / 'run', monkeypatch) == 0 and not runlog.failures
    assert [row['image'] for row in scores(data / 'run')] == ['bad', 'good']
    line, = left_out(log)
    count = {'SingleImageDataset': 4, 'PairedImageDataset': 8, 'TolerantPairedDataset': 10}[kind]
    assert line.startswith(f'Toy: {count} files are not pictures by extension, skipped: {data}/')
    assert line.count(str(data)) == 3 and line.endswith(', …')


def test_they_are_left_out_in_training_too(data, log):
    scatter(data / 'hr', ['readme.txt'])
    opt = {'name': 'T', 'phase': 'train', 'scale': 4, 'gt_size': 32, 'dataroot_gt': str(data / 'hr'),
           'dataroot_lq': str(data / 'lr'), 'io_backend': {'type': 'disk'}, 'use_hflip': False, 'use_rot': False}
    assert len([item['lq'] for item in TolerantPairedDataset(opt)]) == 2
    shared = {key: opt[key] for key in ('name', 'phase', 'scale', 'gt_size', 'dataroot_gt', 'io_backend')}
    drawn = RandomBlurDataset({**shared, 'kernels': [{'type': 'motion', 'size': 24}]})
    assert [Path(path).name for path in drawn.paths] == ['bad.png', 'good.png']
    assert left_out(log) == [f'T: 1 file is not a picture by extension, skipped: {data}/hr/readme.txt'] * 2


def test_what_opencv_reads_by_another_ending_is_a_picture(data, log):
    for number, ending in enumerate(('JPE', 'ras', 'pbm', 'hdr', 'dib')):
        Image.fromarray(texture(24, 24, number)).save(data / f'lr/{ending}.png')
        (data / f'lr/{ending}.png').rename(data / f'lr/{ending}.{ending}')
    Image.fromarray(texture(24, 24, 8)).save(data / 'lr/bare', format='PNG')
    dataset = SingleImageDataset({'name': 'P', 'dataroot_lq': str(data / 'lr'), 'io_backend': {'type': 'disk'}})
    assert len([entry.read(4, False) for entry in entries(dataset)]) == 8 and not left_out(log)


def test_lists_and_data_sets_of_others_are_read_as_they_are(data, log):
    """Who names a file, means it; and another's data set may read what it likes."""
    class Arrays(SingleImageDataset):
        pass

    (data / 'list.txt').write_text('good.png\nnotes.txt\n')
    scatter(data / 'lr', ['notes.txt'])
    opt = {'name': 'P', 'dataroot_lq': str(data / 'lr'), 'io_backend': {'type': 'disk'}}
    listed = SingleImageDataset({**opt, 'meta_info_file': str(data / 'list.txt')})
    assert [entry.name for entry in entries(listed)] == ['good', 'notes']
    assert len(list(entries(Arrays(opt)))) == 3 and not left_out(log)
    assert len(list(entries(SingleImageDataset(opt)))) == 2 and len(left_out(log)) == 1


@pytest.mark.parametrize('role', ['lr', 'hr', 'both'])
def test_pictures_that_share_a_name_are_not_paired(role, data, monkeypatch):
    """Neither by chance, where BasicSR counts three files and two, nor by their endings, where it finds two and two."""
    folders = ('lr', 'hr') if role == 'both' else (role,)
    for folder in folders:
        size = 96 if folder == 'hr' else 24
        Image.fromarray(texture(size, size, 7)).save(data / folder / 'bad.bmp')
    opt = toy_options(data, datasets__test_1__type='TolerantPairedDataset')
    assert run_toolbox(opt, data / 'run', monkeypatch) == 1
    assert [row['image'] for row in scores(data / 'run')] == ['good']
    low = ['bad.png'] if role == 'hr' else ['bad.bmp', 'bad.png']
    twins = ', '.join(str(data / folders[0] / name) for name in ('bad.bmp', 'bad.png'))
    assert runlog.failures == [
        f'{data}/lr/{name}: two pictures have the same name except for the extension: {twins}' for name in low]


def test_files_that_differ_in_the_ending_only_are_kept_apart(data, monkeypatch):
    Image.fromarray(texture(24, 24, 9)).save(data / 'lr/good.bmp')
    opt = toy_options(data)
    opt['datasets']['test_1'] = {'name': 'Plain', 'type': 'SingleImageDataset', 'dataroot_lq': str(data / 'lr'),
                                 'io_backend': {'type': 'disk'}}
    assert run_toolbox(opt, data / 'run', monkeypatch) == 0
    assert [row['image'] for row in scores(data / 'run')] == ['bad', 'good_bmp', 'good_png']


def test_images_without_a_true_kernel_are_counted(data, monkeypatch, log):
    (data / 'kernels/bad.npy').unlink()
    assert run_toolbox(toy_options(data), data / 'run', monkeypatch) == 0
    assert f'no true kernel for 1 of 2 images (bad): there is no {data}/kernels/bad.npy' in log.text
    assert '(1 known)' in log.text
    log.clear()
    assert run_toolbox(toy_options(data, datasets__test_1__kernel_tmpl='k_{name}'), data / 'two', monkeypatch) == 0
    assert 'no true kernel for 2 of 2 images (bad, good)' in log.text and 'kernels/k_bad.npy' in log.text
    (data / 'kernels/bad.npy').write_bytes((data / 'kernels/good.npy').read_bytes())
    log.clear()
    assert run_toolbox(toy_options(data), data / 'three', monkeypatch) == 0 and 'no true kernel' not in log.text


def test_true_kernels_go_by_the_name_of_the_truth(tmp_path, monkeypatch, log):
    """Of DIV2K's LR pictures, 0801x4.png, the last number is the scale."""
    for seed, name in enumerate(('0801', '0802')):
        write_pair(tmp_path, name, seed)
        (tmp_path / f'lr/{name}.png').rename(tmp_path / f'lr/{name}x4.png')
        (tmp_path / f'kernels/{name}.npy').rename(tmp_path / f'kernels/kernel_{int(name)}.npy')
    np.save(tmp_path / 'kernels/kernel_4.npy', np.eye(24) / 24)
    opt = toy_options(tmp_path, kernelfusion__known_kernel=True, datasets__test_1__kernel_tmpl='kernel_{number}',
                      datasets__test_1__filename_tmpl='{}x4')
    assert run_toolbox(opt, tmp_path / 'run', monkeypatch) == 0
    for name in ('0801', '0802'):
        used = np.load(tmp_path / f'run/results/toy/visualization/Toy/{name}x4_kernel.npy')
        assert np.allclose(used, np.load(tmp_path / f'kernels/kernel_{int(name)}.npy'), atol=1e-6)


def test_a_name_that_is_no_text(data, monkeypatch):
    """As on disks that were written elsewhere. The tables hold it as JSON and Python write such bytes."""
    odd = os.fsdecode(b'b\xff')
    for role in ('lr', 'hr'):
        (data / role / 'bad.png').rename(data / role / f'{odd}.png')
    (data / 'kernels/bad.npy').rename(data / 'kernels' / f'{odd}.npy')
    assert run_toolbox(toy_options(data), data / 'run', monkeypatch) == 0
    assert [row['image'] for row in scores(data / 'run')] == ['b\\udcff', 'good']
    assert any(odd in str(path) for path in (data / 'run').rglob('*_kernel.npy'))


@pytest.mark.parametrize(('letter', 'count'), [('n', 245), ('ä', 122)])
def test_a_name_too_long_for_its_results_is_found_before_the_work(letter, count, data, monkeypatch, log):
    from kernelfusion_plugin.models import kernelfusion_model
    long, begun, restore_steps = letter * count, [], kernelfusion_model.restore_steps
    for role in ('lr', 'hr'):
        (data / role / 'bad.png').rename(data / role / f'{long}.png')
    monkeypatch.setattr(kernelfusion_model, 'restore_steps',
                        lambda *args, name, **more: begun.append(name) or restore_steps(*args, name=name, **more))
    log.clear()
    assert run_toolbox(toy_options(data, kernelfusion__prior_dir=str(data / 'p')), data / 'run', monkeypatch) == 1
    assert begun == ['good'] == [row['image'] for row in scores(data / 'run')]
    errors = [record.getMessage() for record in log.records if record.levelname == 'ERROR']
    assert len(errors) == len(runlog.failures) == 1 and '\n' not in errors[0]
    assert re.search(rf'lr/{long}\.png: .* have \d+ bytes, and at most 255 are allowed here: rename the file',
                     errors[0])


def test_a_long_name_that_fits_is_done(data, monkeypatch):
    long = 'n' * 230
    for role in ('lr', 'hr'):
        (data / role / 'bad.png').rename(data / role / f'{long}.png')
    opt = toy_options(data, kernelfusion__sheet=True, kernelfusion__plot=True, kernelfusion__save_prior=True,
                      val__suffix='s' * 20)  # with .png: 255
    assert run_toolbox(opt, data / 'run', monkeypatch) == 0
    assert (data / f'run/results/toy/visualization/Toy/{long}_{"s" * 20}.png').is_file()
    opt['val']['suffix'] += 's'
    assert run_toolbox(opt, data / 'run', monkeypatch) == 1 and 'shorter val: suffix' in runlog.failures[0]


def test_a_metric_that_fails_costs_its_cell(data, monkeypatch, log):
    opt = toy_options(data, val__metrics={'niqe': {'type': 'calculate_niqe', 'crop_border': 4},
                                          'odd': {'type': 'odd'}, 'psnr': {'type': 'calculate_psnr_border'}})
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'odd', lambda img: {}['key'])
    log.clear()
    assert run_toolbox(opt, data / 'run', monkeypatch) == 1  # NIQE needs a picture of more than one block
    for row in scores(data / 'run'):
        assert row['val_niqe'] == row['val_odd'] == '' and row['psnr'] == row['val_psnr'] != ''
        assert (data / f'run/results/toy/visualization/Toy/{row["image"]}_toy.png').is_file()
    assert len(scores(data / 'run')) == 2
    errors = [record.getMessage() for record in log.records if record.levelname == 'ERROR']
    assert len(errors) == len(runlog.failures) == 4 and 'Traceback' not in log.text and '0 failed' not in log.text
    for name in ('good', 'bad'):
        assert sum(f'lr/{name}.png: val.metrics.niqe: ' in line for line in runlog.failures) == 1
        assert sum(f"lr/{name}.png: val.metrics.odd: KeyError: 'key'" in line for line in runlog.failures) == 1


def test_bad_value_in_an_lmdb(data, monkeypatch, log):
    import lmdb
    for role in ('lr', 'hr'):
        env = lmdb.open(str(data / f'{role}.lmdb'), map_size=2 ** 24)
        with env.begin(write=True) as writer:
            writer.put(b'good', (data / role / 'good.png').read_bytes())
            if role == 'hr':
                writer.put(b'bad', b'no image')
                writer.put(b'gone', b'')
        env.close()
        lines = [f'{name}.png (96,96,3) 1\n' for name in ('bad', 'gone', 'good')]
        (data / f'{role}.lmdb/meta_info.txt').write_text(''.join(lines))
    opt = toy_options(data, datasets__test_1__dataroot_gt=str(data / 'hr.lmdb'),
                      datasets__test_1__dataroot_lq=str(data / 'lr.lmdb'),
                      datasets__test_1__io_backend={'type': 'lmdb'})
    assert run_toolbox(opt, data / 'run', monkeypatch) == 1
    assert [row['image'] for row in scores(data / 'run')] == ['good']
    assert all(re.search(r'lr\.lmdb:(bad|gone): no such key', line) for line in runlog.failures)


def test_values_that_are_not_numbers(data, monkeypatch):
    from basicsr.data.paired_image_dataset import PairedImageDataset
    read = PairedImageDataset.__getitem__

    def with_nan(self, index):
        item = read(self, index)
        if 'bad' in item['lq_path']:
            item['lq'] = torch.full_like(item['lq'], float('nan'))
        return item

    monkeypatch.setattr(PairedImageDataset, '__getitem__', with_nan)
    assert run_toolbox(toy_options(data), data / 'run', monkeypatch) == 1
    assert [row['image'] for row in scores(data / 'run')] == ['good']
    assert 'lr/bad.png: the image has NaN' in runlog.failures[0]


@pytest.mark.parametrize('known', [False, True])
def test_bad_kernel_file(known, data, monkeypatch):
    np.save(data / 'kernels/bad.npy', np.full((24, 24), np.nan))
    assert run_toolbox(toy_options(data, kernelfusion__known_kernel=known), data / 'run', monkeypatch) == 1
    assert 'kernels/bad.npy' in runlog.failures[0]
    done = {row['image']: row for row in scores(data / 'run')}
    assert set(done) == ({'good'} if known else {'good', 'bad'})
    assert known or (done['bad']['kernel_ncc'] == '' and done['bad']['psnr'] != '')


def test_missing_folder_of_kernels_is_said_once(data, monkeypatch):
    opt = toy_options(data, datasets__test_1__dataroot_kernel=str(data / 'nowhere'))
    assert run_toolbox(opt, data / 'run', monkeypatch) == 1
    assert len(scores(data / 'run')) == 2 and len(runlog.failures) == 1


def test_broken_weights_are_made_anew(data, monkeypatch, log):
    priors = data / 'priors'
    priors.mkdir()
    (priors / 'bad_pd.pth').write_bytes(b'no weights')
    opt = toy_options(data, kernelfusion__prior_dir=str(priors), kernelfusion__save_prior=True)
    assert run_toolbox(opt, data / 'run', monkeypatch) == 0
    assert 'bad_pd.pth: not a file of weights' in log.text and len(list(priors.iterdir())) == 3


def test_error_that_nobody_foresaw_keeps_its_traceback(data, monkeypatch, log):
    from kernelfusion_plugin.models import kernelfusion_model
    restore_steps = kernelfusion_model.restore_steps

    def broken(y, config, *, name, **options):
        if name == 'bad':
            raise ZeroDivisionError('a bug')
        return restore_steps(y, config, name=name, **options)

    monkeypatch.setattr(kernelfusion_model, 'restore_steps', broken)
    assert run_toolbox(toy_options(data), data / 'run', monkeypatch) == 1
    assert len(scores(data / 'run')) == 1 and 'Traceback' in log.text and 'ZeroDivisionError: a bug' in log.text


@pytest.mark.parametrize('backend', ['disk', 'lmdb'])
def test_pictures_without_partner(backend, data, monkeypatch):
    Image.fromarray(texture(24, 24, 5)).save(data / 'lr/lone.png')
    (data / 'lr/bad.png').unlink()
    opt = toy_options(data, datasets__test_1__type='TolerantPairedDataset')
    if backend == 'lmdb':
        for role, key in (('lr', 'lq'), ('hr', 'gt')):
            make_lmdb(data / role, data / f'{role}.lmdb')
            opt['datasets']['test_1'][f'dataroot_{key}'] = str(data / f'{role}.lmdb')
        opt['datasets']['test_1']['io_backend'] = {'type': 'lmdb'}
    assert run_toolbox(opt, data / 'run', monkeypatch) == 1
    assert [row['image'] for row in scores(data / 'run')] == ['good']
    lone_hr, lone_lr = runlog.failures
    assert 'bad' in lone_hr and 'no LR image' in lone_hr and 'lone' in lone_lr and 'no HR image' in lone_lr


def test_tolerant_dataset_is_basicsrs_where_all_have_partners(data, monkeypatch):
    opt = toy_options(data)
    assert run_toolbox(opt, data / 'a', monkeypatch) == 0
    opt['datasets']['test_1']['type'] = 'TolerantPairedDataset'
    assert run_toolbox(opt, data / 'b', monkeypatch) == 0
    assert digests(data / 'a') == digests(data / 'b')
