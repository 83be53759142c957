"""The rows of the matrix, in the order of the page."""

from __future__ import annotations

from tests.interop.matrix.dcmtk import DCMTK
from tests.interop.matrix.pynet import PYNETDICOM

ROWS = (DCMTK, PYNETDICOM)
