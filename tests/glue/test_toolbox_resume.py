"""``basicsr/test.py`` started again with the same command, in spite of BasicSR's renaming of the results."""

import os
import re
import signal
import time

import pytest
import torch
from basicsr.utils.registry import METRIC_REGISTRY
from glue_helpers import digests, run_toolbox, scores, toy_options, write_pair

from kernelfusion_plugin import checkpoints, runlog
from kernelfusion_plugin.core.nets.patch_net import PatchDiffusionNet
from kernelfusion_plugin.progress import ProgressLog


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path)


def make_data(folder):
    for seed, name in enumerate('abc'):
        write_pair(folder, name, seed, (16, 17))
    return folder


class Killed(BaseException):
    """Ends a run as kill -9 does: nothing of ours catches it."""


def killed(monkeypatch, at, phase='em', step=2):
    """Make the run die behind that step of image number ``at``, having just written a checkpoint."""
    show, seen = ProgressLog.__call__, []

    def die(self, progress):
        show(self, progress)
        if self not in seen:
            seen.append(self)
        if len(seen) > at and (progress.phase, progress.step) == (phase, step):
            raise Killed

    monkeypatch.setattr(ProgressLog, '__call__', die)
    monkeypatch.setattr(checkpoints, 'SHARE', 1e9)


def stable(folder):
    return [{key: value for key, value in row.items() if 'seconds' not in key} for row in scores(folder)]


def options(data, **changes):
    return toy_options(data, kernelfusion__plot=True, kernelfusion__save_prior=True, kernelfusion__checkpoint_every=0,
                       **changes)


def done(data, run='run'):
    """Names of the images that are done in data/run; the order of a folder is not that of the names."""
    return sorted(path.stem for path in (data / run / 'results/toy/unfinished/Toy').glob('*.json'))


