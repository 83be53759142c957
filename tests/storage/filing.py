"""Objects to store and a look into the store, for the tests of the file store."""

from __future__ import annotations

import os

from dicomnode.storage.files import FileStore
from dicomnode.storage.incoming import IncomingFile
from dicomnode.storage.part10 import file_meta
from tests.storage.objects import CT_STORAGE, EXPLICIT, data_set, encoded

DATA = encoded(data_set())
UIDS = ("1.2.3", "1.2.3.4", "1.2.3.4.1")


def incoming(store: FileStore, data: bytes = DATA, uid: str = UIDS[2]) -> IncomingFile:
    file = store.begin(file_meta(CT_STORAGE, uid, EXPLICIT, source_ae_title="CT_1"))
    file.append([memoryview(data)])
    return file


def listed(store: FileStore, directory: str) -> list[str]:
    return sorted(os.listdir(store.directory / directory))
