"""The model through the real toolbox, at toy size: what it writes, and that it writes the same again."""

import json

import numpy as np
import pytest
import torch
from glue_helpers import TINY_JOINT, digests, make_lmdb, run_toolbox, scores, toy_options, write_pair
from PIL import Image

from kernelfusion_plugin import compat
from kernelfusion_plugin.core.nets.patch_net import PatchDiffusionNet
from kernelfusion_plugin.models import KernelFusionModel


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_pair(root, 'one', 1)
    write_pair(root, 'two', 2, (26, 30))
    return root


def make_model(tmp_path, data, **changes):
    opt = toy_options(data, **changes)
    opt.update(dist=False, rank=0, world_size=1, is_train=False)
    opt['path'].update(results_root=str(tmp_path), visualization=str(tmp_path / 'visualization'))
    return KernelFusionModel(opt)


def test_weights_of_pd_are_refused_where_there_is_none(data, tmp_path):
    torch.save(PatchDiffusionNet(8).state_dict(), tmp_path / 'pd.pth')
    weights = {'path__pretrain_network_g': str(tmp_path / 'pd.pth')}
    assert make_model(tmp_path, data, **weights).pretrained is not None
    with pytest.raises(ValueError, match='pd.pth: weights of PD, but this run has no PD: set kernelfusion.em.final'):
        make_model(tmp_path, data, **weights, kernelfusion__em__final_prior='tuned')


def test_everything_is_written(data, tmp_path, monkeypatch):
    opt = toy_options(data, kernelfusion__plot=True, kernelfusion__sheet=True,
                      val__metrics={'psnr': {'type': 'calculate_psnr', 'crop_border': 4},
                                    'psnr_y': {'type': 'calculate_psnr_border', 'better': 'higher'}})
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    folder = tmp_path / 'results/toy/visualization/Toy'
    for name, size in (('one', (96, 96)), ('two', (120, 104))):
        assert {path.name for path in folder.glob(f'{name}_*')} == {
            f'{name}_{what}' for what in ('toy.png', 'kernel.npy', 'kernel.png', 'sheet.png', 'run.png')}
        assert Image.open(folder / f'{name}_toy.png').size == size
        kernel = np.load(folder / f'{name}_kernel.npy')
        assert kernel.dtype == np.float32 and kernel.shape == (24, 24) and abs(kernel.sum() - 1) < 1e-5
    rows = scores(tmp_path)
    assert [row['image'] for row in rows] == ['one', 'two']
    for row in rows:
        assert row['val_psnr_y'] == row['psnr'] and row['val_psnr'] != row['psnr']
        assert all(row[key] for key in ('ssim', 'psnr_bicubic', 'kernel_ncc', 'kernel_psnr', 'seconds_phase1',
                                        'seconds_phase2', 'seed', 'solver', 'preset'))
    summary = json.loads((tmp_path / 'results/toy/summary.json').read_text())
    assert summary['datasets']['Toy']['images'] == 2 and summary['versions']['torch'] == torch.__version__
    assert str(tmp_path) not in json.dumps({**summary, 'options': {**summary['options'], 'datasets': None}})
    assert not list((tmp_path / 'results').rglob('*.tmp'))


def test_kernels_of_regions_are_written_and_shown(data, tmp_path, monkeypatch):
    monkeypatch.setattr('kernelfusion_plugin.core.regional_degradation.SMALLEST', 8)
    monkeypatch.setattr('kernelfusion_plugin.core.regions.takes_own', lambda *_: True)  # toy searches find nothing
    opt = toy_options(data, kernelfusion__regions='2x1', kernelfusion__sheet=True)
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    folder = tmp_path / 'results/toy/visualization/Toy'
    kernels = np.load(folder / 'one_kernels.npy')
    assert kernels.shape == (2, 1, 24, 24) and np.allclose(kernels.sum((2, 3)), 1, atol=1e-5)
    assert not np.array_equal(kernels[0], kernels[1])
    picture = Image.open(folder / 'one_kernels.png')
    assert picture.height == 2 * picture.width
    rows = scores(tmp_path)
    assert len(rows) == 2 and all(float(row['lr_consistency']) > 20 for row in rows)


def test_same_seed_same_files_and_order_does_not_matter(data, tmp_path, monkeypatch):
    opt = toy_options(data, kernelfusion__sheet=True)
    assert run_toolbox(opt, tmp_path / 'a', monkeypatch) == 0
    turned = tmp_path / 'order.txt'
    turned.write_text('two.png (104,120,3)\none.png (96,96,3)\n')
    opt['datasets']['test_1']['meta_info_file'] = str(turned)
    opt['manual_seed'] = 5
    assert run_toolbox(opt, tmp_path / 'b', monkeypatch) == 0
    assert digests(tmp_path / 'a') == digests(tmp_path / 'b') != {}
    opt['kernelfusion']['seed'] = 1
    assert run_toolbox(opt, tmp_path / 'c', monkeypatch) == 0
    assert digests(tmp_path / 'c')['Toy/one_toy.png'] != digests(tmp_path / 'a')['Toy/one_toy.png']


