"""Fetch a benchmark from the Hugging Face Hub, at a revision that a result can name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sarsteer.errors import BenchmarkError


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hub; ``{variant}`` in a name or pattern is replaced by the variant's name.

    Attributes:
        name: ``OWNER/NAME``.
        files: patterns of the files to fetch.
        gated: whether the Hub asks users to accept its terms.
        revision: the default branch, tag or commit.

    """

    name: str
    files: tuple[str, ...] = ("*",)
    gated: bool = False
    revision: str = "main"

    def fetch(self, variant: str, revision: str | None = None) -> Path:
        """The folder of the snapshot; files that were fetched before are not fetched again.

        Raises:
            BenchmarkError: the dataset is not on the Hub, its terms are not accepted, or the Hub cannot be reached.

        """
        from huggingface_hub import get_token, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        name = self.name.format(variant=variant)
        page = f"https://huggingface.co/datasets/{name}"
        revision = revision or self.revision
        token = os.environ.get("HF_TOKEN") or get_token()
        terms = f"accept its terms at {page}, then set HF_TOKEN to a token of that account"
        if self.gated and not token:
            raise BenchmarkError(terms)
        try:
            folder = snapshot_download(
                name,
                repo_type="dataset",
                revision=revision,
                token=token or None,
                allow_patterns=[pattern.format(variant=variant) for pattern in self.files],
            )
        except GatedRepoError:
            raise BenchmarkError(terms) from None
        except RevisionNotFoundError:
            raise BenchmarkError(f"{page} has no revision {revision!r}; check the branch, tag or commit") from None
        except RepositoryNotFoundError:
            raise BenchmarkError(f"{page} does not exist, or not for this token; check HF_TOKEN") from None
        except LocalEntryNotFoundError:
            raise BenchmarkError(
                f"{page} cannot be reached and was not fetched before; check the network (and HF_HUB_OFFLINE), "
                "or give a folder that contains it"
            ) from None
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BenchmarkError(f"{page} cannot be fetched ({reason}); check the network and HF_TOKEN") from None
        return Path(folder)
