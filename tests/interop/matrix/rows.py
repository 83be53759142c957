"""The rows of the matrix, in the order of the page."""

from __future__ import annotations

from tests.interop.matrix.ctn import CTN
from tests.interop.matrix.dcmjs import DCMJS
from tests.interop.matrix.dcmtk import DCMTK
from tests.interop.matrix.gdcm import GDCM
from tests.interop.matrix.odil import ODIL
from tests.interop.matrix.orthanc import ORTHANC
from tests.interop.matrix.pixelmed import PIXELMED
from tests.interop.matrix.pynet import PYNETDICOM

ROWS = (DCMTK, GDCM, ORTHANC, PYNETDICOM, DCMJS, ODIL, PIXELMED, CTN)
