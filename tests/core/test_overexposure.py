"""Overexposed pictures: how they are recognised, what they leave out, and what becomes of the lights."""

import dataclasses

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from overexposed import lamps_over, photograph, seen_through, stored
from test_em import SMALL, given, problem

from kernelfusion_plugin.core import em, em_steps, kernel_search, restarts
from kernelfusion_plugin.core.degradation import BORDERS, Degradation, to_canvas
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.em import pose, solve_em
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.em_state import EmPlace
from kernelfusion_plugin.core.kernels import gaussian, motion, square
from kernelfusion_plugin.core.likelihood import nll
from kernelfusion_plugin.core.metrics import kernel_ncc, psnr_y
from kernelfusion_plugin.core.noise import Noise
from kernelfusion_plugin.core.overexposure import LEAST_LEFT, WHITE, Highlights, away_from, reach_of, white_level
from kernelfusion_plugin.core.piece import informative_piece, on_piece
from kernelfusion_plugin.core.quadratic import fit_kernel, normal_equations
from kernelfusion_plugin.core.stages import kernel_stages
from kernelfusion_plugin.core.texture_prior import load_texture_prior

SHAKE = motion(24, 3)
FULL = Degradation(4, 24)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def some_cut(y, *pixels):
    """y, below white everywhere but at these pixels, where all of it or one channel is white."""
    y = y.clamp(-1, 0.9)
    for channel, row, column in pixels:
        y[:, channel, row, column] = 1
    return y


@pytest.mark.parametrize('kernel', [SHAKE, motion(24, 5), gaussian(24, sigmas=4.0), square(24, 12)],
                         ids=['shake', 'other shake', 'gaussian', 'square'])
@pytest.mark.parametrize('name', ['coffee', 'astronaut'])
def test_lamps_are_told_from_pictures_without(name, kernel):
    picture = photograph(name)
    assert white_level(stored(seen_through(lamps_over(picture), kernel))) == WHITE
    assert white_level(stored(seen_through(picture, kernel))) is None


@pytest.mark.parametrize('kernel', [SHAKE, gaussian(24, sigmas=4.0), square(24, 12)])
def test_white_paper_is_not_overexposed(kernel):
    paper = (torch.from_numpy(skimage.data.page()).double() - 60).mul(1.6).clamp(0, 255)[:188] / 127.5 - 1
    y = stored(seen_through(paper.expand(1, 3, -1, -1), kernel))
    assert (y >= WHITE).double().mean() > 0.1 and white_level(y) is None


def test_jpeg_leaves_what_was_cut_off_below_white():
    y = stored(seen_through(lamps_over(photograph('coffee')), SHAKE))
    uneven = torch.where(y >= WHITE, 0.97, y)
    assert white_level(uneven) is None
    assert white_level(uneven, 0.02) == WHITE - 0.04


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (2, 3)])
@pytest.mark.parametrize('value', [-1.0, 0.0, 1.0])
def test_pictures_without_edges_are_not_overexposed(size, value):
    assert white_level(torch.full((1, 3, *size), value)) is None


@pytest.mark.parametrize('reach', [0, 1, 3, 6])
def test_what_is_away_is_further_than_the_reach_in_both_directions(reach):
    cut = torch.zeros(2, 3, 80, 90, dtype=torch.bool)
    pixels = [(0, 1, 20, 30), (0, 2, 79, 0), (1, 0, 40, 89)]
    cut[tuple(torch.tensor(pixels).T)] = True
    rows, columns = torch.meshgrid(torch.arange(80), torch.arange(90), indexing='ij')
    expected = torch.ones(2, 1, 80, 90)
    for batch, _, row, column in pixels:
        expected[batch, 0][torch.maximum((rows - row).abs(), (columns - column).abs()) <= reach] = 0
    assert torch.equal(away_from(cut, reach), expected if reach else torch.ones_like(expected))


