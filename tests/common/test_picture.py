"""Pictures that people bring: every kind of file, cutting out, framing, and what can't be read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from maquette.common.errors import UserError
from maquette.common.picture import cutout as cutting
from maquette.common.picture.cutout import Cutout, cut_out, own_colors, plain_backdrop
from maquette.common.picture.framing import (
    bounds,
    disappointments,
    framed,
    laid,
    overview,
    place_for,
)
from maquette.common.picture.reading import Picture, file_bytes, read_picture

RED = (200, 40, 30)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def scene(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """A red box, off the middle, before white; its left upper corner is at (10, 5)."""
    image = Image.new("RGB", (width, height), "white")
    image.paste(RED, (10, 5, 40, 30))
    return image.convert(mode)


def with_alpha(soft: bool = False) -> Image.Image:
    """The same box; its colour under soft alpha, and outside, is a bright green."""
    values = np.zeros((40, 60, 4), dtype=np.uint8)
    values[...] = (0, 255, 0, 0)
    values[5:30, 10:40] = (*RED, 255)
    if soft:
        values[5:30, 39] = (0, 255, 0, 128)
    return Image.fromarray(values)


def first(image: Image.Image) -> bytes:
    return saved(image, "PNG")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_what_a_file_is_its_content_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ein Bild, ein Пилз 🍄 #1.txt"
    path.write_bytes(saved(scene(), kind, **({"quality": 95} if kind == "JPEG" else {})))
    picture = read_picture(file_bytes(str(path)), path.name)
    assert picture.rgb.shape == (40, 60, 3)
    assert picture.alpha is None
    np.testing.assert_allclose(picture.rgb[15, 25] * 255, RED, atol=6)
    np.testing.assert_allclose(picture.rgb[35, 55], 1.0, atol=0.02)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "YCbCr"])
def test_other_modes_are_read_as_they_look(mode: str) -> None:
    kind = {"CMYK": "TIFF", "YCbCr": "JPEG"}.get(mode, "PNG")
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    picture = read_picture(saved(scene(mode=mode), kind, **options), "picture")
    wanted = np.asarray(scene(mode=mode).convert("RGB"), dtype=np.float32) / 255.0
    np.testing.assert_allclose(picture.rgb, wanted, atol=0.02)


def test_sixteen_bits_keep_their_order() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(20, axis=0)
    found = read_picture(saved(Image.fromarray(ramp), "PNG"), "ramp").rgb
    np.testing.assert_allclose(found[3, :, 1], ramp[3] / 65535.0, atol=1e-5)


def test_alpha_in_any_form_is_alpha() -> None:
    whole = read_picture(first(with_alpha()), "rgba")
    assert whole.alpha is not None
    assert whole.alpha[15, 25] == 1.0
    assert whole.alpha[0, 0] == 0.0
    palette = scene().quantize(8)
    index = palette.getpixel((0, 0))
    keyed = read_picture(saved(palette, "PNG", transparency=index), "palette")
    assert keyed.alpha is not None
    assert keyed.alpha[15, 25] == 1.0
    assert keyed.alpha[0, 0] == 0.0
    grey = with_alpha().convert("LA")
    assert read_picture(first(grey), "la").alpha is not None
    assert read_picture(first(scene(mode="RGBA")), "opaque").alpha is None


def test_exif_turns_the_picture() -> None:
    image = scene()
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = read_picture(saved(image, "JPEG", exif=exif, quality=95), "photo")
    assert picture.rgb.shape == (60, 40, 3)
    # (column 25, row 15) lands at row 25, column 39 - 15.
    np.testing.assert_allclose(picture.rgb[25, 24] * 255, RED, atol=8)
    np.testing.assert_allclose(picture.rgb[25, 2], 1.0, atol=0.05)


def test_large_pictures_are_reduced_without_their_hidden_colours() -> None:
    large = with_alpha().resize((3000, 2000), Image.Resampling.NEAREST)
    picture = read_picture(first(large), "large", longest=300)
    assert picture.rgb.shape == (200, 300, 3)
    assert picture.alpha is not None
    rim = (picture.alpha > 0.05) & (picture.alpha < 0.95)
    assert rim.any()
    assert (picture.rgb[rim][:, 1] < 0.35).all()  # no green from outside


def test_a_profile_is_brought_to_srgb() -> None:
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    broken = read_picture(saved(scene(), "PNG", icc_profile=wide), "odd").rgb
    np.testing.assert_allclose(broken[15, 25] * 255, RED, atol=1)
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = read_picture(saved(scene(), "PNG", icc_profile=same), "srgb").rgb
    np.testing.assert_allclose(found[15, 25] * 255, RED, atol=2)


def test_an_animated_file_gives_its_first_frame_and_says_so() -> None:
    frames = [Image.new("RGB", (40, 40), color) for color in ("blue", "red")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = read_picture(data, "film.gif")
    assert picture.rgb[5, 5, 2] > 0.9
    assert any("first frame" in note for note in picture.notes)


def png_of(width: int, height: int) -> bytes:
    """A PNG's head that claims a size, and next to no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"no picture at all", "not a picture"),
        (b"%PDF-1.7 something", "not a picture"),
        (saved(scene(), "PNG")[:90], "damaged or cut off"),
        (saved(scene(200, 200), "JPEG")[:300], "damaged or cut off"),
        (saved(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixels"),
        (png_of(0, 0), "photo"),
        (png_of(12000, 12000), "more than 100 million"),
        (png_of(60000, 60000), "more than 100 million"),
        (png_of(200, 200), "damaged or cut off"),
        (saved(Image.new("RGBA", (40, 40), (255, 0, 0, 0)), "PNG"), "transparent everywhere"),
    ],
)
def test_what_is_no_picture_is_told_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(UserError) as told:
        read_picture(data, "photo.png")
    assert words in str(told.value)
    assert "photo.png" in str(told.value)
    assert "\n" not in str(told.value)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.png", tmp_path, Path("/dev/null"), tmp_path / ("x" * 3000)):
        with pytest.raises(UserError, match="image: "):
            file_bytes(str(path))
    with pytest.raises(UserError, match="image: "):
        file_bytes("a\0b.png")


