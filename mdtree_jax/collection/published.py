"""The two published collections: fetched at a pinned commit, checked by sha256, cached.

Source: github.com/YefanZhou/ModelDiagnosis (MIT licence), Zhou et al., "MD tree", ICML 2024.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mdtree_jax.checks import UserError
from mdtree_jax.files import user_path

COMMIT = "a212a0a11951e0f72361a0ef76e1b5aaabefc2f8"
URL = f"https://raw.githubusercontent.com/YefanZhou/ModelDiagnosis/{COMMIT}/model_diagnosis_dataset/dataframe/"
ENVIRONMENT_VARIABLE = "MDTREE_JAX_DATA"

#: Collection name -> (file, sha256).
FILES = {
    "published/F": (
        "dataframe_normal_public.csv",
        "3e1fb0019ff555252839c7d096b0a28300d30215c522334670fb61438df582fe",
    ),
    "published/F_noise": (
        "dataframe_noise_public.csv",
        "9e8c35c1438d456fcd5729293f2cbbc1ed06b2cede0e0e75192b2e53dd81d70c",
    ),
}


def published_file(name: str, published_dir: str | os.PathLike | None = None) -> Path:
    """Return the local path of a published collection's file.

    It is looked up in `published_dir`, in the folder given by the environment variable MDTREE_JAX_DATA, and in the
    cache, and is otherwise downloaded.

    Raises:
        UserError: the folder lacks the file, its checksum is wrong, or it cannot be downloaded.
    """
    file, sha256 = FILES[name]
    folder = published_dir or os.environ.get(ENVIRONMENT_VARIABLE)
    if not folder:
        return _download(file, sha256)
    path = user_path(folder, "published_dir=") / file
    if not path.is_file():
        raise UserError(
            f"the folder '{folder}' (published_dir= or {ENVIRONMENT_VARIABLE}) has no file {file}; put it there from "
            f"{URL}{file}"
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise UserError(
            f"{path} has sha256 {found[:12]}…, but {name} is the file with {sha256[:12]}…; fetch it again from "
            f"{URL}{file}, or name a table of your own by its path (train={path})"
        )
    return path


def _download(file: str, sha256: str) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    cache = pooch.os_cache("mdtree_jax")
    try:
        return Path(pooch.retrieve(URL + file, known_hash=f"sha256:{sha256}", fname=file, path=cache))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        cause = str(error).splitlines()[0] if isinstance(error, ValueError) else type(error).__name__
        raise UserError(
            f"{file} is not in the cache ({cache}) and could not be downloaded ({cause}); download it from {URL}{file} "
            f"into a folder and name that folder by published_dir=DIR or {ENVIRONMENT_VARIABLE}=DIR"
        ) from None
