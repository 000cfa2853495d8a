"""What a black frame tells, against the forward model and on photographs."""

import dataclasses
import math

import pytest
import skimage.data
import torch
import torch.nn.functional as F

from kernelfusion_plugin.core import em_steps, kernel_search
from kernelfusion_plugin.core import frame as frame_module
from kernelfusion_plugin.core.degradation import Degradation, resample_kernel, synthesise
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.em_state import EmPlace, EmProblem
from kernelfusion_plugin.core.frame import Frame, within
from kernelfusion_plugin.core.kernel_align import centre_of_mass, shift
from kernelfusion_plugin.core.kernel_search import carry_over
from kernelfusion_plugin.core.kernels import gaussian, motion
from kernelfusion_plugin.core.metrics import kernel_ncc
from kernelfusion_plugin.core.piece import unsure_rims
from kernelfusion_plugin.core.stages import kernel_stages, scaled
from kernelfusion_plugin.core.texture_prior import load_texture_prior

FULL = Degradation(4, 24)
ALONE = 1e3  # error of a guess that says nothing


def framed(y, rim):
    """y as if the picture had been continued with black: its outermost pixels are."""
    return F.pad(y[..., rim:-rim, rim:-rim], (rim,) * 4, value=-1)


def photograph(name, k, border='zeros'):
    picture = getattr(skimage.data, name)()
    height, width = (n // 4 * 4 for n in picture.shape[:2])
    hr = torch.from_numpy(picture[:height, :width].copy()).permute(2, 0, 1)[None]
    return synthesise(hr, k, 4, border).float() / 127.5 - 1


def to_middle(k):
    """The way of a kernel's centre of mass to the middle of its grid."""
    return tuple(float((len(k) - 1) / 2 - at) for at in centre_of_mass(k))


def drawn_faint(k, part):
    """k with a part of it at 0.3 of its weight, and the way of its centre of mass to the middle."""
    faint = k.clone()
    faint[part] *= 0.3
    faint = faint / faint.sum()
    return faint, to_middle(faint)


@pytest.mark.parametrize('size', [4, 5, 8, 12, 13, 24, 31])
@pytest.mark.parametrize('scale', [1, 2, 3, 4])
def test_the_rim_is_what_sees_beyond_the_frame(scale, size):
    degradation, y = Degradation(scale, size), torch.zeros(1, 3, 250, 240)
    inside = F.pad(torch.ones(250 * scale), degradation.margin)
    blind = inside.unfold(0, size, scale).prod(1) == 0  # a part of the window lies beyond the frame
    expected = max(int(blind[:125].sum()), int(blind[125:].sum()))
    frame = Frame.of(framed(y, expected) if expected else y, degradation)
    assert unsure_rims(y, frame, EmConfig()) == (frame.rims if frame else (0,) * 4) == (expected,) * 4
    assert Frame.of(y, degradation) is None and unsure_rims(y, None, EmConfig()) == (0,) * 4
    assert Frame.of(framed(y, expected or 1), Degradation(scale, size, 'zeros')) is None  # it knows what was there
    assert unsure_rims(y, frame, EmConfig(rim=7)) == (7,) * 4


def test_the_rim_leaves_something_of_small_pictures():
    pictures = [framed(torch.zeros(1, 3, n, 100), 1) for n in (7, 15, 16, 24, 100)]
    assert [unsure_rims(y, Frame.of(y, FULL), EmConfig()) for y in pictures] == [(n,) * 4 for n in (0, 1, 2, 3, 3)]
    with pytest.raises(ValueError, match=r'em.rim = 5 leaves 90 x 6 pixels of y, 100 x 16: at least 8 x 8'):
        unsure_rims(torch.zeros(1, 3, 16, 100), None, EmConfig(rim=5))


@pytest.mark.parametrize('name', ['coffee', 'chelsea', 'astronaut', 'rocket'])
def test_a_picture_continued_with_black_is_told_from_a_photograph(name):
    for seed in (1, 2, 3):
        black, seen = (photograph(name, motion(24, seed=seed), border) for border in ('zeros', 'reflect'))
        assert Frame.of(black, FULL) and not Frame.of(seen, FULL)
    assert not Frame.of(torch.full((1, 3, 40, 40), -1.0), FULL)  # a night without stars


@pytest.mark.parametrize(('scale', 'size'), [(4, 24), (4, 31), (3, 13), (2, 12), (1, 7)])
@pytest.mark.parametrize('way', [(0, 0), (1, -2), (-0.4, 0.7)])
def test_light_is_kept_as_the_forward_model_keeps_it(scale, size, way):
    """Of a white scene that begins over half an LR pixel, a pixel at least; the kernel is moved."""
    k = F.pad(motion(size - 4, 5), (2,) * 4).double()
    degradation = Degradation(scale, size)
    rim, n = math.ceil(degradation.margin[1] / scale), 4 * size * scale
    at = torch.arange(n + size - scale, dtype=torch.float64) + 0.5 - degradation.margin[0]
    scene = (torch.minimum(at, n - at) / max(0.5 * scale, 1) + 0.5).clamp(0, 1)
    y = degradation.forward((scene[:, None] * scene)[None, None], shift(k, way))[0, 0]
    middle = len(y) // 2
    for marginal, move, line in ((k.sum(1), way[0], y[:, middle]), (k.sum(0), way[1], y[middle])):
        seen = within(degradation, torch.tensor([move], dtype=torch.float64), rim)[0]
        expected = torch.cat([line[:rim], line.flip(0)[:rim]])
        off = 1e-6 if move == int(move) else 0.04  # the scene begins in the middle of a pixel
        torch.testing.assert_close(seen @ marginal, expected, rtol=0, atol=off)


@pytest.mark.parametrize('name', ['coffee', 'chelsea', 'rocket'])
def test_what_a_photograph_has_kept_is_what_the_kernel_has_within(name):
    k = motion(24, seed=3)
    white = Degradation(4, 24, 'zeros').forward(torch.ones(1, 1, 160, 160), k)[0, 0].double()
    frame = Frame.of(photograph(name, k), FULL)
    for kept, line in zip(frame.kept, (white[:, 20], white[20])):
        off = kept / torch.cat([line[:3], line.flip(0)[:3]]) - 1
        assert off.abs().max() < 0.1 and off.abs().median() < 0.03


def test_a_bright_thing_at_the_frame_counts_little_and_is_known_to_be_uncertain():
    y = photograph('chelsea', motion(24, seed=3))
    clean = Frame.of(y, FULL)
    lit = y.clone()
    lit[..., :3, 20:50] = 1  # in a quarter of the row's pixels
    seen = Frame.of(lit, FULL)
    brighter = float((lit[..., 0, :] + 1).mean() / (y[..., 0, :] + 1).mean())
    assert (seen.kept[0, :3] / clean.kept[0, :3] - 1).abs().max() < 0.16 < brighter - 1
    assert seen.precision[0, 0, 0] < 0.7 * clean.precision[0, 0, 0]
    assert torch.equal(seen.kept[0, 3:], clean.kept[0, 3:])


@pytest.mark.parametrize('name', ['coffee', 'chelsea', 'astronaut', 'rocket'])
def test_a_photograph_in_a_frame_tells_where_the_kernel_lies(name):
    """To half a pixel, on the grid of each stage; the guess is wrong."""
    k = motion(24, seed=3)
    frame = Frame.of(photograph(name, k), FULL)
    for stage in kernel_stages(FULL, EmConfig()):
        grid = stage.degradation
        there = resample_kernel(k, FULL, grid)
        for moved in ((0, 0), (0.5 * grid.scale, -0.4 * grid.scale)):
            weighed, way = frame.fit(shift(there, moved), grid, (0, 0), ALONE)
            far = [abs(d + m) * 4 / grid.scale for d, m in zip(way, moved)]
            assert max(far) < (0.5 if grid.scale > 1 else 1.4)  # a kernel of 6 x 6 is coarse
            assert kernel_ncc(weighed, shift(there, moved)) > (0.99 if grid.scale > 1 else 0.96)
            assert weighed.sum() == pytest.approx(1)


def test_parts_of_a_kernel_that_are_too_faint_are_weighed_anew():
    dots = torch.zeros(24, 24)
    dots[15:19, 3:7], dots[5:9, 16:20] = 3, 2
    k = dots / dots.sum()
    frame = Frame.of(photograph('coffee', k), FULL)
    faint, middle = drawn_faint(k, slice(0, 12))
    weighed, way = frame.fit(faint, FULL, middle, 0.05)
    assert abs(float(weighed[:12].sum()) - 0.4) < 0.08 < 0.4 - float(faint[:12].sum())
    assert max(abs(d) for d in way) < 0.7 < max(abs(d) for d in middle)
    assert ((weighed > 0) == (k > 0)).all()


def test_the_move_is_that_of_the_least_misfit(monkeypatch):
    """Of what the docstring of fit says, in which the guess moves with the weights."""
    monkeypatch.setattr(frame_module, 'COUNTS', 30)
    dots = torch.zeros(24, 24)
    dots[15:19, 3:7], dots[5:9, 16:20] = 3, 2
    k = dots / dots.sum()
    frame = Frame.of(photograph('coffee', k), FULL)
    frame = dataclasses.replace(frame, precision=frame.precision / 10)  # else it would outweigh any guess
    faint, (guess, _) = drawn_faint(k, slice(0, 12))
    m, u, error = faint.double().sum(1) / faint.double().sum(), torch.arange(24, dtype=torch.float64), 0.2
    move, p = frame._fit_axis(0, m, FULL, guess, error)
    moves = guess + torch.arange(-600, 600, dtype=torch.float64) / 100
    q, misfit = frame._weigh(0, m, within(FULL, moves, frame.rim))
    middle_moved = (q - m) @ u
    best, other = (int((misfit + 2 * ((off / error) ** 2 + 1).log()).argmin())
                   for off in (moves - guess + middle_moved, moves - guess))
    assert abs(move - float(moves[best])) < 0.03 and abs(float(moves[best] - moves[other])) > 0.2
    torch.testing.assert_close(p, q[best], atol=0.01, rtol=0)


@pytest.mark.parametrize('count', [20, 300])
def test_the_weights_are_those_of_the_least_misfit(count, monkeypatch):
    """Of what the docstring of fit says, against a plain minimiser with automatic gradients."""
    monkeypatch.setattr(frame_module, 'COUNTS', count)
    frame = Frame.of(photograph('coffee', motion(24, seed=3)), FULL)
    m = motion(24, seed=4).double().sum(0)
    seen = within(FULL, torch.tensor([0.0, 1.3], dtype=torch.float64), 3)
    p, least = frame._weigh(1, m, seen)

    def misfit(weights):
        q = (m * torch.exp(torch.einsum('nr,nrk->nk', weights, seen))).clamp_min(1e-300)
        q = q / q.sum(1, keepdim=True)
        e = torch.einsum('nk,nrk->nr', q, seen) / frame.kept[1] - 1
        divergence = (q * (q / m.clamp_min(1e-300)).log()).sum(1)
        return q, torch.einsum('nr,rq,nq->n', e, frame.precision[1], e) + 2 * count * divergence

    weights = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=500, line_search_fn='strong_wolfe')

    def closure():
        optimiser.zero_grad()
        total = misfit(weights)[1].sum()
        total.backward()
        return total

    optimiser.step(closure)
    q, expected = misfit(weights.detach())
    torch.testing.assert_close(least, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(p, q, rtol=0, atol=1e-3)
    assert (p - m).abs().sum(1).min() > 0.02


@pytest.mark.parametrize('name', ['coffee', 'chelsea', 'astronaut', 'rocket'])
def test_a_corner_of_a_picture_is_not_taken_for_all_of_it(name):
    """Its pixels at the black sides are left out all the same."""
    for seed in (1, 3):
        k = motion(24, seed=seed)
        y = photograph(name, k)
        corner = y[..., :60, :80]
        assert all(Frame.of(y, FULL).tells)
        frame = Frame.of(corner, FULL)
        assert frame is None or not any(frame.tells)
        assert carry_over(k, FULL, FULL, EmConfig(support=1), frame).equal(
            carry_over(k, FULL, FULL, EmConfig(support=1)))
    assert unsure_rims(corner, Frame.of(photograph('coffee', k)[..., :60, :80], FULL), EmConfig()) == (3, 0, 3, 0)


@pytest.mark.parametrize('name', ['coffee', 'chelsea', 'astronaut', 'rocket'])
@pytest.mark.parametrize('seed', [1, 2, 3])
def test_a_picture_cut_on_two_sides_does_not_tell_of_that_axis(name, seed):
    """Lest the kernel be pressed into a frame that is not there. Its pixels at the other sides are left out."""
    k = motion(24, seed=seed)
    y = photograph(name, k)
    for part, axis in ((y[..., 8:-8], 0), (y[..., 8:-8, :], 1)):
        frame = Frame.of(part, FULL)
        assert frame is None or not frame.tells[1 - axis]
        assert (seed, axis) != (3, 1) or frame.rims[2:] == (3, 3)  # of a kernel that is wide from left to right
        assert frame is None or frame.rims[2 - 2 * axis:4 - 2 * axis] == (3 * frame.tells[axis],) * 2


def test_one_axis_may_tell_alone():
    """The other is left to its guess, and its sums are not weighed."""
    k = motion(24, seed=3)
    frame = dataclasses.replace(Frame.of(photograph('coffee', k), FULL), tells=(True, False))
    off = shift(k, (0.5, 0.5))
    weighed, way = frame.fit(off, FULL, (0.0, 0.2), ALONE)
    assert way[0] == pytest.approx(-0.5, abs=0.3) and way[1] == pytest.approx(0.2, abs=0.1)
    assert kernel_ncc(weighed, off) > 0.99
    rows = weighed / weighed.sum(1, keepdim=True).clamp_min(1e-9)
    torch.testing.assert_close(rows, off / off.sum(1, keepdim=True).clamp_min(1e-9), rtol=0, atol=1e-4)


@pytest.mark.parametrize('side', range(4))
def test_a_side_alone_is_left_out_where_it_is_black(side):
    """It tells nothing; and a side that is a little darker is kept."""
    y = photograph('coffee', motion(24, seed=3), 'reflect')
    outermost = [(slice(0, 2), slice(None)), (slice(-2, None), slice(None)), (slice(None), slice(0, 2)),
                 (slice(None), slice(-2, None))][side]
    for share, rim in ((0.6, 3), (0.9, 0)):
        light = torch.ones(y.shape[-2:])
        light[outermost] = share
        frame = Frame.of((y + 1) * light - 1, FULL)
        assert (frame.rims[side] == sum(frame.rims) == 3 and not any(frame.tells)) if rim else frame is None


@pytest.mark.parametrize('scale', [2, 4])
def test_a_guess_is_left_for_good_reasons_only(scale):
    k = motion(24, seed=3)
    frame, grid = Frame.of(photograph('coffee', k), FULL), scaled(FULL, scale, 4 / 3)
    there = resample_kernel(k, FULL, grid)
    unit = scale / 4
    _, alone = frame.fit(shift(there, (0.5 * unit, -0.5 * unit)), grid, (0, 0), ALONE)
    _, near = frame.fit(shift(there, (0.5 * unit, -0.5 * unit)), grid, (0, 0), 0.05)
    _, far = frame.fit(shift(there, (3 * unit, -3 * unit)), grid, (0, 0), 0.05)
    assert max(abs(d) for d in near) < 0.25 * unit < max(abs(d) for d in alone)
    assert far == pytest.approx((-3 * unit, 3 * unit), abs=0.7 * unit)


def test_the_guess_moves_with_the_weights_of_its_axis():
    """A kernel of two dots, one too faint, both on one line: its centre of mass is right once they are weighed."""
    k = torch.zeros(24, 24)
    k[10:14, 3:7], k[10:14, 17:21] = 1, 1
    k = k / k.sum()
    frame = Frame.of(photograph('chelsea', k), FULL)
    faint, guess = drawn_faint(k, (slice(None), slice(12, 24)))
    weighed, way = frame.fit(faint, FULL, guess, 0.05)
    assert guess[1] > 3 and abs(way[1]) < 0.5 and kernel_ncc(weighed, k) > 0.98 > kernel_ncc(faint, k)


def test_the_guess_moves_with_the_weights_of_the_other_axis_too():
    """Two dots on a diagonal, one of them too faint, which the rows alone tell."""
    k = torch.zeros(24, 24)
    k[3:7, 7:11], k[17:21, 13:17] = 1, 1
    k = k / k.sum()
    frame = Frame.of(photograph('chelsea', k), FULL)
    rows = dataclasses.replace(frame, precision=frame.precision * torch.tensor([1.0, 1e-6]).view(2, 1, 1))
    faint, guess = drawn_faint(k, slice(12, 24))
    for told, kernel, middle, turned in ((rows, faint, guess, False), (rows, faint.T, guess[::-1], True)):
        if turned:
            told = dataclasses.replace(told, kept=told.kept.flip(0), precision=told.precision.flip(0))
        weighed, way = told.fit(kernel, FULL, middle, 0.05)
        assert min(middle, key=abs) == pytest.approx(1.6, abs=0.1) and max(map(abs, way)) < 0.5
        assert kernel_ncc(weighed, k.T if turned else k) > 0.98


def test_axes_are_alike():
    """Whichever is the first: a picture turned over its diagonal has the kernel turned so."""
    k = motion(24, seed=3)
    y = photograph('coffee', k)
    faint = shift(k ** 1.3 / (k ** 1.3).sum(), (0.6, -1.1))
    weighed, way = Frame.of(y, FULL).fit(faint, FULL, to_middle(faint), 0.05)
    turned, there = Frame.of(y.mT, FULL).fit(faint.T, FULL, to_middle(faint.T), 0.05)
    assert there[::-1] == pytest.approx(way, abs=0.01) and kernel_ncc(turned.T, weighed) > 1 - 1e-6


def test_the_centre_that_is_the_guess(monkeypatch):
    """That of k^0.9 where a frame is asked, that of k^em.centre_power where not."""
    k = motion(24, seed=4)
    frame, asked = Frame.of(photograph('coffee', k), FULL), []
    monkeypatch.setattr(Frame, 'fit', lambda *args: asked.append(args[3:]) or (k, args[3]))
    config = EmConfig(centre_power=0.7, centre_error=0.2, kernel_floor=0)
    em_steps.find_place(k, FULL, config, frame)
    (guess, error), = asked
    assert error == 0.2 and guess == pytest.approx(to_middle(k ** 0.9))
    for told in ((True, False), (False, True)):
        em_steps.find_place(k, FULL, config, dataclasses.replace(frame, tells=told))
        centres = [to_middle(k ** (0.9 if asks else 0.7))[axis] for axis, asks in enumerate(told)]
        assert asked[-1][0] == pytest.approx(centres)
    for unknown in (None, dataclasses.replace(frame, tells=(False, False))):
        _, way = em_steps.find_place(k, FULL, config, unknown)
        assert way == pytest.approx(to_middle(k ** 0.7)) and len(asked) == 3


@pytest.mark.parametrize('name', ['coffee', 'rocket'])
@pytest.mark.parametrize('bars', ['letterbox', 'line', 'retina'])
def test_black_bars_of_a_photograph_tell_nothing(name, bars):
    """Their pixels are left out, or not even that."""
    k = motion(24, seed=3)
    y = photograph('retina' if bars == 'retina' else name, k, 'reflect')
    if bars != 'retina':
        y[..., 0, :], y[..., -1, :] = -1, -1
    if bars == 'line':
        y[..., 0], y[..., -1] = -1, -1
    frame = Frame.of(y, FULL)
    assert frame is None or not any(frame.tells)
    assert carry_over(k, FULL, FULL, EmConfig(support=1), frame).equal(carry_over(k, FULL, FULL, EmConfig(support=1)))


def test_a_picture_too_small_for_the_rim_tells_nothing():
    """The row that the rim is compared with is faded too."""
    y = photograph('coffee', motion(24, seed=3))
    assert not any(Frame.of(y[..., :20, :], FULL).tells) and all(Frame.of(y, FULL).tells)


def test_the_kernel_is_brought_to_where_the_frame_says():
    k = shift(motion(24, seed=3), (1, -2))  # its true place is not its centre of mass
    frame, config = Frame.of(photograph('coffee', k), FULL), EmConfig()
    grid = scaled(FULL, 4, config.support)
    found = shift(resample_kernel(k, FULL, grid), (-1, 2))

    def off(carried):
        return (carried - k).abs().sum()

    by_mass, by_frame = (carry_over(found, grid, FULL, config, known) for known in (None, frame))
    assert off(by_frame) < off(by_mass) / 2
    ignored = dataclasses.replace(config, centre_error=0)
    assert torch.equal(carry_over(found, grid, FULL, ignored, frame), by_mass)


def test_passes_go_on_from_what_the_frame_has_made_of_the_kernel(monkeypatch):
    """But for the last of a stage, which ends with the fit itself."""
    config = EmConfig(sketch_passes=3, coarse_passes=0, fine_passes=0, steps=3, kernel_levels=1)
    k = motion(24, seed=3)
    y = photograph('chelsea', k)
    frame = Frame.of(y, FULL)
    (stage,) = kernel_stages(FULL, config)
    find_place, seen = em_steps.find_place, []
    monkeypatch.setattr(em_steps, 'find_place', lambda *args: seen.append((args, find_place(*args))) or seen[-1][1])
    start = gaussian(stage.degradation.kernel_size, sigmas=1.25)
    problem = EmProblem(y, load_texture_prior(), FULL, config, torch.Generator().manual_seed(0), frame=frame)
    walk = list(em_steps.em_passes(problem, stage, EmPlace(kernel=start)))
    assert [args[3] for args, _ in seen] == [frame] * 2
    for number, ((before, *_), (weighed, way)) in enumerate(seen):
        assert not torch.equal(weighed, before)
        assert torch.equal(walk[3 * number + 2][2], shift(weighed, way))


def test_each_stage_of_a_search_goes_by_the_frame(monkeypatch):
    """Between passes, at the start of the next stage, and on the way to the full scale."""
    k = gaussian(12, sigmas=1.5)
    y = framed(photograph('coffee', k)[..., :24, :24], 1)
    full = Degradation(2, 12)
    frame = dataclasses.replace(Frame.of(photograph('coffee', motion(24, seed=3)), FULL), rims=(1,) * 4)
    config = EmConfig(sketch_passes=2, coarse_passes=2, fine_passes=0, steps=1, kernel_levels=1, uncertainty=0,
                      cg_iterations=2)
    asked = []
    for module in (em_steps, kernel_search):
        monkeypatch.setattr(module, 'find_place', lambda kernel, grid, config, frame: asked.append((grid, frame)) or (
            kernel, (0.0, 0.0)))
    problem = EmProblem(y, load_texture_prior(), full, config, torch.Generator().manual_seed(0), frame=frame)
    assert len(list(kernel_search.find_kernel(problem, EmPlace()))) == 4
    assert {(grid.scale, grid.kernel_size) for grid, _ in asked} == {(1, 9), (2, 16)}
    assert len(asked) > 4 and all(told is frame for _, told in asked)


@pytest.mark.parametrize('value', [-1.0, -0.9])
def test_bars_are_black_whatever_their_shade(value):
    """Next to none of the light is no kernel's doing, and no light at all has a logarithm too."""
    y = torch.full((1, 3, 40, 48), 0.2)
    y[..., :3, :], y[..., -3:, :] = value, value
    frame = Frame.of(y, FULL)
    assert frame.kept.isfinite().all() and frame.precision.isfinite().all()
    assert frame.tells == (False, False) and frame.rims == (3, 3, 0, 0)