def test_own_alpha_is_taken_as_it_is() -> None:
    found = cut_out(read_picture(first(with_alpha(soft=True)), "soft"))
    assert found.how == "its own alpha"
    assert abs(float(found.alpha[15, 39]) - 128 / 255) < 1e-3
    # Under soft alpha lies the box's own red, and not the green that the file has there.
    np.testing.assert_allclose(found.rgb[15, 39] * 255, RED, atol=1)


def test_colours_come_from_the_nearest_solid_part() -> None:
    rgb = np.zeros((20, 40, 3), dtype=np.float32)
    rgb[:, :10], rgb[:, 30:] = (1, 0, 0), (0, 0, 1)
    alpha = np.zeros((20, 40), dtype=np.float32)
    alpha[:, :10], alpha[:, 30:] = 1.0, 1.0
    alpha[:, 10:30] = 0.3
    found = own_colors(rgb, alpha)
    np.testing.assert_allclose(found[10, 12], (1, 0, 0), atol=1e-3)
    np.testing.assert_allclose(found[10, 28], (0, 0, 1), atol=1e-3)
    assert np.array_equal(found[:, :10], rgb[:, :10])


def disc(backdrop: np.ndarray, color: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A soft-edged disc before a backdrop, and its true alpha."""
    side = backdrop.shape[0]
    y, x = np.indices((side, side)) + 0.5
    distance = np.hypot(x - 0.5 * side, y - 0.45 * side)
    alpha = np.clip(0.3 * side - distance + 0.5, 0.0, 1.0).astype(np.float32)
    return (alpha[..., None] * np.array(color) + (1 - alpha[..., None]) * backdrop).astype(
        np.float32
    ), alpha


def test_a_plain_backdrop_is_taken_away() -> None:
    """One that a lamp makes darker to one side, with a little noise: alpha and colours hold."""
    side = 96
    fall = np.linspace(0.95, 0.75, side)[None, :, None].repeat(side, 0).repeat(3, 2)
    image, alpha = disc(fall, (0.2, 0.4, 0.8))
    image = image + np.random.default_rng(0).normal(0, 0.004, image.shape)
    picture = Picture(image.clip(0, 1).astype(np.float32), None)
    backdrop = plain_backdrop(picture.rgb)
    assert backdrop is not None
    assert np.abs(backdrop - fall).max() < 0.02
    found = cut_out(picture)
    assert found.how == "a plain backdrop taken away"
    assert np.abs(found.alpha - alpha).mean() < 0.01
    rim = (alpha > 0.2) & (alpha < 0.8)
    np.testing.assert_allclose(found.rgb[rim].mean(axis=0), (0.2, 0.4, 0.8), atol=0.03)


def test_a_busy_backdrop_needs_more_than_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    assert plain_backdrop(busy) is None
    monkeypatch.setattr(cutting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no transparency.*maquette\[image\]"):
        cut_out(Picture(busy, None), "busy.png")


def test_rembg_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    asked: list[Any] = []

    def new_session(name: str) -> str:
        asked.append(name)
        return "session"

    def remove(pixels: np.ndarray, session: str, only_mask: bool) -> np.ndarray:
        assert session == "session"
        assert only_mask
        mask = np.zeros(pixels.shape[:2], dtype=np.uint8)
        mask[20:40, 10:50] = 255
        return mask

    def offline(name: str) -> None:
        raise ConnectionError("no way out")

    module = types.ModuleType("rembg")
    module.__dict__.update(new_session=new_session, remove=remove)
    monkeypatch.setitem(sys.modules, "rembg", module)
    monkeypatch.setattr(cutting.importlib.util, "find_spec", lambda name: object())
    busy = Picture(np.random.default_rng(0).random((64, 64, 3)).astype(np.float32), None)
    found = cut_out(busy)
    assert (found.how, asked) == ("rembg", ["u2net"])
    assert bounds(found.alpha) == (10, 20, 50, 40)
    module.__dict__["new_session"] = offline
    with pytest.raises(UserError, match="no way out"):
        cut_out(busy)


def test_an_empty_picture_holds_no_object() -> None:
    with pytest.raises(UserError, match="no object was found"):
        cut_out(Picture(np.ones((64, 64, 3), dtype=np.float32), None))
    speck = np.zeros((64, 64), dtype=np.float32)
    speck[3, 3] = 1.0
    with pytest.raises(UserError, match="no object was found"):
        cut_out(Picture(np.ones((64, 64, 3), dtype=np.float32), speck))


def box(height: int, width: int, at: tuple[int, int, int, int]) -> Cutout:
    top, bottom, left, right = at
    alpha = np.zeros((height, width), dtype=np.float32)
    alpha[top:bottom, left:right] = 1.0
    rgb = np.zeros((height, width, 3), dtype=np.float32)
    rgb[top:bottom, left:right] = (0.8, 0.2, 0.1)
    return Cutout(rgb, alpha, "hand")


def test_an_object_is_centred_and_fills_its_share() -> None:
    """A box of 40 x 20 at the picture's corner, in a frame of 100: 78 x 39, in the middle."""
    found = framed(box(50, 90, (5, 25, 45, 85)), place_for(box(50, 90, (5, 25, 45, 85)).alpha,
                                                            0.78, 100))  # fmt: skip
    left, top, right, bottom = bounds(found[..., 3])
    assert (right - left, bottom - top) == (78, 39)
    assert abs(left + right - 100) <= 1
    assert abs(top + bottom - 100) <= 1
    assert np.allclose(found[50, 50], (0.8, 0.2, 0.1, 1.0), atol=1e-5)
    soft = (found[..., 3] > 0.05) & (found[..., 3] < 0.95)
    assert np.abs(found[soft][:, :3] - (0.8, 0.2, 0.1)).max() < 1e-3  # resized premultiplied


def test_a_frame_that_is_kept_is_padded_to_a_square() -> None:
    cutout = box(50, 100, (10, 20, 30, 40))
    found = framed(cutout, place_for(cutout.alpha, 0.0, 100))
    assert bounds(found[..., 3]) == (30, 35, 40, 45)  # 25 rows above and below
    large = laid(cutout.alpha, place_for(cutout.alpha, 0.0, 200))
    assert bounds(large) == (60, 70, 80, 90)


def test_what_will_disappoint_is_named() -> None:
    whole = box(400, 400, (100, 300, 100, 300))
    assert disappointments(whole, "a.png") == []
    cut = disappointments(box(400, 400, (0, 300, 200, 400)), "a.png")
    assert len(cut) == 1
    assert "top and right edge" in cut[0]
    assert "almost nothing" in disappointments(box(400, 400, (10, 40, 10, 40)), "a.png")[0]
    assert "50 pixels" in disappointments(box(64, 64, (5, 55, 5, 55)), "a.png")[0]


def test_the_overview_shows_picture_mask_and_frame() -> None:
    cutout = box(50, 100, (10, 30, 30, 60))
    place = place_for(cutout.alpha, 0.5, 64)
    shown = overview(cutout.rgb, cutout, place, framed(cutout, place))
    assert shown.shape == (64, 192, 3)
    assert shown[32 - 4, 64 + 30].tolist() == [255, 255, 255]  # the object in the mask
    assert (shown[32, 128:] == (255, 0, 0)).all()  # the middle of the frame
