"""Faults in a data set's section: one line before BasicSR makes a folder, and no word about what may be meant."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import FileClient
from basicsr.utils.registry import DATASET_REGISTRY
from glue_helpers import make_lmdb, run_toolbox, scores, toy_options, write_pair
from starting import ROOT, python

from kernelfusion_plugin import runlog
from kernelfusion_plugin.data.check import check_section

ABSENT = object()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for seed, name in enumerate(('one', 'two')):
        write_pair(root, name, seed)
    (root / 'empty').mkdir()
    (root / 'bare.lmdb').mkdir()
    shutil.copytree(root / 'lr', root / 'renamed')
    (root / 'renamed/one.png').rename(root / 'renamed/uno.png')
    (root / 'fewer').mkdir()
    shutil.copy(root / 'lr/one.png', root / 'fewer')
    (root / 'made/LRx4/k00').mkdir(parents=True)
    for folder in ('lr', 'hr', 'renamed', 'fewer'):
        make_lmdb(root / folder, root / f'{folder}.lmdb')
    return root


def section(data, **changes):
    """That of the toy run; names of folders are those of ``data``."""
    options = {**toy_options(data)['datasets']['test_1'], 'type': 'PairedImageDataset', **changes}
    for root in ('dataroot_gt', 'dataroot_lq'):
        if isinstance(options[root], str):
            options[root] = str(data / options[root])
    return {key: value for key, value in options.items() if value is not ABSENT}


SINGLE, TOLERANT = {'type': 'SingleImageDataset'}, {'type': 'TolerantPairedDataset'}
BLUR = {'type': 'RandomBlurDataset', 'dataroot_lq': ABSENT, 'kernels': [{'type': 'motion', 'size': 24}]}
LMDB = {'io_backend': {'type': 'lmdb'}}


@pytest.mark.parametrize(('changes', 'said'), [
    ({'io_backend': ABSENT}, ': io_backend must be given (io_backend: {type: disk} reads folders)'),
    ({'dataroot_gt': ABSENT}, ': dataroot_gt must be given'), ({'dataroot_lq': None}, ': dataroot_lq must be given'),
    ({**SINGLE, 'dataroot_lq': ABSENT, 'io_backend': ABSENT}, ': dataroot_lq, io_backend must be given'),
    ({**BLUR, 'dataroot_gt': ABSENT}, ': dataroot_gt must be given'),
    ({'dataroot_lq': 2024}, ':dataroot_lq must be the path of a folder or LMDB, got 2024'),
    ({'dataroot_lq': 'lr/one.png'}, 'lr/one.png is not a folder'),
    ({'io_backend': 'disk'}, ":io_backend must be a section with a type, such as {type: disk}, got 'disk'"),
    ({'io_backend': {'typ': 'disk'}}, ':io_backend must be a section with a type'),
    ({'io_backend': {'type': 'dsk'}}, ":io_backend: unknown type 'dsk': did you mean 'disk'?"),
    ({'io_backend': {'type': 'disk', 'lock': False}}, ':io_backend: disk takes no options besides type: remove l'),
    (LMDB, ':dataroot_gt: the name of an LMDB must end in .lmdb, got '),
    ({**LMDB, 'dataroot_gt': 'hr.lmdb', 'dataroot_lq': 'bare.lmdb'}, 'bare.lmdb has no meta_info.txt: create the'),
    ({'dataroot_gt': 'hr.lmdb'}, 'hr.lmdb is an LMDB: use io_backend: {type: lmdb}'),
    ({'dataroot_kernl': 'kernels'}, ": unknown option 'dataroot_kernl' of PairedImageDataset: did you mean 'dataroot"),
    ({'filename_tmp': '{}x4'}, "unknown option 'filename_tmp' of PairedImageDataset: did you mean 'filename_tmpl'?"),
    ({**SINGLE, 'datarot_lq': 'lr'}, "'datarot_lq' of SingleImageDataset: did you mean 'dataroot_lq'?"),
    ({**BLUR, 'gt_siz': 8}, "'gt_siz' of RandomBlurDataset: did you mean 'gt_size'?"),
    ({**BLUR, 'gt_size': 30}, "'datasets:test_1': gt_size must be a multiple of the scale 4, got 30"),
    ({**BLUR, 'kernels': [{'type': 'moton'}]}, "unknown family 'moton' in 'datasets:test_1.kernels.0': did you mean"),
    ({'meta_info_file': 'nowhere.txt'}, ':meta_info_file must be a file that lists pictures, but there is no'),
    ({**SINGLE, 'meta_info_file': None}, ':meta_info_file must be a file'),
    ({'filename_tmpl': '{name}x4'}, ":filename_tmpl must be like '{}x4', where {} is the name of the HR picture, got"),
    ({'filename_tmpl': None}, ':filename_tmpl must be like'),
    ({'kernel_tmpl': {'number': None}}, ":kernel_tmpl must be text, got {'number': None}: braces make a section"),
    ({'filename_tmpl': '{}x8'}, "there is no onex8.png in DATA/lr, expected from an HR name by filename_tmpl '{}x8'; "),
    ({**TOLERANT, 'filename_tmpl': '{}x8'}, 'there is no onex8 in DATA/lr, expected from an HR name by '),
    ({'dataroot_lq': 'renamed'}, 'there is no one.png in DATA/renamed (if LR names differ, set filename_tmpl); '),
    ({'dataroot_gt': 'fewer'}, 'there are 2 files in DATA/lr, but 1 in DATA/fewer; TolerantPairedDataset pairs'),
    ({**LMDB, 'dataroot_gt': 'hr.lmdb', 'dataroot_lq': 'renamed.lmdb'}, 'there is no one in DATA/renamed.lmdb; Toler'),
    ({**LMDB, 'dataroot_gt': 'fewer.lmdb', 'dataroot_lq': 'lr.lmdb'}, 'there are 2 files in DATA/lr.lmdb, but 1 in '),
    ({**TOLERANT, 'dataroot_lq': 'made'}, 'no pictures in DATA/made; did you mean one of its subfolders (LRx4)?'),
])
def test_faults_are_named(data, changes, said):
    with pytest.raises(ValueError, match=re.escape(said.replace('DATA', str(data)))) as error:
        check_section('test_1', section(data, **changes), 4)
    assert 'datasets:test_1' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('missing', ['batch_size_per_gpu', 'num_worker_per_gpu', 'gt_size', 'use_hflip', 'use_rot'])
def test_what_training_needs_is_named(data, missing):
    needed = {'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0, 'gt_size': 32, 'use_hflip': False, 'use_rot': False}
    check_section('train', section(data, **needed), 4)
    with pytest.raises(ValueError, match=f'datasets:train: {missing} must be given'):
        check_section('train', section(data, **{**needed, missing: ABSENT}), 4)


@pytest.mark.parametrize('changes', [
    {'quality': 3, 'my_list': 'x'}, {**SINGLE, 'filename_tmpl': '{}x4'}, {**TOLERANT, 'dataroot_lq': 'renamed'},
    {**TOLERANT, 'dataroot_gt': 'fewer'}, {'dataroot_gt': 'empty', 'dataroot_lq': 'empty'},
    {**LMDB, 'dataroot_gt': 'hr.lmdb', 'dataroot_lq': 'lr.lmdb', 'filename_tmpl': '{}x4'},
    {**TOLERANT, **LMDB, 'dataroot_gt': 'hr.lmdb', 'dataroot_lq': 'renamed.lmdb'},
    {**SINGLE, **LMDB, 'dataroot_lq': 'lr.lmdb'}, {**BLUR, 'io_backend': ABSENT}, {'meta_info_file': None, 'scale': 4}])
def test_what_can_be_read_is_let_through(data, changes):
    check_section('test_1', section(data, **changes), 4)


def test_what_others_have_registered_is_theirs(data, monkeypatch):
    """A data set, even one that builds on BasicSR's, and a way to read files."""
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'Mine', type('Mine', (PairedImageDataset,), {}))
    check_section('test_1', {'name': 'x', 'type': 'Mine', 'dataroot_kernl': 1, 'io_backend': 'cloud'}, 4)
    monkeypatch.setitem(FileClient._backends, 'cloud', object)
    check_section('test_1', section(data, dataroot_gt='far/off', io_backend={'type': 'cloud', 'key': 'x'}), 4)


