"""A test by several ranks, started as users start them: by torchrun, and as srun would."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from glue_helpers import digests, run_toolbox, scores, texture, toy_options, write_pair
from PIL import Image
from starting import ROOT

from kernelfusion_plugin.models.blinddiff_options import build_net

KERNELS = [{'type': 'isotropic', 'sigma': [0.3, 2.0], 'size': 9}]
MCFORMER = {'type': 'MCFormer', 'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'kernel_size': 9,
            'kernels': KERNELS, 'code_length': 4}
DRIVER = Path(__file__).with_name('ranks_driver.py')
SIZES = [(16, 17), (24, 24), (20, 16), (30, 26), (16, 16), (22, 30), (18, 24), (26, 20)]


def environment(**more):
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'KERNELFUSION_NO_HOOK': '1', **more}


def make_data(folder, images=8):
    for seed, (name, size) in enumerate(list(zip('abcdefgh', SIZES))[:images]):
        write_pair(folder, name, seed, size)
    return folder


def bicubic(data, **changes):
    opt = toy_options(data, model_type='BicubicModel', **changes)
    del opt['kernelfusion'], opt['network_g']
    return opt


def start(opt, folder, *command, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'toy.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    return subprocess.Popen([*command, '-opt', 'toy.yml', '--launcher', 'slurm' if 'SLURM_PROCID' in more else
                             'pytorch'], cwd=folder, env=environment(**more), text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def torchrun(opt, folder, *arguments, program=DRIVER, **more):
    """Exit status and output of two ranks under torchrun."""
    run = start(opt, folder, sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2',
                '--master_port', free_port(), *arguments, str(program), **more)
    output, _ = run.communicate(timeout=600)
    return run.returncode, output


def srun(opt, folder, ranks=2, **more):
    """Exit statuses and outputs of tasks as srun starts them: on their own, whatever becomes of the others."""
    port = free_port()
    runs = [start(opt, folder, sys.executable, str(DRIVER), SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank),
                  SLURM_NTASKS=str(ranks), SLURM_NODELIST='127.0.0.1', MASTER_PORT=port, **more)
            for rank in range(ranks)]
    outputs = [run.communicate(timeout=600)[0] for run in runs]
    return [run.returncode for run in runs], outputs


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def stable(folder):
    """The table's bytes, without the columns of seconds."""
    lines = (folder / 'results/toy/scores.csv').read_text().splitlines()
    keep = [place for place, column in enumerate(lines[0].split(',')) if 'seconds' not in column]
    return [[line.split(',')[place] for place in keep] for line in lines]


def summary(folder):
    """Of the run, without seconds and what tells of several ranks."""
    found = json.loads((folder / 'results/toy/summary.json').read_text())
    for about in (*found['datasets'].values(), found.get('all', {'mean': {}})):
        about['mean'] = {key: value for key, value in about['mean'].items() if 'seconds' not in key}
    return {key: value for key, value in found.items() if key not in ('ranks', 'device')}


def left(folder):
    """What lies in the folder of results, without logs."""
    return sorted(path.name for path in (folder / 'results/toy').iterdir() if path.suffix != '.log')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data'))


def one_process(opt, folder):
    with pytest.MonkeyPatch.context() as patch:
        return run_toolbox(opt, folder, patch)


def test_two_ranks_write_what_one_process_writes(data, tmp_path):
    """Two data sets; in one of them an image that cannot be read, which one rank finds and rank 0 tells."""
    opt = bicubic(data)
    bad = make_data(tmp_path / 'bad', images=3)
    (bad / 'lr/b.png').write_bytes(b'no picture')
    second = {**opt['datasets']['test_1'], 'name': 'Bad', **{f'dataroot_{kind}': str(bad / folder) for kind, folder in
                                                             (('gt', 'hr'), ('lq', 'lr'), ('kernel', 'kernels'))}}
    opt['datasets']['test_2'] = second
    assert one_process(opt, tmp_path / 'one') == 1
    status, output = torchrun(opt, tmp_path / 'two', '--max-restarts', '0', program=ROOT / 'basicsr/test.py')
    assert status == 1 and 'ZeroDivisionError' not in output
    assert output.count('lr/b.png: not an image') == 1 and '1 failed' in output
    assert stable(tmp_path / 'two') == stable(tmp_path / 'one') and len(scores(tmp_path / 'two')) == 10
    assert summary(tmp_path / 'two') == summary(tmp_path / 'one')
    assert digests(tmp_path / 'two') == digests(tmp_path / 'one')
    assert left(tmp_path / 'two') == ['scores.csv', 'summary.json', 'visualization']
    shares = json.loads((tmp_path / 'two/results/toy/summary.json').read_text())['ranks']
    assert sum(share['images'] for share in shares) == 11 and len(shares) == 2


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
def test_a_dead_rank_costs_the_image_it_was_at(rank, data, tmp_path):
    """d is the largest image, with which rank 0 begins; f that of rank 1."""
    name = 'df'[rank]
    statuses, outputs = srun(bicubic(data), tmp_path, DIE_AT=name)
    assert statuses[rank] == -9 and statuses[1 - rank] == 1
    assert f'1 image is not done: {name} (begun by rank {rank}). Repeat the command' in outputs[1 - rank]
    assert [row['image'] for row in scores(tmp_path)] == [other for other in 'abcdefgh' if other != name]
    found = json.loads((tmp_path / 'results/toy/summary.json').read_text())
    assert found['datasets']['Toy']['images'] == 7 and found['ranks'][1 - rank]['images'] == 7
    assert left(tmp_path) == ['scores.csv', 'summary.json', 'visualization']


