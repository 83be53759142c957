"""The DICOM conformance statement (PS3.2), written from the configuration in force."""
