"""With which certificates a peer is called: those of the options, or those of the settings."""

from __future__ import annotations

from dicomnode.certificates import Expected
from dicomnode.cli.peers import Called, Options, settings_file
from dicomnode.client import TLS


def tls_for(called: Called, options: Options) -> TLS | bool:
    """Return how ``called`` is called; False: without TLS. Raises ConfigurationError."""
    expected = called.peer.over_tls
    if not options.wants_tls and expected is None:
        return False
    expected = expected or Expected()
    name = options.tls_name or expected.name
    bindings = () if options.tls_name else tuple(map(str, expected.bindings))
    if options.has_tls_files:
        key, certificate = options.tls_pair or (options.tls_key, options.tls_certificate)
        return TLS(
            options.tls_ca,
            certificate,
            key,
            name,
            bindings,
            verify=not options.tls_insecure,
            file_names=("--tls-cert", "--tls-key", "--tls-ca"),
        )
    file = settings_file(options)
    if file is None:
        return TLS(name=name, bindings=bindings)
    # Late: without TLS no more of the settings is needed than a title.
    from dicomnode.settings import load_settings
    from dicomnode.tls.files import SETTINGS

    tls = load_settings(file).tls
    return TLS(
        tls.ca,
        tls.certificate,
        tls.key,
        name,
        bindings,
        profile=tls.profile,
        file_names=SETTINGS,
        revoked=tls.revoked,
    )