@pytest.mark.parametrize(('side', 'apart', 'least'), [(40, 10, 0.75), (80, 16, LEAST_LEFT / 80 ** 2), (200, 20, 0.25)])
def test_enough_is_left_of_a_picture(side, apart, least):
    """The reach is the largest with which it is."""
    cut = torch.zeros(1, 3, side, side, dtype=torch.bool)
    cut[..., ::apart, ::apart] = True
    shares = [float(away_from(cut, reach).mean()) for reach in range(16)]
    pooled = [F.max_pool2d(cut.float(), 2 * reach + 1, 1, reach) for reach in range(16)]
    last = max(reach for reach, near in enumerate(pooled) if 1 - float(near.double().mean()) >= least)
    assert shares[0] == 1 and 1 <= last < 15
    assert shares[1:last + 1] == sorted(set(shares[1:last + 1]), reverse=True)
    assert shares[last:] == [shares[last]] * (16 - last) and shares[last] >= least


@pytest.mark.parametrize(('scale', 'size'), [(4, 24), (4, 31), (2, 9), (1, 6)])
def test_further_apart_than_the_reach_two_windows_share_no_pixel(scale, size):
    reach = reach_of(size, scale)
    assert reach * scale >= size > (reach - 1) * scale


@pytest.mark.parametrize('border', BORDERS)
@pytest.mark.parametrize(('scale', 'size'), [(4, 12), (3, 8), (1, 5)])
def test_there_is_room_where_the_windows_of_what_was_cut_off_reach(scale, size, border):
    degradation = Degradation(scale, size, border)
    y = some_cut(random(1, 3, 9, 10), (0, 4, 5), (2, 0, 9))
    room = Highlights.of(y, WHITE, degradation).room
    any_of = torch.ones(size, size, dtype=y.dtype)
    for row in range(room.shape[-2]):
        for column in range(0, room.shape[-1], 3):
            point = torch.zeros(room.shape, dtype=y.dtype)
            point[..., row, column] = 1
            seen = (degradation.forward(point, any_of) > 0) & (y >= WHITE)
            assert torch.equal(room[..., row, column], seen.any(-1).any(-1))


def test_a_picture_is_split_into_what_it_shows_and_the_rest():
    y = some_cut(random(1, 3, 9, 10), (0, 4, 5))
    highlights, x = Highlights.of(y, WHITE, FULL), 2 * random(1, 3, *FULL.hr_size((9, 10)))
    shown, beyond = highlights.split(x)
    torch.testing.assert_close(shown + beyond, x)
    assert bool((shown[highlights.room] <= 1).all()) and bool((beyond >= 0).all()) and bool((beyond > 0.5).any())
    assert torch.equal(shown[~highlights.room], x[~highlights.room])


def test_nothing_is_done_to_pictures_that_are_not_overexposed():
    y, x = random(1, 3, 9, 10), 2 * random(1, 3, *FULL.hr_size((9, 10)))
    highlights = Highlights.of(y, None, FULL)
    shown, beyond = highlights.split(x)
    assert shown is x and beyond == 0
    assert highlights.counting(y, y) is None


def test_what_was_cut_off_counts_where_the_estimate_is_darker():
    y = some_cut(random(1, 3, 9, 10), (0, 4, 5), (1, 4, 5), (2, 0, 9))
    seen, expected = torch.full_like(y, 0.95), torch.ones(1, 1, 9, 10, dtype=torch.bool)
    highlights = Highlights.of(y, WHITE, FULL)
    assert torch.equal(highlights.counting(y, seen), expected)
    seen[:, 1, 4, 5], seen[:, 1, 3, 3] = 1.2, 1.2  # the latter was not cut off
    expected[..., 4, 5] = False
    assert torch.equal(highlights.counting(y, seen), expected)


def plain_richardson_lucy(light, y, cut, kernel, degradation, rounds):
    """The iteration pixel by pixel, from the forward model's matrix, without what keeps it from dividing by zero."""
    height, width = light.shape[-2:]
    eye = torch.eye(height * width, dtype=light.dtype).reshape(-1, 1, height, width)
    A = degradation.forward(eye, kernel).reshape(height * width, -1).T
    light, y, cut = light.flatten(), y.flatten(), cut.flatten()
    for _ in range(rounds):
        seen = A @ light
        light = light * (A.T @ (torch.where(cut, y.maximum(seen), y) / seen)) / A.sum(0)
    return light.reshape(1, 1, height, width)


