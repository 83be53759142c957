"""De-identified copies of objects: the confidentiality profiles of PS3.15 Annex E.

``files.deidentify`` makes one of a file; the rest is what it is made of.
"""
