"""Where ONNX Runtime's C API headers are found, and how they are obtained on Debian-like systems.

No registry of Python or JavaScript packages carries these headers; Debian's `libonnxruntime-dev` does, but only newer
suites have it. It is downloaded with the machine's own apt (its mirrors, keys and proxies) into a private folder and
unpacked, never installed. Standard library only: this module also runs inside the wheel build.
"""

from __future__ import annotations

import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile

from raggedrt.errors import TargetError
from raggedrt.plugins.native.cache import cache_folder

HEADER = "onnxruntime_c_api.h"
PACKAGE = "libonnxruntime-dev"
LOWEST_API = 17
"""ORT_API_VERSION of the oldest headers the adapter compiles against."""
NEWER_SUITES = {"debian": ("trixie", "forky", "sid"), "ubuntu": ("plucky", "questing", "resolute")}
"""Suites that carry the package, oldest first: an older header serves more versions of ONNX Runtime."""
SYSTEM_FOLDERS = (
    "/usr/include/onnxruntime",
    "/usr/include/onnxruntime/core/session",
    "/usr/local/include/onnxruntime",
    "/usr/local/include/onnxruntime/core/session",
    "/usr/local/include",
)
APT_TIMEOUT_SECONDS = 300


def header_api_version(folder: pathlib.Path) -> int | None:
    """ORT_API_VERSION of the headers in `folder`, None when there are none."""
    header = folder / HEADER
    if not header.is_file():
        return None
    found = re.search(r"#define\s+ORT_API_VERSION\s+(\d+)", header.read_text(encoding="utf-8", errors="replace"))
    return int(found.group(1)) if found else None


def find_ort_headers() -> pathlib.Path | None:
    """The folder with `onnxruntime_c_api.h`: ORT_INCLUDE_DIR, then the system's, then the user cache's.

    Raises:
        TargetError: ORT_INCLUDE_DIR is set but holds no usable header.
    """
    named = os.environ.get("ORT_INCLUDE_DIR")
    if named:
        return _named_headers(pathlib.Path(named))
    folders = [pathlib.Path(folder) for folder in SYSTEM_FOLDERS]
    folders += sorted((cache_folder() / "ort-headers").glob("[!.]*/include"))  # dot: a download under way
    return next((folder for folder in folders if (header_api_version(folder) or 0) >= LOWEST_API), None)


def _named_headers(folder: pathlib.Path) -> pathlib.Path:
    for candidate in (folder, folder / "onnxruntime", folder / "onnxruntime" / "core" / "session"):
        if (header_api_version(candidate) or 0) >= LOWEST_API:
            return candidate
    raise TargetError(
        f"ORT_INCLUDE_DIR={folder} holds no {HEADER} of API version {LOWEST_API} or later; point it to the include "
        "folder of an ONNX Runtime release archive, or unset it"
    )


def _unpacked_headers(root: pathlib.Path) -> list[pathlib.Path]:
    return [header.parent for header in root.glob(f"**/{HEADER}")]


def obtain_ort_headers(cache: pathlib.Path | None = None) -> pathlib.Path:
    """Download the headers with apt into `cache` (default: the user cache) and return their folder.

    Raises:
        TargetError: there is no apt, or no reachable suite carries the package.
    """
    target = (cache or cache_folder()) / "ort-headers"
    reasons = []
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        for source in _candidate_sources():
            with tempfile.TemporaryDirectory(prefix="raggedrt-headers-") as scratch:
                try:
                    return _download(source, pathlib.Path(scratch), target)
                except (OSError, subprocess.SubprocessError) as error:
                    reasons.append(f"{source.splitlines()[2]}: {_last_line(error)}")
    else:
        reasons.append("this system has no apt-get and dpkg-deb")
    raise TargetError(
        f"ONNX Runtime's C API headers ({HEADER}) were not found and could not be downloaded "
        f"({'; '.join(reasons) or 'no apt source of a known distribution'}). Install the package {PACKAGE}, or unpack "
        "an ONNX Runtime release archive and set ORT_INCLUDE_DIR to its include folder"
    )


