"""Run by Blender, or by a Python that has `bpy`: pictures of a file, its texture alone, unlit.

    blender -b --factory-startup -P blender_look.py -- FILE SIZE OUT CAMERA...

Each CAMERA is `x,y,z,fovy`: a place in Blender's axes and a field of view in radians; it looks at
the origin. OUT0.png, OUT1.png, ... are written, what lies behind is transparent.
"""

import contextlib
import sys

import bpy
from mathutils import Vector

with contextlib.suppress(ImportError):  # then there is no glTF importer either
    import numpy

    if not hasattr(numpy, "bool"):  # Debian's Blender 3.4 is older than the numpy beside it
        numpy.bool = bool

IMPORTERS = {
    "obj": lambda path: bpy.ops.wm.obj_import(filepath=path),
    "glb": lambda path: bpy.ops.import_scene.gltf(filepath=path),
}


def unlit(material) -> None:
    """Show a material's picture as it is, whatever the light."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    (picture,) = [n for n in nodes if n.type == "TEX_IMAGE" and n.image.size[0] > 1]
    (output,) = [n for n in nodes if n.type == "OUTPUT_MATERIAL"]
    emission = nodes.new("ShaderNodeEmission")
    links.new(picture.outputs["Color"], emission.inputs["Color"])
    links.new(emission.outputs["Emission"], output.inputs["Surface"])


def look(scene, size: int) -> None:
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples = "CPU", 16
    scene.cycles.use_denoising = False
    scene.cycles.filter_width = 1.0
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.view_settings.view_transform = "Standard"


def main(path: str, size: str, out: str, *cameras: str) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    IMPORTERS[path.rsplit(".", 1)[1]](path)
    scene = bpy.context.scene
    for material in bpy.data.materials:
        if material.use_nodes and any(n.type == "TEX_IMAGE" for n in material.node_tree.nodes):
            unlit(material)
    look(scene, int(size))
    for index, camera in enumerate(cameras):
        x, y, z, fovy = map(float, camera.split(","))
        lens = bpy.data.cameras.new("look")
        lens.sensor_fit, lens.angle_y = "VERTICAL", fovy
        eye = bpy.data.objects.new("look", lens)
        eye.location = (x, y, z)
        eye.rotation_euler = Vector((-x, -y, -z)).to_track_quat("-Z", "Y").to_euler()
        scene.collection.objects.link(eye)
        scene.camera = eye
        scene.render.filepath = f"{out}{index}.png"
        bpy.ops.render.render(write_still=True)
    print("BLENDER", bpy.app.version_string)


main(*sys.argv[sys.argv.index("--") + 1 :])
