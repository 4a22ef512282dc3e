"""The address of the trail."""

from django.urls import path

from visa.audit import views

app_name = "audit"
urlpatterns = [path("", views.trail, name="trail")]