def _last_line(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error)
    return str(text).strip().splitlines()[-1] if str(text).strip() else type(error).__name__


def _os_release() -> dict[str, str]:
    try:
        text = pathlib.Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name: value.strip('"') for name, value in pairs}


def _candidate_sources() -> list[str]:
    """One deb822 source per suite to try: the machine's own first, then newer ones of the same distribution."""
    release = _os_release()
    own = release.get("VERSION_CODENAME", "")
    suites = dict.fromkeys((own, *NEWER_SUITES.get(release.get("ID", ""), ())))
    stanzas = [stanza for stanza in _apt_stanzas() if own and own in stanza["suites"].split()]
    return [
        f"Types: deb\nURIs: {stanza['uris']}\nSuites: {suite}\nComponents: {stanza['components']}\n{stanza['options']}"
        for suite in suites
        if suite
        for stanza in stanzas
    ]


def _apt_stanzas() -> list[dict[str, str]]:
    """The machine's own binary sources, from both of apt's formats."""
    root = pathlib.Path("/etc/apt")
    stanzas = []
    for path in sorted((root / "sources.list.d").glob("*.sources")):
        for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            stanzas += _deb822_stanza(block)
    for path in [root / "sources.list", *sorted((root / "sources.list.d").glob("*.list"))]:
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                stanzas += _one_line_stanza(line)
    return stanzas


def _deb822_stanza(block: str) -> list[dict[str, str]]:
    lines = [line for line in block.splitlines() if not line.startswith("#")]
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "deb" not in fields.get("types", "").split() or "uris" not in fields or fields.get("enabled") == "no":
        return []
    signed = f"Signed-By: {fields['signed-by']}\n" if fields.get("signed-by", "").startswith("/") else ""
    return [
        {
            "uris": fields["uris"],
            "suites": fields.get("suites", ""),
            "components": fields.get("components", "main"),
            "options": signed,
        }
    ]


def _one_line_stanza(line: str) -> list[dict[str, str]]:
    found = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.strip())
    if not found:
        return []
    options, uri, suite, components = found.groups()
    signed = re.search(r"signed-by=(\S+)", options or "")
    line_options = f"Signed-By: {signed.group(1)}\n" if signed else ""
    return [{"uris": uri, "suites": suite, "components": components, "options": line_options}]


def _download(source: str, scratch: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Fetch and unpack the package of one apt `source` below `scratch`, then move it to `target`."""
    for folder in ("lists/partial", "archives/partial", "download"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "list.sources").write_text(source, encoding="utf-8")
    settings = {
        "Dir::State": scratch,
        "Dir::State::status": scratch / "status",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch,
        "Dir::Etc::sourcelist": scratch / "list.sources",
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": _user_name(),
        "APT::Get::List-Cleanup": "0",
        "Acquire::Languages": "none",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    for command in (["update"], ["download", PACKAGE]):
        _check_run(["apt-get", "-qq", *options, *command], scratch / "download")
    package = next((scratch / "download").glob("*.deb"), None)
    if package is None:
        raise OSError(f"apt-get download left no {PACKAGE} package")
    _check_run(["dpkg-deb", "-x", str(package), str(scratch / "unpacked")], scratch)
    unpacked = next(iter(_unpacked_headers(scratch / "unpacked")), None)
    if unpacked is None or (header_api_version(unpacked) or 0) < LOWEST_API:
        raise OSError(f"{package.name} holds no {HEADER} of API version {LOWEST_API} or later")
    return _publish(unpacked, target / package.stem)


def _user_name() -> str:
    """The user apt downloads as: without this it would drop to one that cannot write the private folder."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "root"


def _publish(folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Copy the headers beside `target` and rename, so that a concurrent builder sees all of them or none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=".headers-", dir=target.parent))
    shutil.copytree(folder, staging / "include")
    try:
        staging.rename(target)
    except OSError:  # another builder was first
        shutil.rmtree(staging)
    return target / "include"


def _check_run(command: list[str], folder: pathlib.Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=APT_TIMEOUT_SECONDS)
