"""The DICOM upper layer (PS3.8) without I/O: bytes and time in, events and bytes out."""
