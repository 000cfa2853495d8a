"""What a run writes: atomically, sorted, the same bytes for the same values, and nothing poisons a mean."""

import csv
import json
import logging
import math

import numpy as np
import pytest
import torch
from glue_helpers import texture
from PIL import Image

from kernelfusion_plugin import pictures, report
from kernelfusion_plugin.core.kernels import motion
from kernelfusion_plugin.core.restore import Progress
from kernelfusion_plugin.models.history import History
from kernelfusion_plugin.progress import ProgressLog

ROW = {'dataset': 'D', 'image': 'a', 'psnr': 20.0, 'ssim': 0.5, 'psnr_bicubic': 19.0, 'ssim_bicubic': 0.4,
       'seconds_phase1': 1.0, 'seconds_phase2': 2.0, 'seed': 0, 'solver': 'em', 'preset': 'quick'}


def test_failing_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / 'new' / 'file.txt'
    report.write_atomically(path, lambda file: file.write(b'old'))

    def fail(file):
        file.write(b'half')
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        report.write_atomically(path, fail)
    assert [p.name for p in path.parent.iterdir()] == ['file.txt'] and path.read_bytes() == b'old'


def test_kernel_files(tmp_path):
    kernel = motion(24, 1).numpy()
    report.save_kernel(tmp_path, 'x', kernel)
    assert np.array_equal(np.load(tmp_path / 'x_kernel.npy'), kernel)
    picture = np.asarray(Image.open(tmp_path / 'x_kernel.png'))
    assert picture.shape == (240, 240) and picture.max() == 255
    assert np.array_equal(picture, picture[::10, ::10].repeat(10, 0).repeat(10, 1))
    assert np.array_equal(picture[::10, ::10], np.round(255 * kernel / kernel.max()).astype(np.uint8))


def test_a_kernel_that_is_cut_is_told_from_one_that_is_not():
    whole = motion(24, 1)
    assert report.cut_warning(whole, '--kernel-size') is None
    cut = motion(48, 1)[12:-12, 12:-12]  # what a grid of 24 has of a wider shake
    assert float(cut.sum()) < 0.95
    warning = report.cut_warning(cut, '--kernel-size')
    share = 1 - float(cut[1:-1, 1:-1].sum() / cut.sum())
    assert warning.startswith(f'{share:.0%} of the kernel') and '24 x 24' in warning and '--kernel-size 32' in warning


