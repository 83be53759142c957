"""Coverage-guided fuzzing of what reads bytes of unknown origin: ``python -m fuzz.run``.

A target is a module with ``one``, which reads bytes and lets nothing but unexpected exceptions
out, and ``seeds``, well-formed inputs. The first byte of an input chooses how the rest is read.
"""

TARGETS = ("associations", "commands", "credentials", "exports", "headers", "identifiers")
