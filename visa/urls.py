"""Every app's urls, once."""

from django.contrib import admin
from django.urls import include, path

import experiments.urls
import instances.urls
import visa.accounts.urls
import visa.audit.urls
from visa.description import DescriptionView

urlpatterns = [
    path("admin/", admin.site.urls),
    path("audit/", include(visa.audit.urls)),
    path("", include(visa.accounts.urls)),
    path("api/v1/schema/", DescriptionView.as_view(), name="api-schema"),
    path("api/v1/", include((experiments.urls.api_urlpatterns, "experiments-api"))),
    path("api/v1/", include((instances.urls.api_urlpatterns, "instances-api"))),
    path("", include(instances.urls.root_urlpatterns)),
    path("", include(instances.urls)),
]

handler400 = "visa.responses.bad_request"
handler403 = "visa.responses.permission_denied"
handler404 = "visa.responses.page_not_found"
handler500 = "visa.responses.server_error"
