"""A kernel per region, with a prior that knows the scene."""

import dataclasses

import pytest
import torch
from test_em import SMALL, blocks, gain, given, grids

from kernelfusion_plugin import KernelFusionConfig, restore
from kernelfusion_plugin.core import regions
from kernelfusion_plugin.core.degradation import Degradation
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.em import solve_em
from kernelfusion_plugin.core.inputs import checked, forward_model
from kernelfusion_plugin.core.kernel_align import centre_of_mass
from kernelfusion_plugin.core.kernels import gaussian, l_shape
from kernelfusion_plugin.core.metrics import kernel_ncc
from kernelfusion_plugin.core.noise import Noise
from kernelfusion_plugin.core.regional_degradation import RegionalDegradation, choose_grid
from kernelfusion_plugin.core.regions import solve_regions, takes_own
from kernelfusion_plugin.core.restarts import search, surprise
from kernelfusion_plugin.core.texture_prior import load_texture_prior

FULL, SIZE, AROUND = Degradation(2, 12), (24, 64), 8  # LR pixels of scene around the frame
CONFIG = dataclasses.replace(SMALL, final_samples=0)
L = l_shape(12, 8, 2)


class Oracle:
    """Knows the scene at both scales: the estimate is mostly the truth, on whichever piece of it is nearest to x_t."""

    schedule = Schedule()

    def __init__(self, scene, pieces, share=0.7):
        self.share, self.truths = share, {}
        for d in {d.scale: d for d in (FULL, *grids(FULL))}.values():
            whole = torch.nn.functional.interpolate(scene, scale_factor=d.scale / 2, mode='bicubic', antialias=True)
            for grid in [g for g in (FULL, *grids(FULL)) if g.scale == d.scale]:
                for rows, cols in pieces:
                    size = grid.hr_size((rows.stop - rows.start, cols.stop - cols.start))
                    top, left = ((AROUND + at.start) * d.scale - grid.margin[0] for at in (rows, cols))
                    self.truths.setdefault(size, []).append(whole[..., top:top + size[0], left:left + size[1]])

    def predict_x0(self, x_t, t):
        guess = x_t / self.schedule.alpha_bar(t, x_t).sqrt()
        near = min(self.truths[tuple(x_t.shape[-2:])], key=lambda truth: float((truth - guess).square().mean()))
        return self.share * near + (1 - self.share) * guess


def problem(kernels):
    """(y, x on the canvas, oracle, forward model) of a picture with these kernels (R, C, K, K)."""
    blur = RegionalDegradation(FULL, SIZE, kernels.shape[:2])
    scene = blocks(2 * (max(SIZE) + 2 * AROUND))[..., :2 * (SIZE[0] + 2 * AROUND), :]
    before = 2 * AROUND - FULL.margin[0]
    height, width = FULL.hr_size(SIZE)
    x = scene[..., before:before + height, before:before + width]
    pieces = [(slice(0, SIZE[0]), slice(0, SIZE[1])), *(region[:2] for region in blur.regions())]
    return blur.forward(x, kernels), x, Oracle(scene, pieces), blur


def solve(y, prior, blur, config=CONFIG, **options):
    return list(solve_regions(y, prior, blur, config, torch.Generator().manual_seed(0), **options))


def pair(*kernels):
    return torch.stack(kernels)[None]


def test_each_half_finds_its_kernel_and_the_picture_gains():
    truth = pair(L, L.T.flip(0))
    y, x, prior, blur = problem(truth)
    states = solve(y, prior, blur)
    one = list(solve_em(y, prior, FULL, CONFIG, torch.Generator().manual_seed(0)))[-1]
    found = states[-1].kernels[0]
    for own, true, other in zip(found, truth[0], truth[0].flip(0)):
        assert kernel_ncc(own, true) > 0.9 > kernel_ncc(own, other) + 0.3
        assert max(abs(float(d) - 5.5) for d in centre_of_mass(own)) < 0.3  # all centred alike: no tear
    assert torch.equal(states[-1].kernel, one.kernel)
    assert gain(y, x, states[-1].x0_hat, FULL) > gain(y, x, one.x0_hat, FULL) + 1
    assert [state.step for state in states] == list(range(1, len(states) + 1)) and states[-1].total == len(states)
    assert all(state.x0_hat.shape == x.shape for state in states)


def test_the_right_kernel_makes_y_likelier_and_flat_ground_knows_none():
    y, _, oracle, blur = problem(pair(L, L))
    rows, cols, _ = next(blur.regions())

    def gap(y, prior):
        right, wrong = (surprise(given(y, prior, FULL, CONFIG), k) for k in (L, L.T.flip(0)))
        assert right == surprise(given(y, prior, FULL, CONFIG), L)
        return wrong - right

    assert gap(y[..., rows, cols], oracle) > 0.1
    assert abs(gap(torch.full((1, 3, 24, 36), 0.2), load_texture_prior())) < 0.1


@pytest.mark.parametrize(('own', 'whole', 'taken'), [
    (L, L.T.flip(0), True), (L.T.flip(0), L, False),  # the right one of two, and the wrong one
    (L, 0.9 * L + 0.1 * gaussian(12, sigmas=2.0), False)], ids=['better', 'worse', 'the same but for a little'])
def test_a_region_takes_another_and_better_kernel_only(own, whole, taken):
    y, _, oracle, blur = problem(pair(L, L))
    rows, cols, _ = next(blur.regions())
    assert takes_own(given(y[..., rows, cols], oracle, FULL, CONFIG), own, whole) == taken


