"""The command line of a run, stopped before it trains: what only parses, and what only builds."""

from __future__ import annotations

from lit_sdpo.cli import LitSDPOCLI


class BuildOnly(LitSDPOCLI):
    """Builds module, data and trainer, and stops there."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


class ParseOnly(BuildOnly):
    """Stops where building would begin."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        """Build nothing."""