def test_lmdb_gives_what_the_folder_gives(data, tmp_path, monkeypatch):
    for name in ('hr', 'lr'):
        make_lmdb(data / name, tmp_path / f'{name}.lmdb')
    assert run_toolbox(toy_options(data), tmp_path / 'disk', monkeypatch) == 0
    opt = toy_options(data, datasets__test_1__dataroot_gt=str(tmp_path / 'hr.lmdb'),
                      datasets__test_1__dataroot_lq=str(tmp_path / 'lr.lmdb'),
                      datasets__test_1__io_backend={'type': 'lmdb'})
    assert run_toolbox(opt, tmp_path / 'lmdb', monkeypatch) == 0
    assert digests(tmp_path / 'disk') == digests(tmp_path / 'lmdb') != {}
    for row, other in zip(scores(tmp_path / 'disk'), scores(tmp_path / 'lmdb'), strict=True):
        assert {**row, **dict.fromkeys(('seconds_phase1', 'seconds_phase2'))} == {
            **other, **dict.fromkeys(('seconds_phase1', 'seconds_phase2'))}


def test_pictures_without_truth_have_no_scores(data, tmp_path, monkeypatch):
    opt = toy_options(data, val__metrics={'psnr': {'type': 'calculate_psnr', 'crop_border': 4}})
    opt['datasets']['test_1'] = {'name': 'Plain', 'type': 'SingleImageDataset', 'dataroot_lq': str(data / 'lr'),
                                 'io_backend': {'type': 'disk'}}
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    rows = scores(tmp_path)
    assert len(rows) == 2 and all(row['psnr'] == row['kernel_ncc'] == '' for row in rows)
    assert (tmp_path / 'results/toy/visualization/Plain/one_toy.png').exists()


def test_grey_images_come_out_grey(data, tmp_path, monkeypatch):
    opt = toy_options(data, datasets__test_1__color='y', kernelfusion__sheet=True,
                      val__metrics={'psnr': {'type': 'calculate_psnr_border'}})
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    assert Image.open(tmp_path / 'results/toy/visualization/Toy/one_toy.png').mode == 'L'


def test_weights_are_kept_and_used_again(data, tmp_path, monkeypatch):
    priors = tmp_path / 'priors'
    opt = toy_options(data, kernelfusion__save_prior=True, kernelfusion__prior_dir=str(priors))
    assert run_toolbox(opt, tmp_path / 'first', monkeypatch) == 0
    assert {path.name for path in priors.iterdir()} == {'one_pd.pth', 'two_pd.pth'}
    assert run_toolbox(opt, tmp_path / 'second', monkeypatch) == 0
    assert digests(tmp_path / 'first') == digests(tmp_path / 'second')
    assert all(float(row['seconds_phase1']) == 0 for row in scores(tmp_path / 'second'))


def test_weights_of_another_image_of_that_name_are_not_used(tmp_path, monkeypatch):
    opt = {}
    for part, seed in (('x', 1), ('y', 2)):
        write_pair(tmp_path / part, 'same', seed)
        opt = toy_options(tmp_path / part, kernelfusion__save_prior=True,
                          kernelfusion__prior_dir=str(tmp_path / 'priors'))
        assert run_toolbox(opt, tmp_path / f'run_{part}', monkeypatch) == 0
        assert float(scores(tmp_path / f'run_{part}')[0]['seconds_phase1']) > 0
    assert len(list((tmp_path / 'priors').iterdir())) == 2
    assert run_toolbox(opt, tmp_path / 'again', monkeypatch) == 0
    assert float(scores(tmp_path / 'again')[0]['seconds_phase1']) == 0


def test_textures_alone_leave_no_weights_behind(data, tmp_path, monkeypatch):
    priors = tmp_path / 'priors'
    opt = toy_options(data, kernelfusion__save_prior=True, kernelfusion__prior_dir=str(priors),
                      kernelfusion__em__final_prior='textures', kernelfusion__plot=True)
    assert run_toolbox(opt, tmp_path / 'run', monkeypatch) == 0
    assert not list(tmp_path.rglob('*_pd.pth'))
    assert all(float(row['seconds_phase1']) == 0 and row['psnr'] for row in scores(tmp_path / 'run'))
    assert (tmp_path / 'run/results/toy/visualization/Toy/one_run.png').exists()  # a plot without Phase 1


def test_weights_of_the_half_size_prior_are_kept_too(data, tmp_path, monkeypatch):
    priors = tmp_path / 'priors'
    opt = toy_options(data, kernelfusion__save_prior=True, kernelfusion__prior_dir=str(priors),
                      kernelfusion__em__kernel_prior='internal', kernelfusion__em__final_prior='internal')
    assert run_toolbox(opt, tmp_path / 'first', monkeypatch) == 0
    params = torch.load(priors / 'one_pd.pth', weights_only=True)['params']
    own = {name for name in params if not name.startswith('half.')}
    assert own and params.keys() == {*own, *(f'half.{name}' for name in own)}
    assert run_toolbox(opt, tmp_path / 'second', monkeypatch) == 0
    assert digests(tmp_path / 'first') == digests(tmp_path / 'second')
    assert all(float(row['seconds_phase1']) == 0 for row in scores(tmp_path / 'second'))


