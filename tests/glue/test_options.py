"""Every option file runs at toy size through the real toolbox; wrong options are refused with a useful word."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from glue_helpers import run_toolbox, scores, texture, toy_options, write_levin, write_pair
from PIL import Image
from torch import nn

from kernelfusion_plugin.bench.datasets import Setting, Sources, find_recipe
from kernelfusion_plugin.bench.make import make_dataset
from kernelfusion_plugin.cli.restore import fits_patch_prior
from kernelfusion_plugin.models.baselines import BackProjectionModel
from kernelfusion_plugin.models.build import network_factories
from kernelfusion_plugin.models.kernelfusion_model import KernelFusionModel
from kernelfusion_plugin.models.levels import check_levels
from kernelfusion_plugin.models.options import parse_section
from kernelfusion_plugin.models.toolbox import check_metrics
from kernelfusion_plugin.option_checks import check_top_level
from kernelfusion_plugin.option_files import fill_in, read_file

OPTIONS = Path(__file__).resolve().parents[2] / 'options'
TINY = ['kernelfusion:tuning:steps=2', 'kernelfusion:tuning:crop=16', 'kernelfusion:em:sketch_passes=1',
        'kernelfusion:em:coarse_passes=1', 'kernelfusion:em:fine_passes=1', 'kernelfusion:em:uncertainty=0',
        'kernelfusion:em:steps=2', 'kernelfusion:em:final_samples=1', 'kernelfusion:em:final_steps=1',
        'kernelfusion:em:cg_iterations=2',
        'kernelfusion:sheet=false', 'kernelfusion:plot=false', 'num_gpu=0']


def lay_out_datasets(root):
    """The folders that the option files name, made as a user makes them, of toy pictures."""
    pictures = root / 'DIV2K'
    pictures.mkdir()
    for name in ('0801', '0802'):
        Image.fromarray(texture(64, 64, int(name))).save(pictures / f'{name}.png')
    levin = write_levin(root / 'Levin09.mat')
    for recipe in ('DIV2KFK', 'Blind144', 'DIV2KRK'):
        make_dataset(find_recipe(recipe), Setting(recipe, images=('0801',)), Sources(pictures, levin),
                     root / 'datasets' / recipe)
    for source, target in (('LRx4', 'lr'), ('HR', 'hr'), ('kernels', 'kernels')):
        shutil.copytree(root / 'datasets/DIV2KFK' / source, root / 'demo' / target)
    shutil.copytree(root / 'demo/lr', root / 'datasets/pictures')


@pytest.fixture(scope='module')
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp('datasets')
    lay_out_datasets(root)
    return root


@pytest.mark.parametrize('file', sorted(OPTIONS.glob('kernelfusion_*.yml')), ids=lambda path: path.stem)
def test_option_file_runs(file, datasets, monkeypatch):
    opt = read_file(file)
    assert run_toolbox(opt, datasets, monkeypatch, '--force_yml', *TINY) == 0
    rows = scores(datasets, opt['name'])
    assert len(rows) == len(opt['datasets'])
    if 'folder' not in file.stem:
        assert all(row['psnr'] and row['kernel_ncc'] and row['val_psnr'] == row['psnr'] for row in rows)


LAYERED = sorted(path for folder in ('ablations', 'baselines', 'comparison')
                 for path in OPTIONS.glob(f'{folder}/*.yml'))
TINY_JOINT = ['kernelfusion:prior:steps=2', 'kernelfusion:prior:channels=8', 'kernelfusion:joint:n_iter=1',
              'kernelfusion:joint:n_iter_first=1', 'kernelfusion:joint:n_steps=2',
              'network_r:channels=[4, 8]']


@pytest.mark.parametrize('file', LAYERED, ids=lambda path: f'{path.parent.name}-{path.stem}')
def test_ablations_and_baselines_run(file, datasets, monkeypatch):
    opt = read_file(file)
    assert opt['name'] == file.stem
    first = next(iter(opt['datasets']))
    opt['datasets'] = {first: opt['datasets'][first]}
    assert run_toolbox(opt, datasets, monkeypatch, '--force_yml', *TINY, *TINY_JOINT) == 0
    row, = scores(datasets, opt['name'])
    assert row['psnr'] and (row['kernel_ncc'] or file.stem == 'bicubic')
    joint = opt['model_type'] == 'KernelFusionModel' and opt['kernelfusion'].get('solver') == 'joint'
    if joint:
        no_pd = opt['kernelfusion'].get('joint', {}).get('pipeline') in ('dip', 'unet')
        assert row['solver'] == 'joint' and (float(row['seconds_phase1']) == 0) == no_pd


def test_ablations_are_those_of_the_paper():
    """Each table's files differ in what the table is about, and in nothing else."""
    def differences(table):
        files = sorted(OPTIONS.glob(f'ablations/{table}_*.yml'))
        found = [{key: value for key, value in read_file(path).items() if key != 'name'} for path in files]
        network = [opt['network_k'] for opt in found]
        joint = [opt['kernelfusion'].get('joint') or {} for opt in found]
        rest = [{**opt, 'network_k': None, 'kernelfusion': {**opt['kernelfusion'], 'joint': None}} for opt in found]
        assert all(each == rest[0] for each in rest)
        return [(one['type'], one.get('activation'), two.get('pipeline')) for one, two in zip(network, joint)]

    siren = ('SirenKernel', None)
    assert set(differences('table3')) == {(*siren, kind) for kind in ('dip', 'unet', 'pd_unet', 'kernelfusion')}
    kinds = (('DirectKernel', 'sigmoid'), ('DirectKernel', 'relu'), ('LinearCnnKernel', None), siren)
    assert set(differences('table4')) == {(*kind, setup) for kind in kinds for setup in ('kernelfusion', 'dip')}
    assert len(read_file(OPTIONS / 'ablations/table3_dip.yml')['datasets']) == 12
    assert [each['name'] for each in read_file(OPTIONS / 'ablations/table4_siren_dip.yml')['datasets'].values()] == [
        'Blind144_k00', 'Blind144_k01', 'Blind144_k02']


