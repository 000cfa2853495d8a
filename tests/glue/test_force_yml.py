"""Option files and --force_yml: every key can be set, every kind of value is read, others' runs are left alone."""

import functools
import inspect
import os
import re
import sys

import pytest
from starting import toy_options, write

from kernelfusion_plugin import compat, options
from kernelfusion_plugin.option_files import apply_force_yml, parse_value

compat.apply()  # the tests import basicsr in this process, with or without the start-up hook


@pytest.mark.parametrize(('text', 'value'), [
    ('3', 3), ('-1', -1), ('+2', 2), ('007', 7), ('0.5', 0.5), ('-.5', -0.5), ('1e-3', 1e-3), ('1E5', 1e5),
    ('-2.5e-04', -2.5e-4), ('5.', 5.0), ('true', True), ('False', False), ('null', None), ('~', None), ('None', None),
    ('', None), ('[1, 2.5, -3, 1e-4, x]', [1, 2.5, -3, 1e-4, 'x']), ('[[1, 2], [a, null]]', [[1, 2], ['a', None]]),
    ("['1', \"2\"]", ['1', '2']), ('{a: 1, b: [2]}', {'a': 1, 'b': [2]}), ('"3"', '3'), ("'true'", 'true'),
    ('!!float 3', 3.0), ('em', 'em'), ('~/pictures', '~/pictures'), ('a/b c.png', 'a/b c.png'), ('1:30', '1:30'),
    ('2024-01-01', '2024-01-01'), ('[unclosed', '[unclosed'), ('x=y', 'x=y'), ('1e', '1e'),
    ('yes', True), ('OFF', False),
])
def test_values(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_keys_are_made_changed_and_indexed():
    opt = {'a': 1, 'empty': None, 'list': [{'x': 0}, 5]}
    apply_force_yml(opt, ['a=2', 'new:deep:key=1e-3', 'empty:b=-1', 'list:0:x=7', 'list:1=8', 'path=a=b'])
    assert opt == {'a': 2, 'new': {'deep': {'key': 1e-3}}, 'empty': {'b': -1}, 'list': [{'x': 7}, 8], 'path': 'a=b'}


@pytest.mark.parametrize('entry', ['a', '=3', 'a:=3', 'number:b=1', 'list:x=1', 'list:2=1'])
def test_bad_entries_are_named(entry):
    with pytest.raises(ValueError, match='--force_yml') as error:
        apply_force_yml({'number': 3, 'list': [1, 2]}, [entry])
    assert entry in str(error.value) and '\n' not in str(error.value)


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """The installed BasicSR's parse_options behind ours, called as its test.py calls it, in a user's folder."""
    from basicsr.utils import options as toolbox
    original = inspect.unwrap(toolbox.parse_options)
    (tmp_path / 'cwd').mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')

    def call(*arguments, is_train=False, original=original):
        monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, arguments)])
        return options.parse_options(original, str(tmp_path / 'checkout'), is_train=is_train)
    return call


def master(original):
    """As in BasicSR's master: results_root of the option file is kept as it is."""
    @functools.wraps(original)
    def parse_options(root_path, is_train=True):
        opt, args = original(root_path, is_train=is_train)
        import yaml
        with open(args.opt) as file:
            given = yaml.safe_load(file)['path'].get('results_root')
        if given:
            opt['path'].update(results_root=given, log=given, visualization=os.path.join(given, 'visualization'))
        return opt, args
    return parse_options


def test_force_yml_reaches_basicsr(parse, tmp_path):
    file = toy_options(tmp_path)
    opt, args = parse('-opt', file, '--force_yml', 'kernelfusion:prior:lr=1e-3', 'kernelfusion:seed=-1',
                      'val:metrics:psnr:type=calculate_psnr_border', 'list=[1, 2.5]', '--launcher', 'none')
    assert opt['kernelfusion']['prior']['lr'] == 1e-3 and opt['kernelfusion']['seed'] == -1
    assert opt['kernelfusion']['prior']['channels'] == 4  # what the file has beside it is kept
    assert opt['val']['metrics']['psnr']['type'] == 'calculate_psnr_border' and opt['list'] == [1, 2.5]
    assert args.opt == str(file) and len(args.force_yml) == 4 and sys.argv[2] == str(file)


