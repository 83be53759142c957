"""Gives commands the options that several of them share, as one value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

Command = Callable[..., None]
SharedOptions = Mapping[str, tuple[Any, Any]]
"""Annotation and default of each, by its name."""


def with_shared(options: SharedOptions, made: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a command ``options``; its parameter ``options`` is what ``made`` makes of them."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
            for name, (annotation, default) in options.items()
        ]

        def run(**values: Any) -> None:
            chosen = made(**{name: values.pop(name) for name in options})
            command(**values, options=chosen)

        parameters = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in own
            if each.name != "options"
        ]
        run.__signature__ = inspect.Signature([*parameters, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in (*parameters, *shared)}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate
