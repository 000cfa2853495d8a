"""What a run writes: atomically, sorted, the same bytes for the same values, and nothing poisons a mean."""

import csv
import json
import logging
import math
import os
import resource
import sys

import numpy as np
import pytest
import torch
from glue_helpers import texture
from PIL import Image

from kernelfusion_plugin import atomic, pictures, report
from kernelfusion_plugin.core.kernels import gaussian, motion
from kernelfusion_plugin.core.restore import Progress
from kernelfusion_plugin.progress import ProgressLog

ROW = {'dataset': 'D', 'image': 'a', 'psnr': 20.0, 'ssim': 0.5, 'psnr_bicubic': 19.0, 'ssim_bicubic': 0.4,
       'seconds_phase1': 1.0, 'seconds_phase2': 2.0, 'seed': 0, 'solver': 'em', 'preset': 'quick'}


def test_the_disk_is_waited_for_where_a_file_is_to_last(tmp_path, monkeypatch):
    """The file before it gets its name, then the folder: else a power cut may leave an empty one in an old one's place.
    """
    said, replace = [], os.replace
    name_of = lambda handle: os.path.basename(os.readlink(f'/proc/self/fd/{handle}'))  # noqa: E731
    monkeypatch.setattr(os, 'fsync', lambda handle: said.append(name_of(handle)))
    monkeypatch.setattr(os, 'replace', lambda *paths: (said.append('replace'), replace(*paths)))
    atomic.write_text_atomically(tmp_path / 'a.txt', 'x')
    assert said[0].startswith('.a.txt.') and said[1:] == ['replace', tmp_path.name]
    atomic.write_text_atomically(tmp_path / 'b.txt', 'x', lasting=False)
    assert said[3:] == ['replace']


def test_failing_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / 'new' / 'file.txt'
    atomic.write_atomically(path, lambda file: file.write(b'old'))

    def fail(file):
        file.write(b'half')
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        atomic.write_atomically(path, fail)
    assert [p.name for p in path.parent.iterdir()] == ['file.txt'] and path.read_bytes() == b'old'


def test_kernel_files(tmp_path):
    kernel = motion(24, 1).numpy()
    report.save_kernel(tmp_path, 'x', kernel)
    assert np.array_equal(np.load(tmp_path / 'x_kernel.npy'), kernel)
    picture = np.asarray(Image.open(tmp_path / 'x_kernel.png'))
    assert picture.shape == (240, 240) and picture.max() == 255
    assert np.array_equal(picture, picture[::10, ::10].repeat(10, 0).repeat(10, 1))
    assert np.array_equal(picture[::10, ::10], np.round(255 * kernel / kernel.max()).astype(np.uint8))


def test_a_kernel_that_does_not_fit_on_the_disk_is_an_error(tmp_path):
    """NumPy leaves a part of it and says nothing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # as a quota
    try:
        with pytest.raises(OSError, match='File too large'):
            report.save_kernel(tmp_path, 'x', motion(24, 1).numpy())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize('size', [15, 16, 23, 24, 31])
@pytest.mark.parametrize('side', [96, 240])
def test_kernels_beside_each_other_are_at_one_scale_with_their_centres_in_one_place(size, side):
    kernels = [np.pad(np.ones((n, n), np.float32), (size - n + 4) // 2) for n in (size, size - 2)]
    kernels.append(gaussian(24, sigmas=2.0).numpy())
    grid = report.shared_grid([*kernels, None])
    drawn = [report.kernel_picture(kernel, side, grid) for kernel in kernels]
    assert {picture.shape for picture in drawn} == {drawn[0].shape} and len(drawn[0]) % grid == 0
    zoom = len(drawn[0]) // grid
    assert [int(picture[:, picture.any(0)].any(1).sum()) for picture in drawn[:2]] == [size * zoom, (size - 2) * zoom]
    for picture in drawn:
        weights = picture.astype(float) / picture.sum()
        centre = np.arange(len(picture)) @ weights.sum(1), np.arange(len(picture)) @ weights.sum(0)
        assert all((len(picture) - 1) / 2 - each in (pytest.approx(0), pytest.approx(0.5)) for each in centre)


def test_sheet_has_kernels_at_one_scale_but_for_those_of_another_space():
    k, k_true = gaussian(24, sigmas=2.0).numpy(), gaussian(15, sigmas=2.0).numpy()
    picture = texture(20, 20, 1)

    def kernels(title, regions=None):
        panels = pictures.sheet_panels(picture, picture, None, k, k_true, {}, 'm', title, regions)
        return [panel.picture for panel in panels if not panel.whole]
    found, true = kernels('kernel')
    assert found.shape == true.shape == (240, 240)
    assert np.array_equal(true[45:195, 45:195], report.kernel_picture(k_true, 150)) and not true[:45].any()
    k, k_true = k_true, k
    assert np.array_equal(kernels('kernel', k[None, None])[1][1:-1, 1:-1], true)
    assert np.array_equal(kernels('LR-space kernel')[0], report.kernel_picture(k))


def test_kernel_grid_is_at_one_scale(tmp_path):
    kernels = {'small': gaussian(15, sigmas=2.0).numpy(), 'large': gaussian(24, sigmas=2.0).numpy()}
    pictures.save_kernel_grid(tmp_path / 'kernels.png', kernels)
    grid = np.asarray(Image.open(tmp_path / 'kernels.png').convert('L'))
    for number, kernel in enumerate(kernels.values()):
        left = pictures.PAD + number * (96 + pictures.GAP)
        cell = grid[pictures.PAD:pictures.PAD + 96, left:left + 96]
        assert np.array_equal(cell, report.kernel_picture(kernel, 96, 24))


def test_letters_beyond_ascii_are_drawn(monkeypatch):
    def drawn(text):
        return bytes(pictures.font(pictures.NOTE).getmask(text))
    assert len({drawn(letter) for letter in 'üéßñŁЖ−\U0010fffe'}) == 8  # the last one's is the box of what is missing
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    pictures.font.cache_clear()
    assert len({drawn(letter) for letter in 'abü'}) == 3  # what PIL has
    pictures.font.cache_clear()


def test_a_long_title_stays_on_the_sheet():
    panel = pictures.Panel('one', '', texture(20, 20, 1))
    title = f'{"ü" * 300}: 128 x 128'
    sheet = np.asarray(pictures.draw_sheet([panel], title).convert('L'))
    band = sheet[:pictures.PAD + pictures.NOTE + 4]
    assert (band < 240).any() and (band[:, -pictures.PAD:] > 240).all()
    assert sheet.shape == np.asarray(pictures.draw_sheet([panel], 'x')).shape[:2]
    shown = pictures.fitted(title, pictures.NOTE, 200)
    assert shown.startswith('ü') and shown.endswith('128 x 128') and '…' in shown
    assert pictures.font(pictures.NOTE).getlength(shown) <= 200
    assert pictures.fitted('a\nb\udcff', pictures.NOTE, 200) == 'a?b?'
    assert pictures.fitted('short', pictures.NOTE, 200) == 'short' and pictures.fitted('wide', pictures.NOTE, 1) == 'w…'


def test_plot(tmp_path):
    trace = [{'phase': phase, 'step': step, 'loss': 1 / step} for phase in ('prior', 'half') for step in range(1, 21)]
    trace += [{'phase': 'joint', 'step': step, 't': 9, 'data': 0.1, 'centre': 0.0, 'kernel_ncc': 0.5}
              for step in range(1, 4)]
    pictures.save_plot(tmp_path / 'run.png', trace, 'title')
    pictures.save_plot(tmp_path / 'without.png', [row for row in trace if row['phase'] != 'half'], 'title')  # not of y
    assert (tmp_path / 'run.png').read_bytes() == (tmp_path / 'without.png').read_bytes()
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


def test_progress_is_logged_where_there_is_no_stream_at_all(caplog, monkeypatch):
    """As behind "2>&-"."""
    monkeypatch.setattr(sys, 'stderr', None)
    with caplog.at_level(logging.INFO):
        ProgressLog(logging.getLogger('progress'), 'a')(Progress('em', 2, 2, 0.5, 0.1))
    assert len(caplog.messages) == 1


def test_progress_draws_a_bar_on_a_terminal(caplog):
    stream = Stream(True)
    log = ProgressLog(logging.getLogger('progress'), 'a', stream)
    for phase in ('prior', 'half', 'em'):
        for step in (1, 2):
            log(Progress(phase, step, 2, 0.5, 0.1))
    log.close()
    assert 'phase 1 (patch prior)' in stream.text and 'phase 1 (patch prior at half size)' in stream.text
    assert 'phase 2 (em)' in stream.text and not caplog.messages


def test_a_bar_shows_how_far_it_is_whatever_the_name_and_the_terminals_width():
    """What is too long loses its end."""
    stream = Stream(True)
    log = ProgressLog(logging.getLogger('progress'), 'PXL_20240501_123456789.PORTRAIT-01.COVER.jpg', stream)
    log(Progress('em', 23, 100, 0.5, 0.1))
    log.close()
    assert stream.text.startswith('\r  0%|          | 0/100 [00:00<?] PXL_')