def test_file_may_write_floats_as_people_do(parse, tmp_path):
    file = toy_options(tmp_path)
    file.write_text(file.read_text() + 'a: 1e-4\nb: -2E+3\nc: 1.5e-3\nd: "1e-4"\ne: [1e-4, 12]\nf: 0x10\n')
    opt, _ = parse('-opt', file)
    assert (opt['a'], opt['b'], opt['c'], opt['d'], opt['e']) == (1e-4, -2000.0, 1.5e-3, '1e-4', [1e-4, 12])


def test_missing_sections_are_filled_in(parse, tmp_path):
    file = write(tmp_path / 'short.yml', 'name: short\nmodel_type: KernelFusionModel\nscale: 2\nkernelfusion:\n'
                                         'datasets: {test: {name: a, type: SingleImageDataset, dataroot_lq: ., '
                                         'io_backend: {type: disk}}}\npath:\n')
    opt, _ = parse('-opt', file)
    assert isinstance(opt['num_gpu'], int) and opt['val']['save_img'] is True
    assert opt['path']['results_root'] == str(tmp_path / 'cwd' / 'results' / 'short')


@pytest.mark.parametrize('of', [lambda original: original, master], ids=['1.4.2', 'master'])
def test_results_root(parse, tmp_path, of):
    from basicsr.utils import options as toolbox
    original = of(inspect.unwrap(toolbox.parse_options))
    file = toy_options(tmp_path)
    here = str(tmp_path / 'cwd' / 'results' / 'toy')
    opt, _ = parse('-opt', file, original=original)
    assert opt['path']['results_root'] == opt['path']['log'] == here
    opt, _ = parse('-opt', file, '--force_yml', 'path:results_root=../elsewhere', original=original)
    there = str(tmp_path / 'elsewhere')
    assert opt['path']['results_root'] == opt['path']['log'] == there
    assert opt['path']['visualization'] == os.path.join(there, 'visualization')


def test_training_goes_to_the_users_folder_too(parse, tmp_path):
    opt, _ = parse('-opt', toy_options(tmp_path, model_type='SRModel'), is_train=True)
    assert opt['path']['models'] == str(tmp_path / 'cwd' / 'experiments' / 'toy' / 'models')


@pytest.mark.parametrize('val', [{}, {'val_freq': None}], ids=['absent', '~'])
def test_a_training_without_val_freq_never_validates(parse, tmp_path, val):
    opt, _ = parse('-opt', toy_options(tmp_path, model_type='SRModel', val=val), is_train=True)
    assert 100_000 % opt['val']['val_freq'] != 0  # BasicSR's question after each iteration


def test_other_peoples_runs_are_basicsrs_own(parse, tmp_path, monkeypatch):
    file = toy_options(tmp_path, model_type='SRModel')
    text = file.read_text().replace('kernelfusion:', 'other:') + 'lr: 1e-4\n'
    file.write_text(text)
    opt, _ = parse('-opt', file, '--force_yml', 'scale=3')
    assert opt['lr'] == '1e-4' and opt['scale'] == 3
    assert opt['path']['results_root'] == str(tmp_path / 'checkout' / 'results' / 'toy')
    monkeypatch.setattr(options, '_every_run', True)  # but through our launcher it is ours
    opt, _ = parse('-opt', file)
    assert opt['lr'] == 1e-4 and opt['path']['results_root'] == str(tmp_path / 'cwd' / 'results' / 'toy')