def test_both_kernels_of_a_region_are_judged_by_one_noise(monkeypatch):
    """That which is assumed in y, and that which the picture is given."""
    judged, noise = [], Noise(0.1, 0.02)
    monkeypatch.setattr(regions, 'mean_nll', lambda *args: judged.append(args) or 0.0)
    takes_own(given(torch.zeros(1, 3, 24, 24), None, FULL, CONFIG, noise=noise), L, L.T.flip(0))
    (one, own, seed), (other, whole, same_seed) = judged
    assert one.noise == other.noise == noise and seed == same_seed
    assert torch.equal(own, L) and torch.equal(whole, L.T.flip(0))


def test_without_a_better_kernel_the_picture_is_that_of_one_to_the_bit(monkeypatch):
    monkeypatch.setattr(regions, 'takes_own', lambda *_: False)
    y, _, prior, blur = problem(pair(L, L.T.flip(0)))
    last = solve(y, prior, blur)[-1]
    *_, one = solve_em(y, prior, FULL, CONFIG, torch.Generator().manual_seed(0))
    assert torch.equal(last.kernels, pair(one.kernel, one.kernel)) and torch.equal(last.x0_hat, one.x0_hat)


def test_a_black_frame_is_told_once_and_left_out_of_every_region(monkeypatch):
    """Regions are found inside it, and their kernels go by their own middle: a region's frame has seen several."""
    monkeypatch.setattr(regions, 'takes_own', lambda *_: True)
    y, _, prior, blur = problem(pair(L, L.T.flip(0)))
    y = torch.nn.functional.pad(y[..., 3:-3, 3:-3], (3,) * 4, value=-1)
    calls = []

    def noted(problem, place, start=None):
        calls.append((problem.y, problem.config, problem.frame))
        return search(problem, place, start)

    monkeypatch.setattr(regions, 'search', noted)
    prior = load_texture_prior()
    solve(y, prior, blur, dataclasses.replace(CONFIG, kernel_side=0, rim=None))
    (whole, _, asked), *parts = calls
    assert torch.equal(whole, y) and asked.rim == 3
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[3:-3, 3:-3] = True
    for (piece, config, frame), (rows, cols, _) in zip(parts, blur.regions(), strict=True):
        seen = y[..., rows, cols][..., inside[rows, cols]]
        assert config.rim == 0 and torch.equal(piece.flatten(2), seen) and frame is None


def test_regions_keep_away_from_each_side_by_its_own_rim():
    y = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    blur = RegionalDegradation(FULL, SIZE, (2, 2))
    pieces = regions._pieces(y, blur, 0, (1, 2, 3, 4))
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[1:-2, 3:-4] = True
    for ((top, left), piece), (rows, cols, _) in zip(pieces, blur.regions(), strict=True):
        assert (top, left) == (max(1, rows.start), max(3, cols.start))
        assert torch.equal(piece.flatten(2), y[..., rows, cols][..., inside[rows, cols]])


@pytest.mark.parametrize(('part', 'kept'), [
    ((0, 30), (3, 30)), ((30, 60), (30, 57)), ((20, 40), (20, 40)), ((0, 6), (3, 6)), ((0, 5), (0, 5)),
    ((0, 2), (0, 2))])
def test_a_region_of_little_but_rim_keeps_it(part, kept):
    assert regions._inside(slice(*part), 3, 57) == slice(*kept)


def test_known_kernels_are_used_as_they_are():
    wide = gaussian(12, sigmas=1.5)
    y = torch.rand(3, 16, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = KernelFusionConfig(scale=2, em=dataclasses.replace(CONFIG, final_prior='textures'))
    one, same, two = (restore(y, config, kernel=kernel) for kernel in (L, pair(L, L), pair(wide, 2 * L)))
    assert torch.equal(one.sr, same.sr) and not torch.equal(one.sr, two.sr)
    assert one.kernels is None and torch.allclose(two.kernels, pair(wide, L)) and two.kernel.shape == (12, 12)
    with pytest.raises(ValueError, match='the known kernel must be 12 x 12, or R x C'):
        restore(y, config, kernel=pair(wide, L)[0])


@pytest.mark.parametrize('text', ['', '2', 'x2', '0x2', '1x2x3', '1 x 2', '-1x2', '100x1', 'Auto'])
def test_bad_regions_are_refused(text):
    with pytest.raises(ValueError, match='^regions must be ROWSxCOLUMNS') as error:
        KernelFusionConfig(regions=text)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('size', 'grid'), [((15, 127), (1, 1)), ((100, 128), (1, 2)), ((336, 496), (3, 3))])
def test_auto_takes_the_regions_that_there_is_room_for(size, grid):
    assert choose_grid('auto', size) == grid


def test_auto_on_a_small_picture_is_one_kernel_to_the_bit():
    y = torch.rand(3, 16, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = KernelFusionConfig(scale=2, em=dataclasses.replace(CONFIG, final_prior='textures'))
    one, auto = (restore(y, dataclasses.replace(config, regions=regions)) for regions in ('1x1', 'auto'))
    assert torch.equal(one.sr, auto.sr) and auto.kernels is None


def test_regions_need_em_and_room():
    with pytest.raises(ValueError, match="regions: 2x1: solver 'joint' finds one kernel"):
        KernelFusionConfig(regions='2x1', solver='joint')
    with pytest.raises(ValueError, match="regions: auto: solver 'joint' finds one kernel"):
        KernelFusionConfig(regions='auto', solver='joint')
    with pytest.raises(ValueError, match='regions: 2x1 of an image of 80 x 60 pixels'):
        restore(torch.zeros(3, 60, 80), KernelFusionConfig(regions='2x1'))
    y = checked(torch.zeros(3, 60, 80))
    assert y.shape == (1, 3, 60, 80)
    known = forward_model(y, KernelFusionConfig(regions='2x1'), L)  # the grid is the kernel's own
    assert not isinstance(known, RegionalDegradation)