@pytest.mark.parametrize(('changes', 'said'), [
    ({'datasets__test_1__io_backend': 'disk'}, 'toy.yml: datasets:test_1:io_backend must be a section'),
    ({'datasets__test_1__type': ['PairedImageDataset']}, 'toy.yml: datasets:test_1: unknown type ['),
    ({'datasets__tset_2': {'name': 'x', 'type': 'SingleImageDataset'}}, 'toy.yml: datasets:tset_2: a data set goes by'),
])
def test_the_launcher_says_it_in_one_line_and_makes_nothing(data, tmp_path, changes, said):
    (tmp_path / 'toy.yml').write_text(yaml.safe_dump(toy_options(data, **changes)))
    done = python('-m', 'kernelfusion_plugin.test', '-opt', 'toy.yml', cwd=tmp_path, path=[ROOT])
    assert done.returncode == 2 and done.stderr.startswith(f'kernelfusion: error: {said}')
    assert done.stderr.count('\n') == 1 and [path.name for path in tmp_path.iterdir()] == ['toy.yml']


@pytest.mark.parametrize(('folder', 'said'), [
    ('empty', 'there are no pictures in {}'),
    ('made', 'there are no pictures in {}; did you mean one of its subfolders (LRx4)?')])
def test_a_data_set_without_pictures_says_where_they_were_sought(data, tmp_path, monkeypatch, log, folder, said):
    """The other data sets are done."""
    none = {**section(data, dataroot_lq=folder, **SINGLE), 'name': 'None'}
    opt = toy_options(data, model_type='BicubicModel', datasets__test_2=none)
    assert run_toolbox(opt, tmp_path, monkeypatch) == 1
    assert {row['dataset'] for row in scores(tmp_path)} == {'Toy'}
    assert runlog.failures == [f'None: {said.format(data / folder)}']
    errors = [record.getMessage() for record in log.records if record.levelname == 'ERROR']
    assert errors == runlog.failures and '0 failed' not in log.text


def test_a_metric_of_the_base_is_left_out(data, tmp_path, monkeypatch):
    metrics = {'psnr': {'type': 'calculate_psnr_border'}, 'ssim': {'type': 'calculate_ssim_border'}}
    below = toy_options(data, model_type='BicubicModel', val__metrics=metrics)
    (tmp_path / 'below.yml').write_text(yaml.safe_dump(below))
    top = {'base': '../below.yml', 'name': 'top', 'val': {'metrics': {'psnr': None}}}
    assert run_toolbox(top, tmp_path / 'run', monkeypatch, '--force_yml', 'val:metrics:gone=~') == 0
    assert [key for key in scores(tmp_path / 'run', 'top')[0] if key.startswith('val_')] == ['val_ssim']


def test_a_data_set_may_be_named_by_a_number(data, tmp_path, monkeypatch):
    opt = toy_options(data, model_type='BicubicModel', datasets__test_1__name=2024)
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    assert Path(tmp_path, 'results/toy/visualization/2024/one_toy.png').is_file()
