"""Sampling takes no more memory over many steps than over few; measured by every allocation of torch on the CPU."""

import torch
from allocations import peak_memory

from kernelfusion_plugin.core.blinddiff import BlindDiffConfig
from kernelfusion_plugin.core.blinddiff_sampling import image_generator, sample
from kernelfusion_plugin.core.kernel_basis import kernel_basis
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.nets.mcformer import ModulatedTransformer


def sampling(steps, keep=False):
    torch.manual_seed(0)
    basis = kernel_basis(torch.stack([gaussian(21, sigmas=float(s)) for s in torch.linspace(0.3, 4, 40)]), 4)
    net = ModulatedTransformer(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, basis=basis)
    y = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = BlindDiffConfig(steps=steps, guidance_weight=1e-4)

    def run():
        states = sample(net, y, 4, config, [image_generator(0, 'image')])
        return [state.x0_hat for state in states if keep or state.step == state.total]
    return run


def test_fifty_steps_take_what_five_take():
    few, many = peak_memory(sampling(5)), peak_memory(sampling(50))
    assert few > 1e6 and abs(many - few) <= 0.02 * few


def test_the_measure_sees_one_kept_image_per_step():
    assert peak_memory(sampling(50, keep=True)) > 1.02 * peak_memory(sampling(50))
