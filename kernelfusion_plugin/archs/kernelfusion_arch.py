"""PatchDiffusion, RefineUNet, SirenKernel, DirectKernel and LinearCnnKernel in BasicSR's ARCH_REGISTRY."""

from __future__ import annotations

from basicsr.utils.registry import ARCH_REGISTRY

from ..core.kernel_models import DirectKernel, LinearCnnKernel, Siren
from ..core.nets.patch_net import PatchDiffusionNet
from ..core.nets.refine_unet import RefineUNet


class PatchDiffusion(PatchDiffusionNet):
    """PD of Phase 1 as ``network_g``; see :class:`~kernelfusion_plugin.core.nets.patch_net.PatchDiffusionNet`."""


class SirenKernel(Siren):
    """The paper's kernel network as ``network_k``; see :class:`~kernelfusion_plugin.core.kernel_models.Siren`."""


ARCHS = (PatchDiffusion, RefineUNet, SirenKernel, DirectKernel, LinearCnnKernel)


def register() -> None:
    """Enter :data:`ARCHS` into the registry; a second call, or a name that is taken already, changes nothing."""
    for arch in ARCHS:
        if arch.__name__ not in ARCH_REGISTRY:
            ARCH_REGISTRY.register(arch)
