"""Random kernels: statistics of the draws, mixtures by weight, and what a bad option says."""

import math

import numpy as np
import pytest
import torch

from kernelfusion_plugin.core import kernel_align
from kernelfusion_plugin.core.kernel_families import Anisotropic, Isotropic, Mixture, Motion

DRAWS = 300


def moments(k):
    """Covariance (2, 2) of a kernel about its centre of mass, rows x, y."""
    k = k.double()
    at = torch.arange(k.shape[-1]).double()
    my, mx = kernel_align.centre_of_mass(k).tolist()
    xx, yy = (k.sum(0) * (at - mx) ** 2).sum(), (k.sum(1) * (at - my) ** 2).sum()
    xy = (k * (at[:, None] - my) * (at - mx)).sum()
    return torch.tensor([[xx, xy], [xy, yy]])


def test_isotropic_sigma_is_uniform(generator):
    drawn = torch.stack([Isotropic(size=31, sigma=(1.0, 3.0)).draw(generator) for _ in range(DRAWS)])
    assert drawn.dtype == torch.float32 and drawn.min() >= 0
    torch.testing.assert_close(drawn.sum((1, 2)), torch.ones(DRAWS))
    torch.testing.assert_close(drawn, drawn.transpose(1, 2))
    sigma = torch.stack([moments(k)[0, 0].sqrt() for k in drawn])
    assert 0.99 < sigma.min() < 1.05 and 2.9 < sigma.max() < 3.01
    assert abs(sigma.mean() - 2) < 4 * 2 / math.sqrt(12 * DRAWS)


def test_anisotropic_widths_and_turn_are_uniform(generator):
    drawn = [Anisotropic(size=41, sigma=(1.0, 4.0), noise=0).draw(generator) for _ in range(DRAWS)]
    values, vectors = torch.linalg.eigh(torch.stack([moments(k) for k in drawn]))
    sigma = values.sqrt()
    assert sigma.min() > 0.97 and sigma.max() < 4.05
    assert abs(sigma.mean() - 2.5) < 4 * 3 / math.sqrt(12 * 2 * DRAWS)
    long = vectors[:, :, 1][sigma[:, 1] > 1.3 * sigma[:, 0]]  # (x, y); its angle is that of one of the two axes
    angle = torch.atan2(long[:, 1], long[:, 0]).remainder(math.pi)
    counts = torch.histc(angle, 4, 0, math.pi) / len(angle)
    assert (counts - 0.25).abs().max() < 0.1


def test_anisotropic_noise_is_multiplicative_and_bounded():
    def pair(noise):
        family = Anisotropic(sigma=(1.0, 4.0), noise=noise)
        return [family.draw(torch.Generator().manual_seed(s)) for s in range(20)]

    ratio = torch.stack(pair(0.25)).double() / torch.stack(pair(0)).double()
    ratio = ratio[torch.stack(pair(0)) > 1e-12]
    assert ratio.min() > 0.75 / 1.25 and ratio.max() < 1.25 / 0.75
    assert float(ratio.std()) == pytest.approx(0.25 / math.sqrt(3), rel=0.1)
    with pytest.raises(ValueError, match='noise'):
        Anisotropic(noise=1)


def test_motion_draws_differ_in_extent(generator):
    drawn = [Motion(size=24).draw(generator) for _ in range(30)]
    spread = torch.stack([moments(k).trace().sqrt() for k in drawn])
    assert spread.max() > 1.8 * spread.min()
    for k in drawn:
        torch.testing.assert_close(kernel_align.centre_of_mass(k), torch.full((2,), 11.5), atol=1e-3, rtol=0)


def test_mixture_draws_by_weight_and_from_the_generator_alone(tmp_path, generator):
    corner = np.zeros((21, 21))
    corner[0, 0] = 3
    np.save(tmp_path / 'corner.npy', corner)
    (tmp_path / 'corner.png').write_bytes(b'a picture of it, not to be read')
    mixture = Mixture.from_options([{'type': 'isotropic', 'size': 21, 'prob': 3}, {'type': 'motion', 'size': 21,
                                    'prob': 0}, {'type': 'folder', 'dataroot': str(tmp_path)}])
    assert mixture.size == 21
    drawn = torch.stack([mixture.draw(generator) for _ in range(400)])
    part = float((drawn[:, 0, 0] == 1).float().mean())
    assert part == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 400))
    torch.manual_seed(1)
    again = mixture.draw(torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    assert torch.equal(again, mixture.draw(torch.Generator().manual_seed(5)))


def test_a_drawn_kernel_can_be_changed_without_changing_the_folder(tmp_path, generator):
    np.save(tmp_path / 'a.npy', np.eye(5))
    mixture = Mixture.from_options([{'type': 'folder', 'dataroot': str(tmp_path)}])
    mixture.draw(generator).zero_()
    assert float(mixture.draw(generator).sum()) == pytest.approx(1)


@pytest.mark.parametrize(('options', 'message'), [
    ([], 'at least one family'),
    ({'type': 'motion'}, "'kernels' must be a list"),
    ([{'type': 'isotropc'}], "unknown family 'isotropc' in 'kernels.0': did you mean 'isotropic'"),
    (['motion'], "unknown family 'motion' in 'kernels.0'"),
    ([{'type': 'isotropic', 'sigmas': 1}], "unknown option 'kernels.0.sigmas': did you mean 'sigma'"),
    ([{'type': 'isotropic', 'sigma': [4, 0.2]}], "'kernels.0': sigma must be a number or"),
    ([{'type': 'isotropic', 'sigma': [0.0, 1.0]}], 'at least 0.05'),
    ([{'type': 'anisotropic', 'noise': 1.5}], 'noise must be a number, between 0 and 0.99'),
    ([{'type': 'motion', 'size': 24.5}], 'size must be a whole number'),
    ([{'type': 'motion', 'prob': 0}], 'prob above 0'),
    ([{'type': 'motion', 'size': 24}, {'type': 'isotropic'}], r'the same size, got 24 \(motion\), 21 \(isotropic\)'),
    ([{'type': 'folder'}], "'kernels.0' needs dataroot"),
    ([{'type': 'folder', 'dataroot': '/nowhere'}], '/nowhere: no such folder'),
])
def test_bad_mixture(options, message):
    with pytest.raises(ValueError, match=message):
        Mixture.from_options(options)


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match='this folder has no kernels'):
        Mixture.from_options([{'type': 'folder', 'dataroot': str(tmp_path)}])
    np.save(tmp_path / 'a.npy', np.eye(5))
    np.save(tmp_path / 'b.npy', np.eye(7))
    with pytest.raises(ValueError, match=r'a\.npy has 5 x 5, .*b\.npy 7 x 7'):
        Mixture.from_options([{'type': 'folder', 'dataroot': str(tmp_path)}])
