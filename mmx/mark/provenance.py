"""Provenance next to the sound: a signed C2PA manifest, or at least a line in the metadata.

The manifest (c2pa.org, by the library c2pa-python, extra `provenance`) says that mmx made the speech, by the term of
IPTC for media of a trained model. Anybody can read it and see whether the file was changed since; it is lost when the
file is encoded again, which the mark survives. WAV, MP3, FLAC, MP4 and MOV hold manifests; Opus does not.

The key that signs is the user's own, or one that is made here once and whose certificate nobody vouches for: readers
then show the signature as valid and its signer as not trusted.
"""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmx._version import __version__
from mmx.errors import InputError
from mmx.files import atomic_write

CERTIFICATE, KEY_FILE = "MMX_C2PA_CERTIFICATE", "MMX_C2PA_KEY"
"""Environment variables: PEM files with a chain of certificates and an ECDSA P-256 key, in place of ours."""
SIGNED = frozenset((".wav", ".mp3", ".flac", ".m4a", ".mp4", ".m4v", ".mov"))
"""Endings of files that hold a manifest."""
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@dataclass(frozen=True)
class Provenance:
    """What a file says of where it comes from.

    Attributes:
        kind: "c2pa" for a signed manifest, "metadata" for a line in the metadata.
        says: the program that made it, or that line.
        synthetic: whether it says that a machine made it.
        state: of the signature: "valid", "trusted" or "invalid" (the file was changed); "unsigned" for metadata.
        signer: whom the certificate names.
    """

    kind: str
    says: str
    synthetic: bool
    state: str
    signer: str = ""


def installed() -> bool:
    """Whether manifests can be written and read."""
    from importlib.util import find_spec

    return find_spec("c2pa") is not None and find_spec("cryptography") is not None


def sign(path: Path, folder: Path, title: str = "") -> bool:
    """Put a signed manifest into a file, in place; False where its format holds none or the extra is not installed.

    Args:
        path: the file.
        folder: where the key that is made here is kept.
        title: of the speech.

    Raises:
        InputError: the user's own certificate or key cannot be used.
    """
    if path.suffix.lower() not in SIGNED or not installed():
        return False
    import c2pa

    chain, key = _credentials(folder)
    signed = path.with_name(f"{path.stem}.signed{path.suffix}")
    try:
        with (
            c2pa.Signer.from_info(c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain, key, None)) as signer,
            c2pa.Builder(json.dumps(_manifest(title or path.name))) as builder,
        ):
            builder.sign_file(str(path), str(signed), signer)
        signed.replace(path)
    except c2pa.C2paError as e:
        raise InputError(
            f"expected a chain and a key that C2PA takes in {CERTIFICATE} and {KEY_FILE}, or neither, got: {e}"
        ) from e
    finally:
        with suppress(OSError):
            signed.unlink(missing_ok=True)
    return True


def read(path: Path) -> Provenance | None:
    """What a file says of where it comes from; None where it says nothing."""
    return (_read_manifest(path) if installed() and path.suffix.lower() in SIGNED else None) or _read_metadata(path)


def _read_manifest(path: Path) -> Provenance | None:
    import c2pa

    try:
        with c2pa.Reader(str(path)) as reader:
            store = json.loads(reader.json())
    except c2pa.C2paError:  # most files have none
        return None
    manifest = store["manifests"][store["active_manifest"]]
    generator = (manifest.get("claim_generator_info") or [{}])[0]
    actions = [a for found in manifest.get("assertions", ()) for a in found.get("data", {}).get("actions", ())]
    return Provenance(
        "c2pa",
        " ".join(str(generator[k]) for k in ("name", "version") if k in generator),
        any(str(a.get("digitalSourceType", "")).endswith("lgorithmicMedia") for a in actions),
        str(store.get("validation_state", "invalid")).lower(),
        str(manifest.get("signature_info", {}).get("common_name", "")),
    )


def _read_metadata(path: Path) -> Provenance | None:
    """The comment that `mmx.media.write` leaves."""
    import av

    try:
        with av.open(str(path), metadata_errors="ignore") as opened:
            tags = [opened.metadata, *(s.metadata for s in opened.streams)]
    except (av.FFmpegError, OSError):
        return None
    comments = (value for found in tags for key, value in found.items() if key.lower() == "comment")
    line = next((c for c in comments if c.startswith("synthetic speech")), None)
    return None if line is None else Provenance("metadata", line, True, "unsigned")


def _manifest(title: str) -> dict[str, object]:
    agent = {"name": "mmx", "version": __version__}
    made = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent}
    return {
        "claim_generator_info": [agent],
        "title": title,
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [made]}}],
    }


# -------------------- keys


def _credentials(folder: Path) -> tuple[bytes, bytes]:
    """Chain of certificates and private key, PEM."""
    given = os.environ.get(CERTIFICATE), os.environ.get(KEY_FILE)
    if all(given):
        try:
            return Path(given[0] or "").read_bytes(), Path(given[1] or "").read_bytes()
        except OSError as e:
            raise InputError(f"expected readable PEM files in {CERTIFICATE} and {KEY_FILE}, got {e}") from e
    if any(given):
        raise InputError(f"expected both {CERTIFICATE} and {KEY_FILE}, or neither, got one of them")
    own = folder / "provenance.pem"
    if not own.is_file():
        atomic_write(own, b"")
        own.chmod(0o600)  # before there is anything in it
        atomic_write(own, b"".join(_new_credentials()))
    chain, mark, key = own.read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")
    return chain, mark + key


def _new_credentials() -> tuple[bytes, bytes]:
    """A key, and a certificate for it by a root that is forgotten at once; C2PA allows no self-signed signers."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "mmx")]
        )

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    names = named("mmx, made on this computer"), named("mmx, root made on this computer")

    def certificate(own: ec.EllipticCurvePrivateKey, name: x509.Name, is_root: bool) -> x509.CertificateBuilder:
        uses = {"digital_signature": True, "key_cert_sign": is_root, "crl_sign": is_root}
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = x509.KeyUsage(**uses, **dict.fromkeys((*others, "encipher_only", "decipher_only"), False))
        return (
            x509.CertificateBuilder(names[1], name, own.public_key(), x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(is_root, 0 if is_root else None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        )

    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    leaf = certificate(key, names[0], False).add_extension(purpose, critical=False).sign(root_key, hashes.SHA256())
    root = certificate(root_key, names[1], True).sign(root_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return leaf.public_bytes(pem) + root.public_bytes(pem), private
