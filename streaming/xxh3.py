"""XXH3 of many short texts at once, bit for bit that of the `xxhash` package; must not know what the texts are of.

The package takes 90 ns a text, most of them for the Python objects around it. To a text of up to 16 bytes XXH3 does some twenty
operations on one or two 64-bit words: done to arrays of 10,000 words, they take 30 ns a text, all told. Of 36 bytes it is 90.

Source:
    Collet, xxHash 0.8.3, `xxhash.h`: XXH3_len_1to3_64b, XXH3_len_4to8_64b, XXH3_len_9to16_64b, XXH3_len_17to128_64b.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy import uint64 as u64
from xxhash import xxh3_64_digest

from models.batch import Int64
from streaming.texts import Texts

Uint64: TypeAlias = npt.NDArray[u64]

# Of fewer texts the calls of numpy, some 80, cost more than those of the package.
_FEW = 512

# How a text is hashed, by its length: 0 by the package, then 1 to 3 bytes, 4 to 8, 9 to 16, 17 to 32, 33 to 64, 65 to 96, 97 to 128.
_KINDS = np.repeat(np.arange(9, dtype=np.uint8) % 8, [1, 3, 5, 8, 16, 32, 32, 32, 1])

_BYTE, _LOW = u64(0xFF), u64(0xFFFFFFFF)

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    "<u8",
)
_BLIND_1_TO_3 = (_SECRET[0] >> u64(32)) ^ (_SECRET[0] & _LOW)
_BLIND_4_TO_8 = _SECRET[1] ^ _SECRET[2]
_BLIND_HEAD, _BLIND_TAIL = _SECRET[3] ^ _SECRET[4], _SECRET[5] ^ _SECRET[6]

_PRIME_1, _PRIME_2, _PRIME_3, _PRIME_MX1, _PRIME_MX2 = np.array(
    [0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x165667919E3779F9, 0x9FB21C651E98DF25], u64
)


def xxh3_64(texts: Texts, seeds: Uint64) -> Uint64:
    """The XXH3 of each text.

    Args:
        texts: n of them.
        seeds: (n,)

    Returns:
        (n,)
    """
    if len(texts) < _FEW:
        return _one_by_one(texts, seeds)
    hashes = np.empty(len(texts), u64)
    # The 8 bytes before each place in the buffer, wherever they lie.
    before = np.ndarray(len(texts.buffer) + 1, "<u8", bytes(8) + texts.buffer, strides=(1,))
    kinds = _KINDS[np.minimum(texts.lengths, len(_KINDS) - 1)]
    for kind in range(8):
        at = np.flatnonzero(kinds == kind)
        if not len(at):
            continue
        ends, lengths, seed = texts.ends[at], texts.lengths[at], seeds[at]
        size = lengths.view(u64)
        if kind == 0:
            hashes[at] = _one_by_one(Texts(texts.buffer, ends, lengths), seed)
        elif kind == 1:
            hashes[at] = _of_1_to_3(before[ends], size, seed)
        elif kind == 2:
            hashes[at] = _of_4_to_8(before[ends], size, seed)
        elif kind == 3:
            hashes[at] = _of_9_to_16(before[ends - lengths + 8], before[ends], size, seed)
        else:
            hashes[at] = _of_17_to_128(before, ends, lengths, seed, kind - 3)
    return hashes


def _one_by_one(texts: Texts, seeds: Uint64) -> Uint64:
    buffer, ends = texts.buffer, texts.ends
    each = [buffer[start:end] for start, end in zip((ends - texts.lengths).tolist(), ends.tolist(), strict=True)]
    return np.frombuffer(b"".join(map(xxh3_64_digest, each, seeds.tolist())), ">u8").astype(u64)


def _of_1_to_3(tail: Uint64, size: Uint64, seed: Uint64) -> Uint64:
    text = _last(tail, size)
    x = (text & _BYTE) << u64(16)
    x |= ((text >> (size >> u64(1) << u64(3))) & _BYTE) << u64(24)
    x |= tail >> u64(56)
    x |= size << u64(8)
    x ^= _BLIND_1_TO_3 + seed
    x ^= x >> u64(33)
    x *= _PRIME_2
    x ^= x >> u64(29)
    x *= _PRIME_3
    x ^= x >> u64(32)
    return x


def _of_4_to_8(tail: Uint64, size: Uint64, seed: Uint64) -> Uint64:
    x = _last(tail, size) << u64(32)  # its first four bytes
    x += tail >> u64(32)  # its last four
    x ^= _BLIND_4_TO_8 - (seed ^ (seed.byteswap() >> u64(32) << u64(32)))
    x ^= (x << u64(49)) ^ (x >> u64(15)) ^ (x << u64(24)) ^ (x >> u64(40))
    x *= _PRIME_MX2
    x ^= (x >> u64(35)) + size
    x *= _PRIME_MX2
    x ^= x >> u64(28)
    return x


def _of_9_to_16(head: Uint64, tail: Uint64, size: Uint64, seed: Uint64) -> Uint64:
    head = head ^ (_BLIND_HEAD + seed)
    tail = tail ^ (_BLIND_TAIL - seed)
    return _scattered(size + head.byteswap() + tail + _folded_product(head, tail))


def _of_17_to_128(before: Uint64, ends: Int64, lengths: Int64, seed: Uint64, rounds: int) -> Uint64:
    """Of texts of 32 * rounds bytes at most, and more than in a round less."""
    x = lengths.view(u64) * _PRIME_1
    for number in range(rounds):
        secret = _SECRET[4 * number : 4 * number + 4]
        for start, first, second in (
            (ends - lengths + 16 * number, secret[0], secret[1]),
            (ends - 16 * number - 16, secret[2], secret[3]),
        ):
            x += _folded_product(before[start + 8] ^ (first + seed), before[start + 16] ^ (second - seed))
    return _scattered(x)


def _scattered(x: Uint64) -> Uint64:
    x ^= x >> u64(37)
    x *= _PRIME_MX1
    x ^= x >> u64(32)
    return x


def _last(tail: Uint64, size: Uint64) -> Uint64:
    """The `size` last of these 8 bytes, as a number whose lowest byte is the first of them."""
    return tail >> (u64(64) - (size << u64(3)))


def _folded_product(a: Uint64, b: Uint64) -> Uint64:
    """Both halves of the 128 bits of a * b, one xor the other."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> u64(32), b & _LOW, b >> u64(32)
    middle = ((a_low * b_low) >> u64(32)) + a_high * b_low  # at most (2^32 - 1) + (2^32 - 1)^2: no carry is lost
    high = a_high * b_high + (middle >> u64(32)) + (((middle & _LOW) + a_low * b_high) >> u64(32))
    folded: Uint64 = (a * b) ^ high
    return folded
