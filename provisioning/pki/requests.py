"""What a signing request may hold. It comes from the network: everything unexpected is refused.

The certificate is built from our own template; from the request come the public key and the name only.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from provisioning.pki.errors import PkiError
from provisioning.pki.keys import MAX_PEM_BYTES, check_name

CURVES = ("secp256r1", "secp384r1")


def checked_public_key(request: bytes, expected_name: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request that asks for exactly `expected_name`.

    Raises:
        PkiError: not a request, a bad signature, another name, a weak key, or anything besides.
    """
    check_name(expected_name)
    if len(request) > MAX_PEM_BYTES:
        raise PkiError(f"signing request of {len(request)} bytes exceeds {MAX_PEM_BYTES}")
    try:
        csr = x509.load_pem_x509_csr(request)
        attributes = [(attribute.oid, str(attribute.value)) for attribute in csr.subject]
        extras = [extension.oid.dotted_string for extension in csr.extensions]
        extras += [attribute.oid.dotted_string for attribute in csr.attributes]
        key, signed = csr.public_key(), csr.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as exc:
        raise PkiError(f"not a signing request that can be read: {str(exc)[:80]}") from exc
    if attributes != [(NameOID.COMMON_NAME, expected_name)]:
        raise PkiError(
            f"signing request is for {csr.subject.rfc4514_string()[:80]!r}, not for {expected_name!r}"
        )
    if extras:
        raise PkiError(f"signing request asks for extras ({extras[0]}); send one with a name and a key only")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise PkiError(f"signing request has a key that is not one of {', '.join(CURVES)}; make a P-256 key")
    if not signed:
        raise PkiError("signing request is not signed by its own key")
    return key
