"""Who may do what and how much of it, built from settings, registry and users, and reloaded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from dicomnode.errors import CatalogError, ConfigurationError
from dicomnode.index.catalog import Catalog
from dicomnode.observe.logs import Logger
from dicomnode.observe.metrics import Metrics
from dicomnode.parameters import credentials_of, rules_of
from dicomnode.registry import Registry, load_registry
from dicomnode.services.admission import Admission
from dicomnode.services.identities import Credentials, Identities
from dicomnode.services.quotas import Quotas
from dicomnode.settings import Settings
from dicomnode.users import open_to_others, users_path


class Gate:
    """The registry in force, and the parts of the node that decide by it.

    Making it reads files and blocks. Raises ConfigurationError.
    """

    def __init__(self, settings: Settings, registry_path: Path) -> None:
        self._settings = settings
        self._registry_path = registry_path
        self.registry, credentials = self._read()
        self._identities = Identities(
            credentials, without_tls=settings.access.credentials_without_tls
        )
        self.admission = Admission(rules_of(settings), self.registry, self._identities)
        self._catalog: Catalog

    def close(self) -> None:
        """End the thread that compares passcodes; blocks."""
        self._identities.close()

    def _read(self) -> tuple[Registry, Credentials]:
        registry = load_registry(self._registry_path, self._settings.node.strict_ae_titles)
        return registry, credentials_of(self._settings, self._registry_path)

    async def quotas(self, catalog: Catalog, metrics: Metrics, log: Logger) -> Quotas:
        """Return the quotas, which go by what ``catalog`` holds. Raises CatalogError."""
        self._catalog = catalog
        users = users_path(self._registry_path)
        if await asyncio.to_thread(open_to_others, users):
            log.warning(f"{users} can be read by others than its owner: chmod 600 {users}")
        await asyncio.to_thread(self._follow)
        metrics.add_counts_source(
            "dicomnode_quota_stored_bytes",
            "Bytes held of AEs with max_stored_bytes.",
            "calling_aet",
            self._stored,
        )
        return Quotas(
            lambda: self.registry,
            catalog,
            strict_ae_titles=self._settings.node.strict_ae_titles,
            now=time.monotonic,
        )

    def _follow(self) -> None:
        folded: Callable[[str], str] = str if self._settings.node.strict_ae_titles else str.casefold
        titles = [ae.title for ae in self.registry.entries if ae.max_stored_bytes]
        self._catalog.follow_sources(titles, folded)

    def _stored(self) -> dict[str, int]:
        return {
            ae.title: self._catalog.held(ae.title) or 0
            for ae in self.registry.entries
            if ae.max_stored_bytes
        }

    async def reload(self, log: Logger) -> bool:
        """Take registry, users and issuer's key anew as a whole, or keep the old and say why."""
        try:
            registry, credentials = await asyncio.to_thread(self._read)
        except (ConfigurationError, OSError) as error:
            problems = error.problems if isinstance(error, ConfigurationError) else [str(error)]
            log.error("registry and users not reloaded, the old ones stay in force")
            for problem in problems:
                log.error(problem)
            return False
        self.registry = self.admission.registry = registry
        self._identities.replace(credentials)
        log.info(f"registry reloaded: {len(registry.titles)} AEs, {len(credentials.users)} users")
        try:
            await asyncio.to_thread(self._follow)
        except CatalogError as error:
            log.error(f"max_stored_bytes is not kept for AEs that are new to it: {error}")
        return True
