"""ModelPushes: a Trainer whose pushes to the Hub hold the model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer

from hfft import hub
from hfft.run_folder import CARD_FILE


class ModelPushes(Trainer):
    """A Trainer that pushes model, processor and card.

    The Trainer's own push takes all of the output folder but checkpoints: predictions, reports, paths and pickles.
    """

    hub_model_id: str | None
    push_in_progress: Any

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, as the Trainer does; raises :class:`UserError` where that fails."""
        if not self.is_world_process_zero():
            return
        token = token if token is not None else self.args.hub_token
        private = private if private is not None else self.args.hub_private_repo
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        advice = "Name another one with hub_model_id, or train without push_to_hub and `hfft push` the model later."
        with hub.reaching(f"push_to_hub: there is no repository '{name}' to push to", advice, token):
            self.hub_model_id = hub.make_repository(name, private, token)
        self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Save the model and push it; returns the repository's address, and ``None`` on other processes than the first.

        A card that the output folder holds stays as it is; without one the Trainer writes its own, to which ``kwargs``
        belong. Raises :class:`UserError` where the push fails.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        folder = Path(str(self.args.output_dir))
        if not (folder / CARD_FILE).is_file():
            self.create_model_card(model_name=folder.absolute().name, **kwargs)
        return self.push_folder(folder, commit_message, token, revision)

    def push_folder(
        self,
        folder: Path,
        commit_message: str = "End of training",
        token: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Push the model that a folder holds to this Trainer's repository; for the first process alone."""
        return hub.push(
            folder,
            str(self.hub_model_id),
            private=self.args.hub_private_repo,
            token=token if token is not None else self.args.hub_token,
            revision=revision if revision is not None else self.args.hub_revision,
            commit_message=commit_message,
        )
