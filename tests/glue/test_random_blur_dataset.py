"""RandomBlurDataset: pairs that the degradation explains, draws that depend on what they should."""

import cv2
import numpy as np
import pytest
import torch
from glue_helpers import make_lmdb, texture
from PIL import Image
from torch.utils.data import DataLoader

from kernelfusion_plugin import compat

compat.apply()

from basicsr.data import build_dataloader, build_dataset  # noqa: E402
from basicsr.data.data_sampler import EnlargedSampler  # noqa: E402

from kernelfusion_plugin.core.degradation import Degradation  # noqa: E402
from kernelfusion_plugin.entries import BadImage, entries  # noqa: E402

KERNELS = [{'type': 'isotropic', 'sigma': [0.5, 3.0], 'size': 21}, {'type': 'motion', 'size': 21}]


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(('a', 'b', 'c')):
        (tmp_path / 'hr').mkdir(exist_ok=True)
        Image.fromarray(texture(67 + number, 90, number)).save(tmp_path / 'hr' / f'{name}.png')
    return tmp_path / 'hr'


def make(folder, phase='val', **changes):
    compat.register()
    return build_dataset({'name': 'toy', 'type': 'RandomBlurDataset', 'phase': phase, 'dataroot_gt': str(folder),
                          'scale': 4, 'kernels': KERNELS, 'io_backend': {'type': 'disk'}, **changes})


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('border', ['reflect', 'replicate'])
def test_lq_is_the_degraded_gt(scale, border, folder):
    for item in make(folder, scale=scale, border=border):
        assert item['gt'].shape == (3, item['gt'].shape[1] // scale * scale, 90 // scale * scale)
        assert item['lq'].dtype == item['gt'].dtype == item['kernel'].dtype == torch.float32
        assert float(item['kernel'].sum()) == pytest.approx(1, abs=1e-5)
        y = Degradation(scale, 21, border).forward(item['gt'][None].double(), item['kernel'])[0]
        assert float((y - item['lq']).abs().max()) < 0.5 / 255 + 1e-6
        assert torch.equal(item['lq'], (item['lq'] * 255).round() / 255)


def test_gt_is_the_file_in_rgb(folder):
    dataset = make(folder)
    pixels = np.array(Image.open(folder / 'b.png'))[:68, :88]
    item = dataset[1]
    assert item['gt_path'] == item['lq_path'] == str(folder / 'b.png')
    assert np.array_equal((item['gt'] * 255).round().byte().permute(1, 2, 0).numpy(), pixels)


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in ('lq', 'gt', 'kernel'))


def test_outside_training_an_item_depends_on_seed_and_name_alone(folder):
    options = {'gt_size': 32, 'use_hflip': True, 'use_rot': True, 'noise': [1, 9], 'jpeg': [40, 90]}
    first = list(make(folder, **options))
    torch.manual_seed(7)
    Image.fromarray(texture(60, 60, 9)).save(folder / '0.png')  # all others are one place further
    later = make(folder, **options)
    assert all(same(item, later[index]) for index, item in reversed(list(enumerate(first, 1))))
    assert not torch.equal(first[0]['kernel'], first[1]['kernel'])
    assert not torch.equal(first[0]['kernel'], make(folder, seed=1, **options)[1]['kernel'])


def epochs(folder, workers, seed=0):
    """Kernels of two epochs as BasicSR's training loop meets them."""
    torch.manual_seed(seed)
    dataset = make(folder, 'train', gt_size=32, batch_size_per_gpu=2, num_worker_per_gpu=workers)
    sampler = EnlargedSampler(dataset, 1, 0, 4)
    loader = build_dataloader(dataset, dataset.opt, num_gpu=0, dist=False, sampler=sampler, seed=seed)
    drawn = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        drawn += [batch['kernel'] for batch in loader]
    return torch.cat(drawn)


@pytest.mark.parametrize('workers', [0, 2])
def test_in_training_no_draw_is_repeated_but_the_run_is(workers, folder):
    drawn = epochs(folder, workers)
    assert drawn.shape == (24, 21, 21)
    assert len({k.numpy().tobytes() for k in drawn}) == 24  # numpy's workers' seeds would repeat in the second epoch
    assert torch.equal(drawn, epochs(folder, workers))
    assert not torch.equal(drawn, epochs(folder, workers, seed=1))


