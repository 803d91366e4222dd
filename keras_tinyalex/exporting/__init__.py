"""Exports models to other runtimes, quantizes and verifies them."""

from keras_tinyalex.exporting.exporter import export
from keras_tinyalex.exporting.formats import EXPORTERS, FORMATS
from keras_tinyalex.exporting.quantization import QUANTIZATIONS
from keras_tinyalex.exporting.result import Export

__all__ = ["EXPORTERS", "FORMATS", "QUANTIZATIONS", "Export", "export"]
