"""Notebooks through papermill (`build`), then pages of HTML (`pages`, `api_page`)."""

from ddgan_core.report.execution import check_parameters, notebooks_dir

__all__ = ["check_parameters", "notebooks_dir"]
