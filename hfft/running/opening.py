"""What is checked of a run, a cross-validation or a search before anything slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hfft.arguments import DataArguments, ModelArguments
from hfft.hub import require_login
from hfft.run_folder import RUN_FILE
from hfft.running.output import require_free
from hfft.running.settling import require_use
from hfft.settings import split_settings, training_arguments
from hfft.training_arguments import FineTuningArguments


def open_run(
    settings: dict[str, Any], *, speaks: bool, settings_file: str = RUN_FILE
) -> tuple[ModelArguments, DataArguments, FineTuningArguments]:
    """Return the arguments of a run, once it is sure that its folder is free.

    Args:
        settings: name -> value.
        speaks: whether this process is the one that writes: the others may look only after it has begun to.
        settings_file: what it writes its settings to.

    Raises:
        UserError: for the first setting that cannot be meant, a folder that cannot be written to, and a token that the
            Hub does not know where the model is to be pushed.
    """
    model_arguments, data_arguments, chosen = split_settings(settings)
    args = training_arguments(chosen)
    require_use(model_arguments, args)
    if speaks:
        inputs = (model_arguments.model, data_arguments.data)
        require_free(
            Path(str(args.output_dir)),
            resume=args.resume,
            overwrite=args.overwrite,
            inputs=inputs,
            settings_file=settings_file,
        )
        if args.push_to_hub:
            require_login(args.hub_token)
    return model_arguments, data_arguments, args
