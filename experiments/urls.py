"""Addresses of the REST API for data; the project includes them below /api/v1/. Pages live in `instances.views`."""

from django.urls import path

from experiments.api import DatasetsView, DatasetView, ExperimentsView

api_urlpatterns = [
    path("datasets/", DatasetsView.as_view(), name="dataset-list"),
    path("datasets/<path:doi>/", DatasetView.as_view(), name="dataset-detail"),
    path("experiments/", ExperimentsView.as_view(), name="experiment-list"),
]
