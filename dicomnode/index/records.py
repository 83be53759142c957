"""Tables of what no stored file holds: kept when the archive's tables are made anew.

Worklist items, performed procedure steps, and storage commitments. A change of these tables needs
a migration; a new table needs none.
"""

from __future__ import annotations

from sqlalchemy import MetaData

metadata = MetaData()