@pytest.mark.parametrize(('text', 'message'), [
    ('name: x\nkernelfusion: {}\n', 'model_type, datasets must be given'),
    ('kernelfusion: [1\n', 'is not a YAML file'),
    ('- kernelfusion\n', 'must hold options'),
])
def test_bad_files_are_one_line(parse, tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(options, '_every_run', True)
    with pytest.raises(ValueError, match=message) as error:
        parse('-opt', write(tmp_path / 'bad.yml', text))
    assert 'bad.yml' in str(error.value) and '\n' not in str(error.value)


def test_missing_file(parse, monkeypatch):
    monkeypatch.setattr(options, '_every_run', True)
    with pytest.raises(FileNotFoundError, match='no option file nowhere.yml'):
        parse('-opt', 'nowhere.yml')


def assert_refused(parse, file, entries, said):
    """In a line that begins with the file's name, before BasicSR has read the options."""
    unread = functools.wraps(options.parse_options)(lambda *args, **named: pytest.fail('handed on'))
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        parse('-opt', file, '--force_yml', *entries, original=unread)
    assert str(error.value).startswith(f'{file}: ') and '\n' not in str(error.value)


@pytest.mark.parametrize(('entry', 'said'), [
    ('kernelfusoin:seed=1', "unknown option 'kernelfusoin': did you mean 'kernelfusion'?"),
    ('scael=4', "unknown option 'scael': did you mean 'scale'?"),
    ('model_type=KernelFusonModel', "unknown model_type 'KernelFusonModel': did you mean 'KernelFusionModel'?"),
    ('manual_seed=abc', "'manual_seed' must be a whole number, got 'abc'"),
    ('name=../hr', "'name' must be a folder name without / or leading dot, got '../hr'"),
    ('name=..', "'name' must be a folder name"), ('name=.', "'name' must be a folder name"),
    ('name=a/b', "'name' must be a folder name"),
    ('val=5', "'val' must be a section of options, got 5"),
    ('datasets=3', "'datasets' must be a section of data sets"), ('datasets:test=5', 'datasets:test must be a section'),
    ('datasets:test:type=SingelImageDataset', "datasets:test: unknown type 'SingelImageDataset': did you mean 'Single"),
    ('datasets:test_2:dataroot_lq=.', 'datasets:test_2: name, type must be given'),
    ('datasets:test:dataroot_lq=nowhere', 'datasets:test:dataroot_lq: there is no nowhere here; "make demo"')])
def test_faults_of_options_are_named_before_basicsr_reads_them(parse, tmp_path, entry, said):
    assert_refused(parse, toy_options(tmp_path), [entry], said)


@pytest.mark.parametrize(('entries', 'said'), [
    (['kernelfusion:sede=1'], "unknown option 'kernelfusion.sede': did you mean 'seed'?"),
    (['kernelfusion:em:stepz=1'], "unknown option 'em.stepz': did you mean 'steps'?"),
    (['kernelfusion=quick'], "'kernelfusion' must be a section of options, got 'quick'"),
    (['kernelfusion:known_kernel=nowhere'], 'kernelfusion.known_kernel must be true, false or a path'),
    (['scale=~'], "the option file needs 'scale: 4'"),
    (['network_g:chanels=8'], "'network_g' (PatchDiffusion): "),
    (['network_g=PatchDiffusion'], "'network_g' must be a section of options, got 'PatchDiffusion'"),
    (['network_k:type=SirenKernl'], "unknown network 'SirenKernl' in 'network_k': did you mean 'SirenKernel'?"),
    (['network_k:type=SirenKernel', 'network_k:depth=0'], "'network_k' (SirenKernel): width and depth must"),
    (['val:metrics:m:type=calculate_nique'], "unknown metric 'calculate_nique' in 'val.metrics.m'"),
    (['val:metrics:m:type=calculate_niqe'], "'val.metrics.m' (calculate_niqe): missing a required argument: 'crop_"),
    (['datasets:test_2={name: Toy, type: SingleImageDataset, dataroot_lq: ., io_backend: {type: disk}}'],
     'are both named'),
    (['datasets:test:name=../hr'], 'datasets:test:name must be a folder name without / or leading dot'),
    (['model_type=BicubicModel', 'baseline:shete=false'], "unknown option 'baseline.shete': did you mean 'sheet'?"),
    (['model_type=BackProjectionModel', 'baseline:ridge=0'], 'baseline.ridge must be positive'),
    (['model_type=BlindSRModel', 'network_g:type=DCLS', 'blind_sr:tlie=8'], "unknown option 'blind_sr.tlie'"),
    (['model_type=BlindSRModel', 'network_g:type=DCLS', 'network_g:nff=8'], "unknown option 'network_g.nff' of DCLS"),
    (['model_type=BlindSRModel', 'path:pretrain_network_g=~/nowhere.pth'], 'nowhere.pth'),
    (['model_type=BlindDiffModel', 'blinddiff:stepz=8'], "unknown option 'blinddiff.stepz': did you mean 'steps'?"),
    (['model_type=BlindDiffModel'], 'path.pretrain_network_g must name trained weights'),
    (['model_type=BlindDiffModel', 'path:pretrain_network_g=x', 'network_g:type=MCFormer',
      'network_g:kernel_head=pac'], 'network_g.kernel_head must be one of pca, softmax')])
def test_faults_of_the_models_options_are_named_before_basicsr_makes_folders(parse, tmp_path, entries, said):
    assert_refused(parse, toy_options(tmp_path), entries, said)


def test_training_of_what_learns_nothing_is_refused_before_basicsr_makes_folders(parse, tmp_path):
    unread = functools.wraps(options.parse_options)(lambda *args, **named: pytest.fail('handed on'))
    with pytest.raises(ValueError, match='KernelFusionModel .* nothing to train'):
        parse('-opt', toy_options(tmp_path), is_train=True, original=unread)


def test_options_of_other_models_and_data_sets_left_out_later_are_let_through(parse, tmp_path):
    opt, _ = parse('-opt', toy_options(tmp_path), '--force_yml', 'datasets:test_2:name=gone', 'datasets:test_2=~',
                   'high_order_degradation=true', 'list=[1]', 'network_d:type=Critic')
    assert list(opt['datasets']) == ['test'] and opt['high_order_degradation'] is True


def test_what_an_anchor_names_for_a_section_is_let_through(parse, tmp_path):
    """``seed: &s 5`` at the top and ``seed: *s`` in the section."""
    opt, _ = parse('-opt', toy_options(tmp_path), '--force_yml', 'seed=5', 'kernelfusion:seed=5')
    assert opt['kernelfusion']['seed'] == 5


@pytest.mark.parametrize(('entries', 'said'), [
    (['solver=joint'], "unknown option 'solver': did you mean 'kernelfusion: solver'?"),
    (['preset=paper'], "unknown option 'preset': did you mean 'kernelfusion: preset'?"),
    (['seed=7'], "unknown option 'seed': did you mean 'kernelfusion: seed'?"),
    (['regions=1x2'], "'kernelfusion: regions'?"), (['crop_gt=true'], "'kernelfusion: crop_gt'?"),
    (['known_kernel=true'], "'kernelfusion: known_kernel'?"),
    (['em:searches=3'], "unknown option 'em': did you mean 'kernelfusion: em'?"),
    (['em:foo=1'], "unknown option 'em': did you mean 'kernelfusion: em'?"),
    (['searches=3'], "unknown option 'searches': did you mean 'kernelfusion: em: searches'?"),
    (['crop=16'], "did you mean 'kernelfusion: prior: crop' or 'kernelfusion: tuning: crop'?"),
    (['path:result_root=x'], "unknown option 'path.result_root': did you mean 'results_root'? Known: "),
    (['path:pretrain_network_r=x'], "unknown option 'path.pretrain_network_r': did you mean 'pretrain_network_"),
    (['val:save_im=false'], "unknown option 'val.save_im': did you mean 'save_img'?"),
    (['val:metric:psnr:type=calculate_psnr_border'], "unknown option 'val.metric': did you mean 'metrics'?"),
    (['network_x:type=Foo'], "unknown option 'network_x': did you mean 'network_"),
    (['datasets:test:kernel_dir=.'], "datasets:test: unknown option 'kernel_dir': did you mean 'dataroot_kernel'?"),
    (['datasets:test:crop_gt=true'], "datasets:test: unknown option 'crop_gt': did you mean 'kernelfusion: crop_gt'?"),
    (['model_type=BicubicModel', 'crop_gt=true'], "unknown option 'crop_gt': did you mean 'baseline: crop_gt'?"),
    (['model_type=BackProjectionModel', 'ridge=1'], "unknown option 'ridge': did you mean 'baseline: ridge'?"),
    (['model_type=BicubicModel', 'solver=joint'], "unknown option 'solver': did you mean 'kernelfusion: solver'?"),
    (['model_type=BlindSRModel', 'tile=8'], "unknown option 'tile': did you mean 'blind_sr: tile'?"),
    (['model_type=BlindDiffModel', 'preset=released'], "unknown option 'preset': did you mean 'blinddiff: preset'?")])
def test_an_option_at_a_level_where_nobody_reads_it_is_refused(parse, tmp_path, entries, said):
    assert_refused(parse, toy_options(tmp_path), entries, said)


@pytest.mark.parametrize('entries', [
    ['seed=7', 'em:searches=3', 'network_x:type=Foo', 'val:mine=1', 'path:mine=1', 'datasets:test:kernel_dir=.']])
@pytest.mark.parametrize('model', ['SRModel', 'Mine'])
def test_other_models_may_read_what_they_like(parse, tmp_path, monkeypatch, model, entries):
    """BasicSR's, and a user's that builds on one of ours."""
    from basicsr.utils.registry import MODEL_REGISTRY

    from kernelfusion_plugin.models import KernelFusionModel
    monkeypatch.setitem(MODEL_REGISTRY._obj_map, 'Mine', type('Mine', (KernelFusionModel,), {'__module__': 'mine'}))
    monkeypatch.setattr(options, '_every_run', True)
    opt, _ = parse('-opt', toy_options(tmp_path, model_type=model), '--force_yml', *entries)
    assert opt['seed'] == 7 and opt['val']['mine'] == opt['path']['mine'] == 1


@pytest.mark.parametrize('entries', [
    ['val:save_img=false', 'val:suffix=x', 'val:val_freq=5', 'val:pbar=true', 'val:flip_seq=false',
     'val:center_frame_only=false', 'val:num_val_samples=4'],
    ['path:results_root=x', 'path:experiments_root=y', 'path:strict_load_g=true', 'path:param_key_g=params',
     'path:pretrain_network_d=~', 'path:resume_state=~', 'path:ignore_resume_networks=network_d']])
def test_what_basicsr_and_its_models_read_is_let_through(parse, tmp_path, entries):
    parse('-opt', toy_options(tmp_path), '--force_yml', *entries)


def test_a_section_of_another_model_on_the_command_line_is_told_of(parse, tmp_path, caplog):
    """In a file it is none's fault: the file may build on another model's, as those of comparison/ do."""
    file = toy_options(tmp_path, model_type='BicubicModel', baseline={'sheet': False})
    parse('-opt', file)
    assert not caplog.messages
    parse('-opt', file, '--force_yml', 'kernelfusion:crop_gt=true', 'baseline:crop_gt=true')
    line, = caplog.messages
    assert line == ('--force_yml kernelfusion:crop_gt=true: makes no difference to BicubicModel, whose options are in '
                    'the section baseline')