def run_killed(opt, folder, monkeypatch, **where):
    with monkeypatch.context() as patch:
        killed(patch, **where)
        with pytest.raises(Killed):
            run_toolbox(opt, folder, patch)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run that nothing happened to."""
    data = make_data(tmp_path_factory.mktemp('whole'))
    with pytest.MonkeyPatch.context() as patch:
        assert run_toolbox(options(data), data / 'run', patch) == 0
    assert not (data / 'run/results/toy/unfinished').exists()
    return data / 'run'


def test_killed_and_started_again(whole, data, monkeypatch, log):
    for where in ({'at': 0, 'phase': 'prior', 'step': 2}, {'at': 1}):  # twice, the second time within the next image
        run_killed(options(data), data / 'run', monkeypatch, **where)
    log.clear()
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert 'moved back' in log.text and re.search(r'\[2/3\] .: resumes from its checkpoint', log.text)
    assert re.search(r'\[1/3\] .: done before the run was stopped; its results are kept', log.text)
    assert digests(data / 'run') == digests(whole) and stable(data / 'run') == stable(whole)
    assert [path.name for path in (data / 'run/results').iterdir()] == ['toy']  # no archive is left
    names = {path.name for path in (data / 'run/results/toy').iterdir() if path.suffix != '.log'}
    assert names == {'visualization', 'priors', 'scores.csv', 'summary.json'}
    assert len(list((data / 'run/results/toy/priors').iterdir())) == 3


def test_a_changed_option_or_image_is_done_anew(data, monkeypatch, log):
    run_killed(options(data), data / 'run', monkeypatch, at=2)
    log.clear()
    assert run_toolbox(options(data, kernelfusion__seed=1), data / 'run', monkeypatch) == 0
    archive, = (data / 'run/results').glob('toy_archived_*')
    assert 'moved back' not in log.text and left(log) == [(archive.name, 'kernelfusion.seed')]
    run_killed(options(data), data / 'other', monkeypatch, at=2)
    changed, kept = done(data, 'other')
    write_pair(data, changed, 9)
    log.clear()
    assert run_toolbox(options(data), data / 'other', monkeypatch) == 0
    assert f'{changed}: done before' not in log.text and f'{kept}: done before' in log.text
    assert run_toolbox(options(data), data / 'anew', monkeypatch) == 0
    assert digests(data / 'other') == digests(data / 'anew') and stable(data / 'other') == stable(data / 'anew')


def left(log):
    """Archives of runs that are not gone on with, and what differs."""
    return re.findall(r'is unfinished, but not resumed, and stays in (.*)\. Differences: (.*)', log.text)


def test_what_differs_is_told_of_the_run_before_alone(data, monkeypatch, log):
    run_killed(options(data), data / 'run', monkeypatch, at=2)
    metrics = {'ssim': {'type': 'calculate_ssim_border', 'border': 4}}
    second = options(data, val__metrics=metrics, val__suffix='x', kernelfusion__seed=1)
    second['datasets']['test_1']['color'] = 'y'
    log.clear()
    time.sleep(1.1)  # BasicSR's archives bear the second in their names
    run_killed(second, data / 'run', monkeypatch, at=2)
    (_, told), = left(log)
    assert told == 'datasets.test_1.color, kernelfusion.seed, val.metrics and 1 more'
    second['val']['metrics']['ssim']['border'] = 5
    log.clear()
    time.sleep(1.1)
    assert run_toolbox(second, data / 'run', monkeypatch, '--force_yml', 'kernelfusion:resume=false') == 0
    assert left(log) == []  # who asks for it need not be told
    run_killed(options(data), data / 'two', monkeypatch, at=2)
    log.clear()
    assert run_toolbox({**options(data), 'val': {'save_img': True, 'suffix': None, 'metrics': metrics}}, data / 'two',
                       monkeypatch) == 0
    assert [told for _, told in left(log)] == ['val.metrics']
    log.clear()
    time.sleep(1.1)
    assert run_toolbox(options(data), data / 'two', monkeypatch) == 0
    assert left(log) == []  # the run before this one was finished


def test_when_checkpoints_are_written_makes_no_other_run(whole, data, monkeypatch, log):
    """Nor that a run was begun with ``resume: false``."""
    run_killed({**options(data), 'kernelfusion': {**options(data)['kernelfusion'], 'resume': False,
                                                  'checkpoint_every': 7}}, data / 'run', monkeypatch, at=2)
    log.clear()
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert 'Resuming an unfinished run' in log.text and log.text.count(': done before') == 2
    assert left(log) == [] and digests(data / 'run') == digests(whole)


def test_another_run_that_adds_to_shared_weights_makes_no_image_anew(data, monkeypatch, log):
    def run(name, kernel_prior):
        return options(data, name=name, kernelfusion__prior_dir=str(data / 'priors'),
                       kernelfusion__em__kernel_prior=kernel_prior)

    run_killed(run('toy', 'textures'), data / 'run', monkeypatch, at=2)
    before = {path.name: path.stat().st_size for path in (data / 'priors').iterdir()}
    assert run_toolbox(run('other', 'internal'), data / 'run', monkeypatch) == 0
    assert all((data / 'priors' / name).stat().st_size > 1.5 * size for name, size in before.items())
    log.clear()
    assert run_toolbox(run('toy', 'textures'), data / 'run', monkeypatch) == 0
    assert log.text.count(': done before') == 2


def test_changed_weights_begin_anew(data, monkeypatch, log):
    """Their place is the same: some of the table's rows would be of these weights, and some of others."""
    def save(seed):
        torch.manual_seed(seed)
        torch.save(PatchDiffusionNet(opt['kernelfusion']['prior']['channels']).state_dict(), data / 'pd.pth')

    opt = options(data, path__pretrain_network_g=str(data / 'pd.pth'))
    save(0)
    run_killed(opt, data / 'run', monkeypatch, at=2)
    save(1)
    log.clear()
    assert run_toolbox(opt, data / 'run', monkeypatch) == 0
    assert 'done before' not in log.text and 'moved back' not in log.text
    assert [told for _, told in left(log)] == ['the file of path.pretrain_network_g']


def test_damaged_results_and_removed_images(whole, data, monkeypatch, log):
    run_killed(options(data), data / 'run', monkeypatch, at=2)
    damaged, removed = done(data)
    (data / f'run/results/toy/visualization/Toy/{damaged}_toy.png').write_bytes(b'')
    for folder in ('lr', 'hr', 'kernels'):
        next((data / folder).glob(f'{removed}.*')).unlink()
    log.clear()
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert ': done before' not in log.text and len(scores(data / 'run')) == 2
    kept = {name: value for name, value in digests(whole).items() if not name.startswith(f'Toy/{removed}_')}
    assert digests(data / 'run') == kept


def test_other_code_begins_anew(data, monkeypatch, log):
    run_killed(options(data), data / 'run', monkeypatch, at=2)
    for module in ('checkpoints', 'models.unfinished'):
        monkeypatch.setattr(f'kernelfusion_plugin.{module}.code_digest', lambda: 'other')
    log.clear()
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert 'done before' not in log.text and 'moved back' not in log.text
    assert [told for _, told in left(log)] == ["this package's code"]


