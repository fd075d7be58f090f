"""Import files of Vertex AI, CSV and JSON Lines."""

import json

import pytest

from trainer.catalog import catalog
from trainer.catalog.columns import Columns
from trainer.catalog.tables import import_files
from trainer.dataset.rejects import Reason


@pytest.fixture
def read(tmp_path):
    def read_file(*lines):
        (tmp_path / "films.csv").write_text("\n".join(lines) + "\n")
        found = catalog.read(tmp_path / "films.csv", Columns())
        return [(film.image, film.url, film.genres, film.split) for film in found.films], found

    return read_file


def test_a_line_names_a_set_an_image_and_labels(read):
    films, found = read(
        "TRAIN,gs://b/1.jpg,War,Drama",
        "VALIDATION,gs://b/2.jpg,War",
        "test,gs://b/3.jpg,Noir",
        "UNASSIGNED,gs://b/4.jpg,War",
        "TRAIN,gs://b/5.jpg",
    )
    assert films == [
        ("gs://b/1.jpg", "gs://b/1.jpg", ("War", "Drama"), "train"),
        ("gs://b/2.jpg", "gs://b/2.jpg", ("War",), "validation"),
        ("gs://b/3.jpg", "gs://b/3.jpg", ("Noir",), "test"),
        ("gs://b/4.jpg", "gs://b/4.jpg", ("War",), None),
    ]
    assert [(reject.row, reject.reason) for reject in found.rejects] == [(5, Reason.NO_GENRE)]
    assert found.read_as == "read as UTF-8, comma-separated, an import file of Vertex AI"


def test_a_set_may_be_left_out_and_a_label_may_have_a_comma(read):
    films, found = read('gs://b/1.jpg,"Mystery, Thriller",War', "gs://b/2.jpg,War")
    assert [genres for _, _, genres, _ in films] == [("Mystery, Thriller", "War"), ("War",)]
    assert found.layout.split is None


@pytest.mark.parametrize(
    ("records", "is_one"),
    [
        ([["gs://b/1.jpg", "War"]], True),
        ([["TRAIN", "1.jpg", "War"], ["TEST", "2.jpg"]], True),
        ([["TRAIN", "1.jpg", "War"], ["2.jpg", "War"]], True),
        # Without sets and buckets, labels have to repeat or to be well known, and lines to be of different lengths.
        ([["1.jpg", "War"], ["2.jpg", "Drama", "Noir"]], True),
        ([["1.jpg", "a"], ["2.jpg", "a", "b"], ["3.jpg", "b"]], True),
        ([["1.jpg", "a"], ["2.jpg", "b", "c"], ["3.jpg", "d"]], False),
        ([["1.jpg", "War"], ["2.jpg", "Drama"]], False),
        ([["image", "genre"], ["gs://b/1.jpg", "War"]], False),
        ([["1.jpg"], ["2.jpg", " "]], False),
        ([], False),
    ],
)
def test_an_import_file_is_recognised(records, is_one):
    assert import_files.is_import_file(records) is is_one


def test_json_lines_of_vertex_ai(read):
    use = {"aiplatform.googleapis.com/ml_use": "training"}
    films, found = read(
        json.dumps(
            {"imageGcsUri": "gs://b/1.jpg", "classificationAnnotations": [{"displayName": "War"}], "dataItemResourceLabels": use}
        ),
        "",
        json.dumps({"imageGcsUri": "gs://b/2.jpg", "classificationAnnotations": [{"displayName": "War"}, {"displayName": "Noir"}]}),
        "no object",
        "[1]",
    )
    assert films == [
        ("gs://b/1.jpg", "gs://b/1.jpg", ("War",), "train"),
        ("gs://b/2.jpg", "gs://b/2.jpg", ("War", "Noir"), None),
    ]
    assert [(reject.row, reject.reason, reject.detail) for reject in found.rejects] == [
        (3, Reason.BAD_ROW, "not a JSON object"),
        (4, Reason.BAD_ROW, "not a JSON object"),
    ]
    assert found.read_as == "read as UTF-8, JSON Lines"


def test_any_json_lines_are_a_table_of_their_keys(read):
    films, _ = read(
        '{"file_name": "1.jpg", "genres": ["War", "Noir"], "year": 1990}', '{"genres": "War", "title": null, "file_name": "2.jpg"}'
    )
    assert [(image, genres) for image, _, genres, _ in films] == [("1.jpg", ("War", "Noir")), ("2.jpg", ("War",))]
