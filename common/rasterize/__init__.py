"""The differentiable rasterizer: triangles to pixels, with gradients to vertices and attributes.

`rasterize` finds the face each pixel sees and where on it; `interpolate` carries attributes to the
covered pixels; `scatter_image` makes an image of them; `antialias` blends across silhouettes, which
is where a change of shape shows. After Laine et al. 2020, "Modular Primitives for High-Performance
Differentiable Rendering".
"""

from .antialias import antialias
from .interpolate import Raster, interpolate, rasterize, scatter_image, surface_image
from .visibility import visible_faces

__all__ = [
    "Raster",
    "antialias",
    "interpolate",
    "rasterize",
    "scatter_image",
    "surface_image",
    "visible_faces",
]