def test_our_ablations_are_different_experiments():
    """A preset is about PD, and none where no PD is fitted."""
    def decides(path):
        config = parse_section(read_file(path))[0]
        return {**config.to_dict(), 'preset': None, **({} if fits_patch_prior(config) else {'prior': None})}

    found = {path.stem: decides(path) for path in OPTIONS.glob('ablations/ours_*.yml')}
    assert len(found) == 4 and all(one == other or found[one] != found[other] for one in found for other in found)


def test_a_file_goes_over_its_base(tmp_path):
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'a.yml').write_text('name: a\nscale: 4\ndatasets: {one: {name: x, type: T}, two: {name: y}}\n'
                                    'network_k: {type: SirenKernel, width: 8}\nkernelfusion: {seed: 1, em: {steps: 2}}')
    (tmp_path / 'deep/b.yml').write_text('base: ../a.yml\nname: b\ndatasets: {one: {name: z}, two: ~}\n'
                                         'network_k: {type: DirectKernel}\nkernelfusion: {em: {cg_iterations: 3}}')
    assert read_file(tmp_path / 'deep/b.yml') == {
        'name': 'b', 'scale': 4, 'datasets': {'one': {'name': 'z', 'type': 'T'}}, 'network_k': {'type': 'DirectKernel'},
        'kernelfusion': {'seed': 1, 'em': {'steps': 2, 'cg_iterations': 3}}}
    (tmp_path / 'a.yml').write_text('base: deep/b.yml')
    with pytest.raises(ValueError, match='leads back'):
        read_file(tmp_path / 'deep/b.yml')
    (tmp_path / 'a.yml').write_text('base: absent.yml')
    with pytest.raises(FileNotFoundError, match=r'a\.yml: base: there is no option file absent\.yml'):
        read_file(tmp_path / 'a.yml')


def test_a_file_over_its_base_runs(tmp_path, monkeypatch):
    write_pair(tmp_path, 'one', 1)
    (tmp_path / 'below.yml').write_text(yaml.safe_dump(toy_options(tmp_path)))
    top = {'base': '../below.yml', 'name': 'top', 'model_type': 'BicubicModel', 'datasets': {'test_1': {'name': 'B'}}}
    assert run_toolbox(top, tmp_path / 'run', monkeypatch) == 0
    row, = scores(tmp_path / 'run', 'top')
    assert row['dataset'] == 'B' and row['solver'] == 'bicubic'


def test_there_is_a_file_per_experiment():
    names = {path.stem.removeprefix('kernelfusion_') for path in OPTIONS.glob('kernelfusion_*.yml')}
    assert names >= {'div2kfk', 'blind144', 'div2krk', 'folder', 'demo'}
    for path in OPTIONS.glob('*.yml'):
        assert read_file(path)['name'] == path.stem


