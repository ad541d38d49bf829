"""A contact sheet of a world: one row per family, a few drawings of each leaf, names below."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cachegen.microworld.lexicon import Lexicon

SCALE = 2
GAP = 10
LABEL = 22
MARGIN = 108
PAPER = (250, 248, 243)
TEXT = (58, 52, 64)


def contact_sheet(lexicon: Lexicon, images: Path, side: int) -> Image.Image:
    """Return a sheet of the first four pictures of every leaf under the folder `images`, each `side` pixels.

    It has 256 colours: noise in full colour would make the file four times as large.
    """
    rows = {family: [leaf for leaf in lexicon.leaves if leaf.family == family] for family in lexicon.families}
    cell = 2 * side * SCALE
    columns = max(len(leaves) for leaves in rows.values())
    sheet = Image.new("RGB", (MARGIN + columns * (cell + GAP), GAP + len(rows) * (cell + LABEL + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(19), ImageFont.load_default(15)
    for row, (family, leaves) in enumerate(rows.items()):
        top = GAP + row * (cell + LABEL + GAP)
        draw.text((MARGIN - 14, top + cell / 2), family, fill=TEXT, font=font, anchor="rm")
        for column, leaf in enumerate(leaves):
            left = MARGIN + column * (cell + GAP)
            for i, path in enumerate(sorted((images / leaf.name).glob("*.png"))[:4]):
                with Image.open(path) as image:
                    big = image.resize((side * SCALE, side * SCALE), Image.Resampling.LANCZOS)
                sheet.paste(big, (left + i % 2 * side * SCALE, top + i // 2 * side * SCALE))
            draw.text((left + cell / 2, top + cell + 3), leaf.phrase, fill=TEXT, font=small, anchor="ma")
    return sheet.quantize(256, dither=Image.Dither.NONE)
