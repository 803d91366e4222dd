"""Exports models to other runtimes, quantizes and verifies them."""

from keras_tinyalex.exporting.exporter import Export, export
from keras_tinyalex.exporting.formats import EXPORTERS, FORMATS
from keras_tinyalex.exporting.quantization import QUANTIZATIONS

__all__ = ["EXPORTERS", "FORMATS", "QUANTIZATIONS", "Export", "export"]
