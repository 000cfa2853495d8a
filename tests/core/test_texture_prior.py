"""The texture prior that ships with the package, and how it is fitted (at toy size)."""

import dataclasses
import socket

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kernelfusion_plugin.cli import fit_textures, main
from kernelfusion_plugin.core import texture_prior
from kernelfusion_plugin.core.diffusion import Schedule
from kernelfusion_plugin.core.nets.texture_unet import TextureUNet
from kernelfusion_plugin.core.patch_prior import PriorConfig
from kernelfusion_plugin.core.texture_prior import T_MAX, TRAINING, fit_texture_prior, load_texture_prior

TOY = PriorConfig(channels=2, steps=40, crop=16, batch=4, lr=3e-3, t_max=T_MAX, precision='fp32')


def photograph(name, size=128):
    """A cut of one of scikit-image's, (1, 3, size, size) in [-1, 1]."""
    picture = getattr(pytest.importorskip('skimage.data'), name)()
    top, left = ((n - size) // 2 for n in picture.shape[:2])
    cut = picture[top:top + size, left:left + size].copy()
    return torch.from_numpy(cut).permute(2, 0, 1)[None] / 127.5 - 1


def psnr(a, b):
    return float(10 * torch.log10(4 / (a - b).square().mean()))


@pytest.mark.parametrize('name', ['astronaut', 'chelsea', 'coffee'])
@pytest.mark.parametrize(('t', 'rise'), [(50, 8), (200, 14)])
def test_it_denoises_photographs_it_has_never_seen(name, t, rise, generator, monkeypatch):
    monkeypatch.setattr(socket, 'socket', lambda *args, **options: pytest.fail('nothing is to be fetched'))
    prior, x = load_texture_prior(precision='fp32'), photograph(name)
    x_t = prior.schedule.q_sample(x, t, torch.randn(x.shape, generator=generator))
    noisy = x_t / prior.schedule.alpha_bar(t, x_t).sqrt()
    assert psnr(prior.predict_x0(x_t, t), x) > psnr(noisy, x) + rise


@pytest.mark.parametrize('name', ['astronaut', 'chelsea', 'coffee'])
def test_the_fine_detail_that_it_draws_is_there(name, generator):
    """The picture's, regressed on the estimate's, has slope 1: were it overdrawn, kernels would come out too wide."""
    prior, x = load_texture_prior(precision='fp32'), photograph(name, 296)
    estimate = prior.predict_x0(prior.schedule.q_sample(x, 122, torch.randn(x.shape, generator=generator)), 122)
    there, drawn = (torch.fft.rfft2(picture) for picture in (x, estimate))
    frequency = torch.hypot(torch.fft.fftfreq(x.shape[2])[:, None], torch.fft.rfftfreq(x.shape[3]))
    fine = (frequency > 0.125) & (frequency < 0.5)
    slope = (there * drawn.conj()).real[..., fine].sum() / drawn.abs().square()[..., fine].sum()
    assert 0.88 < float(slope) < 1.12


def test_it_keeps_to_the_schedule_of_its_training_and_is_frozen():
    prior = load_texture_prior()
    assert torch.equal(prior.schedule.alphas_cumprod, Schedule(TRAINING.timesteps).alphas_cumprod)
    assert TRAINING.t_max == T_MAX
    assert not prior.net.training and not any(value.requires_grad for value in prior.net.parameters())


def test_who_loads_it_cannot_spoil_it_for_others(generator):
    x_t = torch.randn(1, 3, 16, 16, generator=generator)
    first = load_texture_prior(precision='fp32')
    before = first.predict_x0(x_t, 100)
    with torch.no_grad():
        for value in first.net.parameters():
            value.zero_()
    assert torch.equal(load_texture_prior(precision='fp32').predict_x0(x_t, 100), before)


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_texture_prior()
    assert torch.equal(before, torch.get_rng_state())


def stripes():
    """Three uint8 pictures with a texture each."""
    at = np.arange(40)[:, None] + 2 * np.arange(40)
    return np.stack([np.stack([127.5 + 110 * np.sin(at / period + phase) for phase in (0, 0.5, 1)], -1)
                     for period in (1.5, 2.5, 4.0)]).astype(np.uint8)


def fit(config=TOY, seed=0):
    torch.manual_seed(1)
    net = TextureUNet((8, 12))
    states = list(fit_texture_prior(net, stripes(), config, torch.Generator().manual_seed(seed)))
    return [state.loss for state in states], states[-1].net.state_dict()


def test_the_fit_learns():
    losses, _ = fit(dataclasses.replace(TOY, steps=150))
    assert len(losses) == 150 and sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_same_seed_same_weights():
    config = dataclasses.replace(TOY, steps=4, ema=0.9)
    first, second, third = (fit(config, seed)[1] for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_crops_are_turned_mirrored_and_faded(generator):
    picture = np.zeros((1, 20, 24, 3), np.uint8)
    picture[..., 0] = np.arange(20)[:, None] * 12  # red grows downwards
    picture[..., 2] = np.arange(24) * 10  # blue to the right
    crops = torch.cat([texture_prior._draw(picture, dataclasses.replace(TOY, batch=8), generator) for _ in range(40)])
    assert crops.shape == (320, 3, 16, 16) and crops.min() >= -1 and crops.max() <= 1
    red, blue = crops[:, 0] - crops[:, 1], crops[:, 2] - crops[:, 1]
    ways, strengths = set(), set()
    for r, b in zip(red, blue):
        slopes = torch.stack([a.diff(dim=d).mean() for a in (r, b) for d in (0, 1)])
        strengths.add(round(float(slopes.abs().max()) / (12 / 127.5), 2))
        if slopes.abs().max() > 1e-3:
            ways.add(tuple(torch.sign(slopes * (slopes.abs() > 1e-3)).int().tolist()))
    assert len(ways) == 8  # four turns, each mirrored or not
    assert strengths == {0, 0.4, 1}
    grey = crops.mean(1)
    assert len({round(float(one), 3) for one in grey.mean((1, 2))}) > 20  # from many places


def test_the_command_writes_weights_that_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_textures, 'TRAINING', dataclasses.replace(TRAINING, crop=16, batch=1, precision='fp32'))
    files = [tmp_path / f'{name}.pt' for name in 'abc']
    common = ['--pictures', '2', '--steps', '2']
    for file, more in zip(files, ([], [], ['--start', str(files[0]), '--lr', '1e-4', '--seed', '1'])):
        main.main(['fit-textures', str(file), *common, *more], standalone_mode=False)
    first, second, third = (torch.load(file, weights_only=True) for file in files)
    net = TextureUNet()
    net.load_state_dict(first)
    assert any(value.abs().max() > 0 for value in (first['tail.weight'], first['tail.bias']))  # not as it began
    assert all(value.dtype == torch.float16 for value in first.values())
    assert all(torch.equal(first[name], second[name]) for name in first)
    distance = sum(float((third[name].float() - first[name].float()).square().sum()) for name in first) ** 0.5
    assert 0 < distance < 0.4  # went on from there, with a small rate
    assert {path.name for path in tmp_path.iterdir()} == {'a.pt', 'b.pt', 'c.pt'}


@pytest.mark.parametrize(('option', 'value', 'said'), [
    ('--pictures', '0', "'--pictures': 0 is not in the range x>=1"), ('--steps', '0', "'--steps': 0 is not in"),
    ('--lr', '-1', '--lr must be positive and finite, got -1.0'), ('--lr', 'nan', '--lr must be positive'),
    ('--lr', '0', '--lr must be positive'), ('--seed', '-5', "'--seed': -5 is not in the range x>=0")])
def test_a_wrong_option_is_refused_before_pictures_are_drawn(option, value, said, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_textures, 'generate_pictures', lambda *args: pytest.fail('drawn'))
    answer = CliRunner().invoke(main, ['fit-textures', str(tmp_path / 'a.pt'), option, value])
    assert answer.exit_code == 2 and said in ' '.join(answer.output.split()), answer.output


@pytest.mark.parametrize(('place', 'said'), [('folder', "'folder' is a directory"),
                                             ('file/a.pt', 'file/a.pt: cannot be created or written to'),
                                             ('coffee.png', "must end in .pt or .pth, got 'coffee.png'")])
def test_a_place_that_cannot_be_written_is_refused_before_pictures_are_drawn(place, said, tmp_path, monkeypatch):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fit_textures, 'generate_pictures', lambda *args: pytest.fail('drawn'))
    answer = CliRunner().invoke(main, ['fit-textures', place])
    assert answer.exit_code == 2 and said in ' '.join(answer.output.split()), answer.output


