"""The vectors that a layer multiplies its weight with, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

LINEAR = (torch.nn.Linear,)
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d)
#: Layers with a matrix of weights whose vectors are not taken apart here.
OTHERS = (torch.nn.Conv3d, torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.Bilinear)


def channels(layer: Any) -> int:
    """Columns of the weight seen as a matrix."""
    return int(layer.weight[0].numel())


def vectors(layer: Any, x: Any) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """What enters the layer: for each entry of the first axis, its number and float32 (vectors, n).

    A linear layer's input without other axes than the last is one entry. A convolution's patches
    come unfolded, padding included, with the channels in the order of the weight's row.
    """
    x = x.detach()
    if isinstance(layer, LINEAR):
        if x.ndim == 1:
            x = x[None]
        for number in range(x.shape[0]):
            yield number, _rows(x[number].reshape(-1, x.shape[-1]))
        return
    axes = 1 if isinstance(layer, torch.nn.Conv1d) else 2
    if x.ndim == axes + 1:  # without an axis for the batch
        x = x[None]
    for number in range(x.shape[0]):
        yield number, _rows(_patches(layer, x[number : number + 1], axes))


def _patches(layer: Any, x: Any, axes: int) -> Any:
    """(places * groups, channels of a group * taps) of one entry."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    if axes == 1:  # as an image of one line
        x = x[:, :, None]
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    wide = x.float()  # unfold knows fewer dtypes than convolutions
    found = functional.unfold(wide, kernel, dilation=dilation, stride=stride)[0]
    return (
        found.reshape(layer.groups, -1, found.shape[-1])
        .transpose(1, 2)
        .reshape(-1, channels(layer))
    )


def _rows(x: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = x.to("cpu", torch.float32).numpy()
    return found
