"""What is said about kernels, before they are sought and when they are found."""

import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig
from kernelfusion_plugin.advice import blur_warning, kernel_warning
from kernelfusion_plugin.core.kernels import motion


def test_a_kernel_that_is_cut_is_told_from_one_that_is_not():
    whole, y = motion(24, 1), torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert kernel_warning(y, whole, '--kernel-size') is None
    cut = motion(48, 1)[12:-12, 12:-12]  # what a grid of 24 has of a wider shake
    assert float(cut.sum()) < 0.95
    warning = kernel_warning(y, cut, '--kernel-size')
    share = 1 - float(cut[1:-1, 1:-1].sum() / cut.sum())
    assert warning.startswith(f'{share:.0%} of the kernel') and '24 x 24' in warning and '--kernel-size 32' in warning
    for size, advice in ((60, 'try --kernel-size 64, which takes longer, or make'), (64, 'may have cut it off: make')):
        wide = torch.full((size, size), 1 / size ** 2)
        warning = kernel_warning(y, wide, '--kernel-size')
        assert advice in warning and warning.endswith('smaller first')
        assert kernel_warning(y, wide, '--kernel-size', '--shrink 2') == f'{warning} (--shrink 2)'


@pytest.mark.parametrize(('step', 'flat'), [(0.0, True), (0.02, True), (0.05, False)])
def test_a_picture_without_edges_is_spoken_of(step, flat):
    y = torch.full((1, 3, 12, 10), 0.3)
    y[..., 5:] += step
    for turned in (y, y.mT):
        warning = kernel_warning(turned, motion(24, 1), '--kernel-size')
        assert ('has no edges' in warning) if flat else warning is None


@pytest.mark.parametrize('wider', [True, False])
def test_a_blur_is_spoken_of_that_is_wider_than_the_grid(wider, monkeypatch):
    monkeypatch.setattr('kernelfusion_plugin.advice.seems_wider', lambda y, prior, config: wider)
    y = torch.rand(1, 3, 50, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    warning = blur_warning(y, KernelFusionConfig(scale=3, kernel_size=21), '--shrink 2')
    if wider:
        assert 'wider than the 7 pixels that the 21 x 21 kernel' in warning and warning.endswith('first (--shrink 2)')
    else:
        assert warning is None