def test_lights_are_richardson_and_lucys(monkeypatch):
    degradation, kernel = Degradation(2, 6), gaussian(6, sigmas=1.5).double()
    truth = random(1, 1, *degradation.hr_size((6, 7))).abs() / 2 + 0.2
    truth[..., 8, 9] = 30
    y = degradation.forward(truth, kernel).clamp_max(1) * 2 - 1
    start = torch.full_like(truth, 0.4)
    highlights = Highlights(y >= WHITE, torch.ones_like(start, dtype=torch.bool))
    assert bool(highlights.cut.any())
    monkeypatch.setattr('kernelfusion_plugin.core.overexposure.DARKEST', 1e-9)
    lit = (highlights.lit(start * 2 - 1, y, kernel, degradation) + 1) / 2
    assert float(lit.max()) > 3
    expected = plain_richardson_lucy(start, (y + 1) / 2, highlights.cut, kernel, degradation, 40)
    torch.testing.assert_close(lit, expected, rtol=1e-5, atol=1e-7)


def test_a_streak_becomes_a_light_again():
    """Bright where it is, dark around it, and seen through the kernel it is y."""
    light = torch.full((1, 3, *FULL.hr_size((20, 20))), -0.9, dtype=torch.float64)
    light[..., 48:52, 48:52] = 15
    y, k = FULL.forward(light, SHAKE.double()).clamp_max(1), SHAKE.double()
    highlights = Highlights.of(y, WHITE, FULL)
    x = torch.full_like(light, -0.5)
    lit = highlights.lit(x, y, k, FULL)
    assert bool((lit >= -1).all()) and torch.equal(lit[~highlights.room], x[~highlights.room])
    bright = (lit - 1).clamp_min(0).sum((0, 1))
    assert float(bright[44:56, 44:56].sum() / bright.sum()) > 0.5
    seen, before = FULL.forward(lit, k), FULL.forward(x, k)
    near = away_from(y >= WHITE, 2) == 0
    error = [float((s.clamp_max(1) - y).square()[near.expand_as(y)].mean()) for s in (seen, before)]
    assert error[0] < 0.05 * error[1]


@pytest.mark.parametrize(('noise', 'needed'), [(0.0, True), (0.06, True), (0.5, False)])
def test_lights_are_made_only_where_y_needs_them(noise, needed):
    """Not for what noise explains."""
    x, y, k = clipped_scene()
    assert (Highlights.of(y, WHITE, FULL).lit(x.clamp(-0.9, 0.9), y, k, FULL, noise) is not None) == needed


@pytest.mark.parametrize('kernel', [SHAKE, square(24, 4)], ids=['shake', 'none'])
def test_black_on_white_needs_no_lights(kernel):
    """Even where its hard edges had passed for overexposed."""
    k, x = kernel.double(), torch.ones(1, 3, *FULL.hr_size((30, 30)), dtype=torch.float64)
    x[..., 20:120, 40:48] = x[..., 60:66, 20:110] = -1
    y = FULL.forward(x, k)
    highlights = Highlights.of(y, WHITE, FULL)
    assert bool(highlights.cut.any()) and highlights.lit(to_canvas(y, FULL).clamp(-1, 1), y, k, FULL) is None


def clipped_scene(n=40):
    """(x shown, y, kernel) of a photograph with lamps, on the canvas of FULL."""
    height, width = FULL.hr_size((n, n))
    x = lamps_over(photograph('coffee', height, width), count=4)
    return x.clamp_max(1), FULL.forward(x, SHAKE.double()).clamp_max(1), SHAKE.double()


def test_lamps_do_not_decide_the_kernel():
    x, y, k = clipped_scene(64)
    start, weights = gaussian(24, sigmas=4.0).double(), away_from(y >= WHITE, reach_of(24, 4))
    with_lamps, without = (fit_kernel(*normal_equations(FULL, x, y, w), start, 1e-4) for w in (None, weights))
    assert kernel_ncc(without, k) > 0.9 > 0.85 > kernel_ncc(with_lamps, k)


