"""Importing files: rows (`rows`), the events they become (`mapping`, `ids`), and batches of them (`batches`)."""

from eventstore.importing.batches import BATCH_SIZE, Append, Batch, Imported, import_rows
from eventstore.importing.ids import NAMESPACE, DerivedIds, canonical
from eventstore.importing.mapping import ColumnMapping, Exported, Mapped, Mapping, inferred, map_rows, to_time
from eventstore.importing.rows import Format, Reject, Row, RowFile, format_of, open_rows

__all__ = [
    "BATCH_SIZE",
    "NAMESPACE",
    "Append",
    "Batch",
    "ColumnMapping",
    "DerivedIds",
    "Exported",
    "Format",
    "Imported",
    "Mapped",
    "Mapping",
    "Reject",
    "Row",
    "RowFile",
    "canonical",
    "format_of",
    "import_rows",
    "inferred",
    "map_rows",
    "open_rows",
    "to_time",
]
