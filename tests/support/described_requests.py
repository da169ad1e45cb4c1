"""Requests that schemathesis makes from an OpenAPI document: those that fit it, and those that do not quite."""

from __future__ import annotations

import contextlib
from typing import Any


def try_every_operation(schema: Any, examples: int) -> set[str]:
    """Send requests for each operation of a schema, and return the operations. No answer may have a status from 500 on."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable

    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    tried: set[str] = set()
    modes: Any = schemathesis.GenerationMode  # an enumeration, of a base that mypy does not find

    def ask(case: Any) -> None:
        answer = case.call()
        tried.add(case.operation.label)
        assert answer.status_code < 500, (answer.status_code, answer.text, case.as_curl_command())

    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in modes:
            with contextlib.suppress(Unsatisfiable):  # nothing can be wrong where nothing is sent
                limits(given(case=operation.as_strategy(generation_mode=mode))(ask))()
    return tried