@pytest.mark.parametrize('file', sorted(OPTIONS.rglob('*.yml')), ids=lambda path: path.stem)
def test_every_option_of_a_file_is_where_it_is_read(file):
    opt = read_file(file)
    check_top_level(opt)
    fill_in(opt)
    check_levels(opt, MODEL_REGISTRY.get(opt['model_type']).PLACES)


def test_no_file_asks_for_metrics_where_there_is_no_ground_truth():
    for opt in map(read_file, OPTIONS.rglob('*.yml')):
        if any(dataset['type'] == 'SingleImageDataset' for dataset in opt['datasets'].values()):
            assert 'metrics' not in opt['val'], opt['name']


@pytest.mark.parametrize(('section', 'message'), [
    ({'sede': 1}, "did you mean 'seed'"),
    ({'save_piror': True}, "did you mean 'save_prior'"),
    ({'known_kernl': True}, "did you mean 'known_kernel'"),
    ({'prior': {'stepz': 1}}, "'prior.stepz': did you mean 'steps'"),
    ({'save_prior': 'yes'}, 'kernelfusion.save_prior must be true or false, got'),
    ({'checkpoint_every': 'often'}, "kernelfusion.checkpoint_every must be a number, got 'often'"),
    ({'checkpoint_every': True}, 'kernelfusion.checkpoint_every must be a number, got True'),
    ({'checkpoint_every': -1}, 'kernelfusion.checkpoint_every must be a number, at least 0, got -1'),
    ({'prior_dir': 5}, 'kernelfusion.prior_dir must be text, or ~, got 5'),
    ({'known_kernel': 1}, 'kernelfusion.known_kernel must be true or false, or text, got 1'),
    ({'kernel_tmpl': {'name': None}}, """kernelfusion.kernel_tmpl must be text, got {'name': None}: braces make a \
section of it; write "{name}", and on the command line '"{name}"'"""),
    ({'scale': 2}, "'scale' is 4, but 'kernelfusion.scale' is 2"),
    ({'scale': 'two'}, "option 'scale' must be a whole number, got 'two'"),
    ({'scale': [4]}, "option 'scale' must be a whole number"),
    ({'scale': 4.7}, "option 'scale' must be a whole number, got 4.7"),
    ({'kernel_size': 3}, 'kernel_size'),
    ({'preset': 'fast'}, 'preset must be one of'),
    ({'em': {'final_prior': 'texture'}}, 'em.final_prior must be one of'),
    ({'em': {'passes': 2}}, "unknown option 'em.passes'"),
])
def test_wrong_key_of_the_section_is_refused(section, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_section({'scale': 4, 'kernelfusion': section})


def test_a_known_kernel_needs_a_solver_that_takes_one(tmp_path):
    opt = {**toy_options(tmp_path, kernelfusion__solver='joint', kernelfusion__known_kernel=True), 'is_train': False}
    with pytest.raises(ValueError, match=r"kernelfusion\.known_kernel: solver 'joint' takes no known kernel"):
        KernelFusionModel.read_options(opt)


BLUR = {'type': 'RandomBlurDataset', 'kernels': [{'type': 'motion', 'size': 24}]}


@pytest.mark.parametrize(('changes', 'section', 'refused'), [
    ({}, {}, True), ({'type': 'TolerantPairedDataset'}, {}, True), ({'dataroot_kernel': 'kernels'}, {}, False),
    ({}, {'kernel_dir': 'kernels'}, False), (BLUR, {}, False), ({'type': 'Somebodys'}, {}, False)])
@pytest.mark.parametrize('model', [KernelFusionModel, BackProjectionModel])
def test_true_kernels_that_nothing_gives_are_refused(model, changes, section, refused, tmp_path):
    name = 'kernelfusion' if model is KernelFusionModel else 'baseline'
    opt = {**toy_options(tmp_path), 'is_train': False}
    opt[name] = {**opt.get(name, {}), **section, 'known_kernel': True}
    opt['datasets']['test_1'] = {**opt['datasets']['test_1'], 'dataroot_kernel': None, **changes}
    if not refused:
        model.read_options(opt)
        return
    with pytest.raises(ValueError, match=rf'^{name}\.known_kernel is true, but .* dataroot_kernel, .* {name} a k'):
        model.read_options(opt)


def test_weights_of_the_texture_prior_that_are_not_there(tmp_path):
    opt = {**toy_options(tmp_path, kernelfusion__texture_weights='no.pt'), 'is_train': False}
    with pytest.raises(ValueError, match=r'^kernelfusion\.texture_weights: no\.pt: there is no such file$'):
        KernelFusionModel.read_options(opt)


def test_section_maps_onto_the_configuration():
    config, glue = parse_section({'scale': 2, 'kernelfusion': {
        'preset': 'quick', 'seed': 7, 'prior': {'lr': '1e-4', 'steps': '12'}, 'em': None, 'tuning': None,
        'prior_dir': 'weights'}})
    assert (config.scale, config.kernel_size, config.seed, config.prior.lr, config.prior.steps) == (2, 12, 7, 1e-4, 12)
    assert glue.prior_dir == 'weights' and not glue.save_prior
    with pytest.raises(ValueError, match="needs 'scale: 4'"):
        parse_section({'kernelfusion': {}})


def test_networks_get_what_the_option_file_leaves_out():
    opt = {'scale': 4, 'kernelfusion': {'preset': 'quick', 'prior': {'channels': 8}},
           'network_g': {'type': 'PatchDiffusion'}, 'network_k': {'type': 'SirenKernel', 'width': 16}}
    config, factories = network_factories(opt, parse_section(opt)[0])
    assert factories['make_patch_net']().channels == 8 and factories['make_refine_net'] is None
    assert factories['make_kernel_model']()().shape == (24, 24)
    opt['network_g']['channels'] = 10
    with pytest.raises(ValueError, match='leave one of them out'):
        network_factories(opt, config)
    opt['network_g']['channels'] = [8]
    with pytest.raises(ValueError, match='network_g.channels must be a whole number'):
        network_factories(opt, config)
    opt['network_g']['channels'] = 10
    del opt['kernelfusion']['prior']
    config, factories = network_factories(opt, parse_section(opt)[0])
    assert config.prior.channels == factories['make_patch_net']().channels == 10


@pytest.mark.parametrize(('network', 'message'), [
    ({'type': 'PatchDifusion'}, "did you mean 'PatchDiffusion'"),
    ({'type': 'PatchDiffusion', 'chanels': 8}, 'chanels')])
def test_wrong_network_is_refused(network, message):
    opt = {'scale': 4, 'network_g': network}
    with pytest.raises(ValueError, match=message):
        network_factories(opt, parse_section(opt)[0])


@pytest.mark.parametrize(('metric', 'message'), [
    ({'type': 'calculate_psnr_bordr'}, "did you mean 'calculate_psnr_border'"),
    ({'type': 'calculate_psnr_border', 'crop_border': 4}, "did you mean 'border'"),
    ({'type': 'calculate_ssim_border', 'border': 'wide'}, 'border must be'),
    ({'type': 'calculate_niqe'}, r"'val.metrics.m' \(calculate_niqe\): missing a required argument: 'crop_border'"),
    ({'type': 'calculate_psnr'}, 'missing a required argument'),
    ({'type': 'calculate_psnr', 'crop_border': 4, 'test_y_chanel': True},
     "unknown option 'val.metrics.m.test_y_chanel' of calculate_psnr: did you mean 'test_y_channel'"),
    ({'type': 'calculate_psnr', 'crop_border': 4, 'img': 1}, "unknown option 'val.metrics.m.img'"),
    ({'type': 'no_more', 'bordr': 4}, "unknown option 'val.metrics.m.bordr' of no_more: did you mean 'border'"),
    ({'type': 'no_more', 'border': 4, 'better': 'lower'}, "unknown option 'val.metrics.m.better' of no_more"),
    ('calculate_psnr', "'val.metrics.m' must be a section with the metric's type, got 'calculate_psnr'"),
    (None, "'val.metrics.m' must be a section")])
def test_wrong_metric_is_refused_before_the_work(metric, message, monkeypatch):
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'no_more', lambda img, border: 0.0)
    with pytest.raises(ValueError, match=message) as error:
        check_metrics({'val': {'metrics': {'m': metric}}})
    assert '\n' not in str(error.value)


