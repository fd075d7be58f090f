"""TFRecord files of tf.train.Example, written without TensorFlow, whose import takes seconds and half a gigabyte.

Sources of the formats: TensorFlow's documentation of TFRecord (tensorflow.org, "TFRecord and tf.train.Example"), and
tensorflow/core/example/example.proto and feature.proto; this module contains the parts of them that it writes.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_EXAMPLE_PROTO = """
name: "example.proto" package: "tensorflow" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type {
  name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 options { packed: true } }
}
message_type {
  name: "Feature"
  oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".tensorflow.BytesList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".tensorflow.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".tensorflow.Feature" }
  }
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".tensorflow.Features.FeatureEntry" }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".tensorflow.Features" }
}
"""


def _example_class() -> Any:
    # A separate pool: the default one may contain TensorFlow's messages with the same names.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _example_class()


def serialize(features: Mapping[str, Sequence[bytes] | Sequence[int]]) -> bytes:
    """Returns a serialized tf.train.Example, the same bytes for the same features.

    Args:
      features: for each key of the example, its values: all bytes or all int. An empty sequence becomes an empty list of bytes.
    """
    example = _Example()
    for key, values in features.items():
        feature = example.features.feature[key]
        kind = feature.int64_list if values and isinstance(values[0], int) else feature.bytes_list
        kind.SetInParent()
        kind.value.extend(values)
    # Without this the order of a map's entries is unspecified.
    return example.SerializeToString(deterministic=True)


class Writer:
    """Writes the records of one TFRecord file; a context manager that closes it."""

    def __init__(self, path: Path) -> None:
        """Args:
        path: the file to create; an existing one is replaced.
        """
        self._file = path.open("wb")

    def write(self, record: bytes) -> None:
        """Appends a record.

        Raises:
          OSError: the file cannot be written.
        """
        length = struct.pack("<Q", len(record))
        self._file.write(b"".join((length, _masked_crc32c(length), record, _masked_crc32c(record))))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _masked_crc32c(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    # The format masks the checksum, because a CRC of data that contains CRCs is weak.
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
