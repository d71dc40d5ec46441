"""USDZ, through Pixar's own library, which is an extra (`pip install 'maquette[usd]'`)."""

from __future__ import annotations

import importlib
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


def library(name: str) -> Any:
    """A module of the library, which tells type checkers nothing of what is in it."""
    return importlib.import_module(f"pxr.{name}")


def write_usdz(
    folder: Path,
    name: str,
    unwrapped: Unwrapped,
    image: bytes,
    pose: Pose,
    finish_image: bytes | None = None,
) -> Path:
    """Write NAME.usdz: one mesh with a preview surface, Y up, in metres.

    image: PNG or JPEG. finish_image: roughness in its green and metallic in its blue. Positions are
    welded, texture coordinates belong to corners.
    """
    require_usd()
    sdf, usd, utilities = library("Sdf"), library("Usd"), library("UsdUtils")

    name = slug(name)
    path = folder / f"{name}.usdz"
    with tempfile.TemporaryDirectory(prefix="maquette-usd-") as place:
        texture = f"{name}.{SUFFIXES[mime_type(image)]}"
        (Path(place) / texture).write_bytes(image)
        finish = None
        if finish_image is not None:
            finish = f"{name}-finish.{SUFFIXES[mime_type(finish_image)]}"
            (Path(place) / finish).write_bytes(finish_image)
        layer = str(Path(place) / f"{name}.usdc")
        stage: Any = usd.Stage.CreateNew(layer)
        _describe(stage, _identifier(name), unwrapped, texture, finish, pose)
        stage.GetRootLayer().Save()
        package = str(Path(place) / f"{name}.usdz")
        if not utilities.CreateNewUsdzPackage(sdf.AssetPath(layer), package):
            raise OSError(f"{path}: the USD library could not write it")
        write_whole(path, Path(package).read_bytes())
    return path


def _identifier(name: str) -> str:
    """A name that USD takes: letters, digits and underscores, no digit first."""
    plain = name.replace("-", "_")
    return f"_{plain}" if plain[:1].isdigit() else plain


def _describe(
    stage: Any, name: str, unwrapped: Unwrapped, texture: str, finish: str | None, pose: Pose
) -> None:
    gf, kind, sdf, vt = library("Gf"), library("Kind"), library("Sdf"), library("Vt")
    usd, geometry, shade = library("Usd"), library("UsdGeom"), library("UsdShade")
    geometry.SetStageUpAxis(stage, geometry.Tokens.y)
    geometry.SetStageMetersPerUnit(stage, 1.0)
    root = geometry.Xform.Define(stage, f"/{name}")
    stage.SetDefaultPrim(root.GetPrim())
    usd.ModelAPI(root.GetPrim()).SetKind(kind.Tokens.component)
    mesh = geometry.Mesh.Define(stage, f"/{name}/mesh")
    welded, weld = unwrapped.welded(), unwrapped.welded_vertex()
    places = np.ascontiguousarray(pose.points(welded.vertices).numpy())
    corner = weld[unwrapped.faces].reshape(-1).numpy().astype(np.int32)
    mesh.CreatePointsAttr(vt.Vec3fArray.FromNumpy(places))
    mesh.CreateFaceVertexIndicesAttr(vt.IntArray.FromNumpy(corner))
    mesh.CreateFaceVertexCountsAttr(
        vt.IntArray.FromNumpy(np.full(len(unwrapped.faces), 3, dtype=np.int32))
    )
    mesh.CreateSubdivisionSchemeAttr(geometry.Tokens.none)
    low, high = places.min(axis=0), places.max(axis=0)
    mesh.CreateExtentAttr([gf.Vec3f(*low.tolist()), gf.Vec3f(*high.tolist())])
    corners = unwrapped.faces.reshape(-1)
    primvars = geometry.PrimvarsAPI(mesh)
    normals = pose.vectors(unwrapped.normals())[corners].contiguous().numpy()
    mesh.CreateNormalsAttr(vt.Vec3fArray.FromNumpy(normals))
    mesh.SetNormalsInterpolation(geometry.Tokens.faceVarying)
    places_uv = primvars.CreatePrimvar(
        "st", sdf.ValueTypeNames.TexCoord2fArray, geometry.Tokens.faceVarying
    )
    places_uv.Set(vt.Vec2fArray.FromNumpy(unwrapped.uv[corners].contiguous().numpy()))
    material = shade.Material.Define(stage, f"/{name}/material")
    surface = shade.Shader.Define(stage, f"/{name}/material/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", sdf.ValueTypeNames.Float).Set(1.0)
    surface.CreateInput("metallic", sdf.ValueTypeNames.Float).Set(0.0)
    reader = shade.Shader.Define(stage, f"/{name}/material/st")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", sdf.ValueTypeNames.String).Set("st")
    picture = _picture(stage, f"/{name}/material/texture", texture, "sRGB", reader)
    surface.CreateInput("diffuseColor", sdf.ValueTypeNames.Color3f).ConnectToSource(
        picture.ConnectableAPI(), "rgb"
    )
    picture.CreateOutput("rgb", sdf.ValueTypeNames.Float3)
    if finish is not None:
        picture = _picture(stage, f"/{name}/material/finish", finish, "raw", reader)
        for quantity, channel in (("roughness", "g"), ("metallic", "b")):
            picture.CreateOutput(channel, sdf.ValueTypeNames.Float)
            surface.GetInput(quantity).ConnectToSource(picture.ConnectableAPI(), channel)
    reader.CreateOutput("result", sdf.ValueTypeNames.Float2)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    shade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)


def _picture(stage: Any, place: str, file: str, space: str, reader: Any) -> Any:
    """A texture of the material, looked up where `reader` says."""
    sdf, shade = library("Sdf"), library("UsdShade")
    picture = shade.Shader.Define(stage, place)
    picture.CreateIdAttr("UsdUVTexture")
    picture.CreateInput("file", sdf.ValueTypeNames.Asset).Set(sdf.AssetPath(file))
    picture.CreateInput("sourceColorSpace", sdf.ValueTypeNames.Token).Set(space)
    for axis in ("wrapS", "wrapT"):
        picture.CreateInput(axis, sdf.ValueTypeNames.Token).Set("clamp")
    picture.CreateInput("st", sdf.ValueTypeNames.Float2).ConnectToSource(
        reader.ConnectableAPI(), "result"
    )
    return picture
