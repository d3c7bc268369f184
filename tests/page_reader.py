"""A second reader of the container, written from docs/bitstream.md alone; no code of the package is used."""

import zlib
from types import SimpleNamespace

LIMIT = 2 * 16384 * 16384  # pixels of four samples


class Refused(Exception):
    """The stream breaks a rule."""


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def get(self, n):
        need(n <= self.left(), "bytes are missing")
        self.at += n
        return self.data[self.at - n : self.at]

    def u8(self):
        return self.get(1)[0]

    def u32(self):
        return int.from_bytes(self.get(4), "little")

    def varint(self):
        groups = [self.u8()]
        while groups[-1] & 128:
            need(len(groups) < 5, "varint is too long")
            groups.append(self.u8())
        need(len(groups) == 1 or groups[-1] != 0, "varint is not the shortest")
        value = sum((g % 128) * 128**i for i, g in enumerate(groups))
        need(value < 2**32, "varint is too large")
        return value

    def counted(self):
        return self.get(self.varint())


def need(condition, why):
    if not condition:
        raise Refused(why)


def unzip(data, size):
    decoder = zlib.decompressobj()
    try:
        plain = decoder.decompress(data, size + 1)
    except zlib.error as error:
        raise Refused("not zlib") from error
    need(len(plain) == size and decoder.eof and decoder.unused_data == b"", "zlib stream of another size")
    return plain


def number(n, size, overlap):
    """Blocks along one side."""
    return 1 if size == 0 or n <= size else (n - overlap + size - overlap - 1) // (size - overlap)


def cut(n, size, overlap):
    """First pixels of the blocks, and their length."""
    count = number(n, size, overlap)
    length = (n + (count - 1) * overlap + count - 1) // count
    return [i * (n - length) // (count - 1) if count > 1 else 0 for i in range(count)], length


def picture(b):
    f = SimpleNamespace(digest=b.get(8), width=b.varint(), height=b.varint())
    form = b.u8()
    f.layout = form % 8
    need(f.width >= 1 and f.height >= 1, "empty picture")
    need(f.layout <= 4 and form // 8 == 0, "layout or sample type")
    f.bands = b.varint() if f.layout == 4 else (1, 1, 3, 3)[f.layout]
    need(1 <= f.bands <= 65535, "bands")
    f.quality, f.block_size = b.varint(), b.varint()
    f.overlap = b.varint() if f.block_size else 0
    need(f.quality <= 65535, "quality")
    need(f.block_size == 0 or 16 <= f.block_size <= 4096, "block size")
    need(f.overlap * 4 <= f.block_size, "overlap")
    need(f.block_size or max(f.width, f.height) <= 4096, "one block is too large")
    need(f.width * f.height * max(f.bands + f.layout % 2, 4) <= 4 * LIMIT, "too many pixels")
    return f


def chunks(b):
    found = {}
    while kind := b.u8():
        need(chr(kind).isascii() and chr(kind).isalpha() and chr(kind) not in found, "chunk type")
        found[chr(kind)] = b.counted()
    need(not {k for k in found if k.isupper()} - {"G", "A"}, "unknown required chunk")
    need(found.get("G") != b"", "chunk of no guards")
    return found


def guards(body, count):
    b, lists, block = Bytes(body), {}, 0
    while b.left():
        block += b.varint()
        need(block < count, "guards of no block")
        one, lists[block], position = Bytes(b.counted()), [], 0
        need(one.left(), "list of no guards")
        while one.left():
            step, side = divmod(one.varint(), 2)
            position += step
            need(position < 2**31 and len(lists[block]) < 65536, "guard")
            lists[block].append((position, side))
            position += 1
        block += 1
    return lists


def plain(body):
    b = Bytes(body)
    size = b.varint()
    need(size <= 2**24, "metadata is too large")
    return unzip(b.get(b.left()), size)


def metadata(found):
    text, tiff, icc, exif = (Bytes(plain(found[k]) if k in found else b"") for k in "tgie")
    m = SimpleNamespace(text={}, tiff=[], icc=icc.data, exif=exif.data)
    while text.left():
        key, value = text.counted(), text.counted()
        need(key not in m.text and len(m.text) < 4096, "text keys")
        m.text[key] = value
    try:
        m.text = {key.decode(): value.decode() for key, value in m.text.items()}
    except UnicodeDecodeError:
        need(False, "text")
    while tiff.left():
        m.tiff.append((tiff.varint(), tiff.varint(), tiff.counted()))
        need(max(m.tiff[-1][:2]) < 65536, "TIFF tag")
        need(len(m.tiff) <= 4096, "TIFF tags")
    need(len({tag for tag, _, _ in m.tiff}) == len(m.tiff), "TIFF tag again")
    return m


def read(data):
    b = Bytes(data)
    need(b.get(6) in (b"\xcc\x4c\x54\x31\x0d\x0a", b"\xcc\x4c\x54\x32\x0d\x0a"), "signature")
    f = picture(b)
    found = chunks(b)
    sides = [(n, f.block_size, f.overlap) for n in (f.height, f.width)]
    need(9 * number(*sides[0]) * number(*sides[1]) <= b.left(), "index")
    starts = [cut(*side) for side in sides]
    f.rects = [(t, l, starts[0][1], starts[1][1]) for t in starts[0][0] for l in starts[1][0]]  # noqa: E741
    index = [(b.varint(), b.u32(), b.u32()) for _ in f.rects]
    need(zlib.crc32(data[: b.at]) == b.u32(), "checksum of the head")
    lists = guards(found.get("G", b""), len(index))
    f.metadata, f.blocks, f.alpha = metadata(found), [], None
    for i, (length, crc, latents) in enumerate(index):
        f.blocks.append((b.get(length), latents, lists.get(i, [])))
        need(zlib.crc32(f.blocks[-1][0]) == crc, "checksum of a block")
    need(("A" in found) == (f.layout in (1, 3)), "alpha")
    if "A" in found:
        entry = Bytes(found["A"])
        stored = b.get(entry.varint())
        need(zlib.crc32(stored) == entry.u32() and entry.left() == 0, "checksum of alpha")
        f.alpha = unzip(stored, f.width * f.height)
    need(b.left() == 0, "bytes after the end")
    return f
