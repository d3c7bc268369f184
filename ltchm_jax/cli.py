"""The `ltchm` command: arguments in, one line of error out. Heavy imports wait until a command needs them."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltchm_jax.command import Parser, outcome, share_accelerators
from ltchm_jax.signals import interrupts

if TYPE_CHECKING:
    from ltchm_jax.codec import Codec
    from ltchm_jax.imagery.images import AnyImage

SUFFIX = ".ltc"
CACHE_BYTES = 1 << 29  # of compiled functions
MAX_BPP = 1 << 20  # more than the most bands have


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failed check, or one of `outcome`."""
    share_accelerators()
    options = parser().parse_args(arguments)

    def work() -> int | None:
        with interrupts():
            return options.run(options)

    return outcome("ltchm", work, ", take a smaller --block-size" if hasattr(options, "block_size") else "")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(prog="ltchm", description="Compress remote-sensing images with LTCHM.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    compress = commands.add_parser("compress", help="picture files to streams")
    compress.add_argument("input", nargs="+", help="PNG, JPEG, TIFF, WebP or BMP; - for standard input")
    compress.add_argument("output", help="a stream; a folder for several inputs; - for standard output")
    rate = compress.add_mutually_exclusive_group()
    rate.add_argument(
        "--quality",
        type=float,
        help="0 (fewest bytes) to the model's highest, 5 for the one that ships; default: the middle",
    )
    rate.add_argument("--max-bytes", type=int, metavar="N", help="the best quality within N bytes a picture")
    rate.add_argument(
        "--target-bpp",
        type=_bits,
        metavar="B",
        help="the best quality within B bits a pixel, all bytes counted",
    )
    compress.add_argument(
        "--metadata", action="store_true", help="keep ICC profile, EXIF, text and TIFF tags"
    )
    compress.add_argument(
        "--block-size",
        type=int,
        metavar="B",
        help="largest side of a block that decodes on its own, 16 to 4096; default 1024",
    )
    compress.add_argument(
        "--effort",
        type=int,
        default=0,
        metavar="N",
        help="passes that refine what is sent: smaller files, slower; 0 to 1000, default 0",
    )
    _add_max_pixels(compress)
    _add_model(compress)
    compress.set_defaults(run=run_compress)

    decompress = commands.add_parser("decompress", help="streams to picture files")
    decompress.add_argument("input", nargs="+", help="a stream; - for standard input")
    decompress.add_argument(
        "output", help="a .png or .tif file; a folder (.tif for bands and TIFF tags); - for PNG on output"
    )
    decompress.add_argument("--window", type=_window, metavar="X,Y,W,H", help="decode this part only")
    decompress.add_argument(
        "--exact", action="store_true", help="the same pixels on every machine: slower, more memory"
    )
    _add_max_pixels(decompress)
    _add_model(decompress)
    decompress.set_defaults(run=run_decompress)

    fingerprint = commands.add_parser(
        "fingerprint", help="digests of all integers behind a stream; exit 1 if this device can't decode"
    )
    fingerprint.add_argument("input", help="a picture; its top left 256 x 256 pixels are coded")
    fingerprint.add_argument("--quality", type=float, help="as for compress")
    _add_max_pixels(fingerprint)
    _add_model(fingerprint)
    fingerprint.set_defaults(run=run_fingerprint)

    _add_reference_commands(commands)
    info = commands.add_parser("info", help="what a stream holds")
    info.add_argument("input", help="a stream; - for standard input")
    info.set_defaults(run=run_info)
    return top


def _add_reference_commands(commands: "argparse._SubParsersAction") -> None:
    """What compares with the authors' code and the paper's tables."""
    imports = commands.add_parser("import-torch", help="weights of the released PyTorch code to a model file")
    imports.add_argument("input", help=".pt, .pth, .pth.tar, .npz or .safetensors, the reference's names")
    imports.add_argument("output", help="the model file, .safetensors")
    imports.set_defaults(run=run_import)

    exports = commands.add_parser(
        "export-torch", help="a model of preset 'released' to PyTorch names and layouts"
    )
    exports.add_argument("model", help="a model file")
    exports.add_argument("output", help=".pt, .pth, .pth.tar, .npz or .safetensors")
    exports.set_defaults(run=run_export)

    verify = commands.add_parser(
        "verify", help="compare with tensors of the authors' code; exit 1 if any is off"
    )
    verify.add_argument("golden", help="one forward pass, .npz")
    verify.add_argument("train", nargs="?", help="one training step of the same weights, .npz")
    verify.set_defaults(run=run_verify)

    complexity = commands.add_parser("complexity", help="multiply-adds and parameters, true and as published")
    complexity.add_argument(
        "--preset", choices=("paper", "released"), help="one model; default: the paper's tables"
    )
    complexity.add_argument("--width", type=int, help="C, or N; default: the preset's")
    complexity.add_argument("--attention", help="none, dam, sam, wam or swatten")
    complexity.add_argument("--hyper-attention", help="none, hpham or hpham_without_gca")
    complexity.add_argument("--size", type=_size, metavar="HxW", help="image; default 256x256")
    complexity.set_defaults(run=run_complexity)


def _size(text: str) -> tuple[int, int]:
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"a size is HxW in pixels, got {text!r}")
    return int(parts[0]), int(parts[1])


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a whole number above 0 is needed, got {text!r}")
    return int(text)


