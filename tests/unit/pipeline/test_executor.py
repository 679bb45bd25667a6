"""The executor of this process: a pipeline builds what it needs when it runs."""

from ddbench.config.schema import RuntimeConfig
from ddbench.nn import device
from ddbench.pipeline.executor import Inline


def test_inline_computes_nothing_in_advance_and_resolves_for_this_machine() -> None:
    with Inline().computing([object()]) as wait:
        wait(object())  # the pipeline is neither asked for anything nor waited for
    runtime = RuntimeConfig(device="cpu", precision="auto")
    resolved = Inline().resolve(runtime)
    assert resolved == device.resolve(runtime)
    assert resolved.precision != "auto"