def test_weights_that_are_lacking_are_trained_and_kept_too(data, tmp_path, monkeypatch, log):
    """As where an ablation asks for another prior: the log says so, and the next run has those of both."""
    def options(kind):
        tuning = {'steps': 1, 'crop': 16, 'batch': 1}
        return toy_options(data, kernelfusion__save_prior=True, kernelfusion__prior_dir=str(tmp_path / 'priors'),
                           kernelfusion__tuning=tuning, kernelfusion__em__final_prior=kind)

    assert run_toolbox(options('tuned'), tmp_path / 'first', monkeypatch) == 0
    for folder, said in (('second', 'one_pd.pth lacks weights of the patch prior: training now'),
                         ('third', 'Phase 1 is skipped')):
        log.clear()
        assert run_toolbox(options('internal'), tmp_path / folder, monkeypatch) == 0
        assert said in log.text and 'other settings' not in log.text
    assert digests(tmp_path / 'second') == digests(tmp_path / 'third')
    params = torch.load(tmp_path / 'priors/one_pd.pth', weights_only=True)['params']
    assert {name.startswith('tuned.') for name in params} == {True, False}


def test_known_kernel_is_used_as_it_is(data, tmp_path, monkeypatch):
    opt = toy_options(data, kernelfusion__known_kernel=True)
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    kernel = np.load(tmp_path / 'results/toy/visualization/Toy/one_kernel.npy')
    assert np.abs(kernel - np.load(data / 'kernels/one.npy')).max() < 1e-6


def test_joint_with_networks_of_the_option_file(data, tmp_path, monkeypatch):
    opt = toy_options(data, kernelfusion__solver='joint', kernelfusion__joint=dict(TINY_JOINT),
                      network_r={'type': 'RefineUNet', 'channels': [4, 8]},
                      network_k={'type': 'LinearCnnKernel'})
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    assert {row['solver'] for row in scores(tmp_path)} == {'joint'}


def test_feed_test_and_visuals_without_the_toolbox(data, tmp_path):
    model = make_model(tmp_path, data)
    lq = torch.rand(1, 3, 20, 22, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.feed_data({'lq': lq, 'lq_path': ['some/photo.png']})
        model.test()
    visuals = model.get_current_visuals()
    assert visuals['result'].shape == (1, 3, 80, 88) and 'gt' not in visuals
    assert 0 <= visuals['result'].min() and visuals['result'].max() <= 1 and visuals['kernel'].shape == (24, 24)
    with pytest.raises(ValueError, match='one image at a time'):
        model.feed_data({'lq': lq.expand(2, -1, -1, -1)})


@pytest.mark.parametrize('known', [False, True])
@pytest.mark.parametrize(('fault', 'parts'), [
    (('edge_share', lambda kernel: 0.12), ('photo: 12% of the kernel', 'kernelfusion: kernel_size: 32')),
    (('seems_wider', lambda y, prior, config: True), ('photo: the blur seems to be wider', 'smaller first'))])
def test_a_grid_that_is_too_small_is_spoken_of(fault, parts, known, data, tmp_path, monkeypatch):
    for name, answer in (('edge_share', lambda kernel: 0.0), ('seems_wider', lambda *args: False), fault):
        monkeypatch.setattr('kernelfusion_plugin.advice.' + name, answer)
    said = []
    model = make_model(tmp_path, data, kernelfusion__known_kernel=known)
    monkeypatch.setattr(model.logger, 'warning', said.append)
    lq = torch.rand(1, 3, 20, 22, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.feed_data({'lq': lq, 'lq_path': ['some/photo.png'], 'kernel': torch.full((24, 24), 1 / 576)})
        model.test()
    assert [[part in one for part in parts] for one in said] == ([] if known else [[True, True]])


def test_a_name_that_is_taken_stays_whose_it_is():
    from basicsr.utils.registry import MODEL_REGISTRY
    before = MODEL_REGISTRY.get('KernelFusionModel')
    compat.enter(MODEL_REGISTRY, [type('KernelFusionModel', (), {})])
    assert MODEL_REGISTRY.get('KernelFusionModel') is before


@pytest.mark.parametrize(('kind', 'arguments'), [
    ('PatchDiffusion', {'channels': 8}), ('RefineUNet', {'channels': [4, 8]}), ('SirenKernel', {'kernel_size': 8}),
    ('DirectKernel', {'kernel_size': 8, 'activation': 'sigmoid'}), ('LinearCnnKernel', {'kernel_size': 24})])
def test_toolbox_builds_our_networks(kind, arguments):
    from basicsr.archs import build_network
    assert sum(p.numel() for p in build_network({'type': kind, **arguments}).parameters()) > 0