def _bits(text: str) -> float:
    try:
        bits = float(text)
    except ValueError:
        bits = 0.0
    if not 0 < bits <= MAX_BPP:
        raise argparse.ArgumentTypeError(f"bits a pixel are above 0, at most {MAX_BPP}, got {text!r}")
    return bits


def _add_max_pixels(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-pixels", type=_count, metavar="N", help="refuse larger pictures; default 536870912"
    )


def _pixel_limit(options: argparse.Namespace) -> int:
    from ltchm_jax.bitstream import MAX_PIXELS

    return MAX_PIXELS if options.max_pixels is None else options.max_pixels


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", help="a model file, or the name of one that ships; default: the one that ships"
    )


def _window(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"a window is X,Y,W,H in pixels, got {text!r}")
    left, top, width, height = map(int, parts)
    return top, left, height, width


def check_inputs(names: Sequence[str]) -> None:
    """Raises ValueError if one of these is a folder: commands read files."""
    for name in names:
        if Path(name).is_dir():
            raise ValueError(f"Inputs are files, got the folder {name!r}: name files in it.")


def targets(inputs: list[str], output: str, suffix: str) -> list[tuple[str, str]]:
    """Pairs of input and output; several inputs, or one and a folder, keep their names in that folder.

    Raises:
      ValueError: several inputs and no folder, two of one name, an empty name, a folder to read, or an output
        that is its own input.
    """
    if "" in (*inputs, output):
        raise ValueError("A file needs a name, got an empty one: is a variable of the shell not set?")
    check_inputs(inputs)
    if Path(output).is_dir():
        names = [Path(name).stem + suffix for name in inputs]
        if len(set(names)) < len(names):
            raise ValueError("Inputs that go to one folder need names that differ without their endings.")
        pairs = [(name, str(Path(output) / target)) for name, target in zip(inputs, names, strict=True)]
    elif len(inputs) > 1 or output.endswith(os.sep):
        raise ValueError(f"This needs an existing folder to go to, got {output!r}: make it first.")
    else:
        pairs = [(inputs[0], output)]
    for source, target in pairs:
        if Path(target).is_file() and Path(source).exists() and os.path.samefile(source, target):
            raise ValueError(
                f"An output takes no input's place, got {target!r} for both: give it a new name."
            )
    return pairs


def open_codec(name: str | None, **options: Any) -> "Codec":
    """The codec of a model file, or of a name that ships; compiled functions are kept for the next run."""
    from ltchm_jax.weights import find_model

    find_model(name)  # before what takes seconds
    keep_compiled_functions()
    from ltchm_jax.codec import Codec
    from ltchm_jax.devices import check_platforms

    check_platforms()
    return Codec.load(name, **options)


