"""Static files with hashed names, ES modules included, so that they can be cached for ever."""

from django.contrib.staticfiles.apps import StaticFilesConfig
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage


class ModuleStorage(ManifestStaticFilesStorage):
    """Rewrites the imports of ES modules to hashed names too (Django ticket 16698, off by default)."""

    support_js_module_import_aggregation = True


class PartsConfig(StaticFilesConfig):
    """Collects what pages use: not htmx's extensions, whose comments name modules that do not exist."""

    ignore_patterns = [*StaticFilesConfig.ignore_patterns, "ext"]
