"""Run by Blender for `export.py`: lay out a mesh, bake colours of its vertices, write an OBJ.

    blender -b --factory-startup -P export_blender.py -- IN.ply TEXELS

Writes ball.obj, ball.mtl and ball.png where it stands, and prints the memory that it took at most.
"""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

bpy: Any = importlib.import_module("bpy")  # there is one in Blender alone


def material(size: int, colors: str):
    """Shows the colours of vertices as they are; and the picture that they are baked into."""
    made = bpy.data.materials.new("ball")
    made.use_nodes = True
    nodes, links = made.node_tree.nodes, made.node_tree.links
    nodes.clear()
    color, glow = nodes.new("ShaderNodeVertexColor"), nodes.new("ShaderNodeEmission")
    color.layer_name = colors
    links.new(color.outputs["Color"], glow.inputs["Color"])
    out = nodes.new("ShaderNodeOutputMaterial")
    links.new(glow.outputs["Emission"], out.inputs["Surface"])
    picture = nodes.new("ShaderNodeTexImage")
    picture.image = bpy.data.images.new("ball", size, size)
    nodes.active = picture
    return made, picture


def main(path: str, size: str) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_mesh.ply(filepath=path)
    (ball,) = bpy.context.scene.objects
    bpy.context.view_layer.objects.active = ball
    ball.select_set(True)
    made, picture = material(int(size), ball.data.color_attributes[0].name)
    ball.data.materials.append(made)
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_all(action="SELECT")
    bpy.ops.uv.smart_project(angle_limit=math.radians(66.0), island_margin=0.002)
    bpy.ops.object.mode_set(mode="OBJECT")
    scene = bpy.context.scene
    scene.render.engine, scene.cycles.device, scene.cycles.samples = "CYCLES", "CPU", 1
    scene.cycles.use_denoising = False  # without its denoiser Blender would bake black
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    bpy.ops.object.bake(type="EMIT", margin=8)
    picture.image.filepath_raw, picture.image.file_format = str(Path("ball.png").resolve()), "PNG"
    picture.image.save()
    nodes, links = made.node_tree.nodes, made.node_tree.links
    body = nodes.new("ShaderNodeBsdfPrincipled")
    links.new(picture.outputs["Color"], body.inputs["Base Color"])
    out = next(node for node in nodes if node.type == "OUTPUT_MATERIAL")
    links.new(body.outputs["BSDF"], out.inputs["Surface"])
    target = str(Path("ball.obj").resolve())
    bpy.ops.wm.obj_export(filepath=target, forward_axis="Y", up_axis="Z", path_mode="STRIP")
    most = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    print("BAKED", most.split()[1])


main(*sys.argv[sys.argv.index("--") + 1 :])