def keep_compiled_functions() -> None:
    """Makes JAX keep what takes long to compile in the user's cache folder, if any, within a limit.

    A folder that JAX was given (JAX_COMPILATION_CACHE_DIR) is used instead, as it is.
    """
    import warnings

    # Two commands that write the same entry at once: one of them warns, nothing is lost.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache")
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    import jax

    try:
        given = os.environ.get("XDG_CACHE_HOME", "")
        folder = Path(given if os.path.isabs(given) else Path.home() / ".cache") / "ltchm-jax"
        drop_unfinished(folder)
    except (OSError, RuntimeError):  # a user without a home, or a folder that is not theirs
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def drop_unfinished(folder: Path) -> None:
    """Removes entries of JAX's cache whose time of use was not written: a process was killed in between.

    One such entry, and JAX writes no other any more; nor would it replace this one, which may be cut off.
    """
    for entry in folder.glob("*-cache"):
        if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
            entry.unlink(missing_ok=True)


def _progress(blocks: Iterable, total: int) -> Iterable:
    from tqdm import tqdm

    return tqdm(blocks, total=total, unit="block", disable=total == 1 or not sys.stderr.isatty(), leave=False)


def run_compress(options: argparse.Namespace) -> None:
    """`ltchm compress`."""
    from ltchm_jax.files import atomic_write, check_folder
    from ltchm_jax.imagery.images import SUFFIXES, open_image

    pairs = targets(options.input, options.output, SUFFIX)
    if Path(options.output).suffix.lower() in SUFFIXES and not Path(options.output).is_dir():
        raise ValueError(
            f"A stream ends in {SUFFIX}, not as a picture, got {options.output!r}: change the ending."
        )
    chosen = {"effort": options.effort}
    if options.block_size is not None:
        chosen["block_size"] = options.block_size
    codec = None
    for source, target in pairs:
        check_folder(target)
        with open_image(source, max_pixels=_pixel_limit(options)) as image:
            codec = codec or open_codec(options.model, **chosen)
            data = _coded(codec, image, options)
        with atomic_write(target) as file:
            file.write(data)
        height, width, bands = image.pixels.shape
        size, rate = f"{width} x {height} x {bands} ({image.layout.label})", 8 * len(data) / (width * height)
        kept = () if options.metadata else _kinds(image.metadata)
        hint = f"; --metadata keeps its {', '.join(kept)}" if kept else ""
        print(f"{source}: {size}, {len(data)} bytes, {rate:.3f} bpp{hint}", file=sys.stderr)


def _coded(codec: "Codec", image: "AnyImage", options: argparse.Namespace) -> bytes:
    """The stream of a picture, at the quality or within the bytes that are asked for."""
    how: dict = {"metadata": options.metadata, "progress": _progress}
    height, width, _ = image.pixels.shape
    budget = options.max_bytes if options.target_bpp is None else options.target_bpp * width * height / 8
    if budget is None:
        return codec.compress_image(image, options.quality, **how)
    try:
        return codec.compress_within(image, int(budget), **how)
    except ValueError as error:
        if options.target_bpp is None:
            raise
        raise ValueError(
            f"--target-bpp {options.target_bpp:g} is {int(budget)} bytes here: {error}"
        ) from None


def run_decompress(options: argparse.Namespace) -> None:
    """`ltchm decompress`."""
    from ltchm_jax.bitstream import read
    from ltchm_jax.container.grid import Rect
    from ltchm_jax.files import open_input
    from ltchm_jax.imagery.images import check_writable, ending_for, write_image

    limit, codec = _pixel_limit(options), None
    to_folder = Path(options.output).is_dir()
    for source, name in targets(options.input, options.output, ""):
        with open_input(source) as file:
            container = read(file, max_pixels=limit)
            layout, stored = container.header.layout, container.metadata  # refused before the model is loaded
            target = name + ending_for(layout, stored) if to_folder else name
            suffix = ".png" if target == "-" else None
            check_writable(target, layout, suffix)
            file.seek(0)
            codec = codec or open_codec(options.model, exact=options.exact)
            window = options.window and Rect(*options.window)
            image = codec.decompress_rows(file, window, max_pixels=limit, progress=_progress)
            lost = write_image(target, image, suffix=suffix)
        if len(image.metadata.tiff) < len(stored.tiff):
            lost += ("malformed TIFF tags",)
        if lost:
            print(f"{target}: this kind of file can't keep {', '.join(lost)}", file=sys.stderr)


