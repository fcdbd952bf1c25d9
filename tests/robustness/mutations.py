"""Mutations of files: what a disk, a network or somebody does to them. The same number gives the same mutation."""

import random

#: What parsers trip over: lengths, depths, numbers at the ends of their types, marks of formats.
TOKENS = [
    b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"NaN",
    b"Infinity", b"1e999", b"-1e308", b"1.8e308", b"18446744073709551616", b"9" * 400, b"null", b"true", b'""', b"[]",
    b"{}", b"[" * 100_000, b'{"a":' * 3000, b"(" * 300, b'"', b",", b";", b"\t", b"\n", b"\r", b"\\", b"../../x",
    b"\x1b[31m", b"[bold]", b"<script>", b"!!python/object:os.system", b"&a [*a]", b"U\x02u1", b"cos\nsystem\n",
    b"]" * 300,
]  # fmt: skip
KINDS = ("flip", "set", "cut", "insert", "delete", "repeat", "swap", "token", "number", "end", "line")


def mutated(content: bytes, number: int) -> bytes:
    """Return the content with one to four changes, of every kind in turn, more of them near both ends."""
    rng = random.Random(number)
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(out, rng, rng.choice(KINDS))
    return bytes(out)


def _place(out: bytearray, rng: random.Random) -> int:
    span = min(len(out), rng.choice((len(out), 64, 400)))
    return rng.randrange(span + 1) if rng.random() < 0.5 else len(out) - rng.randrange(span + 1)


def _change(out: bytearray, rng: random.Random, kind: str) -> None:
    at, size = _place(out, rng), rng.choice((1, 2, 4, 8, 30, 500))
    if kind == "flip" and at < len(out):
        out[at] ^= 1 << rng.randrange(8)
    elif kind == "set" and at < len(out):
        out[at : at + size] = rng.randbytes(min(size, len(out) - at))
    elif kind == "cut":
        del out[at:]
    elif kind == "insert":
        out[at:at] = rng.randbytes(size)
    elif kind == "delete":
        del out[at : at + size]
    elif kind == "repeat":
        out[at:at] = out[at : at + size] * rng.choice((1, 2, 50))
    elif kind == "swap":
        there = _place(out, rng)
        first, second = out[at : at + size], out[there : there + size]
        out[at : at + size], out[there : there + size] = second, first
    elif kind == "token":
        out[at : at + rng.choice((0, 0, size))] = rng.choice(TOKENS)
    elif kind == "number":  # the next digits become others
        digits = [i for i in range(at, min(at + 200, len(out))) if 48 <= out[i] < 58][: rng.choice((1, 3))]
        if digits:
            out[digits[0] : digits[-1] + 1] = rng.choice((b"0", b"-1", b"1e400", b"99999999999", b"0.5", b"x", b""))
    elif kind == "end":
        out += rng.choice((b"\x00" * 4096, rng.randbytes(10), out[-size:]))
    elif kind == "line":
        lines = bytes(out).split(b"\n")
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
        out[:] = b"\n".join(lines)
