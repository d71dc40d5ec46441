"""USDZ, through Pixar's own library, which is an extra (`pip install 'maquette[usd]'`)."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import UserError
from ...common.files import write_whole
from ...common.runs.folder import slug
from .pictures import mime_type
from .placement import Pose
from .unwrap import Unwrapped
from .write import SUFFIXES


def require_usd() -> None:
    """Raise UserError with how to install it if the library is missing."""
    if importlib.util.find_spec("pxr") is None:
        raise UserError(
            "USDZ needs the library usd-core; install it with `pip install 'maquette[usd]'`, or "
            "leave usdz out of --format"
        )


def write_usdz(folder: Path, name: str, unwrapped: Unwrapped, image: bytes, pose: Pose) -> Path:
    """Write NAME.usdz: one mesh with a preview surface, Y up, in metres.

    image: PNG or JPEG. Positions are welded, texture coordinates belong to corners.
    """
    require_usd()
    from pxr import Sdf, Usd, UsdUtils  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    name = slug(name)
    path = folder / f"{name}.usdz"
    with tempfile.TemporaryDirectory(prefix="maquette-usd-") as place:
        texture = f"{name}.{SUFFIXES[mime_type(image)]}"
        (Path(place) / texture).write_bytes(image)
        layer = str(Path(place) / f"{name}.usdc")
        stage: Any = Usd.Stage.CreateNew(layer)
        _describe(stage, _identifier(name), unwrapped, texture, pose)
        stage.GetRootLayer().Save()
        package = str(Path(place) / f"{name}.usdz")
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(layer), package):
            raise OSError(f"{path}: the USD library could not write it")
        write_whole(path, Path(package).read_bytes())
    return path


def _identifier(name: str) -> str:
    """A name that USD takes: letters, digits and underscores, no digit first."""
    plain = name.replace("-", "_")
    return f"_{plain}" if plain[:1].isdigit() else plain


def _describe(stage: Any, name: str, unwrapped: Unwrapped, texture: str, pose: Pose) -> None:
    from pxr import Gf, Kind, Sdf, Usd, UsdGeom, UsdShade, Vt  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, f"/{name}")
    stage.SetDefaultPrim(root.GetPrim())
    Usd.ModelAPI(root.GetPrim()).SetKind(Kind.Tokens.component)
    mesh = UsdGeom.Mesh.Define(stage, f"/{name}/mesh")
    welded, weld = unwrapped.welded(), unwrapped.welded_vertex()
    places = np.ascontiguousarray(pose.points(welded.vertices).numpy())
    corner = weld[unwrapped.faces].reshape(-1).numpy().astype(np.int32)
    mesh.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(places))
    mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(corner))
    mesh.CreateFaceVertexCountsAttr(
        Vt.IntArray.FromNumpy(np.full(len(unwrapped.faces), 3, dtype=np.int32))
    )
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    low, high = places.min(axis=0), places.max(axis=0)
    mesh.CreateExtentAttr([Gf.Vec3f(*low.tolist()), Gf.Vec3f(*high.tolist())])
    corners = unwrapped.faces.reshape(-1)
    primvars = UsdGeom.PrimvarsAPI(mesh)
    normals = pose.vectors(unwrapped.normals())[corners].contiguous().numpy()
    mesh.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(normals))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.faceVarying)
    places_uv = primvars.CreatePrimvar(
        "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying
    )
    places_uv.Set(Vt.Vec2fArray.FromNumpy(unwrapped.uv[corners].contiguous().numpy()))
    material = UsdShade.Material.Define(stage, f"/{name}/material")
    surface = UsdShade.Shader.Define(stage, f"/{name}/material/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
    surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
    reader = UsdShade.Shader.Define(stage, f"/{name}/material/st")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
    picture = UsdShade.Shader.Define(stage, f"/{name}/material/texture")
    picture.CreateIdAttr("UsdUVTexture")
    picture.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(Sdf.AssetPath(texture))
    picture.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
    for axis in ("wrapS", "wrapT"):
        picture.CreateInput(axis, Sdf.ValueTypeNames.Token).Set("clamp")
    picture.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(
        reader.ConnectableAPI(), "result"
    )
    surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(
        picture.ConnectableAPI(), "rgb"
    )
    picture.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
    reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