def run_fingerprint(options: argparse.Namespace) -> int:
    """`ltchm fingerprint`."""
    from ltchm_jax.imagery.images import open_image

    check_inputs([options.input])
    with open_image(options.input, max_pixels=_pixel_limit(options)) as image:
        codec = open_codec(options.model)
        colour = image.pixels[:256][:, :256, : codec.coded_bands(image)]
    from ltchm_jax.fingerprint import fingerprint

    found = fingerprint(codec.blocks, colour, codec.quality_steps(options.quality))
    print("\n".join(f"{name}  {value}" for name, value in found._asdict().items()))
    return int(found.encoder != found.decoder)


def run_info(options: argparse.Namespace) -> None:
    """`ltchm info`; loads neither JAX nor a model."""
    from ltchm_jax.bitstream import read
    from ltchm_jax.files import open_input

    check_inputs([options.input])
    with open_input(options.input) as file:
        container = read(file, max_pixels=None)
        header, metadata = container.header, container.metadata
        samples = f"{header.samples_per_pixel} samples of {header.samples.name.lower()}"
        rows = {
            "size": f"{header.width} x {header.height}",
            "layout": f"{header.layout.label}, {samples}",
            "bytes": f"{container.size} ({8 * container.size / (header.width * header.height):.4f} bpp)",
            "payload": f"{container.payload_size} bytes",
            "quality": f"{header.quality / 256:g}",
            "blocks": f"{len(container)} of {header.grid.shape[1]} x {header.grid.shape[0]}",
            "model": header.digest.hex(),
            "metadata": ", ".join(_kinds(metadata)) or "none",
        }
    width = max(map(len, rows))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))


def _kinds(metadata: object) -> list[str]:
    words = {"text": "text", "icc": "ICC profile", "exif": "EXIF", "tiff": "TIFF tags"}
    return [word for name, word in words.items() if getattr(metadata, name)]


def run_import(options: argparse.Namespace) -> None:
    """`ltchm import-torch`."""
    from ltchm_jax.interop import import_state
    from ltchm_jax.model_file import make_model, save_model
    from ltchm_jax.parity.reference_files import read_arrays

    if not options.output.endswith(".safetensors"):
        raise ValueError(f"A model file ends in .safetensors, got {options.output!r}.")
    config, variables, skipped = import_state(read_arrays(options.input))
    save_model(
        options.output, make_model(config, variables, {"source": Path(options.input).name}, half=False)
    )
    print(
        f"{options.output}: preset released, N = {config.width}; skipped {len(skipped)} unused tensors",
        file=sys.stderr,
    )


def run_export(options: argparse.Namespace) -> None:
    """`ltchm export-torch`."""
    from ltchm_jax.interop import check_released, export_state
    from ltchm_jax.model_file import load_model
    from ltchm_jax.parity.reference_files import write_arrays
    from ltchm_jax.weights import find_model

    model = load_model(find_model(options.model))
    check_released(model.config)
    write_arrays(options.output, export_state(model.variables))


def run_verify(options: argparse.Namespace) -> int:
    """`ltchm verify`."""
    from ltchm_jax.parity.comparison import rows_text
    from ltchm_jax.parity.verification import verify

    rows = verify(options.golden, options.train)
    print(rows_text(rows))
    return int(not all(row.ok for row in rows))


def run_complexity(options: argparse.Namespace) -> None:
    """`ltchm complexity`."""
    import dataclasses

    from ltchm_jax.complexity import by_part, complexity_text, model_layers
    from ltchm_jax.model import PRESETS
    from ltchm_jax.parity.paper_tables import paper_text, paper_values

    names = ("width", "attention", "hyper_attention", "size")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.preset is None:
        if given:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"{flags} can't change the paper's tables: add --preset paper or released.")
        print(paper_text(paper_values()))
        return
    size = given.pop("size", (256, 256))
    config = dataclasses.replace(PRESETS[options.preset], **given)
    print(complexity_text(by_part(model_layers(config, *size))))
