"""The dataset of pictograms: packages of emoji sets -> images by leaf, taxonomy, split by set, credits, a sheet.

Which leaves there are and which drawings show them is in `leaves.csv`; what they are kinds of, in `hypernyms.csv`;
where each set comes from, which part of the split it is in, and what it must give, in `sets.csv`.
"""

import csv
import io
import json
import re
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from cachegen.common.errors import CrosstaxError, DatasetError, is_fault, listing
from cachegen.common.files import digest_bytes, new_folder, require_new
from cachegen.common.progress import progress_bar
from cachegen.data.building import COLUMNS, depths_of, write_table
from cachegen.data.dataset import Dataset, load_dataset

HERE = Path(__file__).parent
SIDE, MARGIN = 224, 8  # pixels
THUMBNAIL, LABEL, SHOWN = 48, 150, 24  # pixels of a thumbnail and of a name; pictures of a leaf on the sheet
FEWEST = 5  # designs of a leaf, so that one can test and three train
LARGEST = 2**28  # bytes of a file of a package; the largest icons.json has 99 million
NPM = "npm pack"
GET = "`crosstax data pictograms` without --packages says how to get them"


def read_table(name: str) -> list[dict[str, str]]:
    """Rows of one of the CSV files beside this module."""
    with (HERE / name).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def how_to_get_packages() -> str:
    """The command line that fetches all packages, 43 MB, in the versions whose images were looked through."""
    names = " ".join(f"{row['package']}@{row['version']}" for row in read_table("sets.csv"))
    return f"mkdir -p packages && cd packages && {NPM} {names}"


@dataclass(frozen=True)
class Pictogram:
    """One image: its key inside images/, and where it is from."""

    key: str
    leaf: str
    set: str
    png: bytes  # RGB, SIDE x SIDE


def build_pictograms(packages: Path, out: Path, *, partial: bool = False) -> tuple[Dataset, dict[str, Any]]:
    """Make the dataset folder `out` from the .tgz files in `packages`, as `npm pack` leaves them.

    The split goes by set: renderings of one drawing (three of Fluent) are in the same part, and test images are of
    sets that training has not seen. partial: build from the sets that are there, in whatever version; leaves with
    fewer than five designs go, and hypernyms with fewer than two leaves.
    Returns the dataset, and a summary: counts, and how sets differ from what is recorded.
    Raises `DatasetError` if packages are missing or give other images, `CrosstaxError` without the rasteriser.
    """
    require_new(out)
    render = _renderer()
    sets = read_table("sets.csv")
    found = _find(packages, {row["package"] for row in sets})
    differences = [f"no {row['package']} (version {row['version']})" for row in sets if row["package"] not in found]
    if (differences and not partial) or not found:
        raise DatasetError(listing(f"{packages}: packages are missing; {GET}:",
                                   differences))  # fmt: skip
    sets = [row for row in sets if row["package"] in found]
    drawn, credits = [], []
    with progress_bar("sets", len(sets), "set") as advance:
        for row in sets:
            package = _read(found[row["package"]])
            pictures = list(_draw(row["set"], package, render))
            differences += _compare(row, package["package.json"], pictures)
            credits.append(_credit(row, package))
            drawn += pictures
            advance(1)
    if differences and not partial:
        what = f"the images are not those recorded; fetch these packages anew, or give --partial; {GET}"
        raise DatasetError(listing(f"{packages}: {what}:", differences))
    split = {row["set"]: row["split"] for row in sets}
    with new_folder(out) as folder:
        kept = _write(folder, drawn, split)
        (folder / "CREDITS.md").write_text(_credits(credits), encoding="utf-8")
        contact_sheet(folder / "images", kept).save(folder / "contact_sheet.png", optimize=True)
    dataset = load_dataset(out)
    counts = {row["set"]: sum(picture.set == row["set"] for picture in drawn) for row in sets}
    return dataset, {"dataset": str(out), "digest": dataset.digest, "pictures": counts, "differences": differences}


def _renderer() -> Any:
    """A function SVG text -> image."""
    try:
        import resvg_py
    except ImportError:
        raise CrosstaxError("pictograms are drawn with resvg-py; pip install 'crosstax[pictograms]'") from None
    return lambda svg: Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256))))


