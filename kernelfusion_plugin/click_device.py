"""The ``--device`` option of the commands."""

from __future__ import annotations

from typing import Any

import click
import torch

from .core.faults import first_line


class Device(click.ParamType):
    """A device that PyTorch can compute on, on this machine."""

    name = 'device'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> torch.device:  # noqa: ANN401
        try:
            device = torch.device(value)
            torch.zeros(1, device=device).sum().item()
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = first_line(error).partition('. ')[0]  # PyTorch then lists every device type
            self.fail(f'{value}: {reason}', param, ctx)
        return device


device_option = click.option('--device', type=Device(), help='cpu, cuda, cuda:1, ...  [default: cuda if available]',
                             default=lambda: 'cuda' if torch.cuda.is_available() else 'cpu')