def test_resume_can_be_turned_off(data, monkeypatch, log):
    run_killed(options(data), data / 'run', monkeypatch, at=1)
    log.clear()
    assert run_toolbox(options(data), data / 'run', monkeypatch, '--force_yml', 'kernelfusion:resume=false') == 0
    assert 'moved back' not in log.text and 'kept' not in log.text


def test_a_finished_run_is_archived_as_basicsr_does(data, monkeypatch, log):
    for name in 'ab':
        (data / f'lr/{name}.png').unlink()
        (data / f'hr/{name}.png').unlink()
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    log.clear()
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert 'moved back' not in log.text and len(list((data / 'run/results').glob('toy_archived_*'))) == 1


def test_failed_images_are_done_by_the_same_command(whole, data, monkeypatch, log):
    sound = (data / 'lr/b.png').read_bytes()
    (data / 'lr/b.png').write_bytes(b'')
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 1
    (data / 'lr/b.png').write_bytes(sound)
    log.clear()
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert log.text.count('done before') == 2
    assert digests(data / 'run') == digests(whole) and stable(data / 'run') == stable(whole)


def test_a_metric_that_failed_is_told_again_and_nothing_is_restored_again(data, monkeypatch, log):
    """The failure is not forgotten with the work that need not be done again."""
    def picky(img):
        if img.shape[0] == 4 * 17:
            raise RuntimeError('too high')
        return 1.0

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'picky', picky)
    write_pair(data, 'b', 1, (17, 16))
    opt = options(data, val__metrics={'picky': {'type': 'picky'}})
    assert run_toolbox(opt, data / 'run', monkeypatch) == 1
    first, files, told = scores(data / 'run'), digests(data / 'run'), list(runlog.failures)
    assert len(told) == 1 and told[0].endswith('lr/b.png: val.metrics.picky: RuntimeError: too high')
    assert [row['val_picky'] for row in first] == ['1.0', '', '1.0']
    for _ in range(2):
        log.clear()
        monkeypatch.setattr(ProgressLog, '__call__', lambda self, progress: pytest.fail('restored again'))
        assert run_toolbox(opt, data / 'run', monkeypatch) == 1
        assert log.text.count('done before') == 3 and runlog.failures == told and log.text.count('too high') == 1
        assert scores(data / 'run') == first and digests(data / 'run') == files


def test_moving_back_may_be_cut_off(whole, data, monkeypatch):
    run_killed(options(data), data / 'run', monkeypatch, at=2)
    replace, moved = os.replace, []

    def cut_off(source, target):
        if '_archived_' in str(source):
            moved.append(source)
            if len(moved) == 5:
                raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', cut_off)
        with pytest.raises(Killed):
            run_toolbox(options(data), data / 'run', patch)
    time.sleep(1.1)  # BasicSR's archives bear the second in their names
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert digests(data / 'run') == digests(whole) and stable(data / 'run') == stable(whole)
    assert [path.name for path in (data / 'run/results').iterdir()] == ['toy']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint(number, whole, data, monkeypatch, log):
    show = ProgressLog.__call__

    def stop(self, progress):
        show(self, progress)
        if (progress.phase, progress.step) == ('em', 2):
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLog, '__call__', stop)
        assert run_toolbox(options(data), data / 'run', patch) == 128 + number
    log.clear()
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert ': resumes from its checkpoint' in log.text and digests(data / 'run') == digests(whole)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_step_of_an_image_is_not_forgotten(number, whole, data, monkeypatch):
    """The image is written, the next is not begun."""
    show, began = ProgressLog.__call__, []

    def stop(self, progress):
        show(self, progress)
        began.append(progress.step == 1)
        if progress.phase == 'em' and progress.step == progress.total:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLog, '__call__', stop)
        assert run_toolbox(options(data), data / 'run', patch) == 128 + number
    phases = sum(began)
    assert len(scores(data / 'run')) == 1 < len(scores(whole))
    monkeypatch.setattr(ProgressLog, '__call__', lambda self, progress: began.append(progress.step == 1))
    assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
    assert sum(began) == phases * len(scores(whole)) and digests(data / 'run') == digests(whole)


def test_a_running_one_is_left_alone(data, monkeypatch, log):
    run_killed(options(data), data / 'run', monkeypatch, at=1)
    with checkpoints.locked(data / 'run/results/toy/unfinished/lock'):
        log.clear()
        assert run_toolbox(options(data), data / 'run', monkeypatch) == 0
        assert 'moved back' not in log.text
