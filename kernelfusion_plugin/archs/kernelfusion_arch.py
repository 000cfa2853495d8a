"""PatchDiffusion, RefineUNet, SirenKernel, DirectKernel and LinearCnnKernel for BasicSR's ARCH_REGISTRY."""

from __future__ import annotations

from ..core.kernel_models import DirectKernel, LinearCnnKernel, Siren
from ..core.nets.patch_net import PatchDiffusionNet
from ..core.nets.refine_unet import RefineUNet


class PatchDiffusion(PatchDiffusionNet):
    """PD of Phase 1 as ``network_g``; see :class:`~kernelfusion_plugin.core.nets.patch_net.PatchDiffusionNet`."""


class SirenKernel(Siren):
    """The paper's kernel network as ``network_k``; see :class:`~kernelfusion_plugin.core.kernel_models.Siren`."""


ARCHS = (PatchDiffusion, RefineUNet, SirenKernel, DirectKernel, LinearCnnKernel)
