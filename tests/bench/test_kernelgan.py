"""DIV2KRK's kernels and forward model, beside the published files."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat

from kernelfusion_plugin.bench import kernelgan
from kernelfusion_plugin.core.kernel_align import centre_of_mass


def draw(scale, seed):
    return kernelgan.draw_kernel(scale, torch.Generator().manual_seed(seed))


def test_scale_4_is_scale_2_twice():
    """Reducing by 2 twice, by plain correlation in numpy, is reducing by 4 once."""
    k2, k4 = draw(2, 0).double().numpy(), draw(4, 0).double().numpy()
    assert k2.shape == (11, 11) and k4.shape == (31, 31)
    x = np.random.default_rng(0).random((71, 71))

    def reduce(z, k):
        windows = np.lib.stride_tricks.sliding_window_view(z, k.shape)[::2, ::2]
        return np.einsum('ijkl,kl->ij', windows, k)

    twice = reduce(reduce(x, k2), k2)
    once = np.einsum('ijkl,kl->ij', np.lib.stride_tricks.sliding_window_view(x, k4.shape)[::4, ::4], k4)
    np.testing.assert_allclose(twice[:once.shape[0], :once.shape[1]], once[:twice.shape[0], :twice.shape[1]], atol=1e-6)


def test_draws_have_the_papers_statistics():
    kernels = torch.stack([draw(2, seed) for seed in range(300)]).double()
    assert (kernels.sum((1, 2)) - 1).abs().max() < 1e-5 and kernels.min() >= 0
    at = torch.arange(11, dtype=torch.float64) - 5
    trace = (kernels * (at[:, None] ** 2 + at ** 2)).sum((1, 2))
    assert 4.5 < float(trace.mean()) < 6  # 2 · 2.8, less what 11 x 11 cuts off
    assert all((centre_of_mass(k) - 5).abs().max() < 1e-3 for k in kernels)
    with pytest.raises(ValueError, match='2 and 4 only, got 3'):
        draw(3, 0)


def test_published_lr_files(shared_data):
    """Bit for bit, frame included at the top left (the HR at hand is cut at the lower right)."""
    for number in (13, 14):
        k = torch.from_numpy(loadmat(shared_data / 'div2krk' / f'kernel_{number}.mat')['Kernel'])
        hr = read(shared_data / 'div2k' / 'HR' / f'{800 + number:04d}.png')[..., :704, :960]
        lr = read(shared_data / 'div2krk' / f'lr_x4_im_{number}.png')[..., :168, :232]
        assert torch.equal(kernelgan.downscale(hr, k, 4)[..., :168, :232], lr)


def read(path):
    return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)[None]
