"""A machine's own desktop credential: a VNC password, and a key with its certificate. Pure, but for randomness.

The certificate is the machine's identity (the gateway pins it); the password is the second check that RFB asks for.
Both are made once per machine, stand encrypted in the database, and never reach a browser or a log.
"""

import json
import secrets
import string
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from instances.userdata import DesktopSecret

#: VncAuth uses eight characters and no more (RFC 6143 section 7.2.2)
PASSWORD_LENGTH = 8
LIFE = timedelta(days=3650)


def generate(name: str) -> DesktopSecret:
    """A new credential for the machine called `name` (the certificate's common name, at most 64 characters)."""
    alphabet = string.ascii_letters + string.digits
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An emulated guest's clock may be behind by a little.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return DesktopSecret(
        password="".join(secrets.choice(alphabet) for _ in range(PASSWORD_LENGTH)),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
    )


def seal(credential: DesktopSecret, keys: tuple[str, ...]) -> str:
    """The credential encrypted with the first of `keys` (Fernet), for the database."""
    return _fernet(keys).encrypt(json.dumps(asdict(credential)).encode()).decode()


def unseal(sealed: str, keys: tuple[str, ...]) -> DesktopSecret:
    """What `seal` made, with any of `keys`. Raises `cryptography.fernet.InvalidToken` where none fits."""
    return DesktopSecret(**json.loads(_fernet(keys).decrypt(sealed.encode())))


def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])
