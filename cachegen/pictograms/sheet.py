"""A contact sheet of pictograms: one row per leaf, in two columns, to be looked through for wrong drawings."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, LABEL, SHOWN = 48, 150, 24  # pixels of a thumbnail and of a name; pictures of a leaf


def contact_sheet(images: Path, keys: dict[str, list[str]]) -> Image.Image:
    """A sheet of up to 24 pictures of every leaf; `keys` is leaf -> keys under the folder `images`."""
    rows = -(-len(keys) // 2)
    column = LABEL + SHOWN * SIDE
    sheet = Image.new("RGB", (2 * column, rows * SIDE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (leaf, names) in enumerate(keys.items()):
        left, top = i // rows * column, i % rows * SIDE
        draw.text((left + LABEL - 8, top + SIDE / 2), leaf.replace("_", " "), fill="black", font=font, anchor="rm")
        for j, name in enumerate(names[:SHOWN]):
            with Image.open(images / name) as picture:
                thumbnail = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
            sheet.paste(thumbnail, (left + LABEL + j * SIDE, top))
    return sheet.quantize(256, dither=Image.Dither.NONE)
