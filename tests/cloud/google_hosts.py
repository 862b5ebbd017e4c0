"""Google's host names led to loopback, for one process and its children.

TensorFlow's own client of gs:// has its hosts built in and speaks TLS only. In a mount
namespace of its own a process sees a hosts file in which they are this machine; it
looks that up before anything is sent.
"""

import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Mapping

import pytest
import trustme

from tests.commands import process

HOSTS = (
    "storage.googleapis.com",
    "www.googleapis.com",
    "oauth2.googleapis.com",
    "iamcredentials.googleapis.com",
)
# Loopback too, and no other test process's, which listens at the same port.
ADDRESS = f"127.99.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"

RUN = """
mount --bind "$1" /etc/hosts || exit 96
for host in {hosts}; do
  [ "$(getent hosts $host | cut -d' ' -f1)" = {address} ] || exit 97
done
shift
exec "$@"
"""


def missing() -> str:
    """Why this machine can't, or "" where it can."""
    if not shutil.which("unshare"):
        return "no unshare here"
    trial = ["unshare", "-m", "mount", "--bind", "/etc/hosts", "/etc/hosts"]
    if subprocess.run(trial, capture_output=True).returncode:
        return "no mount namespace may be made here"
    return ""


class GoogleHosts:
    """Hosts file, certificates and a service account, in a folder."""

    def __init__(self, folder: pathlib.Path, front_address: str):
        self.folder = folder
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        certificate = authority.issue_cert(*HOSTS, key_type=trustme.KeyType.RSA)
        self.certificate = folder / "certificate.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        own = pathlib.Path("/etc/hosts").read_text()
        lines = "".join(f"{ADDRESS} {host}\n" for host in HOSTS)
        (folder / "hosts").write_text(f"{lines}{own}")
        account = {
            "type": "service_account",
            "client_email": "test@test.iam.gserviceaccount.com",
            "client_id": "1",
            "project_id": "test",
            "private_key_id": "1",
            "private_key": certificate.private_key_pem.bytes().decode(),
            "token_uri": f"{front_address}/token",
        }
        (folder / "account.json").write_text(json.dumps(account))
        self.environment = {
            "CURL_CA_BUNDLE": str(folder / "authority.pem"),
            "REQUESTS_CA_BUNDLE": str(folder / "authority.pem"),
            "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "account.json"),
            "GOOGLE_CLOUD_PROJECT": "test",
            "NO_GCE_CHECK": "true",
            "STORAGE_EMULATOR_HOST": front_address,
        }

    def command(self, *command: str) -> list[str]:
        """A command as it is run where the names lead here."""
        script = RUN.format(hosts=" ".join(HOSTS), address=ADDRESS)
        hosts = str(self.folder / "hosts")
        return ["unshare", "-m", "sh", "-c", script, "sh", hosts, *command]

    def run(self, *command: str, more: Mapping[str, str] | None = None, **named):
        """Runs a command there to its end."""
        environment = {**self.environment, **(more or {})}
        return process(*self.command(*command), env=environment, **named)


def lead(front, folder: pathlib.Path) -> GoogleHosts:
    """Google's names led to a bucket's front; skips where they can't be."""
    if why := missing():
        pytest.skip(f"TensorFlow's gs:// client can't be led to loopback: {why}")
    hosts = GoogleHosts(folder, front.address)
    front.serve_tls(ADDRESS, hosts.certificate)
    return hosts
