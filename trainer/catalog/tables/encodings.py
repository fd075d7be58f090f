"""Finds the encoding of a text file from its bytes: from a byte order mark, from zeros, from UTF-8's rules, or else by chardet."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass

import chardet
import numpy as np

from trainer.errors import UserError

_CHUNK_BYTES = 4 << 20  # Decoded at once, so that a large file is never in memory twice.
_BLOCK_BYTES = 8 << 10
_MAX_BLOCKS = 64  # Beyond UTF-8's rules, at most half a MiB is judged, evenly from the whole file.
_MIN_BESIDE_ZERO = 0.3  # In UTF-16, at least this share of the bytes that look like separators and digits is beside a zero.
_MAX_CONTROLS = 0.02  # In text, at most this share of the bytes is control characters.
_MAX_DAMAGED_LINES = 0.05  # Of the lines beyond ASCII, at most this share is damaged.
_MIN_UTF_8 = 0.05  # A file of Western letters with more of UTF-8's characters per line was UTF-8: by chance there are fewer.
_MAX_COUNTED = 10_000  # Lines.
_MIN_FOREIGN = 0.67  # In words of Latin letters, fewer of the bytes are beyond ASCII; in most others, nearly all.
_FEW_BYTES = 3  # So few beyond ASCII tell nothing.
_MANY_BYTES = 12
_LEAD = 1.2  # Over Windows-1252, which is by far the most frequent one.
_LEAD_OF_FEW = 2
_SHOWN_CHARACTERS = 60

_CONTROLS = bytes({*range(32), 127} - set(b"\t\n\f\r\x1a\x1b"))
_SEPARATORS = np.isin(np.arange(256), list(b'\t\n\r ",;|0123456789'))
_NEW_LINE = re.compile(rb"[\r\n]")
_ASCII = bytes(range(128))
_LIGATURE_OF_ISO = re.compile("[¦¨´¸¼½¾][a-zà-ÿ]")  # In ISO-8859-15, these bytes are letters, as in "Cœur".
_WORD = re.compile(rb"[@-~\x80-\xff]{2,}")  # Multi-byte characters may end in what is an ASCII letter or sign elsewhere.

# The encodings that people's files have, by what they look like: each further one would make mistakes among these likelier.
_ENCODINGS = {
    "Western European": {"cp1252": "Windows-1252", "iso8859-15": "ISO-8859-15", "mac-roman": "Mac Roman", "cp850": "IBM850"},
    "Central European": {"cp1250": "Windows-1250", "iso8859-2": "ISO-8859-2"},
    "Cyrillic": {"cp1251": "Windows-1251", "koi8-r": "KOI8-R", "koi8-u": "KOI8-U", "cp866": "IBM866", "iso8859-5": "ISO-8859-5"},
    "Greek": {"cp1253": "Windows-1253", "iso8859-7": "ISO-8859-7"},
    "Turkish": {"cp1254": "Windows-1254"},
    "Hebrew": {"cp1255": "Windows-1255"},
    "Arabic": {"cp1256": "Windows-1256", "iso8859-6": "ISO-8859-6"},
    "Baltic": {"cp1257": "Windows-1257"},
    "Vietnamese": {"cp1258": "Windows-1258"},
    "Thai": {"cp874": "Windows-874"},
    "Chinese": {"gb18030": "GB18030", "big5hkscs": "Big5"},
    "Japanese": {"cp932": "Shift-JIS", "euc_jis_2004": "EUC-JP"},
    "Korean": {"cp949": "EUC-KR"},
}
_CANDIDATES = {codec: (name, look) for look, names in _ENCODINGS.items() for codec, name in names.items()}
_LATIN_LOOKS = ("Western European", "Central European", "Turkish", "Baltic", "Vietnamese")
_LATIN = [codec for codec, (_, look) in _CANDIDATES.items() if look in _LATIN_LOOKS]
_FOREIGN = [codec for codec in _CANDIDATES if codec not in _LATIN]
_OLD = ("mac-roman", "cp850")
_MULTI_BYTE = ("gb18030", "big5hkscs", "cp932", "euc_jis_2004", "cp949")

_SAVE = "save it as CSV in UTF-8"
_UNPACK = "unpack it and give the CSV in it"
_SIGNATURES = (
    (rb"PK\x03\x04(?s:.*)(xl/workbook|opendocument\.spreadsheet)|\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", _SAVE),
    (rb"PK\x03\x04", "a zip archive", _UNPACK),
    (rb"\x1f\x8b", "a gzip archive", _UNPACK),
    (rb"BZh\d1AY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!\x1a", "an archive", _UNPACK),
    (rb"%PDF-", "a PDF", "put its table into a spreadsheet and save that as CSV in UTF-8"),
    (rb"PAR1", "a Parquet file", _SAVE),
    (rb"SQLite format 3\0", "an SQLite database", "export its table of films as CSV in UTF-8"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|RIFF(?s:....)WEBP", "an image", "give the CSV, and the folder of the images as --images"),
)


@dataclass(frozen=True)
class Encoding:
    """How to read a file as text.

    Attributes:
      codec: Name of Python's codec. It skips a byte order mark.
      errors: How that codec is to treat bytes that it cannot decode: "strict" if there are none.
      name: Name that people know the encoding by.
      evidence: What to say beside the name; empty if nothing is noteworthy.
      guessed: Whether the user should check the text.
    """

    codec: str
    errors: str
    name: str
    evidence: str
    guessed: bool


def _read_as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # Nothing is encoded with this.
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


def _skip_cut_end(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "" if error.reason in ("truncated data", "unexpected end of data") else "\ufffd", error.end


_WINDOWS_1252 = "poster-trainer.windows-1252"
_CUT_END = "poster-trainer.cut-end"
codecs.register_error(_WINDOWS_1252, _read_as_windows_1252)
codecs.register_error(_CUT_END, _skip_cut_end)


def detect(data: bytes, path: str) -> Encoding:
    """Finds the encoding of a file.

    UTF-8 is told by its rules, also where a few lines break them, UTF-16 and UTF-32 by a mark or by their zeros. All else is
    guessed from up to half a MiB of the file.

    Args:
      data: All bytes of the file.
      path: Name of the file for error messages.

    Returns:
      The encoding, with which all of the file can be decoded.

    Raises:
      UserError: The file is not text.
    """
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return _wide(data, "utf-32")  # Before UTF-16, with whose mark it begins.
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _wide(data, "utf-16")
    for signature, kind, remedy in _SIGNATURES:
        if re.match(signature, data):
            raise UserError(f"--csv={path} is not a text file but {kind}: {remedy}")
    sample = _sample(data)
    wide = _wide_codec(sample[0])
    if wide:
        return _wide(data, wide)
    text = b"\n".join(sample)
    if len(text) - len(text.translate(None, _CONTROLS)) > max(1, _MAX_CONTROLS * len(text)):
        raise UserError(f"--csv={path} is not a text file: {_SAVE}")
    first = _first_error(data, "utf-8")
    if first is None:
        zeros = data.count(0)
        return Encoding("utf-8-sig", "strict", "UTF-8", f"zero bytes in it: {zeros:,}" if zeros else "", zeros > 0)
    lines = [line for line in [*text.splitlines(), _line(data, first)] if not line.isascii()]
    if data.startswith(codecs.BOM_UTF8) or 2 * len(_decodable(lines, "utf-8")) >= len(lines):
        return _damaged_utf_8(data, first)
    guess = _guess(text)
    name, look = _CANDIDATES[guess]
    if guess in _LATIN and _beyond_ascii(b"\n".join(lines).decode("utf-8", "ignore")) >= _MIN_UTF_8 * len(lines):
        return _damaged_utf_8(data, first)
    errors = "strict" if _first_error(data, guess) is None else _WINDOWS_1252 if guess == "cp1252" else "replace"
    evidence = f"byte 0x{data[first]:02x} at offset {first:,} is not UTF-8; looks {look}"
    return Encoding(guess, errors, name, evidence, True)


def _wide(data: bytes, codec: str) -> Encoding:
    damaged = _first_error(data, codec) is not None
    evidence = "damaged: what is no character was left out or became U+FFFD" if damaged else ""
    return Encoding(codec, _CUT_END if damaged else "strict", codec[:6].upper(), evidence, damaged)


def _wide_codec(start: bytes) -> str | None:
    """Returns the UTF-16 or UTF-32 codec of a file without a mark, or None.

    In Chinese, only separators, digits and ends of lines have zeros. So it counts how many of those have one beside them.
    """
    quarters = np.frombuffer(start[: len(start) // 4 * 4], np.uint8).reshape(-1, 4)
    zeros = (quarters == 0).mean(axis=0) if len(quarters) else np.zeros(4)
    for codec, (low, third, high) in (("utf-32-le", zeros[[0, 2, 3]]), ("utf-32-be", zeros[[3, 1, 0]])):
        if high > 0.99 and third > 0.9 and low < 0.5:
            return codec
    even, odd = quarters[:, ::2].ravel(), quarters[:, 1::2].ravel()
    for codec, lows, highs in (("utf-16-le", even, odd), ("utf-16-be", odd, even)):
        beside_zero = highs[_SEPARATORS[lows]] == 0
        if len(beside_zero) and beside_zero.mean() >= _MIN_BESIDE_ZERO:
            return codec
    return None


def _sample(data: bytes) -> list[bytes]:
    """Returns all of a small file, or else its first block and blocks evenly from those that are not ASCII alone."""
    if len(data) <= _MAX_BLOCKS * _BLOCK_BYTES:
        return [data]
    starts = [start for start in range(_BLOCK_BYTES, len(data), _BLOCK_BYTES) if not data[start : start + _BLOCK_BYTES].isascii()]
    picked = starts[:: -(-len(starts) // (_MAX_BLOCKS - 1))] if starts else []
    blocks = [data[start : start + _BLOCK_BYTES] for start in picked]
    # No multi-byte encoding has a comma, a space, a quotation mark or an end of line inside a character.
    return [data[:_BLOCK_BYTES], *(re.sub(rb"^[^\n,\" ]*|[^\n,\" ]*$", b"", block) for block in blocks)]


def _first_error(data: bytes, codec: str, start: int = 0) -> int | None:
    """Returns where the first bytes are that a codec cannot decode, or None."""
    decoder = codecs.getincrementaldecoder(codec)()
    size = 1 << 16  # It grows, for there may be many errors to find, one by one.
    while start < len(data):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(data[start : start + size], final=start + size >= len(data))
        except UnicodeDecodeError as error:
            return start - pending + error.start
        start += size
        size = min(2 * size, _CHUNK_BYTES)
    return None


def _line(data: bytes, position: int) -> bytes:
    """Returns the line at a position, or its part near there if it is long."""
    near = data[max(0, position - _BLOCK_BYTES) : position].replace(b"\r", b"\n").rpartition(b"\n")[2]
    return near + _NEW_LINE.split(data[position : position + _BLOCK_BYTES], maxsplit=1)[0]


def _damaged_utf_8(data: bytes, first: int) -> Encoding:
    count = 0
    error: int | None = first
    while error is not None and count < _MAX_COUNTED:
        count += 1
        end = _NEW_LINE.search(data, error)
        error = _first_error(data, "utf-8", end.end()) if end else None
    shown = _line(data, first).decode("utf-8", _WINDOWS_1252).strip()
    number = "1 line is" if count == 1 else f"{count:,}{' or more' * (count == _MAX_COUNTED)} lines are"
    evidence = f"{number} not UTF-8 and read as Windows-1252, the first: {shown[:_SHOWN_CHARACTERS]!r}"
    return Encoding("utf-8-sig", _WINDOWS_1252, "UTF-8", evidence, True)


def _guess(text: bytes) -> str:
    """Returns the likeliest encoding; of the multi-byte ones also one that cannot decode a few lines."""
    lines = [line for line in text.splitlines() if not line.isascii()]
    beyond = b"\n".join(lines)
    words = b"".join(word for word in _WORD.findall(beyond) if not word.isascii())
    count = len(words.translate(None, _ASCII))
    if count <= _FEW_BYTES or count < _MIN_FOREIGN * len(words):
        return _guess_latin(text, beyond)
    for codec in _MULTI_BYTE:
        whole = _decodable(lines, codec)
        nearly_all = (1 - _MAX_DAMAGED_LINES) * len(lines) <= len(whole) < len(lines)
        if nearly_all and next(iter(_ranked(b"\n".join(whole), _FOREIGN)), None) == codec:
            return codec
    return next(iter(_ranked(beyond, _FOREIGN)), "cp1252")


def _guess_latin(text: bytes, beyond: bytes) -> str:
    """Returns the likeliest encoding of Latin letters.

    In an English file with a few Polish titles, all the text looks English; and a few French letters alone may look Polish. So
    these lines tell more, unless they are few.
    """
    western = beyond.decode("cp1252", "replace")
    few = len(beyond.translate(None, _ASCII)) <= _FEW_BYTES
    if few and "\ufffd" in western:
        return "cp1252"
    overall = next(iter(_ranked(text, _LATIN)), "cp1252")
    if overall in _OLD:
        return "cp1252" if few else overall
    scores = _ranked(beyond, [codec for codec in _LATIN if codec not in _OLD])
    best = next(iter(scores), "cp1252")
    if best == "iso8859-15":
        return best if _LIGATURE_OF_ISO.search(western) else "cp1252"
    lead = _LEAD if best == overall or len(beyond.translate(None, _ASCII)) > _MANY_BYTES else _LEAD_OF_FEW
    differs = beyond.decode(best, "replace") != western
    return best if differs and scores.get(best, 0) >= lead * scores.get("cp1252", 0) else "cp1252"


def _ranked(text: bytes, candidates: Sequence[str]) -> dict[str, float]:
    """Returns how sure chardet is of each encoding that can decode a text, the likeliest first."""
    found = chardet.detect_all(text, include_encodings=candidates, compat_names=False, max_bytes=len(text) + 1)
    return {codec: each["confidence"] for each in found if (codec := each["encoding"] or "") in candidates}


def _beyond_ascii(text: str) -> int:
    return sum(not character.isascii() for character in text)


def _decodable(lines: Sequence[bytes], codec: str) -> list[bytes]:
    return [line for line in lines if _first_error(line, codec) is None]