def test_the_m_step_leaves_out_what_may_have_seen_a_lamp(monkeypatch):
    """By the grid that was asked for, not by the wider one that the kernel is fitted on."""
    y, _, prior, degradation = problem(2, motion(12, 3), n=80)
    y = some_cut(y, (0, 40, 40))
    stage = kernel_stages(degradation, SMALL)[-1]
    seen = []

    def watched(grid, x, y, weights=None):
        seen.append(weights)
        return normal_equations(grid, x, y, weights)

    monkeypatch.setattr(em_steps, 'normal_equations', watched)
    for white in (WHITE, None):
        place = EmPlace(kernel=gaussian(stage.degradation.kernel_size, sigmas=2.0))
        for _ in em_steps.em_passes(given(y, prior, degradation, white=white), dataclasses.replace(stage, outlier=0),
                                    place):
            pass
    levels = len(SMALL.m_levels) * len(stage.sigmas)
    assert all(torch.equal(w, away_from(y >= WHITE, 6)) for w in seen[:levels]) and seen[levels:] == [None] * levels


def test_a_piece_with_lamps_is_not_the_most_informative():
    y = random(1, 3, 90, 120).float() / 20
    y[..., 10:40, 10:40] += random(1, 3, 30, 30, seed=1).float() / 4
    y[..., 56:64:2, 86:94:2] = 1
    lamp, texture = (informative_piece(y, 30, white=white)[:2] for white in (None, WHITE))
    assert max(abs(lamp[0] - 45), abs(lamp[1] - 75)) <= 15
    assert texture == (10, 10)


class Certain:
    """A prior that is certain of one picture."""

    def __init__(self, x):
        self.schedule, self.x, self.given = Schedule(), x, []

    def predict_x0(self, x_t, t):
        self.given.append(x_t)
        return self.x


def test_lights_that_explain_their_streaks_make_y_likelier():
    x, y, k = clipped_scene()
    lit = x + 5 * (x >= 1)
    lit = torch.where(Highlights.of(y, WHITE, FULL).room, lit, x)
    found = [nll(y, picture, k, Certain(x), FULL, 60, torch.Generator().manual_seed(0), white)
             for picture, white in ((lit, WHITE), (x, WHITE), (x, None))]
    assert found[0] < found[1] / 5 and found[1] == found[2]


@pytest.mark.parametrize('renoising', ['none', 'fresh', 'ancestral'])
def test_the_prior_sees_nothing_brighter_than_white(renoising):
    """But the estimate keeps it: with a prior that gives back what it saw, and y that agrees, the picture stays."""
    x, y, k = clipped_scene()
    lit = torch.where(Highlights.of(y, WHITE, FULL).room, x + 6 * (x >= 1), x)
    prior = Certain(x)
    config = EmConfig(rim=0)
    y = FULL.forward(lit, k).clamp_max(1)
    place = EmPlace(x=lit)
    task = given(y, prior, FULL, config, white=WHITE)
    steps = list(em_steps.reverse_pass(task, k, em_steps.Sigma(0.01), [150, 60, 10, -1], renoising, place))
    assert len(steps) == 3
    torch.testing.assert_close(steps[-1][1], lit, rtol=0, atol=1e-6)
    noise = 0 if renoising == 'none' else 6
    for t, x_t in zip((150, 60, 10), prior.given):
        a = float(prior.schedule.alphas_cumprod[t])
        assert float(x_t.max()) <= a ** 0.5 + noise * (1 - a) ** 0.5


def test_lamps_come_out_smaller_than_their_streaks():
    """The final pass with the texture prior under the true kernel, with and without."""
    x, y, k = (part.float() for part in clipped_scene())
    y = stored(y)
    psnr = []
    for on in (True, False):
        config = EmConfig(overexposure=on, final_steps=8)
        *_, last = solve_em(y, load_texture_prior(), FULL, config, torch.Generator().manual_seed(0), k)
        psnr.append(psnr_y(FULL.crop(last.x0_hat).clamp(-1, 1), FULL.crop(x)))
    assert psnr[0] > psnr[1] + 1


def test_overexposure_is_looked_for_unless_turned_off():
    _, y, _ = clipped_scene()
    for on, white in ((True, WHITE), (False, None)):
        assert pose(y, None, FULL, EmConfig(overexposure=on), torch.Generator()).white == white
    assert pose(y.clamp_max(0.9), None, FULL, EmConfig(), torch.Generator()).white is None


