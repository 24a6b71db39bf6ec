# SPDX-License-Identifier: Apache-2.0
"""Imports torchvision's transforms. A CPU build of torch cannot load the operators of the common wheel of
torchvision; of those the transforms on Pillow pictures use none, so they are declared and never called."""
import sys

try:
    import torch
    from torch import library

    try:
        from torchvision import transforms
    except RuntimeError:
        for name in [n for n in sys.modules if n.startswith("torchvision")]:
            del sys.modules[name]
        _operators = library.Library("torchvision", "DEF")
        for _operator in ("nms", "qnms"):
            _operators.define(_operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import transforms
    from torchvision.transforms import functional  # noqa: F401
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

__all__ = ["torch", "transforms", "functional"]