def _find(packages: Path, names: set[str]) -> dict[str, Path]:
    """Package -> its .tgz; of several versions the one that sorts last."""
    if not packages.is_dir():
        raise DatasetError(f"{packages} is no folder of packages; {GET}")
    files = sorted(packages.glob("*.tgz"))
    stems = {name: name.removeprefix("@").replace("/", "-") for name in names}
    return {
        name: path for name, stem in stems.items() for path in files if re.fullmatch(rf"{stem}-\d[\w.-]*", path.stem)
    }


def _read(path: Path) -> dict[str, Any]:
    """The files of a package by their names: JSON is parsed, WebP is left as bytes. Nothing is unpacked to disk."""
    wanted = {"package/package.json", "package/info.json", "package/icons.json", "package/chars.json"}
    content: dict[str, Any] = {"info.json": {}, "chars.json": {}}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                picture = member.name.startswith("package/assets/") and member.name.endswith(".webp")
                file = archive.extractfile(member) if member.name in wanted or picture else None
                if file is None:
                    continue
                if member.size > LARGEST:
                    raise ValueError(f"{member.name} has more than {LARGEST:,} bytes")
                raw = file.read()
                content[Path(member.name).name] = raw if picture else json.loads(raw)
        if not isinstance(content["package.json"]["version"], str):
            raise ValueError("package.json has no version")
    except (OSError, ValueError, KeyError, TypeError, EOFError, tarfile.TarError, RecursionError) as error:
        raise DatasetError(f"{path} is no package as npm packs it ({error}); fetch it anew with `{NPM}`") from None
    return content


def _draw(name: str, package: dict[str, Any], render: Any) -> list[Pictogram]:
    """The images of a set, each leaf's identical ones once; a drawing that cannot be rendered is an error."""
    try:
        drawings = _svg(package) if "icons.json" in package else _webp(package)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DatasetError(f"icons.json of {name} is not as Iconify writes it; fetch it anew with `{NPM}`") from None
    pictures = []
    for row in read_table("leaves.csv"):
        seen: set[bytes] = set()
        for drawing in row["drawings"].split():
            for variant in (drawing, f"{drawing}-1", f"{drawing}-2"):  # Streamline has several of some
                source = drawings.get(variant)
                if source is None or f"{name}/{variant}" in row["left_out"].split():
                    continue
                try:
                    image = _square(render(source) if isinstance(source, str) else Image.open(io.BytesIO(source)))
                except BaseException as error:
                    if not is_fault(error):
                        raise
                    raise DatasetError(
                        f"drawing {variant!r} of {name} cannot be rendered ({error}); fetch it anew with `{NPM}`"
                    ) from None
                if (png := _png(image)) not in seen:
                    seen.add(png)
                    pictures.append(Pictogram(f"{row['leaf']}/{name}__{variant}.png", row["leaf"], name, png))
    return pictures


def _svg(package: dict[str, Any]) -> dict[str, str]:
    """Name -> SVG text, of an Iconify set: bodies of icons, and other names of them."""
    table = package["icons.json"]
    side = {key: table.get(key, 16) for key in ("width", "height")}
    names = {name: {"left": 0, "top": 0} | side | icon for name, icon in table["icons"].items()}
    for alias, icon in table.get("aliases", {}).items():
        if icon["parent"] in names and not {"rotate", "hFlip", "vFlip"} & set(icon):
            names[alias] = names[icon["parent"]]
    return {
        name: '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'.format(**icon)
        for name, icon in names.items()
    }


def _webp(package: dict[str, Any]) -> dict[str, bytes]:
    """Name -> WebP file, where files carry code points (1f404.webp) and `codes.csv` says which name has which."""
    codes = {row["drawing"]: row["code"] for row in read_table("codes.csv")}
    files = {
        drawing: package.get(f"{code}.webp") or package.get(f"{code}-fe0f.webp") for drawing, code in codes.items()
    }
    return {drawing: file for drawing, file in files.items() if file}


