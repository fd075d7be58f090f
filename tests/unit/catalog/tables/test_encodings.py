"""The encoding of a CSV, told or guessed from its bytes."""

import codecs
import io

import pytest

from trainer.catalog.tables import encodings
from trainer.errors import UserError

WORDS = {
    "gb18030": "剧情 喜剧 动作 爱情 霸王别姬 卧虎藏龙 花样年华",
    "big5": "劇情 喜劇 動作 愛情 霸王別姬 臥虎藏龍 花樣年華",
    "cp932": "ドラマ コメディ アクション 七人の侍 千と千尋の神隠し",
    "euc_jp": "ドラマ コメディ アクション 七人の侍 千と千尋の神隠し",
    "cp949": "드라마 코미디 액션 기생충 올드보이 살인의 추억",
    "cp1251": "драма комедия боевик Летят журавли Служебный роман",
    "koi8-r": "драма комедия боевик Летят журавли Служебный роман",
    "cp1253": "δράμα κωμωδία τρόμου Κυνόδοντας Ποτέ την Κυριακή",
    "cp1254": "dram komedi suç savaş Kış Uykusu Ağır Roman Gölge ışık",
    "cp1255": "דרמה קומדיה מתח ואלס עם באשיר ביקור התזמורת",
    "cp1256": "دراما كوميديا رعب باب الحديد المومياء الأرض",
    "cp1250": "dramat komedia przygodowy Popiół i diament Krótki film o miłości Nóż w wodzie",
    "cp874": "ดราม่า ตลก สยองขวัญ ต้มยำกุ้ง องค์บาก แฟนฉัน",
    "cp1252": "Drame Comédie Épouvante La forêt dorée Le château L'été meurtrier",
}


def csv(words, rows=30):
    words = words.split()
    lines = (f"{number},{words[number % len(words)]} {number},{words[-number % len(words)]}" for number in range(rows))
    return "id,title,genres\n" + "\n".join(lines) + "\n"


def text_of(data):
    found = encodings.detect(data, "films.csv")
    return io.TextIOWrapper(io.BytesIO(data), found.codec, found.errors, newline="").read(), found


@pytest.mark.parametrize("codec", WORDS)
def test_an_encoding_is_guessed_from_the_letters_of_a_language(codec):
    text = csv(WORDS[codec])
    found, encoding = text_of(text.encode(codec))
    assert found == text
    assert encoding.guessed
    assert "is not UTF-8; looks " in encoding.evidence


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("words", ["plain ASCII words", WORDS["cp1252"], WORDS["gb18030"]])
def test_unicode_is_told_with_and_without_a_mark(codec, words):
    found, encoding = text_of(csv(words).encode(codec))
    assert found == csv(words)
    assert (encoding.name, encoding.guessed, encoding.evidence) == (
        codec[:6].upper().removesuffix("-").replace("UTF-8-", "UTF-8"),
        False,
        "",
    )


def test_a_few_accents_in_an_english_file_are_western():
    text = csv("The Film of a City and River") + "31,Amélie,Drama\n32,Léon,Crime\n"
    found, encoding = text_of(text.encode("cp1252"))
    assert (found, encoding.name) == (text, "Windows-1252")


def test_a_utf_8_file_with_a_bad_line_stays_utf_8():
    data = csv(WORDS["cp1252"]).encode() + "31,Café,Drame\n".encode("cp1252") + b"32,a\x81b,Drame\n"
    found, encoding = text_of(data)
    assert found == csv(WORDS["cp1252"]) + "31,Café,Drame\n32,a\ufffdb,Drame\n"
    assert (encoding.name, encoding.guessed) == ("UTF-8", True)
    assert encoding.evidence == "2 lines are not UTF-8 and read as Windows-1252, the first: '31,Café,Drame'"


def test_a_character_cut_at_the_end_does_not_change_the_encoding():
    data = csv(WORDS["gb18030"]).encode()[:-2] + "剧".encode()[:2]
    assert text_of(data)[1].name == "UTF-8"


@pytest.mark.parametrize("rows", [30, 31])
def test_a_stray_zero_byte_does_not_make_a_file_utf_16(rows):
    data = csv(WORDS["cp1252"], rows).encode() + b"99,a\0b,Drame\n"
    found, encoding = text_of(data)
    assert "Épouvante" in found
    assert (encoding.name, encoding.evidence, encoding.guessed) == ("UTF-8", "zero bytes in it: 1", True)


def test_utf_16_that_is_cut_or_damaged_is_read_and_said():
    data = csv(WORDS["cp1251"]).encode("utf-16")
    for damaged in (data[:-1], data[:-4] + b"\x00\xd8" + data[-2:]):
        found, encoding = text_of(damaged)
        assert found.startswith("id,title,genres\n0,драма 0,драма\n")
        assert (encoding.name, encoding.guessed) == ("UTF-16", True)
        assert encoding.evidence == "damaged: what is no character was left out or became U+FFFD"


@pytest.mark.parametrize(
    ("start", "kind", "remedy"),
    [
        (b"PK\x03\x04....xl/workbook.xml", "an Excel workbook", "save it as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", "save it as CSV in UTF-8"),
        (b"PK\x03\x04films.csv", "a zip archive", "unpack it and give the CSV in it"),
        (b"\x1f\x8b\x08\0", "a gzip archive", "unpack it and give the CSV in it"),
        (b"%PDF-1.7", "a PDF", "put its table into a spreadsheet and save that as CSV in UTF-8"),
        (b"PAR1", "a Parquet file", "save it as CSV in UTF-8"),
        (b"SQLite format 3\0", "an SQLite database", "export its table of films as CSV in UTF-8"),
        (b"\x89PNG\r\n", "an image", "give the CSV, and the folder of the images as --images"),
    ],
)
def test_what_is_no_text_is_named_with_the_remedy(start, kind, remedy):
    with pytest.raises(UserError, match=rf"^--csv=films\.csv is not a text file but {kind}: {remedy}$"):
        encodings.detect(start + bytes(range(256)), "films.csv")


def test_control_characters_are_no_text():
    with pytest.raises(UserError, match=r"^--csv=films\.csv is not a text file: save it as CSV in UTF-8$"):
        encodings.detect(bytes(range(1, 32)) * 100, "films.csv")
    assert encodings.detect(b"id,genre\n1,a\x01b\n" + b"2,Drama\n" * 10, "films.csv").name == "UTF-8"


def test_of_a_large_file_blocks_from_all_of_it_are_judged(monkeypatch):
    monkeypatch.setattr(encodings, "_BLOCK_BYTES", 512)
    monkeypatch.setattr(encodings, "_MAX_BLOCKS", 8)
    text = csv("plain words", 2000) + csv(WORDS["cp1251"], 500)
    found, encoding = text_of(text.encode("cp1251"))
    assert (found, encoding.name) == (text, "Windows-1251")


def test_an_error_is_found_beyond_the_first_chunk(monkeypatch):
    monkeypatch.setattr(encodings, "_CHUNK_BYTES", 1 << 16)
    text = csv(WORDS["gb18030"], 20_000).encode()
    _, encoding = text_of(text + b"\xe9,x,y\n")
    assert encoding.evidence.startswith("1 line is not UTF-8 and read as Windows-1252, the first: 'é,x,y'")


def test_a_utf_8_mark_rules_out_all_guesses():
    data = codecs.BOM_UTF8 + b"id,titre\n" + "é,é\nè,è\n".encode("cp1252")
    found, encoding = text_of(data)
    assert (found, encoding.name) == ("id,titre\né,é\nè,è\n", "UTF-8")
