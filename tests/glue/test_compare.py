"""``kernelfusion compare``: what is run and what is used again, whose pictures, which scores, what faults say."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import scipy.stats
import yaml
from comparing import EM, Methods, compare, noise, option_file, page_data, rows, write_images
from glue_helpers import make_lmdb
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from starting import ROOT

from kernelfusion_plugin.bench.compare import cases, methods
from kernelfusion_plugin.bench.compare.collect import Comparison
from kernelfusion_plugin.bench.compare.statistics import bootstrap_interval, groups

SCORES = ('psnr', 'psnr_best_shift', 'ssim', 'kernel_ncc', 'kernel_ncc_best_shift')  # as in a scores.csv of ours


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('data'))


@pytest.fixture
def two(tmp_path, data):
    """Option files of two methods, a and b."""
    return [option_file(tmp_path / f'{name}.yml', data) for name in 'ab']


def y_channel(path):
    return np.array(Image.open(path).convert('RGB')).astype(float) @ [65.481, 128.553, 24.966] / 255 + 16


@pytest.mark.slow
def test_real_models_are_run_and_scored_alike(tmp_path, data, monkeypatch):
    """SwinIR of BasicSR; ours with another suffix, and one bad image."""
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    mine, out = shutil.copytree(data, tmp_path / 'mine'), tmp_path / 'out'
    (mine / 'lr' / 'bee_k2.png').write_bytes(b'nonsense')
    files = [option_file(tmp_path / 'swinir.yml', data),
             option_file(tmp_path / 'em.yml', mine, kernelfusion=EM, val={'suffix': 'ours'})]
    answer = compare('-opt', *files, '--out', out)
    assert answer.exit_code == 1, answer.output
    scored = {(row['method'], row['image']): row for row in rows(out)}
    assert len(scored) == 6 and 'bee_k2.png: not an image' in scored.pop(('em', 'bee_k2'))['fault']
    assert not any(row['fault'] for row in scored.values())
    for (method, image), row in scored.items():
        suffix = 'ours' if method == 'em' else method
        found = out / 'runs' / method / 'visualization' / 'Toy' / f'{image}_{suffix}.png'
        assert_independent_scores(row, found, data / 'hr' / f'{image}.png')
    with open(out / 'runs' / 'em' / 'scores.csv', newline='') as file:
        for own in csv.DictReader(file):
            row = scored['em', own['image']]
            assert all(row[score] == own[score] for score in SCORES)
            seconds = float(own['seconds_phase1']) + float(own['seconds_phase2'])
            assert float(row['seconds']) == pytest.approx(seconds, abs=1e-5)
    assert scored['swinir', 'ape_k1']['seconds'] == scored['swinir', 'ape_k1']['kernel_ncc'] == ''
    text = (out / 'comparison.md').read_text()
    assert 'Seconds of swinir: wall time' in text
    assert 'torch' in text and 'kernelfusion compare -opt' in text and 'CPU' in text
    assert (out / 'runs' / 'em.json').is_file()  # complete but for the bad image: to be used again


def assert_independent_scores(row, found, truth):
    """PSNR and SSIM on Y as scikit-image has them, 4 of 96 pixels off each side."""
    a, b = (y_channel(path)[4:-4, 4:-4] for path in (found, truth))
    assert float(row['psnr']) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=2e-6)
    ssim = structural_similarity(b, a, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                 full=True)[1][5:-5, 5:-5].mean()
    assert float(row['ssim']) == pytest.approx(ssim, abs=2e-6)


def test_results_are_used_again_until_options_or_files_change(tmp_path, two, data, monkeypatch):
    mine = shutil.copytree(data, tmp_path / 'mine')
    ran = Methods(monkeypatch, a=noise(3), b=noise(9))
    files = [option_file(file, mine) for file in two]

    def again(*arguments):
        ran.started.clear()
        assert compare('-opt', *files, '--out', tmp_path / 'out', *arguments).exit_code == 0
        return ran.started[:]
    assert again() == ['a', 'b']
    assert again() == []
    assert again('--fresh') == ['a', 'b']
    assert again('--force_yml', 'manual_seed=1') == ['a', 'b']
    option_file(files[1], mine, manual_seed=1)  # now what b was run with; a was run with another
    assert again() == ['a']
    next((tmp_path / 'out' / 'runs' / 'b').rglob('ape_k1_b.png')).unlink()
    assert again() == ['b']
    Image.fromarray(np.array(Image.open(mine / 'lr' / 'cow_k1.png'))[::-1]).save(mine / 'lr' / 'cow_k1.png')
    assert again() == ['a', 'b']
    weights = tmp_path / 'weights.pth'
    weights.write_bytes(b'1')
    option_file(files[0], mine, path={'pretrain_network_g': str(weights)})
    assert again() == ['a']
    weights.write_bytes(b'2')
    assert again() == ['a']


def test_a_method_that_failed_loses_only_itself_and_is_tried_again(tmp_path, data, monkeypatch):
    Methods(monkeypatch, good=noise(3), bad='Traceback\nKeyError: no such thing\n',
            partial=lambda hr, name: None if name == 'bee_k2' else noise(3, seed=1)(hr, name))
    files = [option_file(tmp_path / f'{name}.yml', data) for name in ('good', 'bad', 'partial')]
    answer = compare('-opt', *files, '--out', tmp_path / 'out')
    assert answer.exit_code == 1, answer.output
    found = {(row['method'], row['image']): row for row in rows(tmp_path / 'out')}
    assert all('KeyError: no such thing' in found['bad', image]['fault'] for image in ('ape_k1', 'bee_k2', 'cow_k1'))
    assert 'partial.png' in found['partial', 'bee_k2']['fault'] and found['good', 'bee_k2']['psnr']
    means = {(row['group'], row['method']): row for row in rows(tmp_path / 'out', 'means.csv')}
    both = [float(found['good', image]['psnr']) for image in ('ape_k1', 'cow_k1')]
    assert float(means['all images', 'good']['psnr']) == pytest.approx(np.mean(both), abs=1e-6)
    assert means['all images', 'good']['psnr_images'] == '2' and means['all images', 'bad']['psnr'] == ''
    text = (tmp_path / 'out' / 'comparison.md').read_text()
    assert 'bad: failed' in text and 'partial: lacks 1 of 3' in text
    assert '2 of 3 images with finite values from good and partial' in text
    ran = Methods(monkeypatch, good=noise(3), bad=noise(4), partial=noise(3))
    assert compare('-opt', *files, '--out', tmp_path / 'out').exit_code == 1
    assert ran.started == ['bad']


def test_results_of_other_options_are_not_taken_for_those_of_a_run_that_failed(tmp_path, two, monkeypatch):
    Methods(monkeypatch, a=noise(3), b=noise(9))
    assert compare('-opt', *two, '--out', tmp_path / 'out').exit_code == 0
    Methods(monkeypatch, a='kernelfusion: error: no such thing', b=noise(9))
    answer = compare('-opt', *two, '--out', tmp_path / 'out', '--force_yml', 'manual_seed=1')
    assert answer.exit_code == 1 and {row['fault'] for row in rows(tmp_path / 'out') if row['method'] == 'a'} == {
        'failed with status 1: no such thing'}


def test_one_bad_copy_of_the_data_does_not_lose_the_other(tmp_path, data, monkeypatch):
    bad = shutil.copytree(data, tmp_path / 'bad')
    (bad / 'lr' / 'bee_k2.png').write_bytes(b'nonsense')
    Methods(monkeypatch, a=noise(3), b=noise(9))
    files = [option_file(tmp_path / 'a.yml', bad), option_file(tmp_path / 'b.yml', data)]
    assert compare('-opt', *files, '--out', tmp_path / 'out').exit_code == 0
    assert all(row['psnr'] for row in rows(tmp_path / 'out'))


def test_kernels_that_no_two_images_share_are_no_groups(tmp_path, monkeypatch):
    data = write_images(tmp_path / 'data', ('im_k1', 'im_k2', 'im_k3'))
    Methods(monkeypatch, a=noise(3))
    assert compare('-opt', option_file(tmp_path / 'a.yml', data), '--out', tmp_path / 'out').exit_code == 0
    assert {row['group'] for row in rows(tmp_path / 'out', 'means.csv')} == {'all images'}


@pytest.mark.parametrize('section', ['kernelfusion', 'baseline', 'blind_sr', 'blinddiff'])
def test_kernels_are_found_where_any_of_our_models_has_them(section, tmp_path, data):
    others = {'kernelfusion': EM} if section != 'kernelfusion' else {}  # as of a file that builds on another
    file = option_file(tmp_path / 'a.yml', data, **others, **{section: {'kernel_dir': str(data / 'kernels')}})
    text = file.read_text()
    file.write_text(''.join(line for line in text.splitlines(True) if 'dataroot_kernel' not in line))
    found = cases.gather(methods.load_methods([file]))
    assert all(case.kernel is not None for case in found.cases.values()) and found.cases


def test_identical_pictures_and_sizes_that_do_not_fit(tmp_path, data, monkeypatch):
    Methods(monkeypatch, same=lambda hr, name: hr, small=lambda hr, name: hr[:48, :60], fair=noise(5))
    files = [option_file(tmp_path / f'{name}.yml', data) for name in ('same', 'small', 'fair')]
    assert compare('-opt', *files, '--out', tmp_path / 'out').exit_code == 1
    found = {(row['method'], row['image']): row for row in rows(tmp_path / 'out')}
    assert found['same', 'ape_k1']['psnr'] == 'inf' and float(found['same', 'ape_k1']['ssim']) == 1
    assert '60 x 48' in found['small', 'ape_k1']['fault'] and '96 x 96' in found['small', 'ape_k1']['fault']
    means = {row['method']: row for row in rows(tmp_path / 'out', 'means.csv') if row['group'] == 'all images'}
    assert means['fair']['psnr'] == '' and float(means['fair']['ssim_difference']) < 0
    assert 'with infinite PSNR: 3' in (tmp_path / 'out' / 'comparison.md').read_text()
    assert page_data(tmp_path / 'out')['scores'][0]['rows'][0][2]['text'] == 'identical'


@pytest.mark.parametrize('seed', [0, 7])
def test_bootstrap_is_scipys(seed):
    d = np.random.default_rng(3).normal(0.3, 1, 24)
    theirs = scipy.stats.bootstrap((d,), np.mean, n_resamples=9999, method='percentile', vectorized=True,
                                   random_state=np.random.default_rng(seed)).confidence_interval
    assert bootstrap_interval(d, seed=seed) == pytest.approx(tuple(theirs), abs=1e-12)
    assert bootstrap_interval(d, seed=seed) != bootstrap_interval(d, seed=seed + 1)
    assert bootstrap_interval([1.0]) is None and bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)


def test_bootstrap_in_blocks_covers_the_mean():
    """95 % of the intervals of 40 normal draws hold the mean, within what 300 repetitions tell."""
    rng = np.random.default_rng(0)
    hits = [low <= 0 <= high for low, high in
            (bootstrap_interval(rng.normal(0, 1, 40), resamples=999) for _ in range(300))]
    assert 0.90 < np.mean(hits) < 0.98


def test_differences_are_paired_to_the_reference_and_have_intervals_from_five_images_on(tmp_path, monkeypatch):
    names = ('ape_k1', 'bee_k2', 'cow_k1', 'dog_k1', 'elk_k1', 'fox_k1')
    Methods(monkeypatch, a=noise(3), b=noise(9))
    data, out = write_images(tmp_path / 'data', names), tmp_path / 'out'
    files = [option_file(tmp_path / f'{name}.yml', data) for name in 'ab']
    assert compare('-opt', *files, '--out', out, '--reference', 'b').exit_code == 0
    found = {(row['method'], row['image']): float(row['psnr']) for row in rows(out)}
    means = {row['group']: row for row in rows(out, 'means.csv') if row['method'] == 'a'}
    assert list(means) == ['all images', 'kernel k1', 'kernel k2']
    for group, images in (('all images', names), ('kernel k1', [name for name in names if name != 'bee_k2'])):
        paired, row = [found['a', image] - found['b', image] for image in images], means[group]
        expected = [np.mean(paired), *bootstrap_interval(paired), len(images), len(images)]
        columns = ('difference', 'low', 'high', 'better_on', 'images')
        assert [float(row[f'psnr_{key}']) for key in columns] == pytest.approx(expected, abs=2e-6)
    alone = means['kernel k2']
    assert (alone['psnr_images'], alone['psnr_low'], alone['psnr_high']) == ('1', '', '') and alone['psnr_difference']
    text, page = (out / 'comparison.md').read_text(), page_data(out)
    assert len(re.findall(r'\] \(n = 6\), 6 of 6 ', text)) == len(re.findall(r'\] \(n = 5\), 5 of 5 ', text)) == 2
    assert re.search(r'\| \+[\d.]+ \(n = 1\), 1 of 1 ', text) and 'fewer than 5 images have no interval' in text
    interval, better = page['means']['rows'][0][2]['under']
    assert interval[0] + interval[-1] == '[]' and better == 'n = 6, better on 6'
    assert page['groups'][0]['rows'][2][2]['under'] == [f'+{float(alone["psnr_difference"]):.2f} (n = 1)']


def test_few_images_are_said_to_have_no_intervals(tmp_path, two, monkeypatch):
    Methods(monkeypatch, a=noise(3), b=noise(9))
    assert compare('-opt', *two, '--out', tmp_path / 'out').exit_code == 0
    text = (tmp_path / 'out' / 'comparison.md').read_text()
    assert '(n = 3), 0 of 3' in text and 'bootstrap' not in text and text.count('have no interval') == 1
    assert compare('-opt', two[0], '--out', tmp_path / 'out').exit_code == 0  # no other method, no differences
    assert 'interval' not in (tmp_path / 'out' / 'comparison.md').read_text().partition('## Means')[2]


def test_groups_that_are_the_whole_or_one_another_stand_there_once(tmp_path, monkeypatch):
    one = write_images(tmp_path / 'one', ('ape_k1', 'bee_k1'))
    other = write_images(tmp_path / 'other', ('cow_k2', 'dog_k2', 'elk_k3'))
    for file in (other / 'kernels').iterdir():
        np.save(file, np.load(file).T)  # not those of the first set
    Methods(monkeypatch, a=noise(3))
    assert compare('-opt', option_file(tmp_path / 'a.yml', one), '--out', tmp_path / 'out').exit_code == 0
    assert [row['group'] for row in rows(tmp_path / 'out', 'means.csv')] == ['all images']
    text = (tmp_path / 'out' / 'comparison.md').read_text()
    assert text.count('| method | PSNR (dB)') == 1 and '### kernel' not in text
    files = option_file(tmp_path / 'a.yml', one), option_file(tmp_path / 'b.yml', other)
    datasets = [section for file in files for section in yaml.safe_load(file.read_text())['datasets'].values()]
    both = option_file(tmp_path / 'c.yml', one, datasets={
        f'test_{number}': {**section, 'name': name} for number, (name, section) in enumerate(zip('xy', datasets))})
    data = cases.gather(methods.load_methods([both]))
    found = groups(Comparison([], '', {}, data.cases, {}, {}))
    assert {name: [key[1] for key in keys] for name, keys in found.items()} == {
        'all images': ['ape_k1', 'bee_k1', 'cow_k2', 'dog_k2', 'elk_k3'], 'data set x': ['ape_k1', 'bee_k1'],
        'data set y': ['cow_k2', 'dog_k2', 'elk_k3'], 'kernel k2': ['cow_k2', 'dog_k2'], 'kernel k3': ['elk_k3']}


def test_scores_at_the_best_shift_where_a_blind_method_takes_part(tmp_path, two, data, monkeypatch):
    """Method b is two pixels out of place, picture and kernel; a has no kernel."""
    def with_kernels(method, root):
        status = ran.start(method, root)
        for name in ('ape_k1', 'bee_k2', 'cow_k1') if method.label == 'b' else ():
            kernel = np.roll(np.pad(np.load(data / 'kernels' / f'{name}.npy'), 4), (2, -1), (0, 1))
            np.save(root / 'b' / 'visualization' / 'Toy' / f'{name}_kernel.npy', kernel)
        return status
    ran = Methods(monkeypatch, a=noise(3), b=lambda hr, name: np.roll(noise(5)(hr, name), (-2, 1), (0, 1)))
    out = tmp_path / 'out'
    assert compare('-opt', *two, '--out', out).exit_code == 0
    assert all(row['psnr_best_shift'] == row['kernel_ncc_best_shift'] == '' for row in rows(out))
    assert 'best shift' not in (out / 'comparison.md').read_text()
    monkeypatch.setattr('kernelfusion_plugin.bench.compare.runs._start', with_kernels)
    assert compare('-opt', *two, '--out', out, '--fresh').exit_code == 0
    for row in rows(out):
        plain, best = float(row['psnr']), float(row['psnr_best_shift'])
        assert (best > plain + 3 and best > 33) if row['method'] == 'b' else best == plain
        assert (row['kernel_ncc_best_shift'] == '1.0' and float(row['kernel_ncc']) < 0.95) == (row['method'] == 'b')
    mean = {row['method']: row for row in rows(out, 'means.csv') if row['group'] == 'all images'}
    theirs = [float(row['psnr_best_shift']) for row in rows(out) if row['method'] == 'b']
    assert float(mean['b']['psnr_best_shift']) == pytest.approx(np.mean(theirs), abs=1e-6)
    assert mean['b']['kernel_ncc_best_shift'] == '1.0' and mean['b']['psnr_best_shift_difference']
    text, page = (out / 'comparison.md').read_text(), page_data(out)
    titles = ['PSNR', 'PSNR at best shift', 'SSIM', 'kernel correlation', 'kernel correlation at best shift']
    assert [one['metric'].partition(',')[0] for one in page['scores']] == titles
    assert [title for title in page['means']['columns'] if 'shift' in title] == ['PSNR at best shift, dB', titles[4]]
    assert f'| {titles[4]} |' in text and '### PSNR at best shift (dB)' in text
    assert any('may be shifted' in line for line in page['remarks'])


def test_methods_of_one_name_stay_apart(tmp_path, data, monkeypatch):
    Methods(monkeypatch, twin=noise(3))
    files = [option_file(tmp_path / f'{name}.yml', data, 'twin') for name in 'xy']
    assert compare('-opt', *files, '--out', tmp_path / 'out').exit_code == 0
    assert {row['method'] for row in rows(tmp_path / 'out')} == {'twin (x)', 'twin (y)'}
    assert (tmp_path / 'out' / 'runs' / 'twin_x').is_dir() and (tmp_path / 'out' / 'runs' / 'twin_y').is_dir()


def test_a_method_on_fewer_pictures_is_named(tmp_path, data, monkeypatch, caplog):
    """Its run succeeded, so that nothing else tells why the status is 1."""
    caplog.set_level('INFO')
    Methods(monkeypatch, a=noise(3), b=noise(5))
    files = [option_file(tmp_path / 'a.yml', data),
             option_file(tmp_path / 'b.yml', write_images(tmp_path / 'few', ['ape_k1']))]
    assert compare('-opt', *files, '--out', tmp_path / 'out').exit_code == 1
    said = "2 of 3 images are missing: not in this method's data"
    assert caplog.messages[-1] == f'b: {said}' and not any(line.startswith('a: 2') for line in caplog.messages)
    assert f'| {said} |' in (tmp_path / 'out/comparison.md').read_text()


def test_names_that_collide_as_files():
    assert methods.slugs(['a/b', 'a b', 'A_B', '...', '']) == ['a_b', 'a_b_2', 'A_B_3', 'unnamed', 'unnamed_2']


def test_folder_and_lmdb_are_the_same_data_and_other_pictures_are_refused(tmp_path, data):
    for name in ('lr', 'hr'):
        make_lmdb(data / name, tmp_path / f'{name}.lmdb')
    dataset = {'name': 'Packed', 'type': 'PairedImageDataset', 'dataroot_gt': str(tmp_path / 'hr.lmdb'),
               'dataroot_lq': str(tmp_path / 'lr.lmdb'), 'io_backend': {'type': 'lmdb'}}
    folder = option_file(tmp_path / 'folder.yml', data, truth=False)
    packed = option_file(tmp_path / 'packed.yml', data, datasets={'test': dataset})
    found = cases.gather(methods.load_methods([folder, packed]))
    assert list(found.cases) == [('Toy', 'ape_k1'), ('Toy', 'bee_k2'), ('Toy', 'cow_k1')]
    assert found.folders['packed', ('Toy', 'bee_k2')] == 'Packed'
    lq, gt = found.cases['Toy', 'bee_k2'].read()  # the folder has no truth, the LMDB has
    assert np.array_equal(gt, np.array(Image.open(data / 'hr' / 'bee_k2.png')))
    assert np.array_equal(lq, np.array(Image.open(data / 'lr' / 'bee_k2.png')))
    other = shutil.copytree(data, tmp_path / 'other')
    changed = np.array(Image.open(other / 'lr' / 'bee_k2.png'))
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(other / 'lr' / 'bee_k2.png')
    with pytest.raises(ValueError, match='other.yml: the LR picture of .*bee_k2.png differs from .*same data'):
        cases.gather(methods.load_methods([folder, option_file(tmp_path / 'other.yml', other)]))


def test_without_ground_truth_there_are_pictures_and_kernels_but_no_scores(tmp_path, data, monkeypatch):
    Methods(monkeypatch, a=noise(3))
    file = option_file(tmp_path / 'a.yml', data, datasets={'t': {
        'name': 'Toy', 'type': 'SingleImageDataset', 'dataroot_lq': str(data / 'lr'), 'dataroot_gt': str(data / 'hr'),
        'io_backend': {'type': 'disk'}}})
    assert compare('-opt', file, '--out', tmp_path / 'out').exit_code == 0
    assert {row['psnr'] for row in rows(tmp_path / 'out')} == {''}
    assert 'There is no ground truth' in (tmp_path / 'out' / 'comparison.md').read_text()
    titles = [picture['title'] for picture in page_data(tmp_path / 'out')['views'][0]['pictures']]
    assert titles == ['LR', 'a'] and not (tmp_path / 'out' / 'boxes.png').exists()


@pytest.mark.parametrize(('arguments', 'said'), [
    (('-opt', 'nowhere.yml'), 'there is no option file nowhere.yml'),
    (('-opt', '{a}', '{a}'), 'is given twice'),
    (('-opt', '{a}', '--reference', 'c'), "there is no method 'c'; there are a"),
    (('-opt', '{a}', '--crop', 'ape:1,2,3'), "there is no image 'ape', did you mean 'ape_k1'?"),
    (('-opt', '{a}', '--crop', 'ape_k1:90,0,7'), 'not inside the picture of 96 rows and 96 columns'),
    (('-opt', '{a}', '--crop', 'ape_k1'), '--crop takes NAME:row,col,size'),
    (('-opt', '{a}', '--force_yml', 'datasets:test_1:dataroot_lq=nope'), 'data set Toy cannot be read'),
    (('-opt', '{a}', '--force_yml', 'datasets:test_1:type=Nope'), "unknown data set type 'Nope'"),
    (('-opt', '{a}', '--force_yml', 'datasets:test_1:dataroot_kernel=nope'), 'no such kernel file or folder'),
    (('-opt', '{a}', '--force_yml', 'scale=x'), "scale must be a whole number, got 'x'"),
    (('-opt', '--fresh'), "Missing option '-opt'")])
def test_faults_in_what_was_given_are_one_line_before_anything_is_run(tmp_path, two, monkeypatch, arguments, said):
    ran = Methods(monkeypatch, a=noise(3))
    answer = compare(*(part.format(a=two[0]) for part in arguments), '--out', tmp_path / 'out')
    assert answer.exit_code == 2 and said in answer.output and 'Traceback' not in answer.output
    assert not ran.started and not (tmp_path / 'out').exists()


def test_images_are_in_the_order_of_their_names(tmp_path, monkeypatch):
    data = write_images(tmp_path / 'data', ('im_10', 'im_9', 'im_1'))
    Methods(monkeypatch, a=noise(3))
    assert compare('-opt', option_file(tmp_path / 'a.yml', data), '--out', tmp_path / 'out').exit_code == 0
    assert [row['image'] for row in rows(tmp_path / 'out')] == ['im_1', 'im_9', 'im_10']
    assert json.loads((tmp_path / 'out' / 'runs' / 'a.json').read_text())['status'] == 0