def test_table_is_sorted_and_unknown_scores_are_empty(tmp_path):
    rows = [{**ROW, 'image': 'b', 'val_x': 1.0}, {**ROW, 'psnr': math.inf}, {'dataset': 'C', 'image': 'z'}]
    report.write_scores(tmp_path / 'scores.csv', rows)
    with open(tmp_path / 'scores.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert [(row['dataset'], row['image']) for row in table] == [('C', 'z'), ('D', 'a'), ('D', 'b')]
    assert table[0]['psnr'] == '' and table[1]['psnr'] == 'inf' and table[2]['val_x'] == '1.0'
    assert list(table[0])[:len(report.COLUMNS)] == list(report.COLUMNS)
    report.write_scores(tmp_path / 'turned.csv', rows[::-1])
    assert (tmp_path / 'turned.csv').read_bytes() == (tmp_path / 'scores.csv').read_bytes()


def test_means_leave_out_what_is_not_finite():
    rows = [ROW, {**ROW, 'psnr': math.inf}, {**ROW, 'psnr': 22.0, 'ssim': math.nan}]
    means = report.mean_scores(rows)
    assert means['psnr'] == 21 and means['ssim'] == 0.5
    assert report.mean_scores([{'psnr': math.inf}])['psnr'] == math.inf
    line = report.mean_line('D', rows, failed=2)
    assert '21.00 dB (bicubic 19.00, +2.00)' in line and '1 identical' in line and '2 failed' in line
    assert 'no image was restored, 3 failed' in report.mean_line('D', [], 3)


def test_summary_is_json_whatever_is_in_it(tmp_path):
    report.write_summary(tmp_path / 's.json', {'inf': math.inf, 'device': torch.device('cpu'), 'list': (1, None)})
    assert json.loads((tmp_path / 's.json').read_text()) == {'inf': 'inf', 'device': 'cpu', 'list': [1, None]}
    about = report.environment(torch.device('cpu'))
    assert about['versions']['torch'] == torch.__version__ and about['device']['type'] == 'cpu'


def test_no_commit_outside_a_checkout(tmp_path):
    assert report.git_commit(tmp_path) is None


def test_picture_round_trip_and_scores():
    picture = texture(60, 80, 1)
    assert np.array_equal(report.to_picture(report.to_tensor(picture)), picture)
    scores = report.picture_scores(picture, texture(60, 80, 2), picture)
    assert scores['psnr'] == math.inf and scores['ssim'] == pytest.approx(1) and scores['psnr_bicubic'] < 20
    assert report.picture_scores(picture, picture, None) == report.kernel_scores(picture, None) == {}


@pytest.mark.parametrize(('size', 'truth'), [((60, 80), True), ((700, 500), True), ((500, 900), False)])
def test_sheet_shows_every_panel(tmp_path, size, truth):
    kernel = motion(24, 1).numpy()
    sr, gt = texture(*size, 1), texture(*size, 2) if truth else None
    scores = report.picture_scores(sr, sr, gt) | report.kernel_scores(kernel, kernel if truth else None)
    panels = pictures.sheet_panels(sr, sr, gt, kernel, kernel if truth else None, scores)
    assert len(panels) == (5 if truth else 3)
    pictures.save_sheet(tmp_path / 'one.png', panels, 'title')
    pictures.save_sheet(tmp_path / 'two.png', panels, 'title')
    assert (tmp_path / 'one.png').read_bytes() == (tmp_path / 'two.png').read_bytes()
    width, height = Image.open(tmp_path / 'one.png').size
    assert width <= 5 * 500 and height <= 1100


def test_history_and_plot(tmp_path):
    history = History(motion(24, 1).numpy())
    for step in range(1, 1001):
        history.add(Progress('prior', step, 1000, 1 / step, 1.0))
    for step in range(1, 21):
        history.add(Progress('half', step, 20, 9.0, 1.0))  # not of y: left out
    for step in range(1, 4):
        history.add(Progress('joint', step, 3, 0.1, 1.0, None, motion(24, 2), {'data': 0.1, 'centre': 0.0}))
    points = history.points()
    assert len(points) == 103 and points[99]['step'] == 1000
    assert {point['phase'] for point in points} == {'prior', 'joint'}
    assert 0 < points[-1]['kernel_ncc'] < 1 and points[-1]['data'] == 0.1
    pictures.save_plot(tmp_path / 'run.png', points, 'title')
    pictures.save_plot(tmp_path / 'empty.png', [])
    assert Image.open(tmp_path / 'run.png').size == Image.open(tmp_path / 'empty.png').size


class Stream:
    def __init__(self, tty):
        self.tty, self.text = tty, ''

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_progress_is_quiet_off_a_terminal(caplog):
    now = [0.0]
    stream = Stream(False)
    with caplog.at_level(logging.INFO):
        log = ProgressLog(logging.getLogger('progress'), '[1/2] a', stream, clock=lambda: now[0])
        for step in range(1, 101):
            now[0] += 0.25
            log(Progress('prior', step, 100, 0.5, now[0]))
        log.close()
    assert len(caplog.messages) == 3 and stream.text == ''  # after 10, 20 and 25 seconds
    assert caplog.messages[0] == '[1/2] a: phase 1 (patch prior), step 40/100, 0:00:15 left, loss 0.5'


def test_progress_draws_a_bar_on_a_terminal(caplog):
    stream = Stream(True)
    log = ProgressLog(logging.getLogger('progress'), 'a', stream)
    for phase in ('prior', 'half', 'em'):
        for step in (1, 2):
            log(Progress(phase, step, 2, 0.5, 0.1))
    log.close()
    assert 'phase 1 (patch prior)' in stream.text and 'phase 1 (prior at half size)' in stream.text
    assert 'phase 2 (em)' in stream.text and not caplog.messages