def test_metrics_that_can_be_called_are_let_through(monkeypatch):
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'anything', lambda img, **kwargs: 0.0)
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'both', lambda img, img2, *, weight, net='alex': 0.0)
    check_metrics({'val': {'metrics': {
        'a': {'type': 'anything', 'whatever': 1}, 'b': {'type': 'both', 'weight': 2},
        'c': {'type': 'calculate_niqe', 'crop_border': 4, 'better': 'lower', 'convert_to': 'gray'},
        'd': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True, 'better': 'higher'}}}})
    check_metrics({'val': {'metrics': None}})


@pytest.mark.parametrize(('section', 'kind', 'words'), [
    ('network_g', 'SirenKernel', r"'network_g' \(SirenKernel\): forward\(x_t, t\) must .*, but raises TypeError"),
    ('network_r', 'PatchDiffusion', r"'network_r' \(PatchDiffusion\): forward\(x\) must .*, but raises TypeError"),
    ('network_r', 'SirenKernel', r"'network_r' \(SirenKernel\): forward\(x\) must .*, but raises TypeError")])
def test_a_network_in_the_place_of_another_is_refused(section, kind, words):
    opt = {'scale': 4, section: {'type': kind, **({'kernel_size': 24} if kind == 'SirenKernel' else {})}}
    with pytest.raises(ValueError, match=words) as error:
        network_factories(opt, parse_section(opt)[0])
    assert '\n' not in str(error.value)