@pytest.mark.parametrize('lr', ['1e20', '1e-7'])
def test_a_fit_that_runs_away_ends_in_one_line_and_writes_nothing(lr, tmp_path, monkeypatch):
    """Not in the command's first step: that loss is of the weights as they were. A rate below the last is taken."""
    monkeypatch.setattr(fit_textures, 'TRAINING', dataclasses.replace(TRAINING, crop=16, batch=1, precision='fp32'))
    answer = CliRunner().invoke(main, ['fit-textures', str(tmp_path / 'a.pt'), '--pictures', '1', '--steps', '4',
                                       '--lr', lr])
    if lr == '1e-7':
        assert answer.exit_code == 0 and (tmp_path / 'a.pt').is_file()
        return
    assert answer.exit_code == 2 and not list(tmp_path.iterdir())
    assert 'Error: --lr 1e+20: the loss is no longer finite at step' in answer.output, answer.output
    assert 'nothing was written; try a smaller rate' in ' '.join(answer.output.split())


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    net = TextureUNet()
    torch.nn.init.constant_(net.tail.bias, 1e6)  # too much for float16
    with pytest.raises(ValueError, match=r'w\.pt: not written: the weights are no longer finite'):
        fit_textures.save(net, tmp_path / 'w.pt')
    assert not list(tmp_path.iterdir())


def test_the_loader_reads_what_the_command_writes(tmp_path, generator):
    torch.manual_seed(3)
    net = TextureUNet()
    torch.nn.init.normal_(net.tail.weight, std=0.1)
    fit_textures.save(net, tmp_path / 'w.pt')
    x_t = torch.randn(1, 3, 20, 17, generator=generator)
    expected = Schedule().x0_from_v(x_t, net(x_t, torch.tensor([50])), 50)
    prior = load_texture_prior(precision='fp32', weights=str(tmp_path / 'w.pt'))
    torch.testing.assert_close(prior.predict_x0(x_t, 50), expected.detach(), rtol=0, atol=5e-3)
