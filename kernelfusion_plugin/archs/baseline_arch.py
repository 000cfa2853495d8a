"""DAN, DANv2 and DCLS for BasicSR's ARCH_REGISTRY; SwinIR and RRDBNet are BasicSR's own."""

from __future__ import annotations

from typing import Any

from ..core.kernel_pca import load_pca
from ..core.nets import dan, danv2
from ..core.nets.dcls import DCLS


class DAN(dan.DAN):
    """DAN as ``network_g``; see :class:`~kernelfusion_plugin.core.nets.dan.DAN`.

    Args:
        pca_matrix_path: file of the PCA matrix; not needed if weights are loaded, which contain it.
        options: passed on.
    """

    def __init__(self, pca_matrix_path: str | None = None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(pca=load_pca(pca_matrix_path) if pca_matrix_path else None, **options)


class DANv2(danv2.DANv2):
    """DANv2 as ``network_g``; see :class:`~kernelfusion_plugin.core.nets.danv2.DANv2`, and :class:`DAN`."""

    def __init__(self, pca_matrix_path: str | None = None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(pca=load_pca(pca_matrix_path) if pca_matrix_path else None, **options)


ARCHS = (DAN, DANv2, DCLS)