def test_shards_are_runs_of_their_own(data, tmp_path):
    opt = bicubic(data)
    assert one_process(opt, tmp_path) == 0
    whole, rows = stable(tmp_path), []
    for number in (1, 2, 3):
        assert one_process({**opt, 'shard': f'{number}/3'}, tmp_path) == 0
        rows += scores(tmp_path, f'toy_{number}of3')
    assert sorted(row['image'] for row in rows) == list('abcdefgh')
    with pytest.raises(ValueError, match='shard: SRModel'):
        one_process({**opt, 'model_type': 'SRModel', 'shard': '1/3'}, tmp_path)
    merged = tmp_path / 'results/toy/scores.csv'  # as docs/scaling.md says
    subprocess.run(['sh', '-c', 'head -n 1 -q toy_1of3/scores.csv > merged; tail -q -n +2 toy_*of3/scores.csv | '
                                'sort >> merged; mv merged toy/scores.csv'], cwd=tmp_path / 'results', check=True)
    assert merged.is_file() and stable(tmp_path) == whole


@pytest.mark.parametrize(('launcher', 'reason'), [
    ('slurm', 'processes started by srun: SLURM_NTASKS is not set'),
    ('pytorch', 'processes started by torchrun: WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set')])
def test_a_process_that_no_launcher_started(launcher, reason, data, tmp_path, monkeypatch):
    for name in ('WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'SLURM_NTASKS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('SLURM_PROCID', '0')
    with pytest.raises(ValueError, match=reason):
        run_toolbox(bicubic(data), tmp_path, monkeypatch, '--launcher', launcher)


def test_torchrun_without_launcher(data, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='only work together with --launcher pytorch'):
        run_toolbox(bicubic(data), tmp_path, monkeypatch)
    assert not (tmp_path / 'results').exists()


def kernelfusion(data):
    em = {'sketch_passes': 1, 'coarse_passes': 1, 'fine_passes': 1, 'uncertainty': 0, 'final_prior': 'both'}
    return toy_options(data, kernelfusion__em=em, kernelfusion__prior={'channels': 8, 'steps': 20},
                       kernelfusion__checkpoint_every=0.2, kernelfusion__save_prior=True)


@pytest.fixture(scope='module')
def whole(data):
    """The folder of a run by one process."""
    assert one_process(kernelfusion(data), data / 'whole') == 0
    return data / 'whole'


@pytest.mark.slow
def test_measure_1(data, whole, tmp_path):
    status, output = torchrun(kernelfusion(data), tmp_path, SLOWNESS='0')
    assert status == 0, output
    assert stable(tmp_path) == stable(whole) and digests(tmp_path) == digests(whole)
    assert summary(tmp_path) == summary(whole)
    assert left(tmp_path) == ['priors', 'scores.csv', 'summary.json', 'visualization']
    shares = json.loads((tmp_path / 'results/toy/summary.json').read_text())['ranks']
    print(shares)
    seconds = [share['seconds'] for share in shares]
    assert max(seconds) / min(seconds) < 1.15


@pytest.mark.slow
def test_torchrun_stops_all_ranks_and_the_same_command_goes_on(data, whole, tmp_path):
    opt = kernelfusion(data)
    status, output = torchrun(opt, tmp_path, DIE_AT='c')
    assert status == 1
    told = re.search(r'stopped: (\d) images are not done: (.*)\. Repeat the', output)
    done = [row['image'] for row in scores(tmp_path)]
    assert int(told[1]) == 8 - len(done) > 0 and 'c (rank' in told[2]
    before = {name: value for name, value in digests(tmp_path).items() if name.split('/')[1][0] in done}
    status, output = torchrun(opt, tmp_path)
    assert status == 0 and 'moved back' in output, output
    assert stable(tmp_path) == stable(whole) and digests(tmp_path) == digests(whole)
    assert before.items() <= digests(whole).items() and len(done) > 0
    assert left(tmp_path) == ['priors', 'scores.csv', 'summary.json', 'visualization']
    assert [path.name for path in (tmp_path / 'results').iterdir()] == ['toy']


@pytest.mark.slow
def test_torchrun_starts_them_again_if_it_may(data, whole, tmp_path):
    status, output = torchrun(kernelfusion(data), tmp_path, '--max-restarts', '1', DIE_AT='c')
    assert status == 0, output
    assert stable(tmp_path) == stable(whole) and digests(tmp_path) == digests(whole)
    assert [path.name for path in (tmp_path / 'results').iterdir()] == ['toy']


@pytest.mark.slow
def test_blinddiff_in_batches(tmp_path):
    """Batches stay whole: three of the four images of one size, by name, are sampled together, by one rank."""
    write_pictures(tmp_path / 'hr', 'abcde')
    torch.manual_seed(0)
    torch.save({'params': build_net({'network_g': MCFORMER}, 4).state_dict()}, tmp_path / 'net.pth')
    opt = trained('BlindDiffModel', tmp_path, MCFORMER, blinddiff={'steps': 2, 'guidance_weight': 1e-3, 'batch': 3})
    opt['path']['pretrain_network_g'] = str(tmp_path / 'net.pth')
    same_with_two_ranks(opt, tmp_path)


@pytest.mark.slow
def test_a_network_of_the_field(tmp_path):
    net = {'type': 'DCLS', 'nf': 16, 'nb': 1, 'ng': 1, 'input_para': 8, 'kernel_size': 11}
    write_pictures(tmp_path / 'hr', 'abc')
    same_with_two_ranks(trained('BlindSRModel', tmp_path, net), tmp_path)


def trained(model, data, net, **section):
    return {'name': 'toy', 'model_type': model, 'scale': 4, 'num_gpu': 0, 'manual_seed': 0,
            'datasets': {'test_1': {'name': 'Toy', 'type': 'RandomBlurDataset', 'dataroot_gt': str(data / 'hr'),
                                    'io_backend': {'type': 'disk'}, 'kernels': KERNELS}},
            'network_g': net, 'path': {}, 'val': {}, **section}


def write_pictures(folder, names):
    folder.mkdir()
    for seed, name in enumerate(names):
        Image.fromarray(texture(32, 32 if name != 'b' else 48, seed)).save(folder / f'{name}.png')


def same_with_two_ranks(opt, folder):
    assert one_process(opt, folder / 'one') == 0
    status, output = torchrun(opt, folder / 'two')
    assert status == 0, output
    assert stable(folder / 'two') == stable(folder / 'one') and digests(folder / 'two') == digests(folder / 'one')
    assert summary(folder / 'two') == summary(folder / 'one')


@pytest.mark.slow
def test_training_without_gpu(tmp_path):
    """BlindDiff trains in step; validation is rank 0's."""
    write_pictures(tmp_path / 'hr', 'abcd')
    opt = trained('BlindDiffModel', tmp_path, MCFORMER, blinddiff={'steps': 2})
    pairs = opt['datasets'].pop('test_1')
    crops = {'gt_size': 16, 'num_worker_per_gpu': 1, 'batch_size_per_gpu': 1}
    opt['datasets'] = {'val': pairs, 'train': {**pairs, **crops}}
    opt['train'] = {'ema_decay': 0.9, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'total_iter': 2,
                    'scheduler': {'type': 'MultiStepLR', 'milestones': [9]}}
    opt['val'], opt['logger'] = {'val_freq': 1}, {'print_freq': 1, 'save_checkpoint_freq': 9, 'use_tb_logger': False}
    status, output = torchrun(opt, tmp_path, program=ROOT / 'basicsr/train.py')
    assert status == 0, output
    assert output.count('Toy: mean of 4 images') == 3
    assert (tmp_path / 'experiments/toy/models/net_g_latest.pth').is_file()


@pytest.mark.slow
def test_one_process_goes_on_with_what_several_ranks_left(data, whole, tmp_path):
    opt = kernelfusion(data)
    statuses, _ = srun(opt, tmp_path, ranks=3, DIE_AT='e')
    assert sorted(statuses) == [-9, 0, 1]
    assert len(scores(tmp_path)) == 7
    assert one_process(opt, tmp_path) == 0
    assert stable(tmp_path) == stable(whole) and digests(tmp_path) == digests(whole)