def test_crops_and_turns_cover_all_positions(folder):
    ramp = np.zeros((24, 24, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(24) * 10, np.arange(24)[:, None] * 10
    for path in folder.iterdir():
        path.unlink()
    Image.fromarray(ramp).save(folder / 'ramp.png')
    dataset = make(folder, 'train', gt_size=20, use_hflip=True, use_rot=True)
    torch.manual_seed(0)
    seen, corners = set(), set()
    for _ in range(400):
        gt = (dataset[0]['gt'] * 25.5).round()
        step = gt[:2, 1, 1] - gt[:2, 0, 0]
        seen.add((*step.tolist(), bool((gt[0, 0] == gt[0, 0, 0]).all())))
        corners.add(tuple(gt[:2].amin((1, 2)).int().tolist()))
    assert len(seen) == 8 and len(corners) == 25


def test_noise_and_jpeg(folder):
    flat = np.full((240, 240, 3), 120, np.uint8)
    for path in folder.iterdir():
        path.unlink()
    Image.fromarray(flat).save(folder / 'flat.png')
    noisy = make(folder, noise=8)[0]['lq'] * 255 - 120
    assert float(noisy.std()) == pytest.approx(8, rel=0.05) and abs(float(noisy.mean())) < 0.5
    detail = texture(240, 240, 1)
    Image.fromarray(detail).save(folder / 'flat.png')
    clean, packed = (make(folder, **options)[0] for options in ({}, {'jpeg': 30}))
    assert torch.equal(clean['kernel'], packed['kernel'])
    bgr = (clean['lq'] * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
    truth = cv2.imdecode(cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)[..., ::-1]
    error = (packed['lq'] * 255).round().permute(1, 2, 0).numpy() - truth
    assert np.abs(error).mean() < 1 < np.abs(truth - bgr[..., ::-1].astype(float)).mean()


def test_grey_pictures_become_rgb(folder):
    Image.fromarray(texture(40, 40, 3)[..., 0]).save(folder / 'a.png')
    item = make(folder)[0]
    assert item['gt'].shape == (3, 40, 40) and torch.equal(item['gt'][0], item['gt'][2])


def test_lmdb_gives_the_same(folder, tmp_path):
    make_lmdb(folder, tmp_path / 'hr.lmdb')
    one = make(tmp_path / 'hr.lmdb', io_backend={'type': 'lmdb'})
    assert len(one) == 3 and all(same(a, b) for a, b in zip(one, make(folder), strict=True))
    *_, last = entries(make(tmp_path / 'hr.lmdb', io_backend={'type': 'lmdb'}))  # another data set of the same LMDB
    assert last.path == f'{tmp_path}/hr.lmdb:c' and torch.equal(last.read(4, crop_gt=False)['gt'][0], one[2]['gt'])
    worker = DataLoader(one, num_workers=1, multiprocessing_context='fork')  # of a process that has opened the LMDB
    assert all(torch.equal(item['gt'][0], picture['gt']) for item, picture in zip(worker, one, strict=True))


@pytest.mark.parametrize(('changes', 'message'), [
    ({'gt_sise': 32}, r"unknown option 'datasets \(toy\).gt_sise': did you mean 'gt_size'"),
    ({'gt_size': 30}, 'gt_size must be a multiple of the scale 4'),
    ({'scale': 5}, 'scale must be a whole number, between 2 and 4'),
    ({'border': 'wrap'}, 'border must be one of'),
    ({'noise': [5, 1]}, 'noise must be a number or'),
    ({'jpeg': 0}, 'jpeg must be'),
    ({'use_rot': 'maybe'}, "use_rot must be true or false, got 'maybe'"),
    ({'kernels': [{'type': 'motion', 'sise': 3}]}, r"'datasets \(toy\).kernels.0.sise': did you mean 'size'"),
    ({'phase': 'train'}, 'needs gt_size'),
    ({'phase': 'train', 'gt_size': 80}, r'a\.png: the image of 90 x 67 .* smaller than gt_size 80'),
])
def test_bad_options(changes, message, folder):
    phase = changes.pop('phase', 'val')
    with pytest.raises(ValueError, match=message):
        make(folder, phase, **changes)


def test_an_image_that_it_refuses_is_named_once(folder):
    (refused, *_) = entries(make(folder, gt_size=80))
    with pytest.raises(BadImage, match=r'^\S+/a\.png: the image of 90 x 67 .* smaller than gt_size 80: remove it$'):
        refused.read(4, crop_gt=False)


def test_bad_files(folder):
    (folder / 'b.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'b\.png: not an image'):
        make(folder, 'train', gt_size=32)
    with pytest.raises(ValueError, match=r'b\.png: not an image'):
        make(folder)[1]
    with pytest.raises(FileNotFoundError, match='there is no folder'):
        make(folder / 'nowhere')