def _square(image: Image.Image) -> Image.Image:
    """On white, as large as fits into a square with a margin."""
    image = image.convert("RGBA")
    scale = (SIDE - 2 * MARGIN) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(image, ((SIDE - width) // 2, (SIDE - height) // 2), image)
    return square


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def digest_of_keys(pictures: list[Pictogram]) -> str:
    """What `sets.csv` records of a set's images: a hash of their keys, since rasterisers differ in last bits."""
    return digest_bytes("\n".join(sorted(picture.key for picture in pictures)).encode())[:16]


def _compare(row: dict[str, str], package: dict[str, Any], pictures: list[Pictogram]) -> list[str]:
    if digest_of_keys(pictures) == row["keys"]:
        return []
    return [
        f"{row['set']}: {len(pictures):,} images of version {package['version']}, not the {row['pictures']} of "
        f"{row['version']}"
    ]


def _write(folder: Path, drawn: list[Pictogram], split: dict[str, str]) -> dict[str, list[str]]:
    """Images, `taxonomy.csv` and `split.csv` of leaves with enough designs; returns leaf -> keys, in order."""
    designs = {row["set"]: row["design"] for row in read_table("sets.csv")}
    keys, kinds = defaultdict(list), defaultdict(set)
    for picture in drawn:
        keys[picture.leaf].append(picture.key)
        kinds[picture.leaf].add(designs[picture.set])
    rows = [row for row in read_table("leaves.csv") if len(kinds[row["leaf"]]) >= FEWEST]
    hypernyms = {row["hypernym"]: row for row in read_table("hypernyms.csv")}
    members: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        above = row["hypernym"]
        while above:
            members[above].add(row["leaf"])
            above = hypernyms[above]["above"]
    members = {name: leaves for name, leaves in members.items() if len(leaves) > 1}
    depths = depths_of(members)
    pairs = [
        (row["leaf"], row["phrase"], row["number"], name, hypernyms[name]["phrase"], hypernyms[name]["number"], depth)
        for row in rows
        for name, depth in depths.items()
        if row["leaf"] in members[name]
    ]
    leaves = list(dict.fromkeys(pair[0] for pair in pairs))
    if not leaves:
        raise DatasetError(f"no leaf has {FEWEST} designs in these sets; get more of them")
    kept = [picture for picture in drawn if picture.leaf in set(leaves)]
    for leaf in leaves:
        (folder / "images" / leaf).mkdir(parents=True)
    for picture in kept:
        (folder / "images" / picture.key).write_bytes(picture.png)
    write_table(folder / "split.csv", ("key", "split"), sorted((picture.key, split[picture.set]) for picture in kept))
    write_table(folder / "taxonomy.csv", COLUMNS, pairs)
    return {leaf: keys[leaf] for leaf in leaves}


def _credit(row: dict[str, str], package: dict[str, Any]) -> str:
    """A row of the table of credits, from what the package says of itself."""
    info, about = package["info.json"], package["package.json"]
    author, licence = info.get("author", {}), info.get("license", {})
    cells = (
        row["set"],
        info.get("name") or about.get("name"),
        author.get("name") or about.get("author"),
        author.get("url") or (about.get("repository") or {}).get("url"),
        licence.get("spdx") or about.get("license"),
        licence.get("url"),
        f"{row['package']} {about['version']}",
        row["remark"],
    )
    return " | ".join(["", *(str(cell or "").replace("|", "/") for cell in cells), ""]).strip()


def _credits(lines: list[str]) -> str:
    return "\n".join([
        "# Credits and licences of the images",
        "",
        "The name of an image begins with its set. Images were rendered at 224 x 224 pixels on white, and are "
        "otherwise as drawn. What the packages say of themselves:",
        "",
        "| set | name | by | from | licence | text | package | remark |",
        "|---|---|---|---|---|---|---|---|",
        *lines,
        "",
        "CC-BY asks for credit, also in figures. CC-BY-SA asks that changed images are passed on under the same "
        "licence. A dataset of all sets, passed on, is bound by all of these licences.",
        "",
    ])  # fmt: skip


def contact_sheet(images: Path, keys: dict[str, list[str]]) -> Image.Image:
    """A sheet of up to 24 pictures of every leaf, to be looked through for wrong drawings.

    `keys`: leaf -> keys below `images`.
    """
    rows = -(-len(keys) // 2)
    column = LABEL + SHOWN * THUMBNAIL
    sheet = Image.new("RGB", (2 * column, rows * THUMBNAIL), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (leaf, names) in enumerate(keys.items()):
        left, top = i // rows * column, i % rows * THUMBNAIL
        draw.text((left + LABEL - 8, top + THUMBNAIL / 2), leaf.replace("_", " "), fill="black", font=font, anchor="rm")
        for j, name in enumerate(names[:SHOWN]):
            with Image.open(images / name) as picture:
                thumbnail = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
            sheet.paste(thumbnail, (left + LABEL + j * THUMBNAIL, top))
    return sheet.quantize(256, dither=Image.Dither.NONE)
