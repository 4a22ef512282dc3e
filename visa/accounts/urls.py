"""Addresses of sign-in and sign-out. Each provider has a redirect address of its own, against mix-ups."""

from django.urls import path

from visa.accounts import views

app_name = "accounts"
urlpatterns = [
    path("signin/", views.sign_in, name="sign-in"),
    path("signin/<slug:slug>/", views.start, name="start"),
    path("signin/<slug:slug>/callback/", views.callback, name="callback"),
    path("signin/<slug:slug>/backchannel/", views.backchannel, name="backchannel"),
    path("signout/", views.sign_out, name="sign-out"),
]