def test_a_network_for_gpus_alone_is_not_tried_on_the_processor(monkeypatch):
    class Fast(nn.Module):
        def forward(self, x):
            raise RuntimeError('CUDA kernels only')

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Fast', Fast)
    opt = {'scale': 4, 'network_r': {'type': 'Fast'}}
    config = parse_section(opt)[0]
    with pytest.raises(ValueError, match='CUDA kernels only'):
        network_factories(opt, config)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert isinstance(network_factories(opt, config)[1]['make_refine_net'](), Fast)


class Kernel(nn.Module):
    """A kernel network of a user."""

    def __init__(self, kernel_size):
        super().__init__()
        self.values = nn.Parameter(torch.full((kernel_size, kernel_size), kernel_size ** -2.0))

    def forward(self):
        return self.values


def needs_input(values, grid):
    return values


@pytest.mark.parametrize(('forward', 'found'), [
    (lambda values: values[1:, 1:], r'returns shape \(23, 23\)'),
    (lambda values: values[None, None], r'returns shape \(1, 1, 24, 24\)'),
    (lambda values: 2 * values, 'returns the sum 2'), (lambda values: values / 0, 'returns values that are not finite'),
    (lambda values: (values, values), 'returns tuple'), (needs_input, 'raises TypeError: .*grid')])
def test_a_kernel_network_that_makes_no_kernel_is_refused(forward, found, monkeypatch):
    wrong = type('Wrong', (Kernel,), {'forward': lambda self, *args: forward(self.values, *args)})
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Wrong', wrong)
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Sound', Kernel)
    opt = {'scale': 4, 'network_k': {'type': 'Sound'}}
    config = parse_section(opt)[0]
    assert network_factories(opt, config)[1]['make_kernel_model']().values.shape == (24, 24)
    opt['network_k']['type'] = 'Wrong'
    with pytest.raises(ValueError, match=rf"'network_k' \(Wrong\): .*\(24, 24\).* sum 1, but {found}") as error:
        network_factories(opt, config)
    assert '\n' not in str(error.value)


def test_a_misspelt_option_leaves_the_results_alone(tmp_path, monkeypatch):
    write_pair(tmp_path, 'one', 1)
    assert run_toolbox(toy_options(tmp_path), tmp_path / 'run', monkeypatch) == 0
    for section, key in (('kernelfusion', 'sede'), ('network_g', 'chanels'), ('val', 'metrics')):
        wrong = {f'{section}__{key}': {'m': {'type': 'calculate_niqe'}} if key == 'metrics' else 1}
        with pytest.raises(ValueError, match=r'toy\.yml: '):
            run_toolbox(toy_options(tmp_path, **wrong), tmp_path / 'run', monkeypatch)
        assert [path.name for path in (tmp_path / 'run/results').iterdir()] == ['toy']


def test_training_is_refused(tmp_path):
    from kernelfusion_plugin.models import KernelFusionModel
    with pytest.raises(ValueError, match='nothing to train'):
        KernelFusionModel({**toy_options(tmp_path), 'is_train': True})