@pytest.mark.parametrize(('apart', 'overexposed'), [(60, True), (4, False), (None, False)])
def test_a_piece_is_overexposed_if_something_can_be_left_out(apart, overexposed):
    y = random(1, 3, 60, 60).clamp(-1, 0.9)
    if apart:
        y[..., ::apart, ::apart] = 1
    piece = on_piece(given(y, None, FULL, white=WHITE), y)
    assert piece.y is y and piece.white == (WHITE if overexposed else None)
    assert on_piece(given(y, None, FULL), y).white is None


def test_the_first_estimate_owes_nothing_to_what_was_cut_off():
    """How bright that was makes no difference to the data step."""
    y = some_cut(random(1, 3, 12, 12), (0, 5, 6), (1, 5, 6), (2, 5, 6))
    canvas, k = torch.zeros(1, 3, *FULL.hr_size((12, 12)), dtype=torch.float64), SHAKE.double()
    brighter = y.clone()
    brighter[..., 5, 6] = 9
    found = []
    for seen in (y, brighter):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(em_steps, 'to_canvas', lambda *args: canvas)
            found.append(em_steps.first_estimate(given(seen, None, FULL, white=WHITE), k))
    assert torch.equal(*found)


def test_the_residual_is_that_of_what_is_stored():
    x, y, k = clipped_scene()
    lit = torch.where(Highlights.of(y, WHITE, FULL).room, x + 6 * (x >= 1), x)
    y = FULL.forward(lit, k).clamp_max(1)
    assert em_steps.lr_mse(FULL, lit, k, y, WHITE) < 1e-4 < em_steps.lr_mse(FULL, lit, k, y)


@pytest.mark.parametrize('needed', [False, True])
def test_final_passes_without_lights_are_as_for_any_picture(needed, monkeypatch):
    """White is then a value as all others."""
    x, y, k = clipped_scene()
    asked = []
    monkeypatch.setattr(Highlights, 'lit', lambda self, x, y, kernel, degradation, noise: asked.append(noise) or (
        x.clone() if needed else None))
    pictures = []
    for white in (WHITE, None):
        task = dataclasses.replace(given(y, Certain(x), FULL, white=white), noise=Noise(0.03, 0.0))
        *_, last = em.final_passes(task, k, EmPlace())
        pictures.append(last.x0_hat)
    assert asked == [0.03] and torch.equal(*pictures) != needed


def test_the_level_allows_for_jpeg(monkeypatch):
    monkeypatch.setattr(em, 'estimate_noise', lambda y: Noise(0.0, 0.02))
    asked = []
    monkeypatch.setattr(em, 'white_level', lambda y, jpeg: asked.append(jpeg))
    pose(torch.zeros(1, 3, 8, 8), None, FULL, EmConfig(), torch.Generator())
    assert asked == [0.02]


def test_a_search_knows_what_was_cut_off(monkeypatch):
    """Its passes, its likelihoods and the judgement of its kernel; but not on a piece where nothing can be left out."""
    config = dataclasses.replace(SMALL, draws=2)
    y, _, prior, degradation = problem(2, motion(12, 3), n=20, config=config)
    asked = {'passes': [], 'stages': [], 'judged': []}
    passes = em_steps.reverse_pass

    def watched(problem, *args, **options):
        asked['passes'].append(problem.white)
        return passes(problem, *args, **options)

    monkeypatch.setattr(em_steps, 'reverse_pass', watched)
    monkeypatch.setattr(restarts, 'reverse_pass', passes)
    monkeypatch.setattr(kernel_search, 'nll', lambda *args: asked['stages'].append(args[7]) or 0.0)
    monkeypatch.setattr(restarts, 'nll', lambda *args: asked['judged'].append(args[7]) or 0.0)
    for pixels, white in (([(0, 9, 9)], WHITE), ([(0, i, j) for i in range(0, 20, 3) for j in range(0, 20, 3)], None)):
        task = given(some_cut(y, *pixels), prior, degradation, config, white=WHITE)
        place = EmPlace()
        for _ in restarts.search(task, place):
            pass
        restarts.surprise(task, place.best)
        assert all(levels and set(levels) == {white} for levels in asked.values()), asked
        for levels in asked.values():
            levels.clear()
