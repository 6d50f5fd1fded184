"""Notebooks through papermill (`build`), then pages of HTML (`pages`, `api_page`)."""

from ddgan_core.report.execution import ReportError, build, check_parameters, execute, notebooks_dir

__all__ = ["ReportError", "build", "check_parameters", "execute", "notebooks_dir"]
