"""A DICOM network node: an asyncio SCP and SCU daemon and its library."""

__version__ = "0.1.0"

# Registered under a UUID-derived root (PS3.5 §B.2); it names this implementation to peers.
IMPLEMENTATION_CLASS_UID = "2.25.226694366774972257019218741500244231455"
IMPLEMENTATION_VERSION_NAME = "DICOMNODE_0.1"
