"""Asking the Hugging Face hub once, quickly, before a library starts its minute of retries."""

from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from concept_encoder.errors import UserError

SECONDS = 10.0  # a hub that has not answered by then is taken as out of reach


def check_hub(repo_id: str, repo_type: str, remedy: str) -> str | None:
    """Return the commit of `repo_id` on the hub, or None in offline mode, where only local caches are read.

    `repo_type` is "dataset" or "model". Raises `UserError`, with the caller's `remedy`, when the hub cannot
    be reached or has no such repository.
    """
    if is_offline_mode():
        return None
    try:
        return HfApi().repo_info(repo_id, repo_type=repo_type, timeout=SECONDS).sha
    except GatedRepoError:
        problem = f"the {repo_type} is gated; accept its terms on its page, then `hf auth login`"
        raise UserError(f"{repo_id}: {problem}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"{repo_id}: the hub has no such {repo_type}; {remedy}") from None
    except Exception as error:  # httpx, OSError, hub errors: whatever the transport raises means no answer
        raise UserError(f"{repo_id}: the hub cannot be reached ({type(error).__name__}); {remedy}") from None
